"""Checks of a JSON request's fields: nothing unknown, nothing skipped silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pedsup.serve.faults import ApiError, Document, bad_value, unsupported

_MISSING: Final = object()


class Fields:
    """The fields of one object, taken one by one; what is left at the end was not known.

    Absent and null mean the same, as in OpenAI's protocol.
    """

    def __init__(self, document: Mapping[str, object], where: str = "") -> None:
        self._left = dict(document)
        self._where = where

    def name(self, field: str) -> str:
        return f"{self._where}.{field}" if self._where else field

    def take(self, field: str, default: Any = None) -> Any:
        """The field as it is, or the default."""
        value = self._left.pop(field, None)
        return default if value is None else value

    def text(self, field: str, *, longest: int = 256) -> str | None:
        value = self.take(field)
        if value is not None and not (isinstance(value, str) and len(value) <= longest):
            raise self._bad(field, f"a text of at most {longest} characters")
        return value

    def flag(self, field: str, default: bool = False) -> bool:
        value = self.take(field, default)
        if not isinstance(value, bool):
            raise self._bad(field, "true or false")
        return value

    def whole(self, field: str, low: int, high: int) -> int | None:
        """A whole number in a range."""
        value = self.take(field)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON knows one kind of number
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        if value is not None and not good:
            raise self._bad(field, f"a whole number from {low} to {high}")
        return None if value is None else int(value)

    def whole_or_none(self, field: str, low: int, high: int) -> int | None:
        """A whole number in a range; -1, as other servers take it, asks for no value."""
        if self._left.get(field) == -1:
            del self._left[field]
        return self.whole(field, low, high)

    def number(self, field: str, low: float, high: float, *, above: bool = False) -> float | None:
        """A number in a range, which does not hold its lower end with `above`."""
        value = self.take(field)
        good = isinstance(value, int | float) and not isinstance(value, bool)
        good = good and low <= value <= high and not (above and value == low)
        if value is not None and not good:
            raise self._bad(field, f"a number {'above' if above else 'from'} {low:g} to {high:g}")
        return None if value is None else float(value)

    def choice(self, field: str, *choices: str) -> str | None:
        value = self.take(field)
        if value is not None and value not in choices:
            raise self._bad(field, f"one of: {', '.join(choices)}")
        return str(value) if value is not None else None

    def mapping(self, field: str) -> Document | None:
        value = self.take(field)
        if value is not None and not isinstance(value, dict):
            raise self._bad(field, "an object")
        return value

    def only(self, field: str, *allowed: object) -> None:
        """A field that this server has one behaviour for: any other value is refused."""
        value = self.take(field, _MISSING)
        if value is _MISSING or any(_same(value, one) for one in allowed):
            return
        raise unsupported(self.name(field), f"'{self.name(field)}' is not supported here")

    def only_text(self, field: str) -> str:
        """The field when it is the only one."""
        value = self.text(field) or ""
        self.end()
        return value

    def end(self) -> None:
        """No field may be left."""
        for field in self._left:
            name = self.name(field)
            raise ApiError(400, f"unknown field '{name}'", "unknown_parameter", param=name)

    def _bad(self, field: str, wanted: str) -> ApiError:
        name = self.name(field)
        return bad_value(name, f"'{name}' must be {wanted}")


def _same(value: object, other: object) -> bool:
    """Equal as JSON has it: 0 is 0.0, but not false."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other
