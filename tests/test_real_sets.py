"""200 images of each real set at hand: read as published. `make soak` reads the sets whole.

Users lose: a set downloaded from its publisher that the kit refuses, or reads with images missing,
doubled or under another's label.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medrobust_utils import data
from medrobust_utils.data import catalogue

ROOT = os.environ.get("MEDROBUST_DATA", "")
IMAGES = 200
SETS = {
    name: card
    for name, card in catalogue.load().items()
    if ROOT and card.folder != "medmnist" and (Path(ROOT) / card.folder).is_dir()
}


def stem(path):
    """What an image shares with its outline and its label map."""
    return re.sub(r"_(mask|segmentation)(_\d+)?$", "", path.stem)


def part_of(folder, into):
    """Every k-th image with all that belongs to it, and of the tables their lines; the names."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    tables = [path for path in files if path.suffix in (".csv", ".txt")]
    names = sorted({stem(path) for path in files if path not in tables})
    chosen = set(names[:: max(1, len(names) // IMAGES)])
    for path in files:
        place = into / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path in tables:
            head, *lines = path.read_text().splitlines()
            kept = [line for line in lines if {w.split(".")[0] for w in line.split(",")} & chosen]
            first = [head] if path.suffix == ".csv" or stem(Path(head)) in chosen else []
            place.write_text("\n".join(first + kept) + "\n")
        elif stem(path) in chosen:
            shutil.copyfile(path, place)
    return chosen


@pytest.mark.parametrize("name", SETS)
def test_a_part_of_a_real_set_is_read_as_it_is(name, tmp_path):
    card = SETS[name]
    chosen = part_of(Path(ROOT) / card.folder, tmp_path / card.folder)
    found = data.READERS[card.reader](tmp_path, 32)
    listed, census = len(found) + found.census["exact_duplicates_removed"], found.census
    assert listed + census["contradictory_labels_dropped"] == census["images_listed"]
    assert 0.9 * len(chosen) <= census["images_listed"] <= 1.1 * len(chosen)
    assert {Path(one).name for one in found.ids} <= chosen
    assert not found.synthetic and not found.complete, "a part is never taken for the whole"
    assert sum(count > 0 for count in found.class_counts().values()) > 1
    paths = {
        stem(path): path
        for path in sorted(tmp_path.rglob("*"), reverse=True)
        if path.suffix in (".jpg", ".jpeg", ".png")
        and stem(path) == path.stem
        and path.parent.name != "labels"
    }
    for row in (0, len(found) - 1):
        channels = found.images.shape[3]
        with Image.open(paths[Path(found.ids[row]).name]) as file:
            image = file.convert("L" if channels == 1 else "RGB")
        expected = image.resize((32, 32), Image.Resampling.BICUBIC, reducing_gap=3.0)
        shown = np.asarray(found.images[row]).reshape(32, 32, -1)
        assert np.abs(shown - np.asarray(expected, float).reshape(32, 32, -1)).max() <= 1, row
