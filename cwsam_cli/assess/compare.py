"""Compare two models on the same ground: paired differences with intervals, by class, and a test by block."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cwsam_cli.assess.counting import count_hits
from cwsam_cli.assess.counts import Counts
from cwsam_cli.assess.evaluation import (
    Evaluation,
    Interval,
    as_interval,
    compute_figures,
    evaluate_counts,
    sum_by_block,
)
from cwsam_cli.assess.places import Places, find_places
from cwsam_cli.assess.report import OVERALL, VERSION, as_dict
from cwsam_cli.assess.request import COMPARISON, ModelRequest, list_folders
from cwsam_cli.assess.trained import Trained, check_fit
from cwsam_cli.assess.words import describe_blocks
from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.console import padded, text_width
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError, DataError
from cwsam_cli.files import csv_text, refuse_existing, refuse_foreign, sha256, staged, write_text
from cwsam_cli.metrics.bootstrap import Arrays, bootstrap
from cwsam_cli.metrics.flips import flip_signs

_BY_CLASS = {"iou": "IoU", "precision": "precision", "recall": "recall", "f1": "F1", "boundary_f1": "boundary F1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on the same ground. Differences are the first minus the second."""

    paths: tuple[Path, Path]
    first: Evaluation
    second: Evaluation
    intervals: Mapping[str, Interval]
    """95 % intervals of the differences of the overall figures, by name."""
    class_intervals: Mapping[str, tuple[Interval, ...]]
    """The same by name and class index."""
    better: int
    """Blocks in which the first model has more correct pixels."""
    worse: int
    """Blocks in which the second model has more correct pixels."""
    p_value: float
    """Probability of such a difference in correct pixels by chance; see `flip_signs`."""


def compare(request: ModelRequest, other: Path) -> Comparison | None:
    """Measure two checkpoints on one split of a dataset, and their differences.

    Args:
        request: the first checkpoint, the dataset, and the folder of the comparison.
        other: the second checkpoint.

    Returns:
        The comparison. None in processes that a launcher started, except the first.

    Raises:
        CheckpointError: a checkpoint is missing, or its classes or bands differ from the dataset's.
        DataError: the dataset or the split is missing, or the split has no labels.
    """
    output = request.output
    if output is not None:
        refuse_existing(output, overwrite=request.overwrite, marker=COMPARISON)
        refuse_foreign(output, ("comparison",))
    paths = (request.checkpoint, other)
    models = [load_checkpoint(path) for path in paths]
    for path, model in zip(paths, models, strict=True):
        check_fit(path, model, request.data, request.split)
    if models[0].ignore_background != models[1].ignore_background:
        raise CheckpointError(
            f"`{other}` and `{request.checkpoint}` do not count the same labels: code 0 is background for one of them",
            hint="train both with the same dataset.args.ignore_bg",
        )
    tiles, places = find_places(request.data, request.split)
    counted = launch(_count_both, request, paths, places, cluster=request.cluster)
    if counted is None:
        return None
    if not counted[0].matrices.any():
        raise DataError(
            f"the {request.split} split of `{list_folders(request.data)}` has no labelled pixels",
            hint="choose another --split",
        )
    first, second = (
        evaluate_counts(counts, places, tiles, model.taxonomy, request.tolerance)
        for counts, model in zip(counted, models, strict=True)
    )
    result = compare_counts(paths, (first, second), counted, places)
    if output is not None:
        with staged(output, overwrite=request.overwrite, marker=COMPARISON) as folder:
            _write(result, request, folder)
    return result


def _count_both(world: World, request: ModelRequest, paths: tuple[Path, Path], places: Places) -> tuple[Counts, Counts]:
    """Count both models' hits in one of the processes, one model after the other."""
    cells, names = places.cells()
    options = {"cell_count": len(names), "tolerance": request.tolerance, "batch_size": request.batch_size}
    first, second = (
        count_hits(Trained.open(path, request.data, request.split, world.device), world, cells, **options)
        for path in paths
    )
    return first, second


