"""Calibrate a checkpoint on validation ground, and measure the result on other ground."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.assess.evaluation import Interval, as_interval, sum_by_group
from cwsam_cli.assess.places import Places, find_places
from cwsam_cli.assess.request import CalibrationRequest, list_folders
from cwsam_cli.assess.sets import Coverage, count_own_probabilities, find_thresholds, measure_coverage
from cwsam_cli.assess.temperature import fit_temperature, sample_scores
from cwsam_cli.assess.trained import Trained, check_fit, open_split
from cwsam_cli.checkpoints.calibration import Calibration, hash_weights
from cwsam_cli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from cwsam_cli.console import padded, text_width
from cwsam_cli.dataset.samples import has_labels
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import DataError
from cwsam_cli.metrics.bootstrap import ENOUGH_BLOCKS, Arrays, bootstrap
from cwsam_cli.metrics.confusion import or_none, ratio
from cwsam_cli.metrics.reliability import calibration_error

_FIT = "val"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCoverage:
    """How often the sets of a class's pixels hold the class."""

    name: str
    threshold: float
    fitted_on: int
    """Validation pixels of the class."""
    pixels: int
    """Pixels of the class on the measured ground."""
    coverage: float | None
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A calibrated copy of a checkpoint, and what it is worth on ground that the fit has not seen."""

    path: Path
    calibration: Calibration
    split: str
    """The split on which the values below were measured."""
    blocks: int
    """Number of blocks of ground from which the intervals come."""
    error_before: float | None
    """Calibration error of the model as training left it."""
    error_after: float | None
    coverage: float | None = None
    """Share of all pixels whose set holds the true class."""
    interval: Interval = None
    mean_size: float | None = None
    """Mean number of classes in a set."""
    classes: tuple[ClassCoverage, ...] = ()
    """Nothing if there are no sets."""


def calibrate(request: CalibrationRequest) -> Calibrated | None:
    """Fit a temperature or sets of classes on validation ground and write a calibrated copy of the checkpoint.

    Returns:
        The fit, measured on the split of the request. None in processes that a launcher started, except the first.

    Raises:
        UsageError: the output exists, or is the checkpoint itself.
        CheckpointError: the checkpoint is missing, or its classes or bands differ from the dataset's.
        DataError: the dataset or a split is missing, or has no labels.
    """
    request.refuse_early()
    about = load_checkpoint(request.checkpoint)
    for split in (_FIT, request.split):
        check_fit(request.checkpoint, about, request.data, split)
        if not has_labels(open_split(about, request.data, split)):
            raise DataError(
                f"the {split} split of `{list_folders(request.data)}` has no labelled pixels", hint="tile it again"
            )
    _, places = find_places(request.data, request.split)
    fitted = launch(_fit, request, places, cluster=request.cluster)
    if fitted is None:
        return None
    temperature, counts, thresholds, covered = fitted
    calibration = Calibration(
        temperature=temperature,
        coverage=request.coverage,
        thresholds=thresholds,
        data=list_folders(request.data),
        pixels=int(counts.sum()),
        weights_sha256=hash_weights(about.weights),
    )
    save_checkpoint(replace(about, calibration=calibration), request.output)
    names = about.taxonomy.names
    return _summarize(request, calibration, names, counts, covered, [block for _, block in places.cells()[1]])


def _fit(
    world: World, request: CalibrationRequest, places: Places
) -> tuple[float, NDArray[np.int64], tuple[float, ...], Coverage]:
    """Fit and measure in one of the processes; return temperature, validation pixels by class, thresholds, counts."""
    trained = Trained.open(request.checkpoint, request.data, _FIT, world.device)
    if request.temperature:
        trained = replace(trained, temperature=fit_temperature(*sample_scores(trained, world, request.batch_size)))
    own = count_own_probabilities(trained, world, request.batch_size)
    thresholds = find_thresholds(own, request.coverage, trained.hidden_class) if request.coverage is not None else ()
    elsewhere = replace(trained, dataset=open_split(load_checkpoint(request.checkpoint), request.data, request.split))
    cells, names = places.cells()
    covered = measure_coverage(
        elsewhere, world, cells, cell_count=len(names), thresholds=thresholds, batch_size=request.batch_size
    )
    return trained.temperature, own.sum(axis=1), thresholds, covered


def _summarize(
    request: CalibrationRequest,
    calibration: Calibration,
    names: list[str],
    fitted_on: NDArray[np.int64],
    counts: Coverage,
    blocks: list[str],
) -> Calibrated:
    measured = Calibrated(
        path=request.output,
        calibration=calibration,
        split=request.split,
        blocks=len(set(blocks)),
        error_before=or_none(calibration_error(counts.bins_before)),
        error_after=or_none(calibration_error(counts.bins_after)),
    )
    if not calibration.thresholds:
        return measured
    by_block = sum_by_group(counts.covered, blocks)
    by_block = by_block[by_block.sum(axis=(1, 2)) > 0]
    ends = bootstrap({"covered": by_block}, _coverages)
    found = {name: values[0] for name, values in _coverages({"covered": by_block.sum(axis=0)[None]}).items()}
    sizes = np.arange(len(counts.sizes))
    return replace(
        measured,
        blocks=len(by_block),
        coverage=or_none(found["overall"]),
        interval=as_interval(ends["overall"]),
        mean_size=or_none(ratio((counts.sizes * sizes).sum(), counts.sizes.sum())),
        classes=tuple(
            ClassCoverage(
                name=name,
                threshold=calibration.thresholds[index],
                fitted_on=int(fitted_on[index]),
                pixels=int(by_block[:, index, 0].sum()),
                coverage=or_none(found["classes"][index]),
                interval=as_interval(ends["classes"][:, index]),
            )
            for index, name in enumerate(names)
        ),
    )


def _coverages(sums: Arrays) -> Arrays:
    """Return the share of covered pixels from counts (..., K, 2): of all (...), and by class (..., K)."""
    pixels, held = np.moveaxis(sums["covered"], -1, 0)
    return {"overall": ratio(held.sum(axis=-1), pixels.sum(axis=-1)), "classes": ratio(held, pixels)}


def describe(result: Calibrated) -> str:
    """Format the result for the terminal."""
    fit = result.calibration
    lines = [
        f"temperature {fit.temperature:.3f} from {fit.pixels:,} validation pixels of `{fit.data}`",
        f"calibration error on {result.split} ground: {_share(result.error_before)} before, "
        f"{_share(result.error_after)} after",
    ]
    if result.classes:
        wide = max(12, *(text_width(row.name) for row in result.classes))
        heads = ("coverage", "95 % interval", "pixels", "threshold", "fitted on")
        lines += ["", f"{'class':<{wide}}  {heads[0]:>8} {heads[1]:>14} {heads[2]:>11} {heads[3]:>9} {heads[4]:>11}"]
        for row in result.classes:
            ends = f"{row.interval[0]:.3f} to {row.interval[1]:.3f}" if row.interval else "-"
            lines.append(
                f"{padded(row.name, wide)}  {_share(row.coverage):>8} {ends:>14} {row.pixels:>11,} "
                f"{row.threshold:>9.4f} {row.fitted_on:>11,}"
            )
        lines += ["", f"coverage on {result.split} ground: {_share(result.coverage)} of {fit.coverage:g} wanted"]
        if result.interval:
            lines[-1] += f" (95 % interval {result.interval[0]:.3f} to {result.interval[1]:.3f})"
        lines[-1] += f"; a set holds {result.mean_size:.2f} classes on average"
        lines += [*_failures(result)]
    return "\n".join([*lines, "", str(result.path)])


def _failures(result: Calibrated) -> list[str]:
    """Say where sets do not keep their promise, or cannot be judged."""
    wanted = result.calibration.coverage or 0.0
    short = [row for row in result.classes if row.coverage is not None and row.coverage < wanted]
    failed = [row.name for row in short if row.interval is not None and row.interval[1] < wanted]
    unknown = [row.name for row in result.classes if not row.fitted_on and row.threshold <= 1]
    lines = []
    if short:
        named = ", ".join(f"{row.name} ({row.coverage:.3f})" for row in short)
        lines.append(f"Below the wanted coverage: {named}.")
    if failed:
        lines.append(
            f"The interval excludes {wanted:g} for {', '.join(failed)}: {result.split} ground differs from validation "
            "ground there, or the fit had too few pixels."
        )
    if unknown:
        lines.append(f"Without validation pixels, these classes are in every set: {', '.join(unknown)}.")
    if result.blocks < ENOUGH_BLOCKS:
        lines.append(f"The {result.split} ground is {result.blocks} block(s), too few for a reliable interval.")
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
