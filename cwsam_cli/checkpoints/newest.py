"""Find the checkpoint that the user means, without torch."""

from collections.abc import Iterable
from pathlib import Path

from cwsam_cli.errors import CheckpointError

_BEST = "model_epoch_best.pth"


def refuse_missing(path: Path) -> None:
    """Stop if the path is not a file.

    Raises:
        CheckpointError: the path is a folder, or nothing is there. The hint names a checkpoint to use.
    """
    if path.is_dir():
        inside = find_best(path)
        raise CheckpointError(
            f"`{path}` is a folder, not a checkpoint", hint=f"use -c {inside}" if inside else newest_checkpoint()
        )
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint `{path}`", hint=newest_checkpoint())


def find_best(folder: Path) -> Path | None:
    """Return the newest `model_epoch_best.pth` of a run's folder, or of a folder of runs."""
    return _newest([*folder.glob(_BEST), *folder.glob(f"*/{_BEST}")])


def newest_checkpoint() -> str:
    """Return a hint that names the newest `save/*/model_epoch_best.pth`."""
    found = _newest(Path("save").glob(f"*/{_BEST}"))
    return f"the newest here: -c {found}" if found else "train one first: cwsam train --config tiny --data dataset/"


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)
