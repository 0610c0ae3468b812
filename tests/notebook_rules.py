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
# Numbers that no paper owns: ends and middle of a range, and how a figure looks.
PLAIN_FLOATS = {0.0, 0.5, 1.0}
LOOKS = {"alpha", "figsize", "fontsize", "height", "linewidth", "lw", "pad", "size", "width"}


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


def explains_its_code(book, name) -> Iterator[str]:
    """Prose follows every code cell that does more than import or declare."""
    kinds = [cell.cell_type for cell in book.cells] + ["end"]
    for place, tree in trees(book):
        imports_only = all(isinstance(s, ast.Import | ast.ImportFrom) for s in tree.body)
        declares = "parameters" in tags(book.cells[place])
        if not imports_only and not declares and kinds[place + 1] != "markdown":
            yield f"cell {place} has no text after it"


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


def leaves_numbers_to_the_protocol(book, name) -> Iterator[str]:
    """No decimal typed in the code of a paper's notebook: the papers' numbers are in the YAML."""
    if name.startswith(("00", "06")):
        return
    for place, tree in trees(book):
        if "parameters" in tags(book.cells[place]):
            continue
        looks = [n.value for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg in LOOKS]
        spared = {id(inner) for look in looks for inner in ast.walk(look)}
        for node in ast.walk(tree):
            number = isinstance(node, ast.Constant) and isinstance(node.value, float)
            if number and node.value not in PLAIN_FLOATS and id(node) not in spared:
                yield f"cell {place} has the number {node.value} in its code"


RULES = (
    is_clean,
    opens_well,
    closes_well,
    declares_parameters,
    has_short_cells,
    explains_its_code,
    imports_little,
    stays_inside,
    leaves_numbers_to_the_protocol,
)
