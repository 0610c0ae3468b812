"""Drive the explorer's panel as people do: a shelf that opens at once, clicks, dropped files."""

import datetime as dt
import io
import re

import numpy as np
import scenes
from PIL import Image

from medrobust_utils.core.errors import RunError
from medrobust_utils.explorer.shelf import Place

LONG = 600  # seconds; ends a wait for what never comes
SKIN = Place("2_attentive_cnn", "skin-0-abc", "skin, drawn", True)
CHEST = Place("2_attentive_cnn", "chest-0-abc", "chests, drawn", True)
BROKEN = Place("2_attentive_cnn", "broken-0-abc", "weights that are gone", True)
TISSUE = Place("4_unet_adversarial_training", "tissue-0-abc", "tissue, drawn", True)


class FakeShelf:
    """Places with ready scenes, and one that cannot be opened; ``before`` runs at every opening."""

    def __init__(self, before=lambda place: None):
        self.before, self.opened = before, []

    def papers(self):
        return {"2_attentive_cnn": "Attentive CNN", "4_unet_adversarial_training": "U-Net"}

    def places(self, paper):
        return [SKIN, CHEST, BROKEN] if paper == SKIN.paper else [TISSUE]

    def first(self, paper=""):
        return self.places(paper or SKIN.paper)[0]

    def open(self, place):
        self.opened.append(place.key)
        self.before(place)
        if place == BROKEN:
            raise RunError("skin-vanilla: its weights are missing. Run the notebook again.")
        makers = (scenes.single_label, scenes.multi_label, scenes.segmentation)
        return dict(zip((SKIN, CHEST, TISSUE), makers, strict=True))[place]()


def said(explorer):
    """The sentence of the status line, and its kind."""
    kind, text = re.search(
        r'data-state="(\w+)".*?>(.*)</div>', explorer.controls.status.value
    ).groups()
    return text, kind


def settled(explorer):
    """Wait for the picture that was asked for; it must have come without trouble."""
    assert explorer.wait(LONG)
    text, kind = said(explorer)
    assert kind == "done", text
    return explorer


def pictures(explorer):
    """Bytes of the pictures that are on show."""
    return [one.value for one in explorer.controls.pictures if one.layout.display != "none"]


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


def a_file(mode="RGB", size=(64, 64), kind="PNG", seed=0):
    """Bytes of a picture with something on it."""
    rng = np.random.default_rng(seed)
    deep = mode == "I;16"
    shape = size[::-1] if mode in ("L", "I;16") else (*size[::-1], len(mode))
    pixels = rng.integers(0, 40000 if deep else 256, shape).astype(np.uint16 if deep else np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
