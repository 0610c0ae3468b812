"""Drives the explorer's panel with the widgets of this environment; `rig.py` runs it with Colab's.

It sends what a browser would send, control by control; the first thing that fails ends it.
"""

import json
import sys
import tempfile
from pathlib import Path

import ipywidgets
from drive import CHEST, SKIN, FakeIndex, a_file, click, drop, pictures, said

from medrobust_utils.explorer.panel import Explorer


def main(out: Path) -> None:
    """Choose in every list, move the slider, upload, be refused, save."""
    one = Explorer(FakeIndex(), out, SKIN).show()
    lists = one.lists
    for name in ("left", "attack", "class", "layer", "map", "image"):
        _changes(one, lambda of=lists[name]: click(of, of.options[-1][0]), name)
    _changes(one, lambda: click(lists["right"], "none"), "right")
    _changes(one, lambda: click(lists["data"], CHEST.title), "data")
    _changes(one, lambda: click(lists["paper"], "U-Net"), "paper")
    _changes(one, lambda: one.eps.set_state({"index": len(one.eps.options) - 1}), "eps")
    for number, mode in enumerate(("RGB", "L", "I;16", "RGBA")):
        content = a_file(mode, seed=number)
        _changes(one, lambda kept=content: drop(one.upload, "own.png", kept), mode)
        _must(lists["image"].label == "uploaded: own.png", f"{mode}: it was not chosen")
        _must(not one.upload.value, f"{mode}: the button kept the file")
    before = pictures(one)
    drop(one.upload, "notes.png", b"no picture")
    _must(said(one)[1] == "refused", "a text file was taken")
    _must(pictures(one) == before, "a refusal changed the picture")
    one.save.click()
    (written,) = (out / "views").glob("*.json")
    _must(json.loads(written.read_text())["records"], "nothing was saved")
    _must(written.with_suffix(".png").stat().st_size > 10_000, "the saved picture is empty")


def _changes(one: Explorer, act, what: str) -> None:
    before = pictures(one)
    act()
    _must(pictures(one) != before, f"{what}: the picture stayed as it was")
    print(f"{what}: {said(one)[0]}")


def _must(holds: object, otherwise: str) -> None:
    if not holds:
        sys.exit(f"ipywidgets {ipywidgets.__version__}: {otherwise}.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
    print(f"The explorer's panel works with ipywidgets {ipywidgets.__version__}.")
