"""What kind of device this is."""

from __future__ import annotations

import os
import sys


def is_android() -> bool:
    """Whether this is Android: Termux' own Python, or one in a proot."""
    return sys.platform == "android" or "ANDROID_ROOT" in os.environ
