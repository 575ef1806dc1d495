"""Which checkpoints are there; torch is not needed to tell."""

from pathlib import Path

from cwsam_cli.errors import CheckpointError


def refuse_missing(path: Path) -> None:
    """Stop where there is no such file.

    Raises:
        CheckpointError: so it is.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint `{path}`", hint=newest_checkpoint())


def newest_checkpoint() -> str:
    """Return a hint that names the newest `save/*/model_epoch_best.pth`."""
    found = sorted(Path("save").glob("*/model_epoch_best.pth"), key=lambda path: path.stat().st_mtime)
    return f"the newest here: -c {found[-1]}" if found else "train one first: cwsam train --config tiny --data dataset/"
