"""Which notebooks run, with which parameters, and where each run lives: settled before any starts.

papermill hands a notebook whatever it is given, typing errors included. Here every name and type
is checked against the notebook's own `parameters` cell first.
"""

import ast
import itertools
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import nbformat
from papermill.models import Parameter
from papermill.translators import PythonTranslator
from pydantic import FiniteFloat, TypeAdapter

from ..core.errors import ProtocolError
from ..core.schema import suggest
from ..core.storage import fingerprint
from . import protocol, results

INSTALLED = Path(sys.prefix) / "share" / "medrobust" / "notebooks"
PLACES = ("OUT", "CHECKPOINTS", "DRIVE")  # parameters that say where, not what
TYPES = {"str": str, "int": int, "float": FiniteFloat, "bool": bool}
TYPES = {name: TypeAdapter(kind) for name, kind in TYPES.items()}


class Notebook(NamedTuple):
    """What a notebook computes: its code (no prose, no metadata) and its parameters' values."""

    code: str
    parameters: dict[str, Parameter]


@dataclass(frozen=True)
class Run:
    """A notebook (its file) with one set of parameters; ``folder`` is where its results land."""

    notebook: Path
    folder: Path
    parameters: dict[str, str | int | float | bool]

    def __str__(self) -> str:
        return f"{self.notebook.stem}/{self.folder.name}"


def find_notebooks(wanted: Sequence[str], folder: Path | None = None) -> list[Path]:
    """The notebook files meant by paths, names (``01_swin_noise``) or name beginnings (``01``).

    Nothing wanted means all of ``folder`` (the project's `notebooks/`, or those that were installed
    with the package), except names that begin with an underscore. ProtocolError if a name fits
    none or several, or there is none at all.
    """
    if folder is None:
        folder = results.project_root() / "notebooks"
        folder = folder if folder.is_dir() else INSTALLED
    known = {p.stem: p for p in sorted(folder.glob("*.ipynb")) if not p.name.startswith("_")}
    if not known and not wanted:
        raise ProtocolError(f"There are no notebooks in {folder}.")
    found = []
    for name in wanted:
        stem = name.removesuffix(".ipynb")
        fits = [known[k] for k in ([stem] if stem in known else known) if k.startswith(stem)]
        if name.endswith(".ipynb") and Path(name).is_file():
            fits = [Path(name).resolve()]
        if len(fits) > 1:
            names = ", ".join(path.stem for path in fits)
            raise ProtocolError(f"{name!r} fits several notebooks: {names}.")
        if not fits:
            raise ProtocolError(f"There is no notebook {name!r} in {folder}{suggest(stem, known)}")
        found += fits
    return list(dict.fromkeys(found or known.values()))


def read_notebook(path: Path) -> Notebook:
    """Read a notebook, whichever program saved it; ProtocolError for what is no typed scalar."""
    try:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
        lines = ast.parse("\n".join(cell.source for cell in tagged)).body
    except Exception as error:  # nbformat raises many kinds for a bad file
        raise ProtocolError(f"{path} cannot be read as a notebook: {error}") from error
    parameters = {}
    for parameter in PythonTranslator.inspect(tagged[0]) if tagged else []:
        name, kind, text, _ = parameter
        try:
            value = TYPES[kind].validate_python(ast.literal_eval(text), strict=True)
        except (KeyError, SyntaxError, ValueError):
            raise ProtocolError(
                f"{path.name}: the parameter {name} must read `{name}: type = value  # help` with "
                f"one of the types {', '.join(TYPES)} and a value of that type."
            ) from None
        parameters[name] = parameter._replace(default=value)
    for line in lines:  # one that papermill cannot read, it would pass over
        target = getattr(line, "target", None) or getattr(line, "targets", [None])[0]
        if getattr(target, "id", None) not in parameters:
            raise ProtocolError(
                f"{path.name}: papermill cannot read the parameter line {ast.unparse(line)!r}: it "
                "takes one line with one equals sign, those in value and comment counted."
            )
    return Notebook("\n\n".join(cell.source for cell in cells), parameters)


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
    runs, read = {}, {path: read_notebook(path) for path in paths}
    if len({path.stem for path in read}) < len(read):
        raise ProtocolError("Two of the notebooks have the same name; run them one at a time.")
    for path, (code, parameters) in read.items():
        axes = {name: _values(path.stem, parameters, name, text) for name, text in given}
        if profile and "PROFILE" in parameters:
            axes["PROFILE"] = [profile]
        for values in itertools.product(*axes.values()):
            changed = dict(zip(axes, values, strict=True))
            run = _run(path, code, {p.name: p.default for p in parameters.values()}, changed, out)
            runs.setdefault(run.folder, run)
    return list(runs.values())


def _values(notebook: str, parameters: Mapping[str, Parameter], name: str, text: str) -> list:
    """The values of one ``-p NAME VALUE[,VALUE...]``; a comma inside [brackets] separates none."""
    if name == "OUT":
        raise ProtocolError("OUT is set by the runner: use --out to choose the results folder.")
    if name not in parameters:
        known = [f"\n  {n}: {kind} = {v!r}  {about}" for n, kind, v, about in parameters.values()]
        raise ProtocolError(
            f"{notebook} has no parameter {name!r}{suggest(name.upper(), parameters)}\n"
            f"Its parameters:{''.join(known) or ' none'}"
        )
    kind, about = parameters[name].inferred_type_name, parameters[name].help
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", text)]
    if "" in parts:
        raise ProtocolError(f"{name} was given an empty value: {text!r}.")
    try:
        return [TYPES[kind].validate_python(part) for part in parts]
    except ValueError:
        kind = "true or false" if kind == "bool" else kind
        raise ProtocolError(f"{name} takes {kind}, not {text!r} ({about}).") from None


def _run(notebook: Path, code: str, defaults: dict, given: dict, out: Path) -> Run:
    """Name one run by what differs from the notebook's defaults, and by a hash of what it computes.

    The hash covers the code cells, all parameters, the protocol files that the code names and the
    pretrained weights at hand (name, size, time); prose, metadata and the places of results and
    checkpoints do not make another run of it.
    """
    values = defaults | given
    named = {name: value for name, value in values.items() if name not in PLACES}
    papers = [paper for paper in protocol.list_papers() if paper in code]
    # What is unknown there is refused now rather than an hour into a grid. A notebook that names
    # several papers decides for itself which one an override is meant for.
    if len(papers) == 1 and "PROFILE" in values:
        protocol.load(papers[0]).settings(values["PROFILE"], values.get("SET", ""))
    folder = resources.files("medrobust_utils") / "papers"
    texts = [(folder / f"{paper}.yaml").read_text("utf-8") for paper in papers]
    place = os.environ.get("MEDROBUST_WEIGHTS")
    files = sorted(Path(place).expanduser().glob("*.safetensors")) if place else []
    weights = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    changed = [f"{k}={v}" for k, v in sorted(named.items()) if v != defaults[k] and k != "PROFILE"]
    label = "-".join([str(values.get("PROFILE", "run")), *changed])
    label = re.sub(r"[^A-Za-z0-9._=+-]+", "_", label)[:80].strip("._-")
    run_id = f"{label}-{fingerprint(code, named, weights, texts)}"
    folder = out.resolve() / notebook.stem / run_id
    return Run(notebook, folder, values | ({"OUT": str(folder)} if "OUT" in values else {}))
