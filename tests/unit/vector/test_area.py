"""Areas of interest on a scene's grid, whatever CRS they come in."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.vector.area import read_area

LAMBERT = Grid(CRS.from_epsg(3358), from_origin(630_000, 230_000, 30, 30), 120, 90)  # North Carolina
WHOLE = Window(0, 0, 120, 90)


def write(path: Path, geometry: shapely.Geometry, crs: str) -> Path:
    geopandas.GeoDataFrame(geometry=[geometry], crs=crs).to_file(path)
    return path


def test_polygons_of_the_whole_world_cover_a_scene(tmp_path: Path) -> None:
    area = read_area(write(tmp_path / "world.gpkg", shapely.box(-180, -90, 180, 90), "EPSG:4326"), LAMBERT)
    assert area.mask(WHOLE).all()


def test_a_part_in_degrees_masks_what_it_masks_in_the_scenes_own_crs(tmp_path: Path) -> None:
    own = shapely.box(630_600, 227_900, 632_400, 229_400)
    degrees = geopandas.GeoSeries([shapely.segmentize(own, 100)], crs="EPSG:3358").to_crs("EPSG:4326")[0]
    masks = [
        read_area(write(tmp_path / name, geometry, crs), LAMBERT).mask(WHOLE)
        for name, geometry, crs in (("own.gpkg", own, "EPSG:3358"), ("degrees.gpkg", degrees, "EPSG:4326"))
    ]
    assert masks[0].sum() == 60 * 50
    assert np.array_equal(*masks)


def test_of_many_polygons_those_near_the_scene_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (each.ravel() for each in np.meshgrid(np.arange(-179, 180, 2), np.arange(-89, 90, 2)))
    boxes = [*shapely.box(x, y, x + 0.5, y + 0.5), shapely.box(-80, 35, -78, 36.5)]
    geopandas.GeoSeries(boxes, crs="EPSG:4326").to_file(tmp_path / "many.gpkg")
    read, counts = pyogrio.read_dataframe, []

    def counting(*arguments: Any, **options: Any) -> Any:
        frame = read(*arguments, **options)
        counts.append(len(frame))
        return frame

    monkeypatch.setattr(pyogrio, "read_dataframe", counting)
    assert read_area(tmp_path / "many.gpkg", LAMBERT).mask(WHOLE).all()
    assert counts == [1]


def test_a_scene_across_the_antimeridian_finds_its_polygons(tmp_path: Path) -> None:
    fiji = Grid(CRS.from_epsg(3460), from_origin(2_080_000, 3_900_000, 1000, 1000), 100, 100)
    islands = shapely.MultiPolygon([shapely.box(170, -25, 180, -10), shapely.box(-180, -25, -170, -10)])
    assert read_area(write(tmp_path / "fiji.gpkg", islands, "EPSG:4326"), fiji).mask(Window(0, 0, 100, 100)).any()


def test_polygons_elsewhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lies on the scene"):
        read_area(write(tmp_path / "far.gpkg", shapely.box(10, 45, 11, 46), "EPSG:4326"), LAMBERT)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("crs", ["EPSG:3358", "EPSG:4326"])
def test_a_coordinate_that_is_not_finite_is_refused(tmp_path: Path, value: float, crs: str) -> None:
    corners = [(630_600.0, 227_900), (632_400, 227_900), (632_400, 229_400), (630_600, 229_400)]
    if crs == "EPSG:4326":
        corners = [(-78.0, 35), (-79, 35), (-79, 36), (-78, 36)]
    corners[2] = (value, corners[2][1])
    with pytest.raises(DataError, match=r"odd\.gpkg` .*(NaN or infinite|NaN/Inf)"):
        read_area(write(tmp_path / "odd.gpkg", shapely.Polygon(corners), crs), LAMBERT)
