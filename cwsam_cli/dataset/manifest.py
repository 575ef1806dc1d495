"""The description of a dataset, `dataset.yaml`: class table, bands and their statistics, counts."""

import dataclasses
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import yaml

from cwsam_cli.config.load import validate
from cwsam_cli.errors import ConfigError, DataError, UsageError, one_line
from cwsam_cli.files import refuse_foreign, write_text
from cwsam_cli.taxonomy import Taxonomy

NAME = "dataset.yaml"
SPLITS = ("train", "val", "test")
Split = Literal["train", "val", "test"]
Unit = Literal["block", "scene", "date", "polygons"]
VERSION = 1
_WRITTEN = ("images", "labels", "tiles", "append", "dataset")
"""Names of a dataset's files and folders, without suffixes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One image band; `(value - mean) / std` normalises its pixels."""

    name: str
    mean: float
    std: float
    minimum: float | None = None
    """None in files that an older version wrote."""
    maximum: float | None = None
    p2: float | None = None
    """2nd percentile."""
    p98: float | None = None
    """98th percentile."""

    def __post_init__(self) -> None:
        if not (isfinite(self.mean) and 0 < self.std < inf):
            raise ValueError(f"the band {self.name[:80]!a} has mean {self.mean} and standard deviation {self.std}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How the ground was divided into training, validation and test."""

    by: Unit
    """What goes to one split together. Under `date`, splits share ground."""
    block_px: int
    """Pixels per side of a block, of the first scene. `tiles.gpkg` names the block of each tile."""
    block_m: float | None = None
    """Side of a block in metres, if it was given so; the blocks of each scene then have their own number of pixels."""
    buffer_px: int
    """Smallest distance of tiles of different splits, in pixels."""
    seed: int
    folds: int | None = None
    """Number of folds; `tiles.gpkg` has the fold of each tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """The options that made a dataset. `cwsam tile --append` uses them again."""

    size: int
    """Pixels per side of a tile."""
    overlap: int
    """Pixels that neighbouring training tiles share."""
    shares: tuple[float, float, float]
    """Shares of the ground for train, val and test."""
    split_by: str
    """What goes to one split together, or the path of polygons that say the split."""
    split_field: str
    """The field of those polygons."""
    format: str
    """`gtiff` or `windows`."""
    bands: tuple[str, ...]
    """Names or numbers of the scenes' bands; empty is all."""
    min_valid: float
    """Smallest share of a tile's pixels with data."""
    min_labelled: float
    """Smallest share of a tile's pixels with a label."""
    crs: str
    """CRS to which scenes are brought; empty is their own."""
    pixel_m: float
    """Size in metres of the pixels to which scenes are brought; 0 is their own."""
    unscale: bool
    """Whether scales and offsets of bands are applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of `dataset.yaml`."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    taxonomy: Taxonomy
    """The class table; label tiles contain its codes."""
    bands: tuple[Band, ...]
    """Statistics of the valid pixels of the training split; each pixel counts once."""
    dtype: str
    """Data type of the image tiles, e.g. `uint16`."""
    gsd_m: float | None
    """Ground sampling distance in metres per pixel, of the scene of the first tile; None if it has no CRS."""
    tiles: dict[str, int] = field(default_factory=dict)
    """Number of tiles by split."""
    valid_pixels: int = 0
    """Training pixels with data, which `bands` describes; 0 in files of older versions."""
    pixels: dict[str, list[int]] = field(default_factory=dict)
    """Labelled pixels by split and class index; a pixel in two tiles counts once."""
    ground_m2: dict[str, float] = field(default_factory=dict)
    """Labelled ground in m² by split; empty if the scenes have no CRS, or in files of older versions."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of tiles that were left out, by reason. What the buffer takes is counted in whole tiles of ground."""
    corrected: dict[str, int] = field(default_factory=dict)
    """Number of pixels of the scenes that `--corrections` overrides (`pixels`), and of those whose class changed
    (`class_changed`), that had no label (`label_added`) and that have none now (`label_removed`). Empty without it."""
    weights: list[float] = field(default_factory=list)
    """Weight by class index for `loss_weight: auto`, from the training split; empty in files of older versions."""
    split: SplitRule | None = None
    """How the ground was divided; None if an older version wrote the dataset."""
    tiling: Tiling | None = None
    """The options that made the dataset; None if an older version wrote it."""
    command: str = ""
    """The command line that made the dataset."""
    appended: list[str] = field(default_factory=list)
    """The command lines that added scenes, in their order."""
    version: int = VERSION
    """Version of this schema."""

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version is {self.version}, this program reads {VERSION}")


def is_number_type(dtype: str) -> bool:
    """Return whether a text names a dtype of numbers."""
    try:
        return np.dtype(dtype).kind in "uif"
    except TypeError:
        return False


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `dataset.yaml` into a dataset's folder."""
    raw = dataclasses.asdict(manifest)
    raw["bands"] = list(raw["bands"])
    raw["taxonomy"] |= {key: list(raw["taxonomy"][key]) for key in ("classes", "unlabelled")}
    write_text(folder / NAME, yaml.safe_dump(raw, allow_unicode=True, sort_keys=False))


def refuse_other_dataset(folder: Path) -> None:
    """Raise an error if `cwsam tile` did not write everything in a folder.

    Raises:
        UsageError: `dataset.yaml` is from another program, or the folder contains other files.
    """
    path = folder / NAME
    if not path.is_file():
        return
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict) or not {"taxonomy", "bands", "tiles", "command"} <= raw.keys():
        raise UsageError(f"`cwsam tile` did not write `{path}`", hint="choose another output")
    refuse_foreign(folder, _WRITTEN)


def _refuse_odd(manifest: Manifest) -> None:
    """Check the values of a description that was read.

    Raises:
        ValueError: a value is not possible; the message names its field.
    """
    if not manifest.bands:
        raise ValueError("bands is empty")
    if not is_number_type(manifest.dtype):
        raise ValueError(f"dtype is {manifest.dtype[:80]!a}")
    if manifest.gsd_m is not None and not 0 < manifest.gsd_m < inf:
        raise ValueError(f"gsd_m is {manifest.gsd_m}")
    for name in ("tiles", "ground_m2", "left_out", "corrected"):
        odd = [number for number in getattr(manifest, name).values() if not 0 <= number < inf]
        if odd:
            raise ValueError(f"{name} has the value {odd[0]}")
    lists = {f"pixels.{split}": counts for split, counts in manifest.pixels.items()}
    for name, numbers in (lists | ({"weights": manifest.weights} if manifest.weights else {})).items():
        if len(numbers) != len(manifest.taxonomy) or not all(0 <= number < inf for number in numbers):
            raise ValueError(f"{name} should hold one number per class, none negative")


def read_manifest(folder: Path) -> Manifest:
    """Read `dataset.yaml` from a dataset's folder.

    Raises:
        DataError: the file is missing, damaged or of another version.
    """
    path = folder / NAME
    if not path.is_file():
        inside = next(iter(sorted(folder.glob(f"*/{NAME}"))), None)
        raise DataError(
            f"`{folder}` is not a dataset: it has no {NAME}",
            hint=f"did you mean `{inside.parent}`?" if inside else "make one: cwsam tile SCENE --labels ... -o DATASET",
        )
    try:
        manifest = validate(Manifest, yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
        _refuse_odd(manifest)
    except (ConfigError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(
            f"`{path}` is damaged or of another version: {one_line(error)}", hint="tile the scenes again"
        ) from None
    return manifest
