"""A killed run leaves whole pieces only, and nobody else's journal is taken up."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cwsam_cli.errors import DataError, MachineError, UsageError
from cwsam_cli.journal import Journal, journal, part_of_journal
from cwsam_cli.locking import locked

KEY = {"scene": "a", "checkpoint": "b"}


class Killed(BaseException):
    """What no block expects."""


def begun(target: Path, pieces: dict[tuple[int, int], bytes], key: dict[str, Any] = KEY, rank: int = 0) -> Path:
    """The journal's folder after a run that was killed."""
    with pytest.raises(Killed), journal(target, key, {"batch": 8}) as kept, kept.appending(rank) as append:
        for (row, column), piece in pieces.items():
            append(row, column, piece)
        raise Killed
    return target.with_name(f".{target.name}.journal")


def test_pieces_come_back_as_they_were_put(tmp_path: Path) -> None:
    pieces = {(0, 0): b"", (3, 1): bytes(range(256)) * 40, (2**31, 7): b"x"}
    begun(tmp_path / "map.tif", pieces)
    with journal(tmp_path / "map.tif", KEY, {}) as kept:
        assert {place: kept.read(*place) for place in kept.pieces} == pieces


def test_nothing_is_left_of_a_journal_whose_output_is_whole(tmp_path: Path) -> None:
    begun(tmp_path / "map.tif", {(0, 0): b"piece"})
    with journal(tmp_path / "map.tif", KEY, {}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_failure_before_the_first_piece_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path / "map.tif", {})
    assert list(tmp_path.iterdir()) == []


def test_cleared_pieces_are_not_kept(tmp_path: Path) -> None:
    begun(tmp_path / "map.tif", {(0, 0): b"piece"})
    with pytest.raises(Killed), journal(tmp_path / "map.tif", KEY, {}) as kept:
        kept.clear()
        raise Killed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_piece_that_was_written_half_is_cut_off(tmp_path: Path, cut: int) -> None:
    folder = begun(tmp_path / "map.tif", {(0, 0): b"whole" * 9, (1, 0): bytes(range(60))})
    path = folder / "0.pieces"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(Killed), journal(tmp_path / "map.tif", KEY, {}) as kept:
        assert list(kept.pieces) == [(0, 0)]
        with kept.appending() as append:
            append(1, 0, b"again")
        raise Killed
    with journal(tmp_path / "map.tif", KEY, {}) as kept:
        assert {place: kept.read(*place) for place in kept.pieces} == {(0, 0): b"whole" * 9, (1, 0): b"again"}


def test_a_piece_of_another_size_or_without_content_is_refused(tmp_path: Path) -> None:
    folder = begun(tmp_path / "map.tif", {(0, 0): b"twelve bytes", (0, 1): b"x" * 10**7})
    kept = Journal(folder, {})
    kept.scan()
    assert kept.read(0, 0, 12) == b"twelve bytes"
    for place, size in (((0, 0), 11), ((0, 0), 13), ((0, 1), 12)):
        with pytest.raises(DataError, match="not of this output"):
            kept.read(*place, size)
    with kept.appending() as append:
        append(0, 2, b"not compressed", is_packed=True)
    with pytest.raises(DataError, match="not of this output"):
        kept.read(0, 2)


def test_a_piece_that_rotted_is_not_taken_for_whole(tmp_path: Path) -> None:
    folder = begun(tmp_path / "map.tif", {(0, 0): b"whole" * 9})
    path = folder / "0.pieces"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with journal(tmp_path / "map.tif", KEY, {}) as kept:
        assert kept.pieces == {}


def test_pieces_of_several_processes_are_one_journal(tmp_path: Path) -> None:
    folder = begun(tmp_path / "map.tif", {(0, 0): b"first"})
    with Journal(folder, {}).appending(1) as append:
        append(1, 0, b"second")
    with journal(tmp_path / "map.tif", KEY, {}) as kept:
        assert (kept.read(0, 0), kept.read(1, 0)) == (b"first", b"second")


def test_a_process_that_reads_beside_others_mends_nothing(tmp_path: Path) -> None:
    folder = begun(tmp_path / "map.tif", {(0, 0): b"first"})
    path = folder / "0.pieces"
    half = path.read_bytes() + b"cwsm"
    path.write_bytes(half)
    beside = Journal(folder, {})
    beside.scan()
    assert list(beside.pieces) == [(0, 0)]
    assert path.read_bytes() == half


