"""Which engine runs a model here, and with which of llama.cpp's machine-dependent settings."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pedsup.engine.api import Engine, EngineConfig
from pedsup.engine.build_probe import LIBRARY_VARIABLE
from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_server.process import PROGRAM_VARIABLE, find_program
from pedsup.errors import EngineError, MissingDependencyError, UsageError
from pedsup.messages import message
from pedsup.progress import say

EngineKind: TypeAlias = Literal["inprocess", "server"]
EngineChoice: TypeAlias = Literal["auto", "inprocess", "server"]
REPACK_HEADROOM: Final = 1 << 29
"""Bytes that must stay free beside the weights and their repacked copies."""


@dataclass(frozen=True)
class ExtraBuffers:
    """Whether llama.cpp may use its extra buffer types, and the reason in one sentence."""

    enabled: bool
    reason: str


def extra_buffers_policy(
    machine: str, *, weight_bytes: int, available_bytes: int | None
) -> ExtraBuffers:
    """The safe choice for a machine.

    On ARM the extra buffers are the weight repack: prompts are read 1.5 to 1.9 times as fast,
    but the repacked tensors become anonymous memory that the system cannot drop (llama.cpp
    #19578). On x86 they include AMX, whose matrix product crashed on the machines that we
    measured (SIGSEGV in `ggml_backend_amx_mul_mat`).

    Args:
        machine: `platform.machine()`.
        weight_bytes: resident weights, without the memory-mapped per-layer table.
        available_bytes: memory available now (None: unknown).
    """
    if machine.lower() not in ("aarch64", "arm64"):
        return ExtraBuffers(False, "off: llama.cpp's AMX path crashes on some x86 machines")
    if available_bytes is None:
        return ExtraBuffers(False, "off: the available memory is unknown")
    needed = 2 * weight_bytes + REPACK_HEADROOM
    if available_bytes < needed:
        return ExtraBuffers(False, "off: the repacked copy of the weights would not fit")
    return ExtraBuffers(True, "on: repacked weights read prompts faster, and there is memory")


def engine_kind(choice: EngineChoice = "auto", *, drafts: bool = False) -> EngineKind:
    """Which engine a choice comes to on this machine; says why, where 'auto' has to give way.

    'auto' prefers the engine in this process and takes `llama-server` when the bindings are
    missing, do not load, or belong to another llama.cpp than the library that is there.

    Args:
        drafts: whether tokens are guessed ahead, which only `llama-server` does.

    Raises:
        EngineError: the bindings do not work, and there is no `llama-server` either.
        UsageError: drafts were asked for together with the engine in this process.
        MissingDependencyError: drafts were asked for, and there is no `llama-server`.
    """
    if drafts:
        _require_server(choice)
        return "server"
    if choice != "auto":
        return choice
    if importlib.util.find_spec("llama_cpp") is None:
        return "server"
    if sys.platform != "android" and LIBRARY_VARIABLE not in os.environ:
        # The library that was built together with the bindings: `open_engine` loads it.
        return "inprocess"
    return _checked()


def _require_server(choice: EngineChoice) -> None:
    if choice == "inprocess":
        raise UsageError(
            "the engine in this process does not guess tokens ahead",
            remedy="give --engine server with --draft, or --draft off",
        )
    if find_program() is None:
        raise MissingDependencyError(
            "--draft needs the program 'llama-server', which was not found",
            where=os.environ.get(PROGRAM_VARIABLE) or "PATH",
            remedy=message(
                "in Termux: pkg install llama-cpp; elsewhere install llama.cpp and "
                "set {name} to its llama-server; or give --draft off",
                name=PROGRAM_VARIABLE,
            ),
        )


@functools.cache
def _checked() -> EngineKind:
    try:
        bindings.load()
    except (EngineError, MissingDependencyError) as error:
        if find_program() is None:
            raise
        say(message("llama-server runs the model, not this process: {reason}", reason=error.found))
        return "server"
    return "inprocess"


def open_engine(config: EngineConfig, choice: EngineChoice = "auto") -> Engine:
    """Load a model with the engine asked for, or with what is there: see `engine_kind`.

    Raises:
        MissingDependencyError: neither engine is installed.
        EngineError, BadFileError, UsageError: from the engine.
    """
    kind = engine_kind(choice, drafts=config.draft.kind != "off")
    if choice == "auto" and kind == "inprocess":
        kind = _checked()
    # Only the engine that runs is imported: a phone starts faster.
    if kind == "server":
        from pedsup.engine.llama_server.engine import ServerEngine

        return ServerEngine(config)
    from pedsup.engine.llama_cpp.inprocess import InProcessEngine

    return InProcessEngine(config)
