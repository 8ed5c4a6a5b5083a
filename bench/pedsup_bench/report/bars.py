"""Bars over items on stderr, silent for the first two seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tqdm import tqdm

SILENT_S: Final = 2.0
"""Shorter jobs do not show a bar."""


def interval() -> float:
    """Seconds between two states of a bar: a log file gets few."""
    return 0.5 if sys.stderr.isatty() else 10.0


@contextmanager
def item_bar(total: int, label: str, unit: str, *, initial: int = 0) -> Iterator[tqdm]:
    """A bar on stderr with the time left; call `.update()` on what it yields for each item.

    It also moves between items, so that an item that takes minutes does not look like a hang.
    """
    bar = tqdm(
        total=total,
        desc=label,
        initial=initial,
        unit=unit,
        file=sys.stderr,
        delay=SILENT_S,
        mininterval=interval(),
        dynamic_ncols=True,
        smoothing=0,  # items are alike: the mean so far is the best guess of the rest
    )
    with ticking(bar):
        yield bar


@contextmanager
def ticking(bar: tqdm) -> Iterator[None]:
    """Draw `bar` again from time to time while the block runs; it is closed with the block."""
    done = threading.Event()

    def draw() -> None:
        wait = SILENT_S
        while not done.wait(wait):
            bar.refresh()
            bar.last_print_t = bar._time()  # `close` ends the line of a bar that was drawn
            wait = max(1.0, interval())

    thread = threading.Thread(target=draw, daemon=True)
    if not bar.disable:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()
        bar.close()
