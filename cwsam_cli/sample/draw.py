"""Decide on the numbers of points, and draw them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.maps.strips import ClassRaster
from cwsam_cli.sample.request import SampleRequest
from cwsam_cli.survey.allocation import allocate, deviations_of, points_for_areas, points_for_overall, shares
from cwsam_cli.survey.population import Counts, Population, Strata, find_pixels
from cwsam_cli.survey.samplefile import REFERENCE

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

Pixels = set[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected of each stratum before points are interpreted."""

    accuracies: NDArray[np.float64]
    """Share of correct pixels, (H,)."""

    @classmethod
    def of(cls, request: SampleRequest, names: list[str], codes: list[int]) -> "Expectation | None":
        """Read `--expected-ua`; None without it.

        Raises:
            UsageError: a class is not known, or has no expected accuracy.
        """
        if request.expected_ua is None:
            return None
        expected = dict(request.expected)
        other = expected.pop("", None)
        values = []
        for name, code in zip(names, codes, strict=True):
            value = expected.pop(name, expected.pop(str(code), other))
            if value is None:
                raise UsageError(
                    f"--expected-ua has no value for `{name}`",
                    hint=f"add one for all others: {request.expected_ua},0.8",
                )
            values.append(value)
        if expected:
            raise UsageError(
                f"--expected-ua names `{min(expected)}`, which is not a stratum", hint="strata are: " + ", ".join(names)
            )
        return cls(np.array(values))


def first_allocation(request: SampleRequest, pixels: Counts, expected: Expectation | None) -> Counts:
    """Return the number of points of each stratum, (H,).

    Raises:
        UsageError: the points are too few for the smallest number per stratum.
        DataError: the map has fewer pixels than that.
    """
    accuracies = expected.accuracies if expected else np.full(len(pixels), 0.5)
    parts = shares(request.allocation, pixels, deviations_of(accuracies))
    least = np.minimum(request.min_per_class, pixels)
    total = request.points
    if total is None:
        if request.target_se is not None:
            wanted = points_for_overall(request.target_se, pixels, parts, accuracies)
        else:
            assert request.target_area_se is not None
            wanted = points_for_areas(request.target_area_se, pixels, parts, accuracies)
        return np.minimum(np.maximum(np.ceil(wanted * parts - 1e-9).astype(np.int64), least), pixels)
    if total > pixels.sum():
        raise DataError(
            f"`{request.map_path}` has {int(pixels.sum()):,} pixels, fewer than {total:,}", hint="draw fewer points"
        )
    if total < least.sum():
        raise UsageError(
            f"{total:,} points are too few for {request.min_per_class} in each of {len(pixels)} strata",
            hint=f"-n {int(least.sum())}, or a smaller --min-per-class",
        )
    return allocate(total, parts, least, pixels)


def further_allocation(more: int, pixels: Counts, drawn: Counts, right: Counts, interpreted: Counts) -> Counts:
    """Return how many points each stratum gets on top of those that it has, (H,), by Neyman's rule.

    Args:
        more: number of further points.
        pixels: pixels of each stratum, (H,).
        drawn: points of each stratum so far, (H,).
        right: correct points of each stratum so far, (H,).
        interpreted: interpreted points of each stratum so far, (H,).
    """
    # One more correct and one more wrong point: a stratum without an error so far still gets points.
    accuracies = (right + 1) / (interpreted + 2)
    parts = shares("neyman", pixels, deviations_of(accuracies))
    return np.asarray(allocate(int(drawn.sum()) + more, parts, drawn, pixels) - drawn)


def draw(
    source: ClassRaster,
    strata: Strata,
    population: Population,
    points: Counts,
    *,
    seed: tuple[int, int],
    taken: "GeoDataFrame | None" = None,
) -> "GeoDataFrame":
    """Draw pixels at random within each stratum, in an order that does not tell the stratum.

    Args:
        source: the map.
        strata: its strata.
        population: their pixels.
        points: number of points of each stratum, (H,).
        seed: seed of the sample, and number of the draw.
        taken: points that were drawn before; their pixels are not drawn again.

    Returns:
        Fields `id`, `stratum`, `map`, `pixel_m2` and `reference`.
    """
    import geopandas
    import pandas

    rng = np.random.default_rng(seed)
    before = _pixels(population, taken)
    earlier = np.zeros(len(points), np.int64)
    if taken is not None:
        earlier += np.bincount(taken["stratum"].to_numpy() - 1, minlength=len(points))
    # Pixels that were taken before may come again, so as many more are drawn and the surplus is left out.
    wanted = {
        stratum: rng.choice(int(size), int(count + old), replace=False)
        for stratum, (size, count, old) in enumerate(zip(population.pixels, points, earlier, strict=True))
        if count
    }
    found = find_pixels(source, strata, population, wanted)
    parts = []
    for stratum, (rows, columns, codes) in found.items():
        free = [i for i, pixel in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)) if pixel not in before]
        kept = np.array(free[: points[stratum]], np.int64)
        parts.append(np.stack([np.full(len(kept), stratum + 1), rows[kept], columns[kept], codes[kept]], axis=1))
    numbers = rng.permutation(np.concatenate(parts))
    stratum, rows, columns, codes = numbers.T
    x, y = population.grid.transform @ (columns + 0.5, rows + 0.5)
    first = 1 if taken is None else int(taken["id"].max()) + 1
    table = {
        "id": np.arange(first, first + len(numbers)),
        "stratum": stratum,
        "map": codes,
        "pixel_m2": _sizes(population, rows, columns),
        REFERENCE: pandas.array([None] * len(numbers), dtype="Int64"),
    }
    return geopandas.GeoDataFrame(table, geometry=geopandas.points_from_xy(x, y), crs=population.grid.crs)


def _pixels(population: Population, frame: "GeoDataFrame | None") -> Pixels:
    if frame is None:
        return set()
    columns, rows = ~population.grid.transform @ (frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy())
    return set(zip(np.floor(rows).astype(int).tolist(), np.floor(columns).astype(int).tolist(), strict=True))


def _sizes(population: Population, rows: Counts, columns: Counts) -> NDArray[np.float64]:
    grid = population.grid
    if grid.crs is None:
        return np.full(len(rows), np.nan)
    if grid.pixel_area_m2:
        return np.full(len(rows), grid.pixel_area_m2)
    areas = [grid.pixel_areas(row, 1)[0] for row in rows.tolist()]
    return np.array([row[min(column, len(row) - 1)] for row, column in zip(areas, columns.tolist(), strict=True)])
