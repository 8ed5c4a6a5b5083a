"""The held-out examples as a file that the quality gate and the multiple-choice test take as it is.

One JSON object a line:

- `messages` (and `thought`): what was asked and the answer, as training rendered it. Read by
  `--examples` and `--gate-examples` (`pedsup.questions.dialogues`).
- `question`, `options`, `answer`, where there are options: the bare question. Read by
  `pedsup-bench mcqa --questions` (`pedsup.questions.multiple_choice`).
- `id`, `source`, `lang`, and `sha256`, which is `Example.digest`: it does not depend on the style.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from pedsup.questions.multiple_choice import LETTERS
from pedsup_train.data.examples import Example
from pedsup_train.data.render import Renderer

NAME: Final = "held_out.jsonl"


def held_out_row(example: Example, renderer: Renderer) -> dict[str, object]:
    """One line of the file."""
    thought, answer = renderer.answer_parts(example)
    messages = [*renderer.messages(example), {"role": "assistant", "content": answer}]
    row: dict[str, object] = {
        "id": example.id,
        "source": example.source,
        "lang": example.lang,
        "sha256": example.digest,
        "messages": messages,
    }
    if thought:
        row["thought"] = thought
    if example.options:
        letters = dict(zip(LETTERS, example.options, strict=False))
        row |= {"question": example.question, "options": letters, "answer": LETTERS[example.answer]}
    return row


def held_out_bytes(rows: Sequence[dict[str, object]]) -> bytes:
    """The file: the rows as JSON lines in UTF-8."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
