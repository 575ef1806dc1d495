"""Nobody ever sees half a file, and nobody's folder is replaced by mistake."""

import hashlib
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cwsam_cli.errors import MachineError, OutputExists, UsageError
from cwsam_cli.files import (
    csv_text,
    refuse_existing,
    refuse_foreign,
    reserved,
    sha256,
    staged,
    sweep,
    write_text,
)

MARKER = "dataset.yaml"


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text("old", encoding="utf-8")
    return path


def test_nothing_stands_at_the_target_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    with staged(target, overwrite=False) as path:
        path.write_text("half", encoding="utf-8")
        assert path != target
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "half"
    assert _names(tmp_path) == ["map.tif"]


def test_a_staged_path_keeps_its_name_and_disk(tmp_path: Path) -> None:
    with staged(tmp_path / "地图.tif", overwrite=False) as path:
        path.touch()
        assert path.name == "地图.tif"
        assert path.parent.parent == tmp_path


def test_sidecars_move_before_the_main_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = os.replace

    def spy(source: Path, target: Path) -> None:
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    with staged(tmp_path / "b.tif", overwrite=False) as path:
        for name in ("b.tif", "b.tif.aux.xml", "a.qml"):
            path.with_name(name).write_text(name, encoding="utf-8")
    assert moved == ["a.qml", "b.tif.aux.xml", "b.tif"]
    assert _names(tmp_path) == ["a.qml", "b.tif", "b.tif.aux.xml"]


def test_what_gdal_keeps_beside_an_older_raster_goes_with_it(tmp_path: Path) -> None:
    for name in ("map.tif.ovr", "map.confidence.tif.ovr", "map.confidence.tif.aux.xml"):
        (tmp_path / name).touch()
    with staged(tmp_path / "map.tif", overwrite=True) as path:
        for name in ("map.tif", "map.tif.aux.xml", "map.confidence.tif"):
            path.with_name(name).write_text(name, encoding="utf-8")
    assert _names(tmp_path) == ["map.confidence.tif", "map.tif", "map.tif.aux.xml"]


def test_a_failed_block_leaves_the_old_output_and_no_stage(tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    target.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError, match="disk full"), staged(target, overwrite=True) as path:
        path.write_text("half", encoding="utf-8")
        path.with_name("map.tif.aux.xml").write_text("half", encoding="utf-8")
        raise RuntimeError("disk full")
    assert _names(tmp_path) == ["map.tif"]
    assert target.read_text(encoding="utf-8") == "old"


def test_an_older_folder_comes_back_if_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, replace = _folder(tmp_path / "data", MARKER, "old.tif"), os.replace

    def interrupted(source: Path, place: Path) -> None:
        if Path(place) == target and Path(source).name == target.name:
            raise KeyboardInterrupt
        replace(source, place)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), staged(target, overwrite=True, marker=MARKER) as path:
        _folder(path, MARKER)
    assert _names(target) == [MARKER, "old.tif"] and _names(tmp_path) == ["data"]


def test_an_interrupted_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "map.tif", overwrite=False) as path:
        path.touch()
        raise KeyboardInterrupt
    assert _names(tmp_path) == []


def test_missing_parent_folders_are_made(tmp_path: Path) -> None:
    with staged(tmp_path / "a" / "b" / "map.tif", overwrite=False) as path:
        path.touch()
    assert (tmp_path / "a" / "b" / "map.tif").is_file()


