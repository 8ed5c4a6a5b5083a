"""A `llama-server` child: started on loopback with a random key, watched, and always reaped."""

from __future__ import annotations

import ctypes
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pedsup.child.death import ended, how_it_died
from pedsup.engine.api import DraftConfig, EngineConfig
from pedsup.engine.limits import NO_PROGRAMS
from pedsup.errors import EngineError, MissingDependencyError
from pedsup.gguf_file import read_header
from pedsup.gguf_file.projector import MIN_TOKENS
from pedsup.gguf_file.rules import ASSISTANT
from pedsup.messages import message

PROGRAM: Final = "llama-server"
PROGRAM_VARIABLE: Final = "PEDSUP_LLAMA_SERVER"
LOOPBACK: Final = "127.0.0.1"
LOAD_TIMEOUT_S: Final = 900.0
"""A phone may read a 5 GB file from a slow SD card."""
PR_SET_PDEATHSIG: Final = 1
NGRAM: Final = 3
"""Tokens that must be equal for a lookup in the text; two are equal by chance too often."""
MAX_FULL_WINDOW: Final = 8192
"""Tokens of context up to which sliding-window layers get a cache of full size.

llama-server reads a whole prompt again after it restored a slot of a model with a sliding
window, because the restored state begins exactly where it wants it to begin before. With a
cache of full size it does not; for Gemma 4 E4B that is 40 KiB per token, at 4096 tokens about
what the server's four checkpoints of the window come to.
"""


def find_program() -> Path | None:
    """`llama-server` named by the environment variable, or on the PATH."""
    named = os.environ.get(PROGRAM_VARIABLE)
    if named:
        path = Path(named)
        return path if os.access(path, os.X_OK) else None
    found = shutil.which(PROGRAM)
    return Path(found) if found else None


def require_program() -> Path:
    """`find_program`, or the error that says how to get it."""
    program = find_program()
    if program is None:
        raise MissingDependencyError(
            message("the program '{name}' was not found", name=PROGRAM),
            where=os.environ.get(PROGRAM_VARIABLE) or "PATH",
            remedy=message(
                "in Termux: pkg install llama-cpp; else set {name} to its path",
                name=PROGRAM_VARIABLE,
            ),
        )
    return program


def full_window(config: EngineConfig) -> bool:
    """Whether the server keeps every position of the sliding-window layers too."""
    return config.n_ctx <= MAX_FULL_WINDOW


