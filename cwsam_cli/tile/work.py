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
from cwsam_cli.taxonomy import IGNORE, Taxonomy
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
        """Return the part that `to_bytes` described."""
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
    taxonomy = plan.taxonomy
    known = [*taxonomy.codes, *taxonomy.unlabelled, NO_LABEL, IGNORE]
    is_lost = np.ones(256 - UNEXPECTED, bool)  # negative codes are places from the end
    is_lost[known] = False
    kept = np.full(256 - UNEXPECTED, IGNORE, np.uint8)
    kept[taxonomy.codes] = taxonomy.codes
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_VALIDATE_CREATION_OPTIONS=False),  # 8 % of a label's time
        closing(SceneReader(plan.scenes, inputs.table, plan.size)) as reader,
    ):

        def write(part: slice) -> bytes:
            statistics = RunningStats()
            pixels = np.zeros((len(SPLITS), len(taxonomy)), np.int64)
            left_out: Counter[str] = Counter()
            written: list[tuple[int, float, NDArray[np.int64]]] = []
            for number in range(part.start, part.stop):
                tile = plan.tiles[number]
                opened = reader.open(tile.scene)
                codes = opened.labels.read(tile.window)
                above, beside = tile.unlabelled
                codes[:above] = codes[:, :beside] = NO_LABEL
                counts = count_codes(codes)
                labelled, has_lost = counts[taxonomy.codes], counts[is_lost].any()
                if not labelled.any() and not has_lost:
                    left_out[REASONS[0]] += 1
                    continue
                image, valid = opened.scene.read(tile.window)
                if has_lost:
                    _refuse_lost(plan.scenes[tile.scene], codes[valid & is_lost[codes]])
                label = kept.take(codes)
                valid_share = np.count_nonzero(valid) / valid.size
                if valid_share < 1:
                    label[~valid] = IGNORE
                    labelled = _count(label, taxonomy)
                if reason := plan.selection.why_not(float(labelled.sum() / valid.size), valid_share):
                    left_out[reason] += 1
                    continue
                above, beside = tile.shared
                fresh = slice(above, None), slice(beside, None)
                pixels[SPLITS.index(tile.split)] += _count(label[fresh], taxonomy) if above or beside else labelled
                if tile.split == "train":
                    statistics.add(image[:, *fresh], valid[fresh])
                name = Path(tile.split, tile_name(plan.scenes[tile.scene], tile))
                place = Place(folder, name, tile.window, plan.size)
                if plan.format == "windows":
                    write_view(place, opened.scene)
                else:
                    write_image(place, opened.scene, image, valid)
                write_labels(place, opened.scene, label, taxonomy)
                written.append((number, valid_share, labelled))
            return WrittenPart(
                numbers=np.array([number for number, _, _ in written], np.int64),
                valid=np.array([valid for _, valid, _ in written], np.float64),
                labelled=np.array([own for _, _, own in written], np.int64).reshape(-1, len(taxonomy)),
                pixels=pixels,
                statistics=statistics,
                left_out=np.array([left_out[reason] for reason in REASONS]),
            ).to_bytes()

        yield write


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


def _count(codes: NDArray[np.uint8], taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Return the number of pixels by class index (K,)."""
    return np.bincount(codes.ravel(), minlength=IGNORE + 1)[taxonomy.codes]
