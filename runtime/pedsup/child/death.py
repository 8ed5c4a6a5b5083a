"""How a child process ended, in words, and what helps."""

from __future__ import annotations

import signal
from typing import Final, NamedTuple

from pedsup.messages import Message, message


class Death(NamedTuple):
    """How a child ended by a signal, and what helps."""

    name: str
    """Name of the signal."""
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


def ended(code: int) -> Message:
    """How a child ended, without its subject: 'ended by itself (exit code 1)'.

    Args:
        code: its exit code, or the number of a signal below zero.
    """
    if code >= 0:
        return message("ended by itself (exit code {code})", code=code)
    death = how_it_died(code)
    return message("{what} ({name})", what=death.what, name=death.name)


def how_it_died(code: int) -> Death:
    """For a child that ended by a signal; `code` is its number below zero."""
    try:
        number = signal.Signals(-code)
    except ValueError:
        name = f"signal {-code}"
        return Death(name, message("was ended by {name}", name=name))
    what, helps = _DEATHS.get(number, (message("was ended by {name}", name=number.name), None))
    return Death(number.name, what, helps)
