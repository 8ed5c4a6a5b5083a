"""Errors of a request, in the form of OpenAI's protocol."""

from __future__ import annotations

from typing import Final, TypeAlias

from pedsup.errors import ContextFullError, PedsupError, UnsupportedError, UsageError

Document: TypeAlias = dict[str, object]

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A request that is refused or failed.

    Args:
        status: of HTTP.
        code: a word for programs.
        param: the field of the request at fault.
        headers: more headers of the reply.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.param, self.headers = param, headers

    @property
    def document(self) -> Document:
        """`{"error": {...}}` as OpenAI's servers write it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def bad_value(param: str, message: str) -> ApiError:
    """A field has a value that cannot be taken."""
    return ApiError(400, message, "invalid_value", param=param)


def unsupported(param: str, message: str) -> ApiError:
    """A field of OpenAI's protocol that this server does not have."""
    return ApiError(400, message, "unsupported_parameter", param=param)


def from_pedsup(error: PedsupError) -> ApiError:
    """What a turn raised: the request's fault, or the server's. Paths stay out of it."""
    parts = (error.found, error.wanted and f"wanted: {error.wanted}", error.remedy)
    message = "; ".join(part for part in parts if part)
    if isinstance(error, ContextFullError):
        return ApiError(400, message, "context_length_exceeded", param="messages")
    if isinstance(error, UsageError | UnsupportedError):
        return ApiError(400, message, "invalid_request")
    return ApiError(500, message, type(error).__name__)


def shutting_down() -> ApiError:
    """The server was told to end."""
    return ApiError(503, "the server is ending", "shutting_down", headers=(("Retry-After", "5"),))
