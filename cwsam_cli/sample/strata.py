"""Where strata come from: the map's classes, a raster of codes, or polygons."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.maps.legend import Legend
from cwsam_cli.maps.regions import NOWHERE, PlacedPolygons, field_of, is_raster, read_features
from cwsam_cli.maps.strips import ClassRaster, on_grid
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.survey.population import Strata, classes_as_strata


@dataclass(frozen=True, slots=True)
class StrataSource:
    """Strata, and what they are called."""

    read: Strata
    name: Callable[[int], str]
    """From a value to the stratum's name."""


@contextmanager
def open_strata(path: Path | None, field: str | None, source: ClassRaster, legend: Legend) -> Iterator[StrataSource]:
    """Open strata on a map's grid.

    Args:
        path: a raster or polygons; None takes the map's classes.
        field: the field with the name of each polygon's stratum; None makes each polygon a stratum.
        source: the map.
        legend: names of the map's classes.

    Raises:
        DataError: the file cannot be read or placed on the map, or holds neither codes nor polygons.
    """
    if path is None:
        yield StrataSource(classes_as_strata, legend.name)
    elif is_raster(path):
        with open_raster(path) as dataset:
            names = Legend.read(dataset).names
        with on_grid([path], source) as (raster,):

            def read(
                window: Window, codes: NDArray[Any], empty: NDArray[np.bool_]
            ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
                values, none = raster.read_codes(window)
                return values, empty | none

            yield StrataSource(read, lambda value: names.get(value) or f"stratum {value}")
    else:
        frame = read_features(path, source.grid, source.path)
        if not (kinds := set(frame.geometry.geom_type)) <= {"Polygon", "MultiPolygon"}:
            raise DataError(f"`{path}` holds {', '.join(sorted(kinds))}", hint="strata are a raster or polygons")
        labels = (
            frame[field_of(frame, field, path)].astype(str) if field else "polygon " + (frame.index + 1).astype(str)
        )
        values, known = labels.factorize(sort=True) if field else (frame.index.to_numpy(), labels)
        regions = PlacedPolygons.of(frame.assign(value=values), source.grid)

        def burn(
            window: Window, codes: NDArray[Any], empty: NDArray[np.bool_]
        ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            burnt = regions.read(window)
            return burnt, empty | (burnt == NOWHERE)

        yield StrataSource(burn, lambda value: str(known[value]))
