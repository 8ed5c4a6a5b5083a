"""The messages that the runtime's source holds: what a user of `pedsup-run` can come to read.

Found by reading the syntax trees, not by running: a new message is found on the day it is written.
A message is its text with `{}` for each value that is filled in.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PARTS = ("found", "wanted", "remedy")
"""Parts of an error that are sentences; `where` is a name."""
SAYERS = frozenset({"say", "byte_bar"})
"""Functions whose argument is said to the user."""
VALUE = "{}"


class Message(NamedTuple):
    """One text in the source."""

    template: str
    place: str
    """File and line."""


def messages(package: Path, output: dict[str, set[str]]) -> list[Message]:
    """Every error, line of progress and help text of a package, and the words in their values.

    Args:
        output: by file the functions whose every text is shown.
    """
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(package.rglob("*.py"))}
    constants = {n: v for tree in trees.values() for n, v in _constants(tree)}
    makers = {name for tree in trees.values() for name in _makers(tree)}
    found = []
    for path, tree in trees.items():
        name = str(path.relative_to(package))
        shown = [n for n in ast.walk(tree) if getattr(n, "name", None) in output.get(name, ())]
        said = [e for node in ast.walk(tree) for e in _spoken(node, makers)]
        said += [e for function in shown for e in _texts(function)]
        for expression in said:
            place = f"{name}:{expression.lineno}"
            for whole in (expression, *_values(expression)):
                own = [constants.get(n.id, n) for n in (whole,) if isinstance(n, ast.Name)]
                texts = [text for e in own or [whole] for text in variants(e)]
                found += [Message(text, place) for text in texts if _is_said(text)]
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Texts that a module gives a name."""
    for node in tree.body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant | ast.JoinedStr):
            yield target.id, value


def _texts(function: ast.AST) -> Iterator[ast.expr]:
    """The outermost texts of a function, its docstring left out."""
    todo = [n for n in ast.iter_child_nodes(function) if not _is_docstring(n)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            yield node
        elif not isinstance(node, ast.arguments):
            todo += [n for n in ast.iter_child_nodes(node) if not _is_docstring(n)]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _values(expression: ast.expr) -> Iterator[ast.expr]:
    """What is filled into a text, where that is a choice between texts."""
    for node in ast.walk(expression):
        if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.IfExp | ast.BoolOp):
            yield node.value


def variants(node: ast.expr) -> list[str]:
    """The texts that an expression can give."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            joined = [""]
            for part in parts:
                ends = variants(part) if isinstance(part, ast.Constant) else [VALUE]
                joined = [begin + end for begin in joined for end in ends]
            return joined
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [begin + end for begin in variants(left) for end in variants(right)]
        case ast.IfExp(body=body, orelse=orelse):
            return [*variants(body), *variants(orelse)]
        case ast.BoolOp(values=values) | ast.List(elts=values):
            return [text for value in values for text in variants(value)]
        case _:
            return [VALUE]


def _makers(tree: ast.Module) -> set[str]:
    """Functions that give errors, and so take parts of them."""
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.returns, ast.Name)
        and (node.returns.id.endswith("Error") or node.returns.id == "NoReturn")
    }


def _spoken(node: ast.AST, makers: set[str]) -> Iterator[ast.expr]:
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in SAYERS or name in makers or (name.endswith("Error") and name != "ApiError"):
        yield from node.args
    yield from (k.value for k in node.keywords if k.arg in (*PARTS, "help"))


def _is_said(template: str) -> bool:
    return re.search(r"[a-z]{2}", template.replace(VALUE, "")) is not None
