"""``results/bench.json``: what was measured on which machine, and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from medrobust_utils import env
from medrobust_utils.errors import RunError
from medrobust_utils.storage import write_atomic

from .timing import Comparison

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def machine() -> str:
    """What tells machines apart: the device and, of a CPU, its widest instructions."""
    device = env.provenance()["device"]
    if env.pick_device().type != "cpu":
        return device
    return f"{device}, {torch.backends.cpu.get_cpu_capability()}"


def add(path: Path, module: str, found: Sequence[Comparison], before: Mapping) -> None:
    """Put what a module found on this machine in the place of what it found here before.

    Another machine's lines stay.

    Args:
        before: the record as it was; each comparison keeps the ratio it had there, so that
            whoever measures twice in a row sees both.

    Raises:
        RunError: for a promise that was not kept and gives no reason.
    """
    record, here = read(path), machine()
    lines = [c.record() | {"before": _ratio(before, here, module, c)} for c in found]
    for line in lines:
        if not (line["reached"] or line["bound"]):
            raise RunError(f"{line['name']}: the promise is not kept, and nothing says why.")
    modules = record.setdefault(here, {})
    modules[module] = {"provenance": env.provenance(), "comparisons": lines}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


def _ratio(before: Mapping, here: str, module: str, new: Comparison) -> float | None:
    """What the same sides had before."""
    for line in before.get(here, {}).get(module, {}).get("comparisons", []):
        if all(line[key] == getattr(new, key) for key in ("name", "base", "other")):
            return line["ratio"]
    return None


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
        lines = [line for found in modules.values() for line in found["comparisons"]]
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
    """How strong a sweep is; a bound where Foolbox met some images only where it leaves them."""
    pairs = zip(facts["foolbox_at_least"], facts["foolbox_at_most"], strict=True)
    spans = [sorted({f"{100 * low:.0f}", f"{100 * high:.0f}"}, key=float) for low, high in pairs]
    exact = facts["foolbox_at_least"] == facts["foolbox_at_most"]
    return (
        f"{'' if exact else 'at most '}{100 * facts['above_foolbox']:+.1f} points against Foolbox "
        f"at the worst eps, {facts['images']} images (Foolbox leaves "
        f"{'/'.join('-'.join(span) for span in spans)} %); "
        f"{facts['gradients_an_image']:.0f} gradients an image"
    )


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
