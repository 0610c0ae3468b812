"""The contract that every notebook of the project keeps, as rules that name what breaks them.

Each rule takes a notebook (an nbformat node) and its name, and yields one sentence per fault.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
COLAB_CELL = Path(__file__).with_name("colab").joinpath("cell.ipy").read_text().strip()
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
IMPORTABLE = {"numpy", "pandas", "torch", "matplotlib", "seaborn", "IPython", "safetensors"}
IMPORTABLE |= {"medrobust_utils"}
PARAMETER = re.compile(r"[A-Z][A-Z0-9_]*: (str|int|float|bool) = \S.*  # \S.*")
# Papers that anybody can read, by the notebook's number.
PUBLIC = {"02": "https://arxiv.org/abs/2210.14405", "03": "https://arxiv.org/abs/2402.16005"}
SOLUTION = re.compile(
    r"^\d\. \*\*.+?\*\*.*<summary>Solution</summary>\s+```python\n(.+?)\n```\s+</details>",
    re.MULTILINE | re.DOTALL,
)


def faults(path: Path) -> list[str]:
    """Everything that is wrong with the notebook at ``path``."""
    book = nbformat.v4.reads(path.read_text("utf-8"))  # nbformat.read would mend some faults
    first = list(is_valid(book, path.stem))
    return first or [fault for rule in RULES for fault in rule(book, path.stem)]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(book) -> Iterator[tuple[int, nbformat.NotebookNode]]:
    """Code cells with their places; the Colab cell, which is compared as a whole, is left out."""
    for place, cell in enumerate(book.cells):
        if cell.cell_type == "code" and cell.source.strip() != COLAB_CELL:
            yield place, cell


def trees(book) -> Iterator[tuple[int, ast.Module]]:
    """The syntax trees of the code cells, without the lines that are no Python."""
    for place, cell in code_cells(book):
        lines = [line for line in cell.source.splitlines() if line.strip()[:1] not in ("!", "%")]
        yield place, ast.parse("\n".join(lines))


def is_valid(book, name) -> Iterator[str]:
    ids = [cell.get("id") for cell in book.cells]
    if None in ids or len(set(ids)) < len(ids):
        yield "has cells without an id of their own"
        return  # the validator would mend them
    try:
        nbformat.validate(book)
    except nbformat.ValidationError as error:
        yield f"is no valid notebook: {error.message}"
    if book.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "names no kernel python3"
    if not re.fullmatch(r"\d\d[a-z]?_[a-z0-9_]+", name):
        yield "is not named NN_name"


def is_clean(book, name) -> Iterator[str]:
    if "widgets" in book.metadata:
        yield "carries widget state"
    for place, cell in enumerate(book.cells):
        if cell.get("outputs"):
            yield f"cell {place} has outputs"
        if cell.get("execution_count") is not None:
            yield f"cell {place} has an execution count"


def opens_well(book, name) -> Iterator[str]:
    first = book.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "does not open with a title"
    slug = REPOSITORY.removeprefix("https://github.com/")
    badge = f"https://colab.research.google.com/github/{slug}/blob/main/notebooks/{name}.ipynb"
    if f"]({badge})" not in first.source:
        yield f"has no Colab badge to {badge} in its first cell"
    places = [i for i, cell in enumerate(book.cells) if cell.cell_type == "code"]
    opening = "\n".join(cell.source for cell in book.cells[: places[0]])
    for wanted in ("What you will learn", "Time", "Hardware"):
        if not re.search(rf"\b{wanted}\b", opening, re.IGNORECASE):
            yield f"does not speak of {wanted!r} before its first code"
    if book.cells[places[0]].source.strip() != COLAB_CELL:
        yield "does not begin its code with the text of tests/colab/cell.ipy"


def closes_well(book, name) -> Iterator[str]:
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for wanted in ("Limits", "Exercises"):
        if not re.search(rf"^#+ .*\b{wanted}\b", prose, re.MULTILINE | re.IGNORECASE):
            yield f"has no section {wanted!r}"


def declares_parameters(book, name) -> Iterator[str]:
    tagged = [cell for cell in book.cells if "parameters" in tags(cell)]
    if len(tagged) != 1:
        yield f"has {len(tagged)} cells tagged parameters"
    for cell in tagged:
        for line in filter(str.strip, cell.source.splitlines()):
            if not PARAMETER.fullmatch(line):
                yield f"has a parameter line that is not `NAME: type = value  # help`: {line}"
            elif line.count("=") > 1:
                yield f"has a parameter line with two equals signs, lost on papermill: {line}"


def has_short_cells(book, name) -> Iterator[str]:
    for place, cell in enumerate(book.cells):
        if cell.cell_type == "code":
            limit = 25
            length = len(cell.source.splitlines())
            if length > limit:
                yield f"cell {place} has {length} lines of at most {limit}"


def imports_little(book, name) -> Iterator[str]:
    for place, tree in trees(book):
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or "."]
            for module in modules:
                if module.split(".")[0] not in IMPORTABLE | sys.stdlib_module_names:
                    yield f"cell {place} imports {module}"


def stays_inside(book, name) -> Iterator[str]:
    """No shell, no absolute path, no tinkering with the import path."""
    for place, cell in code_cells(book):
        for line in cell.source.splitlines():
            if line.strip()[:1] in ("!", "%"):
                yield f"cell {place} has a shell or magic command: {line.strip()}"
        if "sys.path" in cell.source:
            yield f"cell {place} changes sys.path"
    for place, tree in trees(book):
        formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        inner = {id(part) for node in formatted for part in node.values[1:]}
        for node in ast.walk(tree):
            text = getattr(node, "value", None) if id(node) not in inner else None
            if isinstance(text, str) and re.match(r"/[A-Za-z]|~/|[A-Za-z]:[\\/]\w", text):
                yield f"cell {place} has an absolute path: {text}"


def budget(name: str) -> tuple[int, int, int, int]:
    """The most cells, lines of code, words and minutes that a notebook may have."""
    return (50, 260, 1500, 60) if "01" <= name[:2] <= "04" else (30, 150, 900, 45)


def is_short(book, name) -> Iterator[str]:
    """Folded plumbing and the parameters are not counted."""
    lines = [
        line
        for _, cell in code_cells(book)
        if not {"hide-input", "parameters"} & set(tags(cell))
        for line in cell.source.splitlines()
        if line.strip()
    ]
    prose = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    found = len(book.cells), len(lines), sum(len(text.split()) for text in prose)
    for number, most, what in zip(found, budget(name), ("cells", "lines", "words"), strict=False):
        if number > most:
            yield f"has {number} {what} of at most {most}"


def is_plain(book, name) -> Iterator[str]:
    """Short lines, one statement each, folded cells with a title, few names of the kit."""
    names = set()
    for place, cell in code_cells(book):
        if "hide-input" in tags(cell) and not cell.source.startswith("#@title "):
            yield f"cell {place} is folded without a #@title"
        for line in cell.source.splitlines():
            if len(line) > 100 and not line.startswith("#@title"):
                yield f"cell {place} has a line of {len(line)} columns"
    for place, tree in trees(book):
        starts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        if len(set(starts)) < len(starts):
            yield f"cell {place} has two statements on a line"
        for node in ast.walk(tree):
            kit = isinstance(node, ast.ImportFrom) and str(node.module).startswith("medrobust")
            if kit and "hide-input" not in tags(book.cells[place]):
                names |= {alias.name for alias in node.names}
    if len(names) > 8:
        yield f"imports {len(names)} names of the kit, at most 8: {', '.join(sorted(names))}"


def says_how_long(book, name) -> Iterator[str]:
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    headings = set(re.findall(r"^## .+", prose, re.MULTILINE)) - {"## What you will learn"}
    minutes = {heading: re.search(r"\((\d+) minutes?\)$", heading) for heading in headings}
    yield from (f"does not say how long {text!r} takes" for text, n in minutes.items() if not n)
    total, most = sum(int(n[1]) for n in minutes.values() if n), budget(name)[-1]
    if total > most:
        yield f"takes {total} minutes of at most {most}"


def shows_the_idea(book, name) -> Iterator[str]:
    """An equation, a drawing by code, links to the paper and to the next notebook."""
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    if prose.count("$$") < 2:
        yield "has no display equation"
    if not any("plt.subplots" in cell.source for _, cell in code_cells(book)):
        yield "draws nothing by itself (plt.subplots)"
    paper = PUBLIC.get(name[:2], "")
    if f"]({paper}" not in book.cells[0].source:
        yield f"does not link to its paper, {paper}, in the first cell"
    last = book.cells[-1]
    if last.cell_type != "markdown" or not re.search(r"\]\(\d\d_\w+\.ipynb\)", last.source):
        yield "does not end with a link to another notebook"


def has_three_exercises(book, name) -> Iterator[str]:
    found = exercises(book)
    if len(found) != 3:
        yield f"has {len(found)} exercises of 3 with a stub, a check and a folded solution"
    for place, _ in found:
        if "not yet" not in book.cells[place].source:
            yield f"cell {place}: the check of an untouched exercise does not say `not yet`"


def exercises(book) -> list[tuple[int, str]]:
    """For each exercise, place and source of its code cell with the solution in the stub's place.

    The stub ends at the first blank line; two blank lines inside a solution do no harm.
    """
    found = []
    for place, (task, cell) in enumerate(zip(book.cells, book.cells[1:], strict=False), start=1):
        solution = task.cell_type == "markdown" and SOLUTION.search(task.source)
        if solution and cell.cell_type == "code":
            found.append((place, f"{solution[1]}\n\n{cell.source.partition(chr(10) * 2)[2]}"))
    return found


def with_solutions(book):
    """A copy in which every exercise stands twice: untouched, then solved; both cells tagged."""
    book = nbformat.from_dict(book)
    for place, solved in reversed(exercises(book)):
        book.cells[place].metadata["tags"] = ["untouched"]
        cell = nbformat.v4.new_code_cell(solved, metadata={"tags": ["solved"]})
        book.cells.insert(place + 1, cell)
    return book


RULES = (
    is_clean,
    opens_well,
    closes_well,
    declares_parameters,
    has_short_cells,
    imports_little,
    stays_inside,
    is_short,
    is_plain,
    says_how_long,
    shows_the_idea,
    has_three_exercises,
)
