"""Audit a dataset: read every tile once, then compare the splits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from cwsam_cli.audit.alignment import Alignment, check_alignment
from cwsam_cli.audit.folders import WHOLE, Found, find_dataset
from cwsam_cli.audit.ground import Outlines, compare, draw_outlines, nearest_of, shortest_pixel_m
from cwsam_cli.audit.likeness import find_duplicates, find_near_duplicates
from cwsam_cli.audit.suspects import Suspect, find_suspects, write_suspects
from cwsam_cli.audit.tiles import TileFacts, read_tile
from cwsam_cli.audit.variogram import Variogram, estimate
from cwsam_cli.console import track
from cwsam_cli.dataset.folds import find_folds, split_by_fold
from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing
from cwsam_cli.vector.formats import vector_driver

_ROUNDING = 0.995
"""Share of the dataset's own buffer that counts as the whole one, because distances are rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOfSplits:
    """How two splits lie to each other."""

    splits: tuple[str, str]
    shared_m2: float
    """Ground of the first split that the second one shows, too."""
    nearest_m: float | None
    """Smallest distance of two tiles; None if tiles have no position."""
    duplicates: int
    """Pairs of tiles with equal pixels."""
    near_duplicates: int
    """Pairs of tiles that correlate by 0.98 or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedFold:
    """How the validation tiles of a fold lie to the tiles that train with it."""

    fold: int
    train: int
    """Number of training tiles: those of other folds that are not near this one."""
    val: int
    """Number of validation tiles."""
    shared_m2: float
    """Training ground that the validation tiles show, too."""
    nearest_m: float | None
    """Smallest distance of two tiles; None if tiles have no position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedClass:
    """One class in the dataset."""

    code: int
    name: str
    color: str | None
    pixels: dict[str, int]
    """Labelled pixels by split."""
    range_m: float | None
    """Distance at which pixels of the class are no longer correlated (95 % of the sill); None if not reached."""
    correlation_left: float | None
    """Correlation of the class at the distance between training and test, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Everything that an audit found."""

    tiles: dict[str, int]
    """Number of tiles by split."""
    labelled: dict[str, float]
    """Share of the valid pixels that have a label, by split."""
    pairs: tuple[PairOfSplits, ...]
    folds: tuple[AuditedFold, ...]
    """Empty if the dataset has no folds."""
    classes: tuple[AuditedClass, ...]
    flattery: float | None
    """Mean correlation between test ground and the nearest training ground, 0 to 1; None if it is not known."""
    leaks: tuple[str, ...]
    """One sentence per leak; empty if the splits are honest."""
    notes: tuple[str, ...]
    """Facts that limit what the audit can say."""
    alignment: tuple[Alignment, ...] = ()
    """How labels lie to images, by scene; empty if it was not checked."""
    suspects: tuple[Suspect, ...] | None = None
    """Tiles that disagree with most of their labels, the worst first; None if they were not looked for."""


def audit_dataset(
    path: Path,
    *,
    classes: str | None = None,
    with_alignment: bool = False,
    suspects_to: Path | None = None,
    overwrite: bool = False,
) -> Audit:
    """Audit a dataset.

    Args:
        path: a dataset's folder, or a configuration with `root_path_1` and `root_path_2`.
        classes: a class table; None takes the dataset's own, or the codes in the labels.
        with_alignment: whether to look for a shift between labels and images.
        suspects_to: a GeoPackage or a CSV file for tiles whose labels are probably wrong.
        overwrite: whether that file may be replaced.

    Raises:
        DataError: the folders hold no pairs of tiles, or a tile is damaged.
        UsageError: the file of suspects exists and may not be replaced, has another format, or lies in the dataset.
    """
    found = find_dataset(path, classes)
    if suspects_to is not None:
        _refuse_target(suspects_to, found.root, overwrite=overwrite)
    work = [(split, *pair) for split, pairs in found.pairs.items() for pair in pairs]
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE"):  # else GDAL lists the folder for each tile
        tiles = [read_tile(*item) for item in track(work, "reading tiles", unit="tile")]
        alignment = check_alignment([(image, label) for _, image, label in work]) if with_alignment else ()
        names = {entry.code: entry.name for entry in found.taxonomy.classes} if found.taxonomy else {}
        suspects = find_suspects(work, found.root or path, names) if suspects_to is not None else None
    if suspects_to is not None and suspects is not None:
        write_suspects(suspects, suspects_to, overwrite=overwrite)
    splits = [split for split in (*SPLITS, WHOLE) if split in found.pairs]
    of_tile = np.array([tile.split for tile in tiles])
    outlines = draw_outlines(tiles)
    by_date = found.manifest is not None and found.manifest.split is not None and found.manifest.split.by == "date"
    pairs, leaks = _compare_splits(tiles, of_tile, splits, outlines, shares_ground=by_date)
    buffer = _buffer_m(found, outlines, tiles) if not by_date else 0.0
    leaks += _broken_buffer(pairs, buffer)
    folds, fold_leaks = _compare_folds(found, tiles, outlines, buffer)
    leaks += fold_leaks if not by_date else []
    variogram = estimate(tiles)
    own_classes, flattery = _describe_classes(found, tiles, splits, outlines, of_tile, variogram, pairs)
    return Audit(
        tiles={split: int((of_tile == split).sum()) for split in splits},
        labelled={split: _labelled([tile for tile in tiles if tile.split == split]) for split in splits},
        pairs=tuple(pairs),
        folds=tuple(folds),
        classes=tuple(own_classes),
        flattery=flattery,
        leaks=tuple(leaks),
        notes=tuple(_limits(tiles, splits, shares_ground=by_date)),
        alignment=alignment,
        suspects=None if suspects is None else tuple(own for own, _ in suspects),
    )


