"""Errors of a request, in the form of OpenAI's protocol."""

from __future__ import annotations

from typing import Final, TypeAlias

from pedsup.errors import ContextFullError, MismatchError, PedsupError, UnsupportedError, UsageError
from pedsup.messages import joined, message
from pedsup.session.transcript import InUseError
from pedsup.texts.intended_use import Language
from pedsup.texts.language import translated

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

    def said(self, language: Language) -> str:
        return without_commands(translated(self.message, language))

    @property
    def document(self) -> Document:
        """`{"error": {...}}` as OpenAI's servers write it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {
            "message": without_commands(self.message),
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def bad_value(param: str, message: str) -> ApiError:
    return ApiError(400, message, "invalid_value", param=param)


def unsupported(param: str, message: str) -> ApiError:
    """A field of OpenAI's protocol that this server does not have."""
    return ApiError(400, message, "unsupported_parameter", param=param)


def no_conversation() -> ApiError:
    return ApiError(404, "there is no such conversation here", "no_conversation")


def from_pedsup(error: PedsupError) -> ApiError:
    """What a turn raised: the request's fault, or the server's. Paths stay out of it."""
    wanted = error.wanted and message("wanted: {text}", text=error.wanted)
    text = joined("; ", filter(None, (error.found, wanted, error.remedy)))
    status, code, param = _kind(error)
    return ApiError(status, text, code, param=param)


def _kind(error: PedsupError) -> tuple[int, str, str | None]:
    match error:
        case InUseError():
            return 409, "in_use", None
        case MismatchError():
            return 409, "other_model", None
        case ContextFullError():
            return 400, "context_length_exceeded", "messages"
        case UsageError() | UnsupportedError():
            return 400, "invalid_request", None
    return 500, type(error).__name__, None


def shutting_down() -> ApiError:
    """The server was told to end."""
    return ApiError(
        503,
        message("the server is shutting down"),
        "shutting_down",
        headers=(("Retry-After", "5"),),
    )


_COMMANDS: Final = {
    " (/stats)": "",
    "start afresh (/reset)": "start a new conversation",
    "empiece de nuevo (/reset)": "empiece una conversación nueva",
    ": /reset, or": ": start a new conversation, or",
    ": /reset, o ": ": empiece una conversación nueva, o ",
}
"""Advice of the terminal, and what it is where there are no commands."""


def without_commands(text: str) -> str:
    """A message for the page or a program, which have no commands such as `/reset`."""
    for command, here in _COMMANDS.items():
        text = text.replace(command, here)
    return text
