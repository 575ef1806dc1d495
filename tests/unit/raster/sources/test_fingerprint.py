"""A scene is told from others, and from itself after a change, without reading all of it."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil

from cwsam_cli.errors import MachineError
from cwsam_cli.raster.sources import fingerprint as room
from cwsam_cli.raster.sources import vsi
from cwsam_cli.raster.sources.fingerprint import fingerprint, fingerprint_of_file
from cwsam_cli.raster.sources.network import gdal_settings

MakeRaster = Callable[..., Path]


@pytest.fixture
def scene(make_raster: MakeRaster) -> Path:
    """Several megabytes, and nothing compressed."""
    return make_raster("scene.tif", np.random.default_rng(0).integers(0, 255, (3, 1200, 1200)).astype(np.uint8))


def known_as(scene: Path | str, *, whole: bool = False) -> str:
    """A scene's fingerprint, taken as a new process would take it."""
    room._hash_whole.cache_clear()
    room._hash_sample.cache_clear()
    with rasterio.Env(**gdal_settings(str(scene))), rasterio.open(scene) as dataset:
        return fingerprint(str(scene), dataset, whole=whole)


def change(path: Path, offset: int, *, keep_time: bool) -> None:
    """Change one byte; its time of change may be restored, as some copying programs do."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (0 if keep_time else 10**6)))


def test_one_byte_in_the_middle_makes_another_scene_by_its_time_or_by_its_whole_content(scene: Path) -> None:
    sampled, whole = known_as(scene), known_as(scene, whole=True)
    middle = scene.stat().st_size // 2 + 40_000  # between two blocks of the sample
    change(scene, middle, keep_time=True)
    assert known_as(scene) == sampled and known_as(scene, whole=True) != whole
    change(scene, middle, keep_time=False)
    assert known_as(scene) != sampled and known_as(scene, whole=True) == whole


@pytest.mark.parametrize("share", [0, 1 / 2, 1])
def test_head_tail_and_blocks_between_them_are_compared_whatever_the_time(scene: Path, share: float) -> None:
    size = scene.stat().st_size
    before = known_as(scene)
    block = round((size - room._BLOCK) * round(share * (room._BLOCKS - 1)) / (room._BLOCKS - 1))
    change(scene, min(size - 1, block + 5_000), keep_time=True)
    assert known_as(scene) != before


def test_a_moved_scene_is_the_same_and_a_touched_one_only_by_its_whole_content(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled, whole = known_as(scene), known_as(scene, whole=True)
    scene.rename(tmp_path / "moved.tif")
    monkeypatch.chdir(tmp_path)
    assert (known_as("moved.tif"), known_as("moved.tif", whole=True)) == (sampled, whole)
    os.utime("moved.tif", ns=(0, 0))
    assert known_as("moved.tif") != sampled and known_as("moved.tif", whole=True) == whole


def test_a_sample_takes_at_most_half_a_megabyte_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "large.bin", []
    with path.open("wb") as file:
        file.truncate(10**12)
    opened = Path.open

    def counting(self: Path, *arguments: Any, **options: Any) -> Any:
        file = opened(self, *arguments, **options)
        inner = file.read

        class Counting:
            seek, __enter__, __exit__ = file.seek, lambda self: self, lambda self, *_: file.close()

            def read(self, size: int) -> bytes:
                read.append(size)
                return bytes(inner(size))

        return Counting()

    monkeypatch.setattr(Path, "open", counting)
    fingerprint_of_file(path)
    assert 0 < sum(read) <= 1 << 19


@pytest.mark.parametrize("part", ["scene.tif", "scene.tif.msk", "scene.tif.aux.xml"])
def test_the_files_behind_a_scene_belong_to_it(scene: Path, make_raster: MakeRaster, part: str) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as target:
        target.write_mask(np.full((1200, 1200), 255, np.uint8))
    scene.with_name("scene.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    view = scene.with_name("scene.vrt")
    rasterio.shutil.copy(scene, view, driver="VRT")
    before = [known_as(path) for path in (scene, view)]
    with scene.with_name(part).open("ab") as file:
        file.write(b" ")
    after = [known_as(path) for path in (scene, view)]
    assert after[0] != before[0]
    assert (after[1] != before[1]) == (part == "scene.tif")  # GDAL names no sidecars of a VRT's sources


@pytest.mark.parametrize("whole", [False, True])
def test_scenes_of_one_archive_differ_and_the_archive_is_read_once(
    make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    image: Any = np.zeros((3, 20, 20), np.uint8)
    path = tmp_path / "scenes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x/a.tif", "y/a.tif"):
            archive.write(make_raster("a.tif", image), name)
    read: list[Path] = []
    sha256 = room.sha256
    monkeypatch.setattr(room, "sha256", lambda path: read.append(path) or sha256(path))
    found = set()
    for folder in "xy":
        name = f"/vsizip/{path}/{folder}/a.tif"
        with rasterio.open(name) as dataset:
            found.add(fingerprint(name, dataset, whole=whole))
    assert len(found) == 2 and read == [path]


@pytest.fixture
def store(object_store: str, scene: Path, tmp_path: Path) -> str:
    """Serves `scene.tif` by HTTP and as an object of a bucket."""
    (tmp_path / "bucket").mkdir()
    scene.rename(tmp_path / "bucket" / "scene.tif")
    (tmp_path / "etag").write_text("one")
    return object_store


def _fingerprint_of_its_own(scene: str) -> str:
    """As another process takes it: GDAL remembers what servers said."""
    vsi._find("VSICurlClearCache")()
    return known_as(scene)


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_an_object_that_was_replaced_is_another_scene(store: str, tmp_path: Path, kind: str) -> None:
    scene = f"http://{store}/bucket/scene.tif" if kind == "http" else "/vsis3/bucket/scene.tif"
    first = _fingerprint_of_its_own(scene)
    assert _fingerprint_of_its_own(scene) == first
    (tmp_path / "etag").write_text("two")
    assert _fingerprint_of_its_own(scene) != first


def test_a_server_that_refuses_to_answer_head_is_asked_for_a_byte(store: str, tmp_path: Path) -> None:
    url = f"http://{store}/bucket/scene.tif"
    told = room._ask_server(url)
    (tmp_path / "no_head").touch()
    assert room._ask_server(url) == told
    assert "one" in told


def test_a_server_that_is_busy_makes_no_other_fingerprint(store: str, tmp_path: Path) -> None:
    (tmp_path / "busy").write_text("99")
    with pytest.raises(MachineError, match=r"does not say whether `http://.*/bucket/scene.tif` has changed") as caught:
        room._ask_server(f"http://{store}/bucket/scene.tif?token=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(MachineError, match=r"`/vsis3/bucket/scene\.tif` has changed"):
        room._ask_store("/vsis3/bucket/scene.tif")


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_a_server_that_is_busy_once_makes_the_same_fingerprint(store: str, tmp_path: Path, kind: str) -> None:
    scene = f"http://{store}/bucket/scene.tif" if kind == "http" else "/vsis3/bucket/scene.tif"
    before = _fingerprint_of_its_own(scene)
    (tmp_path / "busy").write_text("1")
    assert _fingerprint_of_its_own(scene) == before and (tmp_path / "busy").read_text() == "0"


def test_a_url_with_another_signature_is_the_same_scene(store: str) -> None:
    url = f"http://{store}/bucket/scene.tif"
    assert room._ask_server(f"{url}?X-Amz-Signature=1") == room._ask_server(f"{url}?X-Amz-Signature=2")


def test_files_of_one_archive_on_a_server_differ(store: str, tmp_path: Path, make_raster: MakeRaster) -> None:
    same: Any = np.zeros((3, 20, 20), np.uint8)
    with zipfile.ZipFile(tmp_path / "bucket" / "scenes.zip", "w") as archive:
        for name in ("a.tif", "b.tif"):
            archive.write(make_raster(name, same), name)
    inside = f"/vsizip//vsicurl/http://{store}/bucket/scenes.zip"
    assert len({_fingerprint_of_its_own(f"{inside}/{name}") for name in ("a.tif", "b.tif")}) == 2


def test_an_expired_url_is_named_with_a_hint(store: str, tmp_path: Path) -> None:
    (tmp_path / "refuse").write_text("99")
    with pytest.raises(MachineError, match=r"refuses to send `http://.*/bucket/scene\.tif` \(403\)") as caught:
        room._ask_server(f"http://{store}/bucket/scene.tif?token=secret")
    assert "expired" in caught.value.hint and "secret" not in str(caught.value)
