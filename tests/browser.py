"""A headless Chromium, spoken to by the WebDriver protocol."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element, by the protocol."""


class Browser:
    """One window."""

    def __init__(self, address: str) -> None:
        self._address = address

    def call(self, method: str, path: str, **values: Any) -> Any:
        data = json.dumps(values).encode() if method == "POST" else None
        request = urllib.request.Request(self._address + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def run(self, script: str, *arguments: Any) -> Any:
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def open(self, url: str) -> None:
        self.call("POST", "/url", url=url)

    def write(self, selector: str, text: str) -> None:
        """Types, or chooses a file."""
        found = self.call("POST", "/element", using="css selector", value=selector)[ELEMENT]
        self.call("POST", f"/element/{found}/value", text=text)

    def click(self, selector: str) -> None:
        found = self.call("POST", "/element", using="css selector", value=selector)[ELEMENT]
        self.call("POST", f"/element/{found}/click")

    def text(self, selector: str) -> str:
        found: str = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return found

    def wait(self, selector: str, part: str) -> str:
        """The text of an element once there is `part` in it."""
        end = time.monotonic() + 30
        while part not in (found := self.text(selector)):
            assert time.monotonic() < end, f"no {part!r} in {found!r}; the page says {self.text('body')!r}"
            time.sleep(0.05)
        return found


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Opens a window; skips the test where there is no browser."""
    driver = shutil.which("chromedriver")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if driver is None or program is None:
        pytest.skip("no headless Chromium here: needs chromium and chromedriver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([driver, f"--port={port}"], stdout=log, stderr=log)
        try:
            root = Browser(f"http://127.0.0.1:{port}")
            _ready(root)
            options = {
                "binary": program,
                "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                         f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking"],
            }  # fmt: skip
            wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}
            session = root.call("POST", "/session", capabilities=wanted)["sessionId"]
            window = Browser(f"http://127.0.0.1:{port}/session/{session}")
            try:
                yield window
            finally:
                window.call("DELETE", "")
        finally:
            process.terminate()
            process.wait(20)


def _ready(root: Browser) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            if root.call("GET", "/status")["ready"]:
                return
        except OSError:
            assert time.monotonic() < end, "chromedriver does not answer"
        time.sleep(0.05)
