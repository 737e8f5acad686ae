"""A page in headless Chromium, driven by the DevTools protocol over a pipe; no network is used."""

import base64
import contextlib
import io
import itertools
import json
import os
import select
import subprocess
import time

import numpy as np
import PIL.Image
from browser import chromium

_SECONDS = 240
_FLAGS = (
    *("--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--hide-scrollbars", "--force-device-scale-factor=1"),
)
_KEYS = {"ArrowRight": 39, "ArrowUp": 38, "PageUp": 33, "KeyV": 86}


class Page:
    """A page that is open in a browser.

    Attributes:
      requests: addresses of everything that the page asked for, itself first.
      console: what its console says, and exceptions that nothing caught.
      documents: addresses of the documents that it has shown, in order.
    """

    def __init__(self, write, read):
        self._write, self._read, self._rest = write, read, b""
        self._numbers, self._session = itertools.count(1), {}
        self.requests, self.console, self.documents = [], [], []

    def open(self, url, *, width, height=900, mobile=False):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        made = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": made["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        # Lengths in CSS pixels; the window itself cannot be as narrow as a phone, whose own pixels
        # are finer.
        finer = 2 if mobile else 1
        size = {"width": width, "height": height, "deviceScaleFactor": finer, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        offline = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.call("Network.emulateNetworkConditions", offline=True, **offline)
        self.call("Page.navigate", url=url)
        self.wait("document.documentElement?.dataset.ready")

    def call(self, method, **params):
        """The result of a DevTools method; events that come before it are noted."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def run(self, script):
        """The value of a JavaScript expression, awaited."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.run(condition):
            assert time.monotonic() < end, f"{condition} did not come true: {self.console}"
            time.sleep(0.05)

    def follow(self, script):
        """Run a script that leads to another document, and wait until that one is complete.

        A script cannot be asked whether it is there already: the browser answers with an error
        where the document goes away while the question is on its way.
        """
        before = len(self.documents)
        self.run(script)
        while len(self.documents) == before:
            self._next()
        self.wait("document.readyState === 'complete'")

    def settle(self):
        """Wait until the page has drawn what was asked for."""
        self.run(
            "new Promise(go => requestAnimationFrame(() => requestAnimationFrame(() => go())))"
        )

    def set(self, name, value):
        """Give a control a value, as a person does by moving it."""
        self.run(
            f"(() => {{ const it = document.getElementById({json.dumps(name)});"
            f"it[it.type === 'checkbox' ? 'checked' : 'value'] = {json.dumps(value)};"
            "it.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        self.settle()

    def text(self, name):
        return self.run(f"document.getElementById({json.dumps(name)}).textContent")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            number = {"windowsVirtualKeyCode": _KEYS[key]}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **number)
        self.settle()

    def click(self, x, y):
        where = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **where)
        self.settle()

    def touch(self, x, y):
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        moved = [{"x": x + 1, "y": y + 1}]
        self.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=moved)
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settle()

    def box(self, name):
        """Left, top, width and height of an element on the page."""
        return self.run(
            f"(r => [r.left, r.top, r.width, r.height])"
            f"(document.getElementById({json.dumps(name)}).getBoundingClientRect())"
        )

    def pixels(self, name=None):
        """What one sees of an element, or of the whole page, uint8 [height, width, 3]."""
        if name is None:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"]}
        else:
            clip = dict(zip(("x", "y", "width", "height"), self.box(name), strict=True))
        # Beyond what fits into the window, the page would be laid out anew.
        whole = {"captureBeyondViewport": name is None}
        shot = self.call("Page.captureScreenshot", clip=clip | {"scale": 1}, **whole)
        png = base64.b64decode(shot["data"])
        return np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB"))

    def _next(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], _SECONDS)
            assert ready, "the browser does not answer"
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        line, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(line)
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                said = [
                    arg.get("value", arg.get("description")) for arg in message["params"]["args"]
                ]
                self.console.append(f"{message['params']['type']}: {said}")
            case "Runtime.exceptionThrown":
                self.console.append(json.dumps(message["params"]["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(message["params"]["entry"]["text"])
            case "Page.frameNavigated":
                self.documents.append(message["params"]["frame"]["url"])
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        return message


@contextlib.contextmanager
def opened(path, profile, *, width, mobile=False):
    """An HTML file in a browser, when it says that it is ready (`data-ready` of its root)."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4.
    launch = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    command = ["bash", "-c", launch, "bash", chromium(), *_FLAGS, f"--user-data-dir={profile}"]
    with subprocess.Popen(
        command,
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            page = Page(ours_out, ours_in)
            page.open(path.as_uri(), width=width, mobile=mobile)
            yield page
        finally:
            process.kill()
            os.close(ours_in)
            os.close(ours_out)
