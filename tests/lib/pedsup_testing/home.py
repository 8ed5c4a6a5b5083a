"""A home of its own for a program that a test starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def environment(folder: Path, *, accepted: bool = True) -> dict[str, str]:
    """Everything that pedsup writes goes below `folder`.

    Args:
        accepted: whether the intended use was acknowledged.
    """
    (folder / "tmp").mkdir(exist_ok=True)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(folder / "home"),
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "PEDSUP_ACCEPT_INTENDED_USE": "1" if accepted else "",
        "LANG": "C.UTF-8",
        "INPUTRC": os.devnull,
        "NO_COLOR": "1",
    }
