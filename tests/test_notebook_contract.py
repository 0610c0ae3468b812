"""Every notebook keeps the contract, and every rule of the contract can be broken."""

import nbformat
import notebook_rules as rules
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from medrobust_utils.reporting import planning

NOTEBOOKS = sorted((rules.ROOT / "notebooks").glob("*.ipynb"))
assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_keeps_the_contract(path):
    assert rules.faults(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_runner_can_plan_the_notebook_in_smoke(path, tmp_path):
    (run,) = planning.plan([path], "smoke", [], tmp_path)
    assert run.parameters["PROFILE"] == "smoke"
    assert run.parameters["OUT"] == str(run.folder)


TASK = """1. **Name.** Think.

<details><summary>Solution</summary>

```python
x = 1
```
</details>"""


def good_notebook():
    slug = rules.REPOSITORY.removeprefix("https://github.com/")
    badge = f"https://colab.research.google.com/github/{slug}/blob/main/notebooks/07_good.ipynb"
    opening = (
        f"# A good notebook\n[![Open In Colab](badge.svg)]({badge})\n"
        "## What you will learn\nMuch.\n\nTime: 1 minute. Hardware: any."
    )
    parameters = 'OUT: str = ""  # folder for results\nRATE: float = 0.1  # learning rate'
    cells = [
        new_markdown_cell(opening),
        new_code_cell(rules.COLAB_CELL),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell("import json\nimport numpy as np\nfrom medrobust_utils import protocol"),
        new_code_cell("figure = plt.subplots()\nplot(alpha=0.3, title=f'{1}/s')"),
        new_markdown_cell("$$x$$\n\n## Limits (1 minute)\nMany.\n\n## Exercises (9 minutes)"),
    ]
    for task in (TASK, TASK, TASK):
        cells += [new_markdown_cell(task), new_code_cell('x = None  # yours\n\nprint("not yet")')]
    cells.append(new_markdown_cell("On to [the start](00_start_here.ipynb)."))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def replace(place, old, new):
    def change(book):
        assert old in book.cells[place].source
        book.cells[place].source = book.cells[place].source.replace(old, new)

    return change


def put(place, **fields):
    return lambda book: book.cells[place].update(fields)


def grow(book, text, times):
    book.cells[5:5] = [new_code_cell(text) for _ in range(times)]


def code(text):
    return put(4, source=text)


# one for each rule: what is changed, and what the fault says
BROKEN = {
    "same id twice": (lambda b: put(1, id=b.cells[0].id)(b), "without an id"),
    "no kernel": (lambda b: b.metadata.clear(), "no kernel python3"),
    "outputs": (put(4, outputs=[new_output("stream", text="x")]), "cell 4 has outputs"),
    "badge of another notebook": (replace(0, "07_good", "08_other"), "Colab badge"),
    "no time": (replace(0, "Time", "Rhyme"), "'Time'"),
    "another Colab cell": (replace(1, "--quiet", ""), "cell.ipy"),
    "no limits": (replace(5, "## Limits", "Limits"), "'Limits'"),
    "untyped parameter": (replace(2, "RATE: float", "RATE"), "not `NAME: type"),
    "long cell": (code("x = 1\n" * 26), "cell 4 has 26 lines"),
    "foreign import": (code("def f():\n    from timm.models import x"), "imports timm.models"),
    "shell": (code("%pip install x"), "shell or magic"),
    "absolute path": (code("open(f'/tmp/{x}')"), "absolute path"),
    "many cells": (lambda b: grow(b, "x", 20), "cells of at most 30"),
    "many lines": (lambda b: grow(b, "x = 1\n" * 20, 9), "lines of at"),
    "many words": (replace(5, "Many", "many " * 900), "words of at most 900"),
    "a wide line": (code(f"x = '{'-' * 100}'"), "line of 106 columns"),
    "two statements": (code("x = 1; y = 2"), "two statements"),
    "folded without a title": (put(4, metadata={"tags": ["hide-input"]}), "without a #@title"),
    "many names": (code(f"from medrobust_utils import {', '.join('abcdefghi')}"), "at most 8"),
    "no minutes": (replace(5, " (9 minutes)", ""), "how long '## Exercises'"),
    "too long": (replace(5, "9 minutes", "90 minutes"), "91 minutes of at most 45"),
    "no equation": (replace(5, "$$", "$"), "no display equation"),
    "no drawing": (code("x = 1"), "draws nothing"),
    "no next notebook": (replace(12, ".ipynb", ""), "end with a link"),
    "no solution": (replace(6, "```python", "```"), "2 exercises of 3"),
    "no check": (replace(7, "not yet", "done"), "`not yet`"),
}


def write(book, folder, name="07_good"):
    path = folder / f"{name}.ipynb"
    path.write_text(nbformat.v4.writes_json(book))
    return path


def test_a_good_notebook_has_no_faults(tmp_path):
    assert rules.faults(write(good_notebook(), tmp_path)) == []


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_notebook_is_named_for_what_is_broken(tmp_path, change, message):
    book = good_notebook()
    change(book)
    found = rules.faults(write(book, tmp_path))
    assert any(message in fault for fault in found), found


def test_a_notebook_with_a_bad_name_is_refused(tmp_path):
    found = rules.faults(write(good_notebook(), tmp_path, "good"))
    assert any("NN_name" in fault for fault in found)


def test_a_solution_takes_the_place_of_the_stub_alone():
    book = rules.with_solutions(good_notebook())
    assert [rules.tags(cell) for cell in book.cells[7:9]] == [["untouched"], ["solved"]]
    assert book.cells[8].source == 'x = 1\n\nprint("not yet")'
