"""Divide labelled ground: blocks go to splits and folds, and tiles are placed in the blocks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import offsets
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.scenes import LabelledScene
from cwsam_cli.tile.selection import beyond_limit
from cwsam_cli.tile.split.assignment import Neighbours, assign, assign_folds
from cwsam_cli.tile.split.blocks import Block
from cwsam_cli.tile.split.buffer import Intrusions, find_intrusions, inset, near_folds, yielding
from cwsam_cli.tile.split.zones import Zones, read_zones

Histograms = dict[str, Counter[int]]
"""Labelled pixels by unit (see `Block.unit`) and class code."""

_SMALLER = (0.75, 0.5, 0.25, 0.125)
"""Shares of a tile that are tried as buffer, if a whole tile leaves too little training ground."""
_KEPT = 0.5
"""Share of the training ground that the default buffer has to leave."""


@dataclass(frozen=True, slots=True)
class Division:
    """Tiles with their splits."""

    tiles: tuple[PlannedTile, ...]
    """In the order of their scenes."""
    buffer: int
    """Pixels between tiles of different splits."""
    parts: Mapping[str, str]
    """The split of each labelled unit; empty if polygons decide."""
    left_out: Mapping[str, int]
    """Number of tiles that were left out, by reason; for the buffer, the ground that is left out in tiles."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A block of a scene; satisfies `footprints.Rectangle`."""

    scene: int
    block: Block

    @property
    def window(self) -> Window:
        return self.block.window


@dataclass(frozen=True, slots=True)
class _Ground:
    """The labelled ground to divide."""

    scenes: Sequence[LabelledScene]
    blocks: list[_Placed]
    """Blocks with labels."""
    units: list[str]
    histograms: NDArray[np.int64]
    """Labelled pixels by unit and class."""
    request: TileRequest
    zones: Zones | None
    """Polygons that decide the split, or None."""

    @property
    def shares(self) -> tuple[float, float, float]:
        """Return the shares of the splits. Folds replace validation, so its share joins training."""
        train, val, test = self.request.shares
        return (train + val, 0, test) if self.request.folds else (train, val, test)


def divide(
    scenes: Sequence[LabelledScene],
    blocks: Sequence[Sequence[Block]],
    found: Histograms,
    taxonomy: Taxonomy,
    request: TileRequest,
) -> Division:
    """Choose splits and folds, and place the tiles.

    Args:
        scenes: the scenes.
        blocks: the blocks of each scene.
        found: labelled pixels by unit and code.
        taxonomy: the class table.
        request: shares, seed, buffer, folds, size and overlap.

    Raises:
        DataError: no ground has a label of the table, or the buffer that the user gave leaves no tile to a split.
    """
    units = [unit for unit, histogram in found.items() if any(histogram[code] for code in taxonomy.codes)]
    if not units:
        raise DataError("the labels hold none of the table's classes", hint="is this the right class table?")
    labelled = set(units)
    ground = _Ground(
        scenes=scenes,
        blocks=[_Placed(n, block) for n, own in enumerate(blocks) for block in own if block.unit in labelled],
        units=units,
        histograms=np.array([[found[unit][code] for code in taxonomy.codes] for unit in units]),
        request=request,
        zones=read_zones(Path(request.split_by), request.split_field, scenes) if request.has_zones else None,
    )
    division = _within_limit(_with_buffer(ground), request)
    _warn_of_empty(division, ground)
    return division


def _with_buffer(ground: _Ground) -> Division:
    """Divide with the buffer that the user wants, or with the largest up to a tile that leaves enough ground."""
    request = ground.request
    if request.split_by == "date":
        return _divide(ground, 0)
    smaller = [round(request.size * share) for share in _SMALLER]
    if request.buffer is None:
        for buffer in (request.size, *smaller):
            division = _divide(ground, buffer)
            if _kept(division, ground) >= _KEPT:
                break
        else:
            buffer, division = 0, _divide(ground, 0)
        if buffer == 0 and len(ground.units) > 1:
            log.warning(
                "no buffer between the splits leaves half of the training ground, so tiles of different splits can "
                "touch, and the measured accuracy is likely too high; smaller tiles (--size) leave room for a buffer"
            )
        elif buffer < request.size:
            log.warning(
                "a buffer of one tile would leave less than half of the training ground, so the buffer between the "
                "splits is %d pixels; smaller tiles (--size) need less ground",
                buffer,
            )
        return division
    gsds = [gsd for scene in ground.scenes if (gsd := scene.grid.gsd_m)]
    buffer = request.buffer.pixels(request.size, min(gsds, default=None), "--buffer")
    division = _divide(ground, buffer)
    if buffer == 0:
        log.warning(
            "--buffer 0: tiles of different splits can touch, so the accuracy on validation and test ground is likely "
            "too high"
        )
    elif not _kept(division, ground):
        works = [less for less in smaller if less < buffer and _kept(_divide(ground, less), ground)]
        raise DataError(
            f"a buffer of {buffer:,} pixels leaves no tile to a split",
            hint=f"use --buffer {works[0]}px or smaller tiles (--size)" if works else "use smaller tiles (--size)",
        )
    return division


