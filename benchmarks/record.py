"""``results/bench.json``: what was measured on which machine, and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from medrobust_utils.core import env
from medrobust_utils.core.errors import RunError
from medrobust_utils.core.storage import write_atomic

from .timing import Comparison

PEERS = ("torchattacks", "pyautoattack")  # that the kit's own provenance does not name
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def machine() -> str:
    """What tells machines apart: the device and, of a CPU, its widest instructions."""
    device = env.provenance()["device"]
    if env.pick_device().type != "cpu":
        return device
    return f"{device}, {torch.backends.cpu.get_cpu_capability()}"


def check(found: Comparison) -> None:
    """Raise RunError for a promise that was not kept and gives no reason."""
    if not (found.reached or found.bound):
        raise RunError(f"{found.name}: the promise is not kept, and nothing says why.")


def add(path: Path, module: str, found: Comparison, before: Mapping) -> dict:
    """Put what was found on this machine in the place of what was found here before.

    Args:
        before: the record as it was; the comparison keeps the ratio it had there, so that whoever
            measures twice in a row sees both.

    Returns:
        The record as it is now.
    """
    record, here = read(path), machine()
    line = found.record()
    old = [one["ratio"] for one in _lines(before, here, module) if _sides(one) == _sides(line)]
    line |= {"before": old[0] if old else None, "provenance": env.provenance() | _peers()}
    lines = _lines(record, here, module)
    if old_here := [one for one in lines if _sides(one) == _sides(line)]:
        lines[lines.index(old_here[0])] = line
    else:
        lines.append(line)
    return _write(path, record | {here: record.get(here, {}) | {module: lines}})


def finish(path: Path, module: str, found: Sequence[Comparison]) -> dict:
    """Drop what a module measured here before and does not measure any more.

    Returns:
        The record as it is now.
    """
    record, here = read(path), machine()
    sides = [_sides(comparison.record()) for comparison in found]
    lines = [line for line in _lines(record, here, module) if _sides(line) in sides]
    return _write(path, record | {here: record.get(here, {}) | {module: lines}})


def _write(path: Path, record: dict) -> dict:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())
    return record


def _lines(record: Mapping, where: str, module: str) -> list[dict]:
    return list(record.get(where, {}).get(module, []))


def _sides(line: Mapping) -> tuple[str, ...]:
    """What tells a comparison from another of its module."""
    return line["name"], line["base"], line["other"]


def _peers() -> dict:
    found = {}
    for name in PEERS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return {"peers": found}


def read(path: Path) -> dict:
    """Machine -> module -> lines; empty without the file.

    A line is a ``Comparison.record`` with the ratio ``before`` it, if any, and its ``provenance``.

    Raises:
        RunError: if it is no such record.
    """
    try:
        record = json.loads(path.read_text("utf-8")) if path.exists() else {}
        markdown(record)
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
        notes = [", ".join(f"{k} {_fact(v)}" for k, v in c["facts"].items())]
        notes += [] if c["reached"] else [c["bound"]]
        rows += [" " * 18 + note for note in notes if note]
    return "\n".join(rows)


def _fact(value: float | str | list) -> str:
    if isinstance(value, str):
        return value
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
        lines = [line for found in modules.values() for line in found]
        parts += [
            f"Measured on {machine}:",
            "",
            "| what | beside | both took | must be | is (range; time before) | and | |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        bounds: list[str] = []
        for line in lines:
            verdict = "reached"
            if not line["reached"]:
                bounds += [line["bound"]] if line["bound"] not in bounds else []
                verdict = f"not reached ({bounds.index(line['bound']) + 1})"
            parts.append(
                f"| {line['other']}: {line['name']} | {line['base']} | {_took(line)} | "
                f"{promise(line)} | {_measured(line)} | {_besides(line['facts'])} | {verdict} |"
            )
        parts += ["", *(f"{n}. {bound}" for n, bound in enumerate(bounds, 1)), ""]
    return "\n".join(parts).strip()


def _took(line: Mapping) -> str:
    """Both sides' values, the other side's last."""
    base, other = (f"{line[side]:.3g}" for side in ("base_seconds", "other_seconds"))
    return f"{base}, {other} {line['unit']}"


def _measured(line: Mapping) -> str:
    ratio, low, high = (_number(line[key]) for key in ("ratio", "low", "high"))
    before = "" if line["before"] is None else f"; {_number(line['before'])}"
    return f"{ratio} ({low} to {high}{before})"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _besides(facts: Mapping) -> str:
    """What the quicker side lost, if it could lose anything, and what else was promised."""
    if "above_foolbox" in facts:
        return _against_foolbox(facts)
    if "misses" in facts:
        return f"{facts['misses']:g} of {facts['images']:g} optima missed"
    if "kit_robust_accuracy" in facts:
        ours, theirs = facts["kit_robust_accuracy"], facts["pyautoattack_robust_accuracy"]
        return f"robust accuracy {ours:.3f}, theirs {theirs:.3f}"
    return "; ".join(f"{name.replace('_', ' ')} {_fact(value)}" for name, value in facts.items())


def _against_foolbox(facts: Mapping) -> str:
    """How strong a sweep is; a bound where one side met only those images that tell."""
    known = {
        side: list(zip(facts[f"{side}_at_least"], facts[f"{side}_at_most"], strict=True))
        for side in ("mode", "foolbox")
    }
    exact = all(low == high for spans in known.values() for low, high in spans)
    return (
        f"{'' if exact else 'at most '}{100 * facts['above_foolbox']:+.1f} points against Foolbox "
        f"at the worst eps, {facts['images']} images (leaves {_spans(known['mode'])} %, Foolbox "
        f"{_spans(known['foolbox'])} %); "
        f"{facts['gradients_an_image']:.0f} {facts['gradients']} gradients an image"
    )


def _spans(known: Sequence[tuple[float, float]]) -> str:
    """Percent at each eps, from the least to the most it may be."""
    spans = [[f"{100 * low:.0f}", f"{100 * high:.0f}"] for low, high in known]
    return "/".join("-".join(dict.fromkeys(span)) for span in spans)


def update(readme: Path, record: Mapping) -> None:
    """Put the tables between the markers of a page.

    Raises:
        RunError: without the markers, each once.
    """
    page = readme.read_text("utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise RunError(f"{readme} needs the line {BEGIN} and after it {END}, each once")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    write_atomic(readme, f"{head}{BEGIN}\n{markdown(record)}\n{END}{tail}".encode())
