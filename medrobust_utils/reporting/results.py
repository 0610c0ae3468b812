"""The record of one notebook run: numbers with their origin, in one strict JSON file.

A *row* is one number with tags that say what it was measured on. Rows of a synthetic or
incomplete data set are marked as such here, from the data set itself, so that a phantom number
can never pass for a real one further down the road.
"""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import RunError
from ..core.storage import fingerprint, plain, png, write_atomic
from . import protocol

SCHEMA = 1
STATUSES = ("complete", "partial", "failed")
RUN_COLUMNS = ("notebook", "paper", "profile", "overrides", "status", "device", "finished", "path")

_KEYS = {
    "notebook": str,
    "paper": str,
    "status": str,
    "profile": str,
    "parameters": dict,
    "provenance": dict,
    "datasets": dict,
    "models": dict,
    "rows": list,
    "figures": list,
    "warnings": list,
    "deviations": list,
    "history": dict,
}


class Run:
    """Collects what one notebook run found; `save` writes it as ``result.json``.

    ``out`` is the folder of the results. Use `Run.start` in a notebook.
    """

    def __init__(self, out: Path, record: dict[str, Any]):
        self.out = out
        self.record = record
        self.outcomes: dict[str, np.ndarray] = {}

    @classmethod
    def start(
        cls,
        notebook: str,
        paper: str,
        profile: str,
        parameters: dict[str, Any],
        out: str | Path = "",
        seed: int = 0,
    ) -> "Run":
        """Begin a record. An empty ``out`` is ``results/<notebook>/<profile>`` of the project."""
        folder = Path(out) if str(out) else project_root() / "results" / notebook / profile
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "schema": SCHEMA,
            "notebook": notebook,
            "paper": paper,
            "status": "partial",
            "profile": profile,
            "parameters": dict(parameters),
            "provenance": {"started": _now(), "finished": None, "seed": seed},
            "datasets": {},
            "models": {},
            "rows": [],
            "figures": [],
            "captions": {},
            "warnings": [],
            "deviations": [],
            "history": {},
            "headlines": protocol.load(paper).fingerprints()
            if paper in protocol.list_papers()
            else {},
        }
        return cls(folder, record)

    def dataset(self, imageset: Any) -> None:
        """Record where the images come from; needed before `add` may name the data set."""
        self.record["datasets"][imageset.name] = {
            "synthetic": bool(imageset.synthetic),
            "complete": bool(imageset.complete),
            "checksum": imageset.checksum,
            "n": len(imageset.images),
            "census": dict(imageset.census),
        }

    def model(self, key: str, **info: Any) -> None:
        """Record one model: backbone, start (imagenet or scratch), number of parameters, ..."""
        self.record["models"][key] = info

    def warn(self, text: str) -> None:
        """Record something the reader must know before trusting the numbers."""
        if text not in self.record["warnings"]:
            self.record["warnings"].append(text)

    def deviation(self, text: str) -> None:
        """Record a place where this run departs from the paper's protocol, and why."""
        if text not in self.record["deviations"]:
            self.record["deviations"].append(text)

    def add(
        self,
        metric: str,
        value: float,
        low: float | None = None,
        high: float | None = None,
        n: int | None = None,
        **tags: Any,
    ) -> dict[str, Any]:
        """Append one number with its interval, sample size and tags; return the row.

        Without ``low`` and ``high`` the number counts as exact. A ``dataset`` tag must name a
        recorded data set, or several joined by ``+``; ``synthetic`` and ``complete`` are then set
        from it. A value that is not finite is stored as null with a note.
        """
        for tag in tags.keys() & set(RUN_COLUMNS):
            raise RunError(f"the tag {tag!r} of {metric!r} is already taken by the run itself")
        if (low is None) != (high is None):
            raise RunError(f"{metric!r} has only one end of its interval; give both or neither")
        row = {"metric": metric, "value": value, "low": low, "high": high, "n": n, **tags}
        row |= self._origin(metric, tags)
        row, odd = plain(row)
        if odd:
            row["note"] = f"not finite, stored as null: {', '.join(odd)}"
        if None not in (row["low"], row["high"]) and row["low"] > row["high"]:
            raise RunError(f"{metric!r} has an interval from {low} down to {high}")
        self.record["rows"].append(row)
        return row

    def _origin(self, metric: str, tags: dict[str, Any]) -> dict[str, bool]:
        """``synthetic`` and ``complete`` of a row, from the data sets it names."""
        if tags.get("dataset") is None:
            return {}
        known, parts = self.record["datasets"], str(tags["dataset"]).split("+")
        missing = [part for part in parts if part not in known]
        if missing:
            raise RunError(f"{metric!r} names {missing[0]!r}; record it with run.dataset() first")
        origin = {
            "synthetic": any(known[part]["synthetic"] for part in parts),
            "complete": all(known[part]["complete"] for part in parts),
        }
        if origin["synthetic"] and tags.get("synthetic") is False:
            raise RunError(f"{metric!r} calls {tags['dataset']!r} real, but it is synthetic")
        # a caller may know that a row covers only part of a complete set, never the reverse
        origin["complete"] = origin["complete"] and tags.get("complete", True)
        return origin

    def outcome(
        self, metric: str, tags: dict[str, Any], outcomes: np.ndarray, groups: np.ndarray
    ) -> str:
        """Keep the numbers an image (seeds, N) behind a row, and groups (N,); what names them.

        ``outcomes.npz`` beside the record holds them, so that anybody can rebuild the interval.
        """
        name = fingerprint(metric, plain(tags)[0])
        whole = np.array_equal(outcomes, outcomes.astype(np.int8))
        self.outcomes[name] = outcomes.astype(np.int8 if whole else np.float32)
        self.outcomes[f"{name}:groups"] = np.unique(groups, return_inverse=True)[1].astype("uint32")
        return name

    def history(self, key: str, epochs: list[dict[str, Any]]) -> None:
        """Record the learning curve of one model: one dictionary per epoch."""
        self.record["history"][key] = list(epochs)

    def figure(self, figure: Any, name: str, caption: str = "", dataset: str = "") -> Path:
        """Save a matplotlib figure as ``<name>.png`` of at most 200 kB and return its path.

        ``dataset`` names what the figure shows (several joined by ``+``; empty: all recorded
        data sets) and decides whether the report labels it phantom or real.
        """
        path = self.out / f"{name.removesuffix('.png')}.png"
        data, reduced = png(figure)
        write_atomic(path, data)
        if reduced:
            self.warn(f"figure {path.name} was stored {reduced} to stay small")
        if path.name not in self.record["figures"]:
            self.record["figures"].append(path.name)
        parts = dataset.split("+") if dataset else list(self.record["datasets"])
        missing = [part for part in parts if part not in self.record["datasets"]]
        if missing:
            raise RunError(f"figure {name!r} names {missing[0]!r}; record it with run.dataset()")
        kinds = {self.record["datasets"][part]["synthetic"] for part in parts}
        label = " and ".join({True: "phantom", False: "real"}[kind] for kind in sorted(kinds)[::-1])
        self.record["captions"][path.name] = {"text": caption, "label": label}
        return path

    def save(self, status: str = "complete") -> Path:
        """Write ``result.json`` in one step, so that a reader never meets half a file.

        Saving again replaces the file; a save that fails leaves the earlier file untouched.
        """
        if status not in STATUSES:
            raise RunError(f"status must be one of {', '.join(STATUSES)}, not {status!r}")
        from ..core import env  # late: asking for the device imports torch

        record = {**self.record, "status": status}
        record["provenance"] = {**env.provenance(), **record["provenance"], "finished": _now()}
        record, odd = plain(record)
        if odd:
            record["warnings"].append(f"not finite, stored as null: {', '.join(odd)}")
        # A line a row: there are thousands, and a diff should show them one by one.
        lines = [json.dumps(row, allow_nan=False) for row in record["rows"]]
        text = json.dumps({**record, "rows": []}, indent=1, allow_nan=False) + "\n"
        if lines:
            text = text.replace('"rows": []', '"rows": [\n  ' + ",\n  ".join(lines) + "\n ]", 1)
        if self.outcomes:
            packed = io.BytesIO()
            np.savez_compressed(packed, **self.outcomes)
            write_atomic(self.out / "outcomes.npz", packed.getvalue())
        path = self.out / "result.json"
        write_atomic(path, text.encode())
        return path