class ServerProcess:
    """One running `llama-server` with one model. Use `close` when done."""

    def __init__(self, program: Path, config: EngineConfig, *, state_folder: Path) -> None:
        self.key = secrets.token_urlsafe(24)
        self.marker = f"<__media_{secrets.token_hex(8)}__>"
        """Stands for a picture in a prompt; drawn anew, so that no text holds it."""
        self.port = free_port()
        self._log: deque[str] = deque(maxlen=30)
        self._child = subprocess.Popen(
            _arguments(program, config, self.port, state_folder),
            env=_environment(config, self.key, self.marker),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Its own session: Ctrl-C in the terminal stops the answer, not the model.
            start_new_session=True,
            preexec_fn=_child_setup(config.cpus),
        )
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def wait_ready(self) -> None:
        """Return when the model is loaded.

        Raises:
            EngineError: the child died, or did not get ready in `LOAD_TIMEOUT_S`.
        """
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                raise self.death()
            if self._healthy():
                return
            time.sleep(0.02)
        raise EngineError("llama-server did not become ready", where=self.log_tail())

    def connect(self, timeout: float | None = None) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(LOOPBACK, self.port, timeout=timeout)

    def death(self) -> EngineError:
        """The error for a connection that broke: the child's death, if it died."""
        try:
            code = self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return EngineError("the connection to llama-server was lost", where=self.log_tail())
        self._reader.join(timeout=2)
        return explain_death(code, self.log_tail())

    def log_tail(self) -> str:
        """The child's lines that look like trouble, else its last lines."""
        lines = list(self._log)
        trouble = [x for x in lines if any(w in x.lower() for w in ("error", "fail", "abort"))]
        # The first trouble is the cause, the last one the consequence.
        return "; ".join(trouble[:3] or lines[-3:])

    def close(self) -> None:
        """End the child and reap it."""
        # It has nothing to lose, and asked politely it may finish an answer first.
        self._child.kill()
        self._child.wait()
        self._reader.join(timeout=5)
        if self._child.stdout is not None:
            self._child.stdout.close()

    def _healthy(self) -> bool:
        connection = self.connect(timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _drain(self) -> None:
        stream = self._child.stdout
        assert stream is not None
        for line in stream:
            self._log.append(line.decode("utf-8", "replace").rstrip())


def explain_death(code: int, log: str) -> EngineError:
    """The error for a llama-server that ended with `code` (negative: by that signal)."""
    where = log or None
    if code >= 0 and "invalid argument: --spec" in log:
        return EngineError(
            "this llama-server does not know the options that --draft needs",
            where=where,
            wanted="a llama.cpp with --spec-type",
            remedy="update it (in Termux: pkg upgrade), or give --draft off",
        )
    if code >= 0:
        return EngineError(
            message("llama-server {how}", how=ended(code)),
            where=where,
            remedy="the lines above say why; the transcript is kept",
        )
    helps = how_it_died(code).helps
    return EngineError(
        message("llama-server {how}", how=ended(code)),
        where=where,
        remedy=message("{remedy}; the transcript is kept", remedy=helps)
        if helps
        else "the transcript is kept",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _arguments(program: Path, config: EngineConfig, port: int, states: Path) -> list[str]:
    """Only options that llama-server has had for years: Termux has another version than ours."""
    options: dict[str, object] = {
        "--model": config.model,
        "--ctx-size": config.n_ctx,
        "--batch-size": config.n_batch,
        "--ubatch-size": min(config.n_ubatch, config.n_batch),
        "--threads": config.n_threads,
        "--threads-batch": config.n_threads_batch,
        "--parallel": 1,
        "--host": LOOPBACK,
        "--port": port,
        "--slot-save-path": states,
    }
    if config.adapter is not None:
        options["--lora"] = _adapter_name(config.adapter, states)
    if config.projector is not None:
        options["--mmproj"] = config.projector
        options["--image-max-tokens"] = config.picture_tokens
        options["--image-min-tokens"] = min(MIN_TOKENS, config.picture_tokens)
    options |= _draft_options(config.draft)
    flat = [str(part) for pair in options.items() for part in pair]
    return [str(program), *flat, "--no-warmup"]


def _adapter_name(adapter: Path, states: Path) -> Path:
    """A name without a comma: llama-server takes what it parts for several files."""
    if "," not in str(adapter):
        return adapter
    link = states / "adapter.gguf"
    link.unlink(missing_ok=True)
    link.symlink_to(adapter.absolute())
    return link


def _environment(config: EngineConfig, key: str, marker: str) -> dict[str, str]:
    """Newer and renamed options go by environment variable: an unknown one is ignored.

    The key is not an argument, so that it shows in no process list.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_ARG_")}
    options = {
        "LLAMA_API_KEY": key,
        "LLAMA_ARG_REPACK": "1" if config.extra_buffers else "0",
        "LLAMA_ARG_SWA_FULL": "1" if full_window(config) else "0",
        "LLAMA_ARG_CTX_CHECKPOINTS": "0" if full_window(config) else "4",
        "LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT": "0",
        "LLAMA_ARG_CACHE_RAM": "0",
        "LLAMA_ARG_FIT": "off",
        "LLAMA_ARG_LAZY_MODE": "on",  # see InProcessEngine: the per-layer table stays in the file
        "LLAMA_ARG_OFFLINE": "1",
        "LLAMA_ARG_UI": "0",
        "LLAMA_MEDIA_MARKER": marker,
        "LLAMA_ARG_VIDEO_FFMPEG_DIR": os.fsdecode(NO_PROGRAMS),
        # The server need not parse the model's template: prompts come as tokens.
        "LLAMA_ARG_CHAT_TEMPLATE": "chatml",
    }
    if not config.use_mmap:
        options |= {"LLAMA_ARG_LOAD_MODE": "none", "LLAMA_ARG_MMAP": "0"}
    return {**inherited, **options}


def _draft_options(draft: DraftConfig) -> dict[str, object]:
    """As arguments: a server that does not know one says so instead of leaving drafts out."""
    if draft.kind == "off":
        return {}
    if draft.kind == "lookup" or draft.model is None:
        return {
            "--spec-type": "ngram-simple",
            "--spec-ngram-simple-size-n": NGRAM,
            "--spec-ngram-simple-size-m": draft.n_max,
        }
    assistant = read_header(draft.model).architecture == ASSISTANT
    return {
        "--spec-type": "draft-mtp" if assistant else "draft-simple",
        "--model-draft": draft.model,
        "--spec-draft-n-max": draft.n_max,
    }


def _child_setup(cpus: frozenset[int] | None) -> Callable[[], None]:
    """What the child does before it becomes llama-server: die with us, stay on its cores."""
    parent = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform != "darwin" else None

    def setup() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
        if cpus:
            os.sched_setaffinity(0, cpus)

    return setup
