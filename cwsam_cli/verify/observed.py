"""Bring an interpreted sample and a map together: strata, the map's classes at the units, and the reference."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.maps.legend import Legend
from cwsam_cli.maps.strips import ClassRaster, open_classes
from cwsam_cli.survey.design import Design, MapClass, Stratum, describe_outside
from cwsam_cli.survey.estimators import Units
from cwsam_cli.survey.population import classes_as_strata, count_population, hash_of
from cwsam_cli.survey.samplefile import REFERENCE, Sample
from cwsam_cli.verify.lookup import look_up

Codes = NDArray[np.int64]


def describe_gaps(design: Design, known: NDArray[np.bool_]) -> list[str]:
    """Say in sentences what ground and which units the estimates do not know.

    Args:
        design: how the units were drawn.
        known: whether each unit is interpreted, (N,).
    """
    notes = []
    if design.outside_pixels:
        notes.append(describe_outside(design.outside_pixels, int(design.pixels.sum())))
    if not known.all():
        notes.append(
            f"{int((~known).sum()):,} of {len(known):,} points have no reference yet."
            " The estimates count them as if they had been left out at random."
        )
    return notes


def sizes_of(sample: Sample, design: Design) -> NDArray[np.float64] | None:
    """Return the ground of each unit, (N,), in the unit of the strata's areas; None if all have one size."""
    has_sizes = design.areas_m2 is not None or design.block_pixels > 1
    return sample.frame["pixel_m2"].to_numpy(np.float64) if has_sizes else None


def as_units(
    design: Design,
    strata: Codes,
    shares: NDArray[np.float64],
    sizes: NDArray[np.float64] | None,
    *maps: tuple[Codes, bool],
) -> tuple[Codes, tuple[Units, ...]]:
    """Describe interpreted units for the estimators.

    Args:
        design: how they were drawn.
        strata: the stratum of each unit, (N,), from 0.
        shares: share of each class of the design in the reference, (N, classes).
        sizes: see `sizes_of`.
        maps: for each map, the code of each unit, (N,), and whether the sample was drawn from this map.

    Returns:
        The codes that occur, (K,), and the units once per map.
    """
    listed = np.array([entry.code for entry in design.classes], np.int64)
    occurs = shares.any(axis=0)
    own = [stratum.code for stratum in design.strata if stratum.code is not None]
    codes = np.unique(np.concatenate([*(mapped for mapped, _ in maps), listed[occurs], own])).astype(np.int64)
    by_code = np.zeros((len(strata), len(codes)))
    by_code[:, np.searchsorted(codes, listed[occurs])] = shares[:, occurs]
    areas = design.areas_m2
    return codes, tuple(
        Units(
            strata=strata,
            mapped=np.searchsorted(codes, mapped),
            shares=by_code,
            sizes=np.ones(len(strata)) if sizes is None else sizes,
            units=design.units,
            areas=design.pixels.astype(np.float64) if areas is None else areas,
            has_class_strata=is_own_map and design.has_class_strata,
        )
        for mapped, is_own_map in maps
    )


def without_design(
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


def on_map(
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


def refuse_empty_strata(sample: Sample, design: Design, strata: Codes) -> None:
    """Raise an error if a stratum has no interpreted unit.

    Args:
        sample: the sample.
        design: its strata.
        strata: the stratum of each interpreted unit, (N,), from 0.

    Raises:
        DataError: there is one.
    """
    found = np.bincount(strata, minlength=len(design.strata))
    empty = [stratum.name for stratum, count in zip(design.strata, found.tolist(), strict=True) if not count]
    if empty:
        raise DataError(
            f"`{sample.path}` has no interpreted point in the stratum `{empty[0]}`"
            + (f" and {len(empty) - 1} others" if len(empty) > 1 else ""),
            hint=f"fill in `{REFERENCE}` of at least two points per stratum; if you filled in the CSV, give the CSV",
        )
