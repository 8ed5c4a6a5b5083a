"""Who is let in, how much they may send, and what becomes of clients that stall."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pedsup_testing.served import Served

from pedsup.errors import OutputError, UsageError
from pedsup.serve import http_server
from pedsup.serve.web import MAX_BODY, Reply, Request, Route, WebApp, json_reply


@pytest.fixture
def server(echo: Served) -> Served:
    return echo


def error_code(found: Any) -> str:
    assert set(found["error"]) == {"message", "type", "param", "code"}
    return str(found["error"]["code"])


def raw(server: Served, data: bytes) -> bytes:
    """What comes back for bytes on a new connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


# ---- who ----


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "Bearer x", "Basic TOKEN", "TOKEN", "Bearer TOKENx", "Bearer \xe9"],
)
def test_without_the_token_there_is_nothing_but_the_page(server: Served, given: str) -> None:
    headers = {"Authorization": given.replace("TOKEN", server.token)}
    for method, path in (("GET", "/v1/models"), ("POST", "/page/ask"), ("PUT", "/page/state")):
        status, found_headers, found = server.call(method, path, **headers)
        assert (status, error_code(found)) == (401, "invalid_api_key")
        assert found_headers["www-authenticate"].startswith("Bearer")
    assert server.call("GET", "/", **headers)[0] == 200


def test_the_page_says_nothing_secret_and_loads_nothing(server: Served) -> None:
    status, headers, body = server.call("GET", "/")
    assert status == 200
    assert server.token.encode() not in body
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"].startswith("'sha256-")
    assert policy["style-src"].startswith("'sha256-")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    for foreign in (b"http://", b"https://", b"//cdn", b"@import", b"url("):
        assert foreign not in body.replace(b"http://www.w3.org/2000/svg", b"")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "[::1]:PORT", ""])
def test_a_foreign_host_is_refused(server: Served, host: str) -> None:
    """A name of the attacker's that resolves to 127.0.0.1 is DNS rebinding."""
    host = host.replace("PORT", str(server.port))
    found = raw(server, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert found.startswith(b"HTTP/1.1 421 ")
    assert b"pedsup-run" not in found


def test_localhost_is_this_device(server: Served) -> None:
    found = raw(server, f"GET / HTTP/1.1\r\nHost: LocalHost:{server.port}\r\n\r\n".encode())
    assert found.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_a_foreign_page_is_refused_even_with_the_token(
    server: Served, headers: dict[str, str]
) -> None:
    status, found_headers, found = server.call("GET", "/v1/models", **headers)
    assert (status, error_code(found)) == (403, "wrong_origin")
    assert not any(name.startswith("access-control") for name in found_headers)


def test_a_link_on_another_page_may_open_the_page(server: Served) -> None:
    assert server.call("GET", "/", Authorization="", Sec_Fetch_Site="cross-site")[0] == 200


def test_there_is_no_cross_origin_permission(server: Served) -> None:
    """A preflight gets 405 and no header that would let a page go on."""
    status, headers, found = server.call("OPTIONS", "/v1/chat/completions")
    assert (status, error_code(found)) == (405, "method_not_allowed")
    assert headers["allow"] == "POST"
    assert not any(name.startswith("access-control") for name in headers)


def test_no_cookie_is_set(server: Served) -> None:
    """Browsers send a cookie of 127.0.0.1 to every port of it, another app's too."""
    for path in ("/", "/page/state", "/v1/models"):
        assert "set-cookie" not in server.call("GET", path)[1]


def test_it_listens_on_the_loopback_only() -> None:
    with closing(http_server.reserve_port(0)) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    with closing(socket.socket()) as everywhere:
        everywhere.bind(("0.0.0.0", 0))
        with pytest.raises(OutputError, match=r"refusing to serve on 0\.0\.0\.0"):
            http_server.make_server(WebApp("t", 1, ()), everywhere)


def test_a_taken_port_is_said() -> None:
    with closing(http_server.reserve_port(0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(UsageError, match="cannot be used") as error:
            http_server.reserve_port(port)
        assert error.value.remedy is not None
        assert "--port 0" in error.value.remedy


# ---- how much ----


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"text": NaN}', "invalid_json"),
        (b'{"text": 1' + b"0" * 5000 + b"}", "invalid_json"),
        (b'{"text": ' + b"[" * 140 + b"]" * 140 + b"}", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"text": "\\ud800"}', "invalid_json"),
        (b'{"\\udfff": 1}', "invalid_json"),
        (b'{"text": "x", "more": 1}', "unknown_parameter"),
        (b'{"text": "x", "": null}', "unknown_parameter"),
        (b'{"text": "  "}', "invalid_value"),
    ],
)
def test_a_body_that_is_no_request(server: Served, body: bytes, code: str) -> None:
    status, _, found = server.call("POST", "/page/ask", body)
    assert (status, error_code(found)) == (400, code)


def test_a_body_that_is_refused_is_told_why(server: Served) -> None:
    for text, reason in (
        (b"[" * 140 + b"]" * 140, "nested too deeply"),
        (b'"\\ud800"', "surrogates"),
        (b"NaN", "NaN is not valid JSON"),
        (b"1" * 5000, "a whole number that is too large"),
    ):
        _, _, found = server.call("POST", "/page/ask", b'{"text": ' + text + b"}")
        assert reason in found["error"]["message"]


