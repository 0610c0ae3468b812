"""Tries the notebooks against a Colab runtime's package versions: ``make test-colab``.

Builds ``.venv-colab`` with Python 3.13 and the versions of pins.txt, runs the notebooks' Colab
cell there with the kit taken from this checkout, checks that nothing present has changed, runs
every notebook in the smoke profile, and drives the explorer's panel with Colab's widgets.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).with_name("pins.txt")
HOME = ROOT / ".venv-colab"
PYTHON = HOME / "bin" / "python"
COLAB = "COLAB_RELEASE_TAG"


def find_python() -> str | None:
    """A Python 3.13 that starts: on the PATH, or among the versions that pyenv keeps."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    kept = sorted(pyenv.glob("versions/3.13*/bin/python3.13"))
    for candidate in ("python3.13", *map(str, kept)):
        probe = [
            candidate,
            "-c",
            "import sys, ensurepip; sys.exit(sys.version_info[:2] != (3, 13))",
        ]
        try:
            if subprocess.run(probe, capture_output=True).returncode == 0:
                return candidate
        except OSError:
            continue
    return None


def call(*command, **options) -> None:
    """Run a command, shown and checked."""
    print("+", *command, flush=True)
    subprocess.run([*map(str, command)], check=True, **options)


def installed() -> dict[str, str]:
    """Name and version of every package in the environment."""
    command = [PYTHON, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return dict(line.split("==") for line in lines)


def build(python: str) -> dict[str, str]:
    """Make the environment, or take the one that is there back to its first state."""
    mark = HOME / f".installed-{hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]}"
    if mark.exists():
        first = dict(line.split("==") for line in mark.read_text().split())
        added = sorted(installed().keys() - first.keys())
        if added:
            call(PYTHON, "-m", "pip", "uninstall", "--quiet", "--yes", *added)
        if installed() == first:
            return first
    shutil.rmtree(HOME, ignore_errors=True)
    call(python, "-m", "venv", HOME)
    call(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", PINS)
    first = installed()
    mark.write_text("\n".join(f"{name}=={version}" for name, version in first.items()))
    return first


def colab_cells(notebooks: list[Path]) -> set[str]:
    """The different texts of the notebooks' Colab cells; one, if the contract is kept."""
    texts = set()
    for path in notebooks:
        cells = [c.source for c in nbformat.read(path, as_version=4).cells if COLAB in c.source]
        if len(cells) != 1:
            sys.exit(f"{path.name} has {len(cells)} cells that name {COLAB}; it needs one.")
        texts.update(cells)
    return texts


def run_cell(text: str, folder: Path) -> None:
    """Run a Colab cell as Colab would, with a copy of this checkout in the repository's place."""
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    shutil.copytree(ROOT / "medrobust_utils", source / "medrobust_utils")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (folder / "cell.ipy").write_text(text)
    surroundings = {
        **os.environ,
        COLAB: "release-colab",
        "MEDROBUST_SOURCE": str(source),
        "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
        "IPYTHONDIR": str(folder / "ipython"),
    }
    call(PYTHON, "-m", "IPython", folder / "cell.ipy", cwd=folder, env=surroundings)


def compare(before: dict[str, str], after: dict[str, str]) -> None:
    """Only additions are allowed."""
    changed = [
        f"{n}: {v} -> {after.get(n, 'gone')}" for n, v in before.items() if after.get(n) != v
    ]
    added = [f"{n}=={after[n]}" for n in sorted(after.keys() - before.keys())]
    print("The Colab cell added:", *added)
    if changed:
        sys.exit("The Colab cell changed what was present:\n  " + "\n  ".join(changed))
    if "medrobust" not in after:
        sys.exit("The Colab cell did not install the kit; pip's message stands above.")


def main() -> None:
    """Build, install by the notebooks' own cell, compare, and run the notebooks."""
    python = find_python()
    if python is None:
        sys.exit("No Python 3.13 found, which Colab runs: install one (python3.13 or in pyenv).")
    if sys.argv[1:] == ["--find-python"]:
        print(python)
        return
    notebooks = sorted(p for p in ROOT.glob("notebooks/*.ipynb") if not p.name.startswith("_"))
    cells = colab_cells(notebooks)
    if not cells:
        sys.exit("There are no notebooks.")
    before = build(python)
    # Elsewhere than the checkout, so that the installed kit is what gets imported.
    with tempfile.TemporaryDirectory(prefix="medrobust-colab-") as folder:
        for cell in sorted(cells):
            run_cell(cell, Path(folder))
        compare(before, installed())
        command = ["-m", "medrobust_utils", "run", *notebooks, "--profile", "smoke", "--jobs", "2"]
        surroundings = os.environ | {"MEDROBUST_HOME": f"{folder}/home"}  # nothing kept from before
        call(PYTHON, *command, "--out", Path(folder) / "results", cwd=folder, env=surroundings)
        surroundings |= {"PYTHONPATH": str(PINS.parents[1])}  # of the tests' helpers
        call(PYTHON, PINS.with_name("widgets_check.py"), cwd=folder, env=surroundings)


if __name__ == "__main__":
    main()
