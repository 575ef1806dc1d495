"""`cwsam info`."""

from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, print_result


def info(
    path: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|MAP|DATASET|SCENE|CONFIG",
            help="A .pth or .onnx file, a raster, a dataset's folder or a configuration.",
            show_default=False,
        ),
    ],
    config: Annotated[
        bool, typer.Option("--config", help="Print the configuration that a model was trained with, as YAML.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Describe a model, map, dataset, scene or configuration.

    \b
    $ cwsam info save/first/model_epoch_best.pth
    $ cwsam info map.tif
    $ cwsam info dataset/
    $ cwsam info save/first/model_epoch_best.pth --config > again.yaml

    A model names its size, bands and classes, its scores, the data it was trained
    on, and the versions and the date. A map names its grid, its classes, the model
    by SHA-256, and the command. A dataset names its tiles, its bands, and the
    labelled pixels of each class by split. `cwsam doctor` compares files with each other.
    """
    from cwsam_cli.doctor.describe import describe
    from cwsam_cli.errors import DataError

    found = describe(path)
    if config:
        if not found.configuration:
            raise DataError(f"`{path}` records no configuration", hint="models that `cwsam train` wrote record theirs")
        typer.echo(found.configuration.rstrip())
        return
    wide = max(map(len, found.facts), default=0) + 2
    lines = [f"{path}: {found.kind}", "", *(f"{name:<{wide}}{value}" for name, value in found.facts.items())]
    if found.bands:
        lines += ["", *(f"band {band.name}: mean {band.mean:.4g}, std {band.std:.4g}" for band in found.bands)]
    lines += [f"odd: {text}" for text in found.oddities]
    lines += [""]
    for entry in found.classes:
        pixels = ", ".join(f"{count:,} {split}" for split, count in entry.get("pixels", {}).items())
        lines.append(f"class {entry['code']} {entry['name']}" + (f": {pixels} pixels" if pixels else ""))
    print_result(found, "\n".join(lines), as_json=as_json)
