"""A map → polygons of its classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import rasterio
from pyproj import CRS

from cwsam_cli.config.load import load_taxonomy
from cwsam_cli.errors import MissingCRS
from cwsam_cli.files import refuse_existing, refuse_input, staged
from cwsam_cli.geo.features import Columns, wkb
from cwsam_cli.geo.legend import Legend
from cwsam_cli.geo.measure import measure_regions, to_ground
from cwsam_cli.geo.polygonize import polygonize
from cwsam_cli.geo.raster import GDAL_CACHE_MB
from cwsam_cli.geo.strips import ClassRaster, on_grid, open_classes
from cwsam_cli.geo.style import qml
from cwsam_cli.geo.vector import vector_driver, within_shapefile, write_layer_style, write_stream


@dataclass(frozen=True, slots=True)
class VectorResult:
    """What was written."""

    path: Path
    polygons: int
    area_m2: dict[str, float] = field(default_factory=dict)
    """By class name."""


@dataclass(slots=True)
class _Tally:
    polygons: int = 0
    areas: dict[int, float] = field(default_factory=dict)


def vectorize(
    map_path: Path,
    output: Path,
    *,
    band: int | None = None,
    classes: str | None = None,
    confidence: Path | None = None,
    layer: str | None = None,
    format_name: str | None = None,
    overwrite: bool = False,
) -> VectorResult:
    """Turn a class raster into polygons along its pixel edges.

    Args:
        map_path: a raster of one integer band.
        output: its suffix tells the format.
        overwrite: replace an older file.

    Raises:
        DataError: the raster is no class raster.
        MissingCRS: it has no CRS, so areas would have no unit.
    """
    driver = vector_driver(output, format_name)
    refuse_input(output, map_path)
    refuse_existing(output, overwrite=overwrite)
    layer = layer or output.stem
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB), open_classes(map_path, band) as source:
        grid = source.grid
        if grid.crs is None:
            raise MissingCRS(map_path, "so areas would have no unit")
        legend = Legend.of(load_taxonomy(classes)) if classes else Legend.read(source.dataset, source.band)
        columns = Columns()
        tally = _Tally()
        batches = _batches(source, columns, legend, tally)
        if driver == "ESRI Shapefile":
            batches = within_shapefile(batches, output.name)
        with staged(output, overwrite=overwrite) as path:
            write_stream(batches, columns.schema, path, driver=driver, crs=CRS.from_wkt(grid.crs.to_wkt()), layer=layer)
            if driver == "GPKG":
                write_layer_style(path, layer, qml({c: (legend.name(c), legend.color(c)) for c in tally.areas}, "code"))
    return VectorResult(output, tally.polygons, {legend.name(code): area for code, area in sorted(tally.areas.items())})


def _batches(source: ClassRaster, columns: Columns, legend: Legend, tally: _Tally) -> Iterator[pa.RecordBatch]:
    grid = source.grid
    for regions in polygonize(source.strips("polygons"), grid.width, grid.height):
        areas, perimeters = measure_regions(regions, grid)
        tally.polygons += len(regions)
        for code in np.unique(regions.codes).tolist():
            tally.areas[code] = tally.areas.get(code, 0.0) + float(areas[regions.codes == code].sum())
        yield columns.batch(regions, areas, perimeters, legend, wkb(to_ground(regions.xy, grid.transform), regions))
