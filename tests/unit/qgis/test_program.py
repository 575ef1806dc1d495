"""QGIS sees the log, the progress and the error of the program, and can cancel it."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from cwsam_cli.qgis.plugin import program
from cwsam_cli.qgis.plugin.program import Failure, run, split


class Feedback:
    """What the plugin uses of QGIS's feedback."""

    def __init__(self, cancel_at: str = "") -> None:
        self.told: list[tuple[str, object]] = []
        self.cancel_at = cancel_at

    def isCanceled(self) -> bool:
        return bool(self.cancel_at) and any(self.cancel_at == text for _, text in self.told)

    def pushCommandInfo(self, text: str) -> None:
        self.told.append(("command", text))

    def pushInfo(self, text: str) -> None:
        self.told.append(("info", text))

    def pushWarning(self, text: str) -> None:
        self.told.append(("warning", text))

    def setProgress(self, percent: int) -> None:
        self.told.append(("progress", percent))

    def setProgressText(self, text: str) -> None:
        self.told.append(("progress text", text))


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_lines_are_log_warnings_and_progress() -> None:
    feedback = Feedback()
    lines = ["reading 水.tif", "warning: odd", "predicting: 40 %, 12 s left", "map.tif: 3 pixels"]
    run(python(f"print({chr(10).join(lines)!r})"), feedback)
    assert feedback.told[1:] == [
        ("info", "reading 水.tif"),
        ("warning", "warning: odd"),
        ("progress text", "predicting"),
        ("progress", 40),
        ("info", "map.tif: 3 pixels"),
    ]


def test_the_real_progress_of_the_package_is_understood() -> None:
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); os.environ['CWSAM_PROGRESS_S'] = '0'\n"
        "from cwsam_cli.console import setup, track\n"
        "setup(0)\nfor _ in track(range(4), 'predicting', unit='piece'): pass"
    )
    feedback = Feedback()
    run([*python(script), str(Path(__file__).parents[3])], feedback)
    assert [value for kind, value in feedback.told if kind == "progress"] == [25, 50, 75]


def test_an_error_reaches_the_user_with_its_hint() -> None:
    script = "import sys; sys.exit(print('reading\\nerror: `a.tif` has no CRS\\n\\nhint: give one') or 4)"
    with pytest.raises(Failure) as caught:
        run(python(script), Feedback())
    assert str(caught.value) == "`a.tif` has no CRS\n\nhint: give one"


def test_an_end_without_a_message_names_the_code() -> None:
    with pytest.raises(Failure, match="code 7"):
        run(python("raise SystemExit(7)"), Feedback())


def test_a_missing_program_says_where_to_name_it(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"does not start: No such file(.|\n)*Processing > Providers > cwsam"):
        run([str(tmp_path / "gone"), "predict"], Feedback())


def test_variables_of_qgis_do_not_reach_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in program.FOREIGN:
        monkeypatch.setenv(name, "/usr/share/qgis")
    feedback = Feedback()
    run(python(f"import os; print([name for name in {program.FOREIGN} if name in os.environ])"), feedback)
    assert feedback.told[-1] == ("info", "[]")


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_a_canceled_program_is_interrupted_and_killed_if_it_goes_on(
    is_stubborn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_stubborn:
        monkeypatch.setattr(program, "PATIENCE_S", 0.5)
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if is_stubborn else ""
    lines = ["import time", "try:", "    print('begun', flush=True)", "    time.sleep(60)"]
    lines += ["except KeyboardInterrupt:", "    print('bye')"]
    feedback = Feedback(cancel_at="begun")
    begun = time.monotonic()
    run(python(deaf + "\n".join(lines)), feedback)
    assert time.monotonic() - begun < 20
    assert (("info", "bye") in feedback.told) is not is_stubborn


@pytest.mark.parametrize("is_own_session", [False, True])
def test_a_child_that_goes_on_does_not_hold_up_the_end(is_own_session: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "PATIENCE_S", 0.5)
    child = f"[sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session={is_own_session}"
    lines = ["import subprocess, sys, time", f"print(subprocess.Popen({child}).pid, flush=True)"]
    lines += ["print('begun', flush=True)", "time.sleep(60)"]
    feedback = Feedback(cancel_at="begun")
    begun = time.monotonic()
    run(python("\n".join(lines)), feedback)
    assert time.monotonic() - begun < 20
    pid = int(str(feedback.told[1][1]))
    if is_own_session:  # it is not killed, but not waited for either
        os.kill(pid, signal.SIGKILL)
    else:
        while is_running(pid):
            assert time.monotonic() - begun < 20
            time.sleep(0.1)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("text", "escape", "words"),
    [
        (r'--where="a b" C:\maps\a.tif', "", ["--where=a b", r"C:\maps\a.tif"]),
        (r'"C:\my maps\a.tif" --band 1', "", [r"C:\my maps\a.tif", "--band", "1"]),
        (r"my\ map.tif '#1'", "\\", ["my map.tif", "#1"]),
        ("", "\\", []),
    ],
)
def test_other_options_are_words_without_quotes(text: str, escape: str, words: list[str]) -> None:
    assert split(text, escape) == words