@given(st.binary(max_size=64))
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    from pedsup.serve.faults import ApiError

    request = Request("/", {"content-type": "application/json"}, body, lambda: False)
    try:
        assert request.document() == json.loads(body)
    except ApiError as error:
        assert error.status == 400


def test_another_content_type_is_refused(server: Served) -> None:
    """A form or text/plain could be sent by any page without a preflight."""
    status, _, found = server.call("POST", "/page/ask", b"{}", Content_Type="text/plain")
    assert (status, error_code(found)) == (415, "unsupported_media_type")


def test_too_large_is_refused_before_it_is_read(server: Served) -> None:
    head = f"POST /page/ask HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    found = raw(server, f"{head}Content-Length: {MAX_BODY + 1}\r\n\r\n".encode())
    assert found.startswith(b"HTTP/1.1 413 ")
    assert error_code(json.loads(found.partition(b"\r\n\r\n")[2])) == "bad_http"
    many = "".join(f"X-{i}: {'y' * 100}\r\n" for i in range(180))
    assert raw(server, f"{head}{many}\r\n".encode())[8:13] == b" 431 "


@pytest.mark.parametrize(
    "head",
    [
        b"POST /page/ask HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /page/ask HTTP/1.1\r\nHost: HOST\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nHost : x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_malformed_http_gets_an_error_and_nothing_else(server: Served, head: bytes) -> None:
    found = raw(server, head.replace(b"HOST", f"127.0.0.1:{server.port}".encode()))
    assert found.split(b" ", 2)[1][:1] in (b"4", b"5")
    assert server.call("GET", "/page/state")[0] == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/page/conversations/", "/v1/models/a/b",
                                  "/%2e%2e/etc/passwd"])  # fmt: skip
def test_other_paths_are_not_there(server: Served, path: str) -> None:
    status, _, found = server.call("GET", path)
    assert (status, error_code(found)) == (404, "not_found")


# ---- clients that stall ----


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server whose patience is short, with a reply of 64 MiB at /large."""
    monkeypatch.setattr(http_server, "RECEIVE_S", 1.0)
    monkeypatch.setattr(http_server, "STALLED_S", 1.0)
    monkeypatch.setattr(http_server, "IDLE_S", 2.0)
    monkeypatch.setattr(http_server, "SWEEP_S", 0.2)

    def large(_request: Request, _rest: str) -> Reply:
        return Reply(200, "text/plain", (b"x" * 65536 for _ in range(1024)))

    routes = (
        Route("/large", {"GET": large}, open=True),
        Route("/small", {"GET": lambda _r, _s: json_reply({}), "POST": lambda _r, _s:
                         json_reply({})}, open=True),
    )  # fmt: skip
    with closing(http_server.reserve_port(0)) as sock:
        port = sock.getsockname()[1]
        server = http_server.make_server(WebApp("t", port, routes), sock)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        yield port
        from waitress import wasyncore

        server.task_dispatcher.shutdown(timeout=1)
        server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map))
        thread.join(5)
        assert not thread.is_alive()


def closed_within(sock: socket.socket, seconds: float) -> bool:
    sock.settimeout(seconds)
    try:
        while sock.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def ok(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(f"GET /small HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        return sock.recv(64).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("part", ["header", "body"])
def test_a_request_that_trickles_in_is_cut_off(quick: int, part: str) -> None:
    head = f"POST /small HTTP/1.1\r\nHost: localhost:{quick}\r\n"
    with socket.create_connection(("127.0.0.1", quick)) as sock:
        sock.sendall(head.encode())
        if part == "body":
            sock.sendall(b"Content-Length: 100000\r\n\r\n")
        deadline = time.monotonic() + 15
        try:
            while time.monotonic() < deadline:  # a byte now and then: never idle
                sock.sendall(b"x")
                time.sleep(0.1)
        except ConnectionError:
            assert ok(quick)
            return
    pytest.fail("the connection was still open")


def test_an_idle_connection_is_closed(quick: int) -> None:
    with socket.create_connection(("127.0.0.1", quick)) as sock:
        assert closed_within(sock, 15)


def test_a_reader_that_stops_is_cut_off_and_its_thread_freed(quick: int) -> None:
    before = threading.active_count()
    socks = []
    for _ in range(http_server.THREADS + 4):  # more than there are threads
        sock = socket.create_connection(("127.0.0.1", quick))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(f"GET /large HTTP/1.1\r\nHost: localhost:{quick}\r\n\r\n".encode())
        socks.append(sock)
    deadline = time.monotonic() + 20
    answered = False
    while not answered and time.monotonic() < deadline:
        try:
            answered = ok(quick)
        except OSError:
            time.sleep(0.2)
    assert answered
    assert threading.active_count() == before
    for sock in socks:
        sock.close()


def test_a_slow_reader_gets_everything(quick: int) -> None:
    with socket.create_connection(("127.0.0.1", quick)) as sock:
        sock.sendall(f"GET /large HTTP/1.0\r\nHost: localhost:{quick}\r\n\r\n".encode())
        total = 0
        while part := sock.recv(1 << 20):
            total += len(part)
            if total < 1 << 22:
                time.sleep(0.02)
    assert total > 64 << 20
