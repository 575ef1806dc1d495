"""`cwsam upcycle`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Config, Json, Overwrite, Settings, print_result


def upcycle(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="The smaller checkpoint: a path, a URL, or sam_vit_b, sam_vit_l, sam_vit_h."
        ),
    ],
    config: Config,
    output: Annotated[Path, typer.Option("-o", "--output", help="The larger checkpoint.")],
    settings: Settings = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Grow a smaller checkpoint into a larger mixture of experts.

    \b
    $ cwsam upcycle save/base/model_epoch_best.pth --config XinTong/10b_fsdp -o grown.pth
    $ cwsam upcycle sam_vit_h --config XinTong/10b_new -o grown.pth

    --config names the larger model. Its expert group 0 keeps the source's experts exactly.
    Further groups start from them by interpolation and noise (model.args.upcycle). Position
    tables are resized. Class tokens are kept for classes of the same name, and input filters
    for bands of the same name.

    `cwsam train` does the same when sam_checkpoint names a smaller model. Use this command to
    look at the grown model before training.
    """
    from cwsam_cli.config.load import load_config
    from cwsam_cli.upcycle.pipeline import upcycle as run  # torch takes seconds to import

    result = run(source, load_config(config, settings or []), output, overwrite=overwrite)
    text = (
        f"{result.path}: {result.parameters:,} parameters, {100 * result.loaded_share:.1f} % from the source; "
        f"the encoder's output changes by {100 * result.relative_change:.2f} %"
    )
    print_result(result, text, as_json=as_json)
