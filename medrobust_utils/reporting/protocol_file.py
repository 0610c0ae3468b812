"""Reads a protocol file: the checks that catch a typing error, and the short forms it may use.

``tables`` become one claim per cell; an ``each`` entry becomes one claim per combination.
"""

import difflib
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import yaml

from ..core.errors import ProtocolError

_FILE_KEYS = {"paper", "profiles", "tables", "claims", "lacking", "notes", "headlines", "anchors"}
_CLAIM_PARTS = {"id", "text", "where", "select", "requires", "doubts", "command", "needs"}
_TABLE_KEYS = _CLAIM_PARTS | {"columns", "rows"}
_COLUMN_KEYS = {"id", "metric", "tolerance", "doubts"}
_ROW_KEYS = {"id", "select", "requires", "values", "doubts"}
_CLAIM_KEYS = _CLAIM_PARTS | {"metric", "expect", "robust"}
_OPTIONAL = {"select", "requires", "doubts", "needs", "robust"}
_EXPECT_FORMS = ({"value", "tolerance"}, {"above"}, {"below"})


def parse(text: str, file: str) -> dict[str, Any]:
    """The checked content of a protocol file, its tables and ``each`` entries expanded.

    Returns the keys ``paper``, ``profiles``, ``claims`` (a list of the arguments of `Claim`) and
    ``notes``. Every fault raises ProtocolError with the file and the key.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ProtocolError(f"{file} is not valid YAML: {error}") from None
    _keys(content, {"paper", "profiles"}, _FILE_KEYS, file)
    _keys(content["paper"], {"title", "citation"}, {"title", "citation"}, f"{file}: paper")
    _keys(content["profiles"], set(), None, f"{file}: profiles")
    for name, values in content["profiles"].items():
        _keys(values, set(), None, f"{file}: profiles.{name}")
        _no_text_numbers(values, f"{file}: profiles.{name}")
    for key in ("tables", "claims", "notes"):
        if not isinstance(content.get(key) or [], list):
            raise ProtocolError(f"{file}: {key} must be a list, not {content[key]!r}")
    claims = [cell for table in content.get("tables") or [] for cell in _cells(table, file)]
    claims += [one for entry in content.get("claims") or [] for one in _each(entry, file)]
    lacking = content.get("lacking", {})
    _keys(lacking, set(), None, f"{file}: lacking")
    claims = [_claim(entry, lacking, file) for entry in claims]
    for name, times in Counter(claim["id"] for claim in claims).items():
        if times > 1:
            raise ProtocolError(f"{file}: the claim id {name!r} is used twice")
    kept = {
        key: content[key] for key in content.keys() - {"headlines", "anchors"}
    }  # read elsewhere
    return {**kept, "claims": claims, "notes": content.get("notes") or []}


def _cells(table: dict, file: str) -> Iterator[dict]:
    """One claim per cell of a printed table; a null cell is a dash in the paper."""
    place = f"{file}: table {table.get('id', '?') if isinstance(table, dict) else '?'}"
    _keys(table, {"id", "text", "where", "columns", "rows", "command"}, _TABLE_KEYS, place)
    for part in ("columns", "rows"):
        _keys(table[part], set(), None, f"{place}: {part}")
    columns = table["columns"]
    for title, column in columns.items():
        _keys(column, {"id", "metric", "tolerance"}, _COLUMN_KEYS, f"{place}: columns.{title}")
    for row_title, row in table["rows"].items():
        _keys(row, {"id", "values"}, _ROW_KEYS, f"{place}: rows.{row_title}")
        if not isinstance(row["values"], list) or len(row["values"]) != len(columns):
            raise ProtocolError(
                f"{place}: rows.{row_title}.values must be a list of {len(columns)}, one value "
                f"for each column, not {row['values']!r}"
            )
        for (title, column), value in zip(columns.items(), row["values"], strict=True):
            if value is None:
                continue
            yield {
                "id": f"{table['id']}-{row['id']}-{column['id']}",
                "text": _fill(table["text"], {"row": row_title, "column": title}),
                "where": table["where"],
                "metric": column["metric"],
                "select": {**table.get("select", {}), **row.get("select", {})},
                "requires": {**table.get("requires", {}), **row.get("requires", {})},
                "expect": {"value": value, "tolerance": column["tolerance"]},
                "doubts": sum((_texts(part, place) for part in (table, row, column)), []),
                "command": table["command"],
                "needs": table.get("needs", ""),
            }


def _each(entry: dict, file: str) -> Iterator[dict]:
    """Expand ``each: {role: [nih, isic], ...}`` into one claim per combination.

    In the other values ``{role}`` stands for the item and ``{ROLE}`` for its capitals.
    """
    place = f"{file}: claim {entry.get('id', '?') if isinstance(entry, dict) else '?'}"
    _keys(entry, {"id"}, _CLAIM_KEYS | {"each"}, place)
    each = entry.get("each", {})
    _keys(each, set(), None, f"{place}: each")
    rest = {key: value for key, value in entry.items() if key != "each"}
    for items in itertools.product(*each.values()):
        names = dict(zip(each, items, strict=True))
        try:
            yield _fill(rest, names)
        except (KeyError, IndexError, ValueError) as error:
            raise ProtocolError(f"{place}: cannot fill the braces: {error!r}") from None


def _fill(value: Any, names: dict[str, Any]) -> Any:
    """Put names into braces; a string that is nothing but ``{name}`` keeps the item's type."""
    if isinstance(value, dict):
        return {key: _fill(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, names) for inner in value]
    if not isinstance(value, str) or not names:
        return value
    if value[:1] == "{" and value[-1:] == "}" and value[1:-1] in names:
        return names[value[1:-1]]
    return value.format(**names, **{key.upper(): str(item).upper() for key, item in names.items()})


