"""`cwsam eval` of a model on a dataset."""

from pathlib import Path

from cwsam_cli.assess.request import COMPARISON, METRICS, CalibrationRequest, ModelRequest
from cwsam_cli.commands.options import print_result
from cwsam_cli.console import loading, log
from cwsam_cli.report.page import PAGE


def evaluate_model(request: ModelRequest, *, as_json: bool) -> None:
    """Print a model's accuracy."""
    _check_early(request, METRICS)
    with loading("torch"):
        from cwsam_cli.assess.pipeline import evaluate
        from cwsam_cli.assess.report import as_dict, as_table

    result = evaluate(request)
    if result is not None:
        print_result(as_dict(result), as_table(result), as_json=as_json)
        if request.output is not None:
            log.info("`%s` shows this in a browser", request.output / PAGE)


def calibrate_model(request: CalibrationRequest, *, as_json: bool) -> None:
    """Write a calibrated copy of a model, and print what the calibration is worth."""
    from cwsam_cli.dataset.manifest import read_manifest

    request.refuse_early()
    for folder in request.data:
        read_manifest(folder)
    with loading("torch"):
        from cwsam_cli.assess.calibrate import calibrate, describe

    result = calibrate(request)
    if result is not None:
        print_result(result, describe(result), as_json=as_json)


def compare_models(request: ModelRequest, other: Path, *, as_json: bool) -> None:
    """Print the differences of two models."""
    _check_early(request, COMPARISON)
    with loading("torch"):
        from cwsam_cli.assess.compare import compare, comparison_dict, comparison_table

    result = compare(request, other)
    if result is not None:
        print_result(comparison_dict(result), comparison_table(result), as_json=as_json)


def _check_early(request: ModelRequest, marker: str) -> None:
    """Stop before torch loads at an output that exists, or at a folder that is no dataset."""
    from cwsam_cli.dataset.manifest import read_manifest
    from cwsam_cli.files import refuse_existing

    if request.output is not None:
        refuse_existing(request.output, overwrite=request.overwrite, marker=marker)
    for folder in request.data:
        read_manifest(folder)
