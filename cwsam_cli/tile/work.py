"""Write the tiles of a plan, part by part. A part is a run of tiles that one process writes."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.dataset.statistics import RunningStats
from cwsam_cli.errors import DataError
from cwsam_cli.files import refuse_unseen
from cwsam_cli.taxonomy import IGNORE
from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.labels.codes import NO_LABEL, UNEXPECTED, Codes, count_codes
from cwsam_cli.tile.plan import TilePlan
from cwsam_cli.tile.scenes import Inputs, LabelledScene, SceneReader
from cwsam_cli.tile.selection import REASONS
from cwsam_cli.tile.tiles import Place, WrittenTile, tile_name, write_image, write_labels, write_view
from cwsam_cli.tile.workers import cut

_LEAST = 32
"""Fewest tiles of a part."""


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """The tiles of a part that were written, and how many were not."""

    numbers: NDArray[np.int64]
    """Their numbers in `TilePlan.tiles` (N,)."""
    valid: NDArray[np.float64]
    """The share of pixels with data, 0 to 1 (N,)."""
    labelled: NDArray[np.int64]
    """Labelled pixels by tile and class index (N, K)."""
    pixels: NDArray[np.int64]
    """Labelled pixels by split and class index, without those that an earlier tile also shows (3, K)."""
    statistics: RunningStats
    """Of the training pixels that no earlier tile shows."""
    left_out: NDArray[np.int64]
    """Number of tiles that were left out, by reason (3,); see `REASONS`."""

    def to_bytes(self) -> bytes:
        """Return bytes for `from_bytes`."""
        buffer = io.BytesIO()
        own: dict[str, Any] = {
            "numbers": self.numbers,
            "valid": self.valid,
            "labelled": self.labelled,
            "pixels": self.pixels,
            "left_out": self.left_out,
        }
        np.savez(buffer, **own | self.statistics.to_arrays())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, raw: bytes) -> "WrittenPart":
        """Return the part that `to_bytes` described.

        Raises:
            ValueError, KeyError, zipfile.BadZipFile: the bytes describe no part.
        """
        with np.load(io.BytesIO(raw)) as arrays:
            own = {name: arrays[name] for name in ("numbers", "valid", "labelled", "pixels", "left_out")}
            return cls(**own, statistics=RunningStats.from_arrays(arrays))

    def tiles(self, plan: TilePlan) -> Iterator[WrittenTile]:
        """Yield its tiles."""
        for number, valid, labelled in zip(self.numbers.tolist(), self.valid.tolist(), self.labelled, strict=True):
            planned = plan.tiles[number]
            yield WrittenTile(planned, tile_name(plan.scenes[planned.scene], planned), valid, labelled)


def cut_parts(plan: TilePlan) -> list[slice]:
    """Cut the tiles of a plan into parts. They depend on the plan only, not on the number of processes."""
    return cut([(tile.scene, tile.row_off) for tile in plan.tiles], _LEAST)


@contextmanager
def writing_parts(plan: TilePlan, inputs: Inputs, folder: Path) -> Iterator[Callable[[slice], bytes]]:
    """Yield a function that writes the tiles of a part and returns its `WrittenPart` as bytes.

    Args:
        plan: the tiles.
        inputs: the labels.
        folder: where the dataset is written.
    """
    with writing_tiles(plan, inputs, folder) as writer:

        def write(part: slice) -> bytes:
            statistics = RunningStats()
            pixels = np.zeros((len(SPLITS), len(plan.taxonomy)), np.int64)
            left_out: Counter[str] = Counter()
            written: list[WrittenTile] = []
            numbers: list[int] = []
            for number in range(part.start, part.stop):
                tile = plan.tiles[number]
                content = writer.read(tile)
                if isinstance(content, str):
                    left_out[content] += 1
                    continue
                above, beside = tile.shared
                fresh = slice(above, None), slice(beside, None)
                label, valid = content.label[fresh], content.valid[fresh]
                if tile.others:
                    is_fresh = tile.fresh[fresh]
                    label, valid = label[is_fresh], valid & is_fresh
                own = writer.count(label) if above or beside or tile.others else content.pixels
                pixels[SPLITS.index(tile.split)] += own
                if tile.split == "train":
                    statistics.add(content.image[:, *fresh], valid)
                written.append(writer.write(tile, content))
                numbers.append(number)
            return WrittenPart(
                numbers=np.array(numbers, np.int64),
                valid=np.array([tile.valid for tile in written], np.float64),
                labelled=np.array([tile.pixels for tile in written], np.int64).reshape(-1, len(plan.taxonomy)),
                pixels=pixels,
                statistics=statistics,
                left_out=np.array([left_out[reason] for reason in REASONS]),
            ).to_bytes()

        yield write


@contextmanager
def writing_tiles(plan: TilePlan, inputs: Inputs, folder: Path) -> Iterator["TileWriter"]:
    """Open what reads and writes the tiles of a plan.

    Raises:
        MachineError: this process is a worker of a cluster that does not see the folder.
    """
    refuse_unseen(folder)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_VALIDATE_CREATION_OPTIONS=False),  # 8 % of a label's time
        closing(SceneReader(plan.scenes, inputs.table, plan.size)) as reader,
    ):
        yield TileWriter(plan, reader, folder)


@dataclass(frozen=True, slots=True)
class TileContent:
    """The pixels of a tile that becomes part of the dataset."""

    image: NDArray[np.generic]
    """Pixels (C, H, W)."""
    valid: NDArray[np.bool_]
    """Where they are valid (H, W)."""
    valid_share: float
    """Share of valid pixels, 0 to 1."""
    label: NDArray[np.uint8]
    """Codes of classes, `IGNORE` where there is no label (H, W)."""
    pixels: NDArray[np.int64]
    """Labelled pixels by class index (K,)."""


class TileWriter:
    """Reads tiles from their scenes and writes them.

    Args:
        plan: the tiles.
        reader: opens the scenes.
        folder: where the dataset is written.
    """

    def __init__(self, plan: TilePlan, reader: SceneReader, folder: Path) -> None:
        self._plan, self._reader, self._folder = plan, reader, folder
        taxonomy = plan.taxonomy
        self._is_lost = np.ones(256 - UNEXPECTED, bool)  # negative codes are places from the end
        self._is_lost[[*taxonomy.codes, *taxonomy.unlabelled, NO_LABEL, IGNORE]] = False
        self._kept = np.full(256 - UNEXPECTED, IGNORE, np.uint8)
        self._kept[taxonomy.codes] = taxonomy.codes

    def read(self, tile: PlannedTile, labelled: NDArray[np.bool_] | None = None) -> TileContent | str:
        """Read a tile, or return why it is left out.

        Args:
            tile: the tile.
            labelled: the pixels that keep their labels (H, W); None is all but `PlannedTile.unlabelled`.
        """
        opened = self._reader.open(tile.scene)
        codes = opened.labels.read(tile.window)
        if labelled is not None:
            codes[~labelled] = NO_LABEL
        else:
            above, beside = tile.unlabelled
            codes[:above] = codes[:, :beside] = NO_LABEL
        counts = count_codes(codes)
        pixels, has_lost = counts[self._plan.taxonomy.codes], counts[self._is_lost].any()
        if not pixels.any() and not has_lost:
            return REASONS[0]
        image, valid = opened.scene.read(tile.window)
        if has_lost:
            _refuse_lost(self._plan.scenes[tile.scene], codes[valid & self._is_lost[codes]])
        label = self._kept.take(codes)
        valid_share = np.count_nonzero(valid) / valid.size
        if valid_share < 1:
            label[~valid] = IGNORE
            pixels = self.count(label)
        reason = self._plan.selection.why_not(float(pixels.sum() / valid.size), valid_share)
        return reason or TileContent(image, valid, valid_share, label, pixels)

    def write(self, tile: PlannedTile, content: TileContent) -> WrittenTile:
        """Write a tile."""
        plan, scene = self._plan, self._reader.open(tile.scene).scene
        name = tile_name(plan.scenes[tile.scene], tile)
        place = Place(self._folder, Path(tile.split, name), tile.window, plan.size)
        if plan.format == "windows":
            write_view(place, scene)
        else:
            write_image(place, scene, content.image, content.valid)
        write_labels(place, scene, content.label, plan.taxonomy)
        return WrittenTile(tile, name, content.valid_share, content.pixels)

    def count(self, label: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the number of labelled pixels by class index (K,)."""
        return np.bincount(label.ravel(), minlength=IGNORE + 1)[self._plan.taxonomy.codes]


def _refuse_lost(scene: LabelledScene, codes: Codes) -> None:
    """Stop if valid pixels have codes without a class. Planning misses them if a reduced scene has no data there.

    Raises:
        DataError: they have none.
    """
    if lost := np.unique(codes).tolist():
        shown = ", ".join("a value" if code == UNEXPECTED else f"{code}" for code in lost)
        raise DataError(
            f"the labels of `{scene.path}` hold {shown} without a class, in few pixels among ground without data",
            hint="add all values of the labels to a class table: --classes classes.yaml",
        )
