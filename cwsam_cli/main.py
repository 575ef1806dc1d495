"""The command `cwsam`: its sub-commands, and what becomes of an error.

Nothing heavy is imported here: `cwsam --help` answers at once.
"""

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cwsam_cli import __version__, console
from cwsam_cli.commands.demo import demo
from cwsam_cli.commands.eval import evaluate
from cwsam_cli.commands.plan import plan
from cwsam_cli.commands.predict import predict
from cwsam_cli.commands.tile import tile
from cwsam_cli.commands.train import train
from cwsam_cli.commands.upcycle import upcycle
from cwsam_cli.commands.vectorize import vectorize
from cwsam_cli.errors import CwsamError, MachineError

_INTERRUPTED = 130
_DISK = {
    errno.ENOTDIR: "a part of that path is a file",
    errno.EEXIST: "a part of that path is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "look at the permissions of that place",
    errno.EPERM: "look at the permissions of that place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSPC: "free some space there, or choose another disk",
    errno.EDQUOT: "free some space there, or choose another disk",
}


class _Commands(TyperGroup):
    """Turns errors that a user can mend into a sentence, a hint and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CwsamError as error:
            raise typer.Exit(_tell(error)) from None
        except OSError as error:
            if error.errno not in _DISK:
                raise
            told = MachineError(f"`{error.filename or 'output'}`: {error.strerror}", hint=_DISK[error.errno])
            raise typer.Exit(_tell(told)) from None
        except (MemoryError, RuntimeError) as error:
            trouble = _machine_trouble(error)
            if trouble is None:
                raise
            raise typer.Exit(_tell(trouble)) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(_INTERRUPTED) from None


def _machine_trouble(error: Exception) -> MachineError | None:
    """What a library means by a RuntimeError, if it means the machine."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return MachineError("the memory is not enough", hint="smaller batches need less: batch_size, or --batch-size")
    if "DataLoader worker" in text and "exited" in text:
        return MachineError("a process that reads tiles died", hint="--set training_settings.workers=0 does without")
    return None


def _tell(error: CwsamError) -> int:
    typer.echo(f"error: {error}", err=True)
    if error.hint:
        typer.echo(f"\nhint: {error.hint}", err=True)
    return error.exit_code


app = typer.Typer(
    name="cwsam",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cwsam {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only warnings and errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Land-cover maps with Segment Anything, from laptop to cluster.

    \b
    $ cwsam tile scene.tif --labels landcover.gpkg --class-field class -o dataset/
    $ cwsam train --config tiny --data dataset/ -o save/first
    $ cwsam eval -c save/first/model_epoch_best.pth --data dataset/
    $ cwsam predict scene.tif -c save/first/model_epoch_best.pth -o map.tif
    $ cwsam vectorize map.tif polygons.gpkg

    All five on a real scene, in a few minutes: cwsam demo
    """
    console.setup(-1 if quiet else verbose)


for _name, _command in (
    ("tile", tile),
    ("train", train),
    ("eval", evaluate),
    ("predict", predict),
    ("vectorize", vectorize),
    ("plan", plan),
    ("upcycle", upcycle),
    ("demo", demo),
):
    app.command(_name)(_command)


def main() -> None:
    """Run the command line."""
    app()
