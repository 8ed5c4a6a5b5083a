"""What `pedsup-run` does with its options: check, ask once, or hold a session."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from pedsup.chat.events import TurnResult
from pedsup.cli.output import print_document, show
from pedsup.cli.request import RunRequest
from pedsup.cli.run_session import (
    NO_HISTORY,
    history_folder,
    open_session,
    run_session,
    start_session,
)
from pedsup.crash.marker import RunMarker
from pedsup.engine.build_probe import engine_build
from pedsup.engine.grammar import read_grammar, read_json_schema
from pedsup.engine.select import engine_kind
from pedsup.errors import UsageError
from pedsup.files.paths import make_private
from pedsup.files.standard_streams import require_stdout, separate_native_stderr
from pedsup.memory import available_memory
from pedsup.messages import message
from pedsup.pictures.limits import MAX_PICTURES
from pedsup.pictures.picture import Picture
from pedsup.pictures.read import read_picture
from pedsup.progress import say
from pedsup.run.load import LoadedModel, check_fit, check_template, load, turn_settings
from pedsup.run.plan import LaunchPlan, plan_launch
from pedsup.run.preview import check_document, check_text
from pedsup.run.sight import require_sight
from pedsup.run.watch import say_aftermath, watched
from pedsup.session.consent import accepted_by_environment, require_consent
from pedsup.session.conversation import Conversation
from pedsup.session.files import find_session
from pedsup.session.transcript import read_records
from pedsup.settings.load import load_with_origins
from pedsup.settings.schema import Settings
from pedsup.terminal import oneshot
from pedsup.terminal.overview import overview
from pedsup.terminal.reading import terminal_reader
from pedsup.terminal.render import Renderer, pipe_renderer, terminal_renderer
from pedsup.terminal.repl import Repl
from pedsup.texts.intended_use import SHORT, Language
from pedsup.texts.language import set_language, translated
from pedsup.texts.notices import CUT
from pedsup.texts.safe import clean
from pedsup.texts.screen import screen_of


def execute(request: RunRequest) -> int:
    """Run the command; its exit code. Raises `PedsupError` for what users can cause or mend."""
    if request.port is not None and not request.serve:
        raise UsageError("--port is for --serve only", remedy="add --serve, or leave --port out")
    settings, origins = load_with_origins(request.settings_file, request.overrides)
    language = set_language(settings.lang)
    if request.alone:
        return _say_what_there_is(settings)
    request, settings = _with_model(request, settings)
    assert request.model is not None
    plan = plan_launch(
        request.model,
        settings,
        available=available_memory(),
        origins=origins,
        seeing=bool(request.images),
    )
    if request.check:
        return _check(plan, settings, as_json=request.as_json)
    if request.serve:
        return _serve(request, settings, plan, language)
    return _converse(request, settings, plan, language)


def _converse(request: RunRequest, settings: Settings, plan: LaunchPlan, language: Language) -> int:
    """Ask once, or hold a session."""
    # Everything that can go wrong cheaply goes wrong before the model is loaded.
    constraint = _constraint(request)
    pictures = _pictures(request, plan)
    require_stdout()
    question = None if request.interactive else oneshot.read_question(request.prompt)
    require_consent(language, accepted=request.accept_intended_use, ask=_asker())
    say_aftermath(resuming=request.resume is not None)
    with (
        watched(plan, settings) as marker,
        run_session(request, settings, plan, marker) as session,
        _loaded(plan, settings, marker) as loaded,
    ):
        turns = turn_settings(loaded, settings, **constraint)
        if question is not None:
            say(SHORT[language])
            _warn(loaded)
            piped = pipe_renderer(settings.think, language, answers=not request.as_json)
            asked = loaded.conversation(session, piped, marker=marker)
            result = asked.ask(question, turns, pictures)
            return _told(result, asked, loaded, as_json=request.as_json)
        view = terminal_renderer(settings.think, language)
        held = loaded.conversation(session, view, marker=marker)
        earlier = [exchange.user for exchange in session.exchanges]
        return Repl(held, loaded, turns, terminal_reader(earlier)).run()


def _told(
    result: TurnResult,
    conversation: Conversation[Renderer],
    loaded: LoadedModel,
    *,
    as_json: bool,
) -> int:
    if as_json:
        language = conversation.renderer.language
        print_document(oneshot.one_document(result, conversation, loaded, language))
    if result.stop_reason in ("length", "context"):
        say(CUT)
    return oneshot.exit_code(result)


def _serve(request: RunRequest, settings: Settings, plan: LaunchPlan, language: Language) -> int:
    """Serve the page and the protocol for programs until Ctrl-C."""
    from pedsup.serve.command import DEFAULT_PORT, ServeRequest, serve
    from pedsup.serve.http_server import reserve_port

    if request.prompt is not None or request.images or request.grammar or request.json_schema:
        raise UsageError(
            "-p, --image, --grammar and --json-schema are not for --serve",
            remedy="leave them out: each request brings its own question, pictures and "
            "response_format",
        )
    if request.accept_intended_use or accepted_by_environment():
        require_consent(language, accepted=True, ask=None)
    resumed = open_session(request, settings, plan) if request.resume is not None else None
    if settings.history and resumed is None:
        make_private(history_folder(settings), remedy=NO_HISTORY)
    with closing(reserve_port(DEFAULT_PORT if request.port is None else request.port)) as sock:
        serving = ServeRequest(
            sock=sock,
            language=language,
            chosen_language=settings.lang,
            as_json=request.as_json,
            system=settings.system or "",
            fixed_seed=settings.seed is not None,
            folder=history_folder(settings) if settings.history else None,
            make_session=lambda: start_session(settings, plan),
            resumed=resumed,
        )
        say_aftermath(resuming=request.resume is not None)
        with (
            watched(plan, settings) as marker,
            _loaded(plan, settings, marker) as loaded,
        ):
            return serve(serving, loaded, turn_settings(loaded, settings))


def _warn(loaded: LoadedModel) -> None:
    """Say once per run that nobody vouches for the model."""
    if loaded.trust is not None and loaded.trust.warns:
        for line in loaded.trust.lines():
            say(line.mapped(clean))


def _check(plan: LaunchPlan, settings: Settings, *, as_json: bool) -> int:
    """Print the plan; a model that would be refused is an error here too."""
    build = engine_build(engine_kind(settings.engine))
    text = check_text(plan, build, screen_of(sys.stdout).width())
    show(as_json, check_document(plan, build), [text])
    check_fit(plan, settings)
    check_template(plan, settings)
    return 0


def _say_what_there_is(settings: Settings) -> int:
    screen = screen_of(sys.stdout)
    folders = (Path.cwd(), Path.home() / "pedsup")  # the second: install.sh puts models there
    for line in overview(history_folder(settings), folders).lines():
        text = translated(line)
        command = text.startswith("  ")  # to be copied: a path with a break in it could not be
        print(text if command else screen.wrapped(text, "    "), flush=True)
    return 0


def _constraint(request: RunRequest) -> dict[str, str]:
    """The text of `--grammar` or `--json-schema`, checked."""
    if request.grammar is not None and request.json_schema is not None:
        raise UsageError("--grammar and --json-schema cannot be used together", remedy="give one")
    if request.grammar is not None:
        return {"grammar": read_grammar(request.grammar)}
    if request.json_schema is not None:
        return {"json_schema": read_json_schema(request.json_schema)}
    return {}


def _pictures(request: RunRequest, plan: LaunchPlan) -> tuple[Picture, ...]:
    """The pictures of `--image`, checked.

    Raises:
        UsageError: too many of them.
        UnsupportedError, ResourceError: the model has no projector, or no room for it.
        MissingDependencyError: this build of llama.cpp cannot see.
        BadFileError, UnsupportedError: a file is not a picture that is accepted.
    """
    if not request.images:
        return ()
    require_sight(plan.blind, plan.config)
    if len(request.images) > MAX_PICTURES:
        raise UsageError(
            message("{n} pictures were given", n=len(request.images)),
            wanted=message("at most {n} in one question", n=MAX_PICTURES),
        )
    return tuple(read_picture(path) for path in request.images)


def _with_model(request: RunRequest, settings: Settings) -> tuple[RunRequest, Settings]:
    """The request with a model: `--resume` alone takes the one that the session was held with,
    and its adapter.
    """
    model, resume = request.model, request.resume
    if model is None and resume is not None and resume.endswith(".gguf"):
        # `--resume model.gguf`: the option took the model for an id.
        return replace(request, model=Path(resume), resume="last"), settings
    if model is None and resume is not None:
        first = read_records(find_session(history_folder(settings), resume))[0]
        held = first.get("model")
        known = held if isinstance(held, dict) else {}
        path, adapter = known.get("path"), known.get("adapter_path")
        if isinstance(path, str):
            if isinstance(adapter, str) and settings.adapter is None:
                settings = replace(settings, adapter=adapter)
            return replace(request, model=Path(path)), settings
    if model is None:
        raise UsageError(
            "no model was given",
            wanted="a GGUF file",
            remedy="pedsup-run model.gguf; pedsup-run alone, in a terminal, lists those known here",
        )
    return request, settings


def _asker() -> Callable[[str], str] | None:
    """Ask on the terminal, without touching standard output; None when nobody is there."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None

    def ask(question: str) -> str:
        print(question, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line

    return ask


@contextmanager
def _loaded(
    plan: LaunchPlan, settings: Settings, marker: RunMarker | None
) -> Iterator[LoadedModel]:
    separate_native_stderr()
    loaded = load(plan, settings)
    if marker is not None:
        marker.set_phase("ready")
    try:
        yield loaded
    finally:
        loaded.engine.close()
