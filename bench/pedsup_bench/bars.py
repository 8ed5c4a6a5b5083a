"""A progress bar over items, silent for the first two seconds."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def item_bar(total: int, label: str, unit: str, *, initial: int = 0) -> Any:
    """A bar on stderr; call `.update()` for each item and `.close()` at the end."""
    return tqdm(
        total=total,
        desc=label,
        initial=initial,
        unit=unit,
        file=sys.stderr,
        delay=2.0,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )
