"""Drive the explorer's panel as people do: networks that open at once, clicks, dropped files."""

import datetime as dt
import io
import re
from dataclasses import dataclass

import numpy as np
import scenes
from PIL import Image

from medrobust_utils.core.errors import RunError
from medrobust_utils.explorer.networks import Entry

TWO, FOUR = "2_attentive_cnn", "4_unet_adversarial_training"


@dataclass(frozen=True)
class Drawn(Entry):
    """An entry with a ready scene; BROKEN cannot be opened."""

    def open(self):
        if self == BROKEN:
            raise RunError("skin-vanilla: its weights are missing. Run the notebook again.")
        return getattr(scenes, self.found[0])()


SKIN = Drawn(TWO, "skin, drawn", True, ("single_label",))
CHEST = Drawn(TWO, "chests, drawn", True, ("multi_label",))
BROKEN = Drawn(TWO, "weights that are gone", True, ("broken",))
TISSUE = Drawn(FOUR, "tissue, drawn", True, ("segmentation",))


class FakeIndex:
    """Two papers with drawn networks."""

    def papers(self):
        return {TWO: "Attentive CNN", FOUR: "U-Net"}

    def entries(self, paper):
        return [SKIN, CHEST, BROKEN] if paper == TWO else [TISSUE]

    def first(self, paper=""):
        return self.entries(paper or TWO)[0]


def said(explorer):
    """The sentence of the status line, and its kind."""
    kind, text = re.search(r'data-state="(\w+)".*?>(.*)</div>', explorer.status.value).groups()
    return text, kind


def pictures(explorer):
    """Bytes of the pictures that are on show."""
    return [one.value for one in explorer.pictures if one.layout.display != "none"]


def click(dropdown, label):
    """Choose an entry by its text, as the browser sends it."""
    labels = [text for text, _ in dropdown.options]
    dropdown.set_state({"index": labels.index(label)})


def drop(upload, name, content):
    """Drop a file on the upload button, as the browser of this version of ipywidgets sends it."""
    content = memoryview(content)
    about = {"name": name, "type": "image/png", "size": len(content)}
    if hasattr(upload, "metadata"):  # ipywidgets 7
        counter = upload._counter + 1
        state = {"metadata": [about], "data": [content], "_counter": counter, "error": ""}
    else:
        when = int(dt.datetime(2024, 1, 1).timestamp() * 1000)
        state = {"value": [about | {"content": content, "last_modified": when}], "error": ""}
    upload.set_state(state)


def a_file(mode="RGB", size=(64, 64), seed=0):
    """Bytes of a picture with something on it."""
    rng = np.random.default_rng(seed)
    deep = mode == "I;16"
    shape = size[::-1] if mode in ("L", "I;16") else (*size[::-1], len(mode))
    pixels = rng.integers(0, 40000 if deep else 256, shape).astype(np.uint16 if deep else np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
