"""A map → polygons of its classes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cwsam_cli.errors import DataError, MissingCRS
from cwsam_cli.files import refuse_existing, refuse_input
from cwsam_cli.geo.grid import Grid
from cwsam_cli.geo.polygonize import polygonize
from cwsam_cli.geo.raster import open_raster, reading
from cwsam_cli.geo.style import read_taxonomy
from cwsam_cli.geo.vector import vector_driver, write_regions


@dataclass(frozen=True, slots=True)
class VectorResult:
    """What was written."""

    path: Path
    polygons: int
    area_m2: dict[str, float] = field(default_factory=dict)
    """By class name."""


def vectorize(map_path: Path, output: Path, *, overwrite: bool = False) -> VectorResult:
    """Turn a class raster into polygons along its pixel edges.

    Args:
        map_path: a raster of one integer band.
        output: `.gpkg` or `.shp`.
        overwrite: replace an older file.

    Raises:
        DataError: the raster is no class raster.
        MissingCRS: it has no CRS, so areas would have no unit.
    """
    vector_driver(output)
    refuse_input(output, map_path)
    refuse_existing(output, overwrite=overwrite)
    with open_raster(map_path) as dataset:
        if dataset.count != 1 or dataset.dtypes[0] not in ("uint8", "int8", "uint16", "int16", "int32"):
            raise DataError(
                f"`{map_path}` has {dataset.count} band(s) of {dataset.dtypes[0]}; a map is one band of whole numbers",
                hint="is this the scene rather than its map?",
            )
        grid = Grid.of(dataset)
        if grid.crs is None:
            raise MissingCRS(map_path, "so areas would have no unit")
        with reading(map_path):
            codes, valid = dataset.read(1), dataset.read_masks(1) > 0
        regions = list(polygonize(codes, grid, valid=valid))
        present = {int(code) for code in np.unique(codes[valid])}
        taxonomy = read_taxonomy(dataset, present or {0})
    write_regions(regions, taxonomy, grid.crs, output, overwrite=overwrite)
    areas = {
        entry.name: sum(region.area_m2 for region in regions if region.code == entry.code) for entry in taxonomy.classes
    }
    return VectorResult(output, len(regions), areas)
