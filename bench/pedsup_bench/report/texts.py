"""The texts a file is judged on, and how they are cut into windows."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from pedsup.errors import UsageError
from pedsup.questions.texts import Text, read_text

DEFAULT_TEXTS: Final = {"en": "pediatric_en.txt", "es": "pediatric_es.txt"}


def default_texts() -> tuple[Text, ...]:
    """The shipped CC0 prose on child health, English and Spanish."""
    folder = resources.files("pedsup_bench") / "data"
    return tuple(
        Text(name, _stripped((folder / file).read_text("utf-8")))
        for name, file in DEFAULT_TEXTS.items()
    )


def parse_texts(options: Sequence[str]) -> tuple[Text, ...]:
    """Texts from `--text` options: FILE or NAME=FILE; the shipped ones when there is none.

    Raises:
        UsageError: two texts of one name.
        BadFileError: a file is missing, too large or not UTF-8.
    """
    if not options:
        return default_texts()
    texts = []
    for option in options:
        name, _, file = option.rpartition("=")
        path = Path(file)
        texts.append(Text(name or path.stem, _stripped(read_text(path, "--text"))))
    names = [text.name for text in texts]
    if len(set(names)) != len(names):
        raise UsageError(f"two texts of one name: {', '.join(names)}", remedy="give NAME=FILE")
    return tuple(texts)


def scored_from(n_ctx: int) -> int:
    """The first position whose prediction counts: half a window of context comes before it."""
    return n_ctx // 2


def _stripped(text: str) -> str:
    """Without one final newline, as llama.cpp reads `--file`."""
    return text.removesuffix("\n")
