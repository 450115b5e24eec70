"""A real Chromium without a window: Debian's `chromium` and `chromium-driver`. It notes requests and complaints."""

from __future__ import annotations

import json
import shutil
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

T = TypeVar("T")
PATIENCE_S = 180.0
"""Long, for a machine that is busy with something else: a page takes a fraction of a second."""
WIDE, NARROW = 1280, 390
COLOURS = 128
"""Of a picture: a third of the bytes, and no difference that anybody sees."""


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, *, width: int = WIDE, height: int = 900, dark: bool = False) -> None:
        """A page at a width, with the system's colour scheme as told."""
        self.size(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(url)

    def size(self, width: int, height: int = 900) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def until(self, what: Callable[[], T | None], *, why: str, patience_s: float = PATIENCE_S) -> T:
        """The first true value of `what`."""
        end = time.monotonic() + patience_s
        while True:
            try:
                found = what()
            except Exception:  # elements come and go while a page changes
                found = None
            if found:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"not within {patience_s:.0f} s: {why}. The page says:\n{self.text()[:3000]}")
            time.sleep(0.05)

    def see(self, text: str, *, patience_s: float = PATIENCE_S) -> None:
        """Wait until the page shows `text`."""
        self.until(lambda: text in self.text(), why=f"{text!r} is shown", patience_s=patience_s)

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.until(lambda: (self.all(selector) or [None])[0], why=f"{selector} is there")

    def button(self, text: str) -> WebElement:
        """A button by what it says, or by its label."""
        path = f"//button[normalize-space(.)='{text}' or @aria-label='{text}'][not(ancestor::*[@aria-hidden='true'])]"
        return self.until(
            lambda: next((one for one in self.driver.find_elements(By.XPATH, path) if one.is_displayed()), None),
            why=f"there is a button {text!r}",
        )

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.driver.execute_script(script))

    def requests(self) -> list[str]:
        """Every address asked for since the last call, websockets too."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                found.append(message["params"]["url"])
        return found

    def complaints(self) -> list[str]:
        """Errors and warnings in the console since the last call."""
        loud = ("WARNING", "SEVERE")  # NiceGUI says at INFO when it connects again, as on a machine that is very busy
        return [f"{e['level']}: {e['message']}" for e in self.driver.get_log("browser") if e["level"] in loud]

    def picture(self, path: Path, *, height: int | None = None) -> None:
        """The page from its top, as high as it is or as told."""
        whole = int(self.driver.execute_script("return document.documentElement.scrollHeight"))
        width = int(self.driver.execute_script("return document.documentElement.clientWidth"))
        self.size(width, height or whole)
        time.sleep(0.3)  # charts follow the window
        answer = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        picture = Image.open(BytesIO(b64decode(answer["data"]))).convert("RGB")
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def elsewhere(urls: list[str], base: str) -> list[str]:
    """The addresses that are neither this server's nor inside the page."""
    here = urlsplit(base).netloc
    return [
        url for url in urls if urlsplit(url).scheme not in ("data", "blob", "about") and urlsplit(url).netloc != here
    ]


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A window of its own; the test is skipped where Chromium is not installed."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("chromium and chromium-driver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync", "disable-default-apps",
        f"user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(window)
    finally:
        window.quit()
