"""The project's own files: versions that fit together, and one place that names the repository."""

import re
import subprocess
import sys
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
NOT_IN_COLAB = {"foolbox", "grad-cam", "papermill", "pydicom"}
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "colab")]

import rig  # noqa: E402
from set_url import FILES, set_url  # noqa: E402

from medrobust_utils.reporting import planning  # noqa: E402


def requirements(name):
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


def pinned(requirement):
    (only,) = requirement.specifier
    assert only.operator == "==", f"{requirement} is no exact version"
    return Version(only.version)


@pytest.mark.parametrize("name", requirements("requirements.txt"))
def test_the_lock_and_colab_lie_within_the_ranges(name):
    wanted = requirements("requirements.txt")[name]
    assert pinned(requirements("requirements-lock.txt")[name]) in wanted.specifier
    colab = requirements("tests/colab/pins.txt").get(name)
    if name in NOT_IN_COLAB:
        assert colab is None
    else:
        assert pinned(colab) in wanted.specifier, "the Colab cell would replace it"


def test_the_lock_is_exact_and_holds_no_address():
    locked = requirements("requirements-lock.txt")
    assert all(pinned(requirement) for requirement in locked.values())
    text = (ROOT / "requirements-lock.txt").read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|@ |/\w+/\w+/", text)
    assert str(locked["torch"].specifier) != "==2.13.0", "pip may pair it with a CPU-only build"


def test_conda_and_pip_install_what_the_requirements_say():
    """Someone with conda gets other versions than everybody else when these drift apart."""
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert conda[-1] == {"pip": ["-r requirements.txt", "-e ."]}
    (python,) = (one for one in conda if str(one).startswith("python "))
    assert python.removeprefix("python ").startswith(project["requires-python"])
    assert "dependencies" in project["dynamic"], "pyproject lists its own"


def test_the_notebooks_travel_with_the_package(tmp_path):
    """Who installed by pip, as Colab does, runs `python -m medrobust_utils run 01` all the same."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "medrobust_utils").mkdir()
    (tmp_path / "medrobust_utils" / "__init__.py").touch()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_x.ipynb").write_text("{}")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w"]
    subprocess.run([*command, tmp_path / "dist", tmp_path], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    inside = ".data/data/share/medrobust/notebooks/01_x.ipynb"
    assert any(name.endswith(inside) for name in zipfile.ZipFile(wheel).namelist())
    assert str(planning.INSTALLED).startswith(sys.prefix)


def test_no_release_is_built_while_no_repository_is_named():
    done = subprocess.run(["make", "-n", "release"], cwd=ROOT, capture_output=True, text=True)
    assert 'grep -q "github.com/-owner-/"' in done.stdout
    assert "-owner-" in (ROOT / "tests" / "colab" / "cell.ipy").read_text()


def test_the_colab_rig_allows_additions_and_nothing_else():
    before = {"numpy": "2.1.3", "torch": "2.11.0"}
    rig.compare(before, {**before, "medrobust": "0.1.0", "papermill": "2.7.0"})
    for after in ({**before, "numpy": "2.4.6"}, {"torch": "2.11.0"}):
        with pytest.raises(SystemExit, match="numpy: 2.1.3 ->"):
            rig.compare(before, {**after, "medrobust": "0.1.0"})
    with pytest.raises(SystemExit, match="did not install"):
        rig.compare(before, before)


def test_the_repository_is_renamed_everywhere_at_once(tmp_path):
    for name in (*FILES, *(f"notebooks/{p.name}" for p in ROOT.glob("notebooks/*.ipynb"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    url = "https://github.com/some-one/robust.kit"
    changed = set_url(f"{url}.git", tmp_path)
    assert {p.name for p in changed} >= {"pyproject.toml", "cell.ipy", "00_start_here.ipynb"}
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert "-owner-/medrobust" not in path.read_text(), path
    notebook = (tmp_path / "notebooks" / "00_start_here.ipynb").read_text()
    assert f'REPOSITORY = \\"{url}\\"' in notebook
    assert "/github/some-one/robust.kit/blob/main/notebooks/00_start_here.ipynb" in notebook
    assert set_url(url, tmp_path) == []
    with pytest.raises(SystemExit, match="Name the repository"):
        set_url("ftp://example.org", tmp_path)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, medrobust_utils, medrobust_utils.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Lines of Python as `ruff format` lays them out without `fmt: off` and `skip`, and files. Ceilings
# only go down, but for what is told in the commit: pages that fit a phone raised the last once.
CEILINGS = {
    "medrobust_utils": (20_500, 132),
    "tests": (16_500, 94),
    "soak": (1_460, 6),
    "benchmarks": (630, 7),
    "tools": (715, 6),
}
LONGEST = 300  # lines of a file of the package


def formatted(path):
    """A file's lines, laid out by ruff wherever it asks to be left alone."""
    text = path.read_text("utf-8")
    if "# fmt:" in text:
        text = re.sub(r"[ \t]*# fmt: (?:off|on|skip)\b.*", "", text)
        command = [sys.executable, "-m", "ruff", "format", "--line-length", "100", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        text = done.stdout
    return text.splitlines()


@pytest.mark.parametrize("room", CEILINGS)
def test_the_house_does_not_grow(room):
    """Users lose a kit that one person can read: every addition looks small by itself."""
    paths = sorted((ROOT / room).rglob("*.py"))
    with ThreadPoolExecutor(4) as pool:
        counts = dict(zip(paths, map(len, pool.map(formatted, paths)), strict=True))
    lines, files = CEILINGS[room]
    assert sum(counts.values()) <= lines and len(counts) <= files, (
        sum(counts.values()),
        len(counts),
    )
    if room == "medrobust_utils":
        assert not [path for path, count in counts.items() if count > LONGEST]
