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
    "no text after code": (lambda b: b.cells.insert(5, new_code_cell("x = 1")), "cell 4 has no"),
    "foreign import": (code("def f():\n    from timm.models import x"), "imports timm.models"),
    "shell": (code("%pip install x"), "shell or magic"),
    "absolute path": (code("open(f'/tmp/{x}')"), "absolute path"),
    "a paper's number": (code("f(noise=0.025, alpha=0.3)"), "number 0.025"),
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
