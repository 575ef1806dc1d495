"""Compare two maps on one interpreted sample: the command `eval --sample --compare`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cwsam_cli.console import padded, text_width
from cwsam_cli.errors import DataError
from cwsam_cli.files import csv_text, refuse_existing, refuse_foreign, staged, write_text
from cwsam_cli.maps.strips import open_classes
from cwsam_cli.metrics.flips import flip_signs
from cwsam_cli.survey.design import Design
from cwsam_cli.survey.differences import ENOUGH, Difference, Differences
from cwsam_cli.survey.differences import compare as compare_units
from cwsam_cli.survey.population import classes_as_strata, count_population
from cwsam_cli.survey.samplefile import REFERENCE, read_sample
from cwsam_cli.verify.observed import as_units, describe_gaps, on_map, refuse_empty_strata, sizes_of

COMPARISON = "comparison.json"
VERSION = 1
_TITLES = {"users": "user's accuracy", "producers": "producer's accuracy", "mapped_ha": "mapped area, ha"}


@dataclass(frozen=True, slots=True)
class MapComparison:
    """Two maps at the same units. Differences are the first minus the second."""

    sample: str
    first: str
    second: str
    units: int
    """Interpreted units."""
    names: tuple[str, ...]
    differences: Differences
    mapped_ha: tuple[Difference, ...]
    """Area of each class in both maps. It is counted, so it has no interval. Empty without a CRS."""
    p_value: float
    """Probability of such a difference of the overall accuracies by chance, see `flip_signs`."""
    notes: tuple[str, ...]
    """What a reader must know about ground and units that are not known."""


def compare_maps(path: Path, first: Path | None, second: Path, *, band: int | None = None) -> MapComparison:
    """Compare two maps on one sample.

    Args:
        path: the interpreted sample.
        first: a map; None takes what the sample's own map says.
        second: the other map.
        band: the band of both maps, counted from 1; None if they have only one.

    Raises:
        DataError: the sample has no design or too few interpreted units, or a map has no class at a unit.
    """
    sample = read_sample(path)
    if sample.design is None:
        raise DataError(
            f"`{path}` has no design, so it is not known how its points were drawn",
            hint="use the file that `cwsam sample` wrote",
        )
    design, maps, areas = sample.design, [], []
    for map_path in (first, second):
        mapped, is_own_map = sample.frame["map"].to_numpy().astype(np.int64), True
        if map_path is not None:
            design, mapped, is_own_map = on_map(sample, design, mapped, map_path, band)
        maps.append((mapped, is_own_map))
        areas.append(_areas(design, map_path, band))
    shares = sample.shares(REFERENCE, design.classes)
    known: np.ndarray[Any, Any] = shares.sum(axis=1) > 0
    strata, sizes = sample.frame["stratum"].to_numpy().astype(np.int64) - 1, sizes_of(sample, design)
    refuse_empty_strata(sample, design, strata[known])
    sizes = None if sizes is None else sizes[known]
    codes, (one, two) = as_units(
        design, strata[known], shares[known], sizes, *((mapped[known], is_own_map) for mapped, is_own_map in maps)
    )
    legend = {entry.code: entry.name for entry in design.classes}
    found = compare_units(one, two)
    return MapComparison(
        sample=str(path),
        first=str(first or design.map),
        second=str(second),
        units=int(known.sum()),
        names=tuple(legend.get(code, f"class {code}") for code in codes.tolist()),
        differences=found,
        mapped_ha=_area_differences(codes.tolist(), *areas),
        p_value=flip_signs(found.contributions),
        notes=tuple(describe_gaps(design, known)),
    )


def _areas(design: Design, map_path: Path | None, band: int | None) -> dict[int, float] | None:
    """Return the area of each code in a map, in ha; None without a CRS, or if only the sample knows the map."""
    if map_path is None:
        own = [(stratum.code, stratum.area_m2) for stratum in design.strata]
        known = {code: area / 10_000 for code, area in own if code is not None and area is not None}
        return known if len(known) == len(own) and design.block_pixels == 1 else None
    with open_classes(map_path, band) as source:
        population = count_population(source, classes_as_strata)
    if population.areas_m2 is None:
        return None
    return dict(zip(population.values.tolist(), (population.areas_m2 / 10_000).tolist(), strict=True))


def _area_differences(
    codes: list[int], first: dict[int, float] | None, second: dict[int, float] | None
) -> tuple[Difference, ...]:
    if first is None or second is None:
        return ()
    pairs = [(first.get(code, 0.0), second.get(code, 0.0)) for code in codes]
    return tuple(Difference(one, two, one - two, None, None, 0) for one, two in pairs)


def rows_of(result: MapComparison) -> list[dict[str, Any]]:
    """Return one row per figure, overall and by class: both values, their difference and its 95 % interval."""
    found = result.differences
    rows = [_row("", "accuracy", found.overall)]
    for figure, entries in (("users", found.users), ("producers", found.producers), ("mapped_ha", result.mapped_ha)):
        rows += [_row(name, figure, entry) for name, entry in zip(result.names, entries, strict=False)]
    return rows


def _row(name: str, figure: str, entry: Difference) -> dict[str, Any]:
    values = {"first": entry.first, "second": entry.second, "difference": entry.value}
    return (
        {"class": name, "figure": figure}
        | values
        | {"low": entry.low, "high": entry.high}
        | {"differing_points": None if figure == "mapped_ha" else entry.differing}
    )


def comparison_dict(result: MapComparison) -> dict[str, Any]:
    """Convert a comparison to plain values."""
    return {
        "version": VERSION,
        "sample": result.sample,
        "first": result.first,
        "second": result.second,
        "interpreted": result.units,
        "better_points": result.differences.better,
        "worse_points": result.differences.worse,
        "p_value": result.p_value,
        "figures": rows_of(result),
        "notes": result.notes,
    }


def comparison_table(result: MapComparison) -> str:
    """Format a comparison for the terminal."""
    rows = rows_of(result)
    wide = max(24, *map(text_width, result.names))
    lines = [f"first:  {result.first}", f"second: {result.second}", f"{result.units:,} interpreted points", ""]
    lines.append(f"{'':<{wide}}  {'first':>12} {'second':>12} {'difference':>12} {'95 % interval':>20}")
    lines.append(_line("overall accuracy", rows[0], wide))
    for figure, title in _TITLES.items():
        own = [row for row in rows if row["figure"] == figure]
        lines += ["", title, *(_line(row["class"], row, wide) for row in own)] if own else []
    better, worse = result.differences.better, result.differences.worse
    verdict = "is more than chance explains" if result.p_value < 0.05 else "may be chance"
    lines += [
        "",
        f"Only the first map is right at {better:,} points, only the second at {worse:,}. "
        f"Test of signs, weighted by the design: p = {result.p_value:.3g}. The difference {verdict}.",
        "Intervals are paired: both maps are assessed at the same points.",
        "Mapped areas are counted over each whole map, so they differ if one map covers more ground.",
        f"* Fewer than {ENOUGH} points tell the maps apart in this figure, so the interval is unreliable.",
        *(f"note: {note}" for note in result.notes),
    ]
    return "\n".join(lines)


def _line(title: str, row: dict[str, Any], wide: int) -> str:
    digits = ",.0f" if row["figure"] == "mapped_ha" else ".3f"
    values = ["-" if row[name] is None else format(row[name], digits) for name in ("first", "second")]
    difference = "-" if row["difference"] is None else format(row["difference"], "+z" + digits)
    is_doubtful = row["low"] is not None and row["differing_points"] < ENOUGH
    ends = "-" if row["low"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}" + (" *" if is_doubtful else "  ")
    return f"{padded(title, wide)}  {values[0]:>12} {values[1]:>12} {difference:>12} {ends:>22}".rstrip()


def refuse_output(folder: Path, *, overwrite: bool) -> None:
    """Raise an error if the folder of a comparison exists and must not be replaced.

    Raises:
        UsageError: the folder exists, or contains files of other programs.
    """
    refuse_existing(folder, overwrite=overwrite, marker=COMPARISON)
    refuse_foreign(folder, ("comparison",))


def write_comparison(result: MapComparison, folder: Path, *, overwrite: bool) -> None:
    """Write `comparison.json` and `comparison.csv`."""
    with staged(folder, overwrite=overwrite, marker=COMPARISON) as made:
        made.mkdir()
        rows = rows_of(result)
        write_text(made / "comparison.csv", csv_text([list(rows[0]), *(list(row.values()) for row in rows)]))
        told = json.dumps(comparison_dict(result), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(made / COMPARISON, told + "\n")
