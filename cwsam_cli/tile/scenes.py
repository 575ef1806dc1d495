"""The scenes of a dataset with their labels: look into them, and open one at a time."""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.console import log
from cwsam_cli.errors import DataError
from cwsam_cli.raster.place import refuse_enormous
from cwsam_cli.raster.scene import Scene, open_scene
from cwsam_cli.raster.sources.fingerprint import fingerprint
from cwsam_cli.raster.sources.network import GDAL_CACHE, gdal_settings
from cwsam_cli.raster.sources.scenes import scene_names
from cwsam_cli.raster.sources.views import public_name
from cwsam_cli.taxonomy import LabelTable
from cwsam_cli.tile.footprints import PlacedScene
from cwsam_cli.tile.labels.codes import NO_LABEL, Codes, Labels
from cwsam_cli.tile.labels.corrections import CorrectedLabels, CorrectionSource
from cwsam_cli.tile.labels.files import LabelFiles, LabelSource, find_labels
from cwsam_cli.tile.labels.place import refuse_far_labels
from cwsam_cli.tile.request import TileRequest

_COLUMN_BYTES = 96 << 20
"""Decoded blocks to keep; a scene whose rows of blocks need more is read in columns."""
_LARGEST_CACHE = 1 << 30
"""Bytes. A file whose blocks are as wide as the scene cannot be read in columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledScene(PlacedScene):
    """A scene and its labels. Their files are open only while they are read."""

    labels: LabelSource
    corrections: CorrectionSource | None = None
    """Features that override the labels."""
    chosen_bands: tuple[str, ...]
    """Names or numbers of the bands; empty takes all."""
    alpha: Literal["mask", "ignore"]
    """Whether a band tagged alpha hides pixels or is a band like the others."""
    hides_pixels: bool
    """Whether any pixel can be without data."""
    block: tuple[int, int]
    """Rows and columns of a block of the file."""
    pixel_bytes: int
    """Bytes of a pixel in all bands of the file."""
    band_names: tuple[str, ...]
    dtype: str

    @classmethod
    def inspect(cls, name: str, path: str, labels: LabelFiles, bands: tuple[str, ...] = ()) -> "LabelledScene":
        """Read what the headers of a scene and its labels say.

        Args:
            name: the first part of its tiles' names.
            path: the scene.
            labels: its labels.
            bands: names or numbers of its bands; empty takes all.

        Raises:
            DataError: the scene or its labels cannot be used.
        """
        with rasterio.Env(**gdal_settings(path)), open_scene(path, chosen_bands=bands) as scene:
            grid = scene.grid
            refuse_enormous(grid.width, grid.height, path)
            return cls(
                name=name,
                path=path,
                labels=labels.of(path, grid),
                corrections=labels.corrections,
                chosen_bands=bands,
                alpha="mask" if scene.alpha else "ignore",
                hides_pixels=scene.hides_pixels,
                block=scene.dataset.block_shapes[scene.bands[0] - 1],
                pixel_bytes=sum(np.dtype(dtype).itemsize for dtype in scene.dataset.dtypes),
                fingerprint=fingerprint(path, scene.dataset),
                crs=sys.intern(grid.crs.to_wkt()) if grid.crs else None,
                transform=tuple(grid.transform)[:6],
                width=grid.width,
                height=grid.height,
                band_names=scene.band_names,
                dtype=scene.dtype,
            )

    def cache_bytes(self, rows: int) -> int:
        """Return the bytes of decoded blocks to keep so that no block is decoded twice.

        Windows of some rows are read in the order of `column_width`, row by row.

        Args:
            rows: rows of a window.
        """
        return min(self._row_bytes(rows) * self.column_width(rows) * 5 // 4, _LARGEST_CACHE)

    def column_width(self, rows: int) -> int:
        """Return the width of the columns into which the scene is cut for reading; mostly its own width.

        Args:
            rows: rows of a window.
        """
        block = self.block[1]
        fitting = _COLUMN_BYTES // self._row_bytes(rows)
        return self.width if self.width <= fitting or block >= self.width else max(1, fitting // block) * block

    def _row_bytes(self, rows: int) -> int:
        """Return the bytes of all blocks that windows of some rows touch, per column."""
        height = self.block[0]
        return min(self.height + height, (-(-rows // height) + 1) * height) * self.pixel_bytes


class OpenScene:
    """An open scene with the labels on its grid. The scene's file is opened when its pixels are first read.

    Args:
        described: the scene.
        table: the class table; None if the labels' values are class codes.
        rows: rows that are read together, for the size of GDAL's cache.

    Raises:
        DataError: the labels cannot be brought onto the scene's grid.
    """

    def __init__(self, described: LabelledScene, table: LabelTable | None, rows: int) -> None:
        self._described = described
        self._scene: Scene | None = None
        self._reduced: NDArray[np.bool_] | None = None
        with ExitStack() as stack:
            cache = GDAL_CACHE + described.cache_bytes(rows)
            stack.enter_context(rasterio.Env(**gdal_settings(described.path, cache=cache)))
            labels = described.labels.opened(described.grid, described.path, table)
            self.labels: Labels = stack.enter_context(labels)
            if described.corrections is not None:
                self.labels = CorrectedLabels(self.labels, described.corrections.placed(described.grid, described.path))
            self._files = stack.pop_all()

    @property
    def scene(self) -> Scene:
        """The scene."""
        if self._scene is None:
            described = self._described
            opened = open_scene(
                described.path, chosen_bands=described.chosen_bands, alpha=described.alpha, is_checked=True
            )
            self._scene = self._files.enter_context(opened)
        return self._scene

    def about_codes(self, window: Window) -> Codes:
        """Return the label codes (H, W) of a window, `NO_LABEL` where a reduced view of the scene has no data."""
        codes = self.labels.read(window)
        hidden = self._hidden(window)
        if hidden is not None:
            codes[hidden] = NO_LABEL
        return codes

    def count_corrections(self, window: Window) -> Counter[str]:
        """Count the pixels of a window that corrections override; see `CorrectedLabels.count`."""
        if not isinstance(self.labels, CorrectedLabels):
            return Counter()
        return self.labels.count(window, self._hidden(window))

    def _hidden(self, window: Window) -> NDArray[np.bool_] | None:
        """Return where a reduced view of the scene has no data (H, W); None if no pixel can be without data."""
        if not self._described.hides_pixels:
            return None
        if self._reduced is None:
            self._reduced = self.scene.read_reduced_valid()
        rows, cols = (
            (np.arange(start, start + count) * reduced) // whole
            for start, count, reduced, whole in (
                (int(window.row_off), int(window.height), self._reduced.shape[0], self._described.height),
                (int(window.col_off), int(window.width), self._reduced.shape[1], self._described.width),
            )
        )
        hidden: NDArray[np.bool_] = ~self._reduced[rows][:, cols]
        return hidden

    def close(self) -> None:
        """Close all files."""
        self._files.close()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the headers of the scenes and of their labels say."""

    scenes: tuple[LabelledScene, ...]
    table: LabelTable | None
    """The class table; None if only the pixels of the labels can tell it."""


