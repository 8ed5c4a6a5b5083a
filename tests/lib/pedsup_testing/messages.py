"""The messages that the runtime's source holds: what a user of `pedsup-run` can come to read.

Found by reading the syntax trees, not by running: a new message is found on the day it is written.
A message is made by `message("literal {value}", value=...)`; where an error, a note or help takes a
text, a literal is a message too.
"""

from __future__ import annotations

import ast
import inspect
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

PARTS: Final = frozenset({"found", "wanted", "remedy", "help"})
"""Keyword arguments that are sentences; `where` is a name."""
DOCUMENTATION: Final = frozenset({"meaning"})
"""Keyword arguments for the pages in docs/, which are in English."""
SAYERS: Final = {
    "say": 0, "byte_bar": 1, "translated": 0, "as_message": 0, "read_bounded": 1,
    "read_json_object": 1, "ApiError": 1, "Source": 0,
}  # fmt: skip
"""Functions that say one of their arguments to the user: its place."""
INTERNAL: Final = frozenset({"AssertionError", "ExtraBuffers", "NotImplementedError", "TypeError"})
"""Calls whose text users of pedsup-run do not read."""
SENTENCE: Final = re.compile(
    r"\b(?:the|of|and|is|are|was|were|not|with|for|from|this|that|which|by|to|it|its|be|has|have|"
    r"what|does|can|cannot|give|at most|than|only|there)\b .*?[a-z]{2}",
    re.IGNORECASE,
)
"""Marks of an English sentence; it takes one of these words and another behind it."""


class Said(NamedTuple):
    """One text in the source that is said to the user."""

    msgid: str
    place: str
    """File and line."""
    needed: bool
    """Whether it must be in the catalogue: not a name, an option, or values only."""


class Found(NamedTuple):
    """What reading a package gives."""

    said: list[Said]
    faults: list[str]
    """Where the source goes round the catalogue: place and what is wrong."""


def messages(package: Path, *, left_out: tuple[str, ...] = ()) -> Found:
    """Every message of a package, and every text that should be one.

    Args:
        left_out: beginnings of paths whose texts are not for users of pedsup-run.
    """
    trees = {
        str(path.relative_to(package)): ast.parse(path.read_text("utf-8"))
        for path in sorted(package.rglob("*.py"))
    }
    makers = {name for tree in trees.values() for name in _makers(tree)}
    codes = {code for tree in trees.values() for code in _codes(tree)}
    found = Found([], [])
    for file, tree in trees.items():
        if not file.startswith(left_out):
            _Reader(file, makers, codes, found).visit(tree)
    return found


def placeholders(msgid: str) -> set[str]:
    """The names of the values in a text."""
    return {name for _, name, _, _ in string.Formatter().parse(msgid) if name is not None}


def is_words(text: str) -> bool:
    """Whether a text holds words to translate: not only names, options and values."""
    body = re.sub(r"\{[^}]*\}", "", text).strip()
    code = " " not in body or body.startswith(("--", "pedsup-run", "/"))
    return re.search(r"[a-z]{2}", body) is not None and not code


