"""Renders an unknown template in a process that can do nothing else.

    python -P -m pedsup.chat.templates.worker

Lines of JSON on standard input and output; the parent is `pedsup.chat.templates.process`. Three
walls stand behind jinja2's sandbox, should a template break out of it: an audit hook that ends
the process at the first operation that is not a computation (open, import, exec, socket, ...),
resource limits (memory, processor time, no new file descriptors, no file sizes), and the
parent's clock.
"""

from __future__ import annotations

import json
import os
import resource
import select
import sys
from contextlib import suppress
from typing import Any, Final

from pedsup.chat.templates import sandbox

MEMORY: Final = 192 << 20
"""Bytes above what the interpreter has taken: hundreds of times what a dialogue needs."""
CPU_SECONDS: Final = 10
"""Of one request; the parent waits less long, but it may have been killed."""
IDLE_SECONDS: Final = 60
"""An idle worker gives its memory back; the parent starts another one."""
FORBIDDEN_EXIT: Final = 70
_COMPILING: Final = frozenset({"compile", "exec", "code.__new__"})
_HARMLESS: Final = frozenset(
    {"sys._getframe", "object.__getattr__", "object.__setattr__", "builtins.id"}
)


class _Guard:
    """The audit hook; armed while a template's code may run."""

    def __init__(self) -> None:
        self.allowed: frozenset[str] | None = None

    def __call__(self, event: str, _arguments: tuple[object, ...]) -> None:
        allowed = self.allowed
        if allowed is None or event in allowed:
            return
        os.write(1, json.dumps({"forbidden": event}).encode() + b"\n")
        os._exit(FORBIDDEN_EXIT)


def main() -> None:
    """Serve requests until standard input ends or nothing comes for a while."""
    guard = _Guard()
    _warm_up()
    _limit()
    sys.addaudithook(guard)
    _answer({"ready": True})
    buffer, compiled = b"", None
    while True:
        if not select.select([0], [], [], IDLE_SECONDS)[0]:
            os._exit(0)
        block = os.read(0, 1 << 20)
        if not block:
            os._exit(0)
        buffer += block
        while (end := buffer.find(b"\n")) >= 0:
            request, buffer = json.loads(buffer[:end]), buffer[end + 1 :]
            _limit_cpu()
            if "source" in request:
                compiled = _compile(request["source"], guard)
            else:
                _answer({"results": [_render(compiled, job, guard) for job in request["jobs"]]})


def _compile(source: str, guard: _Guard) -> Any:
    guard.allowed = _HARMLESS | _COMPILING
    try:
        compiled = sandbox.compile_template(source)
    except sandbox.ERRORS as error:
        guard.allowed = None
        _answer({"invalid": _describe(error)})
        return None
    guard.allowed = None
    _answer({"compiled": True})
    return compiled


def _render(compiled: Any, job: dict[str, object], guard: _Guard) -> dict[str, str]:
    guard.allowed = _HARMLESS
    try:
        result = {"text": sandbox.render(compiled, job)}
    except sandbox.ERRORS as error:
        result = {"error": _describe(error)}
    guard.allowed = None
    return result


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


def _answer(document: dict[str, object]) -> None:
    # ASCII, because a template can make half of a surrogate pair.
    data = memoryview(json.dumps(document).encode() + b"\n")
    while data:
        data = data[os.write(1, data) :]


def _warm_up() -> None:
    """Use once everything that is imported or opened on its first use."""
    warm = "{% for m in messages %}{{ m.content | trim | tojson }}{% endfor %}{{ x.y }}"
    date = "{{ strftime_now('%d %b %Y') }}"
    for source in (warm, date, "{% for %}", "{{ a | no_such_filter }}"):
        try:
            sandbox.render(sandbox.compile_template(source), {"messages": [{"content": "é"}]})
        except sandbox.ERRORS as error:
            _describe(error)


def _limit() -> None:
    """Limits that this process cannot lift again."""
    limits = {
        resource.RLIMIT_DATA: _data_bytes() + MEMORY,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        # Descriptors 0 to 2 are open: none is left for another file.
        resource.RLIMIT_NOFILE: 3,
    }
    for what, most in limits.items():
        # If the system does not support a limit, the other walls still stand.
        with suppress(OSError, ValueError):
            hard = resource.getrlimit(what)[1]
            if hard != resource.RLIM_INFINITY:
                most = min(most, hard)
            resource.setrlimit(what, (most, most))


def _limit_cpu() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(
            resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
        )


def _data_bytes() -> int:
    """Private writable memory that this process has now, which RLIMIT_DATA counts."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("VmData:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 1 << 28


if __name__ == "__main__":
    main()
