"""The scenes of a dataset with their labels: look into them, and open one at a time."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from cwsam_cli.console import log, track
from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.scene import Scene, open_scene
from cwsam_cli.taxonomy import LabelTable
from cwsam_cli.tile.label_files import LabelFiles, LabelSource, find_labels
from cwsam_cli.tile.labels import NO_LABEL, Codes, Labels
from cwsam_cli.tile.request import TileRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledScene:
    """A scene and its labels. Their files are open only while they are read."""

    name: str
    """The first part of its tiles' names."""
    path: Path
    labels: LabelSource
    crs: str | None
    """The scene's CRS, as WKT."""
    transform: tuple[float, ...]
    """The scene's transform: a, b, c, d, e, f."""
    width: int
    height: int
    band_names: tuple[str, ...]
    dtype: str

    @classmethod
    def inspect(cls, name: str, path: Path, labels: LabelFiles) -> "LabelledScene":
        """Read what the headers of a scene and its labels say.

        Raises:
            DataError: the scene or its labels cannot be used.
        """
        with open_scene(path) as scene:
            grid = scene.grid
            return cls(
                name=name,
                path=path,
                labels=labels.of(str(path), grid),
                crs=grid.crs.to_wkt() if grid.crs else None,
                transform=tuple(grid.transform)[:6],
                width=grid.width,
                height=grid.height,
                band_names=scene.band_names,
                dtype=scene.dtype,
            )

    @property
    def grid(self) -> Grid:
        """Return the scene's grid."""
        crs = CRS.from_wkt(self.crs) if self.crs else None
        return Grid(crs, Affine(*self.transform), self.width, self.height)

    @contextmanager
    def opened(self, table: LabelTable | None) -> "Iterator[OpenScene]":
        """Open the scene, and its labels on its grid.

        Args:
            table: the class table; None if the labels' values are class codes.

        Raises:
            DataError: the labels cannot be brought onto the scene's grid.
        """
        with ExitStack() as stack:
            scene = stack.enter_context(open_scene(self.path))
            labels: Labels = stack.enter_context(self.labels.opened(scene.grid, self.path, table))
            yield OpenScene(scene, labels)


@dataclass(frozen=True, slots=True)
class OpenScene:
    """An open scene with the labels on its grid."""

    scene: Scene
    labels: Labels

    def codes(self, window: Window) -> Codes:
        """Return the label codes (H, W) of a window, `NO_LABEL` where the scene has no data."""
        codes = self.labels.read(window)
        _, valid = self.scene.read(window)
        codes[~valid] = NO_LABEL
        return codes


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the headers of the scenes and of their labels say."""

    scenes: tuple[LabelledScene, ...]
    table: LabelTable | None
    """The class table; None if only the pixels of the labels can tell it."""


def inspect_inputs(request: TileRequest) -> Inputs:
    """Look into all scenes and labels.

    Raises:
        DataError: a scene or the labels cannot be used, or scenes differ in bands or dtype.
        UsageError: an option for vector labels is missing, or is given for a raster.
    """
    labels = find_labels(request)
    scenes: list[LabelledScene] = []
    stems = Counter(path.stem for path in request.scenes)
    for number, path in enumerate(request.scenes):
        name = path.stem if stems[path.stem] == 1 else f"{path.stem}-{number}"
        scene = LabelledScene.inspect(name, path, labels)
        first = scenes[0] if scenes else scene
        if (scene.band_names, scene.dtype) != (first.band_names, first.dtype):
            raise DataError(
                f"`{path}` has the bands {', '.join(scene.band_names)} ({scene.dtype}), "
                f"but `{first.path}` has {', '.join(first.band_names)} ({first.dtype})",
                hint="put scenes with the same bands and dtype into one dataset",
            )
        scenes.append(scene)
    unplaced = [scene.path for scene in scenes if scene.crs is None]
    if unplaced:
        log.warning("%d scene(s) have no CRS, such as `%s`: their tiles have none either", len(unplaced), unplaced[0])
    return Inputs(tuple(scenes), labels.table)


def each_opened(
    work: Iterable[tuple[LabelledScene, T]], table: LabelTable | None, what: str, unit: str
) -> Iterator[tuple[OpenScene, T]]:
    """Yield the items of work with their open scene. One scene is open at a time.

    Args:
        work: items with their scenes, sorted by scene.
        table: the class table; None if the labels' values are class codes.
        what: text of the progress bar.
        unit: name of one item.
    """
    for scene, items in groupby(track(work, what, unit=unit), key=itemgetter(0)):
        with scene.opened(table) as opened:
            for _, item in items:
                yield opened, item
