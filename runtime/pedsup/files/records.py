"""From parsed TOML or JSON to frozen dataclasses: one reader for every file that people write.

What a parser gives is `object` until it was read here. A record says in its annotations what a file
may hold: `int` is not `bool`, a `float` is finite and may be written as a whole number, `Literal`
is one of its words, `tuple[X, ...]` is a list, `Mapping[str, X]` a table of any keys, a dataclass a
table of its fields, as is a `TypedDict`, and `Annotated[X, Check(...)]` is narrower than its type.
A record whose `__post_init__` raises `ValueError` is refused with those words.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import (
    Annotated,
    Final,
    Literal,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pedsup.errors import PedsupError
from pedsup.files.checks import Check
from pedsup.files.source import Source, parse_toml, read_json
from pedsup.messages import Message, as_message, joined, message, reason_of

T = TypeVar("T")
MAX_SHOWN: Final = 60
"""How many characters of a wrong value an error shows."""
_WANTED: Final[dict[object, Message]] = {
    bool: message("true or false"),
    int: message("a whole number"),
    float: message("a number"),
    str: message("text in quotes"),
}


def toml_record(cls: type[T], data: bytes | str, source: Source) -> T:
    """A record from TOML; an error names the line. Raises as `parse_toml` and `record`."""
    return record(cls, *parse_toml(data, source))


def json_record(cls: type[T], path: Path, source: Source, limit: int) -> T:
    """A record from a JSON file of at most `limit` bytes. Raises as `read_json` and `record`."""
    return record(cls, read_json(path, source, limit), source)


def record(cls: type[T], value: object, source: Source, key: str = "") -> T:
    """A record from what a parser gave.

    Args:
        key: the value's place in its file; empty for the whole file.

    Raises:
        PedsupError: `source.error`; an unknown key, a missing one, or a value that its annotation
            does not allow. The message names the key, the value and what is wanted.
    """
    if not isinstance(value, Mapping):
        raise _wrong(cls, value, source, key)
    kind: type = cls
    hints, required = _fields(kind)
    prefix = f"{key}." if key else ""
    if source.only_known:
        _require_known(value, hints, source, prefix)
    given = {
        n: _read(hint, value[n], source, prefix + n) for n, hint in hints.items() if n in value
    }
    for name in required:
        if name not in given:
            full = prefix + name
            raise source.problem(
                message("'{key}' is missing", key=full), key=key, wanted=_wanted(hints[name])
            )
    try:
        return cls(**given)
    except ValueError as error:
        reason = reason_of(error)
        found = message("{key}: {reason}", key=key, reason=reason) if key else reason
        raise source.problem(found, key=key) from error


def unknown(name: str, known: Collection[str], source: Source, prefix: str = "") -> PedsupError:
    """The error for an unknown key, with the nearest known one."""
    from difflib import get_close_matches  # not for --version

    folded = {n.casefold(): n for n in sorted(known)}
    near = [prefix + folded[n] for n in get_close_matches(name.casefold(), folded, n=1)]
    every = ", ".join(prefix + n for n in sorted(known))
    full = prefix + name
    return source.problem(
        message("unknown key '{name}'", name=_shortened(full)),
        key=full,
        wanted=message("did you mean '{name}'?", name=near[0])
        if near
        else message("one of: {names}", names=every),
    )


def shown(value: object) -> str:
    """A value as the file spells it, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # a TOML date
        text = hex(value) if isinstance(value, int) else str(value)
    return _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


@cache
def _fields(cls: type) -> tuple[Mapping[str, object], tuple[str, ...]]:
    """The annotations of the fields that a file may give, and the names of those that it must."""
    hints = get_type_hints(cls, include_extras=True)
    if is_typeddict(cls):
        return hints, tuple(sorted(getattr(cls, "__required_keys__", ())))
    assert dataclasses.is_dataclass(cls)
    own = [field for field in dataclasses.fields(cls) if field.init]
    missing = dataclasses.MISSING
    needed = [f.name for f in own if f.default is missing and f.default_factory is missing]
    return {field.name: hints[field.name] for field in own}, tuple(needed)


