"""Which notebooks run, with which parameters, and where each run lives: settled before any starts.

papermill hands a notebook whatever it is given, typing errors included. Here every name and type
is checked against the notebook's own `parameters` cell first.
"""

import ast
import hashlib
import itertools
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import nbformat
import papermill

from ..core.errors import ProtocolError
from ..core.schema import suggest
from . import protocol, results

PLACES = ("OUT", "CHECKPOINTS")  # parameters that say where, not what
TYPES = {"str": str, "int": int, "float": float, "bool": bool}
BOOLS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's `parameters` cell."""

    name: str
    type: type
    default: str | int | float | bool
    help: str


@dataclass(frozen=True)
class Notebook:
    """A notebook file: its code (without prose and metadata) and its parameters by name."""

    path: Path
    name: str
    code: str
    parameters: dict[str, Parameter]


@dataclass(frozen=True)
class Run:
    """One notebook with one set of parameters; ``folder`` is where its results land."""

    notebook: Notebook
    id: str
    folder: Path
    parameters: dict[str, str | int | float | bool]

    def __str__(self) -> str:
        return f"{self.notebook.name}/{self.id}"


def find_notebooks(wanted: Sequence[str], folder: Path | None = None) -> list[Path]:
    """The notebook files meant by paths, names (``01_swin_noise``) or name beginnings (``01``).

    Nothing wanted means all of ``folder`` (the project's `notebooks/`), except names that begin
    with an underscore.

    Raises:
        ProtocolError: if a name fits no notebook or several, or there is none at all.
    """
    folder = folder or results.project_root() / "notebooks"
    known = {p.stem: p for p in sorted(folder.glob("*.ipynb")) if not p.name.startswith("_")}
    if not known and not wanted:
        raise ProtocolError(f"There are no notebooks in {folder}.")
    found = [_find_one(name, known, folder) for name in wanted] or list(known.values())
    return list(dict.fromkeys(found))


def _find_one(name: str, known: Mapping[str, Path], folder: Path) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    stem = name.removesuffix(".ipynb")
    fits = [stem] if stem in known else [k for k in known if k.startswith(stem)]
    if len(fits) == 1:
        return known[fits[0]]
    if fits:
        raise ProtocolError(f"{name!r} fits several notebooks: {', '.join(fits)}.")
    raise ProtocolError(f"There is no notebook {name!r} in {folder}{suggest(stem, known)}")


def read_notebook(path: Path) -> Notebook:
    """Read a notebook and its `parameters` cell.

    Raises:
        ProtocolError: if the file is no notebook, or a parameter is no typed scalar.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
        cells = notebook.cells
        # The runner chooses the kernel, so a notebook need not name one, or one that is here.
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python"}
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "notebook.ipynb"
            copy.write_text(nbformat.writes(notebook), "utf-8")
            declared = papermill.inspect_notebook(str(copy))
    except Exception as error:  # nbformat and papermill raise many kinds for a bad file
        raise ProtocolError(f"{path} cannot be read as a notebook: {error}") from error
    parameters = {name: _declared(path, entry) for name, entry in declared.items()}
    _all_declared(path, cells, parameters)
    code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return Notebook(path, path.stem, code, parameters)


def _declared(path: Path, entry: Mapping[str, str]) -> Parameter:
    """A line of the `parameters` cell, as papermill saw it, with its type and default checked."""
    name, kind = entry["name"], TYPES.get(entry["inferred_type_name"])
    try:
        default = ast.literal_eval(entry["default"])
    except (SyntaxError, ValueError):
        default = None
    if kind is float and type(default) is int:
        default = float(default)
    if kind is None or type(default) is not kind:
        raise ProtocolError(
            f"{path.name}: the parameter {name} must read `{name}: type = value  # help` "
            f"with one of the types {', '.join(TYPES)} and a value of that type."
        )
    return Parameter(name, kind, default, entry["help"])


def _all_declared(path: Path, cells: list, parameters: Iterable[str]) -> None:
    """Refuse a `parameters` cell with a line that papermill cannot read and would pass over."""
    tagged = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    for statement in ast.parse("\n".join(tagged)).body:
        target = getattr(statement, "target", None) or getattr(statement, "targets", [None])[0]
        if getattr(target, "id", None) not in parameters:
            line = ast.unparse(statement)
            raise ProtocolError(
                f"{path.name}: papermill cannot read the parameter line {line!r}: it takes one "
                "line with one equals sign, those in value and comment counted."
            )


def parse_value(parameter: Parameter, text: str) -> str | int | float | bool:
    """``text`` from the command line as the parameter's type, or ProtocolError."""
    try:
        if parameter.type is bool:
            return BOOLS[text.lower()]
        value = parameter.type(text)
    except (KeyError, ValueError):
        value = None
    if value is None or (parameter.type is float and not math.isfinite(value)):
        kind = "true or false" if parameter.type is bool else parameter.type.__name__
        raise ProtocolError(f"{parameter.name} takes {kind}, not {text!r} ({parameter.help}).")
    return value


