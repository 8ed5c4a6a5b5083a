"""Probes of the engines, each in a child: a wrong build of llama.cpp dies when it is loaded."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from typing import Final

from pedsup.doctor.device import Device, Ran
from pedsup.doctor.finding import Finding
from pedsup.engine.server_process import explain_death, find_program

VERSION_S: Final = 1.2
_VERSION: Final = re.compile(r"^version: *(.{1,60})$", re.MULTILINE)
# Prints one line; a library that does not match the bindings is refused by `load`.
_LOAD: Final = (
    "import sys\n"
    "from pedsup.engine import llama_bindings as b\n"
    "from pedsup.errors import PedsupError\n"
    "try:\n"
    "    lib = b.load()\n"
    "except PedsupError as error:\n"
    "    print('refused: ' + ' | '.join(str(error).splitlines()))\n"
    "    sys.exit(9)\n"
    "print('version: ' + b.package_version() + ' (llama.cpp ' + b.version(lib) + ')')\n"
)


def engines(device: Device) -> list[Finding]:
    """Both engines; one of them is enough."""
    findings = [*_inprocess(device), *_server(device)]
    return findings or [Finding("engine", "problem", "engine_none")]


def _inprocess(device: Device) -> list[Finding]:
    if importlib.util.find_spec("llama_cpp") is None:
        return []
    name = "llama-cpp-python"
    command = [sys.executable, "-c", _LOAD]
    return [_judge(name, device.run(command, VERSION_S))]


def _server(device: Device) -> list[Finding]:
    program = find_program()
    if program is None:
        return []
    return [_judge("llama-server", device.run([os.fspath(program), "--version"], VERSION_S))]


def _judge(name: str, answer: Ran | None) -> Finding:
    if answer is None:
        values = {"name": name, "seconds": VERSION_S}
        return Finding("engine", "note", "engine_slow", values)
    version = _VERSION.search(answer.text)
    if answer.code == 0 and version:
        return Finding("engine", "ok", "engine", {"name": f"{name} {version[1].strip()}"})
    if answer.code < 0:
        death = explain_death(answer.code, "")
        reason, remedy = death.found.removeprefix("llama-server "), (death.remedy or "")
        values = {"name": name, "reason": reason, "remedy": remedy.partition("; the trans")[0]}
        return Finding("engine", "problem", "engine_died", values)
    last = (answer.text.strip().splitlines() or ["?"])[-1][-300:]
    reason, _, remedy = last.removeprefix("refused: ").partition(" |   do:     ")
    values = {
        "name": name,
        "reason": f"{reason} (exit code {answer.code})",
        "remedy": remedy or "install it again: pkg install llama-cpp",
    }
    return Finding("engine", "problem", "engine_died", values)
