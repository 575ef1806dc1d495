"""Locks hold between processes, and a disk on which they do not is named."""

import errno
import os
import platform
from pathlib import Path

import pytest

from cwsam_cli.errors import MachineError
from cwsam_cli.files import reserved
from cwsam_cli.locking import _reaches_other_hosts


def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("cwsam_cli.locking._lock", refuse)
    with pytest.raises(MachineError, match="has no locks: Function not implemented"), reserved(tmp_path / "map.tif"):
        pass


@pytest.mark.parametrize(("reaches", "taken"), [(True, True), (False, False)])
def test_a_lock_that_a_killed_process_of_another_host_left_is_taken_over_where_locks_reach_that_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reaches: bool, taken: bool
) -> None:
    monkeypatch.setattr("cwsam_cli.locking._reaches_other_hosts", lambda path: reaches)
    (tmp_path / ".map.tif.lock").write_text("process 4711 on elsewhere\x1b[31m")
    if taken:
        with reserved(tmp_path / "map.tif"):
            assert (tmp_path / ".map.tif.lock").read_text() == f"process {os.getpid()} on {platform.node()}"
        return
    with (
        pytest.raises(MachineError, match="held by process 4711 on elsewhere") as caught,
        reserved(tmp_path / "map.tif"),
    ):
        pytest.fail("taken over")
    assert "rm '" in caught.value.hint and "\x1b" not in str(caught.value)
    (tmp_path / ".map.tif.lock").write_text(f"process 1 on {platform.node()}")
    with reserved(tmp_path / "map.tif"):
        pass


@pytest.mark.parametrize(
    ("mount", "reaches"),
    [
        ("server:/x {folder} nfs4 rw,vers=4.2,local_lock=none 0 0", True),
        ("server:/x {folder} nfs rw,vers=3,local_lock=all 0 0", False),
        ("mgs:/x {folder} lustre rw,localflock 0 0", False),
        ("mgs:/x {folder} lustre rw,flock 0 0", True),
        ("s3fs {folder} fuse.s3fs rw 0 0", False),
        ("/dev/sda1 {folder} ext4 rw 0 0", True),
    ],
)
def test_options_of_a_disk_tell_whether_its_locks_reach_other_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: str, reaches: bool
) -> None:
    read = Path.read_text
    table = "overlay / overlay rw 0 0\n" + mount.format(folder=tmp_path) + "\n"
    monkeypatch.setattr(Path, "read_text", lambda path, **named: table if str(path) == "/proc/mounts" else read(path))
    assert _reaches_other_hosts(tmp_path / "map.tif") == reaches


def test_a_lock_that_its_holder_has_removed_holds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cwsam_cli import locking

    target, lock, tries = tmp_path / "map.tif", locking._lock, []

    def late(descriptor: int) -> None:
        if not tries:  # the last holder removes the file after it was opened here
            (tmp_path / ".map.tif.lock").unlink()
        tries.append(descriptor)
        lock(descriptor)

    monkeypatch.setattr(locking, "_lock", late)
    with reserved(target):
        monkeypatch.setattr(locking, "_lock", lock)
        with pytest.raises(MachineError), reserved(target):
            pytest.fail("both are in")
    assert len(tries) == 2
