"""Everything that is decided about a dataset before its tiles are written.

The labels are read once to count the classes in every block. Blocks then go to splits, and tiles are
placed inside the blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, cast

from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import SPLITS, SplitRule, Unit
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.raster.style import read_taxonomy
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.tile.counting import count_labels
from cwsam_cli.tile.focus import focus_tiles
from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.labels.codes import Conflicts
from cwsam_cli.tile.labels.corrections import COUNTED
from cwsam_cli.tile.labels.files import RasterSource
from cwsam_cli.tile.labels.overlaps import write_overlaps
from cwsam_cli.tile.labels.unexpected import refuse_unexpected
from cwsam_cli.tile.labels.vector import VectorSource
from cwsam_cli.tile.request import TileFormat, TileRequest
from cwsam_cli.tile.scenes import Inputs, LabelledScene
from cwsam_cli.tile.selection import Selection
from cwsam_cli.tile.split.blocks import Block, choose_block_size, cut_blocks
from cwsam_cli.tile.split.dates import scene_date
from cwsam_cli.tile.split.division import Histograms, divide
from cwsam_cli.tile.split.rare import missing_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """How scenes become a dataset. All values are plain, so `dataclasses.asdict` can be written as JSON."""

    scenes: tuple[LabelledScene, ...]
    taxonomy: Taxonomy
    tiles: tuple[PlannedTile, ...]
    """In the order in which the scenes are read."""
    size: int
    """Pixels per side of a tile."""
    format: TileFormat
    workers: int
    """Processes that write tiles."""
    rule: SplitRule
    """How the ground was divided."""
    selection: Selection
    left_out: Mapping[str, int]
    """Number of tiles that are left out before writing, by reason."""
    corrected: Mapping[str, int]
    """Number of pixels that corrections override; see `Manifest.corrected`."""
    output: Path
    overwrite: bool
    command: str
    """The command line, for the record."""


def make_plan(request: TileRequest, inputs: Inputs) -> TilePlan:
    """Read the labels once and decide which ground becomes which tile of which split.

    Raises:
        DataError: labels of different classes overlap, no valid pixel has a label, or the labels hold codes that
            are not in the class table.
    """
    scenes = inputs.scenes
    side = _block_side(scenes, request)
    blocks = _cut(scenes, side, request)
    found, corrected = _count_classes(inputs, blocks, request)
    if request.corrections is not None and not corrected["pixels"]:
        log.warning("`%s` corrects no pixel of the scenes: do its features lie on their ground?", request.corrections)
    taxonomy = inputs.table.taxonomy if inputs.table else _raster_taxonomy(scenes, found)
    division = divide(scenes, blocks, found, taxonomy, request)
    shares = zip(SPLITS, request.shares, strict=True)
    wanted = [split for split, share in shares if share and not (request.folds and split == "val")]

    def recount() -> Histograms:
        return _count_classes(inputs, _cut(scenes, request.size, request), request)[0]

    can_shrink = request.split_by == "block" and side > request.size
    for text in missing_classes(division, found, taxonomy, wanted, recount if can_shrink else None):
        log.warning("%s", text)
    tiles = focus_tiles(division, inputs, blocks, found, taxonomy, request) if request.focus else division.tiles
    return TilePlan(
        scenes=scenes,
        taxonomy=taxonomy,
        tiles=_sort(tiles, [scene.column_width(request.size) for scene in scenes]),
        size=request.size,
        format=request.format,
        workers=request.workers,
        rule=SplitRule(
            by="polygons" if request.has_zones else cast(Unit, request.split_by),
            block_px=side,
            buffer_px=division.buffer,
            seed=request.seed,
            folds=request.folds,
        ),
        selection=request.selection,
        left_out=dict(division.left_out),
        corrected=corrected,
        output=request.output,
        overwrite=request.overwrite,
        command=request.command,
    )


def _sort(tiles: Sequence[PlannedTile], columns: Sequence[int]) -> tuple[PlannedTile, ...]:
    """Return the tiles in the order in which the scenes' files hold them.

    Args:
        tiles: the tiles.
        columns: width of the columns in which each scene is read.
    """
    return tuple(sorted(tiles, key=lambda t: (t.scene, t.col_off // columns[t.scene], t.row_off, t.col_off)))


def _block_side(scenes: Sequence[LabelledScene], request: TileRequest) -> int:
    """Return the pixels per side of a block.

    Raises:
        UsageError: a block would be smaller than a tile.
    """
    if request.block_size is None:
        return choose_block_size([scene.grid for scene in scenes], request.size)
    gsds = [gsd for scene in scenes if (gsd := scene.grid.gsd_m)]
    side = request.block_size.pixels(request.size, min(gsds, default=None), "--block-size")
    if side < request.size:
        raise UsageError(
            f"a block of {side:,} pixels is smaller than a tile of {request.size:,} pixels",
            hint="--block-size 1tile is the smallest",
        )
    return side


def _cut(scenes: Sequence[LabelledScene], side: int, request: TileRequest) -> list[list[Block]]:
    """Cut each scene into blocks, and name what goes to one split together."""
    blocks = [cut_blocks(scene.grid, side, request.size, scene.name) for scene in scenes]
    if request.split_by == "scene":
        return [[replace(block, unit=scene.name) for block in own] for scene, own in zip(scenes, blocks, strict=True)]
    if request.split_by == "date":
        dates = [scene_date(scene.path) for scene in scenes]
        return [[replace(block, unit=day) for block in own] for day, own in zip(dates, blocks, strict=True)]
    return blocks


def _count_classes(
    inputs: Inputs, blocks: list[list[Block]], request: TileRequest
) -> tuple[Histograms, dict[str, int]]:
    """Count the labelled pixels of each class in each unit of blocks, and the corrected pixels."""
    found, conflicts, unexpected, corrected = count_labels(inputs, blocks, request.size, request.workers)
    if unexpected:
        refuse_unexpected(unexpected, inputs.table, request)
    if conflicts:
        _refuse_conflicts(conflicts, inputs, request)
    if not any(found.values()):
        others = f", nor of {len(inputs.scenes) - 1} more scenes" if len(inputs.scenes) > 1 else ""
        raise DataError(
            f"no valid pixel of `{inputs.scenes[0].path}` is labelled by `{request.label_files}`{others}",
            hint="check with gdalinfo -stats that labels and scene cover the same ground, and that the scene has data",
        )
    return found, {kind: corrected[kind] for kind in COUNTED} if request.corrections else {}


def _refuse_conflicts(conflicts: Conflicts, inputs: Inputs, request: TileRequest) -> NoReturn:
    worst = [ids for ids, _ in conflicts.most_common(5)]
    shown = "; ".join(f"{' and '.join(map(str, ids))} (at least {conflicts[ids]:,} pixel(s))" for ids in worst)
    ids = ", ".join(str(feature) for feature in sorted({feature for ids in worst for feature in ids}))
    cut = "cut each overlap out of one feature, or say which class wins: --priority"
    hint = f"select them in QGIS with Select by Expression: $id IN ({ids}); {cut}"
    path = request.overlaps_to
    if not any(isinstance(scene.labels, VectorSource) for scene in inputs.scenes):
        hint = f"these are ids of annotations; {cut}"
    elif path is None:
        hint += "; --overlaps-to overlaps.gpkg writes a layer of the overlaps"
    elif inputs.table is not None and write_overlaps(inputs.scenes, inputs.table, path, overwrite=request.overwrite):
        hint = f"open `{path}`, which holds all overlaps; {cut}"
    raise DataError(
        f"`{request.label_files}`: features of different classes overlap: {shown}"
        + (f", and {len(conflicts) - len(worst)} more" if len(conflicts) > len(worst) else ""),
        hint=hint,
    )


def _raster_taxonomy(scenes: Sequence[LabelledScene], found: Histograms) -> Taxonomy:
    present = sorted(set().union(*found.values()))
    source = scenes[0].labels
    assert isinstance(source, RasterSource)
    with open_raster(source.paths[0]) as dataset:
        return read_taxonomy(dataset, present)