def _divide(ground: _Ground, buffer: int) -> Division:
    blocks = [] if ground.request.split_by == "date" else ground.blocks
    intrusions = find_intrusions(ground.scenes, blocks, buffer=buffer, size=ground.request.size)
    if ground.zones is not None:
        inside = _place_in_zones(ground, ground.zones)
        return _divided(ground, inside, _area(inside), buffer, {})
    neighbours = _between_units(ground, intrusions)
    splits = assign(ground.histograms, ground.shares, seed=ground.request.seed, neighbours=neighbours)
    parts = dict(zip(ground.units, splits, strict=True))
    folds = _fold(ground, splits, neighbours) if ground.request.folds else {}
    tiles = [
        tile
        for number, placed in enumerate(ground.blocks)
        for tile in _place(
            placed,
            _left(number, ground, intrusions, parts),
            parts[placed.block.unit],
            folds.get(placed.block.unit),
            ground.request,
        )
    ]
    return _divided(ground, tiles, _area(ground.blocks), buffer, parts)


def _divided(
    ground: _Ground, tiles: Sequence[PlannedTile], possible: int, buffer: int, parts: Mapping[str, str]
) -> Division:
    """Keep the tiles of the splits apart, and count what is left out.

    Args:
        ground: the ground.
        tiles: the tiles that were placed.
        possible: pixels that have tiles without a buffer.
        buffer: pixels between tiles of different splits.
        parts: the split of each unit.
    """
    kept = _keep_apart(ground, tiles, buffer)
    lost = round((possible - _area(kept)) / ground.request.size**2)
    left_out = {"for the buffer" if buffer else "on ground of another split": max(0, lost)}
    return Division(kept, buffer, parts, left_out)


def _within_limit(division: Division, request: TileRequest) -> Division:
    limit = request.selection.limit
    if limit is None or len(division.tiles) <= limit:
        return division
    beyond = beyond_limit([tile.split for tile in division.tiles], limit, request.seed)
    return replace(
        division,
        tiles=tuple(_without(division.tiles, beyond, request.size)),
        left_out={**division.left_out, "beyond --limit": len(beyond)},
    )


def _area(rectangles: Sequence[_Placed | PlannedTile]) -> int:
    """Return the number of pixels in rectangles. A pixel in two tiles of one block counts once."""
    total = 0
    for each in rectangles:
        above, beside = each.shared if isinstance(each, PlannedTile) else (0, 0)
        total += int((each.window.height - above) * (each.window.width - beside))
    return total


def _between_units(ground: _Ground, intrusions: Intrusions) -> Neighbours:
    """Add up what blocks lose to other blocks, by unit."""
    number = {unit: i for i, unit in enumerate(ground.units)}
    unit = np.array([number[placed.block.unit] for placed in ground.blocks])
    area = np.array([placed.window.width * placed.window.height for placed in ground.blocks], float)
    total = np.bincount(unit, area, len(number))
    ours, theirs = unit[intrusions.ours], unit[intrusions.theirs]
    lost = intrusions.lost * area[intrusions.ours] / total[ours]
    pairs, place = np.unique(np.stack([ours, theirs], 1)[ours != theirs], axis=0, return_inverse=True)
    return Neighbours(
        pairs[:, 0], pairs[:, 1], np.bincount(place.ravel(), lost[ours != theirs], len(pairs)).astype(float)
    )


def _fold(ground: _Ground, splits: Sequence[str], neighbours: Neighbours) -> dict[str, int]:
    """Return the fold of each unit in training."""
    chosen = np.flatnonzero(np.array(splits) == "train")
    renumbered = np.full(len(splits), -1)
    renumbered[chosen] = np.arange(len(chosen))
    ours, theirs = renumbered[neighbours.ours], renumbered[neighbours.theirs]
    inside = (ours >= 0) & (theirs >= 0)
    folds = assign_folds(
        ground.histograms[chosen],
        ground.request.folds or 1,
        seed=ground.request.seed,
        neighbours=Neighbours(ours[inside], theirs[inside], neighbours.lost[inside]),
    )
    return {ground.units[i]: fold for i, fold in zip(chosen.tolist(), folds, strict=True)}


def _left(number: int, ground: _Ground, intrusions: Intrusions, parts: Mapping[str, str]) -> Window:
    """Return the window of a block without the strips that are too near to blocks of a stricter split."""
    own = SPLITS.index(parts[ground.blocks[number].block.unit])
    first, last = np.searchsorted(intrusions.ours, (number, number + 1))
    stricter = [
        pair
        for pair in range(first, last)
        if SPLITS.index(parts[ground.blocks[int(intrusions.theirs[pair])].block.unit]) > own
    ]
    return inset(ground.blocks[number].window, intrusions.reached[stricter])


