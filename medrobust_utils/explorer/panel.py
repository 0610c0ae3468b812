"""The explorer as widgets: choices become looks, and looks pictures.

Core widgets only, in a form that ipywidgets 7.7 and 8 both know. Everything happens in the kernel's
own thread; while it computes, the browser keeps the newest place of a slider and no other.
"""

from __future__ import annotations

import io
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
from PIL import Image
from tqdm.std import tqdm

from ..core import env, storage
from ..core.errors import MedrobustError, RunError
from ..explain.cams import METHODS
from . import figure
from .look import ANSWER, LABEL, LEVELS, NAMES, Choice, attacks_for, layers, look, place_of
from .networks import Entry, Index
from .scene import Sample, Scene

log = logging.getLogger(__name__)
START = 2  # gray levels: changes most answers of an undefended network, and nobody sees it
NONE = ("none", ())  # on the right: one network fills the page
USUAL = ("the usual one", "")
TARGETS = (("what it answers", ANSWER), ("the image's label", LABEL))
UPLOADS = 8  # pictures that are kept
SCHEMA = 2  # of saved views
COLOURS = {"busy": "#7f7f7f", "done": "#0173b2", "refused": "#d55e00"}  # told apart in words too
ITEM = {"width": "auto", "flex": "1 1 340px", "max_width": "100%", "min_width": "0"}
WRAP = {"display": "flex", "flex_flow": "row wrap", "align_items": "flex-start", "width": "100%"}
PICTURE = {
    "flex": "1 1 500px",
    "max_width": "min(660px, 100%)",
    "height": "auto",
    "display": "none",
}
NUMBERS = {  # what stands in the table: title and names in the records, before and after
    "answer": ("answer_before", "answer_after"),
    "label": ("label",),
    "class explained": ("explained",),
    "overlap with the label map (Dice)": ("dice_before", "dice_after"),
    "pixels with another class": ("pixels_changed",),
    "largest change of a pixel (1/255)": ("largest_change_255",),
    "maps alike: correlation": ("correlation",),
    "maps alike: structure (SSIM)": ("similarity",),
    "maps alike: brightest places": ("top_overlap",),
    "mask covers": ("mask_share",),
    "share of the map on the mask": ("inside_before", "inside_after"),
    "brightest place on the mask (1: yes)": ("pointing_before", "pointing_after"),
    "layer": ("layer",),
}


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
        self.records: list[dict] = []  # of the view on show
        self.views = 0  # shown so far; the status line says it last, when all has arrived
        self._busy, self._uploads = False, []
        names = ("paper", "data", "image", "left", "right", "attack", "class", "layer", "map")
        self.lists = {
            name: widgets.Dropdown(description=name, layout=widgets.Layout(**ITEM))
            for name in names
        }
        self.eps = widgets.SelectionSlider(
            options=[(f"{eps:.3g}", place) for place, eps in enumerate(LEVELS)],
            value=place_of(START),
            description="eps (1/255)",
            layout=widgets.Layout(**ITEM),
        )
        self.upload = widgets.FileUpload(
            description="own image",
            accept=".png,.jpg,.jpeg,.tif,.tiff,.bmp,.webp,.dcm",
            layout=widgets.Layout(**ITEM),
        )
        self.save = widgets.Button(description="save this view", layout=widgets.Layout(**ITEM))
        self.progress = widgets.IntProgress(layout=widgets.Layout(display="none", width="100%"))
        self.status, self.numbers = widgets.HTML(), widgets.HTML()
        self.pictures = [
            widgets.Image(format="png", layout=widgets.Layout(**PICTURE)) for _ in range(2)
        ]
        for picture in self.pictures:
            picture.add_class("medrobust-picture")
        choices = [*self.lists.values(), self.eps, self.upload, self.save]
        self.widget = widgets.VBox(
            [
                widgets.Box(choices, layout=widgets.Layout(**WRAP)),
                self.status,
                self.progress,
                widgets.Box(self.pictures, layout=widgets.Layout(**WRAP)),
                self.numbers,
            ]
        )
        self._fill("map", [(name, name) for name in METHODS])
        for widget in (*self.lists.values(), self.eps, self.upload):
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
        self._busy, lists = True, self.lists
        try:
            with env.shown_by(_bar_in(self.progress)):
                if clicked is self.save:
                    self._say(f"Saved {self._saved()} and its numbers beside it.")
                    return
                if clicked in (None, lists["paper"], lists["data"]):
                    self._open(clicked)
                elif clicked is self.upload:
                    self._uploaded()
                self._look()
        except Exception as error:
            self._refuse(error)
        finally:
            self._busy = False

    def _open(self, clicked: Any) -> None:
        entry = self.lists["data"].value if clicked is self.lists["data"] else self.entry
        if clicked is self.lists["paper"]:
            entry = self.index.first(self.lists["paper"].value)
        self._say(f"Opening {entry.title}: this may take a minute.", "busy")
        try:
            self.scene, self.entry = entry.open(), entry
        finally:  # where nothing could be opened, the lists go back to what is open
            if self.scene is None:
                self.entry = entry
            papers = [(title, name) for name, title in self.index.papers().items()]
            self._fill("paper", papers, self.entry.paper)
            entries = self.index.entries(self.entry.paper)
            self._fill("data", [(one.title, one) for one in entries], self.entry)
        networks = [(one.name, one) for one in self.scene.networks]
        self._fill("left", networks, networks[0][1])
        self._fill("right", [NONE, *networks], networks[min(1, len(networks) - 1)][1])
        self._fill("attack", [(NAMES[kind], kind) for kind in attacks_for(self.scene)])
        self._fill("class", [*TARGETS, *((name, name) for name in self.scene.data.classes)])
        self._uploads = []  # they were made to fit other networks
        self._fill("image", self._images())

    def _look(self) -> None:
        """Show what is chosen now; the looks of an image are computed once."""
        if self.scene is None:
            raise RunError("No networks are open: choose other data.")
        value = {name: one.value for name, one in self.lists.items()}
        sides = layers(self.scene, value["left"]).items()
        self._fill("layer", [USUAL, *((f"{name} ({side} x {side})", name) for name, side in sides)])
        how = (value["attack"], value["class"], self.lists["layer"].value, value["map"])
        chosen = [one for one in (value["left"], value["right"]) if one != ()]
        self._say("Computing ...", "busy")
        looks = [look(self.scene, one, value["image"], Choice(*how)) for one in chosen]
        for number, picture in enumerate(self.pictures):
            if number < len(looks):
                picture.value = figure.encode(
                    figure.draw(looks[number : number + 1], self.eps.value)
                )
            picture.layout.display = None if number < len(looks) else "none"
        self.records = [one.record(self.eps.value) for one in looks]
        self.numbers.value = table(self.records)
        self.views += 1
        self._say("; ".join(value["image"].notes) or "Done.")

    def _uploaded(self) -> None:
        (taken,) = files(self.upload.value) or [None]
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
        if list(dropdown.options) != list(options):
            dropdown.options = options
        dropdown.value = wanted if wanted in values else values[0]

    def _saved(self) -> Path:
        """Write what is on show as PNG, and its numbers as JSON of the same name beside it."""
        if not self.records:
            raise RunError("There is no picture yet: wait until one is shown, and save it then.")
        first = self.records[0]
        about = f"{first['task']} {first['image']} {first['attack'] or 'clean'}"
        slug = re.sub("[^a-z0-9]+", "-", f"{about} {first['eps_255']:.3g}".lower()).strip("-")[:60]
        path = self.out / "views" / f"{slug}-{storage.fingerprint(self.records)}.png"
        numbers = {"schema": SCHEMA, "records": self.records, "provenance": env.provenance()}
        text = json.dumps(numbers, indent=2, allow_nan=False, ensure_ascii=False)
        shown = [Image.open(io.BytesIO(one.value)) for one in self.pictures[: len(self.records)]]
        whole = Image.new("RGB", (sum(one.width for one in shown), shown[0].height), "white")
        for number, one in enumerate(shown):
            whole.paste(one, (number * one.width, 0))
        buffer = io.BytesIO()
        whole.save(buffer, "png")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.write_atomic(path.with_suffix(".json"), f"{text}\n".encode())
            storage.write_atomic(path, buffer.getvalue())
        except OSError as error:
            raise RunError(
                f"{path}: cannot be written ({error.strerror or error}). Make room, or choose "
                "another folder: OUT."
            ) from error
        return path

    def _refuse(self, error: Exception) -> None:
        """Say what went wrong: a traceback helps nobody who clicked a button."""
        text = str(error)
        if not isinstance(error, MedrobustError):
            log.debug("in the explorer", exc_info=error)
            text = (
                f"Something unexpected happened: {type(error).__name__}: {error}. Please report it."
            )
        self._say(text, "refused")

    def _say(self, text: str, kind: str = "done") -> None:
        """Put a sentence into the status line; ``kind`` is one of COLOURS."""
        self.status.value = (
            f'<div class="medrobust-status" data-state="{kind}" data-view="{self.views}" '
            f'role="status" style="border-left: 4px solid {COLOURS[kind]}; padding-left: 8px; '
            f'line-height: 1.4; overflow-wrap: anywhere">{escape(text)}</div>'
        )


