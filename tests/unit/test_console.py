"""stdout is kept for results; everything said on the way goes to stderr."""

import io
import logging
import sys
import time
import warnings
from collections.abc import Iterator

import pytest

from cwsam_cli.console import ONCE, ONCE_A_KIND, close_bars, loading, log, setup, size_text, track, without_secrets


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_lines_go_to_stderr_and_leave_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    setup(0)
    log.info("12 tiles of %s", "水体")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "12 tiles of 水体\n")


@pytest.mark.parametrize(
    ("level", "line"), [(logging.WARNING, "warning: odd\n"), (logging.ERROR, "error: odd\n"), (logging.INFO, "odd\n")]
)
def test_only_warnings_and_errors_name_their_level(capsys: pytest.CaptureFixture[str], level: int, line: str) -> None:
    setup(0)
    log.log(level, "odd")
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("verbosity", "heard"),
    [
        (-1, ["warning: w"]),
        (0, ["i", "warning: w"]),
        (1, ["d", "i", "warning: w"]),
        (3, ["d", "i", "warning: w"]),
    ],
)
def test_verbosity_decides_what_is_heard(capsys: pytest.CaptureFixture[str], verbosity: int, heard: list[str]) -> None:
    setup(verbosity)
    log.debug("d")
    log.info("i")
    log.warning("w")
    assert capsys.readouterr().err.splitlines() == heard


def test_setting_up_twice_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    setup(0)
    setup(0)
    log.info("once")
    assert capsys.readouterr().err == "once\n"


def test_lines_are_heard_without_tqdm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    setup(0)
    log.warning("early")
    assert capsys.readouterr().err == "warning: early\n"


@pytest.mark.parametrize("verbosity", [-1, 0, 1])
def test_tracking_yields_every_item_in_order(verbosity: int) -> None:
    setup(verbosity)
    assert list(track(iter("水体林地"), "classes", total=4)) == list("水体林地")
    assert list(track([], "nothing")) == []


def test_off_a_terminal_no_bar_is_drawn_and_a_short_task_has_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup(0)
    assert list(track(range(3), "tiles")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize(("verbosity", "lines"), [(-1, []), (0, ["tiles: 33 %, 0 s left", "tiles: 66 %, 0 s left"])])
def test_off_a_terminal_a_line_now_and_then_tells_the_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verbosity: int, lines: list[str]
) -> None:
    monkeypatch.setenv("CWSAM_PROGRESS_S", "0")
    setup(verbosity)
    assert list(track(range(3), "tiles")) == [0, 1, 2]
    assert capsys.readouterr().err.splitlines() == lines


def test_the_time_left_follows_from_the_time_that_was_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 50.0, 100.0, 150.0, 200.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    setup(0)
    assert list(track(iter("abcd"), "maps", total=4)) == list("abcd")
    assert capsys.readouterr().err.splitlines() == ["maps: 50 %, 2 min left"]


@pytest.mark.parametrize(("verbosity", "drawn"), [(-1, False), (0, True)])
def test_a_terminal_gets_a_bar_unless_quiet(monkeypatch: pytest.MonkeyPatch, verbosity: int, drawn: bool) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    setup(verbosity)
    assert list(track(range(3), "tiles")) == [0, 1, 2]
    assert ("tiles" in terminal.getvalue()) is drawn


def test_a_line_during_progress_reaches_the_terminal_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    setup(0)
    for _ in track(range(2), "tiles"):
        log.warning("a tile is empty")
    assert terminal.getvalue().count("warning: a tile is empty\n") == 2


def test_a_remark_made_twice_is_heard_once_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        setup(0)
        for name in ("a", "a", "b"):
            log.info("`%s` is odd", name, extra=ONCE)
            log.info("`%s` has no CRS", name, extra=ONCE_A_KIND)
    assert capsys.readouterr().err.splitlines() == ["`a` is odd", "`a` has no CRS", "`b` is odd"] * 2


@pytest.mark.parametrize(("verbosity", "heard"), [(0, []), (1, ["UserWarning: from a library"])])
def test_libraries_warnings_are_details_without_source_lines(
    capsys: pytest.CaptureFixture[str], verbosity: int, heard: list[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        setup(verbosity)
        warnings.warn("from a library", stacklevel=1)
    assert capsys.readouterr().err.splitlines() == heard


def test_progress_is_counted_in_its_own_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    setup(0)
    list(track(range(3), "writing", unit="tile"))
    list(track(range(3), "reading"))
    assert "tile/s" in terminal.getvalue() and "step/s" in terminal.getvalue()
    assert "it/s" not in terminal.getvalue()


def test_what_ends_a_command_clears_its_bars_first(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    setup(0)
    running = track(range(3), "writing")
    next(running)
    close_bars()
    assert terminal.getvalue().endswith("\r")
    assert terminal.getvalue().rstrip("\r").endswith(" ")
    running.close()


def test_what_takes_more_than_a_second_to_load_is_named_and_what_is_quick_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup(0)
    with loading("nothing"):
        pass
    with loading("torch"):
        time.sleep(1.5)
    assert capsys.readouterr().err == "loading torch …\n"
    setup(-1)
    with loading("torch"):
        time.sleep(1.5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_340_000, "2.34 MB"), (53_000_000_000, "53 GB")]
)
def test_sizes_are_told_as_people_say_them(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`https://x.org/a.tif?sig=SECRET` is not", "`https://x.org/a.tif` is not"),
        ('{"scene": "https://x.org/a.tif?sig=SECRET", "b": 1}', '{"scene": "https://x.org/a.tif", "b": 1}'),
        ("/vsicurl/https://me:SECRET@x.org/a.tif is not", "/vsicurl/https://x.org/a.tif is not"),
        ("/vsicurl?pc_url_signing=yes&url=https://x.org/SECRET fails", "/vsicurl fails"),
        ("view://a.stac?band=red%3Dhttps%3A%2F%2Fx%3FSECRET: failed", "view://a.stac: failed"),
        ("a.tif?sig=SECRET, band 1: IReadBlock failed", "a.tif, band 1: IReadBlock failed"),
        ("is there a map? no", "is there a map? no"),
        ("me@example.org wrote s3://bucket/a.tif", "me@example.org wrote s3://bucket/a.tif"),
    ],
)
def test_texts_are_shown_without_queries_and_logins_of_urls(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
