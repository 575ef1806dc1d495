"""Accuracy and areas of a map from an interpreted sample: the command `eval --sample`."""

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.maps.legend import Legend
from cwsam_cli.maps.strips import ClassRaster, open_classes
from cwsam_cli.survey.design import Design, MapClass, Stratum, describe_outside
from cwsam_cli.survey.estimators import Estimate, Units, estimate
from cwsam_cli.survey.population import classes_as_strata, count_population, hash_of
from cwsam_cli.survey.results import ClassEstimates, InterpreterAgreement, SampleAssessment
from cwsam_cli.survey.samplefile import NO_REFERENCE, REFERENCE, Sample, read_sample
from cwsam_cli.verify.lookup import look_up

Codes = NDArray[np.int64]

FEW = 2
"""Fewest points of a class from which its error can be estimated."""
RELIABLE = 10
"""Fewest points of a class with reliable intervals. With 2 points, user's accuracy is covered in 57 % of samples."""


def assess_sample(
    path: Path, map_path: Path | None, *, assume_random: bool = False, band: int | None = None
) -> SampleAssessment:
    """Estimate accuracies and areas from an interpreted sample.

    Args:
        path: the sample, a GeoPackage or a CSV beside one.
        map_path: the map to assess; None takes the one that the sample was drawn from.
        assume_random: treat points without a design as drawn at random from all pixels of the map.
        band: the map's band, counted from 1; None if there is only one.

    Raises:
        DataError: the sample has no design or too few interpreted points, or the map has no class at a point.
        UsageError: `assume_random` is given and the sample has a design, or there is no map.
    """
    sample = read_sample(path)
    notes: list[str] = []
    is_own_map = True
    if sample.design is not None and assume_random:
        raise UsageError(f"`{path}` has a design", hint="leave out --assume-random")
    if sample.design is None:
        design, mapped, sizes = _without_design(sample, map_path, assume_random=assume_random, band=band)
        strata = np.zeros(len(mapped), np.int64)
        method = "simple random sample (assumed)"
        notes.append("The points have no design. They count as drawn at random from all pixels.")
    else:
        design, strata = sample.design, sample.frame["stratum"].to_numpy().astype(np.int64) - 1
        has_sizes = design.areas_m2 is not None or design.block_pixels > 1
        sizes = sample.frame["pixel_m2"].to_numpy(np.float64) if has_sizes else None
        mapped = sample.frame["map"].to_numpy().astype(np.int64)
        if map_path is not None:
            design, mapped, is_own_map = _on_map(sample, design, mapped, map_path, band)
        method = "stratified, strata are map classes (Olofsson et al. 2014)"
        if not is_own_map:
            notes.append(
                f"`{map_path}` is not the map that the sample was drawn from (`{design.map}`)."
                " The estimates use the sample's own strata."
            )
        if not is_own_map or design.strata_from:
            method = "stratified, strata are not map classes (Stehman 2014)"
    if not is_own_map or any(stratum.code is None for stratum in design.strata):
        notes.append("Strata are not the map's classes, so the mapped areas are estimates from the points, too.")
    if design.block_pixels > 1:
        side = design.block_pixels
        method += f", blocks of {side} × {side} pixels"
        notes.append(
            "Accuracies are those of blocks: a block has the class of most of its pixels in the map."
            " Areas are those of the ground."
        )
    if design.outside_pixels:
        notes.append(describe_outside(design.outside_pixels, int(design.pixels.sum())))
    shares = sample.shares(REFERENCE, design.classes)
    known: NDArray[np.bool_] = shares.sum(axis=1) > 0
    if not known.all():
        notes.append(
            f"{int((~known).sum()):,} of {len(known):,} points have no reference yet."
            " The estimates count them as if they had been left out at random."
        )
    _refuse_empty_strata(sample, design, strata[known])
    return _assess(
        sample,
        design,
        strata[known],
        mapped[known],
        shares[known],
        sizes if sizes is None else sizes[known],
        map_name=str(map_path or design.map),
        method=method,
        notes=notes,
    )


def _assess(
    sample: Sample,
    design: Design,
    strata: Codes,
    mapped: Codes,
    shares: NDArray[np.float64],
    sizes: NDArray[np.float64] | None,
    *,
    map_name: str,
    method: str,
    notes: Sequence[str],
) -> SampleAssessment:
    listed = np.array([entry.code for entry in design.classes], np.int64)
    present = listed[shares.any(axis=0)]
    codes = np.unique(np.concatenate([mapped, present, [s.code for s in design.strata if s.code is not None]]))
    codes, areas = codes.astype(np.int64), design.areas_m2
    by_code = np.zeros((len(mapped), len(codes)))
    by_code[:, np.searchsorted(codes, present)] = shares[:, shares.any(axis=0)]
    units = Units(
        strata=strata,
        mapped=np.searchsorted(codes, mapped),
        shares=by_code,
        sizes=np.ones(len(mapped)) if sizes is None else sizes,
        units=design.units,
        areas=design.pixels.astype(np.float64) if areas is None else areas,
    )
    found = estimate(units)
    total_ha = None if areas is None else float(areas.sum()) / 10_000
    legend = {entry.code: entry for entry in design.classes}
    in_map = np.bincount(units.mapped, minlength=len(codes))
    in_reference = (units.shares > 0).sum(axis=0)
    classes = []
    for k, code in enumerate(codes.tolist()):
        few_mapped, few_real = in_map[k] < FEW, in_reference[k] < FEW
        share = _without_error(found.proportions[k]) if few_real else found.proportions[k]
        classes.append(
            ClassEstimates(
                code=code,
                name=legend[code].name if code in legend else f"class {code}",
                color=legend[code].color if code in legend else "#808080",
                points_in_map=int(in_map[k]),
                points_in_reference=int(in_reference[k]),
                mapped_share=float(found.matrix[k].sum()),
                mapped_ha=None if total_ha is None else float(found.matrix[k].sum()) * total_ha,
                share=share,
                area_ha=None if total_ha is None else share.times(total_ha),
                users=_alone(found.users[k]) if few_mapped else found.users[k],
                producers=_alone(found.producers[k]) if few_real else found.producers[k],
                note=_note(int(in_map[k]), int(in_reference[k])),
            )
        )
    points = np.bincount(strata, minlength=len(design.strata)).tolist()
    single = [s.name for s, n in zip(design.strata, points, strict=True) if n == 1 and s.units > 1]
    if single:
        notes = [*notes, f"Only one point of the stratum {', '.join(single)} is interpreted, so errors are unknown."]
    return SampleAssessment(
        sample=str(sample.path),
        map=map_name,
        design=design,
        method=method,
        points=len(sample.frame),
        interpreted=len(mapped),
        interpreted_by_stratum=tuple(points),
        overall=found.overall,
        classes=tuple(classes),
        matrix=tuple(map(tuple, found.matrix.tolist())),
        agreements=tuple(_agreements(sample, design.classes)),
        notes=tuple(notes),
    )


