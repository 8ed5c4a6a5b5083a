"""What a person types: lines, blocks, line editing and completion."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from pedsup.terminal.commands import completions
from pedsup.texts.language import current_language
from pedsup.texts.screen import screen_of

PROMPT: Final = "> "
MORE: Final = ". "
FENCE: Final = '"""'


def read_message(read_line: Callable[[str], str]) -> str:
    """One message: a line, lines joined by trailing backslashes, or a block between triple quotes.

    Raises:
        EOFError: the input ended before a message began.
    """
    line = read_line(PROMPT)
    if line.lstrip().startswith(FENCE):
        return _read_block(line.lstrip()[len(FENCE) :], read_line)
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        try:
            line = read_line(MORE)
        except EOFError:
            line = ""
    return "\n".join([*lines, line]).strip()


def _read_block(line: str, read_line: Callable[[str], str]) -> str:
    lines = []
    while not line.rstrip().endswith(FENCE):
        lines.append(line)
        try:
            line = read_line(MORE)
        except EOFError:
            return "\n".join(lines).strip()
    lines.append(line.rstrip()[: -len(FENCE)])
    return "\n".join(lines).strip()


def terminal_reader(earlier: list[str]) -> Callable[[str], str]:
    """`input`, with line editing, Tab and the session's earlier questions where readline exists.

    The history lives in memory only: what was asked is in the transcript, if anywhere.
    """
    screen = screen_of(sys.stdout)
    try:
        import readline
    except ImportError:  # Python builds without it
        return lambda prompt: input(screen.styled(prompt, "prompt"))
    for question in earlier:
        readline.add_history(question.replace("\n", " "))
    readline.set_completer(lambda _, n: _completion(readline.get_line_buffer(), n))
    readline.set_completer_delims(" ")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    if not libedit:
        # Where the locale's name is not installed, bytes above 127 would be keys with Meta: the
        # "¿" that begins a question would be lost.
        for setting in ("input-meta on", "output-meta on", "convert-meta off"):
            readline.parse_and_bind(f"set {setting}")

    def read(prompt: str) -> str:
        # What takes no room on the screen is marked: otherwise readline breaks lines too early.
        codes = (f"\x01{code}\x02" if code else "" for code in
                 (screen.begin("prompt"), screen.end()))  # fmt: skip
        return input(prompt.join(codes))

    return read


def _completion(line: str, n: int) -> str | None:
    found = completions(line, current_language())
    return found[n] if n < len(found) else None
