"""The scenes of a dataset with their labels: look into them, and open one at a time."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal, TypeVar

import geopandas
import pyogrio
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from cwsam_cli.config.load import load_taxonomy
from cwsam_cli.console import log, track
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.network import gdal_settings
from cwsam_cli.raster.scene import Scene, open_scene
from cwsam_cli.raster.sources import file_name, scene_names
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.tile.labels import NO_LABEL, Codes, Labels, is_vector, open_raster_labels, place_polygons, read_polygons
from cwsam_cli.tile.request import TileRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledScene:
    """A scene and its labels. Their files are open only while they are read."""

    name: str
    """The first part of its tiles' names."""
    path: str
    """A path, a URL or one of GDAL's virtual paths."""
    labels: Path
    chosen_bands: tuple[str, ...]
    """Names or numbers of the bands; empty takes all."""
    alpha: Literal["mask", "ignore"]
    """Whether a band tagged alpha hides pixels or is a band like the others."""
    crs: str | None
    """The scene's CRS, as WKT."""
    transform: tuple[float, ...]
    """The scene's transform: a, b, c, d, e, f."""
    width: int
    height: int
    band_names: tuple[str, ...]
    dtype: str

    @classmethod
    def inspect(cls, name: str, path: str, labels: Path, bands: tuple[str, ...] = ()) -> "LabelledScene":
        """Read what a scene's header says.

        Args:
            name: the first part of its tiles' names.
            path: the scene.
            labels: its labels.
            bands: names or numbers of its bands; empty takes all.

        Raises:
            DataError: the scene cannot be used.
        """
        with rasterio.Env(**gdal_settings(path)), open_scene(path, chosen_bands=bands) as scene:
            grid = scene.grid
            return cls(
                name=name,
                path=path,
                labels=labels,
                chosen_bands=bands,
                alpha="mask" if scene.alpha else "ignore",
                crs=sys.intern(grid.crs.to_wkt()) if grid.crs else None,
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
    def opened(self, polygons: geopandas.GeoDataFrame | None) -> "Iterator[OpenScene]":
        """Open the scene, and its labels on its grid.

        Args:
            polygons: the labels' polygons; None if the labels are a raster.

        Raises:
            DataError: the labels cannot be brought onto the scene's grid.
        """
        with ExitStack() as stack:
            stack.enter_context(rasterio.Env(**gdal_settings(self.path)))
            scene = stack.enter_context(open_scene(self.path, chosen_bands=self.chosen_bands, alpha=self.alpha))
            if polygons is not None:
                labels: Labels = place_polygons(polygons, scene.grid, self.path)
            else:
                labels = stack.enter_context(open_raster_labels(self.labels, scene.grid, self.path))
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
    """What the headers of the scenes say, and the labels' polygons, which are read once."""

    scenes: tuple[LabelledScene, ...]
    polygons: geopandas.GeoDataFrame | None
    """None if the labels are rasters."""
    taxonomy: Taxonomy | None
    """The class table; None if only the pixels of the labels can tell it."""


def inspect_inputs(request: TileRequest) -> Inputs:
    """Look into all scenes and labels.

    Raises:
        DataError: a scene or the labels cannot be used, or scenes differ in bands or dtype.
        UsageError: the class field is missing, or is given for a raster.
    """
    labels, field = request.labels, request.class_field
    taxonomy = load_taxonomy(request.classes) if request.classes else None
    polygons = None
    if not labels.is_dir() and is_vector(labels):
        if field is None:
            names = " or ".join(pyogrio.read_info(labels)["fields"])
            raise UsageError(
                f"`{labels}` holds polygons, so the field of their classes is needed", hint=f"--class-field {names}"
            )
        polygons, taxonomy = read_polygons(labels, field, taxonomy)
    elif field is not None:
        raise UsageError(f"--class-field is for polygons, but `{labels}` is a raster", hint="leave it out")
    scenes: list[LabelledScene] = []
    for path, name in zip(request.scenes, scene_names(request.scenes), strict=True):
        own = labels / file_name(path) if labels.is_dir() else labels
        scene = LabelledScene.inspect(name, path, own, request.bands)
        if polygons is None:
            with open_raster_labels(scene.labels, scene.grid, path):
                pass  # the labels can be brought onto the scene's grid
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
    return Inputs(tuple(scenes), polygons, taxonomy)


def each_opened(
    work: Iterable[tuple[LabelledScene, T]], polygons: geopandas.GeoDataFrame | None, what: str, unit: str
) -> Iterator[tuple[OpenScene, T]]:
    """Yield the items of work with their open scene. One scene is open at a time.

    Args:
        work: items with their scenes, sorted by scene.
        polygons: the labels' polygons; None if the labels are rasters.
        what: text of the progress bar.
        unit: name of one item.
    """
    for scene, items in groupby(track(work, what, unit=unit), key=itemgetter(0)):
        with scene.opened(polygons) as opened:
            for _, item in items:
                yield opened, item
