"""One map of overlapping scenes, whose scores are blended, is the map of the whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from shapely.geometry import box
from typer.testing import Result

from cwsam_cli.predict import work
from tests.cli.conftest import invoke, write
from tests.clusters import quick_cluster

Cwsam = Callable[..., Result]

HEIGHT, WIDTH = 300, 240  # two pieces
LEFT, RIGHT = slice(0, 160), slice(80, WIDTH)
SEAMS = [slice(144, 176), slice(64, 96)]
"""Columns of the windows, of 32 pixels and 16 of them beyond the border, that lie along the inner border of a half."""


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(40, 200, (3, HEIGHT // 10, WIDTH // 10))
    return coarse.repeat(10, 1).repeat(10, 2).astype(np.uint8)


def place(columns: slice) -> Any:
    return from_origin(600_000 + 30 * columns.start, 4_000_000, 30, 30)


@pytest.fixture
def halves(picture: NDArray[np.uint8], tmp_path: Path) -> list[Path]:
    return [
        write(tmp_path / f"{name}.tif", picture[:, :, columns], transform=place(columns), nodata=0)
        for name, columns in (("left", LEFT), ("right", RIGHT))
    ]


def codes(path: Path | str) -> NDArray[np.uint8]:
    with rasterio.open(path) as source:
        read: NDArray[np.uint8] = source.read(1)
        return read


def test_overlapping_halves_give_the_map_of_the_whole_in_any_order(
    cwsam: Cwsam, run: Any, picture: NDArray[np.uint8], halves: list[Path], tmp_path: Path
) -> None:
    whole = write(tmp_path / "whole.tif", picture)
    cwsam("predict", whole, "-c", run.checkpoint, "-o", "one.tif")
    cwsam("predict", *halves, "-c", run.checkpoint, "--mosaic", "-o", "a/region.tif", "--confidence")
    cwsam("predict", *halves[::-1], "-c", run.checkpoint, "--mosaic", "-o", "b/region.tif", "--confidence")
    assert {path.name for path in Path("a").iterdir()} >= {"region.tif", "region.confidence.tif"}
    for path in Path("a").iterdir():
        assert path.read_bytes() == Path("b", path.name).read_bytes()
    with rasterio.open("one.tif") as one, rasterio.open("a/region.tif") as region:
        assert (one.transform, one.shape, one.crs) == (region.transform, region.shape, region.crs)
    same = codes("one.tif") == codes("a/region.tif")
    at_seams = np.zeros(WIDTH, bool)
    for seam in SEAMS:
        at_seams[seam] = True
    assert same[:, ~at_seams].mean() > 0.9999
    assert len(np.unique(codes("one.tif"))) > 1


def test_nodata_of_a_scene_is_filled_by_the_other(
    cwsam: Cwsam, run: Any, picture: NDArray[np.uint8], halves: list[Path], tmp_path: Path
) -> None:
    cwsam("predict", *halves, "-c", run.checkpoint, "--mosaic", "-o", "before.tif")
    holed = picture.copy()
    holed[:, 100:200, 90:110] = 0  # both see this ground
    holed[:, 250:260, 200:230] = 0  # only the right one sees this
    write(halves[1], holed[:, :, RIGHT], transform=place(RIGHT), nodata=0)
    cwsam("predict", *halves, "-c", run.checkpoint, "--mosaic", "-o", "after.tif")
    after = codes("after.tif")
    assert (after == 255).sum() == 10 * 30 and (after[250:260, 200:230] == 255).all()
    assert (codes("before.tif")[:, :60] == after[:, :60]).all()


def test_parts_and_workers_make_the_mosaic_of_one_run(
    cwsam: Cwsam, run: Any, halves: list[Path], tmp_path: Path
) -> None:
    common = ("predict", *halves, "-c", run.checkpoint, "--mosaic", "--batch-size", 3)
    cwsam(*common, "-o", "one/map.tif")
    assert json.loads(cwsam(*common, "-o", "parts/map.tif", "--part", "2/2", "--json").stdout)["missing"] == 1
    cwsam(*common, "-o", "parts/map.tif", "--part", "1/2")
    with quick_cluster() as cluster:
        cwsam(*common, "-o", "workers/map.tif", "--scheduler", cluster.scheduler_address)
    for path in Path("one").iterdir():
        assert path.read_bytes() == Path("parts", path.name).read_bytes() == Path("workers", path.name).read_bytes()


def test_bounds_give_the_values_of_the_whole_mosaic(cwsam: Cwsam, run: Any, halves: list[Path]) -> None:
    common = ("predict", *halves, "-c", run.checkpoint, "--mosaic")
    cwsam(*common, "-o", "all.tif")
    west, north = 600_000 + 30 * 90, 4_000_000 - 30 * 50
    cwsam(*common, "-o", "part.tif", "--bounds", west, north - 30 * 200, west + 30 * 100, north)
    assert (codes("part.tif") == codes("all.tif")[50:250, 90:190]).mean() > 0.9999
    assert json.loads(cwsam(*common, "--dry-run", "--json").stdout)["scenes"][0]["windows"] > 100


def test_a_scene_that_changes_while_the_mosaic_is_made_is_noticed(
    cwsam: Cwsam, run: Any, picture: NDArray[np.uint8], halves: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = work.make_pieces

    def change(*args: Any, **options: Any) -> None:
        real(*args, **options)
        write(halves[1], picture[:, ::-1, RIGHT], transform=place(RIGHT), nodata=0)

    monkeypatch.setattr(work, "make_pieces", change)
    failed = invoke("predict", *halves, "-c", run.checkpoint, "--mosaic", "-o", "region.tif")
    assert failed.exit_code == 4 and "right.tif` was changed while it was read" in failed.stderr
    assert not Path("region.tif").exists()


def test_ground_between_the_scenes_is_refused(cwsam: Cwsam, run: Any, picture: NDArray[np.uint8]) -> None:
    apart = from_origin(600_000 + 30 * 150, 4_000_000 - 30 * 150, 30, 30)
    scenes = [
        write(Path("a.tif"), picture[:, :100, :100]),
        write(Path("b.tif"), picture[:, :100, :100], transform=apart),
    ]
    west, north = 600_000 + 30 * 110, 4_000_000
    bounds = (west, north - 30 * 90, west + 30 * 20, north)
    refused = invoke("predict", *scenes, "-c", run.checkpoint, "--mosaic", "-o", "map.tif", "--bounds", *bounds)
    assert refused.exit_code == 4 and "no scene has a pixel" in refused.stderr


def test_a_scene_beside_the_bounds_makes_another_map_of_the_same_sources(
    cwsam: Cwsam, run: Any, halves: list[Path]
) -> None:
    bounds = (600_000, 4_000_000 - 30 * 90, 600_000 + 30 * 60, 4_000_000)
    common = ("-c", run.checkpoint, "--mosaic", "--stac", "--bounds", *bounds)
    cwsam("predict", halves[0], *common, "-o", "one.tif")
    cwsam("predict", *halves, *common, "-o", "two.tif")
    with rasterio.open("one.tif") as one, rasterio.open("two.tif") as two:
        assert one.tags()["CWSAM_KEY"] != two.tags()["CWSAM_KEY"], "the windows lie elsewhere"
    links = [json.loads(Path(f"{name}.json").read_text())["links"] for name in ("one", "two")]
    assert links[0] == links[1], "the map does not show the other scene"


def test_scenes_of_other_pixels_are_mapped_one_by_one_and_joined(
    cwsam: Cwsam, run: Any, picture: NDArray[np.uint8], halves: list[Path], tmp_path: Path
) -> None:
    shifted = from_origin(600_000 + 30 * RIGHT.start + 7, 4_000_000, 30, 30)
    write(halves[1], picture[:, :64, RIGHT], transform=shifted)
    common = ("predict", *halves, "-c", run.checkpoint, "--mosaic", "-o", "region.tif")
    estimates = cwsam(*common, "--dry-run", "--json")
    assert [len(json.loads(estimates.stdout)["scenes"]), "so each is mapped" in estimates.stderr] == [2, True]
    assert "do not share CRS, pixel size and pixel edges, so each is mapped" in cwsam(*common).stderr
    assert codes("region.tif").shape == (HEIGHT, WIDTH + 1)  # the first scene's pixels
    assert not list(tmp_path.glob(".region*"))
    aoi = box(600_000, 4_000_000 - 30 * 50, 600_000 + 30 * 60, 4_000_000)  # west of the right half
    geopandas.GeoDataFrame(geometry=[aoi], crs="EPSG:32617").to_file("aoi.gpkg")
    assert "1/1 `" in cwsam(*common, "--overwrite", "--aoi", "aoi.gpkg").stderr
    refused = invoke(*common, "--overwrite", "--entropy")
    assert refused.exit_code == 2 and "--entropy needs scenes on one grid" in refused.stderr
