"""The text that a model is calibrated on: read, rendered, cut into windows, kept from the test's.

A text file is taken as it is. A `.jsonl` file holds dialogues, rendered by the model's own chat
template: a line is an object with `question` and `answer`, and `thought` where there is one, or
with `messages` as training examples have them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from typing import Final

from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.errors import BadFileError, MissingFileError, UsageError

MAX_BYTES: Final = 64 << 20
SHINGLE: Final = 12
"""A run of so many words in both texts is an overlap."""
MIN_WINDOWS: Final = 4


@dataclass(frozen=True)
class CalibrationText:
    """A text: plain, or dialogues to be rendered."""

    name: str
    content: str
    """The text, or the lines of a .jsonl file."""
    dialogues: tuple[tuple[Message, ...], ...] = ()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode("utf-8")).hexdigest()

    @property
    def words(self) -> str:
        """What is compared with the judging texts."""
        if not self.dialogues:
            return self.content
        return "\n".join(m["content"] for dialogue in self.dialogues for m in dialogue)


def read_texts(paths: Sequence[Path]) -> tuple[CalibrationText, ...]:
    """Read files of text or dialogues; the shipped dialogues when there is none.

    Raises:
        MissingFileError, BadFileError: a file is missing, too large, not UTF-8 or not dialogues.
    """
    if not paths:
        file = resources.files("pedsup_export.calibration") / "pediatrics.jsonl"
        return (_parse("pediatrics.jsonl (shipped)", file.read_text("utf-8"), dialogues=True),)
    return tuple(_parse(p.name, _read(p), dialogues=p.suffix == ".jsonl") for p in paths)


def _read(path: Path) -> str:
    if not path.is_file():
        raise MissingFileError("no such file", where=path, remedy="check --text")
    if path.stat().st_size > MAX_BYTES:
        raise BadFileError(
            f"the text has {path.stat().st_size >> 20} MiB",
            where=path,
            wanted=f"at most {MAX_BYTES >> 20} MiB",
            remedy="a few hundred kilobytes are plenty: give a part of it",
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadFileError("the text is not UTF-8", where=path, remedy="convert it") from error


def _parse(name: str, content: str, *, dialogues: bool) -> CalibrationText:
    if not dialogues:
        return CalibrationText(name, content)
    lines = [(i, line) for i, line in enumerate(content.splitlines(), 1) if line.strip()]
    return CalibrationText(name, content, tuple(_dialogue(name, i, line) for i, line in lines))


def _dialogue(name: str, number: int, line: str) -> tuple[Message, ...]:
    try:
        value = json.loads(line)
        if "messages" in value:
            found: list[Message] = [
                {"role": m["role"], "content": str(m["content"])} for m in value["messages"]
            ]
        else:
            answer = str(value["answer"])
            if value.get("thought"):
                answer = f"\0{value['thought']}\0{answer}"
            found = [
                {"role": "user", "content": str(value["question"])},
                {"role": "assistant", "content": answer},
            ]
        if not found or any(m["role"] not in ("system", "user", "assistant") for m in found):
            raise ValueError("roles")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFileError(
            "this line is not a dialogue",
            where=f"{name}, line {number}",
            wanted='{"question": ..., "answer": ...}, or "messages" of "role" and "content"',
        ) from error
    return tuple(found)


def rendered(text: CalibrationText, template: ChatTemplate | None) -> str:
    """The text as the model reads it.

    Dialogues are rendered up to the last question; the answer follows as the model writes it, its
    reasoning first. Without a known template, question and answer stand below each other.
    """
    if not text.dialogues:
        return text.content
    return "".join(_render(dialogue, template) for dialogue in text.dialogues)


def _render(dialogue: tuple[Message, ...], template: ChatTemplate | None) -> str:
    *before, last = dialogue
    answer, thought = last["content"], ""
    if answer.startswith("\0"):
        _, thought, answer = answer.split("\0", 2)
    if template is None or last["role"] != "assistant" or not before:
        parts = [m["content"] for m in before] + [thought, answer]
        return "\n".join(p for p in parts if p) + "\n\n"
    think = bool(thought) and template.supports_thinking
    prompt = template.render(before, think=think)
    if think and template.thought is not None:
        marks = template.thought
        prompt += f"{marks.opening}{marks.header}{thought}{marks.closing}"
    end = template.stops[0] if template.stops else ""
    return f"{prompt}{answer}{end}\n"


def cut(tokens: Sequence[int], window: int, bos: int | None, limit: int | None) -> list[list[int]]:
    """Whole windows of tokens, the first of each replaced by bos: as `llama-imatrix` cuts them.

    Raises:
        UsageError: fewer than `MIN_WINDOWS`.
    """
    count = len(tokens) // window
    if count < MIN_WINDOWS:
        raise UsageError(
            f"the text has {len(tokens)} tokens",
            where="--text",
            wanted=f"at least {MIN_WINDOWS} windows of {window}",
            remedy="give more text, or a smaller --window",
        )
    count = min(count, limit or count)
    cuts = [list(tokens[i * window : (i + 1) * window]) for i in range(count)]
    for piece in cuts:
        if bos is not None:
            piece[0] = bos
    return cuts


def shingles(content: str) -> set[bytes]:
    """Digests of every run of `SHINGLE` words, case and punctuation aside."""
    words = re.findall(r"\w+", content.casefold())
    runs = (" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1))
    return {hashlib.blake2b(run.encode(), digest_size=8).digest() for run in runs}


def judging_texts() -> list[tuple[str, str]]:
    """Name and content of the texts that pedsup-bench judges files on; none where it is absent."""
    try:
        texts = import_module("pedsup_bench.report.texts")
    except ImportError:
        return []
    return [(f"the judging text '{t.name}'", t.content) for t in texts.default_texts()]


def refuse_overlap(texts: Iterable[CalibrationText], judged: Iterable[tuple[str, str]]) -> None:
    """Refuse text that files are judged on.

    Raises:
        UsageError: a run of `SHINGLE` words stands in both.
    """
    tests = [(name, shingles(content)) for name, content in judged]
    for text in texts:
        own = shingles(text.words)
        for name, test in tests:
            if shared := len(own & test):
                raise UsageError(
                    f"'{text.name}' and {name} share {shared} runs of {SHINGLE} words",
                    where="--text",
                    wanted="calibration text that no file is judged on",
                    remedy="leave those passages out: figures on them would flatter the file",
                )
