"""Everything that is decided about a dataset before its tiles are written.

The labels are read once to count the classes in every block. Blocks then go to splits, and tiles are
placed inside the blocks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NoReturn, cast

import numpy as np

from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import SPLITS, SplitRule, Tiling, Unit
from cwsam_cli.distributed.scheduler import Workers
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.raster.sources.network import VIEW
from cwsam_cli.raster.sources.views import View
from cwsam_cli.raster.style import read_taxonomy
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.tile.counting import count_labels
from cwsam_cli.tile.focus import focus_tiles
from cwsam_cli.tile.footprints import PlacedScene, PlannedTile
from cwsam_cli.tile.labels.codes import Conflicts
from cwsam_cli.tile.labels.corrections import COUNTED
from cwsam_cli.tile.labels.files import RasterSource
from cwsam_cli.tile.labels.overlaps import write_overlaps
from cwsam_cli.tile.labels.unexpected import refuse_unexpected
from cwsam_cli.tile.labels.vector import VectorSource
from cwsam_cli.tile.request import TileFormat, TileRequest
from cwsam_cli.tile.scenes import Inputs, LabelledScene, SceneReader
from cwsam_cli.tile.selection import Selection, draw
from cwsam_cli.tile.sparse import place_on_few
from cwsam_cli.tile.split.blocks import Block, choose_block_size, cut_blocks
from cwsam_cli.tile.split.dates import scene_date
from cwsam_cli.tile.split.division import Histograms, divide, together
from cwsam_cli.tile.split.earlier import DividedUnit, EarlierGround
from cwsam_cli.tile.split.placement import without
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
    rule: SplitRule
    """How the ground was divided."""
    tiling: Tiling
    """The options that adding scenes needs again."""
    units: Mapping[str, DividedUnit]
    """All units of ground with their splits, also those of an earlier dataset; empty if polygons decide."""
    selection: Selection
    left_out: Mapping[str, int]
    """Number of tiles that are left out before writing, by reason."""
    corrected: Mapping[str, int]
    """Number of pixels that corrections override; see `Manifest.corrected`."""
    output: Path
    overwrite: bool
    command: str
    """The command line, for the record."""


def make_plan(request: TileRequest, inputs: Inputs, earlier: EarlierGround, workers: int | Workers) -> TilePlan:
    """Read the labels once and decide which ground becomes which tile of which split.

    Args:
        request: the wish.
        inputs: the new scenes and their labels.
        earlier: the dataset to which they are added, empty if there is none.
        workers: number of processes that read the labels, or a cluster.

    Raises:
        DataError: labels of different classes overlap, no valid pixel has a label, or the labels hold codes that
            are not in the class table.
    """
    scenes = inputs.scenes
    sides = _block_sides(scenes, request, earlier.scenes)
    blocks = _cut(scenes, sides, request)
    found, corrected = _count_classes(inputs, blocks, request, workers)
    if request.corrections is not None and not corrected["pixels"]:
        log.warning("`%s` corrects no pixel of the scenes: do its features lie on their ground?", request.corrections)
    taxonomy = inputs.table.taxonomy if inputs.table else _raster_taxonomy(scenes, found)
    division = divide(scenes, blocks, found, taxonomy, request, earlier)
    counted = together(found, earlier)
    shares = zip(SPLITS, request.shares, strict=True)
    wanted = [split for split, share in shares if share and not (request.folds and split == "val")]

    def recount() -> Histograms:
        return _count_classes(inputs, _cut(scenes, [request.size] * len(scenes), request), request, workers)[0]

    can_shrink = request.split_by == "block" and max(sides) > request.size
    for text in missing_classes(division, counted, taxonomy, wanted, recount if can_shrink else None):
        log.warning("%s", text)
    shares_labelled = _labelled_shares(blocks, found, taxonomy)
    division = replace(
        division, tiles=tuple(place_on_few(division.tiles, inputs, shares_labelled, taxonomy, request.size))
    )
    tiles, left_out = division.tiles, Counter(division.left_out)
    if request.focus:
        tiles = focus_tiles(division, inputs, blocks, found, taxonomy, request, earlier)
    if request.selection.limit is not None and len(tiles) > request.selection.limit:
        reasons = _beyond_limit(tiles, request.selection.limit, inputs, taxonomy, request)
        tiles = tuple(without(tiles, set(reasons), request.size))
        left_out.update(reasons.values())
    return TilePlan(
        scenes=scenes,
        taxonomy=taxonomy,
        tiles=_sort(tiles, [scene.column_width(request.size) for scene in scenes]),
        size=request.size,
        format=request.format,
        rule=SplitRule(
            by="polygons" if request.has_zones else cast(Unit, request.split_by),
            block_px=sides[0],
            block_m=request.block_size.value if request.block_size and request.block_size.unit == "m" else None,
            buffer_px=division.buffer,
            seed=request.seed,
            folds=request.folds,
        ),
        tiling=_tiling(request),
        units={
            unit: DividedUnit(split, division.folds.get(unit), dict(counted[unit]))
            for unit, split in division.parts.items()
        },
        selection=request.selection,
        left_out=dict(left_out),
        corrected=corrected,
        output=request.output,
        overwrite=request.overwrite,
        command=request.command,
    )


def _labelled_shares(
    blocks: Sequence[Sequence[Block]], found: Histograms, taxonomy: Taxonomy
) -> dict[tuple[int, str], float]:
    """Return the share of labelled pixels of each block's unit, by scene and block."""
    area = Counter[str]()
    for block in chain.from_iterable(blocks):
        area[block.unit] += int(block.window.width * block.window.height)
    share = {unit: sum(found[unit][code] for code in taxonomy.codes) / pixels for unit, pixels in area.items()}
    return {(number, block.key): share[block.unit] for number, own in enumerate(blocks) for block in own}