def _refuse_target(path: Path, dataset: Path | None, *, overwrite: bool) -> None:
    if path.suffix.lower() not in (".gpkg", ".csv"):
        raise UsageError(
            f"--suspects `{path}` is neither a GeoPackage nor a CSV file", hint="give it the suffix .gpkg or .csv"
        )
    if path.suffix.lower() == ".gpkg":
        vector_driver(path)  # refuses names that cannot be written
    if dataset is not None and dataset.resolve() in path.resolve().parents:
        raise UsageError(
            f"--suspects `{path}` lies inside the dataset, whose folder holds its own files only",
            hint=f"choose another place: --suspects {dataset.resolve().parent / path.name}",
        )
    refuse_existing(path, overwrite=overwrite)


def _labelled(tiles: Sequence[TileFacts]) -> float:
    valid = sum(tile.valid for tile in tiles)
    return sum(sum(tile.codes.values()) for tile in tiles) / valid if valid else 0.0


def _compare_splits(
    tiles: Sequence[TileFacts],
    of_tile: NDArray[np.str_],
    splits: Sequence[str],
    outlines: Sequence[Outlines],
    *,
    shares_ground: bool,
) -> tuple[list[PairOfSplits], list[str]]:
    same, alike = find_duplicates(tiles), find_near_duplicates(tiles)
    pairs, leaks = [], []
    for one, other in combinations(splits, 2):
        meeting = compare(outlines, of_tile, one, other)
        copies = [(a, b) for a, b in same if {a.split, b.split} == {one, other}]
        near = [(a, b, value) for a, b, value in alike if {a.split, b.split} == {one, other}]
        pairs.append(
            PairOfSplits(
                splits=(one, other),
                shared_m2=meeting.shared_m2,
                nearest_m=meeting.nearest_m,
                duplicates=len(copies),
                near_duplicates=len(near),
            )
        )
        if meeting.example is not None and not shares_ground:
            first, second = (tiles[number].image for number in meeting.example)
            leaks.append(f"{one} and {other} share ground, for example `{first}` and `{second}`")
        if copies:
            leaks.append(
                f"{len(copies):,} tile(s) of {one} and {other} have equal pixels, for example "
                f"`{copies[0][0].image}` and `{copies[0][1].image}`"
            )
        if near and not shares_ground:
            leaks.append(
                f"{len(near):,} tile(s) of {one} and {other} show nearly the same picture, for example "
                f"`{near[0][0].image}` and `{near[0][1].image}` (correlation {near[0][2]:.3f})"
            )
    return pairs, leaks


