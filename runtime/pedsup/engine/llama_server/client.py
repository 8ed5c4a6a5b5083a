"""Requests to a `llama-server` child: JSON in, JSON or a stream of JSON out."""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator

from pedsup.engine.llama_server.process import ServerProcess
from pedsup.errors import EngineError
from pedsup.messages import message


class ServerClient:
    """Speaks to one child, one connection per request; a broken one is the child's death."""

    def __init__(self, process: ServerProcess) -> None:
        self._process = process

    def post(self, method: str, path: str, body: object = None) -> dict[str, object]:
        response, connection = self._request(method, path, body)
        try:
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._process.death() from error
        finally:
            connection.close()
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise EngineError(
                message("llama-server's answer to {path} is not JSON", path=path)
            ) from error
        if response.status != http.client.OK or not isinstance(answer, dict):
            raise _refused(path, answer)
        return answer

    def stream(self, path: str, body: object) -> Generator[dict[str, object], None, None]:
        """The JSON documents of a server-sent event stream; closing it cancels the request."""
        response, connection = self._request("POST", path, body)
        try:
            if response.status != http.client.OK:
                raise _refused(path, _json(response.read()))
            for line in response:
                kind, _, data = line.partition(b":")
                event = _json(data) if kind in (b"data", b"error") else None
                if kind == b"error" or (isinstance(event, dict) and "error" in event):
                    raise EngineError(
                        message("llama-server stopped: {reason}", reason=_reason(event))
                    )
                if isinstance(event, dict):
                    yield event
                    if event.get("stop"):
                        return
            # The stream ended without its last event.
            raise self._process.death()
        except (OSError, http.client.HTTPException) as error:
            raise self._process.death() from error
        finally:
            connection.close()

    def _request(
        self, method: str, path: str, body: object
    ) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        process = self._process
        connection = process.connect()
        headers = {"Authorization": f"Bearer {process.key}", "Content-Type": "application/json"}
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body).encode(), headers
            )
            return connection.getresponse(), connection
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise process.death() from error


def _refused(path: str, answer: object) -> EngineError:
    return EngineError(
        message("llama-server refused {path}: {reason}", path=path, reason=_reason(answer))
    )


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _reason(answer: object) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict):
        return str(error.get("message") or error)[:500]
    return str(error or answer)[:500]
