"""What a measurement is valid for: the device's cores, and the engine as installed now."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
from pathlib import Path

from pedsup.device.cores import Core
from pedsup.engine.build_probe import library_folder
from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_server.process import find_program


def device_digest(cores: tuple[Core, ...], features: frozenset[str]) -> str:
    """Of the cores that this process may use, and their instructions.

    In the background Android leaves an app fewer cores: what was measured on all of them is not
    used then, and is used again later.
    """
    rows = [[c.index, c.capacity, c.max_khz, c.part] for c in cores]
    return _digest([platform.machine(), rows, sorted(features)])


def engine_digest(*, server: bool) -> str:
    """Of the engine that would run now: nothing is started to find out."""
    if server:
        program = find_program()
        return _digest(["server", _stamp(program.resolve()) if program else None])
    folder = library_folder()
    if folder is None or importlib.util.find_spec("llama_cpp") is None:
        return _digest(["inprocess", None])
    stamp = _stamp(folder / "libllama.so")
    return _digest(["inprocess", bindings.package_version(), stamp])


def _stamp(path: Path) -> list[int] | None:
    """Size and time of a file: another build has another."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
