"""Accuracy of any map against a reference raster or vector file: the command `eval --map --reference`.

All pixels, or points, of the reference are counted. They are no random sample, so there are no standard errors.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.console import log, track
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.maps.legend import Legend
from cwsam_cli.maps.regions import NOWHERE, PlacedPolygons, field_of, is_raster, read_features
from cwsam_cli.maps.strips import ClassRaster, on_grid, open_classes
from cwsam_cli.metrics.confusion import Matrix, Metrics, compute_metrics
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.report.pictures import Picture
from cwsam_cli.taxonomy import IGNORE, LandCoverClass, Taxonomy, default_color, name_key
from cwsam_cli.verify.crosswalk import Crosswalk, read_crosswalk
from cwsam_cli.verify.pictures import Thumbnail

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_CHUNK = 1_000_000
"""Pixels that are counted together; larger chunks do not fit the cache and are slower."""
_DENSE = 2**20
"""Largest number of pairs that is counted with one bin per pair."""
_STRIP_PIXELS = 2**20
_CODES = 256

Pairs = Counter[tuple[int, int]]
"""Pixels by map code and reference value."""
Places = dict[int, int | None]
Small = tuple[Thumbnail, Thumbnail]
"""Pictures of the map and the reference."""


@dataclass(frozen=True, slots=True)
class MapAssessment:
    """Accuracy of a map."""

    map: str
    reference: str
    taxonomy: Taxonomy
    """The common classes."""
    matrix: Matrix
    """Pixels or points (K, K): rows are reference classes, columns map classes."""
    metrics: Metrics
    unit: str
    """`pixels` or `points`."""
    left_out: int
    """Pixels or points with a reference that are not compared: without a map class, with two classes in the reference,
    or without a target in the crosswalk."""
    picture: Picture | None
    """Map and reference in small; None for points."""


def assess_map(
    map_path: Path,
    reference: Path,
    *,
    class_field: str | None = None,
    crosswalk: Path | None = None,
    band: int | None = None,
) -> MapAssessment:
    """Compare a map with a reference.

    Args:
        map_path: a raster of class codes.
        reference: a raster of class codes on any grid, or points or polygons.
        class_field: the field with each feature's class code or name.
        crosswalk: a table of common classes, see `crosswalk.py`.
        band: the map's band, counted from 1; None if there is only one.

    Raises:
        DataError: a file cannot be read or placed, the legends do not match, or nothing is in both.
        UsageError: a vector file is given without `class_field`.
    """
    walk = read_crosswalk(crosswalk)
    with open_classes(map_path, band) as source:
        legend, small = Legend.read(source.dataset, source.band), (Thumbnail(source.grid), Thumbnail(source.grid))
        if is_coded := is_raster(reference):
            pairs, names, left_out, unit = *_against_raster(source, reference, small), "pixels"
        elif class_field is None:
            raise UsageError(f"`{reference}` needs --class-field", hint="name the field with the class of each feature")
        else:
            pairs, names, left_out, unit = _against_features(source, reference, class_field, small)
    classes, matrix, lost, places = _common(pairs, legend, names, walk, reference, are_codes=is_coded)
    if not matrix.any():
        raise DataError(
            f"`{map_path}` and `{reference}` have no {unit} in common", hint="do they show the same ground?"
        )
    if left_out + lost:
        log.warning("%s %s of `%s` are left out: see --help", f"{left_out + lost:,}", unit, reference)
    picture = None
    if unit == "pixels":
        mapped, real = (part.indices(own) for part, own in zip(small, places, strict=True))
        picture = Picture(map_path.name, mapped, real)
    return MapAssessment(
        str(map_path),
        str(reference),
        Taxonomy(classes=classes),
        matrix,
        compute_metrics(matrix),
        unit,
        left_out + lost,
        picture,
    )


def count_pairs(mapped: NDArray[Any], reference: NDArray[Any]) -> Pairs:
    """Count pixels by map code and reference value.

    Args:
        mapped: codes of any integer dtype, (N,).
        reference: values of any integer dtype, (N,).
    """
    pairs: Pairs = Counter()
    for start in range(0, mapped.size, _CHUNK):
        one, other = mapped[start : start + _CHUNK], reference[start : start + _CHUNK]
        low, base = int(one.min()), int(other.min())
        wide, tall = int(other.max()) - base + 1, int(one.max()) - low + 1
        if wide * tall <= _DENSE:
            index = (one.astype(np.int64) - low) * wide + (other.astype(np.int64) - base)
            counts = np.bincount(index)
            cells = np.flatnonzero(counts)
            found = zip(
                (cells // wide + low).tolist(), (cells % wide + base).tolist(), counts[cells].tolist(), strict=True
            )
        else:
            both, counts = np.unique(np.stack([one, other]).astype(np.int64), axis=1, return_counts=True)
            found = zip(*both.tolist(), counts.tolist(), strict=True)
        for code, value, count in found:
            pairs[code, value] += count
    return pairs


def _strips(source: ClassRaster) -> Iterator[Window]:
    width, height = source.grid.width, source.grid.height
    rows = max(1, _STRIP_PIXELS // width)
    for top in track(range(0, height, rows), "comparing", unit="strip"):
        yield Window(0, top, width, min(rows, height - top))


def _against_raster(source: ClassRaster, path: Path, small: Small) -> tuple[Pairs, dict[int, str], int]:
    """Count pairs, draw map and reference, and read the names of the reference's codes.

    Returns:
        Pairs; names by code; pixels of the reference that have no class in the map.
    """
    with open_raster(path) as dataset:
        if dataset.count != 1:
            raise DataError(f"`{path}` has {dataset.count} bands", hint="a reference is a raster of one band")
        names = Legend.read(dataset).names
    pairs: Pairs = Counter()
    left_out = 0
    with on_grid([path], source) as (raster,):
        for window in _strips(source):
            codes, empty = source.read(window)
            values, none = raster.read_codes(window)
            _paint(small, window, (codes, ~empty), (values, ~none))
            left_out += int((empty & ~none).sum())
            known = ~(empty | none)
            if known.any():
                pairs += count_pairs(codes[known], values[known])
    return pairs, names, left_out


def _against_features(
    source: ClassRaster, path: Path, field: str, small: Small
) -> tuple[Pairs, dict[int, str], int, str]:
    """Count pairs, draw map and reference, and number the classes in the field.

    Returns:
        Pairs; names by number (a name may be a code in digits); pixels or points that are left out; the unit.
    """
    frame = read_features(path, source.grid, source.path)
    column = frame[field_of(frame, field, path)].map(_plain)
    frame, column = frame[column != ""], column[column != ""]
    values, known = column.factorize(sort=True)
    frame = frame.assign(value=values)
    names = dict(enumerate(map(str, known)))
    kinds = set(frame.geometry.geom_type)
    if kinds <= {"Point"}:
        pairs, left_out = _at_points(source, frame)
        return pairs, names, left_out, "points"
    if not kinds <= {"Polygon", "MultiPolygon"}:
        raise DataError(f"`{path}` holds {', '.join(sorted(kinds))}", hint="a reference is points or polygons")
    # In the order of values, the first and the last polygon at a pixel differ wherever any two do.
    regions, pairs, left_out = PlacedPolygons.of(frame.sort_values("value"), source.grid), Counter[tuple[int, int]](), 0
    for window in _strips(source):
        burnt = regions.read(window)
        codes, empty = source.read(window)
        inside = burnt != NOWHERE
        _paint(small, window, (codes, ~empty), (burnt, inside))
        if not inside.any():
            continue
        kept = inside & ~empty & (burnt == regions.read(window, first_wins=True))
        left_out += int(inside.sum() - kept.sum())
        if kept.any():
            pairs += count_pairs(codes[kept], burnt[kept])
    return pairs, names, left_out, "pixels"


def _paint(small: Small, window: Window, *layers: tuple[NDArray[Any], NDArray[np.bool_]]) -> None:
    for part, (values, known) in zip(small, layers, strict=True):
        part.paint(window, values, known)


def _at_points(source: ClassRaster, frame: "GeoDataFrame") -> tuple[Pairs, int]:
    columns, rows = ~source.grid.transform @ (frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy())
    pairs: Pairs = Counter()
    left_out = 0
    for place in np.argsort(rows, kind="stable").tolist():
        row, column = int(np.floor(rows[place])), int(np.floor(columns[place]))
        if 0 <= row < source.grid.height and 0 <= column < source.grid.width:
            values, empty = source.read(Window(column, row, 1, 1))
            if not empty[0, 0]:
                pairs[int(values[0, 0]), int(frame["value"].iloc[place])] += 1
                continue
        left_out += 1
    return pairs, left_out


def _plain(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _common(
    pairs: Pairs, legend: Legend, names: dict[int, str], walk: Crosswalk, reference: Path, *, are_codes: bool
) -> tuple[tuple[LandCoverClass, ...], Matrix, int, tuple[Places, Places]]:
    """Bring both legends to common classes, and count pixels by them.

    Args:
        pairs: see `Pairs`.
        legend: names of the map's codes.
        names: names of the reference's values.
        walk: the crosswalk.
        reference: path of the reference, for messages.
        are_codes: whether the reference's values are class codes, and not numbers of the texts in a field.

    Returns:
        The common classes, the matrix, the pixels that have no target, and the place of each code of the map and of
        each value of the reference in the common classes.
    """
    codes = sorted({code for code, _ in pairs} | set(legend.names))
    targets = {code: walk.target("map", code, legend.name(code)) for code in codes}
    common: dict[str, tuple[str, str]] = {}  # name and colour by key, in the order of the map's codes
    for code, target in targets.items():
        if target:
            common.setdefault(name_key(target), (target, legend.color(code)))
    by_code = {str(code): target for code, target in targets.items()}
    real: dict[int, str] = {}
    unknown = []
    for value in sorted({value for _, value in pairs}):
        text = names.get(value, str(value))
        target = walk.target("reference", value if are_codes else None, text)
        if target == text and name_key(text) not in common and text in by_code:
            target = by_code[text]  # the reference has codes only: those of the map
        if target and name_key(target) not in common:
            if target == text:
                unknown.append(text)
            common[name_key(target)] = (target, default_color(len(common)))
        real[value] = target
    if unknown:
        shown = ", ".join(f"`{text}`" for text in unknown[:8])
        raise DataError(
            f"the map has no class {shown} of `{reference}`",
            hint="list it in --crosswalk; the map's classes are " + ", ".join(legend.name(code) for code in codes),
        )
    if len(common) >= _CODES:
        raise DataError(f"the map and `{reference}` have {len(common)} classes", hint="join some with --crosswalk")
    place = {key: index for index, key in enumerate(common)}
    matrix = np.zeros((len(common), len(common)), np.int64)
    lost = 0
    for (code, value), count in pairs.items():
        row, column = place.get(name_key(real[value])), place.get(name_key(targets[code]))
        if row is None or column is None:
            lost += count
        else:
            matrix[row, column] += count
    own = {name_key(target): code for code, target in reversed(targets.items()) if 0 <= code < IGNORE}
    free = iter([code for code in range(IGNORE) if code not in own.values()])
    classes = tuple(
        LandCoverClass(code=own[key] if key in own else next(free), name=name, color=color)
        for key, (name, color) in common.items()
    )
    both = tuple({value: place.get(name_key(name)) for value, name in side.items()} for side in (targets, real))
    return classes, matrix, lost, (both[0], both[1])
