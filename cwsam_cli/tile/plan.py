"""Everything that is decided about a dataset before its tiles are written.

The labels are read once to count the classes in every block. Blocks then go to splits, and tiles are
placed inside the blocks.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import NoReturn

import numpy as np
import shapely
from rasterio.windows import Window

from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import offsets
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.raster.style import read_taxonomy
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.tile.footprints import PlannedTile, draw_footprints
from cwsam_cli.tile.label_files import RasterSource
from cwsam_cli.tile.labels import NO_LABEL, UNEXPECTED, Codes, Conflicts, Value
from cwsam_cli.tile.overlaps import write_overlaps
from cwsam_cli.tile.request import TileFormat, TileRequest
from cwsam_cli.tile.scenes import Inputs, LabelledScene, SceneReader
from cwsam_cli.tile.split import Block, assign, choose_block_size, cut_blocks
from cwsam_cli.tile.unexpected import refuse_unexpected
from cwsam_cli.tile.workers import cut, in_order

Histograms = dict[tuple[object, ...], Counter[int]]
"""Labelled pixels by ground block and class code."""
_Work = tuple[int, tuple[object, ...], Window]
"""A scene's number, a block's key, and a window in the block."""
_Counted = tuple[Histograms, Conflicts, Counter[Value]]
"""Labels by block, overlaps of features, and values that no class has."""
_LEAST = 16
"""Fewest windows that a process counts at a time."""


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
    side = choose_block_size([scene.grid for scene in scenes], request.size)
    blocks = [cut_blocks(scene.grid, side, request.size, number) for number, scene in enumerate(scenes)]
    found = _count_classes(inputs, blocks, request)
    taxonomy = inputs.table.taxonomy if inputs.table else _raster_taxonomy(scenes, found)
    splits = _split(found, taxonomy, request.shares, request.seed)
    tiles = _place(scenes, blocks, splits, request.size, request.overlap)
    return TilePlan(
        scenes=scenes,
        taxonomy=taxonomy,
        tiles=_sort(tiles, [scene.column_width(request.size) for scene in scenes]),
        size=request.size,
        format=request.format,
        workers=request.workers,
        output=request.output,
        overwrite=request.overwrite,
        command=request.command,
    )


def _count_classes(inputs: Inputs, blocks: list[list[Block]], request: TileRequest) -> Histograms:
    """Count the labelled pixels of each class in each ground block."""
    found: Histograms = {block.key: Counter() for own in blocks for block in own}  # the order of the split
    conflicts: Conflicts = Counter()
    unexpected: Counter[Value] = Counter()
    work = [
        (number, block.key, window)
        for number, own in enumerate(blocks)
        for block, window in _reading_order(own, inputs.scenes[number].column_width(request.size), request.size)
    ]
    parts = [work[part] for part in cut([(number, window.row_off) for number, _, window in work], _LEAST)]
    for counted, shared, odd in in_order(
        partial(_counting, inputs, request.size), parts, request.workers, "reading labels"
    ):
        conflicts += shared
        unexpected += odd
        for key, histogram in counted.items():
            found[key].update(histogram)
    if unexpected:
        refuse_unexpected(unexpected, inputs.table, request)
    if conflicts:
        _refuse_conflicts(conflicts, inputs, request)
    if not any(found.values()):
        others = f", nor of {len(inputs.scenes) - 1} more scenes" if len(inputs.scenes) > 1 else ""
        raise DataError(
            f"no valid pixel of `{inputs.scenes[0].path}` is labelled by `{request.labels}`{others}",
            hint="check with gdalinfo -stats that labels and scene cover the same ground, and that the scene has data",
        )
    return found


def _reading_order(blocks: Sequence[Block], column: int, rows: int) -> list[tuple[Block, Window]]:
    """Cut blocks into windows of some rows, in the order in which a file holds them."""
    windows = [
        (block, Window(block.window.col_off, top, block.window.width, min(rows, end - top)))
        for block in blocks
        for end in [int(block.window.row_off + block.window.height)]
        for top in range(int(block.window.row_off), end, rows)
    ]
    return sorted(windows, key=lambda item: (item[1].col_off // column, item[1].row_off, item[1].col_off))


@contextmanager
def _counting(inputs: Inputs, rows: int) -> Iterator[Callable[[list[_Work]], _Counted]]:
    """Yield a function that counts the labels in windows of blocks."""
    with closing(SceneReader(inputs.scenes, inputs.table, rows)) as reader:

        def count(work: list[_Work]) -> _Counted:
            found: Histograms = {}
            conflicts: Conflicts = Counter()
            unexpected: Counter[Value] = Counter()
            for number, key, window in work:
                opened = reader.open(number)
                conflicts += opened.labels.conflicts(window)
                histogram = _histogram(opened.about_codes(window))
                if histogram[UNEXPECTED]:
                    unexpected += opened.labels.unexpected(window)
                del histogram[NO_LABEL], histogram[UNEXPECTED]
                found.setdefault(key, Counter()).update(histogram)
            return found, conflicts, unexpected

        yield count


def _histogram(codes: Codes) -> Counter[int]:
    first = int(codes.min())
    counts = np.bincount(codes.ravel() - first)  # codes are small numbers
    present = np.flatnonzero(counts)
    return Counter(dict(zip((present + first).tolist(), counts[present].tolist(), strict=True)))


def _refuse_conflicts(conflicts: Conflicts, inputs: Inputs, request: TileRequest) -> NoReturn:
    worst = [ids for ids, _ in conflicts.most_common(5)]
    shown = "; ".join(f"{' and '.join(map(str, ids))} (at least {conflicts[ids]:,} pixel(s))" for ids in worst)
    ids = ", ".join(str(feature) for feature in sorted({feature for ids in worst for feature in ids}))
    cut = "cut each overlap out of one feature, or say which class wins: --priority"
    hint = f"select them in QGIS with Select by Expression: $id IN ({ids}); {cut}"
    path = request.overlaps_to
    if path is None:
        hint += "; --overlaps-to overlaps.gpkg writes a layer of the overlaps"
    elif inputs.table is not None and write_overlaps(inputs.scenes, inputs.table, path, overwrite=request.overwrite):
        hint = f"open `{path}`, which holds all overlaps; {cut}"
    raise DataError(
        f"`{request.labels}`: features of different classes overlap: {shown}"
        + (f", and {len(conflicts) - len(worst)} more" if len(conflicts) > len(worst) else ""),
        hint=hint,
    )


def _raster_taxonomy(scenes: Sequence[LabelledScene], found: Histograms) -> Taxonomy:
    present = sorted(set().union(*found.values()))
    source = scenes[0].labels
    assert isinstance(source, RasterSource)
    with open_raster(source.path) as dataset:
        return read_taxonomy(dataset, present)


def _split(found: Histograms, taxonomy: Taxonomy, shares: Sequence[float], seed: int) -> dict[tuple[object, ...], str]:
    """Return the split of each labelled ground block."""
    keys = [key for key, histogram in found.items() if any(histogram[code] for code in taxonomy.codes)]
    if not keys:
        raise DataError("the labels hold none of the table's classes", hint="is this the right class table?")
    histograms = np.array([[found[key][code] for code in taxonomy.codes] for key in keys])
    splits = dict(zip(keys, assign(histograms, shares, seed=seed), strict=True))
    return splits


def _place(
    scenes: Sequence[LabelledScene],
    blocks: list[list[Block]],
    splits: dict[tuple[object, ...], str],
    size: int,
    overlap: int,
) -> tuple[PlannedTile, ...]:
    """Place tiles in every labelled block, without tiles whose ground another scene gives to another split."""
    tiles = []
    for number, own in enumerate(blocks):
        for block in own:
            if block.key not in splits:
                continue
            split = splits[block.key]
            wanted = overlap if split == "train" else 0
            height, width = int(block.window.height), int(block.window.width)
            for (row, above), (col, beside) in product(_starts(height, size, wanted), _starts(width, size, wanted)):
                tiles.append(
                    PlannedTile(
                        scene=number,
                        row_off=int(block.window.row_off) + row,
                        col_off=int(block.window.col_off) + col,
                        height=min(size, height),
                        width=min(size, width),
                        split=split,
                        shared=(above, beside),
                        overlap=wanted,
                    )
                )
    leaking = _leaks(scenes, tiles, size) if len(scenes) > 1 else set()
    if leaking:
        log.warning("%d tiles are left out, because another scene gives their ground to another split", len(leaking))
    return tuple(tile for number, tile in enumerate(tiles) if number not in leaking)


def _sort(tiles: Sequence[PlannedTile], columns: Sequence[int]) -> tuple[PlannedTile, ...]:
    """Return the tiles in the order in which the scenes' files hold them.

    Args:
        tiles: the tiles.
        columns: width of the columns in which each scene is read.
    """
    return tuple(sorted(tiles, key=lambda t: (t.scene, t.col_off // columns[t.scene], t.row_off, t.col_off)))


def _starts(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return where tiles start along an axis, each with the pixels that it shares with the tile before."""
    starts = offsets(length, size, size - overlap)
    return [(0, 0), *((later, earlier + size - later) for earlier, later in pairwise(starts))]


def _leaks(scenes: Sequence[LabelledScene], tiles: list[PlannedTile], size: int) -> set[int]:
    """Return the tiles that share more than one pixel's width of ground with a tile of a stricter split."""
    shapes = draw_footprints(scenes, tiles).geometry.to_numpy()
    ours, theirs = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    rank = np.array([SPLITS.index(tile.split) for tile in tiles])
    own = [scenes[tile.scene] for tile in tiles]
    placed = np.array([scene.crs is not None for scene in own])
    comparable = placed | np.array([(scene.transform[2], scene.transform[5]) != (0, 0) for scene in own])
    alike = (placed[ours] == placed[theirs]) & comparable[ours] & comparable[theirs]
    stricter = (rank[theirs] > rank[ours]) & alike
    ours, theirs = ours[stricter], theirs[stricter]
    shared = shapely.area(shapely.intersection(shapes[ours], shapes[theirs])) / shapely.area(shapes[ours])
    return set(ours[shared > 1 / size].tolist())
