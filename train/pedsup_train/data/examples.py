"""One training example, whatever file it came from, and the rows that could not become one."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from pedsup.questions.texts import folded


@dataclass(frozen=True)
class Example:
    """A question with its answer; texts are NFC and stripped.

    `options` and `answer` are empty and -1 for free-text pairs, whose answer is `explanation`.
    """

    id: str
    source: str
    lang: str
    question: str
    options: tuple[str, ...] = ()
    answer: int = -1
    explanation: str = ""
    group: str = ""
    """Examples of one group (translations of each other) stay on one side of the split."""

    @property
    def question_key(self) -> str:
        """What makes two questions the same: letters and digits only, case folded."""
        return _key(self.question)

    @property
    def full_key(self) -> str:
        """What makes two examples duplicates: the question and the set of its options."""
        if not self.options:
            return f"{self.question_key}|{_key(self.explanation)}"
        return f"{self.question_key}|{'|'.join(sorted(map(_key, self.options)))}"

    @property
    def line(self) -> bytes:
        """What identifies it: language, question, options, answer and explanation, as JSON."""
        fields = [self.lang, self.question, list(self.options), self.answer, self.explanation]
        return json.dumps(fields, ensure_ascii=False).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of `line`."""
        return hashlib.sha256(self.line).hexdigest()


@dataclass(frozen=True)
class BadRow:
    """A row that was not used, with its place and the reason."""

    where: str
    reason: str


def place(bad: BadRow) -> int:
    """The number in 'file:12', 'file[12]' or 'file row 12'."""
    return int(re.findall(r"\d+", bad.where)[-1])


@dataclass
class ReadResult:
    """What a reader found in one source, counted."""

    name: str
    digest: str
    """SHA-256 of the file, or the hub's repository, revision and split."""
    rows: int = 0
    other_subject: int = 0
    over_limit: int = 0
    examples: list[Example] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _key(text: str) -> str:
    return re.sub(r"[\W_]+", " ", folded(text)).strip()
