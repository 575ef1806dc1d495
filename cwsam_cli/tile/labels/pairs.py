"""Which label file belongs to which scene: by option, by name, or by the ground that both show."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.sources.scenes import file_name
from cwsam_cli.tile.labels.bounds import Bounds, bounds_near, raster_place
from cwsam_cli.tile.request import TileRequest

_SIDECARS = {".xml", ".qml", ".yaml", ".yml", ".csv", ".txt", ".json", ".md", ".tfw", ".prj", ".ovr", ".msk", ".dbf"}
"""Suffixes of files beside label rasters."""


def pair_labels(request: TileRequest) -> dict[str, Path]:
    """Return the label file of each scene that an option, a pattern or a name gives one.

    Raises:
        DataError: a file of a pattern is missing, or the folder has no labels for any scene.
        UsageError: an option names no scene, or several.
    """
    scenes = request.scenes
    paired = {_scene_of(wanted, scenes): path for wanted, path in request.labels_for}
    labels = request.labels
    if labels is None:
        lacking = [scene for scene in scenes if scene not in paired]
        if lacking:
            raise UsageError(f"`{lacking[0]}` has no labels", hint=f"name them: --labels-for {lacking[0]}=LABELS")
        return paired
    by_stem = _by_stem(labels) if labels.is_dir() else {}
    for scene in scenes:
        if scene in paired:
            continue
        if "{stem}" in str(labels) or "{name}" in str(labels):
            paired[scene] = Path(
                str(labels).replace("{stem}", Path(file_name(scene)).stem).replace("{name}", file_name(scene))
            )
        elif not labels.is_dir():
            paired[scene] = labels
        elif (labels / file_name(scene)).is_file():
            paired[scene] = labels / file_name(scene)
        elif Path(file_name(scene)).stem in by_stem:
            paired[scene] = by_stem[Path(file_name(scene)).stem]
    return paired


def is_raster(path: Path) -> bool:
    """Return whether GDAL opens a file as a raster."""
    try:
        with rasterio.open(path):
            return True
    except rasterio.errors.RasterioIOError:
        return False


def _scene_of(wanted: str, scenes: Iterable[str]) -> str:
    """Return the scene with a path, name or stem.

    Raises:
        UsageError: there is none, or several.
    """
    found = [scene for scene in scenes if wanted in (scene, file_name(scene), Path(file_name(scene)).stem)]
    exact = [scene for scene in found if scene == wanted]
    if len(exact or found) != 1:
        many = f"{len(found)} scenes have" if found else "no scene has"
        raise UsageError(
            f"--labels-for: {many} the name `{wanted}`", hint="give the scene's path as on the command line"
        )
    return (exact or found)[0]


def _by_stem(folder: Path) -> dict[str, Path]:
    """Return the only file of each stem in a folder, sidecars left out."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() not in _SIDECARS:
            found.setdefault(path.stem, []).append(path)
    return {stem: paths[0] for stem, paths in found.items() if len(paths) == 1}


@dataclass(frozen=True, slots=True)
class Footprints:
    """Where the label rasters of a folder lie."""

    folder: Path
    boxes: dict[str, tuple[shapely.STRtree, tuple[Path, ...]]]
    """Bounding boxes and files by CRS, as WKT."""

    @classmethod
    def of(cls, folder: Path) -> "Footprints":
        """Read the headers of a folder's rasters.

        Raises:
            DataError: the folder has no rasters with a CRS.
        """
        found: dict[str, list[tuple[Bounds, Path]]] = {}
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix.lower() not in _SIDECARS and is_raster(path):
                place = raster_place(path)
                if place is not None:
                    found.setdefault(place[1], []).append((place[0], path))
        boxes = {
            wkt: (shapely.STRtree([shapely.box(*bounds) for bounds, _ in own]), tuple(path for _, path in own))
            for wkt, own in found.items()
        }
        return cls(folder, boxes)

    def on(self, scene: str, grid: Grid) -> tuple[Path, ...]:
        """Return the label rasters that show ground of a scene.

        Raises:
            DataError: there are none.
        """
        found: list[Path] = []
        for wkt, (boxes, paths) in self.boxes.items() if grid.crs is not None else ():
            for near in bounds_near(grid, wkt, 0.0):
                which: NDArray[np.int64] = (
                    np.arange(len(paths)) if near is None else boxes.query(shapely.box(*near), predicate="intersects")
                )
                found += [paths[i] for i in which.tolist()]
        if not found:
            why = "and none shows its ground" if grid.crs is not None else "and it has no CRS to find labels by"
            raise DataError(
                f"`{self.folder}` has no labels with the name of `{scene}`, {why}",
                hint=f"name them: --labels-for {scene}=LABELS",
            )
        return tuple(dict.fromkeys(found))
