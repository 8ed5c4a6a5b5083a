"""The text that a model is calibrated on: read, rendered, cut into windows, kept from the test's.

A text file is taken as it is. A `.jsonl` file holds dialogues (`pedsup.questions.dialogues`),
rendered by the model's own chat template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from typing import Final

from pedsup.chat.dialogue_text import answer_tokens, prompt_tokens
from pedsup.chat.prompt import text_tokens
from pedsup.chat.templates.template import ChatTemplate
from pedsup.engine.llama_cpp.vocabulary import Vocabulary
from pedsup.errors import UsageError
from pedsup.questions.dialogues import Dialogue, read_dialogues
from pedsup.questions.texts import SHINGLE, Text, passages, read_text, shared, windows

MIN_WINDOWS: Final = 4


@dataclass(frozen=True)
class CalibrationText(Text):
    """A text: plain, or dialogues to be rendered (`content` is then the lines of the file)."""

    dialogues: tuple[Dialogue, ...] = ()

    @property
    def words(self) -> str:
        """What is compared with the judging texts."""
        if not self.dialogues:
            return self.content
        return "\n".join(dialogue.words for dialogue in self.dialogues)


def read_texts(paths: Sequence[Path]) -> tuple[CalibrationText, ...]:
    """Read files of text or dialogues; the shipped dialogues when there is none.

    Raises:
        MissingFileError, BadFileError: a file is missing, too large, not UTF-8 or not dialogues.
    """
    if not paths:
        file = resources.files("pedsup_export.calibration") / "pediatrics.jsonl"
        with resources.as_file(file) as path:
            return (_read(path, "pediatrics.jsonl (shipped)"),)
    return tuple(_read(path, path.name) for path in paths)


def _read(path: Path, name: str) -> CalibrationText:
    content = read_text(path, "--text")
    dialogues = read_dialogues(path) if path.suffix == ".jsonl" else ()
    return CalibrationText(name, content, dialogues)


def tokens_of(
    text: CalibrationText, template: ChatTemplate | None, tokenizer: Vocabulary, *, first: bool
) -> list[int]:
    """The text as the model reads it; the first begins with bos where the model asks for it.

    What a dialogue spells is text to the model, as in `pedsup-run`: control tokens are the
    template's. Without a known template, question and answer stand below each other.
    """
    if not text.dialogues:
        return tokenizer.tokenize(text.content, parse_special=False, add_special=first)
    if template is None:
        return text_tokens(tokenizer, "".join(f"{d.words}\n\n" for d in text.dialogues))
    end = tokenizer.tokenize("\n", parse_special=True)
    tokens: list[int] = []
    for dialogue in text.dialogues:
        tokens += prompt_tokens(dialogue, template, tokenizer)
        tokens += answer_tokens(dialogue, template, tokenizer) + end
    return tokens


def cut(tokens: Sequence[int], window: int, bos: int | None, limit: int | None) -> list[list[int]]:
    """Whole windows of tokens, at most `limit`.

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
    return windows(tokens, window, bos)[:limit]


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
        UsageError: a run of `SHINGLE` words is in both, or many short lines.
    """
    tests = tuple(judged)
    for text in texts:
        own = passages(text.words)
        for name, content in tests:
            if n := shared(own, content):
                raise UsageError(
                    f"'{text.name}' and {name} share {n} passages (runs of {SHINGLE} words, or "
                    "short lines)",
                    where="--text",
                    wanted="calibration text that no file is judged on",
                    remedy="leave those passages out: figures on them would flatter the file",
                )
