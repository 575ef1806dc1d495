"""A map → a sample of its pixels: request → design and points → file."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cwsam_cli.console import log, padded, text_width
from cwsam_cli.errors import DataError
from cwsam_cli.files import reserved
from cwsam_cli.maps.legend import Legend
from cwsam_cli.maps.strips import ClassRaster, open_classes
from cwsam_cli.sample.chips import write_chips
from cwsam_cli.sample.draw import Expectation, draw, first_allocation, further_allocation
from cwsam_cli.sample.request import SampleRequest
from cwsam_cli.sample.strata import StrataSource, open_strata
from cwsam_cli.survey.allocation import overall_error
from cwsam_cli.survey.design import Design, MapClass, Stratum, describe_outside
from cwsam_cli.survey.population import Counts, Floats, Population, count_population
from cwsam_cli.survey.samplefile import NO_REFERENCE, REFERENCE, Sample, read_sample, write_sample

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


@dataclass(frozen=True, slots=True)
class SampleResult:
    """A sample that was drawn."""

    path: Path
    points: int
    added: int
    """Points that this command drew."""
    expected_se: float | None
    """Standard error of the overall accuracy to expect; None without expected accuracies."""
    strata: tuple[Stratum, ...]


def draw_sample(request: SampleRequest) -> SampleResult:
    """Draw a stratified random sample of a map's pixels, or add points to one.

    Raises:
        DataError: the map has no pixel, a stratum is too small, or the sample to continue is of another map.
        UsageError: the points are too few, or an expected accuracy is missing.
        MachineError: another process is writing the output.
    """
    with reserved(request.output), open_classes(request.map_path, request.band) as source:  # until it is written
        legend = Legend.read(source.dataset, source.band)
        with open_strata(request.strata, request.strata_field, source, legend) as strata:
            sample = None if request.more is None else _interpreted(request.output)
            population = count_population(source, strata.read, _side(request, sample))
            if not len(population.values):
                raise DataError(
                    f"`{request.map_path}` has no pixel in any stratum",
                    hint="check its nodata value"
                    if request.strata is None
                    else f"check that `{request.strata}` covers the map",
                )
            if population.outside:
                log.warning("%s", describe_outside(population.outside, int(population.pixels.sum())))
            if sample is None:
                frame, design, expected = _begin(request, source, strata, population, legend)
                added = len(frame)
            else:
                frame, design, expected = _continue(request, sample, source, strata, population, legend)
                added = len(frame) - len(sample.frame)
        weights = design.units / np.maximum(design.points, 1)
        frame["weight"] = weights[frame["stratum"].to_numpy() - 1]
        order = ["id", "stratum", "weight", "map", "pixel_m2"]
        frame = frame[order + [name for name in frame.columns if name not in order]]
        if request.chips is not None and request.image is not None:
            write_chips(request.image, frame.iloc[-added:], request.chips)
        write_sample(request.output, frame, design, overwrite=request.overwrite or request.more is not None)
    return SampleResult(request.output, len(frame), added, expected, design.strata)


def _begin(
    request: SampleRequest, source: ClassRaster, strata: StrataSource, population: Population, legend: Legend
) -> tuple["GeoDataFrame", Design, float | None]:
    names = [strata.name(value) for value in population.values.tolist()]
    expected = Expectation.of(request, names, population.values.tolist())
    points = first_allocation(request, population.units, expected)
    seed = request.seed or 0
    frame = draw(source, strata.read, population, points, seed=(seed, 1))
    codes = set(legend.names) | set(frame["map"].tolist())
    if request.strata is None:
        codes |= set(population.values.tolist())
    design = Design(
        map=request.map_path.name,
        map_sha256=population.sha256,
        classes=_classes(legend, codes),
        strata_from=request.strata.name if request.strata else "",
        strata=_strata(population, names, points, are_classes=request.strata is None),
        allocation=request.allocation or "proportional",
        seed=seed,
        command=request.command,
        block_pixels=population.side,
        outside_pixels=population.outside,
    )
    error = overall_error(points, population.units, expected.accuracies) if expected and points.all() else None
    return frame, design, error


def _side(request: SampleRequest, sample: Sample | None) -> int:
    """Return the side of the units in pixels: as requested, or as in the sample to continue."""
    if sample is None:
        return request.block_pixels
    return 1 if sample.design is None else sample.design.block_pixels


def _continue(
    request: SampleRequest,
    sample: Sample,
    source: ClassRaster,
    strata: StrataSource,
    population: Population,
    legend: Legend,
) -> tuple["GeoDataFrame", Design, float | None]:
    import pandas

    design = sample.design
    if design is None:
        raise DataError(f"`{request.output}` has no design, so it cannot be continued", hint="draw one with -n")
    if population.sha256 != design.map_sha256:
        raise DataError(
            f"`{request.output}` was drawn from `{design.map}`, and `{request.map_path}` has other pixels",
            hint="give the map that the sample was drawn from",
        )
    if population.pixels.tolist() != design.pixels.tolist():
        named = f"--strata {design.strata_from}" if design.strata_from else "no --strata"
        raise DataError(f"the strata of `{request.output}` are others", hint=f"the sample was drawn with {named}")
    assert request.more is not None
    left = int((design.units - design.points).sum())
    if request.more > left:
        raise DataError(f"only {left:,} pixels or blocks are left to draw", hint="draw fewer points")
    right, interpreted = _found(sample, design)
    points = further_allocation(request.more, design.units, design.points, right, interpreted)
    if not interpreted.any():
        log.warning("no point of `%s` is interpreted yet: the allocation knows no accuracies", request.output)
    frame = draw(source, strata.read, population, points, seed=(design.seed, design.rounds + 1), taken=sample.frame)
    whole = pandas.concat([sample.frame, frame], ignore_index=True)
    for field in sample.interpreters:
        codes = dataclasses.replace(sample, frame=whole).references(field, design.classes)
        whole[field] = pandas.array(codes, dtype="Int64")
        whole.loc[codes == NO_REFERENCE, field] = pandas.NA
    grown = tuple(
        dataclasses.replace(stratum, points=stratum.points + int(count))
        for stratum, count in zip(design.strata, points, strict=True)
    )
    # Without a legend, only points tell the classes. New points may have further ones.
    known = {entry.code for entry in design.classes}
    classes = (*design.classes, *_classes(legend, set(frame["map"].tolist()) - known))
    ordered = tuple(sorted(classes, key=lambda entry: entry.code))
    return whole, dataclasses.replace(design, strata=grown, classes=ordered, rounds=design.rounds + 1), None


def _classes(legend: Legend, codes: set[int]) -> tuple[MapClass, ...]:
    return tuple(MapClass(code=code, name=legend.name(code), color=legend.color(code)) for code in sorted(codes))


def _interpreted(path: Path) -> Sample:
    """Read a sample with what was filled in, in the GeoPackage or in the CSV beside it.

    Raises:
        DataError: a field of references was filled in in both, and the values differ.
    """
    package, table = read_sample(path), path.with_suffix(".csv")
    if not table.exists() or package.design is None:
        return package
    filled = read_sample(table)
    frame, classes = package.frame.copy(), package.design.classes
    filled = dataclasses.replace(filled, frame=filled.frame.set_index("id").loc[frame["id"]].reset_index())
    for field in filled.frame.columns:
        own, other = (_answers(sample, field, classes) for sample in (package, filled))
        if not any(other):
            continue
        if not any(own):
            frame[field] = filled.frame[field].to_numpy()
        elif own != other and field in filled.answers:
            raise DataError(
                f"`{path}` and `{table}` have different values of `{field}`",
                hint="move the one that you do not want away",
            )
    return dataclasses.replace(package, frame=frame)


def _answers(sample: Sample, field: str, classes: tuple[MapClass, ...]) -> list[str]:
    """Return the values of a field, (N,): classes as codes, empty where there is none."""
    if field not in sample.interpreters:
        return sample.texts(field)
    codes = sample.references(field, classes).tolist()
    return ["" if code == NO_REFERENCE else str(code) for code in codes]


def _found(sample: Sample, design: Design) -> tuple[Floats, Counts]:
    """Return the correct and the interpreted units of each stratum, (H,). A block can be correct in part."""
    shares, strata = sample.shares(REFERENCE, design.classes), sample.frame["stratum"].to_numpy() - 1
    codes = np.array([entry.code for entry in design.classes])
    right = (shares * (codes == sample.frame["map"].to_numpy()[:, None])).sum(axis=1)
    known, count = shares.any(axis=1), len(design.strata)
    return np.bincount(strata, right, count).astype(np.float64), np.bincount(strata[known], minlength=count)


def _strata(population: Population, names: list[str], points: Counts, *, are_classes: bool) -> tuple[Stratum, ...]:
    areas: list[Any] = [None] * len(names) if population.areas_m2 is None else population.areas_m2.tolist()
    return tuple(
        Stratum(
            number=number,
            name=name,
            code=value if are_classes else None,
            pixels=pixels,
            area_m2=area,
            points=count,
            blocks=None if population.side == 1 else units,
        )
        for number, (name, value, pixels, units, area, count) in enumerate(
            zip(
                names,
                population.values.tolist(),
                population.pixels.tolist(),
                population.units.tolist(),
                areas,
                points.tolist(),
                strict=True,
            ),
            1,
        )
    )


def format_result(result: SampleResult) -> str:
    """Return a table of the strata, and lines about the files."""
    wide = max(len("stratum"), *(text_width(stratum.name) for stratum in result.strata))
    has_blocks = any(entry.blocks is not None for entry in result.strata)
    unit, drawn = ("blocks", "drawn") if has_blocks else ("pixels", "points")
    lines = [f"{'stratum':<{wide}}  {unit:>15}  {drawn:>7}"]
    lines += [f"{padded(entry.name, wide)}  {entry.units:>15,}  {entry.points:>7,}" for entry in result.strata]
    if result.expected_se is not None:
        lines.append(f"expected standard error of the overall accuracy: {result.expected_se:.4f}")
    grown = f", {result.added:,} of them new" if result.added < result.points else ""
    wanted = f"{result.points:,} {'blocks' if has_blocks else 'points'} to interpret{grown}"
    lines.append(f"{result.path}: {wanted}; the same in {result.path.stem}.csv")
    return "\n".join(lines)
