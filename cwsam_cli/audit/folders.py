"""Find the tiles of each split, in the layouts in which data sets come."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cwsam_cli.config.load import load_config, load_taxonomy
from cwsam_cli.dataset.manifest import NAME, SPLITS, Manifest, read_manifest
from cwsam_cli.dataset.pairs import find_pairs
from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import Taxonomy

_IMAGES = ("images", "image", "img", "imgs")
_LABELS = ("labels", "label", "masks", "mask", "annotations", "gt")
_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
WHOLE = "all"
"""Name of the split of a dataset that is not split."""


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a dataset."""

    pairs: dict[str, list[tuple[Path, Path]]]
    """Images with their labels, by split."""
    manifest: Manifest | None
    """The content of `dataset.yaml`, if all tiles belong to one."""
    taxonomy: Taxonomy | None
    root: Path | None = None
    """The folder of `dataset.yaml`, if all tiles belong to one."""


def find_dataset(path: Path, classes: str | None) -> Found:
    """List the tiles of a dataset by split.

    The dataset is a folder with `images/train` and `labels/train`, with `train/images` and `train/labels`, or with
    `images` and `labels` alone; masks can stand for labels. Or it is a configuration of `cwsam train`.

    Args:
        path: the folder, or the configuration's YAML file.
        classes: a class table's path or shipped name; None takes the dataset's own.

    Raises:
        DataError: no such folders are there, or images and labels do not pair up.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        folders = _configured(path)
    else:
        folders = _in_splits(path)
    if not folders:
        raise DataError(
            f"`{path}` holds no images and labels",
            hint="folders are images/train and labels/train, or train/images and train/labels; "
            "for others, give a configuration with root_path_1 and root_path_2",
        )
    pairs = {
        split: [pair for images, labels in own if any(images.iterdir()) for pair in find_pairs(images, labels)]
        for split, own in folders.items()
    }
    pairs = {split: own for split, own in pairs.items() if own}
    roots = {images.parent.parent for own in folders.values() for images, _ in own} if path.is_file() else {path}
    described = [root for root in roots if (root / NAME).is_file()]
    manifest = read_manifest(described[0]) if len(roots) == len(described) == 1 else None
    taxonomy = load_taxonomy(classes) if classes else manifest.taxonomy if manifest else None
    return Found(pairs, manifest, taxonomy, described[0] if manifest is not None else None)


def _configured(path: Path) -> dict[str, list[tuple[Path, Path]]]:
    config = load_config(str(path))
    sections = {"train": config.train_dataset, "val": config.val_dataset, "test": config.test_dataset}
    args = {split: section.dataset.args for split, section in sections.items()}
    return {split: own.folders for split, own in args.items() if own.folders}


def _in_splits(root: Path) -> dict[str, list[tuple[Path, Path]]]:
    images, labels = _first(root, _IMAGES), _first(root, _LABELS)
    found = {}
    for split in SPLITS:
        if images and labels:
            own = _first(images, _NAMES[split]), _first(labels, _NAMES[split])
        else:
            folder = _first(root, _NAMES[split])
            own = (_first(folder, _IMAGES), _first(folder, _LABELS)) if folder else (None, None)
        if own[0] and own[1]:
            found[split] = [(own[0], own[1])]
    if not found and images and labels:
        found[WHOLE] = [(images, labels)]
    return found


def _first(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)
