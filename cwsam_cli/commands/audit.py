"""`cwsam audit`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, Overwrite, print_result


def audit(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A folder of tiles, or a configuration of `cwsam train`.")
    ],
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Class table: a file or a shipped name. Default: what the dataset says."),
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print only the class table, with bars.")] = False,
    check_alignment: Annotated[
        bool, typer.Option("--check-alignment", help="Estimate by how many pixels labels are shifted against images.")
    ] = False,
    suspects: Annotated[
        Path | None,
        typer.Option(
            "--suspects",
            metavar="FILE",
            help="Write tiles whose labels are probably wrong to a GeoPackage, or to a CSV file if tiles have no "
            "position.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Check whether test ground of a dataset leaks into training.

    \b
    $ cwsam audit dataset/
    $ cwsam audit dataset/ --stats
    $ cwsam audit dataset/ --check-alignment --suspects suspects.gpkg
    $ cwsam audit config.yaml --classes classes.yaml --json

    The dataset is one of `cwsam tile`, or any folder of pairs: images/train and labels/train,
    or train/images and train/labels, as TIFF, PNG or JPEG. A configuration names other folders
    by root_path_1 and root_path_2.

    The audit reports, for each two splits, the ground that both show, the nearest distance of
    two tiles, and tiles with equal or nearly equal pictures (correlation of 0.98 or more). A
    leak ends with exit code 4. If the dataset is split by date, shared ground is no leak. If the
    dataset has folds, the same is checked for the training and validation tiles of each fold.

    For each class it reports pixels by split and the range: the distance at which pixels of
    the class are no longer correlated (95 % of the sill of the indicator semivariogram, from
    points in up to 100 tiles). If correlation is left at the test, its accuracy is too high.

    --check-alignment compares edges of labels with edges of images, scene by scene. It tells
    the shift of the labels with a 95 % interval, or that it cannot tell. Shifts of up to 7
    pixels are found. Up to 0.75 pixels are usual and not called a shift.

    --suspects lists the tiles that disagree in most of their labels with a quick classifier
    that learnt from other blocks of ground, the worst first. Labels can also be right and the
    ground unusual, so look at a tile before you change it.
    """
    from cwsam_cli.audit.pipeline import audit_dataset
    from cwsam_cli.audit.report import as_bars, as_text
    from cwsam_cli.errors import DataError

    found = audit_dataset(
        dataset, classes=classes, with_alignment=check_alignment, suspects_to=suspects, overwrite=overwrite
    )
    print_result(found, as_bars(found) if stats else as_text(found), as_json=as_json)
    if found.leaks:
        more = f", and {len(found.leaks) - 1} more leak(s)" if len(found.leaks) > 1 else ""
        raise DataError(
            f"`{dataset}` leaks: {found.leaks[0]}{more}",
            hint="tile the scenes again with a buffer: cwsam tile --buffer 1tile; or move these tiles into one split",
        )
