"""Short commands that cannot hang: an end to their time and to their output."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

OUTPUT_LIMIT: Final = 1 << 18
"""Bytes of output."""
COMMAND_S: Final = 0.6
"""A command that answers later than this is not waited for."""


class Ran(NamedTuple):
    """A command that ended: its exit code (negative: by that signal) and its output."""

    code: int
    text: str


def run_bounded(
    command: Sequence[str],
    timeout_s: float = COMMAND_S,
    *,
    env: Mapping[str, str] | None = None,
) -> Ran | None:
    """Run a command; both streams in one text. None where it is absent, too slow or endless.

    Args:
        env: its environment; None: ours.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return None
    assert child.stdout is not None
    deadline, parts, size = time.monotonic() + timeout_s, [], 0
    try:
        while size < OUTPUT_LIMIT:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                return None
            block = os.read(child.stdout.fileno(), 1 << 16)
            if not block:
                break
            parts.append(block)
            size += len(block)
        if size >= OUTPUT_LIMIT:
            return None
        code = child.wait(max(0.01, deadline - time.monotonic()))
    except (OSError, subprocess.TimeoutExpired):
        return None
    finally:
        child.stdout.close()
        # Whatever it left behind, and itself when it is too slow.
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return Ran(code, b"".join(parts).decode("utf-8", "replace"))
