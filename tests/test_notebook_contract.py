"""Every notebook keeps the contract, and every rule of the contract can be broken."""

import nbformat
import notebook_rules as rules
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from medrobust_utils.reporting import planning

NOTEBOOKS = sorted((rules.ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS], "notebooks/ is empty"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_keeps_the_contract(path):
    assert rules.faults(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_runner_can_plan_the_notebook_in_smoke(path, tmp_path):
    (run,) = planning.plan([path], "smoke", [], tmp_path)
    assert run.parameters["PROFILE"] == "smoke"
    assert run.parameters["OUT"] == str(run.folder)


def test_the_colab_cell_is_short_and_names_the_repository_of_pyproject():
    assert len(rules.COLAB_CELL.splitlines()) <= 12
    assert f'REPOSITORY = "{rules.REPOSITORY}"' in rules.COLAB_CELL


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
        new_code_cell("print(0.5 * RATE)\nplot(alpha=0.3, figsize=(6.4, 4), title=f'{1}/s')"),
        new_markdown_cell("It prints.\n\n## Limits\nMany.\n\n## Exercises\n1. Think."),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def replace(place, old, new):
    def change(book):
        assert old in book.cells[place].source
        book.cells[place].source = book.cells[place].source.replace(old, new)

    return change


def put(place, **fields):
    return lambda book: book.cells[place].update(fields)


def code(text, place=4):
    return put(place, source=text)


def untag(book):
    book.cells[2].metadata = {}


BROKEN = {
    "same id twice": (lambda b: put(1, id=b.cells[0].id)(b), "without an id"),
    "no valid cell": (put(0, source=7), "no valid notebook"),
    "no kernel": (lambda b: b.metadata.clear(), "no kernel python3"),
    "widget state": (lambda b: b.metadata.update(widgets={}), "widget state"),
    "outputs": (put(4, outputs=[new_output("stream", text="x")]), "cell 4 has outputs"),
    "execution count": (put(4, execution_count=3), "execution count"),
    "no title": (replace(0, "# A good", "A good"), "title"),
    "badge of another notebook": (replace(0, "07_good", "08_other"), "Colab badge"),
    "no learning aims": (replace(0, "What you will learn", "Aims"), "What you will learn"),
    "no time": (replace(0, "Time", "Rhyme"), "'Time'"),
    "no hardware": (replace(0, "Hardware", "Tools"), "'Hardware'"),
    "another Colab cell": (replace(1, "--quiet", ""), "cell.ipy"),
    "another repository": (replace(1, rules.REPOSITORY, "https://x.org/y"), "cell.ipy"),
    "no limits": (replace(5, "## Limits", "Limits"), "'Limits'"),
    "no exercises": (replace(5, "## Exercises", "Exercises"), "'Exercises'"),
    "no parameters": (untag, "0 cells tagged"),
    "two parameter cells": (put(3, metadata={"tags": ["parameters"]}), "2 cells tagged"),
    "untyped parameter": (replace(2, "RATE: float", "RATE"), "not `NAME: type"),
    "parameter in small letters": (replace(2, "RATE", "rate"), "not `NAME: type"),
    "parameter without help": (replace(2, "  # learning rate", ""), "not `NAME: type"),
    "two equals signs": (replace(2, "learning rate", "RATE=1"), "two equals signs"),
    "long cell": (code("x = 1\n" * 26), "cell 4 has 26 lines"),
    "long parameters": (code("OUT: str = ''  # a\n" * 26, 2), "cell 2 has 26 lines"),
    "no text after code": (lambda b: b.cells.insert(5, new_code_cell("x = 1")), "cell 4 has no"),
    "code at the end": (lambda b: b.cells.append(new_code_cell("x = 1")), "cell 6 has no"),
    "foreign import": (code("import requests"), "imports requests"),
    "foreign from-import": (code("def f():\n    from timm.models import x"), "imports timm.models"),
    "shell": (code("!ls"), "shell or magic"),
    "pip": (code("%pip install x"), "shell or magic"),
    "sys.path": (code("import sys\nsys.path.insert(0, '..')"), "sys.path"),
    "absolute path": (code("open('/home/me/x')"), "absolute path"),
    "absolute f-string": (code("open(f'/tmp/{x}')"), "absolute path"),
    "home path": (code("open('~/x')"), "absolute path"),
    "drive path": (code("open('C:\\\\x')"), "absolute path"),
    "a paper's number": (code("target = 0.484"), "number 0.484"),
    "a number in a call": (code("f(noise=0.025, alpha=0.3)"), "number 0.025"),
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


def test_a_notebook_with_a_bad_name_is_refused_and_the_start_may_type_numbers(tmp_path):
    book = good_notebook()
    assert any("NN_name" in fault for fault in rules.faults(write(book, tmp_path, "good")))
    code("target = 0.484")(book)
    found = rules.faults(write(book, tmp_path, "00_start_here"))
    assert not any("number" in fault for fault in found)
