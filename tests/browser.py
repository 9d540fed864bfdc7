"""A page in a real Chromium, driven over pipes by its own protocol: what it shows, complains of and asks for."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Page:
    """An open page.

    Args:
        asked: the addresses that it asked for, its own first; data: addresses are none.
        complaints: what the browser wrote to its console.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self._commands = os.fdopen(commands, "wb")
        self._answers = os.fdopen(answers, "rb")
        self._session: dict[str, str] = {}
        self._number = 0
        self._happened: list[str] = []

    def open(self, address: str, *, width: int = 1100, dark: bool = False) -> None:
        """Loads an address and waits until everything is there."""
        if not self._session:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = {
                "sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            }
            for domain in ("Page", "Network", "Log", "Runtime"):
                self.call(f"{domain}.enable")
        self.asked.clear()
        self.complaints.clear()
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        self._happened.clear()
        self.call("Page.navigate", url=address)
        while "Page.loadEventFired" not in self._happened:
            self._receive()

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page, from a world of its own where the page forbids scripts."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def call(self, method: str, **parameters: Any) -> Any:
        """Calls a method of the browser's protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def close(self) -> None:
        """Lets go of the pipes, on which the browser ends."""
        for pipe in (self._commands, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()

    def _receive(self) -> Any:
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has gone"
            message += byte
        event = json.loads(message)
        method, parameters = event.get("method", ""), event.get("params", {})
        self._happened.append(method)
        if method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith("data:"):
            self.asked.append(parameters["request"]["url"])
        if method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(parameters))
        return event


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A Chromium with a fresh profile; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed")
    to_browser, from_browser = os.pipe(), os.pipe()
    # The browser reads from its file 3 and writes to its file 4; a shell puts them there.
    line = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
    with (profile.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", line, program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser[0], from_browser[1]),
            stdout=log,
            stderr=log,
        )
    os.close(to_browser[0])
    os.close(from_browser[1])
    page = Page(to_browser[1], from_browser[0])
    try:
        yield page
    finally:
        page.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
