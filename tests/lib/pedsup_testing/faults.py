"""Sweep a job over every write, fsync, rename, truncate and unlink it makes: kill it, or fail.

`sweep` runs in a driver process that was started with the shim before libc (`drive`). The job runs
in a forked child for each point, so that imports are paid once; what is checked after each child
runs in the driver, unarmed. The shim is `faultshim.c`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

KINDS = {"kill": -1, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
SOURCE = Path(__file__).with_name("faultshim.c")
TRACEBACK = 70
"""Exit code of a child that met an error which is neither a `PedsupError` nor an `OSError`."""
REFUSED = 71


def build(folder: Path, source: Path = SOURCE) -> Path:
    """Compile a shim."""
    out = folder / f"{source.stem}.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", out, source, "-ldl"], check=True)
    return out


def drive(module: Path, config: dict[str, object], shim: Path, timeout: float = 560) -> dict:  # type: ignore[type-arg]
    """Run a driver script with the shim; its report. The output is shown when it fails."""
    done = subprocess.run(
        [sys.executable, module, json.dumps(config)],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": os.pathsep.join(sys.path),
             "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@dataclass
class Report:
    """What a sweep tried: points of each kind, and how the children ended."""

    points: int = 0
    tried: dict[str, int] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    """Which calls there are to break: letters of the shim."""
    ends: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One thing to break.

    `prepare` brings the folder into the state before; `run` is what is broken; `check(kind)` looks
    at what is left and then does what a user would do next. All raise AssertionError for a fault.
    """

    root: Path
    prepare: Callable[[], None]
    run: Callable[[], object]
    check: Callable[[str], None]
    stride: int = 1
    each_call: bool = False
    """Also the first, the middle and the last of each kind of call, whatever the stride."""


def points_to_try(calls: str, stride: int, *, each_call: bool = False) -> list[int]:
    """The points (from 1) at which a job is broken, of the calls that it makes."""
    chosen = set(range(1, len(calls) + 1, stride))
    for kind in set(calls) if each_call else ():
        points = [n for n, call in enumerate(calls, 1) if call == kind]
        chosen |= {points[0], points[len(points) // 2], points[-1]}
    return sorted(chosen)


def sweep(job: Job, kinds: tuple[str, ...] = tuple(KINDS)) -> Report:
    """Break the job at every `stride`-th point in every way."""
    report = Report()
    for kind in kinds:
        # Unlinking counts for a kill only, so each kind has its own number of points.
        job.prepare()
        code, calls = _child(job, 0, KINDS[kind])
        assert code == 0, f"the job fails by itself: {code}"
        report.points += len(calls)
        report.calls[kind] = "".join(sorted(set(calls)))
        ends = report.ends.setdefault(kind, {})
        for point in points_to_try(calls, job.stride, each_call=job.each_call):
            job.prepare()
            code, _ = _child(job, point, KINDS[kind])
            assert code != TRACEBACK, f"{kind} at {point}: an error that no message was made for"
            name = {0: "succeeded", -9: "killed", REFUSED: "error"}.get(code, str(code))
            ends[name] = ends.get(name, 0) + 1
            try:
                job.check(kind)
            except Exception as error:
                raise AssertionError(
                    f"{kind} at point {point} of {len(calls)}: {error!r}"
                ) from error
            report.tried[kind] = report.tried.get(kind, 0) + 1
    return report


def _child(job: Job, point: int, error: int) -> tuple[int, str]:
    """Run the job in a fork; its exit code (negative: signal) and the calls, a letter each."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os._exit(_run_armed(job, point, error, writer))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, raw.decode()


def _run_armed(job: Job, point: int, error: int, writer: int) -> int:
    from pedsup.errors import PedsupError

    shim = ctypes.CDLL(None)
    shim.pedsup_fault_calls.restype = ctypes.c_char_p
    quiet = os.open(os.devnull, os.O_WRONLY)
    code = 0
    try:
        saved = os.dup(2)
        os.dup2(quiet, 2)
        shim.pedsup_fault_arm(os.fsencode(job.root), ctypes.c_long(point), ctypes.c_int(error))
        try:
            job.run()
        finally:
            os.dup2(saved, 2)
    except (PedsupError, OSError):  # the border of `main()` makes a message of both
        code = REFUSED
    except BaseException:
        traceback.print_exc()
        code = TRACEBACK
    os.write(writer, shim.pedsup_fault_calls())
    return code


def finish(reports: dict[str, Report]) -> None:
    """Print the driver's result."""
    print(json.dumps({name: vars(report) for name, report in reports.items()}))
