"""How the kit's YAML files are checked: exact types, and every mistake named with its place."""

import difflib
import math
import re
import reprlib
from collections.abc import Iterable
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .errors import ProtocolError

_MAPPING = "must be a mapping of names to values"
_WORDS = {
    "missing": "the key is missing",
    "unexpected_keyword_argument": "unknown key",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type", "dataclass_type"), _MAPPING),
}


def _tag(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise ValueError("must be a single value: text, a number, true or false")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("must be a number")
    return value


Tag = Annotated[Any, AfterValidator(_tag)]
Number = Annotated[Any, AfterValidator(_number)]  # an integer stays one
NonNegative = Annotated[Number, Field(ge=0)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]  # YAML has lists for tuples


class Strict(BaseModel):
    """A part of a file: exact types, no unknown key; a key without a value counts as not given."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        for key in content:  # before pydantic does, to say which key may be meant
            if key not in cls.model_fields:
                raise fault(f"unknown key{suggest(key, cls.model_fields)}", key, key)
        return {key: value for key, value in content.items() if value is not None}


def fault(message: str, value: Any, *place: Any) -> ValidationError:
    """To raise in a validator: ``value`` is wrong, at ``place`` below the part being checked."""
    loc = tuple(part if type(part) is int else str(part) for part in place)
    kind = PydanticCustomError("fault", "{words}", {"words": message})
    return ValidationError.from_exception_data("", [{"type": kind, "loc": loc, "input": value}])


def checked(model: type[Any], file: str, text: str, **more: Any) -> Any:
    """The YAML ``text`` of ``file`` as ``model``, with ``more`` beside what it says.

    Raises:
        ProtocolError: a line for each mistake, with its line and place in the file.
    """
    try:
        content = read_yaml(text)
        content = content | more if isinstance(content, dict) else content
        return TypeAdapter(model).validate_python(content)
    except ValidationError as error:
        found = error.errors(include_url=False)
    except ValueError as error:
        raise ProtocolError(f"{file} is not valid YAML: {error}") from None
    raise ProtocolError("\n".join(_words(file, text, one) for one in found))


def read_yaml(text: str) -> Any:
    """What the YAML ``text`` says, ``1e-4`` a number; ValueError where it is none."""
    loader = _Loader(text)  # plain values only: it builds no objects
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(error) from None
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    pass


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")  # YAML 1.1 reads 1e-4 as text
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _words(file: str, text: str, found: dict[str, Any]) -> str:
    """One mistake that pydantic found, in the kit's words."""
    place = "".join(f"[{p}]" if type(p) is int else f".{p}" for p in found["loc"]).lstrip(".")
    words = found["msg"].removeprefix("Value error, ")
    words = _WORDS.get(found["type"]) or re.sub(r"^\w+ should\b", "must", words)
    if words.startswith("must"):
        words += f", not {reprlib.repr(found['input'])}"
    where = f"{file}, line {_line(text, found['loc'])}"
    return ": ".join(filter(None, (where, place, words)))


def _line(text: str, place: tuple) -> int:
    """The line where the innermost part of ``place`` that the YAML ``text`` has begins."""
    node, line = yaml.compose(text), 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pairs = [pair for pair in node.value if pair[0].value == str(part)]
        else:
            pairs = [(item, item) for item in node.value[part : part + 1]]
        if not pairs:
            break
        line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
    return line


def suggest(name: Any, known: Iterable) -> str:
    """`` - did you mean 'x'?`` when something known is close, else the list of what is known."""
    words = sorted(map(str, known))
    if close := difflib.get_close_matches(str(name), words, n=1):
        return f" - did you mean {close[0]!r}?"
    return f"; there are {', '.join(words)}" if words else ""
