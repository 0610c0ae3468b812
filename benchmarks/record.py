"""``results/bench.json``: what was measured on which machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from medrobust_utils.core import env
from medrobust_utils.core.storage import write_atomic

from .timing import Comparison


def machine() -> str:
    """What tells machines apart: the device and, of a CPU, its widest instructions."""
    device = env.provenance()["device"]
    if env.pick_device().type != "cpu":
        return device
    return f"{device}, {torch.backends.cpu.get_cpu_capability()}"


def add(path: Path, module: str, found: Comparison) -> None:
    """Put what was measured on this machine in the place of what was measured here before.

    The comparison keeps the ratio ``before`` it, so that whoever measures twice sees both.
    """
    record, peers = read(path), {}
    with suppress(PackageNotFoundError):  # the kit's own provenance does not name it
        peers = {"torchattacks": version("torchattacks")}
    line = found.record() | {"before": None, "provenance": env.provenance() | {"peers": peers}}
    lines = record.setdefault(machine(), {}).setdefault(module, [])
    for place, old in enumerate(lines):
        if _sides(old) == _sides(line):
            lines[place] = line | {"before": old["ratio"]}
            break
    else:
        lines.append(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


def _sides(line: Mapping) -> tuple[str, ...]:
    """What tells a comparison from another of its module."""
    return line["name"], line["base"], line["other"]


def read(path: Path) -> dict:
    """Machine -> module -> lines; empty without the file.

    A line is a ``Comparison.record`` with the ratio ``before`` it, if any, and its ``provenance``.
    """
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def text(lines: Sequence[Mapping]) -> str:
    """For a terminal: seconds of both sides, ratio with its range, promise, verdict, facts."""
    rows = [f"{'seconds':>17} {'ratio':>7} {'[range]':>16} promise"]
    for c in lines:
        span = f"[{c['low']:.2f}, {c['high']:.2f}]"
        most, least = c["at_most"], c["at_least"]
        promise = f"≥ {least:g}" if least is not None else f"≤ {most:.3g}"
        rows.append(
            f"{c['base_seconds']:8.3f} {c['other_seconds']:8.3f} {c['ratio']:7.2f} "
            f"{span:>16} {promise:>7} "
            f"{'reached' if c['reached'] else 'MISSED '}  {c['name']}: {c['base']} -> {c['other']}"
        )
        facts = ", ".join(f"{name} {_fact(value)}" for name, value in c["facts"].items())
        rows += [" " * 18 + facts] if facts else []
    return "\n".join(rows)


def _fact(value: float | str | list) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "/".join(_fact(one) for one in value)
    return f"{value:.4g}"
