"""The WSGI application: which requests are let in, and where they go.

Any app on a phone can reach the loopback address, and any web page can make the browser send a
request to it. So: a token in the Authorization header (no cookie: browsers send the cookies of
127.0.0.1 to every port of it), the Host header must be this server's (a foreign name that resolves
to 127.0.0.1 is DNS rebinding), and a request from a page must come from this server's own page.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import responses
from typing import Final, TypeAlias
from wsgiref.types import StartResponse, WSGIEnvironment

from pedsup.errors import PedsupError
from pedsup.files.json_file import parse_json
from pedsup.messages import reason_of
from pedsup.serve.faults import ApiError, Document, from_pedsup
from pedsup.serve.jobs import internal_error

MAX_BODY: Final = 1 << 19
"""Bytes of a request's body: far more than fits into a phone's context."""
MAX_PICTURE_BODY: Final = 16 << 20
"""Bytes where pictures may come: a photo as the camera wrote it has 3 to 10 MB, and base64 makes
four bytes of three."""
JSON: Final = "application/json"
HTML: Final = "text/html; charset=utf-8"
EVENTS: Final = "text/event-stream"
ALIVE: Final = b": waiting\n\n"
"""A comment among events, which keeps the connection open."""
Header: TypeAlias = tuple[str, str]

SECURITY: Final[tuple[Header, ...]] = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
NO_CONTENT_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Request:
    """What came in, already whole."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    gone: Callable[[], bool]
    """Whether the client has closed the connection."""

    def document(self) -> Document:
        """The body as a JSON object, bounded. Raises `ApiError` for anything else."""
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise ApiError(415, f"the body must be sent as {JSON}", "unsupported_media_type")
        try:
            found = parse_json(self.body, constant=_no_constant)
        except ValueError as error:
            said = f"the body is not JSON in UTF-8: {reason_of(error)}"
            raise ApiError(400, said, "invalid_json") from error
        if not isinstance(found, dict):
            raise ApiError(400, "the body is not a JSON object", "invalid_json")
        return found


@dataclass(frozen=True)
class Reply:
    """What goes out; the iterator's `close` is called when the client leaves early."""

    status: int
    content_type: str
    body: bytes | Iterator[bytes]
    headers: tuple[Header, ...] = ()


Handler: TypeAlias = Callable[[Request, str], Reply]
"""Gets the request and what stood in the place of `*` at the end of the route's path."""


@dataclass(frozen=True)
class Route:
    """One path and what answers its methods."""

    path: str
    """Ends with `/*` where one more part of a path follows."""
    handlers: Mapping[str, Handler]
    open: bool = False
    """Whether it may be read without the token."""
    private: bool = False
    """Only with the page's own token: a program that has the other one reads no conversation."""
    pictures: bool = False
    """Whether its requests may carry pictures, and so be large."""


@dataclass
class WebApp:
    """The WSGI callable."""

    token: str
    """The page's: for everything."""
    port: int
    routes: tuple[Route, ...]
    api_token: str = ""
    """For programs: not for what is private. Empty: there is none."""
    _hosts: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._hosts = frozenset({f"127.0.0.1:{self.port}", f"localhost:{self.port}"})

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            reply = self._reply(environ)
        except ApiError as error:
            reply = error_reply(error)
        except PedsupError as error:
            reply = error_reply(from_pedsup(error))
        except Exception as error:  # the border of the server: no traceback leaves it
            reply = error_reply(internal_error(error))
        headers = [("Content-Type", reply.content_type), *SECURITY, *reply.headers]
        if reply.content_type != HTML:
            headers.append(("Content-Security-Policy", NO_CONTENT_POLICY))
        if isinstance(reply.body, bytes):
            headers.append(("Content-Length", str(len(reply.body))))
        start_response(f"{reply.status} {responses.get(reply.status, 'Error')}", headers)
        return [reply.body] if isinstance(reply.body, bytes) else reply.body

    def _reply(self, environ: WSGIEnvironment) -> Reply:
        headers = {
            name[5:].replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        headers["content-type"] = environ.get("CONTENT_TYPE", "")
        self._check_origin(headers)
        route, rest = self._route(environ.get("PATH_INFO", ""))
        if not route.open:  # a link on another page may lead to the static ones
            self._check_site(headers)
            self._check_token(headers, private=route.private)
        method = environ.get("REQUEST_METHOD", "")
        handler = route.handlers.get(method)
        if handler is None:
            allow = ", ".join(route.handlers)
            raise ApiError(
                405, f"{method} is not for this path: {allow}", "method_not_allowed",
                headers=(("Allow", allow),),
            )  # fmt: skip
        request = Request(
            path=route.path,
            headers=headers,
            body=environ["wsgi.input"].read(MAX_PICTURE_BODY + 1) if method == "POST" else b"",
            gone=environ.get("waitress.client_disconnected", lambda: False),
        )
        return handler(request, rest)

    def takes_pictures(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether a request may be large: asked by who reads it, before its body is read."""
        try:
            route, _ = self._route(path)
            self._check_token(headers, private=route.private)
        except ApiError:
            return False
        return route.pictures

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        if headers.get("host", "").lower() not in self._hosts:
            raise ApiError(421, "this Host is not served here", "wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self._hosts}:
            raise ApiError(403, "pages of another origin may not ask here", "wrong_origin")

    def _check_site(self, headers: Mapping[str, str]) -> None:
        if headers.get("sec-fetch-site") not in (None, "none", "same-origin"):
            raise ApiError(403, "pages of another site may not ask here", "wrong_origin")

    def _check_token(self, headers: Mapping[str, str], *, private: bool) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        token = given.strip().encode("utf-8", "replace")
        same = hmac.compare_digest(token, self.token.encode())
        if self.api_token and not private:
            same |= hmac.compare_digest(token, self.api_token.encode())
        if scheme.lower() != "bearer" or not same:
            raise ApiError(
                401,
                "the token is missing or wrong: the terminal shows it when the server starts",
                "invalid_api_key",
                headers=(("WWW-Authenticate", 'Bearer realm="pedsup"'),),
            )

    def _route(self, path: str) -> tuple[Route, str]:
        for route in self.routes:
            head, star, _ = route.path.partition("*")
            if path == route.path:
                return route, ""
            if star and path.startswith(head) and (rest := path[len(head) :]) and "/" not in rest:
                return route, rest
        raise ApiError(404, "there is nothing at this path", "not_found")


def json_reply(document: object, *, status: int = 200) -> Reply:
    return Reply(status, JSON, json.dumps(document, ensure_ascii=False).encode() + b"\n")


def error_reply(error: ApiError) -> Reply:
    """An error in OpenAI's form."""
    reply = json_reply(error.document, status=error.status)
    return Reply(reply.status, reply.content_type, reply.body, error.headers)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not valid JSON")
