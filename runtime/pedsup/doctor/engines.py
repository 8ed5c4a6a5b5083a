"""Probes of the engines, each in a child: a wrong build of llama.cpp crashes when loaded."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from typing import Final

from pedsup.child.bounded import Ran
from pedsup.child.death import ended, how_it_died
from pedsup.child.lines import error_in
from pedsup.device.cores import cpu_features
from pedsup.doctor.device import Device
from pedsup.doctor.finding import Finding
from pedsup.engine.build_probe import LIBRARY_VARIABLE, library_command, server_command, system_info
from pedsup.engine.llama_server.process import PROGRAM, find_program
from pedsup.engine.vector_units import judge
from pedsup.errors import EngineError
from pedsup.messages import joined, message

VERSION_S: Final = 1.2
REFUSED: Final = "refused: "
"""Prefix of the error with which `library_command` may end."""
_VERSION: Final = re.compile(r"^version: *(.{1,60})$", re.MULTILINE)


def engines(device: Device) -> list[Finding]:
    """Both engines; one of them is enough."""
    findings = [*_inprocess(device), *_server(device)]
    return findings or [Finding("engine", "problem", "engine_none")]


def _built(device: Device, name: str, answer: Ran | None) -> list[Finding]:
    """Whether an engine uses the processor's vector units; nothing if it does not tell."""
    if answer is None:
        return []
    packaged = name == PROGRAM or LIBRARY_VARIABLE in device.environ
    flags = cpu_features(device.root)
    build = judge(system_info(answer.text), packaged=packaged, features=flags)
    if build is None:
        return []
    values: dict[str, object] = {"name": name, "features": ", ".join(build.features)}
    if not build.missing:
        return [Finding("engine", "ok", "engine_built", values)]
    values |= {"units": build.names, "factor": f"{build.factor:g}", "remedy": build.remedy}
    return [Finding("engine", "problem", "engine_units", values)]


def _inprocess(device: Device) -> list[Finding]:
    if importlib.util.find_spec("llama_cpp") is None:
        return []
    name = "llama-cpp-python"
    answer = device.run(library_command(), VERSION_S)
    return [_judge(name, answer), *_built(device, name, answer)]


def _server(device: Device) -> list[Finding]:
    program = find_program()
    if program is None:
        return []
    version = _judge(PROGRAM, device.run([os.fspath(program), "--version"], VERSION_S))
    if version.level != "ok":
        return [version]
    return [version, *_built(device, PROGRAM, device.run(server_command(program), VERSION_S))]


def _judge(name: str, answer: Ran | None) -> Finding:
    if answer is None:
        values = {"name": name, "seconds": VERSION_S}
        return Finding("engine", "note", "engine_slow", values)
    version = _VERSION.search(answer.text)
    if answer.code == 0 and version:
        return Finding("engine", "ok", "engine", {"name": f"{name} {version[1].strip()}"})
    if answer.code < 0:
        death = how_it_died(answer.code)
        values = {"name": name, "reason": ended(answer.code), "remedy": death.helps or "-"}
        return Finding("engine", "problem", "engine_died", values)
    last = (answer.text.strip().splitlines() or ["?"])[-1]
    refused = _refused(last)
    found = refused.found if refused else joined("", [last[-300:]])
    remedy = refused.remedy if refused else None
    values = {
        "name": name,
        "reason": message("{reason} (exit code {code})", reason=found, code=answer.code),
        "remedy": remedy or message("install it again: pkg install llama-cpp"),
    }
    return Finding("engine", "problem", "engine_died", values)


def _refused(line: str) -> EngineError | None:
    """The error with which our child ended, if it is one of ours."""
    if not line.startswith(REFUSED):
        return None
    try:
        parts = json.loads(line.removeprefix(REFUSED))
    except ValueError:
        return None
    return error_in({"error": parts})