def _place(
    placed: _Placed, window: Window, split: str, fold: int | None, request: TileRequest
) -> Sequence[PlannedTile]:
    """Place tiles in a window, which is a block or a part of it."""
    size, overlap = request.size, request.overlap if split == "train" else 0
    whole = placed.window
    height, width = int(window.height), int(window.width)
    if height < min(size, whole.height) or width < min(size, whole.width):
        return ()
    return [
        PlannedTile(
            scene=placed.scene,
            row_off=int(window.row_off) + row,
            col_off=int(window.col_off) + col,
            height=min(size, height),
            width=min(size, width),
            split=split,
            block=placed.block.key,
            fold=fold,
            shared=(above, beside),
            overlap=overlap,
        )
        for (row, above), (col, beside) in product(_starts(height, size, overlap), _starts(width, size, overlap))
    ]


def _starts(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return where tiles start along an axis, each with the pixels that it shares with the tile before."""
    starts = offsets(length, size, size - overlap)
    return [(0, 0), *((later, earlier + size - later) for earlier, later in pairwise(starts))]


def _place_in_zones(ground: _Ground, zones: Zones) -> list[PlannedTile]:
    """Place tiles that lie wholly in the polygons of one split."""
    tiles = []
    for split in SPLITS:
        wanted = [
            tile for placed in ground.blocks for tile in _place(placed, placed.window, split, None, ground.request)
        ]
        inside = zones.contain(wanted, split)
        tiles += [tile for tile, chosen in zip(wanted, inside, strict=True) if chosen]
    return sorted(tiles, key=lambda tile: tile.scene)


def _keep_apart(ground: _Ground, tiles: Sequence[PlannedTile], buffer: int) -> tuple[PlannedTile, ...]:
    """Leave out tiles that are too near to a stricter split, and note the folds near the others."""
    if ground.request.split_by != "date":
        splits = [tile.split for tile in tiles]
        strictness = [SPLITS.index(split) for split in splits]
        gone = yielding(ground.scenes, tiles, splits, strictness, buffer=buffer)
        tiles = _without(tiles, gone, ground.request.size)
    if ground.request.folds and ground.request.split_by != "date":
        near = near_folds(ground.scenes, tiles, [tile.fold for tile in tiles], buffer=buffer)
        tiles = [replace(tile, near_folds=folds) for tile, folds in zip(tiles, near, strict=True)]
    return tuple(tiles)


def _without(tiles: Sequence[PlannedTile], gone: set[int], size: int) -> list[PlannedTile]:
    """Leave tiles out. What they shared with a later tile counts in that one."""
    left: dict[tuple[int, str, int, int], PlannedTile] = {}
    for number, tile in enumerate(tiles):
        if number in gone:
            continue
        above, beside = tile.shared
        up, west = tile.row_off + above - size, tile.col_off + beside - size
        has_up = above > 0 and (tile.scene, tile.block, up, tile.col_off) in left
        has_west = beside > 0 and (tile.scene, tile.block, tile.row_off, west) in left
        if above and beside and not has_up and not has_west and (tile.scene, tile.block, up, west) in left:
            continue  # it would share a corner, which `shared` cannot say
        shared = (above if has_up else 0, beside if has_west else 0)
        left[tile.scene, tile.block, tile.row_off, tile.col_off] = replace(tile, shared=shared)
    return list(left.values())


def _kept(division: Division, ground: _Ground) -> float:
    """Return the share of the training ground that has tiles; 0 if a split has none."""
    wanted = set(division.parts.values()) or {tile.split for tile in division.tiles}
    if not wanted <= {tile.split for tile in division.tiles} or not division.tiles:
        return 0.0
    if not division.parts:
        return 1.0
    training = [placed for placed in ground.blocks if division.parts[placed.block.unit] == "train"]
    return _area([tile for tile in division.tiles if tile.split == "train"]) / _area(training)


def _warn_of_empty(division: Division, ground: _Ground) -> None:
    there = {tile.split for tile in division.tiles}
    missing = [split for split, share in zip(SPLITS, ground.shares, strict=True) if share and split not in there]
    if not missing:
        return
    if ground.zones is not None:
        raise DataError(
            f"`{ground.request.split_by}` gives no whole tile to {', '.join(missing)}",
            hint="draw larger polygons, or make smaller tiles (--size)",
        )
    if ground.request.split_by != "block":  # of blocks, a warning at the end names the tile size that would help
        log.warning(
            "there are labels in %d %s(s), too few for the split(s) %s",
            len(ground.units),
            ground.request.split_by,
            ", ".join(missing),
        )
