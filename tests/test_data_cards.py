"""DATA.md says what the catalogue says, and the readers find what the cards say."""

import json
import sys
from pathlib import Path

from medrobust_utils import data
from medrobust_utils.data import catalogue

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import data_cards  # noqa: E402

CENSUS = json.loads(data_cards.CENSUS.read_text())


def test_the_cards_are_those_of_the_catalogue():
    assert data_cards.CARDS.read_text() == data_cards.text(), "run: python tools/data_cards.py"


def test_every_reader_has_a_card_and_every_card_a_reader():
    assert {entry.reader for entry in catalogue.load().values()} == set(data.READERS)


def test_every_file_has_an_address_and_a_name_of_its_own():
    for entry in catalogue.load().values():
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
