"""A plan says everything about a layer before pixels are read."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from rasterio.transform import from_origin

from cwsam_cli.config.sizes import Size
from cwsam_cli.errors import UsageError
from cwsam_cli.vectorize.plan import VectorizePlan, make_plan
from cwsam_cli.vectorize.request import VectorizeRequest
from cwsam_cli.vectorize.work import write_polygons

MakeRaster = Callable[..., Path]


def plan_of(make_raster: MakeRaster, tmp_path: Path, output: str = "p.gpkg", /, **values: Any) -> VectorizePlan:
    place = {name: values.pop(name) for name in ("crs", "transform") if name in values}
    path = make_raster("map.tif", np.tri(20, 30, dtype=np.uint8) + 1, **place)
    return make_plan(VectorizeRequest(map_path=path, output=tmp_path / output, **values))


def test_a_plan_survives_json_and_makes_the_same_layer(make_raster: MakeRaster, tmp_path: Path) -> None:
    plan = plan_of(make_raster, tmp_path, min_area="4px", simplify="2px", only=("2",), check=True)
    adapter = TypeAdapter(VectorizePlan)
    again = adapter.validate_json(adapter.dump_json(plan))
    assert again == plan
    json.dumps(asdict(plan), default=str)
    assert write_polygons(again).polygons == 1


def test_sizes_in_pixels_become_metres_where_the_tolerance_needs_them(make_raster: MakeRaster, tmp_path: Path) -> None:
    plan = plan_of(make_raster, tmp_path, min_area="4px", simplify="2px")
    assert (plan.min_area, plan.tolerance_m) == (Size(4, True), 60)
    assert plan_of(make_raster, tmp_path).tolerance_m is None
    assert plan_of(make_raster, tmp_path, smooth=True).tolerance_m == 0


@pytest.mark.parametrize(
    ("west", "options", "kind", "is_split"),
    [
        (178, {"dst_crs": "EPSG:3832"}, "Polygon", False),
        (178, {"dst_crs": "EPSG:4269"}, "Polygon", False),
        (178, {"dissolve": True}, "MultiPolygon", False),
    ],
)
def test_a_geometry_type_is_chosen(
    make_raster: MakeRaster, tmp_path: Path, west: float, options: dict[str, Any], kind: str, is_split: bool
) -> None:
    place = {"crs": "EPSG:4326", "transform": from_origin(west, 10, 0.01, 0.01)}
    plan = plan_of(make_raster, tmp_path, **place, **options)
    assert (plan.geometry_type, plan.is_split) == (kind, is_split)


def test_polygons_across_the_antimeridian_become_multipolygons_in_degrees(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    place = {"crs": "EPSG:32660", "transform": from_origin(820_000, 1_000_000, 1000, 1000)}
    plan = plan_of(make_raster, tmp_path, dst_crs="EPSG:4326", **place)
    assert plan.is_split and plan.geometry_type == "MultiPolygon"
    assert not plan_of(make_raster, tmp_path, "p.geojson", **place).is_split  # GeoJSON splits only where needed


def test_an_unknown_class_is_told_with_the_known_ones(make_raster: MakeRaster, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`forest` is not a class of the map"):
        plan_of(make_raster, tmp_path, only=("forest",))
