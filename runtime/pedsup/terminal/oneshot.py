"""One question, one answer: for scripts and for a quick look."""

from __future__ import annotations

from dataclasses import asdict

from pedsup import __version__
from pedsup.chat.events import TurnResult
from pedsup.errors import EngineError, UsageError
from pedsup.exit_codes import ExitCode
from pedsup.files.standard_streams import read_all, require_text
from pedsup.progress import report
from pedsup.run.load import LoadedModel
from pedsup.session.conversation import Conversation, turn_facts
from pedsup.terminal.render import Renderer
from pedsup.texts.intended_use import FULL, SHORT, Language

SCHEMA = "pedsup-run/1"


def read_question(prompt: str | None) -> str:
    """The text of `-p`, else standard input.

    With `-p` standard input is left alone: it may be the list that a shell loop reads from.

    Raises:
        UsageError: the text is missing, or is in an unknown encoding.
    """
    text = prompt if prompt is not None else read_all()
    if not text or not text.strip():
        raise UsageError(
            "there is no question", remedy='give -p "..." or write the text to standard input'
        )
    return require_text(text).strip()


def exit_code(result: TurnResult) -> int:
    """0 for an answer; an interrupted or empty one is a failure that a script can see."""
    if result.stop_reason == "interrupted":
        return ExitCode.INTERRUPTED
    if result.answer.strip():
        return ExitCode.DONE
    report(
        EngineError(
            "the model gave no answer",
            wanted="text after the reasoning",
            remedy="ask again with another --seed, a larger --think-budget or --think off",
        )
    )
    return EngineError.exit_code


def one_document(
    result: TurnResult,
    conversation: Conversation[Renderer],
    loaded: LoadedModel,
    language: Language,
) -> dict[str, object]:
    sampling = asdict(loaded.sampling)
    for internal in ("grammar", "json_schema", "banned"):
        sampling.pop(internal, None)
    facts = turn_facts(result, conversation.findings)
    warmed = conversation.warmed
    loading = {
        "load_s": round(loaded.load_s, 4),
        "system_s": round(warmed.seconds, 4) if warmed else 0.0,
    }
    return {
        "schema": SCHEMA,
        "answer": result.answer,
        "reasoning": result.reasoning,
        "stop_reason": result.stop_reason,
        **facts,
        "timings": {**facts["timings"], **loading},
        "sampling": sampling,
        "context": loaded.engine.n_ctx,
        "threads": loaded.threads.n_threads,
        "engine": loaded.engine.name,
        "build": loaded.engine.build.describe() if loaded.engine.build else None,
        "template": loaded.template.name,
        "model": loaded.identity.describe(),
        "trust": loaded.trust.describe() if loaded.trust else None,
        "session": conversation.session.id or None,
        "pedsup": __version__,
        "intended_use": {"short": SHORT[language], "full": FULL[language]},
    }
