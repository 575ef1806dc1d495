"""`cwsam eval` of a map, without a model."""

from pathlib import Path

from cwsam_cli.commands.options import print_result
from cwsam_cli.console import log
from cwsam_cli.report.page import PAGE


def evaluate_sample(
    sample: Path,
    map_path: Path | None,
    output: Path | None,
    *,
    assume_random: bool,
    band: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print accuracies and areas from an interpreted sample."""
    from cwsam_cli.verify.files import refuse_output, write_sample_files
    from cwsam_cli.verify.pictures import draw_sample
    from cwsam_cli.verify.plain import sample_dict
    from cwsam_cli.verify.sampled import assess_sample
    from cwsam_cli.verify.tables import sample_table

    if output is not None:
        refuse_output(output, overwrite=overwrite)
    result = assess_sample(sample, map_path, assume_random=assume_random, band=band)
    if output is not None:
        picture = None if map_path is None else draw_sample(sample, map_path, band, result)
        write_sample_files(result, output, picture, overwrite=overwrite)
    print_result(sample_dict(result), sample_table(result), as_json=as_json)
    _tell_page(output)


def compare_on_sample(
    sample: Path,
    first: Path | None,
    second: Path,
    output: Path | None,
    *,
    band: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print the differences of two maps at the points of a sample."""
    from cwsam_cli.verify.compared import (
        compare_maps,
        comparison_dict,
        comparison_table,
        refuse_output,
        write_comparison,
    )

    if output is not None:
        refuse_output(output, overwrite=overwrite)
    result = compare_maps(sample, first, second, band=band)
    if output is not None:
        write_comparison(result, output, overwrite=overwrite)
    print_result(comparison_dict(result), comparison_table(result), as_json=as_json)


def evaluate_map(
    map_path: Path,
    reference: Path | None,
    class_field: str | None,
    crosswalk: Path | None,
    output: Path | None,
    *,
    band: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print the accuracy of a map against a reference."""
    from cwsam_cli.errors import UsageError

    if reference is None:
        raise UsageError(
            "--map needs --reference or --sample", hint="--reference labels.tif, or draw a sample: cwsam sample"
        )
    from cwsam_cli.verify.files import refuse_output, write_map_files
    from cwsam_cli.verify.mapped import assess_map
    from cwsam_cli.verify.plain import map_dict
    from cwsam_cli.verify.tables import map_table

    if output is not None:
        refuse_output(output, overwrite=overwrite)
    result = assess_map(map_path, reference, class_field=class_field, crosswalk=crosswalk, band=band)
    if output is not None:
        write_map_files(result, output, overwrite=overwrite)
    print_result(map_dict(result), map_table(result), as_json=as_json)
    _tell_page(output)


def _tell_page(output: Path | None) -> None:
    if output is not None:
        log.info("`%s` shows this in a browser", output / PAGE)