def new_scenes(request: TileRequest, earlier: Sequence[PlacedScene]) -> tuple[str, ...]:
    """Return the scenes that a dataset does not have yet.

    Raises:
        DataError: a scene cannot be read.
    """
    known = {scene.fingerprint for scene in earlier}
    paths = {scene.path for scene in earlier}
    added: list[str] = []
    for path in request.scenes:
        with rasterio.Env(**gdal_settings(path)), open_scene(path, chosen_bands=request.bands) as scene:
            is_known = fingerprint(path, scene.dataset) in known
        if not is_known and public_name(path) in paths:
            log.warning("`%s` has changed since the dataset was made, so it is added as another scene", path)
        added += [] if is_known else [path]
    skipped = len(request.scenes) - len(added)
    if skipped:
        first = next(path for path in request.scenes if path not in added)
        log.info("%d scene(s) are in `%s` already and are skipped, such as `%s`", skipped, request.output, first)
    return tuple(added)


def inspect_inputs(
    request: TileRequest, earlier: Sequence[PlacedScene] = (), table: LabelTable | None = None
) -> Inputs:
    """Look into all scenes and labels.

    Args:
        request: the wish.
        earlier: the scenes of the dataset to which the others are added.
        table: its class table.

    Raises:
        DataError: a scene or the labels cannot be used, or scenes differ in bands or dtype.
        UsageError: an option for vector labels is missing, or is given for a raster.
    """
    labels = find_labels(request, table)
    scenes: list[LabelledScene] = []
    names = scene_names(request.scenes, [scene.name for scene in earlier])
    for path, name in zip(request.scenes, names, strict=True):
        scene = LabelledScene.inspect(name, path, labels, request.bands)
        first = scenes[0] if scenes else scene
        if (scene.band_names, scene.dtype) != (first.band_names, first.dtype):
            raise DataError(
                f"`{path}` has the bands {', '.join(scene.band_names)} ({scene.dtype}), "
                f"but `{first.path}` has {', '.join(first.band_names)} ({first.dtype})",
                hint="put scenes with the same bands and dtype into one dataset",
            )
        scenes.append(scene)
    refuse_far_labels((str(scene.path), scene.grid, scene.labels) for scene in scenes)
    unplaced = [scene.path for scene in scenes if scene.crs is None]
    if unplaced:
        log.warning("%d scene(s) have no CRS, such as `%s`: their tiles have none either", len(unplaced), unplaced[0])
    return Inputs(tuple(scenes), labels.table)


class SceneReader:
    """Opens the scenes of a dataset, one at a time. A process needs one of its own.

    Args:
        scenes: the scenes.
        table: the class table; None if the labels' values are class codes.
        rows: see `OpenScene`.
    """

    def __init__(self, scenes: Sequence[LabelledScene], table: LabelTable | None, rows: int) -> None:
        self._scenes, self._table, self._rows = scenes, table, rows
        self._number: int | None = None
        self._open: OpenScene | None = None

    def open(self, number: int) -> OpenScene:
        """Open a scene and close the one before, unless it is the same.

        Raises:
            DataError: the labels cannot be brought onto the scene's grid.
        """
        if self._open is None or self._number != number:
            self.close()
            self._open, self._number = OpenScene(self._scenes[number], self._table, self._rows), number
        return self._open

    def close(self) -> None:
        """Close all files."""
        if self._open is not None:
            self._open.close()
            self._open = None
