"""`cwsam plan`."""

from typing import Annotated

import typer

from cwsam_cli.commands.options import Config, Json, Settings, parse_memory_size, print_result


def plan(
    config: Config,
    settings: Settings = None,
    bands: Annotated[int, typer.Option("--bands", min=1, help="Bands of the images.")] = 3,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, max=1024, help="Compute the memory that training on this many GPUs needs."),
    ] = None,
    gpu_memory: Annotated[
        str, typer.Option("--gpu-memory", metavar="SIZE", help="Memory of one GPU, e.g. 80GB or 24GiB.")
    ] = "80GB",
    as_json: Json = False,
) -> None:
    """Count a model's parameters and the memory that training needs.

    \b
    $ cwsam plan --config XinTong/10b_fsdp --gpus 8
    $ cwsam plan --config vit_b --gpus 1 --gpu-memory 16GB --set train_dataset.batch_size=16

    The command prints the parameters of each part, the parameters that are active for one
    token, those that learn in each stage, and the operations of one forward pass.

    With --gpus it adds the memory of each GPU: its share of weights, gradients and optimizer,
    and the peak of one training step. If this does not fit, the command prints the smallest
    settings that make it fit; it has computed each of them. The figures are those of the stage
    in which most parameters learn. 6 % of the memory is kept in reserve for the driver and
    libraries. The plan assumes that experts share the tokens evenly. It counts all gradients
    as live at the peak, which overestimates a run without accumulation.

    Everything is computed. No GPU is needed, and the model is not held in memory. A large
    model takes about 15 seconds. One H200 needed 0.97 × the planned memory for the 10B model,
    0.96 × for vit_b and 0.87 × for 1.5B.
    """
    from cwsam_cli.config.load import load_config

    size, loaded = parse_memory_size(gpu_memory, "--gpu-memory", prefixes="gt"), load_config(config, settings or [])
    from cwsam_cli.plan.pipeline import (
        estimate_run as run,
    )  # torch takes seconds to import; a wrong key is reported before

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
