"""Outputs in object stores: they are made in a folder of this disk, and uploaded when they are complete."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cwsam_cli.console import log
from cwsam_cli.raster.sources.network import CLOUDS

_FOLDER = ".cwsam-uploads"


def place_output(output: str) -> tuple[Path, str]:
    """Return where an output is made, and the address to which it is uploaded; empty if it stays here."""
    scheme = next((scheme for scheme in CLOUDS if output.startswith(scheme)), None)
    if scheme is None:
        return Path(output), ""
    address = output.rstrip("/")
    return Path(_FOLDER, scheme.removesuffix("://"), *address.removeprefix(scheme).split("/")), address


def upload_all(files: Sequence[Path], address: str, *, kept: Sequence[Path] = ()) -> None:
    """Upload files, the last one to an address and the others beside it, and remove them here.

    Args:
        files: the files, the main one last.
        address: of the main one.
        kept: files that stay here, too.

    Raises:
        MachineError: a file could not be uploaded; all files stay here.
    """
    from cwsam_cli.raster.sources.vsi import upload  # loads rasterio

    folder = address.rpartition("/")[0]
    for path in files:
        upload(path, f"{folder}/{path.name}")
    log.info("`%s` is uploaded to `%s`", files[-1].name, address)
    for path in set(files) - set(kept):
        path.unlink()
    for parent in files[-1].parents:
        if _FOLDER not in parent.parts:
            break
        with suppress(OSError):  # other outputs are in it
            parent.rmdir()
