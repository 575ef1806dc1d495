"""Run the program as a process: log, progress, cancel and errors. This module does not need QGIS."""

import contextlib
import os
import queue
import re
import shlex
import signal
import subprocess
import threading
import time

PROGRESS = re.compile(r"^(.+): (\d+) %, .* left$")
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_LIB", "PROJ_DATA", "LD_LIBRARY_PATH")
"""Variables that QGIS sets for its own libraries."""
PATIENCE_S = 20
"""Seconds that the program has to end after it was canceled."""


class Failure(Exception):
    """The program did not succeed; the text is its own message."""


def split(text, escape="" if os.name == "nt" else "\\"):
    """Split options into words, as a shell does. On Windows a backslash is part of a path, and escapes nothing."""
    words = shlex.shlex(text, posix=True)
    words.whitespace_split, words.commenters, words.escape = True, "", escape
    return list(words)


def run(command, feedback):
    """Run a command until it ends or the user cancels it.

    Args:
        command: the program and its words.
        feedback: receives the log and the progress, and knows whether the user cancels; as QGIS has it.

    Raises:
        Failure: the program is missing, or ended with an error.
    """
    feedback.pushCommandInfo(shlex.join(command))
    variables = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    variables.update(PYTHONUTF8="1", NO_COLOR="1", CWSAM_PROGRESS_S="0.5")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=variables,
            encoding="utf-8",
            errors="replace",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            start_new_session=True,  # on POSIX, so that its processes can be killed with it
        )
    except OSError as error:
        place = "Settings > Options > Processing > Providers > cwsam"
        raise Failure(
            f"the program `{command[0]}` does not start: {error.strerror}\n\nhint: name it in {place}"
        ) from None
    lines = queue.Queue()
    threading.Thread(target=read, args=(process.stdout, lines), daemon=True).start()
    message = show(lines, process, feedback)
    code = process.wait()
    if code and not feedback.isCanceled():
        raise Failure(message or f"cwsam ended with code {code}; its log says why")


def read(stream, lines):
    """Put the lines of a stream into a queue, and None at its end."""
    with stream:
        for line in stream:
            lines.put(line.rstrip("\n"))
    lines.put(None)


def kill(process):
    """Kill a process, on POSIX with those that it started."""
    if os.name == "nt":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def show(lines, process, feedback):
    """Show lines until the program ends, stop it if the user cancels, and return its error message."""
    message, deadline = [], None
    while True:
        if feedback.isCanceled() and deadline is None:
            feedback.pushInfo("stopping cwsam …")
            process.terminate() if os.name == "nt" else process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + PATIENCE_S
        if deadline is not None and time.monotonic() > deadline:
            kill(process)
            return ""  # a process that it started may still hold the stream open
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            continue
        if line is None:
            return "\n".join(message).strip()
        progress = PROGRESS.match(line)
        if line.lower().startswith("error: "):  # Typer begins usage errors with `Error:`
            message = [line[len("error: ") :]]
        elif message and (not line or line.startswith("hint: ")):
            message.append(line)
        elif progress:
            feedback.setProgressText(progress[1])
            feedback.setProgress(int(progress[2]))
        elif line.startswith("warning: "):
            feedback.pushWarning(line)
        else:
            feedback.pushInfo(line)
