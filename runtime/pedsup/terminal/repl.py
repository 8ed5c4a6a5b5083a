"""The interactive session."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pedsup.chat.events import TurnResult, TurnSettings
from pedsup.engine.limits import cannot_see
from pedsup.errors import EngineError, PedsupError, UntrustedError
from pedsup.files.paths import from_user
from pedsup.files.standard_streams import require_text
from pedsup.messages import Message, message
from pedsup.pictures.limits import MAX_PICTURES
from pedsup.pictures.picture import Picture
from pedsup.pictures.read import read_picture
from pedsup.progress import report
from pedsup.run.load import LoadedModel
from pedsup.run.stats import stats_text
from pedsup.session.consent import YES
from pedsup.session.conversation import Conversation
from pedsup.session.copy import save_copy
from pedsup.terminal.commands import LEAVING, find, help_text, nearest
from pedsup.terminal.reading import read_message
from pedsup.terminal.recap import recap
from pedsup.terminal.render import Renderer, ThinkView
from pedsup.texts.intended_use import BRIEF, SHORT, Language
from pedsup.texts.language import set_language, translated
from pedsup.texts.notices import CUT, STILL_THERE
from pedsup.texts.safe import clean
from pedsup.texts.screen import Screen, Style

_VIEWS: Final[dict[ThinkView, Message]] = {
    "shown": message("shown"),
    "hidden": message("hidden"),
    "off": message("off"),
}


@dataclass
class Repl:
    """The state of an interactive session."""

    conversation: Conversation[Renderer]
    loaded: LoadedModel
    settings: TurnSettings
    read_line: Callable[[str], str]
    last: TurnResult | None = None
    leaving: bool = False
    pictures: tuple[Picture, ...] = ()
    """To be shown with the next question."""
    engine_gone: bool = False
    """The engine failed; it is started again with the next question."""

    @property
    def _language(self) -> Language:
        return self.conversation.renderer.language

    def run(self) -> int:
        """Until the user leaves. Returns the exit code; the transcript is complete at any time."""
        # A parent that ignores Ctrl-C (nohup, a shell's background job) hands that down.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._greet()
        while not self.leaving:
            try:
                line = require_text(read_message(self.read_line))
                if line.startswith("/"):
                    self._command(line)
                elif line.lower() in LEAVING:
                    self._ask_to_leave()
                elif line:
                    self.last = self._ask(line)
            except KeyboardInterrupt:
                self._say("")
                self._tell(message("(Ctrl-D or /quit leaves)"))
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
        pictures, self.pictures = self.pictures, ()
        result = self.conversation.ask(question, self.settings, pictures)
        if result.stop_reason == "interrupted":
            self._tell(message("[stopped]"))
        elif result.stop_reason in ("length", "context"):
            self._tell(CUT)
        self._say("")
        return result

    # ---- commands -----------------------------------------------------------------------

    def _command(self, line: str) -> None:
        word, _, argument = line.partition(" ")
        command = find(word)
        if command is None:
            near = nearest(word, self._language)
            self._tell(
                message(
                    "No such command: {word}. Did you mean {near}? /help lists them.",
                    word=word,
                    near=near,
                )
                if near
                else message("No such command: {word}. /help lists them.", word=word)
            )
            return
        actions: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "think": self._think,
            "budget": self._budget,
            "reasoning": self._reasoning,
            "system": self._system,
            "image": self._image,
            "reset": self._reset,
            "save": self._save,
            "stats": self._stats,
            "model": self._model,
            "lang": self._lang,
            "quit": self._quit,
        }
        actions[command.name](command.value(argument.strip()))

    def _takes(self, word: str) -> None:
        command = find(word)
        assert command is not None
        said = f"/{command.usage(self._language)}"
        self._tell(message("{word} takes: {usage}", word=said.partition(" ")[0], usage=said))

    def _help(self, _argument: str) -> None:
        print(help_text(self._screen, self._language), flush=True)

    def _ask_to_leave(self) -> None:
        reply = self.read_line(translated(message("Leave? [y/N] "), self._language))
        self.leaving = reply.strip().lower() in YES

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
            self._takes("think")
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
            self._takes("budget")
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

    def _image(self, argument: str) -> None:
        if argument == "none":
            self.pictures = ()
        elif argument:
            if not self.conversation.engine.can_see:
                raise cannot_see()
            if len(self.pictures) == MAX_PICTURES:
                self._tell(message("No more than {n} photos go with a question.", n=MAX_PICTURES))
                return
            self.pictures += (read_picture(_unquoted(argument)),)
        n = len(self.pictures)
        self._tell(
            message("Photos for the next question: {n}.", n=n)
            if n
            else message("No photo goes with the next question.")
        )

    def _reset(self, _argument: str) -> None:
        self.conversation.session.reset()
        self._tell(message("The conversation starts afresh."))

    def _save(self, argument: str) -> None:
        session = self.conversation.session
        target = from_user(argument or f"session-{session.id or 'unnamed'}")
        target = target if target.suffix else target.with_name(f"{target.name}.md")
        save_copy(session, target, self._language)
        self._tell(message("Saved: {path}", path=target))

    def _stats(self, _argument: str) -> None:
        self._tell(stats_text(self.loaded, self.last, self.conversation.session.id))

    def _model(self, _argument: str) -> None:
        for line in self.loaded.lines():
            self._tell(line)
        self._say(SHORT[self._language])

    def _lang(self, argument: str) -> None:
        if argument not in ("en", "es"):
            self._takes("lang")
            return
        self.conversation.renderer.language = "es" if argument == "es" else "en"
        set_language(self._language)
        self._tell(message("Messages are in English."))

    def _quit(self, _argument: str) -> None:
        self.leaving = True

    # ---- words --------------------------------------------------------------------------

    @property
    def _screen(self) -> Screen:
        return self.conversation.renderer.out

    def _greet(self) -> None:
        """At most five lines of 40 columns; /model says the rest."""
        name, width, trust = self.loaded.identity.name, self._screen.width(), self.loaded.trust
        self._say(name if not width or len(name) <= width else f"{name[: width - 1]}…", "title")
        if trust is not None:
            self._say(translated(trust.brief(), self._language), "warning" if trust.warns else None)
        self._say(BRIEF[self._language])
        self._tell(message("/help: commands. /quit: leave."))
        for shown in recap(self.conversation.session, self._language):
            self._say(shown)

    def _tell_kept(self, text: Message) -> None:
        session = self.conversation.session
        if session.transcript is not None and session.exchanges:
            self._tell(text.filled(id=session.id))

    def _tell(self, text: Message) -> None:
        self._say(translated(text, self._language))

    def _say(self, line: str, style: Style | None = None) -> None:
        shown = self._screen.wrapped(line)
        print(self._screen.styled(shown, style) if style else shown, file=sys.stdout, flush=True)


def _unquoted(argument: str) -> Path:
    """A file's name as typed, also in quotes as a shell wants a name with spaces."""
    path = from_user(argument)
    quoted = len(argument) > 2 and argument[0] in "'\"" and argument[-1] == argument[0]
    return from_user(argument[1:-1]) if quoted and not path.exists() else path
