"""Questions answered so far, one line each, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from pedsup.paths import cache_folder
from pedsup_bench.mcqa.questions import Question
from pedsup_bench.quality.journal import file_identity

Answer = tuple[list[float], list[int]]
"""Scores by option, and the option chosen in each rotation."""


class AnswerJournal:
    """A JSON-lines file whose name is the digest of model, questions and settings."""

    def __init__(
        self, model: Path, questions: Sequence[Question], settings: dict[str, Any]
    ) -> None:
        key = [file_identity(model), [astuple(question) for question in questions], settings]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        folder = cache_folder() / "mcqa"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{digest[:32]}.jsonl"

    def read(self) -> list[Answer]:
        """The answers so far, in the questions' order; a line cut by a crash is dropped."""
        answers: list[Answer] = []
        if not self.path.is_file():
            return answers
        good = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    answers.append((list(row["scores"]), list(row["by_rotation"])))
                except (ValueError, KeyError, TypeError):
                    break
                good += len(line)
        os.truncate(self.path, good)
        return answers

    def append(self, scores: Sequence[float], by_rotation: Sequence[int]) -> None:
        """Add the next answer; it is on the disk when this returns."""
        row = {"scores": list(scores), "by_rotation": list(by_rotation)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def discard(self) -> None:
        """Forget the answers."""
        self.path.unlink(missing_ok=True)
