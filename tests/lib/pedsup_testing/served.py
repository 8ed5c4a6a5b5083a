"""Start a server as a user would, and talk to it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


class Served:
    """A running server; `url`, `api_token`, `port` are what it printed."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=env, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.finish()[1])
        self.document: dict[str, Any] = json.loads(line)
        self.url: str = self.document["url"]
        self.token: str = self.url.partition("#")[2]
        """The page's, for everything."""
        self.api_token: str = self.document["token"]
        """For programs."""
        self.port: int = self.document["port"]
        self.api_base: str = self.document["api_base"]

    def connect(self) -> http.client.HTTPConnection:
        """A new connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def call(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """One request with the token: status, headers (lower case), JSON or bytes."""
        connection = self.connect()
        given = {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            given["Content-Type"] = "application/json"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {k: v for k, v in given.items() if v})
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        is_json = found.get("content-type") == "application/json"
        return response.status, found, json.loads(raw) if is_json else raw

    def ask(self, text: str, **body: object) -> list[tuple[str, Any]]:
        """The events of one question of the page."""
        status, _, raw = self.call("POST", "/page/ask", {"text": text, **body})
        assert status == 200, raw
        return events(raw.decode())

    def rss_kib(self) -> int:
        """Resident memory of the server."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1])

    def finish(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """End it by a signal; exit code and what it wrote to standard error."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def events(text: str) -> list[tuple[str, Any]]:
    """Server-sent events with names."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.strip() and line[0] != ":"]
        fields = dict(line.split(": ", 1) for line in lines)
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found