def test_an_existing_file_is_refused_before_any_work(tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    target.write_text("old", encoding="utf-8")
    with pytest.raises(OutputExists, match=r"map\.tif` exists already") as caught, staged(target, overwrite=False):
        pytest.fail("the block ran")
    assert (caught.value.exit_code, "--overwrite" in caught.value.hint) == (2, True)
    assert _names(tmp_path) == ["map.tif"]


def test_overwrite_replaces_a_file(tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    target.write_text("old", encoding="utf-8")
    with staged(target, overwrite=True) as path:
        path.write_text("new", encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "new"


def test_what_is_not_there_or_an_empty_folder_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        refuse_existing(tmp_path / name, overwrite=False)
    assert _names(tmp_path) == ["empty"]


def test_a_link_to_nowhere_counts_as_existing(tmp_path: Path) -> None:
    link = tmp_path / "map.tif"
    try:
        link.symlink_to(tmp_path / "gone")
    except OSError:
        pytest.skip("this system makes no links")
    with pytest.raises(OutputExists):
        refuse_existing(link, overwrite=False)


@pytest.mark.parametrize("marker", ["", MARKER])
def test_a_folder_without_the_marker_is_never_replaced(tmp_path: Path, marker: str) -> None:
    target = _folder(tmp_path / "photos", "holiday.jpg")
    with pytest.raises(UsageError, match="other files in it") as caught:
        refuse_existing(target, overwrite=True, marker=marker)
    assert not isinstance(caught.value, OutputExists)
    assert caught.value.exit_code == 2
    assert _names(target) == ["holiday.jpg"]


def test_a_marked_folder_is_refused_without_overwrite(tmp_path: Path) -> None:
    target = _folder(tmp_path / "dataset", MARKER)
    with pytest.raises(OutputExists):
        refuse_existing(target, overwrite=False, marker=MARKER)


def test_overwriting_a_marked_folder_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    target = _folder(tmp_path / "dataset", MARKER, "stale.tif")
    with staged(target, overwrite=True, marker=MARKER) as path:
        path.mkdir()
        (path / MARKER).write_text("new", encoding="utf-8")
    assert _names(target) == [MARKER]
    assert (target / MARKER).read_text(encoding="utf-8") == "new"
    assert _names(tmp_path) == ["dataset"]


def test_a_failed_overwrite_leaves_the_old_folder(tmp_path: Path) -> None:
    target = _folder(tmp_path / "dataset", MARKER, "tile.tif")
    with pytest.raises(RuntimeError), staged(target, overwrite=True, marker=MARKER) as path:
        path.mkdir()
        raise RuntimeError
    assert _names(target) == [MARKER, "tile.tif"]
    assert _names(tmp_path) == ["dataset"]


def test_an_empty_folder_gives_way_to_the_output(tmp_path: Path) -> None:
    target = _folder(tmp_path / "dataset")
    with staged(target, overwrite=False) as path:
        path.mkdir()
        (path / "tile.tif").touch()
    assert _names(target) == ["tile.tif"]


def test_text_is_written_as_utf_8_and_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "报告.json"
    write_text(target, "a longer text that was here first")
    write_text(target, "水体")
    assert target.read_bytes() == "水体".encode()


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 4096])
def test_sha256_is_hashlibs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("beside", [(), ("dataset.aux",)])
def test_a_block_that_writes_nothing_leaves_the_old_output(tmp_path: Path, beside: tuple[str, ...]) -> None:
    target = _folder(tmp_path / "dataset", MARKER, "tile.tif")
    with (
        pytest.raises(MachineError, match=r"nothing was written for `.*dataset`"),
        staged(target, overwrite=True, marker=MARKER) as path,
    ):
        for name in beside:
            path.with_name(name).touch()
    assert _names(target) == [MARKER, "tile.tif"]
    assert _names(tmp_path) == ["dataset"]


def test_only_what_was_staged_for_the_very_output_is_swept(tmp_path: Path) -> None:
    others = (".map.tif.abcd_fg9.part", ".map.part", ".map.abcdefgh.part.bak", "map.abcdefgh.part", ".map.notes.part")
    for name in (*others, ".map.abcd_fg9.part"):
        _folder(tmp_path / name, "half")
    sweep(tmp_path / "map")
    assert _names(tmp_path) == sorted(others)


def test_an_output_is_reserved_for_one_process_until_that_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "dataset"
    program = (
        "import sys; from pathlib import Path; from cwsam_cli.files import reserved, staged\n"
        "target = Path(sys.argv[1])\n"
        "with reserved(target), staged(target, overwrite=True): print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        holder = f"process {other.pid} on {platform.node()}"
        with pytest.raises(MachineError, match=f"another process, {holder}"), reserved(target):
            pytest.fail("both are in")
        with pytest.raises(MachineError, match=holder), staged(target, overwrite=True):
            pytest.fail("both are in")
        assert len(_names(target.parent)) == 2  # the lock and the other's stage, which it still needs
        other.kill()
    with reserved(target):
        assert _names(target.parent) == [".dataset.lock"]  # what the killed process left is swept
    assert _names(target.parent) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_worker_that_outlives_its_killed_parent_holds_no_lock(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, time; from pathlib import Path; from cwsam_cli.files import reserved\n"
        "with reserved(Path(sys.argv[1])):\n"
        "    worker = os.fork() or (os.close(1), time.sleep(60))\n"
        "    print(worker, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        with reserved(tmp_path / "run"):
            assert _names(tmp_path) == [".run.lock"]
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


def test_what_is_staged_is_reserved_unless_this_process_has_reserved_it_or_a_folder_around(tmp_path: Path) -> None:
    with staged(tmp_path / "a" / "map.tif", overwrite=False) as path:
        assert ".map.tif.lock" in _names(tmp_path / "a")
        path.touch()
    assert _names(tmp_path / "a") == ["map.tif"]
    with reserved(tmp_path / "b"):
        for target in (tmp_path / "b", tmp_path / "b" / "c" / "d.tif"):
            with staged(target, overwrite=True) as path:
                assert not (target.parent / f".{target.name}.lock").exists() or target.name == "b"
                path.mkdir(parents=True)


def test_a_folder_that_holds_anything_else_is_foreign(tmp_path: Path) -> None:
    made = ("metrics", "confusion_matrix")
    refuse_foreign(tmp_path / "none", made)
    for name in ("metrics.json", "confusion_matrix.csv", ".metrics.json.abc.part"):
        (tmp_path / name).touch()
    refuse_foreign(tmp_path, made)
    (tmp_path / "thesis.odt").touch()
    with pytest.raises(UsageError, match=r"thesis\.odt"):
        refuse_foreign(tmp_path, made)


def test_a_text_in_a_csv_is_never_a_formula_and_numbers_stay_numbers() -> None:
    assert csv_text([["=1+1", -1, " @a", "a-b"], [None, 0.5]]) == "'=1+1,-1,' @a,a-b\n,0.5\n"


def test_an_output_in_an_object_store_is_refused_where_it_would_become_a_folder_of_this_disk() -> None:
    with pytest.raises(UsageError, match="is in an object store"):
        refuse_existing(Path("s3://bucket/polygons.gpkg"), overwrite=True)
