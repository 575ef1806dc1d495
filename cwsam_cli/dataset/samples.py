"""Turn pairs of image and label tiles into samples. Only this module converts codes to indices.

Training takes one random square of each tile per epoch. Evaluation takes squares that cover the
tile. Each pixel counts once: where a square overlaps an earlier one, its label is `IGNORE`.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor
from torch.utils.data import Dataset

from cwsam_cli.config.load import dataset_taxonomy
from cwsam_cli.config.schema import FolderArgs
from cwsam_cli.console import log, track
from cwsam_cli.dataset.manifest import NAME, Band, Manifest, read_manifest
from cwsam_cli.dataset.pairs import find_pairs
from cwsam_cli.dataset.statistics import RunningStats
from cwsam_cli.dataset.transforms import augment, band_statistics, crop_or_pad, normalize
from cwsam_cli.errors import ConfigError, DataError
from cwsam_cli.raster.bands import band_descriptions
from cwsam_cli.raster.grid import Grid, lattice
from cwsam_cli.raster.pixels import read_image
from cwsam_cli.raster.scene import open_raster, reading
from cwsam_cli.taxonomy import IGNORE, Taxonomy


@dataclass(frozen=True, slots=True)
class Sample:
    """A square of a tile."""

    tile: int
    """Number of the tile."""
    top: int
    """First row of the square in the tile, in pixels."""
    left: int
    """First column of the square in the tile, in pixels."""
    fresh_top: int
    """First row inside the square whose labels count; earlier rows belong to another square."""
    fresh_left: int
    """First column inside the square whose labels count."""


class TileDataset(Dataset[tuple[Tensor, Tensor]]):
    """Dataset of image tiles and label tiles with the same names in two folders.

    Args:
        args: the two folders.
        taxonomy: class table of the labels.
        bands: bands of the images with their mean and standard deviation.
        size: side of a sample in pixels.
        train: whether to take one random square per tile. Otherwise squares cover each tile.
        augmented: whether to apply flips, quarter turns and changes of brightness in training.
        without: images of tiles to leave out; see `find_bad_tiles`.

    Attributes:
        pairs: paths of the image tiles and label tiles.
        samples: the squares that cover the tiles, in order; none in training.

    Raises:
        DataError: a folder is missing or empty, or a file has no file of the same name in the other folder.
    """

    def __init__(
        self,
        args: FolderArgs,
        taxonomy: Taxonomy,
        bands: tuple[Band, ...],
        size: int,
        *,
        train: bool = False,
        augmented: bool = False,
        without: Collection[Path] = (),
    ) -> None:
        self.pairs = [pair for pair in _pairs(args) if pair[0] not in without]
        self.bands = bands
        self._statistics = band_statistics(bands)
        self.size = size
        self.train = train
        self.augmented = augmented
        table = taxonomy.code_to_index(ignore_background=args.ignore_bg)
        self._to_index = torch.frombuffer(bytearray(table), dtype=torch.uint8)
        self.samples = [] if train else list(_covering(self.pairs, size))

    def __len__(self) -> int:
        return len(self.pairs) if self.train else len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Read a sample.

        Args:
            key: number of the sample. In training also a seed for its square and its augmentation.

        Returns:
            Image (C, S, S) float32 and class indices (S, S) uint8.
        """
        if not self.train:
            sample = self.samples[key if isinstance(key, int) else key[0]]
            image, label = self._load(sample.tile)
            image, label = crop_or_pad(image, label, sample.top, sample.left, self.size)
            label[: sample.fresh_top] = IGNORE
            label[:, : sample.fresh_left] = IGNORE
            return image, label
        number, seed = key if isinstance(key, tuple) else (key, key)
        generator = torch.Generator().manual_seed(seed)
        image, label = self._load(number)
        top, left = (
            int(torch.randint(max(0, length - self.size) + 1, (), generator=generator)) for length in label.shape
        )
        image, label = crop_or_pad(image, label, top, left, self.size)
        return augment(image, label, generator) if self.augmented else (image, label)

    def collate(self, samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Stack samples to a batch (B, C, S, S), (B, S, S). There may be none."""
        if not samples:
            side = self.size
            return torch.empty(0, len(self.bands), side, side), torch.empty(0, side, side, dtype=torch.uint8)
        images, labels = zip(*samples, strict=True)
        return torch.stack(images), torch.stack(labels)

    def _load(self, number: int) -> tuple[Tensor, Tensor]:
        image_path, label_path = self.pairs[number]
        with open_raster(image_path) as dataset, reading(image_path):
            if dataset.count < len(self.bands):
                raise DataError(
                    f"`{image_path}` has {dataset.count} bands, but {len(self.bands)} are needed",
                    hint="tile the scenes again",
                )
            whole = Window(0, 0, dataset.width, dataset.height)
            image, valid = read_image(dataset, range(1, len(self.bands) + 1), whole)
        with open_raster(label_path) as dataset, reading(label_path):
            if dataset.count != 1:
                raise DataError(
                    f"`{label_path}` has {dataset.count} bands, but a label tile has one band of class codes",
                    hint="if it holds colours, `cwsam tile` turns them into codes",
                )
            codes = dataset.read(1)
        if codes.shape != valid.shape or codes.dtype != np.uint8:
            raise DataError(
                f"`{label_path}` does not have the size of `{image_path.name}`, or is not uint8",
                hint="tile the scenes again",
            )
        pixels = normalize(torch.from_numpy(image), torch.from_numpy(valid), *self._statistics)
        return pixels, self._to_index[torch.from_numpy(codes).long()]


def balanced_probabilities(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the probability of drawing each tile, so that all classes are drawn equally often.

    This corresponds to drawing a class first, and then a tile by its share of that class's pixels.

    Args:
        pixels: labelled pixels by tile and class index, (N, K); see `count_class_pixels`.

    Returns:
        Probabilities (N,).
    """
    sums = pixels.sum(axis=0)
    probabilities: NDArray[np.float64] = (pixels[:, sums > 0] / sums[sums > 0]).mean(axis=1)
    return probabilities


def describe(args: FolderArgs) -> Manifest:
    """Read the description of a dataset from its `dataset.yaml`, or else measure it from the tiles.

    Several folders are described together. Their means and standard deviations are weighted by labelled pixels, or by
    valid pixels where there is no `dataset.yaml`.

    Args:
        args: folders `…/images/train` and `…/labels/train` as `cwsam tile` writes them, or any folders.

    Raises:
        ConfigError: there is no class table, those of the configuration and the dataset differ, or folders differ in
            classes or bands.
    """
    if not args.folders:
        raise ConfigError(
            "`train_dataset.dataset.args.root_path_1` is not set",
            hint="give the folder that `cwsam tile` wrote: --data DIR",
        )
    described = [_describe_folder(args, *folder) for folder in args.folders]
    first, _ = described[0]
    for (images, _), (manifest, _) in zip(args.folders[1:], described[1:], strict=True):
        refuse_different(images, manifest, first, f"`{args.folders[0][0]}`")
    counts = np.array([count for _, count in described], float)[:, None]
    means, stds = (np.array([[getattr(b, of) for b in one.bands] for one, _ in described]) for of in ("mean", "std"))
    if len(described) == 1 or not counts.any():
        return first
    mean = (counts * means).sum(axis=0) / counts.sum()
    std = np.sqrt((counts * (stds**2 + (means - mean) ** 2)).sum(axis=0) / counts.sum())
    bands = tuple(
        _joined([one.bands[number] for one, _ in described], m, s)
        for number, (m, s) in enumerate(zip(mean.tolist(), std.tolist(), strict=True))
    )
    return replace(first, bands=bands)


def _joined(bands: Sequence[Band], mean: float, std: float) -> Band:
    """Describe one band of several datasets. Percentiles of all pixels cannot be known from those of the parts."""
    low, high = [band.minimum for band in bands], [band.maximum for band in bands]
    return Band(
        name=bands[0].name,
        mean=mean,
        std=std,
        minimum=None if None in low else min(value for value in low if value is not None),
        maximum=None if None in high else max(value for value in high if value is not None),
    )


def refuse_different(folder: Path, other: Manifest, manifest: Manifest, which: str) -> None:
    """Stop if two datasets have different classes or bands.

    Args:
        folder: the second dataset's folder.
        other: the second dataset.
        manifest: the first dataset.
        which: the name of the first dataset in the message.

    Raises:
        ConfigError: they differ.
    """
    if not other.taxonomy.same_classes(manifest.taxonomy):
        raise ConfigError(f"`{folder}` has other classes than {which}", hint="tile both with the same class table")
    if [band.name for band in other.bands] != [band.name for band in manifest.bands]:
        raise ConfigError(f"`{folder}` has other bands than {which}", hint="tile scenes with the same bands")


def _describe_folder(args: FolderArgs, images: Path, labels: Path) -> tuple[Manifest, int]:
    """Describe one folder of pairs, and return the weight of its statistics; see `describe`."""
    named = dataset_taxonomy(args)
    root = images.parent.parent
    if (root / NAME).is_file():
        manifest = read_manifest(root)
        if named is not None and not named.same_classes(manifest.taxonomy):
            raise ConfigError(
                f"`dataset.args.classes` lists {', '.join(named.names[:3])}, ... ({len(named)} classes), but "
                f"`{root / NAME}` lists {', '.join(manifest.taxonomy.names[:3])}, ... ({len(manifest.taxonomy)})",
                hint="remove `classes` to use the class table of the dataset",
            )
        labelled = sum(manifest.pixels.get("train", ()))  # older versions did not count pixels with data
        return manifest, manifest.valid_pixels or labelled or manifest.tiles.get("train", 0)
    if named is None:
        raise ConfigError(
            f"`dataset.args.classes` is missing, and `{root}` has no {NAME} with a class table",
            hint="set dataset.args.classes to a class table",
        )
    pairs, stats, count = find_pairs(images, labels), RunningStats(), 0
    for path, _ in track(pairs, "measuring bands", unit="tile"):
        with open_raster(path) as dataset, reading(path):
            image, valid = read_image(dataset, dataset.indexes, Window(0, 0, dataset.width, dataset.height))
        stats.add(image, valid)
        count += int(valid.sum())
    with open_raster(pairs[0][0]) as dataset:
        names = tuple(text or f"band_{i}" for i, text in enumerate(band_descriptions(dataset), start=1))
        bands, dtype = stats.bands(names), dataset.dtypes[0]
        return Manifest(taxonomy=named, bands=bands, dtype=dtype, gsd_m=Grid.of(dataset).gsd_m), count


def find_bad_tiles(args: FolderArgs, taxonomy: Taxonomy, bands: tuple[Band, ...]) -> set[Path]:
    """Try to read all tiles, and return the images of those that cannot be read.

    Raises:
        DataError: no tile can be read.
    """
    tiles, bad = TileDataset(args, taxonomy, bands, 1, train=True), set[Path]()
    for number, (path, _) in enumerate(track(tiles.pairs, "reading tiles", unit="tile")):
        try:
            tiles._load(number)
        except DataError as error:
            log.warning("this tile is skipped: %s", error)
            bad.add(path)
    if len(bad) == len(tiles.pairs):
        raise DataError(f"no tile of `{args.folders[0][0]}` can be read", hint="tile the scenes again")
    return bad


def count_class_pixels(dataset: TileDataset, classes: int) -> NDArray[np.int64]:
    """Count labelled pixels by tile and class index, (N, K), over whole tiles."""
    counts = np.zeros((len(dataset.pairs), classes), np.int64)
    for row, (_, path) in zip(counts, track(dataset.pairs, "counting labels", unit="tile"), strict=True):
        with reading(path), open_raster(path) as labels:
            index = dataset._to_index.numpy()[labels.read(1)]
        row += np.bincount(index[index != IGNORE], minlength=classes)
    return counts


def has_labels(dataset: TileDataset) -> bool:
    """Check whether any pixel is labelled. Stops at the first tile with a label."""
    for _, path in dataset.pairs:
        with reading(path), open_raster(path) as labels:
            if (dataset._to_index.numpy()[labels.read(1)] != IGNORE).any():
                return True
    return False


def _pairs(args: FolderArgs) -> list[tuple[Path, Path]]:
    if not args.folders:
        return find_pairs(Path(), Path())
    return [pair for folders in args.folders for pair in find_pairs(*folders)]


def _covering(pairs: list[tuple[Path, Path]], size: int) -> Iterator[Sample]:
    for number, (path, _) in enumerate(pairs):
        with open_raster(path) as dataset:
            width, height = dataset.width, dataset.height
        for window in lattice(width, height, size, 0):
            top, left = int(window.row_off), int(window.col_off)
            yield Sample(number, top, left, -top % size, -left % size)
