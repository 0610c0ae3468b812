"""The explorer as widgets: a thin shell that turns choices into looks, and looks into pictures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ..core import env
from ..core.errors import MedrobustError, RunError
from . import gallery, summary
from .controls import NOBODY, Controls
from .gallery import Gallery, Shown, View
from .latest import Latest
from .look import Outdated
from .shelf import Place, Shelf

log = logging.getLogger(__name__)


class Explorer:
    """Choose, and see what networks look at; a notebook displays ``widget``.

    Whatever takes long happens in one background thread, and of what was asked for meanwhile only
    the newest is done. What goes wrong is a sentence in the status line.

    Args:
        shelf: where the networks come from.
        out: folder; views are saved below it.
        place: what to open first.
    """

    def __init__(self, shelf: Shelf, out: Path, place: Place) -> None:
        self.shelf, self.out, self.controls = shelf, Path(out), Controls()
        self.widget: widgets.VBox = self.controls.panel()
        self._gallery: Gallery | None = None
        self._opened: Place | None = None  # where the gallery's scene comes from
        self._wanted = place
        self._layers_of: int | None = None  # the network whose layers are on offer
        self._shown: Sequence[Shown] = ()
        self._shown_view: View | None = None  # what they are the pictures of
        self._word = ""  # what the status line keeps until the next click
        self._lock = threading.RLock()  # of what is on show
        self._latest: Latest[Place | View] = Latest(self._work, self._failed)
        self._fill_places(self._wanted)
        self._listen()
        self._latest.ask(self._wanted)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything that was asked for is on show; False after ``timeout`` seconds."""
        return self._latest.wait(timeout)

    def _listen(self) -> None:
        one = self.controls
        one.paper.observe(self._heard(self._new_paper), "value")
        one.data.observe(self._heard(self._new_place), "value")
        one.upload.observe(self._heard(self._uploaded), "value")
        one.save.on_click(self._heard(self._save))
        for widget in one.asked:
            widget.observe(self._heard(self._changed), "value")

    # What people do: in the notebook's own thread, so it must be quick.

    def _heard(self, handler: Callable[[], None]) -> Callable[[Any], None]:
        """``handler`` for what people do, not for what the panel does; it never raises."""

        @wraps(handler)
        def heard(_: Any) -> None:
            if not self.controls.is_quiet:
                self._word = ""
                try:
                    handler()
                except Exception as error:
                    self._tell(error)

        return heard

    def _tell(self, error: Exception) -> None:
        """Say what went wrong: a traceback helps nobody who clicked a button."""
        self._word = str(error)
        if not isinstance(error, MedrobustError):
            log.debug("in the explorer", exc_info=error)
            self._word = (
                f"Something unexpected happened ({type(error).__name__}: {error}). "
                "Choose something else, and please report it."
            )
        self.controls.say(self._word, "refused")

    def _new_paper(self) -> None:
        place = self.shelf.first(self.controls.paper.value)
        self._fill_places(place)
        self._want(place)

    def _new_place(self) -> None:
        self._want(self.controls.data.value)

    def _want(self, place: Place) -> None:
        self._wanted = place
        self.controls.ready(self._is_open())
        if self._is_open():  # somebody came back before anything else was open
            self._changed()
        else:
            self._latest.ask(place)

    def _is_open(self) -> bool:
        names = [(one.paper, one.key) for one in (self._wanted, self._opened) if one is not None]
        return len(names) == 2 and names[0] == names[1]

    def _changed(self) -> None:
        """Show what is chosen now: at once if it was computed before, else as soon as possible."""
        if not self._is_open():
            return  # what is chosen then is shown as soon as it is
        view = self._view()
        same = view.networks[0] == self._layers_of  # else the list of layers changes as well
        if same and (known := self._gallery.finished(view)) is not None:
            self._latest.drop()
            with self._lock:
                self._show(known, "Seen before.", view)
        else:
            self._latest.ask(view)

    def _view(self) -> View:
        one = self.controls
        networks = (one.left.value, one.right.value)
        return View(one.image.value, tuple(n for n in networks if n != NOBODY), one.choice())

    def _uploaded(self) -> None:
        taken = self.controls.taken()
        if not taken:
            return
        if not self._is_open():
            raise RunError(f"{taken[0][0]}: the networks are still being opened. Try again then.")
        key = self._gallery.add(*taken[0])
        if notes := self._gallery.sample(key).notes:
            self._word = f"{key[0]}: {'; '.join(notes)}."
        self.controls.fill(self.controls.image, self._gallery.images, key)
        self._changed()

    def _save(self) -> None:
        with self._lock:
            shown, view = self._shown, self._shown_view
        if not shown:
            raise RunError("There is no picture yet: wait until one is shown, and save it then.")
        word = f"Saved {gallery.save(shown, self.out)} and its numbers beside it."
        if self._is_open() and view == self._view():
            self._word = word
            self.controls.say(word)
        else:  # what was chosen last is not ready, or could not be shown
            eps = f"eps {view.choice.eps_255:g}/255"
            still = "refused" if self._latest.wait(0) else "busy"
            self.controls.say(f"{word} It is the view on show ({eps}), not what you chose.", still)

    # What takes long: in the background.

    def _work(self, request: Place | View, go_on: Callable[[], bool]) -> None:
        try:
            if not isinstance(request, View):
                self._open(request, go_on)
                request = self._view()
            self._look(request, go_on)
        except Outdated:
            pass  # the newer request says what happens

    @contextmanager
    def _in_time(self, go_on: Callable[[], bool]) -> Iterator[None]:
        """Inside, the panel may change: nobody has asked for something newer."""
        with self._lock:
            if not go_on():
                raise Outdated
            yield

    def _failed(self, request: Place | View, error: Exception) -> None:
        """Say so; and where nothing could be opened, go back to what is open."""
        with self._lock:
            self._tell(error)
            if isinstance(request, View) and self._shown:
                text = f"{self._word} The pictures below are of the view before."
                self.controls.say(text, "refused")
            if request is self._wanted and self._opened is not None:
                self._wanted = self._opened
                self._fill_places(self._opened)
                self.controls.ready(True)

    def _fill_places(self, place: Place) -> None:
        """Offer the papers, and the places of one of them, of which ``place`` is chosen."""
        papers = [(title, name) for name, title in self.shelf.papers().items()]
        places = [(one.title, one) for one in self.shelf.places(place.paper)]
        self.controls.fill(self.controls.paper, papers, place.paper)
        self.controls.fill(self.controls.data, places, place)

    def _open(self, place: Place, go_on: Callable[[], bool]) -> None:
        with self._in_time(go_on):
            self.controls.say(f"Opening {place.title}: this may take a minute.", "busy")
        with self.controls.bar(go_on) as bar, env.shown_by(bar):
            scene = self.shelf.open(place)
        with self._in_time(go_on):
            if self._gallery is not None and self._gallery.uploads:
                self._word = "Your own images went with the data that they were made to fit."
            self._gallery, self._layers_of = Gallery(scene), None
            self.controls.fill_scene(scene)
            self.controls.fill(self.controls.image, self._gallery.images)
            self._opened = place  # last: until now a click meant the scene before
            self.controls.ready(True)

    def _look(self, view: View, go_on: Callable[[], bool]) -> None:
        start = time.perf_counter()
        with self._in_time(go_on):
            self.controls.say("Computing ...", "busy")
        left = view.networks[0]
        if left != self._layers_of:
            layers = self._gallery.layers(left)
            with self._in_time(go_on):
                self.controls.fill_layers(layers)
                self._layers_of = left
            view = replace(view, choice=replace(view.choice, layer=self.controls.layer.value))
        shown = self._gallery.show(view, go_on)
        with self._in_time(go_on):
            self._show(shown, f"Done in {time.perf_counter() - start:.1f} s.", view)

    def _show(self, shown: Sequence[Shown], how: str, view: View) -> None:
        records = [one.record for one in shown]
        self._shown, self._shown_view = shown, view
        self.controls.show([one.png for one in shown], summary.table(records))
        self.controls.say(" ".join((how, self._word)).strip())
