"""How a native program of ours ended, in words, and what helps."""

from __future__ import annotations

import signal
from typing import Final, NamedTuple

from pedsup.errors import EngineError
from pedsup.messages import Message, message


class Death(NamedTuple):
    """How a native program of ours ended, and what helps."""

    name: str
    """Of the signal."""
    what: Message
    """Without its subject: 'crashed (invalid memory access)'."""
    helps: Message | None = None


_DEATHS: Final = {
    signal.SIGILL: (
        message("met an instruction that this processor does not have"),
        message(
            "it was built for another processor: install a build without dotprod/i8mm "
            "(in Termux: pkg upgrade), or use --engine inprocess"
        ),
    ),
    signal.SIGKILL: (
        message("was killed, most likely because the memory ran out"),
        message("close other apps, give a smaller --ctx, or use a smaller quantization"),
    ),
    signal.SIGSEGV: (
        message("crashed (invalid memory access)"),
        message("try --extra-buffers off, or another build of llama.cpp"),
    ),
    signal.SIGBUS: (
        message("could no longer read the model file"),
        message("the file was cut or its disk went away: copy it again and compare its SHA-256"),
    ),
    signal.SIGABRT: (
        message("gave up because of an internal error"),
        message("the last lines above say why; report them with the model's name"),
    ),
}


def explain_death(code: int, log: str) -> EngineError:
    """The error for a child that ended with `code` (negative: by that signal)."""
    where = log or None
    if code >= 0 and "invalid argument: --spec" in log:
        return EngineError(
            "this llama-server does not know the options that --draft needs",
            where=where,
            wanted="a llama.cpp with --spec-type",
            remedy="update it (in Termux: pkg upgrade), or give --draft off",
        )
    if code >= 0:
        return EngineError(
            message("llama-server ended by itself (exit code {code})", code=code),
            where=where,
            remedy="the lines above say why; the transcript is kept",
        )
    death = how_it_died(code)
    return EngineError(
        message("llama-server {what} ({name})", what=death.what, name=death.name),
        where=where,
        remedy=message("{remedy}; the transcript is kept", remedy=death.helps)
        if death.helps
        else "the transcript is kept",
    )


def how_it_died(code: int) -> Death:
    """In words, for a child that ended with `code`, a signal's number below zero."""
    try:
        number = signal.Signals(-code)
    except ValueError:
        name = f"signal {-code}"
        return Death(name, message("was ended by {name}", name=name))
    what, helps = _DEATHS.get(number, (message("was ended by {name}", name=number.name), None))
    return Death(number.name, what, helps)
