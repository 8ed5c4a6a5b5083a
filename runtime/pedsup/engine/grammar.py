"""Checks of what the user wants the answer to look like: a GBNF grammar or a JSON schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pedsup.engine.llama_cpp.bindings import import_submodule
from pedsup.errors import BadFileError, MissingFileError, UsageError
from pedsup.files.json_file import read_bounded, tables
from pedsup.messages import message, reason_of

MAX_BYTES: Final = 1 << 20
_CHOICES: Final = ("enum", "anyOf", "oneOf", "allOf", "type")
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions")
_VALUES: Final = ("const", "default", "examples", "enum")


def read_grammar(path: Path) -> str:
    """The text of a GBNF file with a rule named `root`."""
    text = _read(path)
    if "root" not in text or "::=" not in text:
        raise BadFileError("not a GBNF grammar", where=path, wanted="a rule 'root ::= ...'")
    return text


def read_json_schema(path: Path) -> str:
    """The text of a JSON schema file, checked with `check_json_schema`."""
    return check_json_schema(_read(path), where=path)


def check_json_schema(text: str, *, where: object = "--json-schema") -> str:
    """Return `text` if it is a JSON schema that needs nothing from outside.

    Raises:
        UsageError: it is not JSON, no schema, has a choice among nothing, or refers to a schema on
            the network.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            message("the JSON schema is not JSON: {reason}", reason=reason_of(error)), where=where
        ) from error
    if not isinstance(schema, dict):
        raise UsageError("the JSON schema is not an object", where=where, wanted='{"type": ...}')
    if empty := _empty_choice(schema):
        raise UsageError(
            message("'{key}' in the JSON schema is empty: no answer could match it", key=empty),
            where=where,
            wanted="at least one value to choose from",
        )
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise UsageError(
                message("the JSON schema refers to {name}", name=repr(reference)),
                where=where,
                wanted="references inside the schema ('#/$defs/...'): nothing is downloaded here",
            )
    return text


def to_gbnf(schema: str) -> str:
    """A JSON schema as GBNF, by llama-cpp-python's converter.

    Raises:
        UsageError: the schema uses something that the converter does not know.
    """
    converter = import_submodule("llama_grammar").SchemaConverter(
        prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False
    )
    try:
        document = json.loads(check_json_schema(schema))
        document = converter.resolve_refs(document, "stdin")
        converter.visit(document, "")
        return str(converter.format_grammar())
    except UsageError:
        raise
    except Exception as error:  # the converter raises whatever its author's code ran into
        raise UsageError(
            message(
                "the JSON schema cannot be turned into a grammar: {reason}", reason=reason_of(error)
            ),
            remedy="use types, properties, required, enum, items and $defs; or give --grammar",
        ) from error


def _read(path: Path) -> str:
    if not path.exists():
        raise MissingFileError("no such file", where=path, remedy="check the path")
    try:
        return read_bounded(path, "the file", MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFileError("the file is not UTF-8 text", where=path) from error


def _empty_choice(schema: object) -> str | None:
    """The first choice among nothing; llama.cpp prints the whole grammar of such a schema."""
    todo = [schema]
    while todo:
        at = todo.pop()
        if isinstance(at, dict):
            # The keys of `properties` and the like are names, and their values are not schemas.
            named = [at[key] for key in _NAMED if isinstance(at.get(key), dict)]
            todo += [value for names in named for value in names.values()]
            todo += [v for key, v in at.items() if key not in (*_NAMED, *_VALUES)]
            for key in _CHOICES:
                if at.get(key) == []:
                    return key
        elif isinstance(at, list):
            todo += at
    return None


def _references(schema: object) -> list[str]:
    found = (table.get("$ref") for table in tables(schema))
    return [reference for reference in found if isinstance(reference, str)]
