"""Several maps become one layer each, here or at workers, and a map that fails stops no other."""

from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest

from cwsam_cli.errors import MachineError, UsageError
from cwsam_cli.vectorize.many import Layers, vectorize_at_worker, vectorize_many
from cwsam_cli.vectorize.request import VectorizeRequest, statistics
from tests.clusters import quick_cluster


@pytest.fixture
def maps(make_raster: Any) -> list[str]:
    rng = np.random.default_rng(0)
    names = ("a", "b", "a.confidence")
    return [str(make_raster(f"maps/{name}.tif", rng.integers(1, 3, (20, 20)).astype(np.uint8))) for name in names]


def vectorized(maps: list[str], folder: Path, scheduler: str = "", **options: Any) -> Layers:
    def make_request(map_path: Path | str, output: Path) -> VectorizeRequest:
        return VectorizeRequest(map_path=map_path, output=output, **options)

    return vectorize_many(make_request, maps, folder, ".gpkg", scheduler)


def test_workers_write_the_layers_of_one_process(
    maps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    maps = [str(Path(path).relative_to(tmp_path)) for path in maps]
    Path("maps/aa.tif").write_text("junk")
    here = vectorized(["maps/aa.tif", *maps], Path("here"))
    with quick_cluster() as cluster:
        there = vectorized(["maps/aa.tif", *maps], Path("there"), cluster.scheduler_address)
    for made in (here, there):
        assert [layer.path.name for layer in made.layers] == ["a.gpkg", "b.gpkg"]
        assert not any(layer.path.is_absolute() for layer in made.layers)
        assert list(made.failed) == ["maps/aa.tif"] and "not a readable raster" in made.failed["maps/aa.tif"]
    assert sorted(path.name for path in Path("there").iterdir()) == ["a.gpkg", "b.gpkg"]
    for name in ("a.gpkg", "b.gpkg"):
        assert gpd.read_file(Path("here", name)).equals(gpd.read_file(Path("there", name)))


def test_layers_that_are_there_stay_unless_they_may_be_replaced(maps: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "layers"
    vectorized(maps[:1], folder)
    before = (folder / "a.gpkg").stat().st_mtime_ns
    made = vectorized(maps, folder)
    assert made.present == [folder / "a.gpkg"] and [layer.path.name for layer in made.layers] == ["b.gpkg"]
    assert (folder / "a.gpkg").stat().st_mtime_ns == before
    assert len(vectorized(maps, folder, overwrite=True).layers) == 2


def test_a_layer_whose_item_is_that_of_another_one_is_not_called_there(maps: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "layers"
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    made = vectorized(maps, folder, stac=True)
    assert not made.present and [layer.path.name for layer in made.layers] == ["b.gpkg"]
    assert list(made.failed) == maps[:1] and "a.json` exists already" in made.failed[maps[0]]


def test_the_item_of_a_map_is_not_replaced_by_that_of_its_layer(maps: list[str], tmp_path: Path) -> None:
    item = Path(maps[0]).with_suffix(".json")
    item.write_text("{}")
    with pytest.raises(UsageError, match=r"a\.json` describes the map"):
        vectorized(maps, item.parent, stac=True, overwrite=True)
    assert item.read_text() == "{}"


def test_urls_are_no_paths_and_dask_does_not_log_them(tmp_path: Path) -> None:
    url = "https://me:SECRET@example.org/a.tif?sig=SECRET"
    request = VectorizeRequest(map_path=url, output=tmp_path / "a.gpkg", statistics=statistics(url, [f"x={url}"]))
    away = request.for_workers()
    assert away.map_path == url and set(away.statistics.values()) == {url}
    assert "SECRET" not in repr(away)


def test_a_wrong_option_ends_the_command_before_any_map(maps: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--min-area"):
        vectorized(maps, tmp_path / "layers", min_area="1")
    with pytest.raises(UsageError, match="is a file"):
        vectorized(maps, Path(maps[0]))


def test_a_worker_that_does_not_see_the_folder_writes_nothing(maps: list[str], tmp_path: Path) -> None:
    request = VectorizeRequest(map_path=Path(maps[0]), output=tmp_path / "missing" / "a.gpkg")
    with pytest.raises(MachineError, match="does not see the folder"):
        vectorize_at_worker(request)
    assert not (tmp_path / "missing").exists()


def test_paths_for_workers_hold_in_every_folder(
    maps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.yaml").touch()
    request = partial(VectorizeRequest, map_path=Path("maps/a.tif"), output=Path("a.gpkg"), statistics={"x": Path("x")})
    away = request(classes="table.yaml").for_workers()
    assert [away.map_path, away.output, away.statistics["x"]] == [
        tmp_path / name for name in ("maps/a.tif", "a.gpkg", "x")
    ]
    assert away.classes == str(tmp_path / "table.yaml")
    assert request(classes="xintong").for_workers().classes == "xintong"
