"""Write DATA.md from the catalogue and the census: ``python tools/data_cards.py [--count]``.

``--count`` reads every data set below MEDROBUST_DATA first and writes what was found into
``docs/census.json``; tests hold the readers to it.
"""

import json
import os
import sys
from pathlib import Path

from medrobust_utils.data import catalogue
from medrobust_utils.data.catalogue import DataSet

ROOT = Path(__file__).resolve().parents[1]
CENSUS, CARDS = ROOT / "docs" / "census.json", ROOT / "DATA.md"
OWN = Path(__file__).with_name("own_images.md")  # the last part, as it is
SIZE = 64  # pixels a side at which the images are counted and compared
HEAD = """# Data

One card for each data set: source, licence, access, splits, known leaks and duplicates, what the
kit does about them, and which claims it serves. Written by `python tools/data_cards.py` from
[`catalogue.yaml`](medrobust_utils/data/catalogue.yaml), which the downloads use too.

```bash
./data_download.sh --list                    # sizes, licences, accounts
./data_download.sh NAME ... --dest DIR       # fetch, unpack, count; goes on where it was
./data_download.sh NAME ... --verify         # count again, and hold it against the card
```

*The copy we counted* is the one that the reference results were computed on: smaller images than
the publisher's, and for ChestX-ray14, the fundus, the MRI and the children's X-rays only some of
them. Duplicates are told by the decoded pixels of that copy, near duplicates at 64 pixels a side.
`docs/census.json` holds the numbers, and a test holds the readers to them.

Your own images go into every notebook as `DATASET="folder:PATH"`; see [the end](#your-own-images).

"""


def count() -> dict[str, dict]:
    """Name -> census of every data set that lies below MEDROBUST_DATA."""
    from medrobust_utils import data
    from medrobust_utils.core import env

    root = env.data_root()
    found = {}
    for entry in catalogue.load().values():
        if (root / entry.folder).is_dir():
            counted = data.load(entry.reader, size=SIZE)
            found[entry.name] = {"images": len(counted), **counted.census}
    return found


def card(entry: DataSet, census: dict | None) -> str:
    """The card of one data set in Markdown."""
    lines = [f"## {entry.name}", "", f"**{entry.title}.**", "", "| | |", "| --- | --- |"]
    access = {"open": "no account", "kaggle": "a Kaggle account"}[entry.access]
    rows = {
        "Source": f"{entry.publisher}: {entry.page}",
        "Licence": entry.licence,
        "Cite": entry.cite,
        "Access": access + (f"; {entry.terms}" if entry.terms else ""),
        "By hand": entry.by_hand,
        "Size": entry.size,
        "Images per class (whole set)": _counts(entry.counts),
        "Layout": "<br>".join(f"`{entry.folder}/{line}`" for line in entry.layout),
        "Splits": entry.splits,
        "Leaks and duplicates": entry.leaks,
        "What the kit does": entry.treatment,
        "Serves": entry.use,
        "The copy we counted": _census(census) if census else "",
    }
    lines += [f"| {name} | {text.strip()} |" for name, text in rows.items() if text]
    return "\n".join(lines) + "\n"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


def _census(census: dict) -> str:
    facts = {
        "files": census["images_listed"],
        "kept": census["images"],
        "exact duplicates removed": census["exact_duplicates_removed"],
        "dropped for contradictory labels": census["contradictory_labels_dropped"],
        "near-duplicate pairs": census["near_duplicate_pairs"],
        "groups": census["groups"],
    }
    return f"{_counts(facts)}; of the kept: {_counts(census['images_per_class'])}"


def text() -> str:
    """DATA.md as it should be."""
    census = json.loads(CENSUS.read_text("utf-8")) if CENSUS.is_file() else {}
    cards = [card(entry, census.get(entry.name)) for entry in catalogue.load().values()]
    return HEAD + "\n".join([*cards, OWN.read_text("utf-8")])


if __name__ == "__main__":
    if sys.argv[1:] == ["--count"]:
        if not os.environ.get("MEDROBUST_DATA"):
            sys.exit("Set MEDROBUST_DATA to the folder that holds the data sets.")
        CENSUS.write_text(json.dumps(count(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    CARDS.write_text(text(), "utf-8")
