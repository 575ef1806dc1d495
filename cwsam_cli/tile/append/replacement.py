"""Replace a dataset by itself with more tiles, so that a kill at any moment leaves one of the two whole.

The new folder holds the old files as hard links, so no tile is copied or moved. It is completed inside the journal.
Two renames then replace the folder. If a kill comes between them, `restore` undoes the first one.
"""

import os
import shutil
from pathlib import Path

from cwsam_cli.dataset.folds import INDEX
from cwsam_cli.dataset.manifest import NAME
from cwsam_cli.files import reserved
from cwsam_cli.journal import folder_of

STATE = "append.npz"
"""What `tile.append.state` writes."""
_OLD = "old"


def link_files(dataset: Path, target: Path) -> None:
    """Add all files of a dataset to a folder, except its descriptions.

    Args:
        dataset: the dataset. Links to folders become folders with the same files.
        target: the folder. Files that it has already stay.
    """
    for root, _, names in os.walk(dataset, followlinks=True):
        inside = target / Path(root).relative_to(dataset)
        inside.mkdir(parents=True, exist_ok=True)
        for name in names:
            if Path(root) == dataset and name in (NAME, INDEX, STATE):
                continue
            source, link = Path(root, name), inside / name
            if os.path.lexists(link):  # a killed run has made it
                continue
            try:
                os.link(source, link, follow_symlinks=False)
            except OSError:  # some file systems have no hard links
                shutil.copy2(source, link, follow_symlinks=False)


def replace_dataset(dataset: Path, new: Path) -> None:
    """Replace a dataset by a folder that lies in its journal; the old one stays in the journal.

    Raises:
        OSError: a folder cannot be renamed. The dataset is then the old one.
    """
    old = folder_of(dataset) / _OLD
    os.replace(dataset, old)
    try:
        os.replace(new, dataset)
    except OSError:
        os.replace(old, dataset)
        raise


def restore(dataset: Path) -> None:
    """Undo or complete a replacement that was killed.

    Raises:
        MachineError: another process is writing the dataset.
    """
    old = folder_of(dataset) / _OLD
    if not old.is_dir():
        return
    with reserved(dataset):
        if os.path.lexists(dataset):
            shutil.rmtree(old.parent)
        elif old.is_dir():
            os.replace(old, dataset)
