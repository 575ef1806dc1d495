"""`cwsam qgis`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cwsam_cli.commands.options import Overwrite


def qgis(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.zip", help="The plugin.")],
    program: Annotated[
        Path | None,
        typer.Option("--program", help="The program that the plugin starts. Default: that of this installation."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a plugin that runs the commands in QGIS.

    \b
    $ cwsam qgis -o cwsam_qgis.zip

    In QGIS, choose Plugins > Manage and Install Plugins > Install from ZIP. The Processing
    toolbox then has the group cwsam: map a scene, turn a map into polygons, join maps, cut tiles, train, draw
    a sample, and assess models and maps. They can be used in models and in batches, too.

    The plugin holds no model code. It starts this installation of cwsam as a process, shows its
    log and progress, and can cancel it. A canceled map or dataset continues if it is started
    again with the same settings and output. Settings > Options > Processing > Providers > cwsam
    names another program. The plugin needs QGIS 3.22 to 3.x.
    """
    from cwsam_cli.qgis.archive import write_plugin

    group: Any = ctx.find_root().command
    write_plugin(group.commands, output, program=program, overwrite=overwrite)
    typer.echo(f"{output}: in QGIS, choose Plugins > Manage and Install Plugins > Install from ZIP")
