"""``results/bench.json``: what was measured on which machine, and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from medrobust_utils import env
from medrobust_utils.errors import RunError
from medrobust_utils.storage import write_atomic

from .timing import Comparison

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def add(path: Path, module: str, found: Sequence[Comparison]) -> None:
    """Put what a module found on this machine in the place of what it found here before.

    Each comparison keeps the ratio of the time before as ``before``: whoever measures twice in a
    row sees both. Another machine's lines stay.
    """
    record, facts = read(path), env.provenance()
    machine = f"{facts['device']}, {facts['precision'].split(',')[0]}"
    modules = record.setdefault(machine, {})
    old = {line["name"]: line for line in modules.get(module, {}).get("comparisons", [])}
    lines = [c.record() | {"before": _ratio(old.get(c.name), c)} for c in found]
    modules[module] = {"provenance": facts, "comparisons": lines}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


def _ratio(old: Mapping | None, new: Comparison) -> float | None:
    """What the same sides had before."""
    same = old and (old["base"], old["other"]) == (new.base, new.other)
    return old["ratio"] if same else None


def read(path: Path) -> dict:
    """Machine -> module -> what it found; empty without the file.

    Raises:
        RunError: if it is no such record.
    """
    try:
        record = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for modules in record.values():
            for found in modules.values():
                [line["name"] for line in found["comparisons"]]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise RunError(
            f"{path}: cannot be read ({error!r}). Delete it and measure anew."
        ) from error
    return record


def text(lines: Sequence[Mapping]) -> str:
    """For a terminal: seconds of both sides, ratio with its range, promise, verdict, facts."""
    rows = [f"{'seconds':>17} {'ratio':>7} {'[range]':>16} promise"]
    for c in lines:
        span = f"[{c['low']:.2f}, {c['high']:.2f}]"
        rows.append(
            f"{c['base_seconds']:8.3f} {c['other_seconds']:8.3f} {c['ratio']:7.2f} "
            f"{span:>16} {promise(c):>7} "
            f"{'reached' if c['reached'] else 'MISSED '}  {c['name']}: {c['base']} -> {c['other']}"
        )
        notes = [f"{k} {_fact(v)}" for k, v in c["facts"].items()]
        notes += [c["bound"]] if c["bound"] and not c["reached"] else []
        rows += [" " * 18 + note for note in (", ".join(notes[:5]), *notes[5:]) if note]
    return "\n".join(rows)


def _fact(value: float | list) -> str:
    if isinstance(value, list):
        return "/".join(_fact(one) for one in value)
    return f"{value:.4g}"


def promise(line: Mapping) -> str:
    """The promise in a word."""
    least = line["at_least"]
    return f"≥ {least:g}" if least is not None else f"≤ {line['at_most']:.3g}"


def markdown(record: Mapping) -> str:
    """One table a machine, and under it what stands in the way of what was not reached."""
    parts = []
    for machine, modules in record.items():
        lines = [line for found in modules.values() for line in found["comparisons"]]
        parts += [
            f"Measured on {machine}:",
            "",
            "| what | beside | must be | is (range; time before) | strength | |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        bounds: list[str] = []
        for line in lines:
            mark = ""
            if not line["reached"]:
                if line["bound"] not in bounds:
                    bounds.append(line["bound"])
                mark = f" ({bounds.index(line['bound']) + 1})" if line["bound"] else ""
            verdict = "reached" if line["reached"] else "not reached" + mark
            parts.append(
                f"| {line['other']}: {line['name']} | {line['base']} | {promise(line)} | "
                f"{_measured(line)} | {_strength(line['facts'])} | {verdict} |"
            )
        parts += ["", *(f"{n}. {bound}" for n, bound in enumerate(bounds, 1) if bound), ""]
    return "\n".join(parts).strip()


def _measured(line: Mapping) -> str:
    before = line.get("before")
    return (
        f"{line['ratio']:.2f} ({line['low']:.2f} to {line['high']:.2f}"
        + (f"; {before:.2f}" if before is not None else "")
        + ")"
    )


def _strength(facts: Mapping) -> str:
    """What the quicker side lost, if it could lose anything."""
    if "above_foolbox" in facts:
        return (
            f"{100 * facts['above_foolbox']:+.1f} points of {facts['images']} images against "
            f"Foolbox at the worst eps; {facts['eps_inside']} eps between 20 and 80 %"
        )
    if "misses" in facts:
        return f"{facts['misses']:g} of {facts['images']:g} optima missed"
    if "kit_robust_accuracy" in facts:
        ours, theirs = facts["kit_robust_accuracy"], facts["pyautoattack_robust_accuracy"]
        return f"robust accuracy {ours:.3f}, theirs {theirs:.3f}"
    return ""


def update(readme: Path, record: Mapping) -> None:
    """Put the tables between the markers of a page.

    Raises:
        RunError: without the markers, each once.
    """
    page = readme.read_text("utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise RunError(f"{readme} needs the line {BEGIN} and after it {END}, each once")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    readme.write_text(f"{head}{BEGIN}\n{markdown(record)}\n{END}{tail}", "utf-8")
