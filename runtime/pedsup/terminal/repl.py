"""The interactive session."""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pedsup.chat.turn import TurnResult, TurnSettings
from pedsup.errors import EngineError, OutputError, PedsupError, UntrustedError
from pedsup.files.standard_streams import require_text
from pedsup.messages import message, reason_of
from pedsup.progress import report
from pedsup.run.load import LoadedModel
from pedsup.run.stats import stats_text
from pedsup.session.conversation import Conversation
from pedsup.session.history import save_copy
from pedsup.terminal.recap import recap
from pedsup.terminal.render import Renderer
from pedsup.texts.intended_use import SHORT, Language
from pedsup.texts.language import set_language, translated
from pedsup.texts.safe import clean
from pedsup.texts.words import text

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
    """`input`, with line editing and the session's earlier questions where readline exists.

    The history lives in memory only: what was asked is in the transcript, if anywhere.
    """
    try:
        import readline
    except ImportError:  # Python builds without it
        return input
    for question in earlier:
        readline.add_history(question.replace("\n", " "))
    return input


@dataclass
class Repl:
    """The state of an interactive session."""

    conversation: Conversation[Renderer]
    loaded: LoadedModel
    settings: TurnSettings
    read_line: Callable[[str], str]
    last: TurnResult | None = None
    leaving: bool = False
    engine_gone: bool = False
    """The engine failed; it is started again with the next question."""

    @property
    def _language(self) -> Language:
        return self.conversation.renderer.language

    def run(self) -> int:
        """Until the user leaves. Returns the exit code; the transcript is complete at any time."""
        # A parent that ignores Ctrl-C (nohup, a shell's background job) hands that down.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return self._run()

    def _run(self) -> int:
        self._greet()
        while not self.leaving:
            try:
                message = require_text(read_message(self.read_line))
                if message.startswith("/"):
                    self._command(message)
                elif message:
                    self.last = self._ask(message)
            except KeyboardInterrupt:
                self._say("\n" + self._text("leave_hint"))
            except EOFError:
                break
            except EngineError as error:
                if not self.conversation.engine.restartable:
                    self._say_kept("still_there")
                    raise
                report(error)
                self.engine_gone = True
                self._say(self._text("engine_gone"))
            except (BrokenPipeError, UntrustedError):
                self._say_kept("still_there")
                raise
            except PedsupError as error:
                # A question that is too long, a grammar that is wrong: the session goes on.
                report(error)
        self._say_kept("goodbye")
        return 0

    def _ask(self, message: str) -> TurnResult:
        if self.engine_gone:
            self._say(self._text("engine_again"))
            self.conversation.restart_engine()
            self.engine_gone = False
        result = self.conversation.ask(message, self.settings)
        if result.stop_reason == "interrupted":
            self._say(self._text("stopped"))
        elif result.stop_reason in ("length", "context"):
            self._say(self._text("cut"))
        self._say("")
        return result

    # ---- commands -----------------------------------------------------------------------

    def _command(self, message: str) -> None:
        word, _, argument = message.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._say(self._text("help")),
            "/think": self._think,
            "/budget": self._budget,
            "/reasoning": self._reasoning,
            "/system": self._system,
            "/reset": self._reset,
            "/save": self._save,
            "/stats": self._stats,
            "/lang": self._lang,
            "/quit": self._quit,
            "/exit": self._quit,
        }
        action = commands.get(word.lower())
        if action is None:
            near = difflib.get_close_matches(word.lower(), commands, n=1)
            self._say(self._text("bad_command", text=word + (f" ({near[0]}?)" if near else "")))
            return
        action(argument.strip())

    def _think(self, argument: str) -> None:
        renderer = self.conversation.renderer
        if not self.conversation.template.supports_thinking:
            self._say(self._text("no_thinking"))
            return
        if argument in ("shown", "hidden"):
            renderer.view = "shown" if argument == "shown" else "hidden"
            self.settings = replace(self.settings, think=True)
        elif argument in ("on", "off"):
            self.settings = replace(self.settings, think=argument == "on")
            if argument == "on" and renderer.view == "off":
                renderer.view = "shown"
        elif argument:
            self._say(self._text("bad_argument", command="/think", text="on, off, shown, hidden"))
            return
        self._say(self._text("think_is", text=renderer.view if self.settings.think else "off"))

    def _budget(self, argument: str) -> None:
        if argument == "none":
            self.settings = replace(self.settings, think_budget=None)
        elif argument.isdecimal() and len(argument) < 8:
            self.settings = replace(self.settings, think_budget=int(argument))
        elif argument:
            self._say(self._text("bad_argument", command="/budget", text="N, none"))
            return
        budget = self.settings.think_budget
        self._say(
            self._text("budget_is", text=self._text("none") if budget is None else str(budget))
        )

    def _reasoning(self, _argument: str) -> None:
        reasoning = self.last.reasoning if self.last else ""
        self._say(clean(reasoning.strip()) or self._text("no_reasoning"))

    def _system(self, argument: str) -> None:
        session = self.conversation.session
        if argument:
            session.set_system(argument)
        self._say(self._text("system_is", text=clean(session.system) or self._text("none")))

    def _reset(self, _argument: str) -> None:
        self.conversation.session.reset()
        self._say(self._text("reset_done"))

    def _save(self, argument: str) -> None:
        session = self.conversation.session
        target = Path(argument or f"session-{session.id or 'unnamed'}.md").expanduser()
        if target.exists():
            raise OutputError(
                "not saved: the file exists", where=target, remedy="/save with another name"
            )
        try:
            save_copy(session, target, self._language)
        except OSError as error:
            raise OutputError(
                message("not saved: {reason}", reason=reason_of(error)), where=target
            ) from error
        self._say(self._text("saved", path=target))

    def _stats(self, _argument: str) -> None:
        stats = stats_text(self.loaded, self.last, self.conversation.session.id)
        self._say(translated(stats, self._language))

    def _lang(self, argument: str) -> None:
        if argument not in ("en", "es"):
            self._say(self._text("bad_argument", command="/lang", text="en, es"))
            return
        self.conversation.renderer.language = "es" if argument == "es" else "en"
        set_language(self._language)
        self._say(self._text("lang_is"))

    def _quit(self, _argument: str) -> None:
        self.leaving = True

    # ---- words --------------------------------------------------------------------------

    def _greet(self) -> None:
        for line in self.loaded.lines(self._language):
            self._say(line)
        self._say(SHORT[self._language])
        self._say(self._text("ready"))
        session = self.conversation.session
        if not session.exchanges:
            return
        self._say(self._text("resumed", id=session.id, n=len(session.exchanges)))
        for line in recap(session, self._language):
            self._say(line)

    def _say_kept(self, key: str) -> None:
        session = self.conversation.session
        if session.transcript is not None and session.exchanges:
            self._say(self._text(key, id=session.id))

    def _text(self, key: str, **values: object) -> str:
        return text(key, self._language, **values)

    def _say(self, line: str) -> None:
        print(line, file=sys.stdout, flush=True)
