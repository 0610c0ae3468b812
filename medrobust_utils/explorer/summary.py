"""The main numbers of one view as a table, for people who read numbers."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2

TABLE = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
    """<style>
.medrobust-numbers th, .medrobust-numbers td {
  text-align: left; font-weight: normal; line-height: 1.4;
  padding: 1px 18px 1px 0; border-bottom: 1px solid #ccc; }
</style>
<table class="medrobust-numbers" style="border-collapse: collapse">
<tr><td></td>{% for name in names %}<th scope="col"><b>{{ name }}</b></th>{% endfor %}</tr>
{% for title, values in rows %}
<tr><th scope="row">{{ title }}</th>{% for one in values %}<td>{{ one }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% for line in lines %}
<p style="line-height: 1.4; margin: 4px 0">{{ line }}</p>
{% endfor %}"""
)
UNKNOWN = "-"


def table(records: Sequence[dict]) -> str:
    """HTML of the records of one view, a column for each network; everything in it is escaped.

    Args:
        records: of the same image and choice; see ``record.write``.
    """
    columns = [_column(record) for record in records]
    rows = [(title, [column[title] for column in columns]) for title in columns[0]]
    kept = [row for row in rows if set(row[1]) != {UNKNOWN}]
    names = [record["network"] for record in records]
    return TABLE.render(names=names, rows=kept, lines=_lines(records))


def _column(record: dict) -> dict[str, str]:
    explained = record["explained"]
    likely = [record[f"probabilities_{side}"].get(explained) for side in ("before", "after")]
    pixels = "pixels_changed" in record  # of a segmentation
    said = " → ".join((record["answer_before"], record["answer_after"]))
    return {
        "class of most pixels" if pixels else "answer": said,
        "label": record["label"] or UNKNOWN,
        "class explained": explained,
        "share of the pixels" if pixels else "probability of it": _pair(*likely),
        "overlap with the label map (Dice)": _both(record, "dice"),
        "pixels with another class": _number(record.get("pixels_changed")),
        "largest change of a pixel": f"{record['largest_change_255']:.3g} / 255",
        "maps alike: correlation": _number(record["correlation"]),
        "maps alike: structure (SSIM)": _number(record["similarity"]),
        "maps alike: brightest places": _number(record["top_overlap"]),
        "mask covers": _number(record["mask_share"]),
        "share of the map on the mask": _both(record, "inside"),
        "brightest place on the mask (1: yes)": _both(record, "pointing"),
        "layer": record["layer"],
    }


def _lines(records: Sequence[dict]) -> list[str]:
    """What must not be overlooked, each said once."""
    lines = []
    if records[0]["synthetic"]:
        own = records[0]["label"] is None  # brought along by somebody
        kind = "The networks know phantoms only" if own else "The image is a phantom"
        lines.append(f"{kind}: drawn by a program.")
    said = [_notes(record) for record in records]
    for record, notes in zip(records, said, strict=True):
        for note in notes:
            alike = all(note in others for others in said)
            lines.append(note if alike else f"{record['network']}: {note}")
    lines += [text for record in records for text in record["warnings"]]
    return [_sentence(line) for line in dict.fromkeys(lines)]


def _notes(record: dict) -> list[str]:
    missing = [(side, record[f"no_map_{side}"]) for side in ("before", "after")]
    return [*record["notes"], *(f"no map {side}: {why}" for side, why in missing if why)]


def _sentence(line: str) -> str:
    line = line[:1].upper() + line[1:]
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _both(record: dict, name: str) -> str:
    return _pair(record.get(f"{name}_before"), record.get(f"{name}_after"))


def _pair(before: float | None, after: float | None) -> str:
    if before is None and after is None:
        return UNKNOWN
    return f"{_number(before)} → {_number(after)}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