def plan(
    paths: Iterable[Path],
    profile: str | None = None,
    given: Sequence[tuple[str, str]] = (),
    out: Path = Path("results"),
) -> list[Run]:
    """Every run that the command asks for, checked; several values of a parameter make a grid.

    Args:
        paths: notebook files.
        profile: value of PROFILE, or None for the notebook's own (or a PROFILE in ``given``).
        given: pairs of a parameter's name and its comma-separated values, as typed.
        out: folder that receives ``<notebook>/<run id>/``.

    Raises:
        ProtocolError: for an unknown name, an ill-typed value, an unknown profile or setting.
    """
    names = [name for name, _ in given] + (["PROFILE"] if profile else [])
    for name in names:
        if names.count(name) > 1:
            raise ProtocolError(f"{name} is given twice; write its values with commas between.")
    notebooks = [read_notebook(path) for path in paths]
    if len({n.name for n in notebooks}) < len(notebooks):
        raise ProtocolError("Two of the notebooks have the same name; run them one at a time.")
    runs = {}
    for notebook in notebooks:
        for values in _grid(notebook, profile, given):
            run = _run(notebook, values, out)
            runs.setdefault(run.folder, run)
    return list(runs.values())


def _grid(notebook: Notebook, profile: str | None, given: Sequence[tuple[str, str]]) -> list[dict]:
    """All combinations of the given values for one notebook."""
    axes = {name: _values(notebook, name, text) for name, text in given}
    if profile and "PROFILE" in notebook.parameters:
        axes["PROFILE"] = [profile]
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _values(notebook: Notebook, name: str, text: str) -> list:
    """The values of one ``-p NAME VALUE[,VALUE...]``; a comma inside [brackets] separates none."""
    if name == "OUT":
        raise ProtocolError("OUT is set by the runner: use --out to choose the results folder.")
    if name not in notebook.parameters:
        known = "".join(
            f"\n  {p.name}: {p.type.__name__} = {p.default!r}  {p.help}"
            for p in notebook.parameters.values()
        )
        raise ProtocolError(
            f"{notebook.name} has no parameter {name!r}"
            f"{suggest(name.upper(), notebook.parameters)}\nIts parameters:{known or ' none'}"
        )
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", text)]
    if "" in parts:
        raise ProtocolError(f"{name} was given an empty value: {text!r}.")
    return [parse_value(notebook.parameters[name], part) for part in parts]


def _run(notebook: Notebook, given: Mapping, out: Path) -> Run:
    """Name one run by what differs from the notebook's defaults, and by a hash of what it computes.

    The hash covers the code cells, all parameters, the protocol files that the code names and the
    pretrained weights at hand; prose, metadata and the places of results and checkpoints do not
    make another run of it.
    """
    values = {p.name: p.default for p in notebook.parameters.values()} | dict(given)
    values.pop("OUT", None)
    named = {name: value for name, value in values.items() if name not in PLACES}
    papers = [paper for paper in protocol.list_papers() if paper in notebook.code]
    _check_settings(papers, values)
    digest = hashlib.sha256(notebook.code.encode())
    digest.update(json.dumps([named, _weights()], sort_keys=True).encode())
    folder = resources.files("medrobust_utils") / "papers"
    for paper in papers:
        digest.update((folder / f"{paper}.yaml").read_bytes())
    changed = [
        f"{name}={value}"
        for name, value in sorted(named.items())
        if name != "PROFILE" and value != notebook.parameters[name].default
    ]
    label = "-".join([str(values.get("PROFILE", "run")), *changed])
    label = re.sub(r"[^A-Za-z0-9._=+-]+", "_", label)[:80].strip("._-")
    run_id = f"{label}-{digest.hexdigest()[:8]}"
    folder = out.resolve() / notebook.name / run_id
    if "OUT" in notebook.parameters:
        values["OUT"] = str(folder)
    return Run(notebook, run_id, folder, values)


def _weights() -> list[tuple[str, int, int]]:
    """Every file of pretrained weights by name, size and time: with others it is another run."""
    folder = os.environ.get("MEDROBUST_WEIGHTS")
    files = Path(folder).expanduser().glob("*.safetensors") if folder else []
    return sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files)


def _check_settings(papers: Sequence[str], values: Mapping) -> None:
    """Let the protocol refuse an unknown profile or override now rather than an hour into a grid.

    A notebook that names several papers decides for itself which one an override is meant for.
    """
    if len(papers) == 1 and "PROFILE" in values:
        protocol.load(papers[0]).settings(values["PROFILE"], values.get("SET", ""))
