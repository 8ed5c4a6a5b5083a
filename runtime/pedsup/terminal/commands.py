"""The commands of a session: their names in both languages, their help, what Tab adds to them."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pedsup.messages import Message, message
from pedsup.texts.intended_use import Language
from pedsup.texts.language import translated
from pedsup.texts.screen import Screen

HELP_COLUMN: Final = 30
"""Where the explanations begin on a screen that is wide enough for two columns."""
WIDE: Final = 80


@dataclass(frozen=True)
class Value:
    """A word that a command takes, or a command's own."""

    name: str
    spanish: str

    def said(self, language: Language) -> str:
        """In a language; both are taken in both."""
        return self.spanish if language == "es" else self.name


@dataclass(frozen=True)
class Command(Value):
    """One command; `name` is the one that the program uses."""

    help: Message
    values: tuple[Value, ...] = ()
    argument: Message | None = None
    aliases: tuple[str, ...] = ()

    def usage(self, language: Language) -> str:
        words = [value.said(language) for value in self.values]
        if self.argument is not None:
            words.insert(0, translated(self.argument, language))
        return " ".join([self.said(language), "|".join(words)]).strip()

    def value(self, word: str) -> str:
        """The value that a word means, in either language; the word itself where it is none."""
        for value in self.values:
            if _bare(word) in (_bare(value.name), _bare(value.spanish)):
                return value.name
        return word


COMMANDS: Final = (
    Command("help", "ayuda", message("this list")),
    Command(
        "think", "pensar",
        message("reason before answering or not; show the reasoning, or fold it to a counter"),
        (Value("on", "sí"), Value("off", "no"), Value("shown", "visible"),
         Value("hidden", "oculto")),
    ),
    Command(
        "budget", "presupuesto", message("tokens of reasoning before the answer must begin"),
        (Value("none", "ninguno"),), message("N"),
    ),
    Command("reasoning", "razonamiento", message("print the reasoning of the last answer")),
    Command(
        "system", "sistema", message("show or set the system prompt"), (), message("[TEXT]")
    ),
    Command(
        "image", "imagen", message("show a photo (JPEG or PNG) with your next question"),
        (Value("none", "ninguna"),), message("[FILE]"),
    ),
    Command("reset", "reiniciar", message("start afresh (the transcript keeps everything)")),
    Command(
        "save", "guardar", message("write the conversation to a file: .md, .txt or .jsonl"),
        (), message("[FILE]"),
    ),
    Command(
        "stats", "datos", message("speed, tokens and memory"), aliases=("estadisticas",)
    ),
    Command("model", "modelo", message("which model this is, and who vouches for it")),
    Command(
        "lang", "idioma", message("language of these messages"),
        (Value("en", "en"), Value("es", "es")),
    ),
    Command("quit", "salir", message("leave"), aliases=("exit",)),
)  # fmt: skip
LEAVING: Final = frozenset({"quit", "exit", "salir"})
"""Words that, typed alone and without the slash, are asked about."""


def find(word: str) -> Command | None:
    """The command that a word with a slash names, in either language, with accents or without."""
    bare = _bare(word.removeprefix("/"))
    found = (c for c in COMMANDS if bare in (c.name, c.spanish, *c.aliases))
    return next(found, None)


def nearest(word: str, language: Language) -> str | None:
    """The name that was most likely meant, with its slash; those of the language come first."""
    bare = _bare(word.removeprefix("/"))
    other: Language = "en" if language == "es" else "es"
    for names in ([c.said(language) for c in COMMANDS], [c.said(other) for c in COMMANDS]):
        if near := difflib.get_close_matches(bare, names, n=1):
            return f"/{near[0]}"
    return None


def help_text(screen: Screen, language: Language) -> str:
    """Every command with what it does, as the screen is wide."""
    width = screen.width()
    lines = [_row(command, screen, language, width) for command in COMMANDS]
    notes = (
        message("The names in Spanish work too (/ayuda), and Tab completes."),
        message('Several lines: begin and end with """, or end a line with a backslash.'),
        message("Ctrl-C stops an answer; Ctrl-D leaves."),
    )
    return "\n".join([*lines, *(screen.wrapped(translated(note, language)) for note in notes)])


def completions(line: str, language: Language) -> list[str]:
    """What Tab offers for a line that begins with a slash: whole words for its last one."""
    word, space, typed = line.partition(" ")
    if not word.startswith("/"):
        return []
    if space:
        command = find(word)
        values = command.values if command is not None and " " not in typed else ()
        return [v.said(language) for v in values if _starts(v.said(language), typed)]
    names = [f"/{command.said(language)}" for command in COMMANDS]
    return [n for n in names if _starts(n, word)] or [n for n in _names() if _starts(n, word)]


def _names() -> Iterator[str]:
    for command in COMMANDS:
        yield from (f"/{command.name}", f"/{command.spanish}")


def _row(command: Command, screen: Screen, language: Language, width: int | None) -> str:
    usage, text = f"/{command.usage(language)}", translated(command.help, language)
    if width is not None and width < WIDE:
        line = screen.wrapped(f"{usage}: {text}", "    ")
    else:
        line = screen.wrapped(f"{usage:<{HELP_COLUMN}}{text}", " " * HELP_COLUMN)
    return screen.styled(usage, "title") + line.removeprefix(usage) if usage in line else line


def _starts(name: str, typed: str) -> bool:
    return _bare(name).startswith(_bare(typed))


def _bare(word: str) -> str:
    """Without accents and capitals: phones write them in, or leave them out."""
    plain = unicodedata.normalize("NFKD", word.lower())
    return "".join(c for c in plain if not unicodedata.combining(c))
