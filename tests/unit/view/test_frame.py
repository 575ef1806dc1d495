"""The page knows how to compute longitudes and latitudes of WGS 84, if the CRS has them."""

import pytest
from pyproj import Transformer
from rasterio.crs import CRS

from cwsam_cli.view.frame import Frame

EXTENT = (600_000, 2_398_000, 602_000, 2_400_000)


def test_a_datum_in_grads_is_shifted_in_degrees() -> None:
    told = Frame(CRS.from_epsg(27572)).describe(EXTENT)  # NTF (Paris)
    lon, lat = Transformer.from_crs(told["proj"], told["geodetic"], always_xy=True).transform(*told["centre"])
    world = Transformer.from_crs(27572, 4326, always_xy=True).transform(*told["centre"])
    assert (lon + told["shift"][0], lat + told["shift"][1]) == pytest.approx(world, abs=1e-6)
    assert told["shift"] == pytest.approx((2.3365, 0), abs=1e-3)


def test_another_celestial_body_has_no_longitudes_on_earth() -> None:
    assert Frame(CRS.from_user_input("IAU_2015:30110")).describe(EXTENT)["proj"] is None
