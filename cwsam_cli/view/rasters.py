"""Prepare rasters for the page: class maps, images, and layers of values such as confidence.

The page reads GeoTIFFs by ranges. A file that has tiles and overviews is served as it is. Any other raster is
written once as a COG with 8 bits per band.

# H, W rows and columns
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from cwsam_cli.console import track
from cwsam_cli.errors import DataError
from cwsam_cli.maps.codes import NODATA
from cwsam_cli.maps.legend import Legend
from cwsam_cli.maps.strips import DTYPES, open_classes
from cwsam_cli.raster.cog import DRAFT_CREATION, write_class_cog
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.mapfile import KINDS
from cwsam_cli.raster.place import has_position, refuse_enormous
from cwsam_cli.raster.quicklook import display_bands, display_ranges
from cwsam_cli.raster.scene import Scene, open_raster, open_scene, reading, writing
from cwsam_cli.raster.sources.network import is_plain_file
from cwsam_cli.raster.sources.scenes import file_name
from cwsam_cli.raster.sources.views import View
from cwsam_cli.raster.style import CLASSES_TAG
from cwsam_cli.taxonomy import IGNORE, LandCoverClass, Taxonomy, name_key
from cwsam_cli.view.frame import Frame
from cwsam_cli.view.request import ClassEntry, Layer

_SMALL = 1024
"""Pixels per side that a page reads at once: of a raster without overviews, of the smallest overview, of a block."""
_FEW_CODES = 64
"""A raster without class names that has so many values at most counts as a class map."""
_COMPRESSIONS = {None, "lzw", "deflate", "zstd", "packbits"}
"""Compressions that are read as they are; JPEG would need a conversion of colours."""
_READ = {"uint8", "uint16", "int16", "uint32", "int32"}
_AREA_ROWS, _AREA_COLUMNS = 1025, 33
"""Most rows and columns whose pixels' areas are computed where areas differ. The page interpolates between them."""
_LABELS = {"confidence": ("confidence", " %"), "entropy": ("entropy", " %"), "set_size": ("classes in the set", "")}


@dataclass(frozen=True, slots=True)
class RasterSource:
    """A raster that the user named."""

    path: str
    grid: Grid
    holds_classes: bool

    @property
    def name(self) -> str:
        """Name for the page."""
        return file_name(self.path)


def inspect_raster(path: str) -> RasterSource:
    """Find out whether a raster is a class map or an image.

    Raises:
        DataError: it cannot be read.
    """
    with open_raster(path) as dataset:
        refuse_enormous(dataset.width, dataset.height, path)
        return RasterSource(path, Grid.of(dataset), _holds_classes(dataset, path))


def _holds_classes(dataset: rasterio.DatasetReader, path: str) -> bool:
    if dataset.count != 1 or dataset.dtypes[0] not in DTYPES:
        return False
    if CLASSES_TAG in dataset.tags() or dataset.colorinterp[0] == ColorInterp.palette or Legend.read(dataset).names:
        return True
    return kind_of(path) == "" and len(_values(dataset, path)) <= _FEW_CODES


def kind_of(path: str) -> str:
    """Return which layer of a map a file's name says, such as `confidence`; empty for any other name."""
    kind = Path(file_name(path)).stem.rpartition(".")[2]
    return kind if kind in KINDS else ""


def _values(dataset: rasterio.DatasetReader, path: str) -> NDArray[np.generic]:
    """Return the values of the first band in a reduced picture, without nodata."""
    shape = min(dataset.height, _SMALL), min(dataset.width, _SMALL)
    with reading(path):
        return np.unique(dataset.read(1, out_shape=shape, masked=True).compressed())


def _codes(dataset: rasterio.DatasetReader, path: str) -> list[int]:
    """Return the codes of a map of uint8.

    The class table of this program has them all. The codes of other maps are counted, because the rare ones are not in
    a reduced picture.
    """
    if CLASSES_TAG in dataset.tags():
        return [int(code) for code in _values(dataset, path)]
    counts = np.zeros(IGNORE + 1, np.int64)
    with reading(path):
        windows = [window for _, window in dataset.block_windows(1)]
        for window in track(windows, f"reading the codes of {file_name(path)}", unit="block"):
            counts += np.bincount(dataset.read(1, window=window).ravel(), minlength=len(counts))
    return [int(code) for code in np.flatnonzero(counts)]


