"""Notebooks of a few lines for the tests: they start in a second and need no torch."""

import json
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """PROFILE: str = "smoke"  # smoke, small or paper
OUT: str = ""  # folder for results
SEED: int = 0  # random seed
RATE: float = 0.5  # learning rate
FAST: bool = False  # skip what takes long
NAME: str = ""  # any text"""

RECORD = {
    "schema": 1,
    "notebook": "tiny",
    "paper": "none",
    "status": "complete",
    "profile": "smoke",
    "parameters": {},
    "provenance": {},
    "datasets": {},
    "models": {},
    "rows": [],
    "figures": [],
    "warnings": [],
    "deviations": [],
    "history": {},
}

SAVE = f"""import json
from pathlib import Path
values = dict(PROFILE=PROFILE, SEED=SEED, RATE=RATE, FAST=FAST, NAME=NAME)
record = {RECORD!r} | dict(parameters=values)
Path(OUT, "result.json").write_text(json.dumps(record))"""


def notebook(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook of a title, a parameters cell and ``cells``; returns its path."""
    book = new_notebook(cells=[new_markdown_cell("# A tiny notebook")])
    book.cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    book.cells += [new_code_cell(source) for source in cells]
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    path = folder / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


def complete(folder: Path) -> None:
    """Leave the record of a finished run in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(RECORD))
