"""Items of the gallery made of numbers alone, and a browser that is installed."""

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from waiting import wait_until

from cdm.gallery import GalleryItem, Measured, gallery_fragment
from cdm.pages import render

JOINTS = ("0", "10", "11", "12", "20", "21")
SIGMA = 0.8
EVIL = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028 \x1b[31m \u202e \"'&"
)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
)


def make_item(number=0, num_points=400, k=1, **changes):
    """A room with a box of target points in it; joint j is closest to a place of its own."""
    rng = np.random.default_rng(number)
    xyz = rng.uniform((-2, -2, 0), (2, 2, 2), (num_points, 3)).astype(np.float32)
    xyz[: num_points // 2, 2] = 0  # a floor
    target = np.arange(num_points) >= num_points - num_points // 10
    xyz[target] = rng.uniform((0.5, 0.5, 0), (1, 1, 0.5), (target.sum(), 3))
    places = xyz[rng.choice(num_points, (k + 1, len(JOINTS)))] + 0.05
    distance = np.linalg.norm(xyz[None, :, None] - places[:, None], axis=-1).astype(np.float32)
    joints = rng.uniform(-1, 1, (40, 22, 3)).astype(np.float32)
    item = {
        "set": "HUMANISE",
        "index": str(number),
        "caption_idx": 0,
        "caption": f"sit on chair {number}",
        "action": ("sit", "lie")[number % 2],
        "xyz": xyz,
        "generated": distance[1:],
        "closest": distance[1:].argmin(axis=1),
        "truth": distance[0],
        "target": target,
        "colors": rng.integers(0, 256, (num_points, 3)).astype(np.uint8),
        "motion": joints,
        "measured": Measured(found=float(number % 3 == 0), error=round(0.1 + number % 7 / 10, 3)),
    }
    return GalleryItem(**(item | changes))


def write_page(path, items, joints=JOINTS):
    """A page with the gallery of these items and nothing else."""
    gallery = gallery_fragment(items, joints, SIGMA, 2)
    path.write_text(render("view.html", title="gallery", gallery=gallery), "utf-8")
    return path


class Browser:
    """Chromium without a window, as big as a screen or a phone.

    Args:
        dark: whether the page is told that people want it dark.
    """

    def __init__(self, width=1200, height=900, dark=False, flags=FLAGS):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
        for flag in flags:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.command("Performance.enable", timeDomain="threadTicks")

    def command(self, name, **arguments):
        """A command of Chrome's own protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def resize(self, width, height, scale=1):
        """The page's window, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", **size)

    def open(self, where):
        """Load a page, and wait until it has nothing left to draw."""
        self.driver.get(where if "://" in str(where) else Path(where).absolute().as_uri())
        self.wait_until_drawn()

    def page_seconds(self):
        """Seconds of a core that the open page took so far on the thread that runs its script.

        Neither what else keeps this machine busy nor a GPU that is imitated in software counts.
        """
        metrics = self.command("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "ThreadTime")

    def wait_until_drawn(self):
        """Wait until the gallery says that nothing is left to draw."""
        self.wait("document.documentElement.dataset.galleryIdle === '1'")

    def wait(self, condition):
        """Wait until an expression is true; what the page wrote to its console is shown, if not."""
        try:
            wait_until(lambda: self.run(f"return Boolean({condition})"), condition)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.log()}") from None

    def run(self, script, *arguments):
        """Run JavaScript in the page."""
        return self.driver.execute_script(script, *arguments)

    def log(self):
        """What the page wrote to the console since the last time; a picture of it is no error."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def texts(self, selector):
        """The texts of all elements that the selector finds."""
        found = (
            "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
        )
        return self.run(found, selector)

    def choose(self, label, value):
        """Choose a value in the toolbar's menu of this label."""
        self.run(
            "const label = [...document.querySelectorAll('#gallery label')]"
            ".find((each) => each.firstChild.textContent === arguments[0]);"
            "const control = label.lastChild; control.value = arguments[1];"
            "control.dispatchEvent(new Event(control.type === 'search' ? 'input' : 'change'));",
            *(label, value),
        )
        self.wait_until_drawn()

    def pixels(self, card=0, picture=0):
        """The picture of a card as numbers, (height, width, 4) uint8."""
        found = self.run(
            "return document.querySelectorAll('#gallery .card')[arguments[0]]"
            ".querySelectorAll('canvas')[arguments[1]].toDataURL()",
            *(card, picture),
        )
        shares = imread(io.BytesIO(base64.b64decode(found.partition(",")[2])))
        return np.rint(255 * shares).astype(np.uint8)


def need_browser():
    """Skip the test where no browser is installed."""
    pytest.importorskip("selenium", reason="needs selenium: pip install -e '.[test]'")
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    if not shutil.which("chromedriver"):
        pytest.skip("needs chromedriver: apt-get install chromium-driver")
