"""`cwsam upcycle`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, Overwrite, Settings, print_result


def upcycle(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A smaller checkpoint: path, URL, or sam_vit_b, _l, _h.")
    ],
    config: Annotated[str, typer.Option("--config", help="Of the larger model: a YAML file, or a shipped name.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The grown checkpoint.")],
    settings: Settings = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Grow a smaller checkpoint into a larger mixture of experts.

    \b
    $ cwsam upcycle save/base/model_epoch_best.pth --config XinTong/10b_fsdp -o grown.pth

    Group 0 keeps the source's experts exactly; further groups start from them by
    interpolation and noise (model.args.upcycle). `cwsam train` does the same when
    sam_checkpoint names a smaller model.
    """
    from cwsam_cli.config.load import load_config
    from cwsam_cli.upcycle.pipeline import upcycle as run  # torch is slow to import

    result = run(source, load_config(config, settings or []), output, overwrite=overwrite)
    text = (
        f"{result.path}: {result.parameters:,} parameters, {100 * result.loaded_share:.1f} % from the source; "
        f"the encoder's output changes by {100 * result.relative_change:.2f} %"
    )
    print_result(result, text, as_json=as_json)
