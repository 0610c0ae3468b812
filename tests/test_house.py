"""The house: imports run downwards only, so that a reader can learn one room after the other."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "medrobust_utils"
FLOORS = [
    {"core"},
    {"data", "models"},
    {"attacks"},
    {"scoring"},
    {"training", "explain"},
    {"plots"},
    {"segmentation"},
    {"studies"},
    {"explorer"},
    {"__main__", "__init__"},
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
# The record of runs stands beside the science: on core and the scores alone, read from above.
BESIDE = {"reporting": {"core", "scoring"}}


def imported(path: Path, text: str) -> set[str]:
    """The package's rooms that a module imports, late imports included."""
    here = ["medrobust_utils", *path.relative_to(PACKAGE).with_suffix("").parts]
    rooms = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            whole = here[: len(here) - node.level] + module if node.level else module
            for alias in node.names:
                if whole[:1] == ["medrobust_utils"]:
                    rooms.add([*whole, alias.name][1])
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            rooms |= {name[1] for name in names if name[0] == "medrobust_utils" and name[1:]}
    return rooms


def upward(room: str, target: str) -> bool:
    if target == room or room == "__main__":
        return False
    if room in BESIDE:
        return target not in BESIDE[room]
    if target in BESIDE:
        return FLOOR[room] < FLOOR["studies"]
    return FLOOR[target] >= FLOOR[room]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_imports_run_downwards(path):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    wrong = [target for target in sorted(imported(path, path.read_text())) if upward(room, target)]
    assert not wrong, f"{path.relative_to(PACKAGE)} imports {', '.join(wrong)} from above it"


def test_the_rooms_are_those_of_the_house():
    rooms = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in PACKAGE.rglob("*.py")}
    assert rooms == set(FLOOR) | set(BESIDE)


def test_an_import_upwards_is_seen():
    text = "def late():\n    from ..studies import common\n"
    assert imported(PACKAGE / "attacks" / "x.py", text) == {"studies"}
    assert upward("attacks", "studies") and not upward("studies", "attacks")
    assert upward("reporting", "data") and not upward("explorer", "reporting")
