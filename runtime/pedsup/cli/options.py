"""The options of `pedsup-run` that are settings, made from their declaration."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from pedsup.settings.schema import Settings, option_of

F = TypeVar("F", bound=Callable[..., object])
_METAVARS: dict[object, str] = {int: "N", float: "X", str: "TEXT"}


def setting_options(command: F) -> F:
    """Give a click command an option for each field of `Settings`; None where it is not given."""
    kinds = setting_kinds()
    for setting in reversed(fields(Settings)):
        command = _option(setting, kinds[setting.name])(command)
    return command


def setting_kinds() -> dict[str, object]:
    """By name what a value is: a `Literal`, `bool`, `int`, `float` or `str`."""
    hints = get_type_hints(Settings, include_extras=True)
    return {name: _kind(hint) for name, hint in hints.items()}


def flag_names(setting: Field[object]) -> tuple[str, ...]:
    """`--mmap` and `--no-mmap` for what is on, `--verify` for what is off, else `--ctx`."""
    name = f"--{setting.name.replace('_', '-')}"
    return (name, f"--no-{name[2:]}") if setting.default is True else (name,)


def metavar(setting: Field[object], kind: object) -> str:
    """What the value of an option is called; empty for a flag."""
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return option_of(setting).metavar or _METAVARS[kind]


def _kind(hint: object) -> object:
    """An annotation without None and without its checks."""
    if get_origin(hint) is Annotated:
        return _kind(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return next(_kind(part) for part in get_args(hint) if part is not type(None))
    return hint


def _option(setting: Field[object], kind: object) -> Callable[[F], F]:
    names, help_text = flag_names(setting), option_of(setting).help
    if kind is bool and len(names) == 2:
        return click.option("/".join(names), default=None, help=help_text)
    if kind is bool:
        return click.option(*names, is_flag=True, default=None, help=help_text)
    if get_origin(kind) is Literal:
        return click.option(*names, type=click.Choice(get_args(kind)), help=help_text)
    assert kind in (int, float, str) and isinstance(kind, type)
    return click.option(*names, type=kind, metavar=metavar(setting, kind), help=help_text)