class _Reader(ast.NodeVisitor):
    def __init__(self, file: str, makers: set[str], codes: set[str], found: Found) -> None:
        self._file, self._makers, self._codes, self._found = file, makers, codes, found
        self._read: set[int] = set()
        """Texts that were looked at where they stand, by id."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        commands = [d for d in node.decorator_list if _name(d) in ("command", "group")]
        document = ast.get_docstring(node)
        if commands and document:
            for part in inspect.cleandoc(document).split("\n\n"):
                self._say(" ".join(part.split()), node)
        self._skip_docstring(node)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._skip_docstring(node)
        self.generic_visit(node)

    def visit_Module(self, node: ast.Module) -> None:
        self._skip_docstring(node)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # of an attribute: its documentation
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node)
        if name in INTERNAL:
            return
        if name == "message":
            self._message(node)
        elif name in SAYERS:
            for argument in node.args[SAYERS[name] : SAYERS[name] + 1]:
                self._slot(argument)
        elif name in self._makers or self._is_error(name):
            for argument in node.args:
                self._slot(argument)
        for keyword in node.keywords:
            if keyword.arg in PARTS:
                self._slot(keyword.value)
            elif keyword.arg in DOCUMENTATION:
                self._read |= {id(part) for part in ast.walk(keyword.value)}
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        self.visit(node.test)

    def visit_Constant(self, node: ast.Constant) -> None:
        text = node.value
        if not isinstance(text, str) or id(node) in self._read or text in self._codes:
            return
        if _reads(text):
            self._fault(node, f"a sentence that is no message: {text!r:.60}")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        text = "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        if id(node) not in self._read and _reads(text):
            self._fault(node, f"an f-string that is no message: {text!r:.60}")
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part)

    def _is_error(self, name: str) -> bool:
        return name.endswith("Error") and name not in INTERNAL

    def _message(self, node: ast.Call) -> None:
        text = node.args[0] if len(node.args) == 1 else None
        self._read.add(id(text))
        if not isinstance(text, ast.Constant) or not isinstance(text.value, str):
            self._fault(node, "the id of a message must be a literal")
            return
        self._say(text.value, node)
        given = {keyword.arg for keyword in node.keywords}
        if given and given != placeholders(text.value):
            self._fault(node, f"{sorted(map(str, given))} are not the values in {text.value!r:.60}")
        for keyword in node.keywords:
            for value in _alternatives(keyword.value):
                if _is_text(value) and is_words(_text(value)):
                    self._fault(node, f"the value {keyword.arg!r} is text of ours, no message")

    def _slot(self, expression: ast.expr) -> None:
        """A place where a text is said: a literal, or alternatives."""
        for value in _alternatives(expression):
            self._read.add(id(value))
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                self._say(value.value, value, needed=is_words(value.value))
            elif _is_text(value) and is_words(_text(value)):
                self._fault(value, f"an f-string where a message is wanted: {_text(value)!r:.60}")

    def _say(self, msgid: str, node: ast.AST, *, needed: bool = True) -> None:
        words = re.search(r"[a-z]{2}", re.sub(r"\{[^}]*\}", "", msgid))
        self._found.said.append(Said(msgid, self._place(node), needed and words is not None))

    def _fault(self, node: ast.AST, what: str) -> None:
        self._found.faults.append(f"{self._place(node)}: {what}")

    def _place(self, node: ast.AST) -> str:
        return f"{self._file}:{getattr(node, 'lineno', 0)}"

    def _skip_docstring(self, node: ast.FunctionDef | ast.ClassDef | ast.Module) -> None:
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr):
            self._read.add(id(first.value))


def _reads(text: str) -> bool:
    """Whether a text reads as an English sentence (three words, one of them a common one)."""
    return len(re.findall(r"[A-Za-z']{2,}", text)) >= 3 and SENTENCE.search(text) is not None


def _alternatives(expression: ast.expr) -> Iterator[ast.expr]:
    """What an expression can be: branches, operands of `or`, elements of a list."""
    match expression:
        case ast.IfExp(body=body, orelse=orelse):
            yield from (*_alternatives(body), *_alternatives(orelse))
        case ast.BoolOp(values=values) | ast.List(elts=values):
            for value in values:
                yield from _alternatives(value)
        case _:
            yield expression


def _is_text(node: ast.expr) -> bool:
    """A literal, an f-string, or a sum of them."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add) and (_is_text(node.left) or _is_text(node.right))
    constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return constant or isinstance(node, ast.JoinedStr)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "{}"


def _name(node: ast.AST) -> str:
    """Of the function of a call, or of a decorator."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _codes(tree: ast.Module) -> Iterator[str]:
    """Words for programs: the values of `Literal` types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
            yield from (n.value for n in ast.walk(node.slice)
                        if isinstance(n, ast.Constant) and isinstance(n.value, str))  # fmt: skip


def _makers(tree: ast.Module) -> set[str]:
    """Functions that give errors, and so take parts of them."""
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.returns, ast.Name)
        and (node.returns.id.endswith("Error") or node.returns.id == "NoReturn")
    }
