"""Each scene gets its labels: by option, by name, by pattern, or by the ground that both show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import from_bounds, from_origin
from rasterio.warp import transform_bounds

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.tile.labels.pairs import Footprints, pair_labels
from cwsam_cli.tile.request import TileRequest

MakeRaster = Callable[..., Path]
ONES = np.ones((16, 20), np.uint8)


def pairs(scenes: list[str], labels: Path | None, **values: Any) -> dict[str, Path]:
    return pair_labels(TileRequest(scenes=tuple(scenes), labels=labels, output=Path("dataset"), **values))


def test_one_file_is_the_label_of_all() -> None:
    labels = Path("labels.tif")
    assert pairs(["x/a.tif", "b.tif"], labels) == {"x/a.tif": labels, "b.tif": labels}


def test_a_pattern_takes_the_name_or_the_stem_of_a_scene() -> None:
    assert pairs(["x/a.jp2"], Path("lc/{stem}_lc.tif")) == {"x/a.jp2": Path("lc/a_lc.tif")}
    assert pairs(["x/a.jp2"], Path("lc/{name}.gpkg")) == {"x/a.jp2": Path("lc/a.jp2.gpkg")}


def test_an_option_wins_and_names_a_scene_by_path_name_or_stem() -> None:
    given = (("x/a.tif", Path("1.tif")), ("b.tif", Path("2.tif")), ("c", Path("3.gpkg:layer")))
    scenes = ["x/a.tif", "x/b.tif", "c.tif", "d.tif"]
    found = pairs(scenes, Path("all.tif"), labels_for=given)
    assert [str(found[scene]) for scene in scenes] == ["1.tif", "2.tif", "3.gpkg:layer", "all.tif"]


@pytest.mark.parametrize(
    ("scenes", "wanted", "told"),
    [
        (["a.tif"], "b.tif", "no scene has the name `b.tif`"),
        (["x/a.tif", "y/a.tif"], "a.tif", "2 scenes have the name `a.tif`"),
        (["a.tif", "c.tif"], "a.tif", "`c.tif` has no labels"),
    ],
)
def test_an_option_that_fits_no_scene_or_several_is_refused(scenes: list[str], wanted: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        pairs(scenes, None, labels_for=((wanted, Path("1.tif")),))


def test_without_any_labels_there_is_a_hint() -> None:
    with pytest.raises(UsageError, match="no labels are given"):
        pairs(["a.tif"], None)


def test_a_folder_pairs_by_name_and_then_by_stem(make_raster: MakeRaster, tmp_path: Path) -> None:
    for name in ("a.tif", "b.img.tif", "c.tif"):
        make_raster(f"lc/{name}", ONES)
    (tmp_path / "lc" / "c.qml").write_text("<qgis/>")
    (tmp_path / "lc" / "a.tif.aux.xml").write_text("<PAMDataset/>")
    found = pairs(["a.tif", "c.jp2", "d.tif"], tmp_path / "lc")
    assert found == {"a.tif": tmp_path / "lc" / "a.tif", "c.jp2": tmp_path / "lc" / "c.tif"}


GRID = Grid(CRS.from_epsg(32617), from_origin(600_000, 4_000_000, 30, 30), 200, 160)
BOUNDS = (600_000, 4_000_000 - 160 * 30, 600_000 + 200 * 30, 4_000_000)


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:4326"])
def test_other_scenes_get_the_rasters_that_show_their_ground(make_raster: MakeRaster, tmp_path: Path, crs: str) -> None:
    west, south, east, north = transform_bounds("EPSG:32617", crs, *BOUNDS)
    wide, high = east - west, north - south
    for name, across, up in (("right", 0.5, 0), ("left", -0.5, 0), ("far", 3, 0), ("above", 0, 2)):
        box = (west + across * wide, south + up * high, east + across * wide, north + up * high)
        make_raster(f"lc/{name}.tif", ONES, crs=crs, transform=from_bounds(*box, 20, 16))
    make_raster("lc/nowhere.tif", ONES, crs=None)
    (tmp_path / "lc" / "readme.pdf").write_text("no raster")
    found = Footprints.of(tmp_path / "lc")
    assert found.on("scene.tif", GRID) == (tmp_path / "lc" / "left.tif", tmp_path / "lc" / "right.tif")


def test_a_scene_without_labels_in_the_folder_is_told(make_raster: MakeRaster, tmp_path: Path) -> None:
    make_raster("lc/far.tif", ONES, transform=from_origin(0, 0, 30, 30))
    found = Footprints.of(tmp_path / "lc")
    with pytest.raises(DataError, match="none shows its ground") as caught:
        found.on("scene.tif", GRID)
    assert "--labels-for scene.tif=" in caught.value.hint
    with pytest.raises(DataError, match="no CRS"):
        found.on("scene.tif", Grid(None, GRID.transform, 20, 16))
