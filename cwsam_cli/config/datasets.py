"""The three datasets in the configuration of a run."""

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal


def require_positive(where: object, *names: str) -> None:
    """Raise a ValueError if a field is 0, negative or infinite; None is allowed."""
    for name in names:
        value = getattr(where, name)
        if value is not None and not 0 < value < inf:
            raise ValueError(f"{name} must be above 0 and finite, not {value}")


def _listed(paths: str | list[str]) -> list[str]:
    return [paths] if isinstance(paths, str) else paths


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderArgs:
    """Two folders with files of the same names: image tiles and label tiles."""

    root_path_1: str | list[str] = ""
    """Folder of image tiles, or several."""
    root_path_2: str | list[str] = ""
    """Folder of label tiles (class codes, 255 = no label); as many folders as in `root_path_1`."""
    classes: str | list[str] | None = None
    """Path or shipped name of a class table, or a list of names (then code = index).
    null: the class table in `dataset.yaml`."""
    palette: list[list[int]] = field(default_factory=list)
    """One [red, green, blue] per class, 0-255, if `classes` is a list of names."""
    ignore_bg: bool = False
    """If true, code 0 counts as unlabelled."""

    def __post_init__(self) -> None:
        if len(_listed(self.root_path_1)) != len(_listed(self.root_path_2)):
            raise ValueError("root_path_1 and root_path_2 differ in their number of folders")
        for color in self.palette:
            if len(color) != 3 or not all(0 <= part <= 255 for part in color):
                raise ValueError(f"palette: {color} is not [red, green, blue] within 0 and 255")
        if self.palette and isinstance(self.classes, list) and len(self.palette) != len(self.classes):
            raise ValueError(f"palette has {len(self.palette)} colours for {len(self.classes)} classes")

    @property
    def folders(self) -> list[tuple[Path, Path]]:
        """Return the folders of images with their folders of labels; empty if they are not set."""
        pairs = zip(_listed(self.root_path_1), _listed(self.root_path_2), strict=True)
        return [(Path(images), Path(labels)) for images, labels in pairs if images]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderDataset:
    """The kind of dataset; only `paired-image-folders` exists."""

    name: Literal["paired-image-folders"] = "paired-image-folders"
    args: FolderArgs = field(default_factory=FolderArgs)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapperArgs:
    """How a tile is changed before the model sees it."""

    inp_size: int | None = None
    """Side of the input in pixels; if given, it must equal `model.args.inp_size`."""
    augment: bool = False
    """If true, training tiles are flipped, turned by 90° and changed in brightness. Crops are always random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """A level of the YAML; see `WrapperArgs`."""

    args: WrapperArgs = field(default_factory=WrapperArgs)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """One of the three datasets of a run."""

    dataset: FolderDataset = field(default_factory=FolderDataset)
    wrapper: Wrapper = field(default_factory=Wrapper)
    batch_size: int = 1
    """Images per batch in each process."""
    sampler: Literal["balanced"] | None = None
    """How training tiles are drawn. null: each tile once per epoch. `balanced`: the same number of tiles, with
    replacement, and tiles with rare classes more often."""
    fold: int | None = None
    """For `train_dataset` only: the fold that is validation, if the dataset has folds. Training uses the tiles of the
    other folds beyond the dataset's buffer. null: no cross-validation."""

    def __post_init__(self) -> None:
        require_positive(self, "batch_size")
