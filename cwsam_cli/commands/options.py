"""Options that several commands share, and how results are printed."""

import dataclasses
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Checkpoint = Annotated[
    Path | None, typer.Option("-c", "--checkpoint", help="A trained model, save/RUN/model_epoch_best.pth.")
]
Data = Annotated[Path, typer.Option("--data", help="A folder that `cwsam tile` wrote.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto for the best that is here.")]
Gpus = Annotated[int, typer.Option("--gpus", min=1, help="Processes on this machine, one a GPU (or on the CPU).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the config; repeatable.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Windows at a time.")]


def command_line() -> str:
    """The command as it was typed, for the record in outputs."""
    return shlex.join(["cwsam", *sys.argv[1:]])


def checkpoint_given(checkpoint: Path | None) -> Path:
    """The checkpoint, or an error that names one."""
    from cwsam_cli.errors import UsageError
    from cwsam_cli.train.checkpoint import newest_checkpoint

    if checkpoint is None:
        raise UsageError("no checkpoint is given", hint=newest_checkpoint())
    return checkpoint


def key_values(pairs: list[str] | None) -> dict[str, str]:
    """`--co KEY=VALUE` as a mapping."""
    from cwsam_cli.errors import UsageError

    for pair in pairs or []:
        if not pair.partition("=")[1]:
            raise UsageError(f"--co `{pair}` is not of the form KEY=VALUE", hint="for example: --co COMPRESS=ZSTD")
    return {pair.partition("=")[0].lower(): pair.partition("=")[2] for pair in pairs or []}


def memory_size(text: str) -> int:
    """`4GB`, `500MB`, `2GiB` as bytes."""
    from cwsam_cli.errors import UsageError

    parts = re.fullmatch(r"(\d+\.?\d*) ?([kmgt]?)(i?)b?", text.lower())
    size = int(float(parts[1]) * (1024 if parts[3] else 1000) ** " kmgt".index(parts[2] or " ")) if parts else 0
    if not size:
        raise UsageError(f"`{text}` is not a size of memory", hint="for example: 4GB")
    return size


def print_result(result: Any, text: str, *, as_json: bool) -> None:
    """Print a result for people, or the dataclass behind it for programs."""
    if as_json:
        raw = result if isinstance(result, dict) else dataclasses.asdict(result)
        text = json.dumps(raw, default=str, ensure_ascii=False)
    typer.echo(text)
