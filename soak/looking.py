"""How much memory 120 moves of the explorer's slider take, after 60 that fill what is kept."""

import gc
import json
import tempfile
from pathlib import Path

import psutil
import torch
from drive import CHEST, FakeIndex, click

from medrobust_utils.explorer.panel import Explorer


def main() -> None:
    """Look, and print what was taken."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        explorer = Explorer(FakeIndex(), Path(out), CHEST).show()
        click(explorer.lists["right"], "none")
        before = interact(explorer, 60)
        growth = interact(explorer, 120) - before
    print(json.dumps({"growth": growth}))


def interact(explorer: Explorer, moves: int) -> int:
    """Move the slider from end to end, image after image; resident bytes."""
    places = len(explorer.eps.options)
    for number in range(moves):
        turn, place = divmod(number, places)
        if not place:
            explorer.lists["image"].set_state({"index": turn})
        explorer.eps.set_state({"index": place})
    gc.collect()
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
