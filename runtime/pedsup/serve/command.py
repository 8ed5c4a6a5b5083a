"""`pedsup-run MODEL --serve`: from a loaded model to a running server, and back."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from waitress import wasyncore

from pedsup import __version__
from pedsup.chat.events import TurnSettings
from pedsup.files.envelope import enveloped
from pedsup.messages import message
from pedsup.progress import say
from pedsup.run.load import LoadedModel
from pedsup.serve.completions import Completions
from pedsup.serve.conversation_list import ConversationList
from pedsup.serve.conversations import Conversations
from pedsup.serve.http_server import HOST, LoopbackServer, make_server
from pedsup.serve.jobs import JobQueue
from pedsup.serve.model import Served
from pedsup.serve.page import manifest_reply, openapi_reply, page_reply
from pedsup.serve.page_api import PageApi
from pedsup.serve.web import Route, WebApp
from pedsup.session.history import Session
from pedsup.texts.intended_use import SHORT, Language
from pedsup.texts.notices import STILL_THERE

DEFAULT_PORT: Final = 8765
TOKEN_BYTES: Final = 24
DRAIN_S: Final = 3.0
"""How long the last events may take to reach their readers when the server ends."""


@dataclass(frozen=True)
class ServeRequest:
    """What the command line says about a server."""

    sock: socket.socket
    language: Language
    chosen_language: Language | None
    as_json: bool
    system: str
    fixed_seed: bool
    folder: Path | None
    """Where the page's conversations are kept; None: they are not."""
    make_session: Callable[[], Session]
    resumed: Session | None = None


@dataclass(frozen=True)
class Tokens:
    """What this start has drawn."""

    page: str
    """Opens everything."""
    programs: str
    """Opens OpenAI's protocol: asks the model, and reads no conversation of the page."""


def serve(request: ServeRequest, loaded: LoadedModel, settings: TurnSettings) -> int:
    """Answer until Ctrl-C or SIGTERM; returns the exit code.

    Raises:
        EngineError: the engine died.
    """
    served = Served(loaded, settings, request.system, request.fixed_seed)
    queue = JobQueue(served.engine_lives)
    conversations = Conversations(
        request.make_session,
        folder=request.folder,
        digest=loaded.identity.digest,
        resumed=request.resumed,
    )
    port = request.sock.getsockname()[1]
    tokens = Tokens(secrets.token_urlsafe(TOKEN_BYTES), secrets.token_urlsafe(TOKEN_BYTES))
    page = PageApi(served, queue, conversations, request.chosen_language)
    listed = ConversationList(conversations)
    app = WebApp(
        tokens.page, port, routes(page, listed, Completions(served, queue)), tokens.programs
    )
    with (
        ending_on_signals(queue),
        _listening(make_server(app, request.sock), queue),
        suppress(KeyboardInterrupt),
    ):
        _announce(request, served, tokens, port)
        queue.run()
    for name in conversations.close():
        say(STILL_THERE.filled(id=name))
    return 0


def routes(page: PageApi, listed: ConversationList, completions: Completions) -> tuple[Route, ...]:
    """Every path of the server; `openapi.json` describes the same."""
    return (
        Route("/", {"GET": page_reply()}, open=True),
        Route("/manifest.webmanifest", {"GET": manifest_reply()}, open=True),
        Route("/openapi.json", {"GET": openapi_reply()}, open=True),
        Route("/v1/models", {"GET": completions.models}),
        Route("/v1/models/*", {"GET": completions.model}),
        Route("/v1/chat/completions", {"POST": completions.create}, pictures=True),
        Route("/page/state", {"GET": page.state}, private=True),
        Route("/page/acknowledge", {"POST": page.acknowledge}, private=True),
        Route("/page/ask", {"POST": page.ask}, private=True, pictures=True),
        Route("/page/stop", {"POST": page.stop}, private=True),
        Route("/page/conversations", {"GET": listed.index}, private=True),
        Route("/page/conversations/*", {"GET": page.conversation}, private=True),
        Route("/page/search", {"POST": listed.search}, private=True),
        Route("/page/rename", {"POST": listed.rename}, private=True),
        Route("/page/delete", {"POST": listed.delete}, private=True),
        Route("/page/export", {"POST": listed.export}, private=True),
    )


@contextmanager
def ending_on_signals(queue: JobQueue) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal close the queue, whatever the main thread is at.

    A Python handler would not do: it waits for the main thread, which may just be beginning to
    wait for a lock, and during an answer Ctrl-C belongs to `Interrupts`.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        numbers.append(signal.SIGHUP)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    fd_before = signal.set_wakeup_fd(writer.fileno())
    thread = threading.Thread(target=_watch, args=(reader, queue, frozenset(numbers)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
        thread.join()
        reader.close()


def _watch(reader: socket.socket, queue: JobQueue, numbers: frozenset[int]) -> None:
    while caught := reader.recv(64):
        if numbers.intersection(caught):
            queue.close()


@contextmanager
def _listening(server: LoopbackServer, queue: JobQueue) -> Iterator[None]:
    """The HTTP threads run inside; at the end readers get what is left for them."""
    thread = threading.Thread(target=server.run, name="http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        queue.close()
        _drain(server)
        server.task_dispatcher.shutdown(timeout=0.5)
        # In its own thread, which would otherwise wait on sockets that no longer exist.
        server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map))
        thread.join(timeout=DRAIN_S)


def _drain(server: LoopbackServer) -> None:
    """Let replies that are under way end."""
    until = time.monotonic() + DRAIN_S
    while time.monotonic() < until:
        channels = list(server.active_channels.values())
        if not any(channel.requests or channel.total_outbufs_len for channel in channels):
            return
        time.sleep(0.05)


def _announce(request: ServeRequest, served: Served, tokens: Tokens, port: int) -> None:
    """Where the page is. Its token is in the fragment, which browsers send to nobody."""
    base = f"http://{HOST}:{port}"
    url = f"{base}/#{tokens.page}"
    for line in served.loaded.lines():
        say(line)
    say(SHORT[request.language])
    say(message("The page, for this device only (Ctrl-C ends it): {url}", url=url))
    if "com.termux" in os.environ.get("PREFIX", "") or "TERMUX_VERSION" in os.environ:
        say(message("Open it with: termux-open-url '{url}'", url=url))
    api = message(
        "For programs, OpenAI's protocol: base URL {base}, key {token}",
        base=f"{base}/v1",
        token=tokens.programs,
    )
    say(api)
    if request.as_json:
        document = {
            "schema": "pedsup-serve/1",
            "url": url,
            "port": port,
            "api_base": f"{base}/v1",
            "token": tokens.programs,
            "model": served.model_id,
            "pedsup": __version__,
        }
        print(json.dumps(enveloped(document, "pedsup-run")), flush=True)
