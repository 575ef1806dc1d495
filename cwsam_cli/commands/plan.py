"""`cwsam plan`."""

from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, Settings, memory_size, print_result


def plan(
    config: Annotated[str, typer.Option("--config", help="A YAML file, or a shipped name.")],
    settings: Settings = None,
    bands: Annotated[int, typer.Option("--bands", min=1, help="Image bands.")] = 3,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, max=1024, help="Say what training on so many needs of each one.")
    ] = None,
    gpu_memory: Annotated[
        str, typer.Option("--gpu-memory", metavar="SIZE", help="Of each GPU, such as 80GB or 24GiB.")
    ] = "80GB",
    as_json: Json = False,
) -> None:
    """Say what a configuration's model is made of and what training it needs, before it is trained.

    \b
    $ cwsam plan --config XinTong/10b_fsdp --gpus 8
    $ cwsam plan --config vit_b --gpus 1 --gpu-memory 16GB --set train_dataset.batch_size=16

    Parameters by part, those that one token meets, those that learn, and the operations
    of one forward pass. With --gpus also the memory of each: its share of weights,
    gradients and optimizer, and the worst moment of a step; where that does not fit, the
    smallest changes with which it does. All is computed, on any machine; a large model
    takes a quarter of a minute, and nothing of its size is held in memory.
    """
    from cwsam_cli.config.load import load_config

    size, loaded = memory_size(gpu_memory, "--gpu-memory", prefixes="gt"), load_config(config, settings or [])
    from cwsam_cli.plan.pipeline import estimate_run as run  # torch is slow to import: a wrong key is told before

    result = run(loaded, bands=bands, gpus=gpus, gpu_memory=size)
    wide = max(len(name) for name in result.parts) + 2
    lines = [f"{result.model}", ""]
    lines += [f"{name:<{wide}}{count:>16,}" for name, count in result.parts.items()]
    lines += [f"{'total':<{wide}}{result.total:>16,}", ""]
    lines += [f"{'active for a token':<{wide}}{result.active:>16,}"]
    lines += [f"{f'learning, {stage}':<{wide}}{count:>16,}" for stage, count in result.trainable.items()]
    lines += [f"{'operations of a forward pass':<{wide}}{result.flops / 1e9:>12,.1f} GFLOP"]
    if result.memory is not None:
        lines += ["", result.memory.as_text()]
    print_result(result, "\n".join(lines), as_json=as_json)