def test_a_journal_goes_on_with_the_plan_it_was_begun_with(tmp_path: Path) -> None:
    begun(tmp_path / "map.tif", {(0, 0): b"piece"})
    with journal(tmp_path / "map.tif", KEY, {"batch": 2}) as kept:
        assert kept.plan == {"batch": 8}


def test_another_input_starts_over_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun(tmp_path / "map.tif", {(0, 0): b"piece"})
    with journal(tmp_path / "map.tif", KEY | {"scene": "other"}, {"batch": 2}) as kept:
        assert kept.pieces == {}
        assert kept.plan == {"batch": 2}
    assert "begun with another scene: starting over" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}'])
def test_a_description_that_makes_no_sense_starts_over(tmp_path: Path, text: str) -> None:
    folder = begun(tmp_path / "map.tif", {(0, 0): b"piece"})
    (folder / "journal.json").write_text(text, "utf-8")
    with journal(tmp_path / "map.tif", KEY, {}) as kept:
        assert kept.pieces == {}


def test_two_at_once_do_not_write_one_output(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cwsam_cli.journal import journal\n"
        "with journal(Path(sys.argv[1]), {}, {}): print('in', flush=True); sys.stdin.read()"
    )
    target = tmp_path / "map.tif"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(MachineError, match="another process") as caught, journal(target, KEY, {}):
            pytest.fail("both are in")
        assert caught.value.exit_code == 6
        other.kill()
    with journal(target, KEY, {}):
        pass  # the lock died with its holder
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "lock", "busy"):
            with pytest.raises(MachineError, match="busy"), locked(tmp_path / "lock", "busy"):
                pytest.fail("twice")


def test_a_journal_is_gone_before_another_process_may_begin_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, removed = shutil.rmtree, []

    def spy(folder: Path, **options: Any) -> None:
        with pytest.raises(MachineError), journal(tmp_path / "map.tif", KEY, {}):
            pytest.fail("both are in")
        removed.append(folder.name)
        remove(folder, **options)

    with journal(tmp_path / "map.tif", KEY, {}):
        monkeypatch.setattr(shutil, "rmtree", spy)
    assert removed == [".map.tif.journal"]
    assert list(tmp_path.iterdir()) == []


# Parts


@contextmanager
def part(target: Path, number: int, key: dict[str, Any] = KEY, *, fits: bool = True) -> Iterator[Journal]:
    with part_of_journal(
        target, key, {"batch": number}, part=number, misfit=lambda _: "" if fits else "more memory"
    ) as kept:
        yield kept


def test_parts_write_beside_each_other_by_the_plan_of_the_first(tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    with part(target, 1) as first, part(target, 2) as second:
        assert first.plan == second.plan == {"batch": 1}
        for kept, rank in ((first, 0), (second, 1)):
            with kept.appending(rank) as append:
                append(rank, 0, bytes([rank]))
    with journal(target, KEY, {}) as kept:
        assert kept.plan == {"batch": 1}
        assert {place: kept.read(*place) for place in kept.pieces} == {(0, 0): b"\0", (1, 0): b"\1"}


def test_two_processes_with_one_part_are_refused(tmp_path: Path) -> None:
    with (
        part(tmp_path / "map.tif", 1),
        pytest.raises(MachineError, match=r"part 1 of .* is being made by another process"),
    ):
        with part(tmp_path / "map.tif", 1):
            pass
    with part(tmp_path / "map.tif", 1):
        pass


def test_a_run_alone_is_refused_while_a_part_is_made_and_touches_nothing(tmp_path: Path) -> None:
    with part(tmp_path / "map.tif", 1) as kept:
        with pytest.raises(MachineError, match="making parts"), journal(tmp_path / "map.tif", KEY, {}):
            pass
        assert kept.folder.exists()


@pytest.mark.parametrize(("key", "fits", "names"), [({"scene": "c"}, True, "scene"), (KEY, False, "more memory")])
def test_parts_that_do_not_go_together_are_refused(tmp_path: Path, key: dict[str, Any], fits: bool, names: str) -> None:
    with part(tmp_path / "map.tif", 1) as first:
        with pytest.raises(UsageError, match=names), part(tmp_path / "map.tif", 2, key, fits=fits):
            pass
        with first.appending() as append:
            append(0, 0, b"piece")
    with pytest.raises(UsageError, match=names), part(tmp_path / "map.tif", 2, key, fits=fits):
        pass


def test_parts_that_left_no_piece_do_not_hinder_others(tmp_path: Path) -> None:
    with part(tmp_path / "map.tif", 1):
        pass
    with part(tmp_path / "map.tif", 2, {"scene": "c"}) as kept:
        assert kept.plan == {"batch": 2}
