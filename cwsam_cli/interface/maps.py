"""Polygons and accuracy of maps, which are classified arrays or any raster of class codes.

# H rows, W columns
"""

import tempfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
from numpy.typing import NDArray

from cwsam_cli.errors import DataError
from cwsam_cli.interface.class_map import ClassMap, as_file, write_array
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.taxonomy import IGNORE
from cwsam_cli.vectorize.pipeline import vectorize
from cwsam_cli.vectorize.request import VectorizeRequest
from cwsam_cli.vectorize.result import VectorizeResult
from cwsam_cli.verify.mapped import MapAssessment
from cwsam_cli.verify.mapped import assess_map as assess_map_file


def vectorize_map(source: ClassMap | Path | str, output: Path | str, **options: Any) -> VectorizeResult:
    """Write the polygons of a map, as `cwsam vectorize` does.

    Args:
        source: a classified array, or the path of any raster of class codes.
        output: the layer: `.gpkg`, `.shp`, `.fgb`, `.geojson`, `.geojsonl` or `.parquet`.
        options: of `cwsam vectorize`, such as `min_area="1ha"`, `simplify="15m"` or `overwrite=True`.

    Raises:
        UsageError: the output exists, or a size has no unit.
        MissingCRS: the map has no CRS, so areas would have no unit.
        DataError: the raster is not a class raster.
    """
    with as_file(source) as path:
        return vectorize(VectorizeRequest(map_path=path, output=Path(output), **options))


def polygons(source: ClassMap | Path | str, **options: Any) -> geopandas.GeoDataFrame:
    """Return the polygons of a map, with the fields that `cwsam vectorize` writes.

    Args:
        source: a classified array, or the path of any raster of class codes.
        options: of `cwsam vectorize`, such as `min_area="1ha"` or `simplify="15m"`.

    Returns:
        One row per polygon: `code`, `name`, `area_m2`, `area_ha`, `perim_m`, `pixels` and `geometry`.

    Raises:
        UsageError: a size has no unit.
        MissingCRS: the map has no CRS, so areas would have no unit.
        DataError: the raster is not a class raster.
    """
    with tempfile.TemporaryDirectory(prefix="cwsam-") as folder:
        target = Path(folder) / "polygons.gpkg"
        vectorize_map(source, target, layer="polygons", **options)
        return geopandas.read_file(target, layer="polygons")


def assess_map(
    source: ClassMap | Path | str,
    reference: NDArray[Any] | Path | str,
    *,
    class_field: str | None = None,
    crosswalk: Path | str | None = None,
    band: int | None = None,
) -> MapAssessment:
    """Compare a map with a reference, as `cwsam eval --map --reference` does.

    Args:
        source: a classified array, or the path of any raster of class codes.
        reference: class codes (H, W) on the map's pixels, 255 is "no label"; or the path of a raster on any grid, of
            polygons or of points.
        class_field: the field of a vector reference with the class code or name.
        crosswalk: a table of common classes, if map and reference have other legends.
        band: the band of a map file, counted from 1; None if there is only one.

    Returns:
        The confusion matrix (rows: reference, columns: map) and accuracies, 0 to 1; `.metrics.accuracy`, for example.

    Raises:
        DataError: a file cannot be read or placed, the legends do not match, or nothing is in both.
        UsageError: a vector reference is given without `class_field`.
    """
    with as_file(source, needs_crs=False) as path, tempfile.TemporaryDirectory(prefix="cwsam-") as folder:
        if isinstance(reference, np.ndarray):
            codes, reference = reference, Path(folder) / "reference.tif"
            if codes.dtype.kind not in "iuf":
                raise DataError(f"the reference holds {codes.dtype.name} values", hint='reference.astype("uint8")')
            with open_raster(path) as grid:
                if codes.shape != grid.shape:
                    raise DataError(
                        f"the reference has the shape {codes.shape}, and the map has {grid.shape}",
                        hint="give one code per pixel of the map",
                    )
                write_array(reference, codes, crs=grid.crs, transform=grid.transform, nodata=IGNORE)
        return assess_map_file(
            Path(path),
            Path(reference),
            class_field=class_field,
            crosswalk=None if crosswalk is None else Path(crosswalk),
            band=band,
        )
