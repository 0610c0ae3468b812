"""DATA.md says what the catalogue says, and the readers find what the cards say."""

import json
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from medrobust_utils import data
from medrobust_utils.data import catalogue, readers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import data_cards  # noqa: E402

CENSUS = json.loads(data_cards.CENSUS.read_text())


def test_the_cards_are_those_of_the_catalogue():
    assert data_cards.CARDS.read_text() == data_cards.text(), "run: python tools/data_cards.py"


def test_every_reader_has_a_card_and_every_file_an_address_and_a_name_of_its_own():
    entries = catalogue.load().values()
    assert {entry.reader for entry in entries} == set(data.READERS)
    for entry in entries:
        names = [file.name for file in entry.files]
        assert len(set(names)) == len(names)
        assert all(url.startswith("https://") for file in entry.files for url in file.urls)
        assert (entry.access == "kaggle") <= bool(entry.kaggle)


def test_the_census_does_not_contradict_the_whole_set():
    whole = catalogue.load()
    for name, found in CENSUS.items():
        removed = found["exact_duplicates_removed"] + found["contradictory_labels_dropped"]
        assert found["images"] == found["images_listed"] - removed
        for label, number in (whole[name].counts and found["images_per_class"]).items():
            assert number <= whole[name].counts[label]


def test_the_data_set_that_contributing_adds_is_read(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    declared, entry = re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.DOTALL)
    (card,) = catalogue.from_text(entry).values()
    table = eval(f"{{{declared}}}", vars(readers))[card.reader]
    (tmp_path / card.folder / "images").mkdir(parents=True)
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / card.folder / f"images/{i}.png")
    lines = [f"{i}.png,{list(card.counts)[i % 2]},p{i // 2}" for i in range(12)]
    rows = "\n".join(["file,diagnosis,patient", *lines])
    (tmp_path / card.folder / card.layout[0]).write_text(rows)
    found = table.read(card.reader, tmp_path, 16)
    assert found.class_counts() == {"benign": 6, "malignant": 6}
    assert found.census["groups"] == 6
