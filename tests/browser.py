"""Open a page in headless Chromium, press everything on it, and fail on any script error."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
CATCH = "<script>onerror = (text) => { document.documentElement.dataset.error = text; };</script>"
PRESS = (
    "<script>setTimeout(() => { document.querySelectorAll('button, summary').forEach((each) => each.click());"
    "document.querySelectorAll('input').forEach((each) => each.click());"
    "document.documentElement.dataset.pressed = document.querySelectorAll('button').length; }, 500);</script>"
)


def press_everything(path: Path, profile: Path, width: int) -> str:
    """Return the page as the browser has drawn it after each button, box and summary was clicked."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("<head>", f"<head>{CATCH}").replace("</body>", f"{PRESS}</body>"), encoding="utf-8")
    shown = _in_browser(path, profile, width)
    opening = shown[: shown.index("<head>")]
    assert "data-ready" in opening and "data-error" not in opening, opening
    assert re.search(r'data-pressed="[1-9]', opening)
    return shown


def _in_browser(path: Path, profile: Path, width: int) -> str:
    """Return the page as the browser has drawn it. A message on its console fails the test."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", f"--window-size={width},900", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, encoding="utf-8", timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    return done.stdout
