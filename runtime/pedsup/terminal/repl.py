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
from pedsup.messages import Message, message, reason_of
from pedsup.progress import report
from pedsup.run.load import LoadedModel
from pedsup.run.stats import stats_text
from pedsup.session.conversation import Conversation
from pedsup.session.history import save_copy
from pedsup.session.texts import CUT, STILL_THERE
from pedsup.terminal.recap import recap
from pedsup.terminal.render import Renderer, ThinkView
from pedsup.texts.intended_use import SHORT, Language
from pedsup.texts.language import set_language, translated
from pedsup.texts.safe import clean

PROMPT: Final = "> "
MORE: Final = ". "
FENCE: Final = '"""'
HELP: Final = message(
    "/help                     this list\n"
    "/think on|off             reason before answering, or answer at once\n"
    "/think shown|hidden       show the reasoning, or fold it to a counter\n"
    "/budget N|none            tokens of reasoning before the answer must begin\n"
    "/reasoning                print the reasoning of the last answer\n"
    "/system [TEXT]            show or set the system prompt\n"
    "/reset                    start afresh (the transcript keeps everything)\n"
    "/save [FILE]              write the conversation to a file (.md or .jsonl)\n"
    "/stats                    tokens, speed and memory\n"
    "/lang en|es               language of these messages\n"
    "/quit                     leave\n"
    'Several lines: begin and end with """, or end a line with a backslash.'
)
_TAKES: Final = message("{command} takes: {values}")
_VIEWS: Final[dict[ThinkView, Message]] = {
    "shown": message("shown"),
    "hidden": message("hidden"),
    "off": message("off"),
}


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
                line = require_text(read_message(self.read_line))
                if line.startswith("/"):
                    self._command(line)
                elif line:
                    self.last = self._ask(line)
            except KeyboardInterrupt:
                self._tell(message("\n(Ctrl-D or /quit leaves)"))
            except EOFError:
                break
            except EngineError as error:
                if not self.conversation.engine.restartable:
                    self._tell_kept(STILL_THERE)
                    raise
                report(error)
                self.engine_gone = True
                self._tell(
                    message("The conversation is kept. Your next question starts the model again.")
                )
            except (BrokenPipeError, UntrustedError):
                self._tell_kept(STILL_THERE)
                raise
            except PedsupError as error:
                # A question that is too long, a grammar that is wrong: the session goes on.
                report(error)
        self._tell_kept(message("Session {id} is kept."))
        return 0

    def _ask(self, question: str) -> TurnResult:
        if self.engine_gone:
            self._tell(message("[starting the model again]"))
            self.conversation.restart_engine()
            self.engine_gone = False
        result = self.conversation.ask(question, self.settings)
        if result.stop_reason == "interrupted":
            self._tell(message("[stopped]"))
        elif result.stop_reason in ("length", "context"):
            self._tell(CUT)
        self._say("")
        return result

    # ---- commands -----------------------------------------------------------------------

    def _command(self, line: str) -> None:
        word, _, argument = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._tell(HELP),
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
            self._tell(
                message(
                    "No such command: {word} ({near}?). /help lists them.", word=word, near=near[0]
                )
                if near
                else message("No such command: {word}. /help lists them.", word=word)
            )
            return
        action(argument.strip())

    def _think(self, argument: str) -> None:
        renderer = self.conversation.renderer
        if not self.conversation.template.supports_thinking:
            self._tell(message("This model has no reasoning channel."))
            return
        if argument in ("shown", "hidden"):
            renderer.view = "shown" if argument == "shown" else "hidden"
            self.settings = replace(self.settings, think=True)
        elif argument in ("on", "off"):
            self.settings = replace(self.settings, think=argument == "on")
            if argument == "on" and renderer.view == "off":
                renderer.view = "shown"
        elif argument:
            self._tell(_TAKES.filled(command="/think", values="on, off, shown, hidden"))
            return
        self._tell(
            message(
                "Reasoning: {view}", view=_VIEWS[renderer.view if self.settings.think else "off"]
            )
        )

    def _budget(self, argument: str) -> None:
        if argument == "none":
            self.settings = replace(self.settings, think_budget=None)
        elif argument.isdecimal() and len(argument) < 8:
            self.settings = replace(self.settings, think_budget=int(argument))
        elif argument:
            self._tell(_TAKES.filled(command="/budget", values="N, none"))
            return
        budget = self.settings.think_budget
        self._tell(
            message("Reasoning budget: none")
            if budget is None
            else message("Reasoning budget: {n} tokens", n=budget)
        )

    def _reasoning(self, _argument: str) -> None:
        reasoning = self.last.reasoning if self.last else ""
        if reasoning.strip():
            self._say(clean(reasoning.strip()))
        else:
            self._tell(message("The last answer has no reasoning."))

    def _system(self, argument: str) -> None:
        session = self.conversation.session
        if argument:
            session.set_system(argument)
        self._tell(
            message("System prompt: {text}", text=clean(session.system))
            if session.system
            else message("System prompt: (none)")
        )

    def _reset(self, _argument: str) -> None:
        self.conversation.session.reset()
        self._tell(message("The conversation starts afresh."))

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
        self._tell(message("Saved: {path}", path=target))

    def _stats(self, _argument: str) -> None:
        stats = stats_text(self.loaded, self.last, self.conversation.session.id)
        self._tell(stats)

    def _lang(self, argument: str) -> None:
        if argument not in ("en", "es"):
            self._tell(_TAKES.filled(command="/lang", values="en, es"))
            return
        self.conversation.renderer.language = "es" if argument == "es" else "en"
        set_language(self._language)
        self._tell(message("Messages are in English."))

    def _quit(self, _argument: str) -> None:
        self.leaving = True

    # ---- words --------------------------------------------------------------------------

    def _greet(self) -> None:
        for line in self.loaded.lines():
            self._tell(line)
        self._say(SHORT[self._language])
        self._tell(
            message("Ready. /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.")
        )
        session = self.conversation.session
        if not session.exchanges:
            return
        n = len(session.exchanges)
        self._tell(
            message("Resumed session {id} with 1 turn.", id=session.id)
            if n == 1
            else message("Resumed session {id} with {n} turns.", id=session.id, n=n)
        )
        for shown in recap(session, self._language):
            self._say(shown)

    def _tell_kept(self, text: Message) -> None:
        session = self.conversation.session
        if session.transcript is not None and session.exchanges:
            self._tell(text.filled(id=session.id))

    def _tell(self, text: Message) -> None:
        self._say(translated(text, self._language))

    def _say(self, line: str) -> None:
        print(line, file=sys.stdout, flush=True)
