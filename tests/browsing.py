"""A browser for the tests, found on this machine, and the explorer's page as a reader uses it."""

import base64
import io
import os
import re
import shutil
import time
from contextlib import contextmanager

from PIL import Image
from playwright.sync_api import Error, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
REMEDY = (
    "No Chromium or Chrome found. Install one (Debian: apt-get install chromium), or let CHROMIUM "
    "name its program."
)
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 600  # ends a wait for what never comes; no test says how soon anything has to come
PICTURES = "img.medrobust-picture:visible"
LOADED = """images => images.every(image => getComputedStyle(image).display === "none" ||
    image.complete && image.naturalWidth > 0)"""  # until then a picture on show counts as invisible
FETCH = """async images => Promise.all(images.map(async image => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
}))"""


def find() -> str | None:
    """The browser's program: ``CHROMIUM``, else the first that is there; None without one."""
    named = os.environ.get("CHROMIUM")
    found = map(shutil.which, [named] if named else [*NAMES, MAC])
    return next(filter(None, found), None)


@contextmanager
def opened(profile, url):
    """The explorer's page in a browser of its own, with an empty folder for its ``profile``."""
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # Chromium insists, as root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=find(),
            headless=True,
            args=flags,
            viewport={"width": 1280, "height": 1000},
        )
        try:
            yield Panel(browser.pages[0], url)
        finally:
            browser.close()


class Panel:
    """The page: what it says, what it shows, and all that a reader can do.

    ``faults`` collects errors of the page and of its console, ``abroad`` what it asked from
    elsewhere than ``url``.
    """

    def __init__(self, page, url):
        self.page, self.faults, self.abroad = page, [], []
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._heard)
        page.on("request", self._asked)
        self._home = re.match(r"http://[^/]+/", url)[0]
        page.goto(url)
        self.settled()

    def _heard(self, message):
        if message.type == "error":
            self.faults.append(message.text)

    def _asked(self, request):
        if not request.url.startswith((self._home, "data:", "blob:")):
            self.abroad.append(request.url)

    def status(self):
        """How things stand (busy, done or refused) and the sentence about it."""
        line = self.page.locator(".medrobust-status")
        return line.get_attribute("data-state"), line.inner_text()

    def views(self):
        """How many views the page has shown in full; the status line says it after the last."""
        return int(self.page.locator(".medrobust-status").get_attribute("data-view"))

    def pictures(self):
        """The PNG files on show, as bytes."""
        found = self.page.locator(PICTURES).evaluate_all(FETCH)
        return [base64.b64decode(text) for text in found]

    def settled(self, after=0):
        """Wait until the page is done with a view later than the one numbered ``after``.

        Its pictures come back. One that arrives while another is fetched makes the fetch fail:
        then it is tried again.
        """
        return wait_for(lambda: self._finished(after), self.status)

    def _finished(self, after):
        if self.status()[0] != "done" or self.views() <= after:
            return None
        if not self.page.locator("img.medrobust-picture").evaluate_all(LOADED):
            return None
        try:
            return self.pictures()
        except Error as error:
            if "fetch" not in str(error):
                raise
        return None

    def refused(self):
        """Wait for a refusal, and return its sentence."""

        def sentence():
            state, text = self.status()
            return text if state == "refused" else None

        return wait_for(sentence, self.status)

    def list(self, name):
        """The list with this description."""
        label = self.page.locator("label", has_text=re.compile(f"^{name}$"))
        return self.page.locator(".widget-dropdown", has=label).locator("select")

    def options(self, name):
        """What a list offers. The widgets write its spaces as such that do not break."""
        texts = self.list(name).locator("option").all_inner_texts()
        return [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts]

    def chosen(self, name):
        """What is chosen in a list."""
        return self.options(name)[self.list(name).evaluate("one => one.selectedIndex")]

    def choose(self, name, option):
        """Choose by text or place, and wait until that shows; the pictures come back."""
        before = self.views()
        place = self.options(name).index(option) if isinstance(option, str) else option
        self.list(name).select_option(index=place)
        return self.settled(before)

    def press(self, key):
        """Press a key on the slider."""
        self.page.locator(".noUi-handle").press(key)

    def drag(self):
        """Drag the slider from its left end to its right one, with the mouse, over all values."""
        rail, handle = (
            self.page.locator(place).bounding_box() for place in (".noUi-base", ".noUi-handle")
        )
        middle = handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, middle)
        self.page.mouse.down()
        self.page.mouse.move(rail["x"] + rail["width"] + 20, middle, steps=30)
        self.page.mouse.up()

    def click(self, name):
        """Click the button with this text."""
        self.page.get_by_role("button", name=name).click()

    def upload(self, path):
        """Choose a file on the upload button."""
        with self.page.expect_file_chooser() as chooser:
            self.click("own image")
        chooser.value.set_files(path)

    def boxes(self):
        """Where the pictures are on the page."""
        return [one.bounding_box() for one in self.page.locator(PICTURES).all()]

    def photographs(self):
        """The pictures as the browser drew them."""
        shots = [one.screenshot() for one in self.page.locator(PICTURES).all()]
        return [Image.open(io.BytesIO(shot)).convert("L") for shot in shots]


def wait_for(condition, excuse=lambda: ""):
    """What ``condition`` says as soon as it says something; else how ``excuse`` explains it."""
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"waited too long: {excuse()}"
        time.sleep(0.1)
    return found