def _compare_folds(
    found: Found, tiles: Sequence[TileFacts], outlines: Sequence[Outlines], buffer: float
) -> tuple[list[AuditedFold], list[str]]:
    """Compare the validation tiles of each fold with the tiles that train with it."""
    folds: list[AuditedFold] = []
    leaks: list[str] = []
    if found.root is None:
        return folds, leaks
    for fold in find_folds(found.root):
        trained, held = split_by_fold(found.root, fold)
        role = np.array(
            ["train" if tile.image.stem in trained else "val" if tile.image.stem in held else "" for tile in tiles]
        )
        meeting = compare(outlines, role, "train", "val")
        folds.append(
            AuditedFold(
                fold=fold,
                train=int((role == "train").sum()),
                val=int((role == "val").sum()),
                shared_m2=meeting.shared_m2,
                nearest_m=meeting.nearest_m,
            )
        )
        if meeting.example is not None:
            first, second = (tiles[number].image for number in meeting.example)
            leaks.append(f"training and validation of fold {fold} share ground, for example `{first}` and `{second}`")
        elif meeting.nearest_m is not None and meeting.nearest_m < _ROUNDING * buffer:
            leaks.append(
                f"training and validation of fold {fold} are {meeting.nearest_m:,.0f} m apart, but the dataset has a "
                f"buffer of {buffer:,.0f} m"
            )
    return folds, leaks


def _buffer_m(found: Found, outlines: Sequence[Outlines], tiles: Sequence[TileFacts]) -> float:
    """Return the dataset's buffer in metres, or 0. It is a number of pixels, and pixels can differ in size."""
    placed = [group for group in outlines if group.has_crs]
    if found.manifest is None or found.manifest.split is None or not placed:
        return 0.0
    return found.manifest.split.buffer_px * min(shortest_pixel_m(group, tiles) for group in placed)


def _broken_buffer(pairs: Sequence[PairOfSplits], buffer: float) -> list[str]:
    """Compare distances with the dataset's buffer in metres."""
    return [
        f"{pair.splits[0]} and {pair.splits[1]} are {pair.nearest_m:,.0f} m apart, but the dataset has a buffer of "
        f"{buffer:,.0f} m"
        for pair in pairs
        if pair.nearest_m is not None and pair.nearest_m < _ROUNDING * buffer
    ]


def _describe_classes(
    found: Found,
    tiles: Sequence[TileFacts],
    splits: Sequence[str],
    outlines: Sequence[Outlines],
    of_tile: NDArray[np.str_],
    variogram: Variogram | None,
    pairs: Sequence[PairOfSplits],
) -> tuple[list[AuditedClass], float | None]:
    counts = {split: Counter[int]() for split in splits}
    for tile in tiles:
        counts[tile.split].update(tile.codes)
    present = sorted(set().union(*counts.values()))
    table = {entry.code: entry for entry in found.taxonomy.classes} if found.taxonomy else {}
    unlabelled = found.taxonomy.unlabelled if found.taxonomy else ()
    codes = [*table, *(code for code in present if code not in table and code not in unlabelled)]
    nearest = next((pair.nearest_m for pair in pairs if pair.splits == ("train", "test")), None)
    left = variogram.left_at(nearest) if variogram is not None and nearest is not None else {}
    classes = [
        AuditedClass(
            code=code,
            name=table[code].name if code in table else f"code {code}",
            color=table[code].color if code in table else None,
            pixels={split: counts[split][code] for split in splits},
            range_m=variogram.range_m(code) if variogram is not None else None,
            correlation_left=left.get(code),
        )
        for code in codes
    ]
    return classes, _flattery(tiles, outlines, of_tile, variogram)


def _flattery(
    tiles: Sequence[TileFacts], outlines: Sequence[Outlines], of_tile: NDArray[np.str_], variogram: Variogram | None
) -> float | None:
    """Return the correlation between test tiles and their nearest training tiles, weighted by labelled pixels."""
    if variogram is None:
        return None
    total = weight = 0.0
    for group in outlines:
        own = of_tile[group.numbers]
        test, train = np.flatnonzero(own == "test"), np.flatnonzero(own == "train")
        if not group.has_crs or not len(test) or not len(train):
            continue
        for place, distance in zip(test, nearest_of(group, test, train).tolist(), strict=True):
            left = variogram.left_at(distance)
            for code, count in tiles[int(group.numbers[place])].codes.items():
                total += left.get(code, 0.0) * count
                weight += count
    return total / weight if weight else None


def _limits(tiles: Sequence[TileFacts], splits: Sequence[str], *, shares_ground: bool) -> list[str]:
    notes = []
    if len(splits) < 2:
        notes.append("there is one split only, so nothing can be compared")
    unplaced = sum(tile.grid is None for tile in tiles)
    if unplaced:
        notes.append(
            f"{unplaced:,} of {len(tiles):,} tiles have no position, so their overlap and distance are not known; "
            "equal and nearly equal pictures are found"
        )
    if shares_ground:
        notes.append("the dataset is split by date, so shared ground is reported and is no leak")
    return notes
