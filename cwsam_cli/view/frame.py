"""The CRS of the page: that of the first class map, so that no class of it is resampled."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affine import Affine
from pyproj import CRS as ProjCRS
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid

Extent = tuple[float, float, float, float]
"""West, south, east and north."""

_DEGREE_M = 111_319.49
"""Metres per degree of the equator."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The CRS in which the page shows all layers."""

    crs: CRS | None
    """None: coordinates are columns, and rows that count down from 0 to minus the height."""

    def has(self, crs: CRS | None) -> bool:
        """Return whether this is the CRS of a layer. rasterio's own `==` takes some different CRSs for equal."""
        if crs is None or self.crs is None:
            return crs is self.crs
        return bool(crs == self.crs) and crs.to_epsg() == self.crs.to_epsg()

    def refuse_unplaced(self, path: Path | str, crs: object | None) -> None:
        """Stop at a layer without a CRS beside layers that have one, and the other way round.

        Raises:
            DataError: it is one.
        """
        if (crs is None) != (self.crs is None):
            lacking, having = (f"`{path}`", "the map") if crs is None else ("the map", f"`{path}`")
            raise DataError(
                f"{lacking} has no coordinate reference system, but {having} has one",
                hint="if you know it: rio edit-info --crs EPSG:<code> FILE, or ogr2ogr -a_srs EPSG:<code> NEW FILE",
            )

    def describe(self, extent: Extent) -> dict[str, Any]:
        """Return what the page needs to know about the CRS.

        The page computes longitudes and latitudes of the CRS's own datum. What WGS 84 adds to them hardly differs
        within a map, so it is computed once, in the middle.

        Args:
            extent: of all layers.
        """
        centre = ((extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2)
        if self.crs is None:
            return {"name": "pixels", "units": "pixels", "metersPerUnit": None, "proj": None, "centre": centre}
        crs = ProjCRS.from_wkt(self.crs.to_wkt())
        unit_m = Grid(self.crs, Affine.identity(), 1, 1).unit_m
        told = {
            "name": crs.name,
            "units": "degrees" if unit_m is None else "m" if unit_m == 1 else "ft",
            "metersPerUnit": _DEGREE_M if unit_m is None else unit_m,
            "centre": centre,
        }
        geodetic = crs.geodetic_crs
        if geodetic is None:
            return told | {"proj": None}
        degrees = math.degrees(geodetic.axis_info[0].unit_conversion_factor)  # of a grad, for example
        try:
            own = Transformer.from_crs(crs, geodetic, always_xy=True).transform(*centre)
            world = Transformer.from_crs(crs, 4326, always_xy=True).transform(*centre)
        except ProjError:  # another celestial body
            return told | {"proj": None}
        shift = [world[0] - degrees * own[0], world[1] - degrees * own[1]]
        if not all(map(math.isfinite, shift)):
            return told | {"proj": None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PROJ strings leave out the datum, which `shift` replaces
            return told | {"proj": crs.to_proj4(), "geodetic": geodetic.to_proj4(), "shift": shift}
