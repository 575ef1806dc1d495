"""`cwsam doctor`."""

from typing import TYPE_CHECKING, Annotated

import typer

from cwsam_cli.commands.options import Json, NoExternal, print_result

if TYPE_CHECKING:
    from cwsam_cli.doctor.pipeline import Diagnosis

_DATA = 4  # exit code


def doctor(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCENE|DATASET|CHECKPOINT|CONFIG|MAP", help="Files and folders, in any order."),
    ] = None,
    no_external: NoExternal = False,
    as_json: Json = False,
) -> None:
    """Examine this machine, and whether files fit each other.

    \b
    $ cwsam doctor
    $ cwsam doctor scene.tif save/first/model_epoch_best.pth
    $ cwsam doctor dataset/ save/first/model_epoch_best.pth map.tif

    The machine: versions, processor and the precision that follows, devices, memory, threads,
    caches and free disk. Of each file: what it is, and what is odd about it. Of each pair:
    whether bands and their order, values, dtype, pixel size, classes, grids and the season
    agree, as far as they are known.

    A mismatch, or a file that cannot be used, ends with exit code 4. `cwsam info` describes one
    file in full.
    """
    from cwsam_cli.doctor.pipeline import diagnose

    found = diagnose(paths or [])
    print_result(found, _text(found), as_json=as_json)
    if not found.is_well:
        raise typer.Exit(_DATA)


def _text(found: "Diagnosis") -> str:
    parts = [_block("this machine", found.machine.facts, found.machine.oddities)]
    for thing in found.things:
        if thing.description is not None:
            about = thing.description
            parts.append(_block(f"{thing.path}: {about.kind}", about.facts, about.oddities))
        else:
            parts.append(f"{thing.path}: cannot be used\n  problem: {thing.problem}\n  hint: {thing.hint}")
    for pair in found.comparisons:
        lines = [f"{pair.first} and {pair.second}: {pair.verdict}", *(f"  {reason}" for reason in pair.reasons)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _block(title: str, facts: dict[str, str], oddities: tuple[str, ...]) -> str:
    wide = max(map(len, facts), default=0) + 2
    lines = [f"  {name:<{wide}}{value}" for name, value in facts.items()]
    return "\n".join([title, *lines, *(f"  odd: {text}" for text in oddities)])
