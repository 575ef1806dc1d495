"""Decide on the numbers of points, and draw them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.maps.strips import ClassRaster
from cwsam_cli.sample.request import SampleRequest
from cwsam_cli.survey.allocation import allocate, deviations_of, points_for_areas, points_for_overall, shares
from cwsam_cli.survey.population import Counts, Floats, Population, Strata, find_units
from cwsam_cli.survey.samplefile import REFERENCE, SHARES, centers

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


def first_allocation(request: SampleRequest, units: Counts, expected: Expectation | None) -> Counts:
    """Return the number of points of each stratum, (H,), from its units, (H,).

    Raises:
        UsageError: the points are too few for the smallest number per stratum.
        DataError: the map has fewer pixels than that.
    """
    accuracies = expected.accuracies if expected else np.full(len(units), 0.5)
    parts = shares(request.allocation or "proportional", units, deviations_of(accuracies))
    least_points = request.min_per_class or 10
    kind = "pixels" if request.unit is None else f"blocks of {request.unit} pixels"
    least = np.minimum(least_points, units)
    total = request.points
    if total is None:
        if request.target_se is not None:
            wanted = points_for_overall(request.target_se, units, parts, accuracies)
        else:
            assert request.target_area_se is not None
            wanted = points_for_areas(request.target_area_se, units, parts, accuracies)
        return np.minimum(np.maximum(np.ceil(wanted * parts - 1e-9).astype(np.int64), least), units)
    if total > units.sum():
        raise DataError(
            f"`{request.map_path}` has {int(units.sum()):,} {kind}, fewer than {total:,}", hint="draw fewer points"
        )
    if total < least.sum():
        raise UsageError(
            f"{total:,} points are too few for {least_points} in each of {len(units)} strata",
            hint=f"-n {int(least.sum())}, or a smaller --min-per-class",
        )
    return allocate(total, parts, least, units)


def further_allocation(more: int, units: Counts, drawn: Counts, right: Floats, interpreted: Counts) -> Counts:
    """Return how many points each stratum gets on top of those that it has, (H,), by Neyman's rule.

    Args:
        more: number of further points.
        units: units of each stratum, (H,).
        drawn: points of each stratum so far, (H,).
        right: correct points of each stratum so far, (H,). A block that is correct in part counts as its share.
        interpreted: interpreted points of each stratum so far, (H,).
    """
    # One more correct and one more wrong point: a stratum without an error so far still gets points.
    accuracies = (right + 1) / (interpreted + 2)
    parts = shares("neyman", units, deviations_of(accuracies))
    return np.asarray(allocate(int(drawn.sum()) + more, parts, drawn, units) - drawn)


def draw(
    source: ClassRaster,
    strata: Strata,
    population: Population,
    points: Counts,
    *,
    seed: tuple[int, int],
    taken: "GeoDataFrame | None" = None,
) -> "GeoDataFrame":
    """Draw units at random within each stratum, in an order that does not tell the stratum.

    Args:
        source: the map.
        strata: its strata.
        population: their units.
        points: number of units to draw from each stratum, (H,).
        seed: seed of the sample, and number of the draw.
        taken: units that were drawn before; they are not drawn again.

    Returns:
        Fields `id`, `stratum`, `map`, `pixel_m2` and `reference`. The geometry is the centre of a pixel, or the outline
        of a block. Blocks also have `reference_shares`.
    """
    import geopandas
    import pandas

    rng = np.random.default_rng(seed)
    before = _pixels(population, taken)
    earlier = np.zeros(len(points), np.int64)
    if taken is not None:
        earlier += np.bincount(taken["stratum"].to_numpy() - 1, minlength=len(points))
    # Units that were taken before may come again, so as many more are drawn and the surplus is left out.
    wanted = {
        stratum: rng.choice(int(size), int(count + old), replace=False)
        for stratum, (size, count, old) in enumerate(zip(population.units, points, earlier, strict=True))
        if count
    }
    parts = []
    for stratum, own in find_units(source, strata, population, wanted).items():
        pairs = zip(own.rows.tolist(), own.columns.tolist(), strict=True)
        kept = np.array([i for i, pixel in enumerate(pairs) if pixel not in before][: points[stratum]], np.int64)
        fields = (np.full(len(own.rows), stratum + 1), own.rows, own.columns, own.codes, own.pixels)
        parts.append(np.stack(fields, axis=1)[kept])
    numbers = rng.permutation(np.concatenate(parts))
    stratum, rows, columns, codes, pixels = numbers.T
    first = 1 if taken is None else int(taken["id"].max()) + 1
    table = {
        "id": np.arange(first, first + len(numbers)),
        "stratum": stratum,
        "map": codes,
        "pixel_m2": _sizes(population, rows, columns) * pixels,
        REFERENCE: pandas.array([None] * len(numbers), dtype="Int64"),
    }
    if population.side > 1:
        table[REFERENCE + SHARES] = pandas.array([None] * len(numbers), dtype="string")
    return geopandas.GeoDataFrame(table, geometry=_shapes(population, rows, columns), crs=population.grid.crs)


def _shapes(population: Population, rows: Any, columns: Any) -> Any:
    """Return the centres of pixels, or the outlines of blocks."""
    grid, side = population.grid, population.side
    if side == 1:
        return shapely.points(*(grid.transform @ (columns + 0.5, rows + 0.5)))
    right: Any = np.minimum(columns + side, grid.width)
    low: Any = np.minimum(rows + side, grid.height)
    corners = ((columns, rows), (columns, low), (right, low), (right, rows), (columns, rows))
    return shapely.polygons(np.stack([np.stack(grid.transform @ corner, axis=-1) for corner in corners], axis=1))


def _pixels(population: Population, frame: "GeoDataFrame | None") -> Pixels:
    """Return the first row and column of each unit."""
    if frame is None:
        return set()
    x, y = centers(frame)
    columns, rows = (np.floor(part).astype(int) // population.side for part in ~population.grid.transform @ (x, y))
    return set(zip((rows * population.side).tolist(), (columns * population.side).tolist(), strict=True))


def _sizes(population: Population, rows: Counts, columns: Counts) -> NDArray[np.float64]:
    """Return the size of the unit's first pixel in m²; without a CRS 1 for blocks, which may have fewer pixels."""
    grid = population.grid
    if grid.crs is None:
        return np.full(len(rows), np.nan if population.side == 1 else 1.0)
    if grid.pixel_area_m2:
        return np.full(len(rows), grid.pixel_area_m2)
    areas = [grid.pixel_areas(row, 1)[0] for row in rows.tolist()]
    return np.array([row[min(column, len(row) - 1)] for row, column in zip(areas, columns.tolist(), strict=True)])
