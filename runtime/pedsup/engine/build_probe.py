"""Asks an engine's library how it was built, in a child: a wrong build crashes when loaded."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from pedsup.child.bounded import run_bounded
from pedsup.engine.llama_server.process import LOOPBACK, find_program, free_port
from pedsup.engine.vector_units import Build, judge

LIBRARY_VARIABLE: Final = "LLAMA_CPP_LIB_PATH"
"""The variable that makes llama-cpp-python look for libllama outside of its own folder."""
TIMEOUT_S: Final = 20.0
"""A phone may read the library from slow storage."""
LIBRARY_CODE: Final = (
    "import json, sys\n"
    "from pedsup.engine.llama_cpp import bindings as b\n"
    "from pedsup.errors import PedsupError\n"
    "try:\n"
    "    lib = b.load()\n"
    "except PedsupError as error:\n"
    "    print('refused: ' + json.dumps(error.document()))\n"
    "    sys.exit(9)\n"
    "print('version: ' + b.package_version() + ' (llama.cpp ' + b.version(lib) + ')')\n"
    "print('system_info: ' + b.system_info(lib))\n"
)
"""Prints two lines; a library that does not match the bindings is refused by `load`."""
NO_MODEL: Final = "/nonexistent/pedsup.gguf"
TRACE: Final = "4"
"""llama.cpp's log level at which the server prints its features."""


def library_command() -> list[str]:
    """Loads llama-cpp-python's library and prints its version and features."""
    return [sys.executable, "-c", LIBRARY_CODE]


def server_command(program: Path) -> list[str]:
    """Starts llama-server with a model that is not there: it prints its features and ends."""
    # llama-server opens its port before it looks for the model.
    return [
        os.fspath(program), "--model", NO_MODEL, "--host", LOOPBACK, "--port", str(free_port()),
        "--verbosity", TRACE, "--offline",
    ]  # fmt: skip


def system_info(text: str) -> str:
    """The line of features in an engine's output; '' if there is none."""
    for line in text.splitlines():
        _, mark, rest = line.partition("system_info: ")
        if mark:
            return rest.strip()
    return ""


@functools.cache
def library_build() -> Build | None:
    """How llama-cpp-python's library was built; None if it is absent or does not report it."""
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    return judge(system_info(_output(library_command())), packaged=library_is_packaged())


@functools.cache
def server_build(program: Path) -> Build | None:
    """How a llama-server was built; None if it does not report it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_ARG_")}
    return judge(system_info(_output(server_command(program), clean)), packaged=True)


def library_is_packaged() -> bool:
    """Whether the library comes from outside of llama-cpp-python."""
    return LIBRARY_VARIABLE in os.environ


def library_folder() -> Path | None:
    """Where llama-cpp-python looks for its libraries; None if it is absent and nothing is set."""
    if library_is_packaged():
        return Path(os.environ[LIBRARY_VARIABLE])
    found = importlib.util.find_spec("llama_cpp")
    return Path(found.origin).parent / "lib" if found is not None and found.origin else None


def library_sees() -> bool:
    """Whether libmtmd, with which pictures are seen, lies beside llama-cpp-python's library.

    True also where there is no llama-cpp-python: that is another error.
    """
    folder = library_folder()
    return folder is None or any(folder.glob("*mtmd*"))


def engine_build(kind: Literal["inprocess", "server"]) -> Build | None:
    """How an engine's library was built; None if it is absent or does not report it."""
    if kind == "inprocess":
        return library_build()
    program = find_program()
    return server_build(program) if program else None


def _output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    ran = run_bounded(command, TIMEOUT_S, env=environment)
    return ran.text if ran is not None else ""
