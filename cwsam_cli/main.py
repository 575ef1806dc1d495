"""The command `cwsam`: its sub-commands, and what becomes of an error.

Nothing heavy is imported here: `cwsam --help` answers at once.
"""

import gc
import os
import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cwsam_cli import __version__, console
from cwsam_cli.commands.demo import demo
from cwsam_cli.commands.eval import evaluate
from cwsam_cli.commands.info import info
from cwsam_cli.commands.plan import plan
from cwsam_cli.commands.predict import predict
from cwsam_cli.commands.tile import tile
from cwsam_cli.commands.train import train
from cwsam_cli.commands.upcycle import upcycle
from cwsam_cli.commands.vectorize import vectorize
from cwsam_cli.distributed.cluster import launcher_environment
from cwsam_cli.errors import CwsamError, as_user_error
from cwsam_cli.raster.network import PATIENCE

_INTERRUPTED = 130
_COURTESY_S = 2


class _Commands(TyperGroup):
    """Turns errors that a user can mend into a sentence, a hint and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console.close_bars()
            if _first():
                typer.echo("interrupted", err=True)
            raise typer.Exit(_INTERRUPTED) from None
        except Exception as error:
            told = as_user_error(error)
            if told is None:
                raise
            if not _first():
                time.sleep(_COURTESY_S)  # then torchrun has ended this process, unless it alone has something to say
            raise typer.Exit(_tell(told)) from None


def _first() -> bool:
    """Whether this process speaks for all that torchrun started on this machine."""
    return launcher_environment().get("LOCAL_RANK", "0") == "0"


def _tell(error: CwsamError) -> int:
    console.close_bars()
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
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)


for _name, _command in (
    ("tile", tile),
    ("train", train),
    ("eval", evaluate),
    ("predict", predict),
    ("vectorize", vectorize),
    ("info", info),
    ("plan", plan),
    ("upcycle", upcycle),
    ("demo", demo),
):
    app.command(_name)(_command)


def main() -> None:
    """Run the command line."""
    try:
        app()
    finally:
        gc.freeze()  # or Python looks for garbage in all that was loaded before it ends: 0.3 s of `vectorize`
