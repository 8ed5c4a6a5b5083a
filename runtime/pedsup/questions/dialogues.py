"""Question and answer, or whole conversations, as JSON lines: training examples of the user's own.

A line is an object with `messages` of `role` and `content`, the assistant's last, or with
`question` and `answer`. Either may have a `thought`, the reasoning before the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from pedsup.errors import BadFileError, MissingFileError
from pedsup.questions.table_rows import read_table

WANTED: Final = '{"question": ..., "answer": ...}, or "messages" of "role" and "content"'
_ROLES: Final = ("system", "user", "assistant")


class Turn(TypedDict):
    """One message; `pedsup.chat` has the same."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Dialogue:
    """What is said before the last answer, that answer, and the reasoning that leads to it."""

    before: tuple[Turn, ...]
    answer: str
    thought: str = ""

    @property
    def words(self) -> str:
        """Everything said in it."""
        said = [turn["content"] for turn in self.before]
        return "\n".join(part for part in (*said, self.thought, self.answer) if part)


def read_dialogues(path: Path) -> tuple[Dialogue, ...]:
    """Every line of a file of JSON lines.

    Raises:
        MissingFileError: no such file.
        BadFileError: a line is not a dialogue, or there is none.
    """
    if not path.is_file():
        raise MissingFileError("no such file", where=path, wanted=f"JSON lines: {WANTED}")
    found = []
    for number, row in read_table(path):
        try:
            if isinstance(row, str):
                raise ValueError(row)
            found.append(_dialogue(row))
        except (ValueError, KeyError, TypeError) as error:
            raise BadFileError(
                f"this line is not a dialogue ({_why(error)})",
                where=f"{path}, line {number}",
                wanted=WANTED,
            ) from error
    if not found:
        raise BadFileError("there is no dialogue", where=path, wanted=WANTED)
    return tuple(found)


def _dialogue(row: Mapping[str, Any]) -> Dialogue:
    thought = _text(row, "thought") if row.get("thought") else ""
    if "messages" not in row:
        question: Turn = {"role": "user", "content": _text(row, "question")}
        return Dialogue((question,), _text(row, "answer"), thought)
    turns = [_turn(message) for message in row["messages"]]
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise ValueError("the last message is not an answer to another")
    return Dialogue(tuple(turns[:-1]), turns[-1]["content"], thought)


def _turn(message: Any) -> Turn:
    role = message["role"]
    if role not in _ROLES:
        raise ValueError(f"the role {role!r:.30}")
    return {"role": role, "content": _text(message, "content")}


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{name}' is not a text")
    return value


def _why(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
