"""The parent's end of `pedsup.chat.templates.worker`: a template in a child that is watched."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pedsup.child.lines import LineChild, NoAnswerError
from pedsup.errors import BadFileError, EngineError, UnsupportedError
from pedsup.messages import as_message, message

START_SECONDS: Final = 30.0
"""For a cold interpreter on slow flash; no template has been seen yet."""
MAX_SECONDS: Final = 5.0
"""To compile a template, or to render one request of dialogues."""


class TemplateProcess:
    """A template in a process of its own; the process is started when it is needed.

    An idle process exits and is started again by the next request. Calls from several
    threads wait for each other.
    """

    command: tuple[str, ...] = (sys.executable, "-P", "-m", "pedsup.chat.templates.worker")

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._child: LineChild | None = None

    def render(self, jobs: Sequence[Mapping[str, object]]) -> list[str | UnsupportedError]:
        """The text of each job (a template's variables), or why there is none.

        Raises:
            UnsupportedError: the template did not end, took too much memory, or tried to do
                something other than making text.
            BadFileError: the template is not valid.
        """
        with self._lock:
            try:
                answer = self._ask({"jobs": list(jobs)})
            except BaseException:
                self._end()  # what is left in the pipe is unknown
                raise
        return [
            item["text"] if "text" in item else refusal(item["error"]) for item in answer["results"]
        ]

    def close(self) -> None:
        with self._lock:
            self._end()

    def _ask(self, request: dict[str, object]) -> dict[str, Any]:
        if self._child is not None:
            try:
                return _checked(self._child.ask(request, MAX_SECONDS))
            except NoAnswerError as gone:
                if gone.code != 0:
                    raise refusal(gone.why) from gone
                self._end()  # it had nothing to do and left
        child = self._start()
        try:
            return _checked(child.ask(request, MAX_SECONDS))
        except NoAnswerError as gone:
            raise refusal(gone.why) from gone

    def _start(self) -> LineChild:
        # As the parent finds its modules, wherever they are.
        env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._child = LineChild(self.command, env=env)
        try:
            self._child.ask(None, START_SECONDS)
        except NoAnswerError as gone:
            raise EngineError(
                "the process that renders an unknown chat template does not start",
                where=" ".join(self.command),
                remedy="install pedsup again; if memory is short, close other programs",
            ) from gone
        try:
            answer = _checked(self._child.ask({"source": self._source}, MAX_SECONDS))
        except NoAnswerError as gone:
            raise refusal(gone.why) from gone
        if "invalid" in answer:
            raise invalid(answer["invalid"])
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer of a template that stayed in its sandbox."""
    if "forbidden" in answer:
        raise UnsupportedError(
            message(
                "the model's chat template tried to leave its sandbox ({reason})",
                reason=answer["forbidden"],
            ),
            wanted="a template that only makes text",
            remedy="do not use this file: report where it came from",
        )
    return answer


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
