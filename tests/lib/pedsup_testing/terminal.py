"""A program on a pseudo-terminal, driven like a person would: type, read, press Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Sequence
from types import TracebackType

from pedsup_testing import programs

PATIENCE_S = 120.0
"""The machine of the tests may be busy; what is waited for comes in a fraction of a second."""


class Terminal:
    """Start `arguments` with a terminal of 100 columns; use as a context manager.

    Args:
        preload: `arguments` are Python, a script and its arguments, for which a process forks that
            has imported these modules (programs.py).
    """

    def __init__(
        self, arguments: Sequence[str], env: dict[str, str], preload: tuple[str, ...] = ()
    ) -> None:
        self.output = ""
        """All that was printed so far."""
        self._at = 0
        self._status: int | None = None
        self._started: programs.Started | None = None
        env = {**env, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        if preload:
            self._fd, theirs = pty.openpty()
            _, script, *words = arguments
            self._started = programs.start(
                script, *words, terminal=theirs, env={**os.environ, **env}, preload=preload
            )
            os.close(theirs)
            self.pid = self._started.pid
            return
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(env)
            os.execv(arguments[0], list(arguments))

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._status = self._poll(PATIENCE_S)
        os.close(self._fd)
        if error is not None:
            print(f"--- terminal ---\n{self.output}\n---", file=sys.stderr)

    def _poll(self, timeout: float = 0) -> int | None:
        """The exit code, or None while the program runs."""
        if self._started is not None:
            return self._started.poll(timeout)
        pid, status = os.waitpid(self.pid, 0 if timeout else os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def expect(self, pattern: str) -> str:
        """Wait for a pattern after the last match; returns the text up to its end."""
        end = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.output[self._at :], re.DOTALL)) is None:
            assert time.monotonic() < end, f"{pattern!r} never came"
            assert self._read(), f"the program ended before {pattern!r} came"
        text = self.output[self._at : self._at + found.end()]
        self._at += found.end()
        return text

    def send(self, text: str) -> None:
        """Type."""
        os.write(self._fd, text.encode())

    def line(self, text: str) -> None:
        """Type a line and press Enter."""
        self.send(text + "\r")

    def press(self, letter: str) -> None:
        """Press Ctrl and a letter."""
        os.write(self._fd, bytes([ord(letter.upper()) - 64]))

    def wait(self) -> int:
        """The exit code of the program; negative for a signal."""
        end = time.monotonic() + PATIENCE_S
        while self._status is None:
            self._read()
            self._status = self._poll()
            assert time.monotonic() < end, "the program did not end"
        while self._read():
            pass
        return self._status

    def _read(self) -> bool:
        """Take what is there; False when the program is gone."""
        if not select.select([self._fd], [], [], 0.2)[0]:
            return self._status is None
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # Linux says EIO when the other side is closed
            return False
        self.output += data.decode("utf-8", "replace")
        return bool(data)
