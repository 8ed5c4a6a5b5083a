"""waitress on the loopback address, with time limits for clients that stall.

waitress reads a request whole, off the application's threads, before it calls the application, and
buffers what a client is slow to read. It closes connections that are idle, but waits for ever for
a client that sends a byte now and then, or that stops reading: those are closed here.
"""

from __future__ import annotations

import copy
import json
import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import Error, RequestEntityTooLarge

from pedsup.errors import OutputError, UsageError
from pedsup.messages import message, reason_of
from pedsup.serve.faults import ApiError
from pedsup.serve.jobs import WAITING
from pedsup.serve.web import JSON, MAX_BODY, MAX_PICTURE_BODY, SECURITY, WebApp

HOST: Final = "127.0.0.1"
"""The only address: pedsup serves this device and nobody else."""
RECEIVE_S: Final = 10
"""A request must be here whole within this time of its first byte."""
IDLE_S: Final = 30
STALLED_S: Final = 20
"""A client that takes nothing of what is sent to it for so long is gone."""
MAX_HEADERS: Final = 16 << 10
MAX_UNREAD: Final = 1 << 20
"""Bytes that wait for one slow reader before its thread waits with them."""
MAX_LARGE: Final = 4
"""Requests with pictures in memory at a time; the next is refused."""
MAX_PASSED_OVER: Final = 4 * MAX_PICTURE_BODY
"""Bytes of a refused body that are read and thrown away, so that its sender reads why."""
CONNECTIONS: Final = 128
THREADS: Final = WAITING + 1 + 7
"""One for each question that waits or is answered, and some for everything quick."""
SWEEP_S: Final = 1


class TooManyPicturesError(Error):
    """More requests with pictures than memory is kept for."""

    code = 429
    reason = "Too Many Requests"


class JsonErrorTask(ErrorTask):
    """Refusals of waitress itself (malformed, too large), in the form of all others."""

    def execute(self) -> None:
        found = self.request.error
        busy = isinstance(found, TooManyPicturesError)
        code = "queue_full" if busy else "bad_http"
        error = ApiError(found.code, f"{found.reason}: {found.body}", code)
        body = json.dumps(error.document).encode() + b"\n"
        self.status = f"{found.code} {found.reason}"
        self.response_headers.extend([("Content-Type", JSON), *SECURITY])
        if busy:
            self.response_headers.append(("Retry-After", "5"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class RequestParser(HTTPRequestParser):
    """Lets a large body in where pictures may come, from who has the token, a few at a time."""

    adj: Adjustments
    large = False
    _refused: Error | None = None
    _left = 0
    """Bytes of the refused body that are still to come."""

    def __init__(self, adj: Adjustments, server: LoopbackServer) -> None:
        super().__init__(adj)
        self.server = server

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if not self.chunked and self.content_length < MAX_BODY:
            return
        headers = {name.replace("_", "-").lower(): text for name, text in self.headers.items()}
        if not self.server.takes_pictures(self.path, headers):
            return
        self.adj = copy.copy(self.adj)
        self.adj.max_request_body_size = MAX_PICTURE_BODY
        if self.content_length >= MAX_PICTURE_BODY:
            self._refused = RequestEntityTooLarge(f"exceeds max_body of {MAX_PICTURE_BODY}")
        elif self.server.count_large() >= MAX_LARGE:
            self._refused = TooManyPicturesError(
                message("other requests with pictures are on their way")
            )
        self.large = self._refused is None
        if not self.large and not self.chunked:
            self._left = min(self.content_length, MAX_PASSED_OVER)

    def received(self, data: bytes) -> int:
        if self._refused is None or not self.headers_finished:
            consumed = int(super().received(data))
        else:
            consumed = min(len(data), self._left)
            self._left -= consumed
        if self._refused is not None and self.headers_finished:
            self.error, self.completed = self._refused, self._left == 0
        return consumed


class Channel(HTTPChannel):
    """One connection; knows since when a request has been coming in."""

    error_task_class = JsonErrorTask
    receiving_since: float | None = None

    def parser_class(self, adj: Adjustments) -> RequestParser:
        return RequestParser(adj, self.server)

    def received(self, data: bytes) -> bool:
        before = self.request
        done = bool(super().received(data))
        if self.request is None:
            self.receiving_since = None
        elif self.request is not before:
            self.receiving_since = time.time()
        return done

    def stalled(self, now: float) -> bool:
        """Whether the client sends its request too slowly, or has stopped reading the reply."""
        since = self.receiving_since
        slow_sender = since is not None and now - since > RECEIVE_S
        return slow_sender or bool(self.total_outbufs_len and now - self.last_activity > STALLED_S)


class LoopbackServer(TcpWSGIServer):
    """waitress's server with the channel above."""

    channel_class = Channel
    takes_pictures: Callable[[str, Mapping[str, str]], bool]
    """By path and headers; waitress wraps the application itself."""

    def count_large(self) -> int:
        """Requests with pictures that are coming in, wait, or are being answered."""
        return sum(
            request is not None and request.large
            for channel in list(self.active_channels.values())
            for request in (channel.request, *channel.requests)
        )

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if channel.stalled(now):
                # waitress then finds the connection broken and cleans up in its own way.
                try:
                    channel.socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    channel.will_close = True


def reserve_port(port: int) -> socket.socket:
    """A socket on the loopback address; port 0: any. Raises `UsageError` if it is not free."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
        # From here on nobody else gets the port; who connects early waits.
        sock.listen(CONNECTIONS)
    except OSError as error:
        sock.close()
        raise UsageError(
            message("port {n} cannot be used: {reason}", n=port, reason=reason_of(error)),
            where=f"{HOST}:{port}",
            wanted="a free port; another pedsup-run --serve may be running",
            remedy="give another --port, or --port 0 for any free one",
        ) from error
    return sock


SETTINGS: Final[Mapping[str, object]] = {
    "threads": THREADS,
    "ident": None,
    "backlog": CONNECTIONS,
    "connection_limit": CONNECTIONS,
    "cleanup_interval": SWEEP_S,
    # Without it a client that leaves in the middle of an answer is not noticed.
    "channel_request_lookahead": 1,
    "max_request_header_size": MAX_HEADERS,
    "max_request_body_size": MAX_BODY,
    # Above what can occur: nothing that was asked or answered lands in a temporary file.
    "inbuf_overflow": 4 * MAX_PICTURE_BODY,
    "outbuf_overflow": 4 * MAX_UNREAD,
    "outbuf_high_watermark": MAX_UNREAD,
    "log_socket_errors": False,
    "clear_untrusted_proxy_headers": True,
    "asyncore_use_poll": True,
}
"""Of waitress; see its `Adjustments`."""


def make_server(app: WebApp, sock: socket.socket) -> LoopbackServer:
    """A server for a socket of `reserve_port`; `run()` it in a thread of its own."""
    host = sock.getsockname()[0]
    if host != HOST:
        raise OutputError(message("refusing to serve on {host}", host=host), wanted=HOST)
    for name in ("waitress", "waitress.queue"):
        # What it logs may quote requests.
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    settings = {**SETTINGS, "channel_timeout": IDLE_S, "sockets": [sock]}
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(THREADS)
    server = LoopbackServer(
        app,
        _sock=sock,
        dispatcher=dispatcher,
        adj=Adjustments(**settings),
        sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
        bind_socket=False,
    )
    server.takes_pictures = app.takes_pictures
    return server
