"""The decorators of the kernels: compile at first use, keep the machine code for the next run.

numba's cache looks at the time stamp of the file that holds a function, not at the files of
the functions it calls. So the cached code lies in a folder named by a digest of all sources
of this package: another version of any of them is another folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Where compiled kernels are kept (`$XDG_CACHE_HOME/pedsup/kernels-...`); None if nowhere."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(home) if home else Path.home() / ".cache") / "pedsup"
        folder /= f"kernels-{digest.hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return None


def kernel(function: Callable[..., Any]) -> Any:
    """An entry point: runs without the interpreter lock, and its machine code is kept on disk."""
    folder = cache_folder()
    options = {"nogil": True, "error_model": "numpy"}
    if folder is None:
        return numba.njit(**options)(function)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        return numba.njit(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = before


def inline(function: Callable[..., Any]) -> Any:
    """A part of kernels, compiled into its caller so that vectors stay in registers."""
    return numba.njit(forceinline=True, error_model="numpy")(function)
