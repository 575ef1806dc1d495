"""Drive headless Chromium over its DevTools protocol: open a page, click, type, run JavaScript, take pictures."""

import base64
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.browser import CHROMIUM

PATIENCE_S = 60


class Tab:
    """An open page. Script errors, messages of errors on the console, and addresses that were requested are kept."""

    def __init__(self, process: subprocess.Popen[bytes], commands: Any, answers: Any) -> None:
        self._process, self._commands, self._answers = process, commands, answers
        self._number = 0
        self._rest = b""
        self._session: str | None = None
        self.errors: list[str] = []
        self.requested: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            received = self._receive()
            if received.get("id") == self._number:
                assert "error" not in received, received["error"]
                return dict(received["result"])
            self._note(received)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = self._answers.read1(1 << 16)
            assert read, "Chromium has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event["method"]:
            case "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.errors.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])

    def open(self, address: str, *, width: int = 1200, height: int = 800) -> None:
        """Open a page and wait until its map is drawn and its classes are counted."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=address)
        self.settle()

    def settle(self) -> None:
        """Wait until the page says that it is ready, and its map is drawn."""
        self.wait("'ready' in (document.documentElement?.dataset ?? {})")
        self.run("new Promise((done) => setTimeout(done, 200))")
        self.wait("viewer.layers.every((layer) => layer.getSource().getState() === 'ready')")
        self.wait("'counted' in document.documentElement.dataset")
        self.run("new Promise((done) => { viewer.map.once('rendercomplete', () => done()); viewer.map.render(); })")
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.run(condition):
            assert time.monotonic() < deadline, f"{condition} is not true; errors: {self.errors}"
            time.sleep(0.05)

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, x: float, y: float) -> None:
        """Move the mouse to a place of the window and click."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a place of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self, save: Path | None = None) -> NDArray[np.uint8]:
        """Return a picture of the window (H, W, 3)."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if save is not None:
            save.write_bytes(png)
        with Image.open(io.BytesIO(png)) as image:
            return np.asarray(image.convert("RGB"))


@contextmanager
def open_tab(profile: Path, *options: str) -> Iterator[Tab]:
    """Start Chromium with one page.

    Args:
        profile: an empty folder for its profile.
        options: more options of its command line.
    """
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run"]
    command += [
        "--enable-unsafe-swiftshader",
        "--use-angle=swiftshader",
        "--hide-scrollbars",
        "--disable-extensions",
        "--disable-accelerated-2d-canvas",
        "--disable-gpu-compositing",
    ]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}", *options]
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    script = f'exec "$0" "$@" 3<&{in_read} 4>&{out_write}'  # the protocol's pipes have the numbers 3 and 4
    with open(in_write, "wb") as commands, open(out_read, "rb") as answers:
        process = subprocess.Popen(
            ["bash", "-c", script, *command], pass_fds=(in_read, out_write), stderr=subprocess.DEVNULL
        )
        os.close(in_read)
        os.close(out_write)
        try:
            yield Tab(process, commands, answers)
        finally:
            process.kill()
            process.wait()