def _claim(entry: dict, lacking: dict[str, str], file: str) -> dict:
    """Check one claim after expansion; ``lacking`` says what its data set still needs."""
    place = f"{file}: claim {entry['id']}"
    _keys(entry, _CLAIM_KEYS - _OPTIONAL, _CLAIM_KEYS, place)
    expect = entry["expect"]
    _keys(expect, set(), {"value", "tolerance", "above", "below"}, f"{place}: expect")
    if set(expect) not in _EXPECT_FORMS:
        raise ProtocolError(
            f"{place}: expect must be exactly one of value with tolerance, above, below; "
            f"it has {', '.join(expect) or 'nothing'}"
        )
    for key, number in expect.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ProtocolError(f"{place}: expect.{key} must be a number, not {number!r}")
    if expect.get("tolerance", 0) < 0:
        raise ProtocolError(f"{place}: expect.tolerance must not be negative")
    if not isinstance(entry.get("robust", False), bool):
        raise ProtocolError(f"{place}: robust must be true or false, not {entry['robust']!r}")
    for key in ("select", "requires"):
        _keys(entry.get(key, {}), set(), None, f"{place}: {key}")
        for tag, item in entry.get(key, {}).items():
            if not isinstance(item, str | int | float | bool):
                raise ProtocolError(f"{place}: {key}.{tag} must be a single value, not {item!r}")
    missing = lacking.get(entry.get("requires", {}).get("dataset"))
    needs = " and ".join(filter(None, (entry.get("needs"), missing)))
    return {**entry, "doubts": tuple(_texts(entry, place)), "needs": needs}


def _texts(part: dict, place: str) -> list[str]:
    """The doubts of a part; a lone string would otherwise be taken letter by letter."""
    doubts = part.get("doubts", [])
    if not isinstance(doubts, list) or not all(isinstance(doubt, str) for doubt in doubts):
        raise ProtocolError(f"{place}: doubts must be a list of texts, not {doubts!r}")
    return doubts


def _keys(value: Any, needed: set[str], allowed: set[str] | None, place: str) -> None:
    """Refuse what is not a mapping, lacks a needed key or has a key that is not allowed."""
    if not isinstance(value, dict):
        raise ProtocolError(f"{place} must be a mapping of names to values, not {value!r}")
    for key in sorted(needed - set(value)):
        raise ProtocolError(f"{place}: the key {key!r} is missing")
    for key in value:
        if allowed is not None and key not in allowed:
            raise ProtocolError(f"{place}: unknown key {key!r}{suggest(key, allowed)}")


def _no_text_numbers(values: dict, place: str) -> None:
    """YAML 1.1 reads ``1e-4`` as text; better refused here than multiplied by a string later."""
    for key, value in values.items():
        if isinstance(value, dict):
            _no_text_numbers(value, f"{place}.{key}")
        elif isinstance(value, str) and isinstance(number(value), float):
            raise ProtocolError(f"{place}.{key}: YAML reads {value} as text; write it as 1.0e-4")


def number(text: str) -> float | str:
    """``text`` as a float where it is one (``1e-4`` too, which YAML reads as text)."""
    try:
        return float(text)
    except ValueError:
        return text


def suggest(name: Any, known: Any) -> str:
    """`` - did you mean 'x'?`` when something known is close, else the list of what is known."""
    close = difflib.get_close_matches(str(name), [str(item) for item in known], n=1)
    if close:
        return f" - did you mean {close[0]!r}?"
    return f"; there are {', '.join(sorted(map(str, known)))}" if known else ""
