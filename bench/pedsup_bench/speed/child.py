"""The measured process as its parent sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Final, Literal

from pedsup.errors import EngineError
from pedsup.files.records import record
from pedsup.files.source import Source
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.result import Load, Speed

_SOURCE: Final = Source("the answer", "the measured process", error=EngineError)


def measured_load(plan: SpeedPlan) -> Load:
    """Load the model once in a process of its own.

    Raises:
        EngineError: it failed or was killed.
    """
    return record(Load, _child(plan, "load"), _SOURCE)


def measured_speed(
    plan: SpeedPlan,
    *,
    on_step: Callable[[], object] = lambda: None,
    env: Mapping[str, str] | None = None,
) -> Speed:
    """Measure all speeds in a process of its own. Arguments and errors as `_child`."""
    return record(Speed, _child(plan, "speed", on_step=on_step, env=env), _SOURCE)


def _child(
    plan: SpeedPlan,
    kind: Literal["load", "speed"],
    *,
    on_step: Callable[[], object] = lambda: None,
    env: Mapping[str, str] | None = None,
) -> object:
    """Run one job in a process of its own.

    Args:
        on_step: called for each step of `pedsup_bench.speed.progress.speed_steps` that is done.
        env: variables to add to ours.

    Raises:
        EngineError: it failed or was killed.
    """
    read_end, write_end = os.pipe()
    job = json.dumps({"kind": kind, "plan": plan.to_json(), "progress": write_end})
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with os.fdopen(read_end, "rb", buffering=0) as steps:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "pedsup_bench.speed.worker"],
                    stdin=subprocess.PIPE, stdout=out, stderr=err, pass_fds=[write_end],
                    env={**os.environ, **(env or {})},
                )  # fmt: skip
            finally:
                os.close(write_end)
            try:
                _give(process, job)
                # Ends when the process does: nobody else holds the other end.
                while steps.read(1):
                    on_step()
                code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
        if code == 0:
            return json.loads(_text(out))
        raise EngineError(
            f"the measured process {how_it_ended(code)}",
            where=_text(err).strip().splitlines()[-4:] or plan.model,
            remedy="killed: too little memory; illegal instruction: a library built for another "
            "processor; else see the message above",
        )


def how_it_ended(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _give(process: subprocess.Popen[bytes], job: str) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(job.encode())


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
