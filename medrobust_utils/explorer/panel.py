"""The explorer as widgets: choices become looks, and looks pictures.

Core widgets only, in a form that ipywidgets 7.7 and 8 both know. Everything happens in the kernel's
own thread; while it computes, the browser keeps the newest place of a slider and no other.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import display
from tqdm.std import tqdm

from ..core import env, storage
from ..core.errors import MedrobustError, RunError
from ..explain.cams import METHODS
from . import figure
from .look import ANSWER, LABEL, LEVELS, Choice, Look, attacks_for, layers, look, place_of
from .networks import Entry, Index
from .scene import Sample, Scene

log = logging.getLogger(__name__)
START = 2  # gray levels: changes most answers of an undefended network, and nobody sees it
NONE = ("none", ())  # on the right: one network fills the page
USUAL = ("the usual one", "")
TARGETS = (("what it answers", ANSWER), ("the image's label", LABEL))
UPLOADS = 8  # pictures that are kept
SCHEMA = 2  # of saved views
LISTS = ("paper", "data", "image", "left", "right", "attack", "class", "layer", "map")
TABLE = ("answer", "label", "explained", "dice", "pixels_changed", "largest_change_255")
TABLE += ("correlation", "similarity", "top_overlap", "mask_share", "inside", "pointing", "layer")
CSS = "<style>.medrobust td, .medrobust th {text-align: left; padding: 1px 18px 1px 0}</style>"
COLOURS = {"busy": "#7f7f7f", "done": "#0173b2", "refused": "#d55e00"}  # told apart in words too
ITEM = {"width": "auto", "flex": "1 1 340px", "max_width": "100%", "min_width": "0"}
WRAP = {"display": "flex", "flex_flow": "row wrap", "align_items": "flex-start", "width": "100%"}
SHOWN = {"flex": "1 1 500px", "max_width": "min(660px, 100%)", "height": "auto", "display": "none"}
LINE = (
    '<div class="medrobust-status" data-state="{}" data-view="{}" role="status" style="border-left:'
    ' 4px solid {}; padding-left: 8px; line-height: 1.4; overflow-wrap: anywhere">{}</div>'
)


class Explorer:
    """Choose, and see what networks look at. What goes wrong is a sentence in the status line.

    Args:
        index: where the networks come from.
        out: folder; views are saved below it.
        entry: what ``show`` opens first.
    """

    def __init__(self, index: Index, out: Path, entry: Entry) -> None:
        self.index, self.out, self.entry = index, Path(out), entry
        self.scene: Scene | None = None
        self.looks: list[Look] = []  # on show
        self.records: list[dict] = []  # their numbers
        self.views = 0  # shown so far; the status line says it last, when all has arrived
        self._busy, self._uploads = False, []

        def item(kind: type, **how: Any) -> Any:
            return kind(layout=widgets.Layout(**ITEM), **how)

        self.lists = {name: item(widgets.Dropdown, description=name) for name in LISTS}
        places = [(f"{eps:.3g}", place) for place, eps in enumerate(LEVELS)]
        how = {"options": places, "value": place_of(START), "description": "eps (1/255)"}
        self.eps = item(widgets.SelectionSlider, **how)
        kinds = ".png,.jpg,.jpeg,.tif,.tiff,.bmp,.webp,.dcm,.dicom"
        self.upload = item(widgets.FileUpload, description="own image", accept=kinds)
        self.save = item(widgets.Button, description="save this view")
        self.progress = widgets.IntProgress(layout=widgets.Layout(display="none", width="100%"))
        self.status, self.numbers = widgets.HTML(), widgets.HTML()
        self.pictures = [widgets.Image(layout=widgets.Layout(**SHOWN)) for _ in range(2)]
        for picture in self.pictures:
            picture.add_class("medrobust-picture")
        choices = [*self.lists.values(), self.eps, self.upload, self.save]
        rows = [widgets.Box(row, layout=widgets.Layout(**WRAP)) for row in (choices, self.pictures)]
        self.widget = widgets.VBox([rows[0], self.status, self.progress, rows[1], self.numbers])
        self._fill("map", [(name, name) for name in METHODS])
        for widget in choices[:-1]:
            widget.observe(lambda change: self._heard(change["owner"]), "value")
        self.save.on_click(self._heard)

    def show(self) -> Explorer:
        """Display the widget, and open the first networks in it."""
        display(self.widget)
        self._heard(None)
        return self

    def _heard(self, clicked: Any) -> None:
        """Do what somebody asked for; changes that follow from it ask for nothing more."""
        if self._busy:
            return
        self._busy = True
        try:
            with env.shown_by(_bar_in(self.progress)):
                if clicked is self.save:
                    self._say(f"Saved {self._saved()} and its numbers beside it.")
                    return
                if clicked in (None, self.lists["paper"], self.lists["data"]):
                    self._open(clicked)
                if self.scene is None:
                    raise RunError("No networks are open: choose other data.")
                if clicked is self.upload:
                    self._uploaded()
                self._look()
        except MedrobustError as error:
            self._say(str(error), "refused")
        except Exception as error:  # a traceback helps nobody who clicked a button
            log.debug("in the explorer", exc_info=error)
            words = f"Something unexpected happened: {type(error).__name__}: {error}. "
            self._say(f"{words}Please report it.", "refused")
        finally:
            self._busy = False

    def _open(self, clicked: Any) -> None:
        entry = self.lists["data"].value if clicked is self.lists["data"] else self.entry
        if clicked is self.lists["paper"]:
            entry = self.index.first(self.lists["paper"].value)
        self._say(f"Opening {entry.title} ...", "busy")
        try:
            self.scene, self.entry = entry.open(), entry
        finally:  # where nothing could be opened, the lists go back to what is open
            papers = [(title, name) for name, title in self.index.papers().items()]
            self._fill("paper", papers, self.entry.paper)
            entries = self.index.entries(self.entry.paper)
            self._fill("data", [(one.title, one) for one in entries], self.entry)
        networks = [(one.name, one) for one in self.scene.networks]
        self._fill("left", networks, networks[0][1])
        self._fill("right", [NONE, *networks], networks[min(1, len(networks) - 1)][1])
        self._fill("attack", [(name, kind) for kind, name in attacks_for(self.scene).items()])
        self._fill("class", [*TARGETS, *((name, name) for name in self.scene.data.classes)])
        self._uploads = []  # they were made to fit other networks
        self._fill("image", self._images())

    def _look(self) -> None:
        """Show what is chosen now; the looks of an image are computed once."""
        value = {name: one.value for name, one in self.lists.items()}
        sides = layers(self.scene, value["left"]).items()
        self._fill("layer", [USUAL, *((f"{name} ({side} x {side})", name) for name, side in sides)])
        how = Choice(value["attack"], value["class"], self.lists["layer"].value, value["map"])
        chosen = [one for one in (value["left"], value["right"]) if one != ()]
        self._say("Computing ...", "busy")
        self.looks = [look(self.scene, one, value["image"], how) for one in chosen]
        self.records = [one.record(self.eps.value) for one in self.looks]
        for number, picture in enumerate(self.pictures):
            if number < len(self.looks):
                picture.value = figure.picture(self.looks[number], self.eps.value)
            picture.layout.display = None if number < len(self.looks) else "none"
        self.numbers.value = table(self.records)
        self.views += 1
        self._say("; ".join(value["image"].notes) or "Done.")

    def _uploaded(self) -> None:
        taken = files(self.upload.value)[0]
        if isinstance(self.upload.value, dict):  # ipywidgets 7: value follows the counter
            self.upload.metadata, self.upload.data, self.upload._counter = [], [], 0
        else:
            self.upload.value = ()
        sample = self.scene.uploaded(*taken)
        others = [one for one in self._uploads if one.name != sample.name]
        self._uploads = [sample, *others][:UPLOADS]
        self._fill("image", self._images(), sample)

    def _images(self) -> list[tuple[str, Sample]]:
        own = [(one.name, one) for one in self._uploads]
        return own + list(zip(self.scene.names, self.scene.samples, strict=True))

    def _fill(self, name: str, options: Sequence[tuple], value: Any = None) -> None:
        """Offer pairs of text and value; choose ``value``, else what was chosen, else the first."""
        dropdown, values = self.lists[name], [one for _, one in options]
        wanted = dropdown.value if value is None else value
        dropdown.options = options
        dropdown.value = wanted if wanted in values else values[0]

    def _saved(self) -> Path:
        """Write what is on show as PNG, and its numbers as JSON of the same name beside it."""
        if not self.looks:
            raise RunError("There is no picture yet: choose networks first.")
        first = self.records[0]
        about = f"{first['task']} {first['image']} {first['eps_255']:.3g}".lower()
        slug = re.sub("[^a-z0-9]+", "-", about).strip("-")[:60]
        path = self.out / "views" / f"{slug}-{storage.fingerprint(self.records)}.png"
        numbers = {"schema": SCHEMA, "records": self.records, "provenance": env.provenance()}
        text = json.dumps(numbers, indent=2, allow_nan=False, ensure_ascii=False)
        drawn = figure.encode(figure.draw(self.looks, LEVELS.index(first["eps_255"])))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.write_atomic(path.with_suffix(".json"), f"{text}\n".encode())
            storage.write_atomic(path, drawn)
        except OSError as error:
            raise RunError(
                f"{path}: cannot be written ({error.strerror or error}). Make room, or choose "
                "another folder: OUT."
            ) from error
        return path

    def _say(self, text: str, kind: str = "done") -> None:
        """Put a sentence into the status line; ``kind`` is one of COLOURS."""
        self.status.value = LINE.format(kind, self.views, COLOURS[kind], escape(text))


def table(records: Sequence[dict]) -> str:
    """HTML of the records of one view, a column for each network, and what must be said of it."""
    names = [name for key in TABLE for name in (key, f"{key}_before", f"{key}_after")]
    shown = pd.DataFrame(records).set_index("network").reindex(columns=names).T.dropna(how="all")
    lines = ["The networks know phantoms only."] * records[0]["synthetic"]
    for record in records:
        reasons = {record["no_map_before"], record["no_map_after"]} - {""}
        lines += [*record["warnings"], *record["notes"], *(f"No map: {why}." for why in reasons)]
    notes = "".join(f"<p>{escape(line)}</p>" for line in dict.fromkeys(lines))
    how = {"border": 0, "classes": "medrobust", "na_rep": "-", "index_names": False}
    return CSS + shown.to_html(float_format="{:.2f}".format, **how) + notes


def files(value: Any) -> list[tuple[str, bytes]]:
    """Names and contents in the value of a ``FileUpload``, of ipywidgets 7 or 8."""
    found = [{"name": k, **v} for k, v in value.items()] if isinstance(value, dict) else value
    return [(one["name"], bytes(one["content"])) for one in found]


def _bar_in(shown: widgets.IntProgress) -> type[tqdm]:
    """A class for ``env.shown_by``, whose bars move the panel's own."""

    class Bar(tqdm):
        def display(self, *_: Any, **__: Any) -> None:
            shown.max, shown.value, shown.layout.display = self.total or 1, self.n, None

        def update(self, n: float = 1) -> None:
            self.n += n
            self.display()

        def close(self) -> None:
            self.disable, shown.layout.display = True, "none"

    return Bar
