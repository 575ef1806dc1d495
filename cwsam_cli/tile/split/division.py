"""Divide labelled ground: blocks go to splits and folds, and tiles are placed in the blocks."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.tile.footprints import PlacedScene, PlannedTile
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.split.assignment import Neighbours, assign, assign_folds
from cwsam_cli.tile.split.blocks import Block
from cwsam_cli.tile.split.buffer import Intrusions, apart, find_intrusions, inset, shared_ground
from cwsam_cli.tile.split.earlier import EarlierGround
from cwsam_cli.tile.split.placement import PlacedBlock, area, place, without
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
    folds: Mapping[str, int]
    """The fold of each unit in training; empty without folds."""
    left_out: Mapping[str, int]
    """Number of tiles that were left out, by reason; for the buffer, the ground that is left out in tiles."""


@dataclass(frozen=True, slots=True)
class _Ground:
    """The labelled ground to divide."""

    scenes: Sequence[PlacedScene]
    blocks: list[PlacedBlock]
    """Blocks with labels."""
    units: list[str]
    histograms: NDArray[np.int64]
    """Labelled pixels by unit and class."""
    request: TileRequest
    zones: Zones | None
    """Polygons that decide the split, or None."""
    earlier: EarlierGround
    """The dataset to which the scenes are added. The scenes of its tiles are counted after the new ones."""

    @property
    def all_scenes(self) -> list[PlacedScene]:
        """Return the new scenes and the earlier ones."""
        return [*self.scenes, *self.earlier.scenes]

    @property
    def shares(self) -> tuple[float, float, float]:
        """Return the shares of the splits. Folds replace validation, so its share joins training."""
        train, val, test = self.request.shares
        return (train + val, 0, test) if self.request.folds else (train, val, test)


def divide(
    scenes: Sequence[PlacedScene],
    blocks: Sequence[Sequence[Block]],
    found: Histograms,
    taxonomy: Taxonomy,
    request: TileRequest,
    earlier: EarlierGround,
) -> Division:
    """Choose splits and folds, and place the tiles.

    Units of an earlier dataset keep their splits and folds. New ground that shows ground of earlier tiles joins them.

    Args:
        scenes: the scenes.
        blocks: the blocks of each scene.
        found: labelled pixels by unit and code.
        taxonomy: the class table.
        request: shares, seed, buffer, folds, size and overlap.
        earlier: the dataset to which the scenes are added, empty if there is none.

    Raises:
        DataError: no ground has a label of the table, or the buffer that the user gave leaves no tile to a split.
    """
    units = [unit for unit, histogram in found.items() if any(histogram[code] for code in taxonomy.codes)]
    if not units:
        raise DataError("the labels hold none of the table's classes", hint="is this the right class table?")
    labelled = set(units)
    units += [unit for unit in earlier.units if unit not in labelled]
    counted = together(found, earlier)
    ground = _Ground(
        scenes=scenes,
        blocks=[PlacedBlock(n, block) for n, own in enumerate(blocks) for block in own if block.unit in labelled],
        units=units,
        histograms=np.array([[counted[unit][code] for code in taxonomy.codes] for unit in units]),
        request=request,
        zones=read_zones(Path(request.split_by), request.split_field, scenes) if request.has_zones else None,
        earlier=earlier.after(len(scenes)),
    )
    division = _with_buffer(ground)
    if not earlier.scenes:
        _warn_of_empty(division, ground)
    return division


def together(found: Histograms, earlier: EarlierGround) -> Histograms:
    """Add the labelled pixels of the units of an earlier dataset."""
    counted = {unit: Counter(histogram) for unit, histogram in found.items()}
    for unit, own in earlier.units.items():
        counted.setdefault(unit, Counter()).update(own.found)
    return counted


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
    if ground.earlier.scenes:  # the buffer is the one of the dataset, which has tiles of its splits already
        return division
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
    beside = ground.earlier.blocks() if blocks else []
    intrusions = find_intrusions(ground.all_scenes, [*blocks, *beside], buffer=buffer, size=ground.request.size)
    if ground.zones is not None:
        inside = _place_in_zones(ground, ground.zones)
        return _divided(ground, inside, area(inside), buffer)
    neighbours = _between_units(ground, intrusions)
    fixed = _fixed_units(ground)
    kept = [fixed.get(unit, (None, None))[0] for unit in ground.units]
    splits = assign(ground.histograms, ground.shares, seed=ground.request.seed, neighbours=neighbours, kept=kept)
    parts = dict(zip(ground.units, splits, strict=True))
    folds = _fold(ground, splits, neighbours, fixed) if ground.request.folds else {}
    in_split = [parts[placed.block.unit] for placed in ground.blocks] + [block.split for block in beside]
    tiles = [
        tile
        for number, placed in enumerate(ground.blocks)
        for tile in place(
            placed,
            _left(number, ground, intrusions, in_split),
            parts[placed.block.unit],
            folds.get(placed.block.unit),
            ground.request,
        )
    ]
    return replace(_divided(ground, tiles, area(ground.blocks), buffer), parts=parts, folds=folds)


def _fixed_units(ground: _Ground) -> dict[str, tuple[str, int | None]]:
    """Return the split and the fold of units that an earlier dataset decides.

    Those are the units of its tiles, and new units with ground of its tiles. Such a unit joins the tiles with which it
    shares most ground. The rest is left out if it is too near to other splits.
    """
    fixed = {unit: (own.split, own.fold) for unit, own in ground.earlier.units.items()}
    new = [placed for placed in ground.blocks if placed.block.unit not in fixed]
    if not new or not ground.earlier.tiles or ground.request.split_by == "date":
        return fixed
    shared: dict[str, dict[tuple[str, int | None], float]] = defaultdict(lambda: defaultdict(float))
    for ours, theirs, share in shared_ground(ground.all_scenes, new, ground.earlier.tiles):
        tile = ground.earlier.tiles[theirs]
        shared[new[ours].block.unit][tile.split, tile.fold] += share
    return fixed | {unit: max(shares, key=lambda part: shares[part]) for unit, shares in shared.items()}


def _divided(ground: _Ground, tiles: Sequence[PlannedTile], possible: int, buffer: int) -> Division:
    """Keep the tiles of the splits apart, and count what is left out.

    Args:
        ground: the ground.
        tiles: the tiles that were placed.
        possible: pixels that have tiles without a buffer.
        buffer: pixels between tiles of different splits.
    """
    kept = _keep_apart(ground, tiles, buffer)
    lost = round((possible - area(kept)) / ground.request.size**2)
    left_out = {"for the buffer" if buffer else "on ground of another split": max(0, lost)}
    return Division(kept, buffer, {}, {}, left_out)


def _between_units(ground: _Ground, intrusions: Intrusions) -> Neighbours:
    """Add up what blocks lose to other blocks, by unit."""
    number = {unit: i for i, unit in enumerate(ground.units)}
    unit = np.array([number[placed.block.unit] for placed in ground.blocks])
    area = np.array([placed.window.width * placed.window.height for placed in ground.blocks], float)
    total = np.bincount(unit, area, len(number))
    new = (intrusions.ours < len(unit)) & (intrusions.theirs < len(unit))
    ours, theirs = unit[intrusions.ours[new]], unit[intrusions.theirs[new]]
    lost = intrusions.lost[new] * area[intrusions.ours[new]] / total[ours]
    pairs, place = np.unique(np.stack([ours, theirs], 1)[ours != theirs], axis=0, return_inverse=True)
    return Neighbours(
        pairs[:, 0], pairs[:, 1], np.bincount(place.ravel(), lost[ours != theirs], len(pairs)).astype(float)
    )


def _fold(
    ground: _Ground, splits: Sequence[str], neighbours: Neighbours, fixed: Mapping[str, tuple[str, int | None]]
) -> dict[str, int]:
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
        kept=[fixed.get(ground.units[i], (None, None))[1] for i in chosen.tolist()],
    )
    return {ground.units[i]: fold for i, fold in zip(chosen.tolist(), folds, strict=True)}


def _left(number: int, ground: _Ground, intrusions: Intrusions, splits: Sequence[str]) -> Window:
    """Return the window of a block without the strips that are too near to blocks of a stricter split.

    Args:
        number: number of the block.
        ground: the ground.
        intrusions: pairs of blocks. Those of an earlier dataset follow the new ones, and give way to none.
        splits: the split of each block.
    """
    own = splits[number]
    first, last = np.searchsorted(intrusions.ours, (number, number + 1))
    stricter = [
        pair
        for pair, other in zip(range(first, last), intrusions.theirs[first:last].tolist(), strict=True)
        if (splits[other] != own if other >= len(ground.blocks) else SPLITS.index(splits[other]) > SPLITS.index(own))
    ]
    return inset(ground.blocks[number].window, intrusions.reached[stricter])


def _place_in_zones(ground: _Ground, zones: Zones) -> list[PlannedTile]:
    """Place tiles that lie wholly in the polygons of one split."""
    tiles = []
    for split in SPLITS:
        wanted = [
            tile for placed in ground.blocks for tile in place(placed, placed.window, split, None, ground.request)
        ]
        inside = zones.contain(wanted, split)
        tiles += [tile for tile, chosen in zip(wanted, inside, strict=True) if chosen]
    return sorted(tiles, key=lambda tile: tile.scene)


def _keep_apart(ground: _Ground, tiles: Sequence[PlannedTile], buffer: int) -> tuple[PlannedTile, ...]:
    """Leave out tiles that are too near to a stricter split or to an earlier tile."""
    if ground.request.split_by != "date":
        gone = apart(ground.all_scenes, tiles, ground.earlier.tiles, buffer=buffer)
        tiles = without(tiles, gone, ground.request.size)
    return tuple(tiles)


def _kept(division: Division, ground: _Ground) -> float:
    """Return the share of the training ground that has tiles; 0 if a split has none."""
    wanted = set(division.parts.values()) or {tile.split for tile in division.tiles}
    if not wanted <= {tile.split for tile in division.tiles} or not division.tiles:
        return 0.0
    if not division.parts:
        return 1.0
    training = [placed for placed in ground.blocks if division.parts[placed.block.unit] == "train"]
    return area([tile for tile in division.tiles if tile.split == "train"]) / area(training)


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
