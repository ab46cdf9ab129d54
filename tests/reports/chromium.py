"""A headless Chromium that is spoken to over its debugging pipe: no driver, no port, no dependency."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FOUND = next((path for name in NAMES if (path := shutil.which(name))), None)
MISSING = f"none of {', '.join(NAMES)} is installed; on Debian: apt-get install chromium-headless-shell"
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking", "--no-zygote",
    "--hide-scrollbars",
)  # fmt: skip


class Chromium:
    """One page of a browser, with what it asked the network for and what it said in its console."""

    def __init__(self, folder: Path) -> None:
        reading, self._write = os.pipe()
        self._read, writing = os.pipe()

        def place() -> None:  # the browser reads descriptor 3 and writes 4
            first, second = os.dup(reading), os.dup(writing)
            os.dup2(first, 3)
            os.dup2(second, 4)
            os.set_inheritable(3, True)
            os.set_inheritable(4, True)

        self._process = subprocess.Popen(
            [FOUND, *_OPTIONS, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=place,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reading)
        os.close(writing)
        self._rest, self._number, self._session = b"", 0, None
        self.requests: list[str] = []
        self.console: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        """Send a command and return its answer; what the page tells meanwhile is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]
            self._keep(told)

    def wait(self, event: str) -> None:
        """Wait until the page tells of an event."""
        while True:
            told = self._next()
            self._keep(told)
            if told.get("method") == event:
                return

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            more = os.read(self._read, 1 << 20)
            assert more, "the browser ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _keep(self, told: dict) -> None:
        parameters = told.get("params", {})
        if told.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif told.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(json.dumps(parameters))

    def open(self, page: Path) -> None:
        """Open a file."""
        self.requests.clear()
        self.console.clear()
        self.call("Page.navigate", url=page.as_uri())
        self.wait("Page.loadEventFired")

    def value(self, expression: str) -> object:
        """Return what an expression of JavaScript gives."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, *, width: int = 1100) -> bytes:
        """Return a PNG of the whole page."""
        height = self.value("document.documentElement.scrollHeight")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])

    def printed(self) -> bytes:
        """Return the page as it is printed, a PDF of A4."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"])

    def close(self) -> None:
        """End the browser."""
        self._session = None
        self.call("Browser.close")
        self._process.wait(timeout=60)
        os.close(self._write)
        os.close(self._read)
