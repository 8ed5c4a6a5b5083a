"""Which skips CI accepts (`--strict-skips`): any other one is a test that stopped testing."""

from __future__ import annotations

import os
import re
import shutil
from typing import Final

ACCEPTED: Final = (
    r"^huge: ",
    r"\bGPU\b",
    # What only root may do, or not every container lets it.
    r"\bas root\b|an ordinary user|may not trace|is not allowed here|can be set here",
    # What the machine's file systems cannot do.
    r"no tmpfs|not on ext4|this file system cannot",
    # Real models and data that are no part of the project.
    r"PEDSUP_REAL_MODELS|PEDSUP_SHARED|\.\./shared|Gemma 4's tokenizer\.json|fact sheet",
    r"no git checkout",
)
PROGRAMS: Final = r"apt(-get)? install|`make browser`"
"""Programs of the system, which `make check` installs where it can."""


def accepted(reason: str) -> bool:
    """Whether CI accepts a skip for this reason."""
    if any(re.search(pattern, reason) for pattern in ACCEPTED):
        return True
    installs = os.geteuid() == 0 and shutil.which("apt-get") is not None
    return not installs and re.search(PROGRAMS, reason) is not None
