"""jinja2 for chat templates: no more than text operations, in the environment of transformers.

It is the environment of transformers' `apply_chat_template`, so that the prompt is too, less
what a template has no need of (CVE-2024-34359 is what happens else). It bounds what one
operation can make; time and memory of a template that nobody knows are bounded by
`pedsup.chat.templates.process`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT: Final = 1 << 22
"""Characters: several times what the largest context holds."""
MAX_REPEAT: Final = 1 << 16
# Text and list filters only. `center`, `indent`, `wordwrap`, `format` and the like can be told
# to make gigabytes from a short text; `map` and `select` call filters by name, from this list.
_FILTER_NAMES: Final = """
    trim upper lower title capitalize replace default d string safe escape e join length count
    list first last map select reject selectattr rejectattr dictsort items sort unique reverse
    int float abs min max sum round groupby
"""
FILTERS: Final = frozenset(_FILTER_NAMES.split())
ERRORS: Final = (Exception,)
"""What compiling or rendering may raise: whatever the template's author ran into. jinja2 makes
Python of it, so that SyntaxError and NameError are among them."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, with the operators that make long texts from short ones bounded."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: object, right: object
    ) -> Any:
        if operator == "**" or (operator == "%" and not isinstance(left, int)):
            raise SecurityError(f"the operator {operator} is not for templates")
        if operator == "*" and not (_small(left) and _small(right)):
            raise SecurityError("a product that is too large")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        # A format string reaches attributes by itself; jinja2 guards that, transformers'
        # templates have no use for it.
        unwanted = isinstance(obj, str) and attr in ("format", "format_map")
        return not unwanted and super().is_safe_attribute(obj, attr, value)


def compile_template(source: str) -> jinja2.Template:
    """A template for `render`. Raises an `Exception` of any kind for one that is not valid."""
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters = {k: f for k, f in environment.filters.items() if k in FILTERS}
    environment.filters["tojson"] = _tojson
    environment.globals = {
        "range": environment.globals["range"],
        "namespace": environment.globals["namespace"],
        "dict": dict,
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    return environment.from_string(source)


def render(template: jinja2.Template, variables: Mapping[str, object]) -> str:
    """The text that a template makes.

    Raises:
        Exception: it refuses the dialogue, or does what the sandbox forbids.
    """
    out, size = [], 0
    # Not `generate`: on an error that compiles code to mend the traceback.
    for chunk in template.root_render_func(template.new_context(dict(variables))):
        size += len(chunk)
        if size > MAX_OUTPUT:
            raise SecurityError("the output is too long")
        out.append(chunk)
    return "".join(out)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """As in transformers: no HTML escapes."""
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError("an indent that is too large")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    if len(form) > 100:
        raise SecurityError("a date format that is too long")
    return datetime.now().strftime(form)


def _small(value: object) -> bool:
    if isinstance(value, int | float):
        return abs(value) <= MAX_REPEAT
    return isinstance(value, str | list | tuple) and len(value) <= MAX_REPEAT
