"""Where `make native` puts llama.cpp: the source of the pinned release, and its own programs."""

from __future__ import annotations

import os
from pathlib import Path

from pedsup.engine.vector_units import VERSION
from pedsup.files.paths import cache_folder


def native_root() -> Path:
    """The folder of all of it; `PEDSUP_NATIVE` names another place."""
    return Path(os.environ.get("PEDSUP_NATIVE") or cache_folder() / f"llama-cpp-{VERSION}")


def native_programs() -> Path:
    """The folder of the programs. In "build" lie older ones, with libraries of their own."""
    return native_root() / "programs/bin"
