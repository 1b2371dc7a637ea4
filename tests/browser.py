"""Headless Chromium for tests, driven by its DevTools protocol over a pipe: no port, no further package."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds for any one answer
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--remote-debugging-pipe",
    "--hide-scrollbars",
)
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions")
# Chromium wants its pipe as file descriptors 3 and 4, which Popen cannot promise.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


def find():
    """The path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A running Chromium: `call` sends one command and waits for its answer; events gather in `events`."""

    def __init__(self, process, reader, writer):
        self.process, self.reader, self.writer = process, reader, writer
        self.numbers, self.events, self.rest = itertools.count(1), [], b""

    def call(self, method, session=None, **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def receive(self):
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.reader], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "Chromium does not answer"
            received = os.read(self.reader, 1 << 20)
            assert received, "Chromium has ended"
            self.rest += received
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)


@contextmanager
def started(path, profile):
    """Chromium at `path` with a fresh profile folder; ends it afterwards."""
    (theirs_in, writer), (reader, theirs_out) = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
    command = [sys.executable, "-ISc", LAUNCH, *map(str, ends), path, *FLAGS, *QUIET, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for end in (theirs_in, theirs_out, *ends):
        os.close(end)
    browser = Browser(process, reader, writer)
    try:
        yield browser
        browser.call("Browser.close")
    finally:
        os.close(writer)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(reader)


class Page:
    """A file in a tab of its own, with storage of its own."""

    def __init__(self, browser, file, width=1280, height=800, phone=False, downloads=None):
        self.browser = browser
        context = self.context = browser.call("Target.createBrowserContext")["browserContextId"]
        self.target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        if downloads:
            where = {"behavior": "allow", "downloadPath": str(downloads), "browserContextId": context}
            browser.call("Browser.setDownloadBehavior", **where)
        shape = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **shape)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.file = Path(file).as_uri()
        self.load()

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def close(self):
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)
        self.browser.events.clear()

    def load(self):
        self.call("Page.navigate", url=self.file)
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def js(self, expression):
        """The value of an expression; waits for promises."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression):
        deadline = time.monotonic() + PATIENCE
        while not self.js(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def key(self, name):
        """Press and release a key as a person does."""
        text = {"Enter": "\r"}.get(name, name if len(name) == 1 else "")
        code = KEYS.get(name) or ord(name.upper())
        common = {"key": name, "windowsVirtualKeyCode": code, "code": name if len(name) > 1 else f"Key{name.upper()}"}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector):
        """Click with the mouse in the middle of the first element that `selector` finds."""
        found = f"document.querySelector({json.dumps(selector)})"
        x, y = self.js(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})({found})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, file):
        Path(file).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def complaints(self):
        """Errors and warnings of the console, and addresses fetched other than the page itself and what it holds."""
        mine = [e for e in self.browser.events if e.get("sessionId") == self.session]
        what = [e["params"] for e in mine if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        # Chromium tells much else at level "info", such as that a dialogue took the focus.
        what = [w for w in what if w.get("entry", {}).get("level") not in ("info", "verbose")]
        what += [e["params"] for e in mine if e["method"] == "Runtime.consoleAPICalled"]
        asked = [e["params"]["request"]["url"] for e in mine if e["method"] == "Network.requestWillBeSent"]
        return what + [url for url in asked if url != self.file and not url.startswith(("data:", "blob:"))]
