"""A child that answers requests: lines of JSON on its standard input and output.

The parent holds a `LineChild`. A child of ours reads `requests` and prints with `answer`; an error
is the answer `{"error": ...}`. A request may have several answers: `ask(None)` waits for the next.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import IO, Any, Final

from pedsup.child.death import ended
from pedsup.errors import EngineError
from pedsup.messages import Message, from_document, message

MAX_ANSWER: Final = 1 << 25
"""Bytes of one answer."""
LAST_S: Final = 5.0
"""How long a child that closed its output may take to end."""
TICK_S: Final = 0.1
"""How often `watch` is called while the child works."""


class NoAnswerError(Exception):
    """The child ended, was too slow, said too much, or made no sense.

    Args:
        code: its exit code if it ended, a signal's number below zero.
        slow: whether it was only too slow.
    """

    def __init__(self, why: Message, *, code: int | None = None, slow: bool = False) -> None:
        super().__init__(why)
        self.why, self.code, self.slow = why, code, slow


class LineChild:
    """A child process and the pipes to it. Use `close` when done; a forgotten one is killed.

    Args:
        env: variables to add to ours.
        stderr: where the child's messages go.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stderr: IO[bytes] | int = subprocess.DEVNULL,
    ) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            start_new_session=True,  # Ctrl-C is the parent's
        )
        self._reap = weakref.finalize(self, _end, self.process)
        self._rest, self._lines = bytearray(), deque[bytearray]()
        assert self.process.stdin is not None and self.process.stdout is not None
        self._to, self._from = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._to, False)

    def ask(
        self,
        request: Mapping[str, object] | None,
        seconds: float | None = None,
        *,
        watch: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Send a request (None: nothing) and wait for one answer.

        Args:
            seconds: how long to wait; None: until the child ends.
            watch: called while the child works; what it raises ends the waiting.

        Raises:
            NoAnswerError: the child ended, was too slow, said too much, or made no sense.
        """
        left = memoryview(b"" if request is None else json.dumps(request).encode() + b"\n")
        deadline = None if seconds is None else monotonic() + seconds
        while not self._lines:
            if deadline is not None and monotonic() > deadline:
                raise NoAnswerError(
                    message("no answer within {s} s", s=f"{seconds:.0f}"), slow=True
                )
            can_read, can_write, _ = select.select(
                [self._from], [self._to] if left else [], [], TICK_S
            )
            if can_write:
                left = self._send(left)
            if can_read:
                self._receive()
            elif not can_write:
                self._require_reachable()
                watch()
        return _parsed(self._lines.popleft())

    def close(self, patience_s: float = 0.0) -> None:
        """End the child and what it started.

        Args:
            patience_s: how long to wait for it to leave at the end of its input.
        """
        if self._reap.alive and self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience_s)
        self._reap()

    def _send(self, left: memoryview) -> memoryview:
        try:
            return left[os.write(self._to, left) :]
        except BrokenPipeError:
            return left[:0]  # its last words, or how it ended, say why

    def _receive(self) -> None:
        block = os.read(self._from, 1 << 20)
        if not block:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LAST_S)
            self._require_alive()
            raise NoAnswerError(message("its process closed its output"))
        self._rest += block
        if b"\n" in block:
            *lines, self._rest = self._rest.split(b"\n")
            self._lines += lines
        if len(self._rest) + sum(map(len, self._lines)) > MAX_ANSWER:
            raise NoAnswerError(message("the output is too long"))

    def _require_reachable(self) -> None:
        """A child that ended may have left one of its own, which holds the pipe open."""
        if self.process.poll() is not None and not select.select([self._from], [], [], 0)[0]:
            self._require_alive()

    def _require_alive(self) -> None:
        code = self.process.poll()
        if code is not None:
            raise NoAnswerError(message("its process {how}", how=ended(code)), code=code)


def _parsed(line: bytes | bytearray) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise NoAnswerError(message("its output cannot be understood"))
    return answer


def requests() -> Iterator[dict[str, Any]]:
    """What the parent of this process asks, until it closes the pipe."""
    return (json.loads(line) for line in sys.stdin)


def answer(document: Mapping[str, object]) -> None:
    print(json.dumps(document), flush=True)


def error_in(said: Mapping[str, Any]) -> EngineError | None:
    """The error that a child's answer tells of; None where it tells of none."""
    parts = said.get("error")
    if not isinstance(parts, dict):
        return None
    found, where, wanted, remedy = (
        from_document(parts.get(name)) for name in ("found", "where", "wanted", "remedy")
    )
    return EngineError(found or "?", where=where, wanted=wanted, remedy=remedy)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # a request that was not read
                pipe.close()
