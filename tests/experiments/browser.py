"""A headless Chromium for tests, over chromedriver's HTTP interface (W3C WebDriver).

It needs only the standard library.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any


def missing() -> str | None:
    """Returns why no browser can be started here, or None."""
    if not _browser():
        return "no Chromium here: apt-get install chromium, or name one in CHROMIUM"
    if not shutil.which("chromedriver"):
        return "no chromedriver here: apt-get install chromium-driver"
    return None


def _browser() -> str | None:
    return os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


class Browser:
    """One browser window. Used as a context manager."""

    def __enter__(self) -> Browser:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # --remote-debugging-pipe would need no port, but chromedriver has none of it
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                if self._call("GET", "/status")["ready"]:
                    break
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline or self._driver.poll() is not None:
                    self.__exit__()
                    raise RuntimeError("chromedriver did not start within a minute") from None
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={self._profile.name}",
        ]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": _browser(), "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self._session = ""
        self._session = (
            "/session/"
            + self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        )
        return self

    def __exit__(self, *error: object) -> None:
        if getattr(self, "_session", ""):
            with contextlib.suppress(urllib.error.URLError, OSError):
                self._call("DELETE", "")
        self._driver.terminate()
        self._driver.wait()
        self._profile.cleanup()

    def open(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs JavaScript in the page and returns what it returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, script: str, timeout_s: float = 60.0) -> None:
        """Waits until the script returns something true."""
        deadline = time.monotonic() + timeout_s
        while not self.run(script):
            if time.monotonic() > deadline:
                raise AssertionError(f"after {timeout_s:.0f} s still not: {script}")

    def messages(self) -> list[str]:
        """Returns what the page wrote to the console since the last call.

        Errors and refusals are included.
        """
        return [
            f"{entry['level']} {entry['message']}"
            for entry in self._call("POST", "/se/log", {"type": "browser"})
        ]

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width: int, height: int) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def media(self, *, scheme: str = "light", media: str = "") -> None:
        self.devtools(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def screenshot(self, *, whole: bool = True) -> bytes:
        return base64.b64decode(
            self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        )

    def pdf(self) -> bytes:
        return base64.b64decode(self.devtools("Page.printToPDF", printBackground=True)["data"])

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode("utf-8")
        address = self._base + getattr(self, "_session", "") + path
        request = urllib.request.Request(
            address, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {json.load(error)['value']['message']}") from None