def _without_error(entry: Estimate) -> Estimate:
    return Estimate(entry.value, None, entry.low, entry.high)


def _alone(entry: Estimate | None) -> Estimate | None:
    return None if entry is None else Estimate(entry.value, None, None, None)


def _note(in_map: int, in_reference: int) -> str:
    counts = [(in_map, "map"), (in_reference, "reference")]
    sides = [
        f"{count or 'no'} {'point' if count == 1 else 'points'} in the {side}" for count, side in counts if count < FEW
    ]
    if sides:
        return f"too few to know the error: {' and '.join(sides)}"
    sides = [f"{count} points in the {side}" for count, side in counts if count < RELIABLE]
    return f"intervals are unreliable: {' and '.join(sides)}" if sides else ""


def _without_design(
    sample: Sample, map_path: Path | None, *, assume_random: bool, band: int | None
) -> tuple[Design, Codes, NDArray[np.float64] | None]:
    """Make one stratum of the whole map."""
    if not assume_random:
        raise DataError(
            f"`{sample.path}` has no design, so it is not known how its points were drawn",
            hint="use the file that `cwsam sample` wrote; --assume-random if all pixels had the same chance",
        )
    if map_path is None:
        raise UsageError("--assume-random needs the map", hint="add --map map.tif")
    with open_classes(map_path, band) as source:
        population = count_population(source, classes_as_strata)
        classes = _classes(source, population.values.tolist())
        mapped, sizes = look_up(sample, source)
    area = None if population.areas_m2 is None else float(population.areas_m2.sum())
    pixels = int(population.pixels.sum())
    whole = Stratum(number=1, name="whole map", code=None, pixels=pixels, area_m2=area, points=len(mapped))
    design = Design(
        map=map_path.name,
        map_sha256=population.sha256,
        classes=classes,
        strata_from="",
        strata=(whole,),
        allocation="",
        seed=0,
    )
    return design, mapped, sizes


def _on_map(
    sample: Sample, design: Design, mapped: Codes, map_path: Path, band: int | None
) -> tuple[Design, Codes, bool]:
    """Return the map's classes at the points, and whether the sample was drawn from this map."""
    with open_classes(map_path, band) as source:
        if hash_of(source) == design.map_sha256:
            return design, mapped, True
        looked_up, _ = look_up(sample, source)
        others = _classes(source, np.unique(looked_up).tolist())
    own = {entry.code: entry for entry in design.classes}
    for entry in others:
        known = own.setdefault(entry.code, entry)
        if known.name != entry.name:
            raise DataError(
                f"code {entry.code} is `{entry.name}` in `{map_path}`, but `{known.name}` in the sample",
                hint="give both maps the same class table",
            )
    classes = tuple(own[code] for code in sorted(own))
    return dataclasses.replace(design, classes=classes), looked_up, False


def _classes(source: ClassRaster, present: Sequence[int]) -> tuple[MapClass, ...]:
    legend = Legend.read(source.dataset, source.band)
    codes = sorted(set(legend.names) | set(present))
    return tuple(MapClass(code=code, name=legend.name(code), color=legend.color(code)) for code in codes)


def _refuse_empty_strata(sample: Sample, design: Design, strata: Codes) -> None:
    found = np.bincount(strata, minlength=len(design.strata))
    empty = [stratum.name for stratum, count in zip(design.strata, found.tolist(), strict=True) if not count]
    if empty:
        raise DataError(
            f"`{sample.path}` has no interpreted point in the stratum `{empty[0]}`"
            + (f" and {len(empty) - 1} others" if len(empty) > 1 else ""),
            hint=f"fill in `{REFERENCE}` of at least two points per stratum; if you filled in the CSV, give the CSV",
        )


def _agreements(sample: Sample, classes: tuple[MapClass, ...]) -> list[InterpreterAgreement]:
    references = {name: sample.references(name, classes) for name in sample.interpreters}
    result = []
    for first, second in combinations(references, 2):
        both = (references[first] != NO_REFERENCE) & (references[second] != NO_REFERENCE)
        one, other = references[first][both], references[second][both]
        if not len(one):
            continue
        same = float((one == other).mean())
        chance = float(sum((one == code).mean() * (other == code).mean() for code in np.unique(one)))
        kappa = (same - chance) / (1 - chance) if chance < 1 else None
        result.append(InterpreterAgreement(first=first, second=second, points=len(one), agreement=same, kappa=kappa))
    return result
