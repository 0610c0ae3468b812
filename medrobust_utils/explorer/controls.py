"""The explorer's widgets: what can be chosen, where pictures go, and what is said beside them.

Core widgets only, in a form that ipywidgets 7.7 and 8 both know. What they do is up to the panel.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from html import escape
from typing import Any

import ipywidgets as widgets
from tqdm.std import tqdm
from traitlets import TraitError

from ..explain.cams import METHODS
from . import answers
from .look import NAMES, Choice, Outdated, attacks_for
from .scene import Scene

EPS = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16)  # gray levels of 255
START = 2  # an eps that changes most answers of an undefended network, and that nobody sees
NOBODY = -1  # on the right: one network fills the page
USUAL = ("the usual one", "")
TARGETS = (("what it answers", answers.ANSWER), ("the image's label", answers.LABEL))
COLOURS = {"busy": "#7f7f7f", "done": "#0173b2", "refused": "#d55e00"}  # told apart in words too
ITEM = dict(width="auto", flex="1 1 340px", max_width="100%", min_width="0")
WRAP = dict(display="flex", flex_flow="row wrap", align_items="flex-start", width="100%")


class List(widgets.Dropdown):
    """A dropdown that survives a click on an entry which was gone when the click arrived."""

    def set_state(self, sync_data: dict) -> None:
        """Take what the browser sends, or show it again what is chosen."""
        try:
            super().set_state(sync_data)
        except TraitError:
            self.send_state()


class Controls:
    """The widgets, by what they are for; their descriptions are what a reader finds them by.

    While the panel fills a list, it is ``quiet``: nobody chose anything.
    """

    def __init__(self) -> None:
        self.paper, self.data, self.image = _list("paper"), _list("data"), _list("image")
        self.left, self.right = _list("left"), _list("right")
        self.attack, self.target, self.layer = _list("attack"), _list("class"), _list("layer")
        self.method = _list("map", [(name, name) for name in METHODS])
        labels = [(str(Fraction(eps)), eps) for eps in EPS]
        self.eps = widgets.SelectionSlider(
            options=labels, value=START, description="eps (1/255)", layout=widgets.Layout(**ITEM)
        )
        self.upload = widgets.FileUpload(
            description="own image",
            accept=".png,.jpg,.jpeg,.tif,.tiff,.bmp,.webp",
            multiple=False,
            layout=widgets.Layout(**ITEM),
        )
        self.save = widgets.Button(description="save this view", layout=widgets.Layout(**ITEM))
        self.progress = widgets.IntProgress(layout=widgets.Layout(display="none", width="100%"))
        self.progress.style.description_width = "initial"
        self.status, self.numbers = widgets.HTML(), widgets.HTML()
        self._views = 0  # shown so far; the page says it last, when all of a view has arrived
        self.pictures = [_picture(), _picture()]
        self._filling = threading.local()
        self.fill(self.right, [("none", NOBODY)])
        self.fill(self.target, TARGETS)
        self.fill(self.layer, [USUAL])
        self.ready(False)

    @property
    def asked(self) -> tuple[widgets.Widget, ...]:
        """What a new picture follows from, within a scene."""
        return (
            *(self.left, self.right, self.image, self.attack),
            *(self.eps, self.target, self.layer, self.method),
        )

    def panel(self) -> widgets.VBox:
        """All of it, laid out for pages of any width."""
        choices = [self.paper, self.data, self.image, self.left, self.right, self.upload]
        choices += [self.attack, self.eps, self.target, self.layer, self.method, self.save]
        return widgets.VBox(
            [
                widgets.Box(choices, layout=widgets.Layout(**WRAP)),
                self.status,
                self.progress,
                widgets.Box(self.pictures, layout=widgets.Layout(**WRAP)),
                self.numbers,
            ],
            layout=widgets.Layout(width="100%"),
        )

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Inside, and in this thread, changes are the panel's own doing (see ``is_quiet``)."""
        before, self._filling.now = self.is_quiet, True
        try:
            yield
        finally:
            self._filling.now = before

    @property
    def is_quiet(self) -> bool:
        """Whether this thread is inside ``quiet``."""
        return getattr(self._filling, "now", False)

    def fill(self, dropdown: List, options: Sequence[tuple], value: Any = None) -> None:
        """Offer pairs of text and value; choose ``value`` if it is among them, else the first."""
        with self.quiet(), dropdown.hold_sync():
            dropdown.options = options
            values = [one for _, one in options]
            dropdown.value = value if value in values else values[0]

    def fill_scene(self, scene: Scene) -> None:
        """Offer all that a scene has but its images; the attack stays if it fits."""
        names = [(network.name, number) for number, network in enumerate(scene.networks)]
        self.fill(self.left, names)
        self.fill(self.right, [("none", NOBODY), *names], 1 if len(names) > 1 else NOBODY)
        attacks = [(NAMES[kind], kind) for kind in attacks_for(scene)]
        self.fill(self.attack, attacks, self.attack.value)
        self.fill(self.target, [*TARGETS, *((name, name) for name in scene.data.classes)])
        self.fill(self.layer, [USUAL])

    def fill_layers(self, sides: dict[str, int]) -> None:
        """Offer the layers of a network (see ``cam_layers.layers``); a known choice stays."""
        options = [(f"{name} ({side} x {side})", name) for name, side in sides.items()]
        self.fill(self.layer, [USUAL, *options], self.layer.value)

    def choice(self) -> Choice:
        """What is chosen now."""
        return Choice(
            self.attack.value,
            self.eps.value,
            self.target.value,
            self.layer.value,
            self.method.value,
        )

    def ready(self, ready: bool) -> None:
        """Let people choose within a scene, or not while there is none."""
        for widget in (*self.asked, self.upload, self.save):
            widget.disabled = not ready

    def say(self, text: str, kind: str = "done") -> None:
        """Put a sentence into the status line; ``kind`` is one of COLOURS."""
        self.status.value = (
            f'<div class="medrobust-status" data-state="{kind}" data-view="{self._views}" '
            'role="status" style="'
            f"border-left: 4px solid {COLOURS[kind]}; padding-left: 8px; line-height: 1.4; "
            f'overflow-wrap: anywhere">{escape(text)}</div>'
        )

    def show(self, pictures: Sequence[bytes], numbers: str) -> None:
        """Show one or two PNGs, and HTML under them; the next ``say`` numbers them."""
        for number, widget in enumerate(self.pictures):
            if number < len(pictures):
                widget.value = pictures[number]
            widget.layout.display = None if number < len(pictures) else "none"
        self.numbers.value = numbers
        self._views += 1

    def taken(self) -> list[tuple[str, bytes]]:
        """Files that were dropped on the upload button, which then forgets them.

        So the same file can be uploaded once more, and a large one does not stay in memory.
        """
        found = files(self.upload.value)
        with self.quiet(), self.upload.hold_sync():
            if isinstance(self.upload.value, dict):  # ipywidgets 7: value follows the counter
                self.upload.metadata, self.upload.data = [], []
                self.upload._counter = 0
            else:
                self.upload.value = ()
        return found

    @contextmanager
    def bar(self, go_on: Callable[[], bool]) -> Iterator[type[tqdm]]:
        """A class for ``env.shown_by``, whose bars move the panel's own.

        Raises:
            Outdated: out of the work inside, at its next step, when ``go_on`` says no.
        """
        shown = self.progress

        class Bar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs | {"mininterval": 0.2, "file": io.StringIO()})

            def update(self, n: float = 1) -> bool | None:
                if not go_on():
                    raise Outdated
                return super().update(n)

            def display(self, msg: str | None = None, pos: int | None = None) -> bool:
                if msg != "":  # which would clear a terminal's line
                    with shown.hold_sync():
                        shown.max, shown.value = max(self.total or self.n, 1), self.n
                        shown.description = self.desc.removesuffix(": ")
                return True

        shown.layout.display = None
        try:
            yield Bar
        finally:
            shown.layout.display = "none"
            shown.value, shown.description = 0, ""


def files(value: Any) -> list[tuple[str, bytes]]:
    """Names and contents in the value of a ``FileUpload``, of ipywidgets 7 or 8."""
    if isinstance(value, dict):
        return [(name, bytes(one["content"])) for name, one in value.items()]
    return [(one["name"], bytes(one["content"])) for one in value]


def _list(description: str, options: Sequence = ()) -> List:
    return List(description=description, options=options, layout=widgets.Layout(**ITEM))


def _picture() -> widgets.Image:
    layout = dict(flex="1 1 500px", max_width="min(660px, 100%)", height="auto", display="none")
    picture = widgets.Image(format="png", layout=widgets.Layout(**layout, object_fit="contain"))
    picture.add_class("medrobust-picture")
    return picture
