"""How much memory 200 interactions with the panel take, after 300 that fill what is kept."""

import gc
import json
import tempfile
from pathlib import Path

import psutil
import torch
from drive import CHEST, FakeShelf, click, settled

from medrobust_utils.explorer import controls, gallery
from medrobust_utils.explorer.panel import Explorer


def main() -> None:
    """Look, and print what was drawn, kept and taken."""
    torch.set_num_threads(1)
    gallery.ROOM = 3_500_000  # those of one image, and some of the next
    draw, drawn = gallery.picture.draw, []
    with tempfile.TemporaryDirectory() as out:
        explorer = settled(Explorer(FakeShelf(), Path(out), CHEST))
        click(explorer.controls.right, "none")
        click(explorer.controls.attack, "random noise")
        settled(explorer)
        gallery.picture.draw = lambda seen: drawn.append(1) or draw(seen)
        before = interact(explorer, 0, 300)
        seen = len(drawn)
        after = interact(explorer, 300, 500)
    found = {"drawn": len(drawn) - seen, "growth": after - before}
    found |= {"used": explorer._gallery._pictures.used, "room": gallery.ROOM}
    print(json.dumps(found))


def interact(explorer: Explorer, first: int, last: int) -> int:
    """Move eps over an image to and fro, four times, then over the next one; resident bytes."""
    one, there = explorer.controls, list(range(len(controls.EPS)))
    places = (there + there[::-1]) * 4
    for number in range(first, last):
        turn, step = divmod(number, len(places))
        with one.quiet():
            one.image.value = turn
        one.eps.set_state({"index": places[step]})
        settled(explorer)
    gc.collect()
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
