"""A headless Chromium that tests drive, through the WebDriver protocol of chromedriver."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

NAMES = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "chromedriver": ("chromedriver",)}
FOUND = {kind: next(filter(None, map(shutil.which, names)), None) for kind, names in NAMES.items()}
MISSING = [name for name, path in FOUND.items() if path is None]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for the key of a reference to an element


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Browser:
    """One window. `with Browser() as b:` closes it."""

    def __init__(self):
        port = free_port()
        self.driver = subprocess.Popen(
            [FOUND["chromedriver"], f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.address = f"http://127.0.0.1:{port}"
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--window-size=1280,900",
        ]  # fmt: skip
        options = {"args": arguments, "binary": FOUND["chromium"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self.wait_until_up()
            opened = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = f"/session/{opened['sessionId']}"
        except Exception:
            self.stop()
            raise

    def wait_until_up(self):
        """Wait for the driver to listen."""
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.address}/status").close()
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver does not answer")

    def ask(self, method, path, body=None):
        """One request, and the value of its answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:1000]) from error

    def open(self, path):
        """Load a file."""
        self.ask("POST", f"{self.session}/url", {"url": f"file://{path}"})

    def run(self, script):
        """The value that a script returns."""
        return self.ask("POST", f"{self.session}/execute/sync", {"script": script, "args": []})

    def find(self, selector):
        """The path of an element."""
        found = self.ask("POST", f"{self.session}/element", {"using": "css selector", "value": selector})
        return f"{self.session}/element/{found[ELEMENT]}"

    def click(self, selector):
        """Click on an element, as a mouse does."""
        self.ask("POST", f"{self.find(selector)}/click", {})

    def type(self, selector, text):
        """Type into an element."""
        self.ask("POST", f"{self.find(selector)}/value", {"text": text})

    def text(self, selector):
        """What an element shows."""
        return self.ask("GET", f"{self.find(selector)}/text")

    def messages(self):
        """What the page wrote on the console, errors of its policy included."""
        return self.ask("POST", f"{self.session}/se/log", {"type": "browser"})

    def stop(self):
        """End the driver."""
        self.driver.terminate()
        self.driver.wait()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.ask("DELETE", self.session)
        self.stop()
