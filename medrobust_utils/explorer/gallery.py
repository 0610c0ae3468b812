"""Finished pictures of one scene, images that people bring along, and views that they keep."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..core import env, storage
from ..core.errors import RunError
from ..data import to_float, upload
from . import picture
from .look import Choice, Memory, Outdated, layers, look
from .scene import Network, Sample, Scene

ROOM = 32_000_000  # bytes of finished pictures
UPLOADS = 8  # images that are kept
SCHEMA = 1

Key = (
    int | tuple[str, int]
)  # of an image: a place in the scene's rows, or an upload's name and turn


@dataclass(frozen=True)
class View:
    """All that the pictures on show follow from.

    Attributes:
        image: which of ``Gallery.images``.
        networks: places in the scene's networks, from left to right.
    """

    image: Key
    networks: tuple[int, ...]
    choice: Choice


@dataclass(frozen=True)
class Shown:
    """The picture of one network as PNG, and its numbers."""

    png: bytes
    record: dict


class Gallery:
    """Looks at one scene as pictures, which come back at once as long as there is room for them."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.uploads: dict[tuple[str, int], Sample] = {}
        self._turn = 0  # no two uploads share a key, so no picture is taken for another's
        self._stages, self._pictures = Memory(), Memory(ROOM)

    @property
    def images(self) -> list[tuple[str, Key]]:
        """What to call each image on offer, and its key; the newest upload first."""
        own = [(f"uploaded: {key[0]}", key) for key in reversed(self.uploads)]
        return own + [(name, number) for number, name in enumerate(self.scene.names)]

    def add(self, name: str, content: bytes) -> tuple[str, int]:
        """Take an uploaded file among the images, in place of one of the same name.

        Returns:
            Its key. ``UPLOADS`` are kept, the newest ones.

        Raises:
            DataError: for what is no picture; see ``outside.picture``.
        """
        _, height, _, channels = self.scene.data.images.shape
        pixels, notes = upload.picture(name, content, size=height, channels=channels)
        if self.scene.prepare is not None:
            pixels, notes = self.scene.prepare(pixels), (*notes, self.scene.prepared)
        shown, self._turn = upload.readable(name), self._turn + 1
        kept = {key: one for key, one in self.uploads.items() if key[0] != shown}
        key = (shown, self._turn)
        kept[key] = Sample(f"uploaded: {shown}", to_float(pixels[None]), notes=notes)
        self.uploads = {one: kept[one] for one in list(kept)[-UPLOADS:]}
        return key

    def sample(self, key: Key) -> Sample:
        """An image by its key. Raises Outdated for an upload that made room for another."""
        if isinstance(key, int):
            return self.scene.sample(key)
        if key not in self.uploads:
            raise Outdated
        return self.uploads[key]

    def layers(self, number: int) -> dict[str, int]:
        """Layers of a network that can be explained, and the sides of their maps."""
        shape = tuple(self.scene.sample(0).image.shape[1:])
        network = self.scene.networks[number]
        return self._stages.get(("sides", number), lambda: layers(network, shape))

    def finished(self, view: View) -> list[Shown] | None:
        """The pictures of a view if all of them are at hand, else None."""

        def missing() -> Shown:
            raise Outdated

        try:
            return [self._pictures.get(_key(view, one), missing) for one in view.networks]
        except Outdated:
            return None

    def show(self, view: View, go_on: Callable[[], bool]) -> list[Shown]:
        """The pictures of a view, from left to right.

        Raises:
            Outdated: when ``go_on`` says no.
            MedrobustError: see ``look``.
        """
        sample, how = self.sample(view.image), dict(memory=self._stages, go_on=go_on)

        def draw(network: Network) -> Shown:
            seen = look(self.scene, network, sample, view.choice, **how)
            return Shown(picture.encode(picture.draw([seen])), seen.record)

        return [
            self._pictures.get(_key(view, one), lambda one=one: draw(self.scene.networks[one]))
            for one in view.networks
        ]


def _key(view: View, network: int) -> tuple:
    return view.image, network, view.choice


def save(shown: Sequence[Shown], out: Path) -> Path:
    """Write what is on show into ``out / "views"``: one PNG, and a JSON of the same name.

    The same view gets the same name again, and another view another one.

    Returns:
        The PNG's path.

    Raises:
        RunError: if the files cannot be written.
    """
    records = [one.record for one in shown]
    first = records[0]
    about = f"{first['task']} {first['image']} {first['attack'] or 'clean'} {first['eps_255']:g}"
    slug = re.sub("[^a-z0-9]+", "-", about.lower()).strip("-")[:60]
    path = out / "views" / f"{slug}-{storage.fingerprint(records)}.png"
    numbers = {"schema": SCHEMA, "records": records, "provenance": env.provenance()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(numbers, indent=2, allow_nan=False, ensure_ascii=False)
        storage.write_atomic(path.with_suffix(".json"), f"{text}\n".encode())
        storage.write_atomic(path, _side_by_side([one.png for one in shown]))
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}). Make room, or choose another "
            "folder: OUT."
        ) from error
    return path


def _side_by_side(pictures: Sequence[bytes]) -> bytes:
    """One PNG of several, exactly as they were on show."""
    opened = [Image.open(io.BytesIO(one)).convert("RGB") for one in pictures]
    size = sum(one.width for one in opened), max(one.height for one in opened)
    whole, left = Image.new("RGB", size, "white"), 0
    for one in opened:
        whole.paste(one, (left, 0))
        left += one.width
    buffer = io.BytesIO()
    whole.save(buffer, "png")
    return buffer.getvalue()