def table(records: Sequence[dict]) -> str:
    """HTML of the records of one view, a column for each network, and what must be said of it."""
    columns, lines = [], ["The networks know phantoms only."] * records[0]["synthetic"]
    for record in records:
        cells = {title: [record.get(name) for name in names] for title, names in NUMBERS.items()}
        columns.append(
            {
                title: " → ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in values)
                for title, values in cells.items()
                if values.count(None) < len(values)
            }
        )
        reasons = {record["no_map_before"], record["no_map_after"]} - {""}
        lines += [*record["warnings"], *record["notes"], *(f"No map: {why}." for why in reasons)]
    shown = pd.DataFrame(columns, index=[record["network"] for record in records]).T.fillna("-")
    notes = "".join(f"<p>{escape(line)}</p>" for line in dict.fromkeys(lines))
    return shown.to_html(border=0, justify="left") + notes


def files(value: Any) -> list[tuple[str, bytes]]:
    """Names and contents in the value of a ``FileUpload``, of ipywidgets 7 or 8."""
    found = [{"name": k, **v} for k, v in value.items()] if isinstance(value, dict) else value
    return [(one["name"], bytes(one["content"])) for one in found]


def _bar_in(shown: widgets.IntProgress) -> type[tqdm]:
    """A class for ``env.shown_by``, whose bars move the panel's own."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"mininterval": 0.2, "file": io.StringIO()})

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            shown.max, shown.value = max(self.total or self.n, 1), self.n
            shown.description = self.desc.removesuffix(": ")
            shown.layout.display = None
            return True

        def close(self) -> None:
            super().close()
            shown.layout.display = "none"

    return Bar