def _beyond_limit(
    tiles: Sequence[PlannedTile], limit: int, inputs: Inputs, taxonomy: Taxonomy, request: TileRequest
) -> dict[int, str]:
    """Return why tiles are left out, by their number, so that `limit` are left."""
    with closing(SceneReader(inputs.scenes, inputs.table, request.size)) as reader:

        def why_not(number: int) -> str | None:
            tile = tiles[number]
            opened = reader.open(tile.scene)
            labelled = np.isin(opened.labels.read(tile.window), taxonomy.codes)
            above, beside = tile.unlabelled
            labelled[:above] = labelled[:, :beside] = False
            valid = np.ones_like(labelled)
            if labelled.any() and inputs.scenes[tile.scene].hides_pixels:
                valid = opened.scene.read(tile.window)[1]
            return request.selection.why_not(float((labelled & valid).mean()), float(valid.mean()))

        return draw([tile.split for tile in tiles], limit, request.seed, why_not)


def _tiling(request: TileRequest) -> Tiling:
    path = request.scenes[0]
    view = View.from_text(path) if path.startswith(VIEW) else None
    return Tiling(
        size=request.size,
        overlap=request.overlap,
        shares=request.shares,
        split_by=request.split_by,
        split_field=request.split_field,
        format=request.format,
        bands=request.bands,
        min_valid=request.selection.min_valid,
        min_labelled=request.selection.min_labelled,
        crs=view.crs if view else "",
        pixel_m=view.pixel_m if view else 0.0,
        unscale=view is not None and view.unscale,
    )


def _sort(tiles: Sequence[PlannedTile], columns: Sequence[int]) -> tuple[PlannedTile, ...]:
    """Return the tiles in the order in which the scenes' files hold them.

    Args:
        tiles: the tiles.
        columns: width of the columns in which each scene is read.
    """
    return tuple(sorted(tiles, key=lambda t: (t.scene, t.col_off // columns[t.scene], t.row_off, t.col_off)))


def _block_sides(scenes: Sequence[LabelledScene], request: TileRequest, earlier: Sequence[PlacedScene]) -> list[int]:
    """Return the pixels per side of a block of each scene.

    Scenes on one lattice have blocks of one size: that of the first of them, also of an earlier dataset.

    Raises:
        UsageError: a block would be smaller than a tile.
    """
    if request.block_size is None:
        return [choose_block_size([scene.grid for scene in scenes], request.size)] * len(scenes)
    of_lattice: dict[object, int] = {}
    sides = []
    for scene in (*earlier, *scenes):
        lattice = scene.crs, scene.transform[0], scene.transform[4]
        if lattice not in of_lattice:
            of_lattice[lattice] = request.block_size.pixels(request.size, scene.grid.gsd_m, "--block-size")
        sides.append(of_lattice[lattice])
    sides = sides[len(earlier) :]
    if min(sides) < request.size:
        raise UsageError(
            f"a block of {min(sides):,} pixels is smaller than a tile of {request.size:,} pixels",
            hint="--block-size 1tile is the smallest",
        )
    return sides


def _cut(scenes: Sequence[LabelledScene], sides: Sequence[int], request: TileRequest) -> list[list[Block]]:
    """Cut each scene into blocks, and name what goes to one split together."""
    blocks = [cut_blocks(scene.grid, side, request.size, scene.name) for scene, side in zip(scenes, sides, strict=True)]
    if request.split_by == "scene":
        return [[replace(block, unit=scene.name) for block in own] for scene, own in zip(scenes, blocks, strict=True)]
    if request.split_by == "date":
        dates = [scene_date(scene.path) for scene in scenes]
        return [[replace(block, unit=day) for block in own] for day, own in zip(dates, blocks, strict=True)]
    return blocks


def _count_classes(
    inputs: Inputs, blocks: list[list[Block]], request: TileRequest, workers: int | Workers
) -> tuple[Histograms, dict[str, int]]:
    """Count the labelled pixels of each class in each unit of blocks, and the corrected pixels."""
    found, conflicts, unexpected, corrected = count_labels(inputs, blocks, request.size, workers)
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
