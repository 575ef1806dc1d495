"""Real class rasters become polygons that are the rasters again."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

from cwsam_cli.vectorize.pipeline import vectorize
from cwsam_cli.vectorize.request import VectorizeRequest

LABELS = ["nc_landsat7_2002/label.tif", "zion_landsat8_nlcd/label.tif", "zion_landsat8_nlcd/label_native_grid.tif"]


@pytest.mark.parametrize("label", LABELS)
def test_a_real_map_comes_back_from_its_polygons(landcover: Path, tmp_path: Path, label: str) -> None:
    result = vectorize(VectorizeRequest(map_path=landcover / label, output=tmp_path / "p.fgb", check=True))
    polygons = gpd.read_file(tmp_path / "p.fgb")
    with rasterio.open(landcover / label) as source:
        codes, valid, transform = source.read(1), source.read_masks(1) > 0, source.transform
    pairs = zip(polygons.geometry, polygons["code"], strict=True)
    restored = rasterize(pairs, out_shape=codes.shape, transform=transform, fill=255, dtype="uint8")
    np.testing.assert_array_equal(restored, np.where(valid, codes, 255))
    assert result.check is not None and result.check.unmatched_edges == result.check.invalid_polygons == 0


@pytest.mark.parametrize("label", LABELS)
def test_a_real_map_generalised_is_a_coverage_of_its_classes(landcover: Path, tmp_path: Path, label: str) -> None:
    generalised = {"min_area": "1ha", "fill_nodata_holes": True, "simplify": "45m", "smooth": True}
    output = tmp_path / "p.parquet"
    result = vectorize(VectorizeRequest(map_path=landcover / label, output=output, check=True, **generalised))
    polygons = gpd.read_parquet(tmp_path / "p.parquet")
    with rasterio.open(landcover / label) as source:
        pixel = abs(source.transform.determinant)
        mapped = (source.read_masks(1) > 0).sum() * pixel
    assert (polygons["pixels"] * pixel >= 10_000).all()
    assert polygons["area_m2"].sum() == pytest.approx(mapped, rel=1e-3)
    assert polygons["area_m2"].to_numpy() == pytest.approx(polygons.geometry.area.to_numpy(), rel=1e-6)
    assert result.check is not None and result.check.unmatched_edges == result.check.invalid_polygons == 0