def _is_record(hint: object) -> TypeGuard[type]:
    return isinstance(hint, type) and (dataclasses.is_dataclass(hint) or is_typeddict(hint))


def _require_known(
    value: Mapping[object, object], known: Collection[str], source: Source, prefix: str
) -> None:
    for name in value:
        if name not in known:
            raise unknown(str(name), known, source, prefix)


def _read(hint: object, value: object, source: Source, key: str) -> object:
    """`value` as the annotation says."""
    if get_origin(hint) is not Annotated:
        return _typed(hint, value, source, key)
    plain, *checks = get_args(hint)
    found = _read(plain, value, source, key)
    for check in checks:
        if isinstance(check, Check) and not check.holds(found):
            raise source.problem(_is(key, value), key=key, wanted=check.wanted)
    return found


def _typed(hint: object, value: object, source: Source, key: str) -> object:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is object:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (only,) = (argument for argument in arguments if argument is not type(None))
        return _read(only, value, source, key)
    if origin is Literal:
        # 1 for "1": a number that names a choice needs no quotes.
        word = str(value) if type(value) is int else value
        if word in arguments and isinstance(word, str):
            return word
    elif _is_record(hint):
        return record(hint, value, source, key)
    elif origin in (tuple, frozenset, list):
        if isinstance(value, list):
            return _sequence(origin, arguments, value, source, key)
    elif origin in (dict, Mapping):
        if isinstance(value, Mapping):
            return _table(arguments, value, source, key)
    elif hint is float:
        if (number := _finite(value)) is not None:
            return number
    elif type(value) is hint:
        return value
    elif hint is Path and isinstance(value, str):
        return Path(value)
    raise _wrong(hint, value, source, key)


def _sequence(
    kind: object, arguments: tuple[object, ...], value: list[object], source: Source, key: str
) -> object:
    """A list as a tuple or frozenset of one kind, or as a tuple of fixed length."""
    inner = arguments
    if kind is not tuple or arguments[-1] is Ellipsis:
        inner = (arguments[0],) * len(value)
    if len(inner) != len(value):
        raise source.problem(
            _is(key, value), key=key, wanted=message("a list of {number} values", number=len(inner))
        )
    pairs = enumerate(zip(inner, value, strict=True))
    items = [_read(hint, item, source, f"{key}[{i}]") for i, (hint, item) in pairs]
    if kind is list:
        return items
    return frozenset(items) if kind is frozenset else tuple(items)


def _table(
    arguments: tuple[object, ...], value: Mapping[object, object], source: Source, key: str
) -> dict[str, object]:
    """A table whose keys are any text, or the words of a `Literal`."""
    words, inner = arguments
    known = get_args(words) if get_origin(words) is Literal else None
    prefix = f"{key}." if key else ""
    if known is not None:
        _require_known(value, known, source, prefix)
    return {str(n): _read(inner, item, source, f"{prefix}{n}") for n, item in value.items()}


def _finite(value: object) -> float | None:
    """A number as float; None for anything else, NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of 400 digits
        return None
    return number if math.isfinite(number) else None


def _wrong(hint: object, value: object, source: Source, key: str) -> PedsupError:
    if key:
        return source.problem(_is(key, value), key=key, wanted=_wanted(hint))
    found = message("{what} holds {value}", what=as_message(source.what), value=shown(value))
    return source.problem(found, wanted=_wanted(hint))


def _is(key: str, value: object) -> Message:
    return message("{key} = {value}", key=_shortened(key), value=shown(value))


def _wanted(hint: object) -> Message:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        checks = [a.wanted for a in arguments[1:] if isinstance(a, Check)]
        return as_message(checks[0]) if checks else _wanted(arguments[0])
    if origin in (Union, types.UnionType):
        return joined(", ", [_wanted(a) for a in arguments if a is not type(None)])
    if origin is Literal:
        return message("one of: {names}", names=", ".join(map(str, arguments)))
    if origin in (tuple, frozenset, list):
        return message("a list")
    if _is_record(hint):
        return message("a table with {names}", names=", ".join(_fields(hint)[0]))
    return _WANTED.get(hint, message("a table"))