def prepare_classes(source: RasterSource, frame: Frame, folder: Path) -> Layer:
    """Prepare a class map.

    Args:
        source: the raster.
        frame: the CRS of the page.
        folder: where a COG is written if one is needed.

    Raises:
        DataError: it has more than 255 codes, or no place in the CRS of the page.
    """
    grid = source.grid
    with open_raster(source.path) as dataset:
        legend = Legend.read(dataset)
        ready = dataset.dtypes[0] == "uint8" and _is_ready(dataset, source, frame)
        codes = _codes(dataset, source.path) if ready else []
        nodata = dataset.nodata
    values = {code: code for code in {*legend.names, *codes} if 0 <= code <= IGNORE and code != nodata}
    file, note = Path(source.path), ""
    if not ready:
        file = folder / f"{Path(source.name).stem}.tif"
        with _placed(source, frame, folder) as (path, placed):
            grid, note = placed, "" if path == Path(source.path) else "nearest neighbour from another grid"
            values = _write_classes(path, grid, legend, file)
        nodata = IGNORE
    return Layer(
        kind="classes",
        name=source.name,
        file=file,
        extent=_extent(grid),
        finest=_finest(grid),
        classes=tuple(
            ClassEntry(value, code, legend.name(code), legend.color(code)) for code, value in sorted(values.items())
        ),
        note=note,
        facts={"nodata": nodata, "bands": [1], "alpha": 0, "area": _areas(grid)},
    )


def _write_classes(path: Path, grid: Grid, legend: Legend, target: Path) -> dict[int, int]:
    """Write a class map as a COG of uint8, and return the value of each code in it. Codes of 0-254 stay as they are."""
    draft = target.with_suffix(".draft.tif")
    values: dict[int, int] = {}
    place = {"width": grid.width, "height": grid.height, "crs": grid.crs, "transform": grid.transform}
    top = 0
    with (
        open_classes(path, band=1) as map_,
        writing(target),
        rasterio.open(draft, "w", **DRAFT_CREATION, **place) as out,
    ):
        nodata = map_.nodata
        for strip in map_.strips(f"preparing {target.stem}"):
            present, index = _factorized(strip.codes)
            for code in map(int, present):
                if code != NODATA and code not in values:
                    values[code] = _free_value(code, values.values(), path)
            lookup = np.array([values.get(int(code), IGNORE) for code in present], np.uint8)
            rows = lookup[index].reshape(strip.codes.shape)
            out.write(rows, 1, window=Window(0, top, grid.width, len(rows)))
            top += len(rows)
    unused = {code for code in legend.names if 0 <= code < IGNORE and code != nodata} - {*values.values()}
    values |= {code: code for code in unused}
    write_class_cog(draft, Window(0, 0, grid.width, grid.height), target, _taxonomy(values, legend), {})
    draft.unlink()
    return values


