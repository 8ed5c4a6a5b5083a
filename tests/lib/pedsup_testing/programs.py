"""Start `python -m pedsup_export ...` without paying for its imports each time.

Most of what a short command costs is the import of numpy, numba or torch (0.8 s for the exporter,
7 s for training). A process that has imported them forks for each command. The command is then a
process of its own, as a user's is: with its own arguments, environment, working directory,
standard streams and exit code.

What depends on how the interpreter starts needs `subprocess`: another encoding or locale
(`PYTHONIOENCODING`, `LC_ALL`), `LD_PRELOAD`, which modules are imported, closed streams, signals.
So does what differs between two processes: the order of sets, which all commands share here, and
what a module reads from the environment when it is imported.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NoReturn

PRELOADED = {
    "pedsup": ("click", "uuid", "pedsup.cli.app", "pedsup.cli.run_session"),
    "pedsup_export": ("numpy", "numba", "gguf", "pedsup_export.cli.run", "pedsup_export.cli.verify",
                      "pedsup_export.cli.request", "pedsup_export.plan.calibrated",
                      "threadpoolctl", "tqdm", "pedsup_testing.warm_export"),
    "pedsup_bench": ("numpy", "pedsup_bench.cli", "pedsup_bench.commands.quality",
                     "pedsup_bench.commands.run", "pedsup_bench.commands.report"),
    "pedsup_train": ("pedsup_train.cli",),
}  # fmt: skip
"""Program -> what it imports sooner or later. Not `llama_cpp`: the environment names its library.
Nor `pedsup.cli.main`, whose help is in the language that the command line asks for."""

_LINE = 1 << 20
_servers: dict[tuple[str, ...], _Server] = {}


def run(
    program: str,
    *arguments: object,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    preload: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run `python -m program arguments` to its end; what it printed, and its exit code.

    Args:
        program: a key of `PRELOADED`.
        env: its whole environment; None: that of the tests.
        preload: more modules than `PRELOADED` names, such as torch.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    server = _server(program, preload)
    words = [os.fsdecode(a) if isinstance(a, bytes) else str(a) for a in arguments]
    environment = dict(os.environ if env is None else env)
    request = {"argv": words, "env": environment, "cwd": str(Path.cwd())}
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as errors,
    ):
        given.write(stdin.encode())
        given.seek(0)
        try:
            code = server.run(request, (given, out, errors), timeout)
        except BaseException:  # its next answer would be about this command
            _servers.pop((program, *preload)).kill()
            raise
        return subprocess.CompletedProcess([program, *words], code, _text(out), _text(errors))


def start(
    script: str, *arguments: object, terminal: int, env: Mapping[str, str], preload: tuple[str, ...]
) -> Started:
    """Begin `python script arguments`, whose standard streams and terminal are `terminal`.

    One at a time of the same script and modules.
    """
    server = _server(script, preload)
    words = [str(a) for a in arguments]
    request = {"argv": words, "env": dict(env), "cwd": str(Path.cwd()), "terminal": True}
    return Started(server, server.begin(request, (terminal, terminal, terminal)))


class Started:
    """A program that was begun; wait for its end before the next one."""

    def __init__(self, server: _Server, pid: int) -> None:
        self._server, self.pid = server, pid

    def poll(self, timeout: float = 0) -> int | None:
        """Its exit code, or None while it runs; a signal is negative."""
        try:
            return self._server.end(timeout)
        except (BlockingIOError, TimeoutError):
            return None


def _server(program: str, preload: tuple[str, ...]) -> _Server:
    server = _servers.get((program, *preload))
    if server is None:
        server = _servers[program, *preload] = _Server(program, preload)
    return server


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


def close() -> None:
    """End the processes that fork."""
    while _servers:
        _servers.popitem()[1].close()


class _Server:
    def __init__(self, program: str, more: tuple[str, ...]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-X",
                    "faulthandler",
                    __file__,
                    str(theirs.fileno()),
                    program,
                    ",".join(more),
                    *PRELOADED["pedsup" if program.endswith(".py") else program],
                ],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,
            )

    def run(self, request: object, files: tuple[IO[bytes], ...], timeout: float) -> int:
        self.begin(request, tuple(file.fileno() for file in files))
        try:
            return self.end(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired("program", timeout) from None

    def begin(self, request: object, streams: tuple[int, ...]) -> int:
        # The request may be longer than a packet: it lies in a file, too.
        with tempfile.TemporaryFile() as body:
            body.write(json.dumps(request).encode())
            body.flush()
            self._socket.settimeout(60)
            socket.send_fds(self._socket, [b"run"], [*streams, body.fileno()])
            word, _, pid = self._socket.recv(_LINE).partition(b" ")
            if word != b"begun":
                raise ConnectionError("what forks has ended: see its stderr")
        return int(pid)

    def end(self, timeout: float) -> int:
        self._socket.settimeout(timeout)
        return int(self._socket.recv(_LINE))

    def kill(self) -> None:
        """End it and its command at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def _serve(
    connection: socket.socket, program: str, others: list[str], preloaded: list[str]
) -> None:
    """Fork for each request: answer that it has begun, then its exit code."""
    import contextlib
    import importlib

    for name in others:  # other projects' modules may say what they like
        importlib.import_module(name)
    with io.StringIO() as said:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            for name in preloaded:
                importlib.import_module(name)
        # A user would see it at each command, and no test would.
        assert not said.getvalue(), said.getvalue()
    assert not {"llama_cpp", "pedsup.cli.main"} & sys.modules.keys()
    while True:
        word, fds, _, _ = socket.recv_fds(connection, _LINE, 4)
        if not word:
            return
        child = os.fork()
        if child == 0:
            connection.close()
            _become(program, fds)
        for fd in fds:
            os.close(fd)
        connection.send(b"begun %d" % child)
        _, status = os.waitpid(child, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(program: str, fds: list[int]) -> NoReturn:
    """Be the program: what the interpreter does at its start and at its end, done here."""
    import atexit
    import fcntl
    import runpy
    import termios
    import threading
    import traceback

    *streams, body = fds
    with os.fdopen(body, encoding="utf-8") as file:
        file.seek(0)
        request = json.load(file)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    if request.get("terminal"):
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    sys.argv = [program, *request["argv"]]
    code = 1
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()  # under `make coverage` this saves what was measured
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 120
    os._exit(code & 0xFF)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    _fd, _program, _others, *_own = sys.argv[1:]
    _serve(socket.socket(fileno=int(_fd)), _program, [n for n in _others.split(",") if n], _own)
