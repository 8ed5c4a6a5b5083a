"""Made models that are kept: the imports of torch and transformers take longer than making one.

What is kept is found by what it was made from: the function and its arguments, the contents of the
folders among them, the source of the makers and the versions of the packages. `root()` is in the
user's cache, and in a run of all tests a folder of that run, which its workers share.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

P = ParamSpec("P")
Maker = Callable[Concatenate[Path, P], Path]
ROOT = "PEDSUP_TEST_MODELS"
"""The environment's name for the folder; forked programs inherit it."""
SOURCES = ("kept", "tiny_models", "towers", "seeing", "converter")
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy", "sentencepiece")
DAYS = 14


def root() -> Path:
    """Where models are kept."""
    given = os.environ.get(ROOT)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "pedsup-tests"


def kept(make: Maker[P]) -> Maker[P]:
    """A maker (folder to write, arguments) -> that folder, which copies what it made before."""

    @wraps(make)
    def wrapper(folder: Path, *args: P.args, **kwargs: P.kwargs) -> Path:
        named = sorted(kwargs.items())
        parts = [make.__module__, make.__qualname__, *map(_said, args), *map(_said, named)]
        with entry(*parts) as (place, there):
            if there:
                shutil.copytree(place, folder, dirs_exist_ok=True)
            else:
                make(folder, *args, **kwargs)
                shutil.copytree(folder, place)
        return Path(folder)

    return wrapper


@contextmanager
def entry(*parts: str) -> Iterator[tuple[Path, bool]]:
    """A path for what `parts` make, and whether it is there; otherwise it is to be written.

    Another process waits meanwhile. What was written takes its place only when the block ends well.
    """
    text = "\0".join([_surroundings(), *parts])
    place = root() / hashlib.sha256(text.encode()).hexdigest()[:32]
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            os.utime(place)
            yield place, True
            return
        partial = place.with_suffix(".partial")
        remove(partial)
        yield partial, False
        partial.rename(place)
        os.utime(place)


def digest(path: Path) -> str:
    """Of a file's bytes, or of a folder's files and their names; GGUF files in it do not count."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    found = hashlib.sha256()
    for file in files:
        if file == path or file.suffix != ".gguf":
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            found.update(f"{file.relative_to(path)}\0{content}\0".encode())
    return found.hexdigest()


def forget_old() -> None:
    """Remove what no run has used for two weeks."""
    for place in root().glob("*"):
        with suppress(FileNotFoundError):  # another run renames and removes here too
            if place.suffix != ".lock" and place.stat().st_mtime < time.time() - DAYS * 86400:
                remove(place)


def remove(path: Path) -> None:
    """Remove a file or a folder, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _said(value: Any) -> str:
    if isinstance(value, Path):
        return digest(value)
    if isinstance(value, tuple):
        return repr(tuple(map(_said, value)))
    return repr(value)


@cache
def _surroundings() -> str:
    """The makers' own source and the versions of what they call."""
    sources = [digest(Path(__file__).with_name(f"{name}.py")) for name in SOURCES]
    return "\0".join([*sources, *(f"{name} {_version(name)}" for name in PACKAGES)])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
