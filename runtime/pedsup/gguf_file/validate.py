"""The door before llama.cpp: every path that goes to native code passes through here first.

llama.cpp checks much of a file and asserts the rest, and an assertion ends the process; older
versions, and Termux has another one than ours, check less. So a model file is checked here for
everything that its loader relies on, in pure Python: format (`header`), tokenizer, sizes and
tensors. A file that passes is safe to open, no more: its digest says whether it is the file that
was exported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pedsup.gguf_file.architecture import check_architecture
from pedsup.gguf_file.header import GGUFHeader, open_regular, parse_header, read_header
from pedsup.gguf_file.lora import is_adapter, validate_adapter
from pedsup.gguf_file.tokenizer import check_tokenizer

_KEPT: Final = 4
_Status = tuple[int, ...]
_validated: dict[tuple[Path, _Status, bool], GGUFHeader] = {}
"""Headers of files that passed; a session asks for its model at the plan and at the engine."""


def validate_model(path: str | Path) -> GGUFHeader:
    """Check a model file for everything that llama.cpp relies on; its header.

    The result is remembered as long as the file's inode, size and times are the same.

    Raises:
        BadFileError: it is damaged or forged; the message says what, where and what to do.
        UnsupportedError: it is well-formed, but not a model that pedsup runs.
    """
    return _validate(Path(path), drafter=False)


def validate_model_or_drafter(path: str | Path) -> GGUFHeader:
    """`validate_model` for a file that may be one of Gemma 4's drafters too.

    For `--draft`, and for those who check a file without running it.
    """
    return _validate(Path(path), drafter=True)


def validate_any_gguf(path: str | Path) -> GGUFHeader:
    """`validate_model_or_drafter` for a file that may be an adapter too, without running it."""
    if is_adapter(read_header(path)):
        return validate_adapter(path)
    return validate_model_or_drafter(path)


def _validate(path: Path, *, drafter: bool) -> GGUFHeader:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        times = status.st_mtime_ns, status.st_ctime_ns
        key = (path, (status.st_dev, status.st_ino, status.st_size, *times), drafter)
        if (found := _validated.get(key)) is not None:
            return found
        header = parse_header(file, status.st_size, path)
    check_architecture(header, drafter=drafter)
    check_tokenizer(header)
    while len(_validated) >= _KEPT:
        del _validated[next(iter(_validated))]
    _validated[key] = header
    return header
