"""What a memory card takes: names and sizes of FAT32."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pedsup.errors import UsageError

FAT32_LIMIT: Final = (4 << 30) - 1
FAT_FORBIDDEN: Final = frozenset('"*/:<>?\\|')


def require_name(name: str, remedy: str) -> None:
    """Raise `UsageError` for a name that not every card can hold."""
    if set(name) & FAT_FORBIDDEN or not name.isascii():
        raise UsageError(
            f"not every SD card can hold the name {name!r}",
            wanted="letters without accents, digits, '-', '_' and '.'",
            remedy=remedy,
        )


def require_model_name(model: Path) -> None:
    """Raise `UsageError` unless this is a name of a GGUF file that a card can hold."""
    require_name(model.name, "rename the model and its manifest")
    if not model.name.endswith(".gguf"):
        raise UsageError(f"the model's name is {model.name!r}", wanted="a name that ends in .gguf")


def write_entry(path: Path, **facts: object) -> None:
    """What install.sh reads of a file: a line `name=value` for each fact."""
    lines = [f"{name}={value}\n" for name, value in facts.items()]
    path.write_text("".join(lines), encoding="ascii", newline="\n")


def beside(model: Path) -> tuple[Path, ...]:
    """Manifest and signature."""
    return tuple(
        path
        for path in sorted(model.parent.iterdir())
        if path.name.startswith(f"{model.name}.") and path.is_file()
    )
