"""`cwsam plan`."""

from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, Settings, print_result


def plan(
    config: Annotated[str, typer.Option("--config", help="A YAML file, or a shipped name.")],
    settings: Settings = None,
    bands: Annotated[int, typer.Option("--bands", min=1, help="Image bands.")] = 3,
    as_json: Json = False,
) -> None:
    """Say what a configuration's model is made of, before it is trained.

    \b
    $ cwsam plan --config XinTong/10b_fsdp
    $ cwsam plan --config vit_b --json

    Parameters by part, those that one token meets, those that learn, and the
    operations of one forward pass. Nothing of the model's size is held in memory.
    """
    from cwsam_cli.config.load import load_config
    from cwsam_cli.pipelines.plan import plan as run  # torch is slow to import

    result = run(load_config(config, settings or []), bands=bands)
    wide = max(len(name) for name in result.parts) + 2
    lines = [f"{result.model}", ""]
    lines += [f"{name:<{wide}}{count:>16,}" for name, count in result.parts.items()]
    lines += [f"{'total':<{wide}}{result.total:>16,}", ""]
    lines += [f"{'active for a token':<{wide}}{result.active:>16,}"]
    lines += [f"{f'learning, {stage}':<{wide}}{count:>16,}" for stage, count in result.trainable.items()]
    lines += [f"{'operations of a forward pass':<{wide}}{result.flops / 1e9:>12,.1f} GFLOP"]
    print_result(result, "\n".join(lines), as_json=as_json)
