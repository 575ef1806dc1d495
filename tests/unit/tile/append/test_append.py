"""Scenes are added to a dataset: no tile moves, and the dataset is as if it had been made at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from cwsam_cli.audit.pipeline import audit_dataset
from cwsam_cli.dataset.manifest import Manifest, read_manifest
from cwsam_cli.errors import DataError, MachineError, UsageError
from cwsam_cli.tile import pipeline, work
from cwsam_cli.tile.append import replacement
from cwsam_cli.tile.append.options import same_options
from cwsam_cli.tile.append.state import read_earlier
from cwsam_cli.tile.lengths import Length
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.split import assignment

MakeRaster = Callable[..., Path]
SHAPE = 64, 96


class Site:
    """A folder with scenes, their labels and a dataset."""

    def __init__(self, make_raster: MakeRaster, folder: Path) -> None:
        self._make, self._folder = make_raster, folder
        self.dataset = folder / "dataset"

    def scene(
        self,
        name: str,
        *,
        at: tuple[int, int] = (0, 0),
        shape: tuple[int, int] = SHAPE,
        pixel: float = 30,
        **more: Any,
    ) -> Path:
        """Make a scene and its labels `at` pixels of 30 m from the corner, with noise."""
        rng = np.random.default_rng([*name.encode()])
        where = {"transform": from_origin(600_000 + 30 * at[1], 4_000_000 - 30 * at[0], pixel, pixel)}
        dtype = more.pop("dtype", "uint8")
        image = rng.integers(1, 255, (2, *shape)).astype(dtype)
        codes = np.random.default_rng(5).integers(1, 4, shape).astype(np.uint8)
        self._make(f"labels/{name}.tif", codes, **where | more)
        return self._make(f"{name}.tif", image, **where | more)

    def request(self, *scenes: Path, **options: Any) -> TileRequest:
        defaults = {"labels": self._folder / "labels", "output": self.dataset, "size": 16, "command": "cwsam tile"}
        return TileRequest(scenes=tuple(map(str, scenes)), **defaults | options)

    def append(self, *scenes: Path, **options: Any) -> Manifest:
        manifest = read_manifest(self.dataset)
        own = same_options({}, self.dataset, manifest)
        own = {name: own[name] for name in own if name in TileRequest.__slots__}
        return tile_scenes(self.request(*scenes, **own | options, append=True))


@pytest.fixture
def site(make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(assignment, "_SWAPS", 100)  # what is tested does not depend on how even the splits are
    return Site(make_raster, tmp_path)


def state(dataset: Path) -> dict[str, Any]:
    """Inode, time and content of every tile, and its row of the index."""
    files = {
        str(path.relative_to(dataset)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for kind in ("images", "labels")
        for path in sorted((dataset / kind).rglob("*.*"))
    }
    index = gpd.read_file(dataset / "tiles.gpkg").set_index("tile")
    rows = {f"row {name}": str(row.drop("near_folds", errors="ignore").to_dict()) for name, row in index.iterrows()}
    return files | rows


def training_pixels(dataset: Path) -> Any:
    """The pixels of all training tiles (C, N)."""
    tiles = []
    for path in sorted((dataset / "images" / "train").iterdir()):
        with rasterio.open(path) as source:
            tiles.append(source.read().reshape(source.count, -1))
    return np.concatenate(tiles, axis=1).astype(float)


def test_added_scenes_move_no_tile(site: Site) -> None:
    tile_scenes(site.request(site.scene("a")))
    before = state(site.dataset)
    manifest = site.append(site.scene("b", at=(0, 96)), site.scene("c", at=(64, 48)))
    after = state(site.dataset)
    assert {name: after[name] for name in before} == before
    added = gpd.read_file(site.dataset / "tiles.gpkg").scene.str.contains("[bc].tif").sum()
    assert added > 15 and sum(manifest.tiles.values()) == sum("row" in name for name in after)
    assert not audit_dataset(site.dataset).leaks
    assert sorted(path.name for path in site.dataset.iterdir()) == [
        "append.npz", "dataset.yaml", "images", "labels", "tiles.gpkg",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_statistics_are_those_of_all_training_pixels(site: Site, dtype: str) -> None:
    scenes = [site.scene(f"{name}", at=(0, 96 * number), dtype=dtype) for number, name in enumerate("abc")]
    tile_scenes(site.request(scenes[0], overlap=5))
    for scene in scenes[1:]:
        manifest = site.append(scene)
    index = gpd.read_file(site.dataset / "tiles.gpkg")
    pixels, codes = [], []
    for scene in scenes:
        own = index[(index.scene == str(scene)) & (index.split == "train")]
        shown = np.zeros(SHAPE, bool)
        for tile in own.itertuples():
            shown[tile.row_off : tile.row_off + tile.height, tile.col_off : tile.col_off + tile.width] = True
        with rasterio.open(scene) as image, rasterio.open(scene.parent / "labels" / scene.name) as labels:
            pixels.append(image.read()[:, shown].astype(float))
            codes.append(labels.read(1)[shown])
    for band, values in zip(manifest.bands, np.concatenate(pixels, axis=1), strict=True):
        figures = (values.mean(), values.std(), values.min(), values.max(), *np.percentile(values, (2, 98)))
        assert (band.mean, band.std, band.minimum, band.maximum, band.p2, band.p98) == pytest.approx(figures)
    counts = np.bincount(np.concatenate(codes), minlength=4)[1:]
    assert manifest.pixels["train"] == counts.tolist()
    assert np.dot(manifest.weights, counts) == pytest.approx(counts.sum())
    assert manifest.ground_m2["train"] == pytest.approx(counts.sum() * 900)
    assert manifest.tiles["train"] == (index.split == "train").sum()
    assert read_manifest(site.dataset) == manifest


def test_blocks_keep_their_split_for_other_scenes_of_the_same_ground(site: Site) -> None:
    tile_scenes(site.request(site.scene("a")))
    site.append(site.scene("b"))
    index = gpd.read_file(site.dataset / "tiles.gpkg")
    assert (index.groupby("block").split.nunique() == 1).all()
    assert index.groupby("split").scene.nunique().tolist() == [2, 2, 2]


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:32616"])
def test_ground_on_another_grid_joins_its_split_or_is_left_out(site: Site, crs: str) -> None:
    tile_scenes(site.request(site.scene("a")))
    where = {"crs": crs} if crs.endswith("17") else {}
    if where:
        scene = site.scene("b", at=(10, 13), pixel=20, shape=(150, 150), **where)
    else:
        corner = rasterio.warp.transform("EPSG:32617", crs, [600_000], [4_000_000])
        place = from_origin(corner[0][0], corner[1][0], 30, 30)
        scene = site.scene("b", shape=SHAPE, crs=crs, transform=place)
    manifest = site.append(scene)
    assert not audit_dataset(site.dataset).leaks
    index = gpd.read_file(site.dataset / "tiles.gpkg")
    new = index[index.scene == str(scene)]
    assert len(new) > 10 and new.split.nunique() > 1
    assert sum(manifest.tiles.values()) == len(index)


def test_folds_stay_and_share_no_ground_with_training(site: Site) -> None:
    tile_scenes(site.request(site.scene("a"), folds=3))
    before = state(site.dataset)
    site.append(site.scene("b", at=(7, 5), pixel=20), site.scene("c", at=(0, 96)))
    after = state(site.dataset)
    assert {name: after[name] for name in before} == before
    index = gpd.read_file(site.dataset / "tiles.gpkg")
    for fold in range(3):
        near = index.near_folds.fillna("").str.split(",").map(lambda folds: str(fold) in folds)  # noqa: B023
        held, trained = index[index.fold == fold], index[(index.fold != fold) & (index.split == "train") & ~near]
        assert len(trained) and set(held.scene.map(lambda path: Path(path).stem)) == {"a", "b", "c"}
        assert held.union_all().distance(trained.union_all()) >= 16 * 20 * 0.999


def test_scenes_that_are_there_already_are_skipped(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    first = site.scene("a")
    tile_scenes(site.request(first))
    before = state(site.dataset)
    (site.dataset.parent / "moved").mkdir()
    moved = first.rename(site.dataset.parent / "moved" / "other.tif")
    with caplog.at_level("INFO", logger="cwsam"):
        assert site.append(moved) == read_manifest(site.dataset)
        assert "1 scene(s) are in" in caplog.text
        site.append(moved, site.scene("b", at=(0, 96)))
    assert len(state(site.dataset)) > len(before)
    assert not gpd.read_file(site.dataset / "tiles.gpkg").scene.str.contains("other").any()


def test_a_scene_of_the_same_name_gets_another_one(site: Site) -> None:
    tile_scenes(site.request(site.scene("a")))
    before = state(site.dataset)
    site.scene("b", at=(0, 96)).rename(site.dataset.parent / "labels" / "a-image.tif")
    folder = site.dataset.parent / "new"
    folder.mkdir()
    (site.dataset.parent / "labels" / "a-image.tif").rename(folder / "a.tif")
    site.append(folder / "a.tif", labels=site.dataset.parent / "labels" / "b.tif")
    after = state(site.dataset)
    assert {name: after[name] for name in before} == before
    assert any("a-1_r" in name for name in after)


def test_the_options_of_the_first_run_are_used_again(site: Site) -> None:
    first = site.request(
        site.scene("a", shape=(128, 128)), overlap=4, seed=3, block_size=Length(2, "tile"), buffer=Length(9, "px"),
        shares=(60, 20, 20), bands=("2",),
    )  # fmt: skip
    tile_scenes(first)
    known = same_options({}, site.dataset, read_manifest(site.dataset))
    assert (known["size"], known["overlap"], known["seed"], known["shares"]) == (16, 4, 3, (60, 20, 20))
    assert (known["block_size"], known["buffer"]) == (Length(32, "px"), Length(9, "px"))
    manifest = site.append(site.scene("b", at=(0, 128)))
    assert [band.name for band in manifest.bands] == ["band_2"]
    assert manifest.split == read_manifest(site.dataset).split
    assert manifest.appended == ["cwsam tile"]


@pytest.mark.parametrize(
    "given",
    [
        {"size": 32}, {"overlap": 2}, {"seed": 1}, {"shares": (80.0, 10.0, 10.0)}, {"split_by": "scene"}, {"folds": 4},
        {"block_size": Length(7, "tile")}, {"buffer": Length(3, "px")}, {"pixel_m": 10.0}, {"crs": "EPSG:32618"},
    ],
    ids=lambda given: next(iter(given)),
)  # fmt: skip
def test_other_options_are_refused(site: Site, given: dict[str, Any]) -> None:
    tile_scenes(site.request(site.scene("a")))
    with pytest.raises(DataError, match=r"differs from that of"):
        same_options(given, site.dataset, read_manifest(site.dataset))


def test_equal_options_are_accepted(site: Site) -> None:
    tile_scenes(site.request(site.scene("a"), buffer=Length(1, "tile"), block_size=Length(480, "m")))
    given = {"size": 16, "buffer": Length(480, "m"), "block_size": Length(1, "tile"), "min_valid": 0.5}
    assert same_options(given, site.dataset, read_manifest(site.dataset))["min_valid"] == 0.5


def test_other_bands_types_and_classes_are_refused(site: Site, tmp_path: Path) -> None:
    tile_scenes(site.request(site.scene("a")))
    before = state(site.dataset)
    with pytest.raises(DataError, match=r"has the bands band_1, band_2 \(uint16\), but"):
        site.append(site.scene("b", at=(0, 96), dtype="uint16"))
    with pytest.raises(DataError, match="has the bands band_1 "):
        site.append(site.scene("b", at=(0, 96)), bands=("1",))
    classes = tmp_path / "classes.yaml"
    classes.write_text("classes:\n  - {code: 1, name: water, color: '#0000ff'}\n")
    with pytest.raises(DataError, match="has other classes than"):
        site.append(site.scene("b", at=(0, 96)), classes=str(classes))
    assert state(site.dataset) == before


def test_codes_without_a_class_are_refused(site: Site, make_raster: MakeRaster) -> None:
    tile_scenes(site.request(site.scene("a")))
    scene = site.scene("b")
    make_raster("labels/b.tif", np.full(SHAPE, 9, np.uint8))
    with pytest.raises(DataError, match=r"values that are not in the class table of .*: 9 "):
        site.append(scene)


def test_values_of_the_first_class_table_hold_for_later_labels(
    site: Site, make_raster: MakeRaster, tmp_path: Path
) -> None:
    classes = tmp_path / "classes.yaml"
    classes.write_text(
        "classes:\n  - {code: 1, name: wet, color: '#0000ff', from: [2, 3]}\n"
        "  - {code: 2, name: dry, color: '#00ff00', from: [1]}\n"
    )
    tile_scenes(site.request(site.scene("a"), classes=str(classes)))
    scene = site.scene("b", at=(0, 96))
    make_raster("labels/b.tif", np.full(SHAPE, 2, np.uint8), transform=from_origin(602_880, 4_000_000, 30, 30))
    before = np.array([*read_manifest(site.dataset).pixels.values()]).sum(axis=0)
    after = np.array([*site.append(scene).pixels.values()]).sum(axis=0)
    assert after[0] > before[0] and after[1] == before[1]


@pytest.mark.parametrize("kind", ["none", "older", "cut", "empty", "changed"])
def test_what_is_no_dataset_of_this_version_is_refused(site: Site, kind: str) -> None:
    if kind != "none":
        tile_scenes(site.request(site.scene("a")))
    if kind == "older":
        (site.dataset / "append.npz").unlink()
    elif kind != "none":
        content = bytearray((site.dataset / "append.npz").read_bytes())
        content[200:260] = bytes(60)
        (site.dataset / "append.npz").write_bytes({"cut": b"PK", "empty": b"", "changed": bytes(content)}[kind])
    expected = {"none": "is not a dataset", "older": "older version"}.get(kind, "is damaged")
    with pytest.raises(DataError, match=expected):
        tile_scenes(site.request(site.scene("b"), append=True))
    with pytest.raises(UsageError, match="exclude each other"):
        site.request(site.scene("b"), append=True, overwrite=True)


@pytest.mark.parametrize(
    "change",
    [
        {"scenes": [3]},
        {"units": {"a": ["everything", None, []]}},
        {"units": []},
        {"values": [["1", "one"]]},
        {"crs": []},
        {"crs": None},
    ],
)
def test_a_wrong_field_of_the_state_is_refused_by_its_name(site: Site, change: dict[str, Any]) -> None:
    if not (site.dataset / "append.npz").exists():
        tile_scenes(site.request(site.scene("a")))
    with np.load(site.dataset / "append.npz") as arrays:
        kept = dict(arrays)
    text = json.dumps(json.loads(kept["description"].tobytes()) | change)
    np.savez_compressed(site.dataset / "append.npz", **kept | {"description": np.frombuffer(text.encode(), np.uint8)})
    with pytest.raises(DataError, match="is damaged") as caught:
        read_earlier(site.dataset)
    assert next(iter(change)) in str(caught.value)


def test_an_interrupted_run_leaves_the_dataset_and_continues(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_LEAST", 4)
    tile_scenes(site.request(site.scene("a")))
    before, scene, write, made = state(site.dataset), site.scene("b", at=(0, 96)), work.write_image, []

    def fail_late(place: Any, *arguments: Any) -> None:
        if place.window.row_off >= 40:
            raise MachineError("the disk is full")
        write(place, *arguments)

    def record(place: Any, *arguments: Any) -> None:
        made.append(place.window.row_off)
        write(place, *arguments)

    monkeypatch.setattr(work, "write_image", fail_late)
    with pytest.raises(MachineError):
        site.append(scene)
    assert state(site.dataset) == before
    monkeypatch.setattr(work, "write_image", record)
    site.append(scene)
    assert min(made) >= 10, "finished tiles are not written again"
    after = state(site.dataset)
    assert {name: after[name] for name in before} == before
    assert not [path.name for path in site.dataset.parent.glob(".*")]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_kill_while_the_folder_is_replaced_leaves_one_whole_dataset(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    tile_scenes(site.request(site.scene("a")))
    before, scene = state(site.dataset), site.scene("b", at=(0, 96))
    rename, done = replacement.os.replace, []

    class Killed(BaseException):
        pass

    def replace_or_die(source: Path, target: Path) -> None:
        done.append(source)
        if len(done) == step:
            raise Killed
        rename(source, target)

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step < 3:
            patch.setattr(replacement, "os", _Module(replacement.os, replace=replace_or_die))
        else:
            whole = pipeline.replace_dataset
            patch.setattr(pipeline, "replace_dataset", lambda *both: die(whole(*both)))
        with pytest.raises(Killed):
            site.append(scene)
    replacement.restore(site.dataset)
    after = state(site.dataset)
    assert {name: after[name] for name in before} == before
    assert (len(after) > len(before)) == (step == 3)
    site.append(scene)
    assert len(state(site.dataset)) > len(before) and not audit_dataset(site.dataset).leaks
    assert not [path.name for path in site.dataset.parent.glob(".*")]


class _Module:
    """A module with some functions replaced."""

    def __init__(self, module: Any, **functions: Any) -> None:
        self.__dict__.update(vars(module) | functions)


def test_other_files_in_the_folder_stay(site: Site) -> None:
    tile_scenes(site.request(site.scene("a")))
    (site.dataset / "notes.txt").write_text("seen")
    site.append(site.scene("b", at=(0, 96)))
    assert (site.dataset / "notes.txt").read_text() == "seen"


def test_a_folder_of_tiles_on_another_disk_keeps_its_tiles(site: Site, tmp_path: Path) -> None:
    tile_scenes(site.request(site.scene("a")))
    tiles = site.dataset / "images" / "train"
    tiles.rename(tmp_path / "elsewhere")
    tiles.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = {name for name in state(site.dataset) if "row" not in name}
    manifest = site.append(site.scene("b", at=(0, 96)))
    assert before < {name for name in state(site.dataset) if "row" not in name}
    assert len(list(tiles.iterdir())) == manifest.tiles["train"]


def test_copies_stand_in_where_the_disk_has_no_hard_links(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    tile_scenes(site.request(site.scene("a")))
    before = {name: kept[1:] for name, kept in state(site.dataset).items() if "row" not in name}

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(replacement, "os", _Module(replacement.os, link=refuse))
    site.append(site.scene("b", at=(0, 96)))
    after = state(site.dataset)
    assert {name: after[name][1:] for name in before} == before


@pytest.mark.parametrize("rule", ["scene", "date"])
def test_scenes_and_dates_keep_their_split(site: Site, rule: str) -> None:
    scenes = [site.scene(f"s{n}_2024010{n}", at=(0, 96 * n)) for n in range(1, 5)]
    tile_scenes(site.request(*scenes, split_by=rule))
    before = state(site.dataset)
    later = [site.scene(f"t{n}_2024010{n}", at=(200, 96 * n)) for n in (1, 5)]
    site.append(*later)
    after = state(site.dataset)
    assert {name: after[name] for name in before} == before
    index = gpd.read_file(site.dataset / "tiles.gpkg")
    unit = index.scene.map(lambda path: Path(path).stem if rule == "scene" else Path(path).stem.split("_")[1])
    assert (index.groupby(unit).split.nunique() == 1).all() and unit.nunique() == (6 if rule == "scene" else 5)


def test_windows_into_scenes_are_added_too(site: Site) -> None:
    tile_scenes(site.request(site.scene("a"), format="windows"))
    manifest = site.append(site.scene("b", at=(0, 96)))
    assert not audit_dataset(site.dataset).leaks
    assert len([*site.dataset.rglob("*.vrt")]) == sum(manifest.tiles.values())


def test_a_link_to_a_dataset_stays_a_link(site: Site) -> None:
    tile_scenes(site.request(site.scene("a"), output=site.dataset.parent / "real" / "there"))
    site.dataset.symlink_to(site.dataset.parent / "real" / "there")
    site.append(site.scene("b", at=(0, 96)))
    assert site.dataset.is_symlink() and not audit_dataset(site.dataset).leaks


def test_another_run_in_the_meantime_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    tile_scenes(site.request(site.scene("a")))
    plan = pipeline.make_plan

    def plan_late(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "make_plan", plan)
            site.append(site.scene("c", at=(64, 0)))
        return plan(*arguments)

    monkeypatch.setattr(pipeline, "make_plan", plan_late)
    with pytest.raises(MachineError, match="another process has changed"):
        site.append(site.scene("b", at=(0, 96)))


def test_ground_that_two_scenes_show_counts_once(site: Site) -> None:
    tile_scenes(site.request(site.scene("a"), shares=(1, 0, 0)))
    once = read_manifest(site.dataset).ground_m2["train"]
    manifest = site.append(site.scene("b"))
    assert once == pytest.approx(64 * 96 * 900)
    assert manifest.ground_m2["train"] == pytest.approx(once)
    assert sum(manifest.pixels["train"]) == 2 * 64 * 96


def test_corrections_of_added_scenes_are_counted_with_those_before(site: Site, tmp_path: Path) -> None:
    first, second = site.scene("a"), site.scene("b", at=(0, 200))
    for name, left in (("first", 600_000), ("second", 606_000)):
        shape = shapely.box(left, 3_999_700, left + 300, 4_000_000)
        gpd.GeoDataFrame({"kind": [1]}, geometry=[shape], crs="EPSG:32617").to_file(tmp_path / f"{name}.gpkg")
    own, other = ({"corrections": tmp_path / f"{name}.gpkg", "class_field": "kind"} for name in ("first", "second"))
    before = tile_scenes(site.request(first, **own)).corrected
    after = site.append(second, **other).corrected
    assert before["pixels"] == 100 and after["pixels"] == 200
    assert after["class_changed"] > before["class_changed"] > 0 and after["label_added"] == 0
    assert site.append(site.scene("c", at=(200, 0))).corrected == after
