"""`cwsam plan`."""

import dataclasses
from typing import Annotated, Any

import typer

from cwsam_cli.commands.options import Config, Json, Settings, parse_memory_size, print_result
from cwsam_cli.plan.cards import CARDS, CardName


def plan(
    config: Config,
    settings: Settings = None,
    bands: Annotated[int, typer.Option("--bands", min=1, help="Bands of the images.")] = 3,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus", min=1, max=1024, help="Compute the memory and time that training on this many GPUs needs."
        ),
    ] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            "--gpu-memory", metavar="SIZE", help="Memory of one GPU, e.g. 80GB or 24GiB. Default: the card's."
        ),
    ] = None,
    card: Annotated[CardName, typer.Option("--card", help="GPU whose memory and peak rates the plan uses.")] = "h100",
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops", min=0.1, metavar="NUMBER", help="Peak of bf16 and fp16 products, instead of the card's."
        ),
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            "--bandwidth", metavar="SIZE", help="Memory traffic per second, e.g. 3.35TB, instead of the card's."
        ),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            "--link", metavar="SIZE", help="Bytes that a GPU sends per second, e.g. 450GB, instead of the card's."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the memory and time that training will need.

    \b
    $ cwsam plan --config XinTong/10b_fsdp --gpus 8
    $ cwsam plan --config vit_b --gpus 1 --gpu-memory 16GB --set train_dataset.batch_size=16
    $ cwsam plan --config XinTong/10b_fsdp --gpus 8 --card a100 --link 32GB

    The command prints the parameters of each part, the parameters that are active for one
    token, those that learn in each stage, and the operations of one forward pass.

    With --gpus it adds the memory of each GPU: its share of weights, gradients and optimizer,
    and the peak of one training step. If this does not fit, the command prints the smallest
    settings that make it fit; it has computed each of them. The figures are those of the stage
    in which most parameters learn. 6 % of the memory is kept in reserve for the driver and
    libraries. The plan assumes that experts share the tokens evenly. It counts all gradients
    as live at the peak, which overestimates a run without accumulation.

    The command then prints the bytes that each GPU sends in a step, the shortest time of a
    step, and its limit: arithmetic, memory traffic, kernel launches or communication. The time
    is a lower bound. It assumes that all kernels reach the card's peak rates, and that
    communication and computation overlap. Offloading is not included.

    Everything is computed. No GPU is needed, and the model is not held in memory. The 10B
    model takes about 75 seconds. One H200 needed 0.97 × the planned memory for the 10B model,
    0.96 × for vit_b and 0.87 × for 1.5B.
    """
    from cwsam_cli.config.load import load_config

    size = None if gpu_memory is None else parse_memory_size(gpu_memory, "--gpu-memory", prefixes="gt")
    rates: dict[str, Any] = {} if tflops is None else {"tflops": tflops}
    for name, text in (("bandwidth", bandwidth), ("link", link)):
        if text is not None:
            rates[name] = parse_memory_size(text, f"--{name}", prefixes="gt")
    loaded = load_config(config, settings or [])
    from cwsam_cli.plan.pipeline import (
        estimate_run as run,
    )  # torch takes seconds to import; a wrong key is reported before

    peaks = dataclasses.replace(CARDS[card], **rates)
    result = run(loaded, bands=bands, gpus=gpus, gpu_memory=size, card=peaks)
    wide = max(len(name) for name in result.parts) + 2
    lines = [f"{result.model}", ""]
    lines += [f"{name:<{wide}}{count:>16,}" for name, count in result.parts.items()]
    lines += [f"{'total':<{wide}}{result.total:>16,}", ""]
    lines += [f"{'active for a token':<{wide}}{result.active:>16,}"]
    lines += [f"{f'learning, {stage}':<{wide}}{count:>16,}" for stage, count in result.trainable.items()]
    lines += [f"{'operations of a forward pass':<{wide}}{result.flops / 1e9:>12,.1f} GFLOP"]
    if result.memory is not None and result.time is not None:
        lines += ["", result.memory.as_text()]
        lines += ["", f"computed time of a step on {gpus} × {card}:", result.time.as_text()]
    print_result(result, "\n".join(lines), as_json=as_json)