def read(path: str | Path) -> dict[str, Any]:
    """Read and check one ``result.json`` (or its folder); RunError names the file and the fault.

    The result carries its own place under the extra key ``path``.
    """
    path = Path(path)
    path = path / "result.json" if path.is_dir() else path
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets without end
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise RunError(f"{path} is not a result of schema {SCHEMA}; run the notebook again")
    for key, kind in _KEYS.items():
        if not isinstance(record.get(key), kind):
            raise RunError(f"{path}: {key!r} is missing or not a {kind.__name__}")
    for number, row in enumerate(record["rows"]):
        if not isinstance(row, dict) or not {"metric", "value"} <= row.keys():
            raise RunError(f"{path}: row {number} has no metric or no value")
    return {**record, "path": str(path)}


def collect(root: str | Path) -> list[dict[str, Any]]:
    """Every ``result.json`` below a folder, oldest first and newest last."""
    runs = [read(path) for path in sorted(Path(root).rglob("result.json"))]
    return sorted(runs, key=lambda run: run["provenance"].get("finished") or "")


def rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows of all runs, each with the columns of its run (see RUN_COLUMNS)."""
    found = []
    for run in runs:
        # a profile with overrides is no longer the protocol that its name promises
        overrides = run["parameters"].get("SET", "")
        if run["parameters"].get("ATTACK"):  # another attack than the profile's own
            overrides = f"{overrides} ATTACK={run['parameters']['ATTACK']}".strip()
        about = {**run, **run["provenance"], "overrides": overrides}
        columns = {name: about.get(name) for name in RUN_COLUMNS}
        # what the ledger asks a run for: its first seed, its image size, the headlines it knew
        columns |= {"run_seed": run["provenance"].get("seed"), "headlines": run.get("headlines")}
        columns["size"] = _size(run["paper"], run["profile"])
        found += [{**row, **columns} for row in run["rows"]]
    return found


def _size(paper: str, profile: str) -> int | None:
    """Pixels a side that a registered profile works with, where it names one size for all."""
    if paper not in protocol.list_papers():
        return None
    size = protocol.load(paper).profiles.get(profile, {}).get("size")
    return size if isinstance(size, int) else None


def project_root() -> Path:
    """The nearest folder upwards that has a pyproject.toml, else the current folder."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "pyproject.toml").is_file()), here)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
