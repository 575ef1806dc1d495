"""Options that several commands share, how their values are read, and how results are printed."""

import dataclasses
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cwsam_cli.console import without_secrets
from cwsam_cli.raster.sources.network import NO_EXTERNAL

_QUERY_VALUE = re.compile(r"\b([\w-]*(?:token|key|secret|signature|password)[\w-]*)=\S+", re.I)
"""A parameter of `--stac-query`, which is no URL, can be a credential, too."""

Checkpoint = Annotated[
    Path | None, typer.Option("-c", "--checkpoint", help="A trained model, e.g. save/RUN/model_epoch_best.pth.")
]
Config = Annotated[
    str,
    typer.Option(
        "--config",
        help="A YAML file, or a shipped configuration: tiny, vit_b, XinTong/1dot5B, XinTong/3b, XinTong/10b_fsdp, "
        "XinTong/10b_new.",
    ),
]
Data = Annotated[Path, typer.Option("--data", help="A folder that `cwsam tile` wrote.")]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda", help="auto takes a GPU if there is one; cuda:1 is the second GPU."
    ),
]
Gpus = Annotated[
    int, typer.Option("--gpus", min=1, help="Processes on this machine: one per GPU, or with --device cpu on the CPU.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Bands = Annotated[
    str | None,
    typer.Option("--bands", help="Bands of the scenes in the order of use: 3,2,1 or red,green,blue."),
]
Scenes = Annotated[
    list[str],
    typer.Argument(
        metavar="SCENE",
        help="Images, folders, patterns, a .txt with one path per line, URLs, s3:// gs:// az:// paths, archives "
        "(/vsizip/), STAC items (items.json), or the URL of a STAC API with --stac-query.",
    ),
]
Stack = Annotated[
    str | None,
    typer.Option(
        "--stack",
        metavar="PATTERN",
        help="Files of one place are one scene: '{scene}_{band}.jp2' groups them by {scene}, and {band} names their "
        "bands. All are brought to the finest grid.",
    ),
]
Unscale = Annotated[
    bool, typer.Option("--unscale", help="Apply the scale and offset of each band; values become float32.")
]
Assets = Annotated[
    str | None,
    typer.Option(
        "--assets",
        metavar="NAMES",
        help="Assets of STAC items in the order of the model's bands: red,green,blue,nir. Names of assets, or common "
        "names of their bands.",
    ),
]
StacQuery = Annotated[
    list[str] | None,
    typer.Option(
        "--stac-query",
        metavar="QUERY",
        help="Search the STAC API at the URL: 'collections=sentinel-2-l2a bbox=8,47,9,48 datetime=2024-06-01/..'",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS|FILE|local",
        help="Let the workers of a Dask cluster do the work. local starts one per GPU or core of this machine.",
    ),
]


def _forbid_external(is_given: bool) -> bool:
    if is_given:
        os.environ[NO_EXTERNAL] = "1"  # worker processes inherit it
    return is_given


NoExternal = Annotated[
    bool,
    typer.Option(
        "--no-external",
        callback=_forbid_external,
        help="Refuse URLs, and rasters that read files outside their own folder. For all commands: set "
        "CWSAM_NO_EXTERNAL=1.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the configuration; repeatable."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Windows computed at a time.")]

FAILED_INPUTS = 4
"""Exit code if some of several inputs failed."""


def command_line() -> str:
    """Return the command as it was typed, without passwords and tokens in URLs; outputs keep it as their origin."""
    return shlex.join(["cwsam", *(_QUERY_VALUE.sub(r"\1=…", without_secrets(each)) for each in sys.argv[1:])])


def scenes_of(scenes: list[str], assets: str | None, query: list[str] | None) -> tuple[list[str], bool]:
    """Return the scenes that arguments and the options `--assets` and `--stac-query` mean; see `sources.expand`."""
    from cwsam_cli.raster.sources.scenes import expand
    from cwsam_cli.raster.sources.stac import StacChoice, parse_query

    return expand(scenes, StacChoice(assets=parse_names(assets), query=parse_query(query or [])))


def require_checkpoint(checkpoint: Path | None) -> Path:
    """Return the checkpoint's path.

    Raises:
        UsageError: no checkpoint is given. The hint names the newest one.
        CheckpointError: the file does not exist.
    """
    from cwsam_cli.checkpoints.newest import newest_checkpoint, refuse_missing
    from cwsam_cli.errors import UsageError

    if checkpoint is None:
        raise UsageError("no checkpoint is given", hint=newest_checkpoint())
    refuse_missing(checkpoint)
    return checkpoint


def parse_names(text: str | None) -> tuple[str, ...]:
    """Read names with commas between them, such as `red,green,blue`; None has none."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def parse_key_values(pairs: list[str] | None) -> dict[str, str]:
    """Read `--co KEY=VALUE` as a mapping; keys become lower case.

    Raises:
        UsageError: a pair has no `=`.
    """
    from cwsam_cli.errors import UsageError

    for pair in pairs or []:
        if not pair.partition("=")[1]:
            raise UsageError(f"--co `{pair}` is not of the form KEY=VALUE", hint="for example: --co COMPRESS=ZSTD")
    return {pair.partition("=")[0].lower(): pair.partition("=")[2] for pair in pairs or []}


def parse_pairs(pairs: list[str] | None, option: str, example: str) -> list[tuple[str, Path]]:
    """Read `NAME=PATH` texts.

    Args:
        pairs: the texts.
        option: the option's name, for the message.
        example: a valid text, for the message.

    Raises:
        UsageError: a text has no `=`, or nothing beside it.
    """
    from cwsam_cli.errors import UsageError

    read = [pair.partition("=") for pair in pairs or []]
    for pair, (name, _, path) in zip(pairs or [], read, strict=True):
        if not name or not path:
            raise UsageError(f"{option} `{pair}` is not of the form NAME=PATH", hint=f"for example: {option} {example}")
    return [(name, Path(path)) for name, _, path in read]


def parse_part(text: str) -> tuple[int, int]:
    """Read `2/3`.

    Raises:
        UsageError: the text has another form.
    """
    from cwsam_cli.errors import UsageError

    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal()):
        raise UsageError(f"--part `{text}` is not of the form I/N", hint="say: --part 1/3, 2/3 or 3/3")
    return int(number), int(parts)


def parse_memory_size(text: str, option: str, *, prefixes: str = "kmgt") -> int:
    """Read `4GB`, `500MB` or `2GiB` as bytes; a bare number is refused.

    Args:
        text: the size.
        option: the option's name, for the message.
        prefixes: first letters of the units that are allowed (k, m, g, t).

    Returns:
        Bytes, at least 1.

    Raises:
        UsageError: the text is not a size, or has no unit.
    """
    from cwsam_cli.errors import UsageError

    read = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower())
    number, unit = (float(read[1]), read[2]) if read else (0.0, "")
    units: dict[str, int] = {"b": 1} | {f"{p}{end}": 1000 ** (" kmgt".index(p)) for p in prefixes for end in ("", "b")}
    units |= {f"{p}ib": 1024 ** (" kmgt".index(p)) for p in prefixes}
    if number and not unit:
        raise UsageError(f"{option} `{text}` has no unit", hint=f"for example: {option} {text.strip()}GB")
    size = round(number * units.get(unit, 0))
    if not size:
        raise UsageError(f"{option} `{text}` is not a size of memory", hint=f"for example: {option} 4GB")
    return size


def print_result(result: Any, text: str, *, as_json: bool) -> None:
    """Print a result on stdout: `text` for people, or the dataclass or mapping as JSON for programs."""
    if as_json:
        raw = result if isinstance(result, dict) else dataclasses.asdict(result)
        text = json.dumps(raw, default=str, ensure_ascii=False)
    typer.echo(without_secrets(text))