def _factorized(codes: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Return the different codes, and the position among them of each pixel. `numpy.unique` would sort all pixels."""
    import pandas as pd

    index, present = pd.factorize(codes.ravel())
    return np.asarray(present), index


def _free_value(code: int, taken: Any, path: Path) -> int:
    if 0 <= code < IGNORE and code not in taken:
        return code
    free = next((value for value in range(IGNORE - 1, -1, -1) if value not in taken), None)
    if free is None:
        raise DataError(f"`{path}` has more than {IGNORE} codes", hint="the page shows maps of up to 255 codes")
    return free


def _taxonomy(values: dict[int, int], legend: Legend) -> Taxonomy:
    """Return the class table of a COG; names that a class table does not allow get the code behind them."""
    classes, used = [], set()
    for code, value in sorted(values.items(), key=lambda item: item[1]):
        name = " ".join(legend.name(code).split())[:80] or f"class {code}"
        name = f"{name} ({code})" if name_key(name) in used else name
        used.add(name_key(name))
        classes.append(LandCoverClass(code=value, name=name, color=legend.color(code)))
    return Taxonomy(classes=tuple(classes) or (LandCoverClass(code=0, name="none", color="#000000"),))


def prepare_image(source: RasterSource, frame: Frame, folder: Path, *, visible: bool = True) -> Layer:
    """Prepare an image, or a layer of values with one band.

    Args:
        source: the raster.
        frame: the CRS of the page.
        folder: where a COG is written if one is needed.
        visible: whether the page shows it from the beginning.

    Raises:
        DataError: it cannot be shown as an image, or has no place in the CRS of the page.
    """
    with _scene(source, frame) as scene:
        shown = display_bands(scene)
        is_grey = len(set(shown)) == 1
        bands = list(shown[:1] if is_grey else shown)
        ranges = display_ranges(scene, bands)
        label, unit = _LABELS.get(kind_of(source.path), (Path(source.name).stem, ""))
        facts: dict[str, Any] = {"label": label, "unit": unit, "scale": (0, 1), "area": None}
        with open_raster(source.path) as dataset:
            ready, count, nodata = _is_ready(dataset, source, frame), dataset.count, dataset.nodata
        if ready:
            file = Path(source.path)
            limits = dict(zip(bands, ranges, strict=True))
            low, high = zip(*(limits.get(band, (0.0, 255.0)) for band in range(1, count + 1)), strict=True)
            facts |= {"bands": bands + [scene.alpha] * bool(scene.alpha), "nodata": nodata, "alpha": scene.alpha}
        else:
            file = folder / f"{Path(source.name).stem}.tif"
            exact = is_grey and scene.dtype == "uint8"  # then values under the cursor are those of the file
            _write_image(scene, bands, [(0.0, 255.0)] if exact else ranges, file)
            if not exact:
                facts["scale"] = (ranges[0][0], (ranges[0][1] - ranges[0][0]) / 255)
            low, high = zip(*(ranges if exact else [(0.0, 255.0)] * len(bands)), (0.0, 255.0), strict=True)
            alpha = len(bands) + 1
            facts |= {"bands": list(range(1, alpha + 1)), "nodata": None, "alpha": alpha}
        facts |= {"min": low, "max": high}
        grid = scene.north_up
        if grid.crs is None:
            grid = _unplaced(grid)
    return Layer(
        kind="values" if is_grey else "image",
        name=source.name,
        file=file,
        extent=_extent(grid),
        finest=_finest(grid),
        facts=facts,
        visible=visible,
    )


@contextmanager
def _scene(source: RasterSource, frame: Frame) -> Iterator[Scene]:
    """Open an image in the CRS of the page."""
    grid, path = source.grid, source.path
    frame.refuse_unplaced(source.path, grid.crs)
    if frame.crs is not None and (not frame.has(grid.crs) or grid.transform.b or grid.transform.d):
        members = (("", str(Path(path).absolute()) if is_plain_file(path) else path),)
        path = View(name=source.name, members=members, crs=frame.crs.to_wkt()).to_text()
    with open_scene(path) as scene:
        yield scene


def _write_image(scene: Scene, bands: list[int], ranges: list[tuple[float, float]], target: Path) -> None:
    """Write bands, stretched to 0-255, and an alpha band as a COG."""
    grid = scene.north_up if scene.grid.crs is not None else _unplaced(scene.grid)
    draft = target.with_suffix(".draft.tif")
    creation = DRAFT_CREATION | {"count": len(bands) + 1, "nodata": None, "interleave": "pixel"}
    creation |= {"photometric": "rgb" if len(bands) == 3 else "minisblack", "alpha": "unspecified"}
    low, high = (np.array(ends, np.float32)[:, None, None] for ends in zip(*ranges, strict=True))
    index = [scene.bands.index(band) for band in bands]
    rows = max(1, 2**21 // grid.width)
    tops = range(0, grid.height, rows)
    with writing(target):
        with rasterio.open(
            draft, "w", width=grid.width, height=grid.height, crs=grid.crs, transform=grid.transform, **creation
        ) as out:
            for top in track(tops, f"preparing {target.stem}", unit="strip"):
                window = Window(0, top, grid.width, min(rows, grid.height - top))
                image, valid = scene.read_north_up(window)
                with np.errstate(invalid="ignore"):
                    bright = (image[index].astype(np.float32) - low) * (255 / np.maximum(high - low, 1e-6))
                    shown = np.where(valid, bright.clip(0, 255).round(), 0).astype(np.uint8)
                out.write(np.concatenate([shown, 255 * valid[None].astype(np.uint8)]), window=window)
            out.colorinterp = [*out.colorinterp[: len(bands)], ColorInterp.alpha]
        options = {"compress": "zstd", "level": 1, "bigtiff": "if_safer", "overview_resampling": "average"}
        rasterio.shutil.copy(draft, target, driver="COG", **options)
    draft.unlink()


@contextmanager
def _placed(source: RasterSource, frame: Frame, folder: Path) -> Iterator[tuple[Path, Grid]]:
    """Yield the path and the grid of a class map in the CRS of the page, with rows from north to south."""
    grid = source.grid
    frame.refuse_unplaced(source.path, grid.crs)
    if grid.crs is None:
        yield Path(source.path), _unplaced(grid)
        return
    if frame.has(grid.crs) and _is_north_up(grid):
        yield Path(source.path), grid
        return
    view = folder / f"{Path(source.name).stem}.placed.vrt"
    with (
        open_raster(source.path) as dataset,
        WarpedVRT(dataset, crs=frame.crs, resampling=Resampling.nearest, add_alpha=dataset.nodata is None) as warped,
    ):
        rasterio.shutil.copy(warped, view, driver="VRT")
        placed = Grid.of(warped)
    yield view, placed
    view.unlink()


def _unplaced(grid: Grid) -> Grid:
    """Return the grid of a raster without a CRS: its own if it has a position, else columns and rows."""
    if has_position(grid) and _is_north_up(grid):
        return grid
    return Grid(None, Affine.scale(1, -1), grid.width, grid.height)


def _is_north_up(grid: Grid) -> bool:
    t = grid.transform
    return t.a > 0 and t.e < 0 and t.b == t.d == 0


def _is_ready(dataset: rasterio.DatasetReader, source: RasterSource, frame: Frame) -> bool:
    """Return whether a page can read the file as it is."""
    path, grid = source.path, source.grid
    if not is_plain_file(path) or dataset.driver != "GTiff" or not frame.has(grid.crs) or grid.crs is None:
        return False
    smallest = max(dataset.shape) / max(dataset.overviews(1), default=1)
    return (
        _is_north_up(grid)
        and max(max(shape) for shape in dataset.block_shapes) <= _SMALL
        and smallest <= _SMALL
        and (dataset.profile.get("tiled", False) or max(dataset.shape) <= _SMALL)
        and dataset.profile.get("compress") in _COMPRESSIONS
        and set(dataset.dtypes) <= _READ
        and "NBITS" not in dataset.tags(1, ns="IMAGE_STRUCTURE")
        and all(
            set(flags) <= {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha, MaskFlags.per_dataset}
            and (MaskFlags.per_dataset not in flags or MaskFlags.alpha in flags)
            for flags in dataset.mask_flag_enums
        )
        and not any(Path(f"{path}{suffix}").exists() for suffix in (".ovr", ".msk"))
    )


def _extent(grid: Grid) -> tuple[float, float, float, float]:
    west, north = grid.transform @ (0, 0)
    east, south = grid.transform @ (grid.width, grid.height)
    return west, south, east, north


def _finest(grid: Grid) -> float:
    return float(min(abs(grid.transform.a), abs(grid.transform.e)))


def _areas(grid: Grid) -> dict[str, Any] | None:
    """Return areas of pixels in m², one if all are equal, else for some rows and columns; None without a CRS."""
    if grid.crs is None:
        return None
    if grid.pixel_area_m2 is not None:
        return {"rows": [0], "columns": [0], "m2": [[grid.pixel_area_m2]]}
    rows = _nodes(grid.height, _AREA_ROWS)
    areas = [grid.pixel_areas(row, 1)[0] for row in rows]
    columns = [0] if len(areas[0]) == 1 else _nodes(grid.width, _AREA_COLUMNS)
    return {"rows": rows, "columns": columns, "m2": [[float(area[column]) for column in columns] for area in areas]}


def _nodes(size: int, most: int) -> list[int]:
    """Return evenly spaced rows or columns from the first to the last."""
    return [round(node) for node in np.linspace(0, size - 1, min(most, size)).tolist()]
