"""The parent's end of `template_worker`: a template in a child that is watched, and killed."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final

from pedsup.errors import BadFileError, EngineError, UnsupportedError
from pedsup.messages import as_message, message

START_SECONDS: Final = 30.0
"""For a cold interpreter on slow flash; no template has been seen yet."""
MAX_SECONDS: Final = 5.0
"""To compile a template, or to render one request of dialogues."""
MAX_ANSWER: Final = 1 << 25
"""Bytes of one answer."""


class TemplateProcess:
    """A template in a process of its own; the process is started when it is needed.

    An idle process ends by itself and is started again by the next request. Calls from several
    threads wait for each other.
    """

    command: tuple[str, ...] = (sys.executable, "-P", "-m", "pedsup.chat.templates.worker")

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._reap: weakref.finalize[..., TemplateProcess] | None = None
        self._buffer = b""

    def render(self, jobs: Sequence[Mapping[str, object]]) -> list[str | UnsupportedError]:
        """The text of each job (a template's variables), or why there is none.

        Raises:
            UnsupportedError: the template did not end, took too much memory, or tried to do
                something other than to make text.
            BadFileError: it is no valid template.
        """
        with self._lock:
            try:
                answer = self._ask({"jobs": list(jobs)})
            except BaseException:
                self._end()  # nobody knows what stands in the pipe
                raise
        results = answer["results"]
        assert isinstance(results, list)
        return [str(item["text"]) if "text" in item else refusal(item["error"]) for item in results]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, request: dict[str, object]) -> dict[str, object]:
        line = json.dumps(request).encode() + b"\n"
        if self._child is not None:
            try:
                return self._exchange(line, MAX_SECONDS)
            except _IdleExitError:
                self._end()
        self._start()
        return self._exchange(line, MAX_SECONDS)

    def _start(self) -> None:
        self._child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # As the parent finds its modules, wherever they are.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is the parent's
        )
        self._reap = weakref.finalize(self, _kill, self._child)
        try:
            self._exchange(b"", START_SECONDS)
        except UnsupportedError as error:
            raise EngineError(
                "the process that renders an unknown chat template does not start",
                where=" ".join(self.command),
                remedy="install pedsup again; if memory is short, close other programs",
            ) from error
        source = json.dumps({"source": self._source}).encode() + b"\n"
        answer = self._exchange(source, MAX_SECONDS)
        if "invalid" in answer:
            raise invalid(str(answer["invalid"]))

    def _exchange(self, line: bytes, seconds: float) -> dict[str, object]:
        """Send a line (none when empty) and wait for an answer's line."""
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        deadline, left = monotonic() + seconds, memoryview(line)
        to, back = child.stdin.fileno(), child.stdout.fileno()
        os.set_blocking(to, False)
        while b"\n" not in self._buffer:
            wait = deadline - monotonic()
            ready = select.select([back], [to] if left else [], [], max(0.0, wait))
            if wait <= 0 or not (ready[0] or ready[1]):
                raise refusal(message("it did not end within {s} s", s=f"{seconds:.0f}"))
            if ready[1]:
                try:
                    left = left[os.write(to, left) :]
                except BrokenPipeError:
                    left = left[:0]  # its last words, or its exit code, say why
            if ready[0]:
                block = os.read(back, 1 << 20)
                if not block:
                    raise self._ended(bool(line))
                self._buffer += block
                if len(self._buffer) > MAX_ANSWER:
                    raise refusal("the output is too long")
        answer, _, self._buffer = self._buffer.partition(b"\n")
        document: dict[str, object] = json.loads(answer)
        if "forbidden" in document:
            raise UnsupportedError(
                message(
                    "the model's chat template tried to leave its sandbox ({reason})",
                    reason=document["forbidden"],
                ),
                wanted="a template that only makes text",
                remedy="do not use this file: report where it came from",
            )
        return document

    def _ended(self, asked: bool) -> Exception:
        assert self._child is not None
        code = self._child.wait()
        if code == 0 and asked:
            return _IdleExitError()
        return refusal(message("its process ended with exit code {code}", code=code))

    def _end(self) -> None:
        if self._reap is not None:
            self._reap()
        self._child, self._reap, self._buffer = None, None, b""


class _IdleExitError(Exception):
    """The worker had nothing to do and left."""


def refusal(reason: str) -> UnsupportedError:
    """The error for a template that cannot be rendered."""
    return UnsupportedError(
        "the chat template cannot be rendered",
        where=as_message(reason),
        remedy="the template does not fit this dialogue: /reset, or export the model again",
    )


def invalid(reason: str) -> BadFileError:
    """The error for a template that cannot be compiled."""
    return BadFileError(
        "the model's chat template is not valid",
        where=f"tokenizer.chat_template: {reason}",
        remedy="export the model again from a base with a valid template",
    )


def _kill(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