def compare_counts(
    paths: tuple[Path, Path], results: tuple[Evaluation, Evaluation], counted: tuple[Counts, Counts], places: Places
) -> Comparison:
    """Compute paired differences from the counts of two models on the same tiles."""
    cells = places.cells()[1]
    blocks = [sum_by_block(counts, cells) for counts in counted]
    both = {f"{number} {name}": values for number, own in enumerate(blocks) for name, values in own.items()}
    ends = bootstrap(both, _differences)
    right = [own["matrices"].trace(axis1=1, axis2=2) for own in blocks]
    more = right[0] - right[1]
    return Comparison(
        paths=paths,
        first=results[0],
        second=results[1],
        intervals={name: as_interval(values) for name, values in ends.items() if values.ndim == 1},
        class_intervals={
            name: tuple(as_interval(column) for column in values.T) for name, values in ends.items() if values.ndim == 2
        },
        better=int((more > 0).sum()),
        worse=int((more < 0).sum()),
        p_value=flip_signs(more),
    )


def _differences(sums: Arrays) -> Arrays:
    """Compute all figures of both models from the same draws, and subtract them."""
    first, second = (
        compute_figures({name[2:]: values for name, values in sums.items() if name.startswith(number)})
        for number in "01"
    )
    return {name: first[name] - second[name] for name in first}


def rows_of(result: Comparison) -> list[dict[str, Any]]:
    """Return one row per figure, overall and by class: both values, their difference, and its interval."""
    first, second = (as_dict(each) for each in (result.first, result.second))
    rows = [_row("", name, first[name], second[name], result.intervals[name]) for name in OVERALL]
    for name in _BY_CLASS:
        pairs = zip(first["classes"], second["classes"], result.class_intervals[name], strict=True)
        rows += [_row(one["name"], name, one[name], two[name], ends) for one, two, ends in pairs]
    return rows


def _row(entry: str, figure: str, first: float | None, second: float | None, ends: Interval) -> dict[str, Any]:
    difference = None if first is None or second is None else first - second
    ends = ends if difference is not None else None
    return {"class": entry, "figure": figure, "first": first, "second": second, "difference": difference} | {
        "low": ends[0] if ends else None,
        "high": ends[1] if ends else None,
    }


def comparison_dict(result: Comparison) -> dict[str, Any]:
    """Convert a comparison to plain values."""
    return {
        "version": VERSION,
        "first": str(result.paths[0]),
        "second": str(result.paths[1]),
        "blocks": as_dict(result.first)["blocks"],
        "better_blocks": result.better,
        "worse_blocks": result.worse,
        "p_value": result.p_value,
        "figures": rows_of(result),
    }


def comparison_table(result: Comparison) -> str:
    """Format a comparison for the terminal."""
    rows = rows_of(result)
    wide = max(24, *map(text_width, result.first.taxonomy.names))
    lines = [f"first:  {result.paths[0]}", f"second: {result.paths[1]}", ""]
    head = f"{'first':>6} {'second':>7} {'difference':>11} {'95 % interval':>18}"
    lines.append(f"{'':<{wide}}  {head}")
    lines += [_line(OVERALL[row["figure"]], row, wide) for row in rows if not row["class"]]
    lines += ["", f"{'IoU by class':<{wide}}"]
    lines += [_line(row["class"], row, wide) for row in rows if row["class"] and row["figure"] == "iou"]
    return "\n".join([*lines, "", *describe_test(result)])


def _line(title: str, row: Mapping[str, Any], wide: int) -> str:
    values = [f"{'-' if row[name] is None else format(row[name], '.3f'):>7}" for name in ("first", "second")]
    difference = "-" if row["difference"] is None else format(row["difference"], "+.3f")
    ends = "-" if row["low"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}"
    return f"{padded(title, wide)} {values[0]} {values[1]} {difference:>11} {ends:>18}"


def describe_test(result: Comparison) -> list[str]:
    """Say in which blocks which model is better, and whether that could be chance."""
    kind = "blocks" if result.first.has_blocks else "tiles"
    verdict = (
        "The difference in accuracy is more than chance between blocks explains."
        if result.p_value < 0.05
        else "The difference in accuracy may be chance."
    )
    told = (
        f"The first model is better in {result.better} {kind}, the second in {result.worse}, "
        f"of {result.first.blocks}. Test of signs by block: p = {result.p_value:.3g}."
    )
    return [f"{told} {verdict}", describe_blocks(result.first)]


def _write(result: Comparison, request: ModelRequest, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(result)
    write_text(folder / "comparison.csv", csv_text([rows[0], *(row.values() for row in rows)]))
    about = {
        "data": list_folders(request.data),
        "split": request.split,
        "command": request.command,
        "first_sha256": sha256(result.paths[0]),
        "second_sha256": sha256(result.paths[1]),
    }
    told = json.dumps(comparison_dict(result) | about, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / COMPARISON, told + "\n")
