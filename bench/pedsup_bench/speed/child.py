"""The measured process as its parent sees it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Final, Literal

from pedsup.child.lines import LineChild, NoAnswerError, error_in
from pedsup.errors import EngineError
from pedsup.files.records import record
from pedsup.files.source import Source
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.result import Load, SeenPicture, Speed

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


def measured_picture(plan: SpeedPlan, *, on_step: Callable[[], object]) -> SeenPicture:
    """Measure pictures in a process of its own. Arguments and errors as `_child`."""
    return record(SeenPicture, _child(plan, "picture", on_step=on_step), _SOURCE)


def _child(
    plan: SpeedPlan,
    kind: Literal["load", "speed", "picture"],
    *,
    on_step: Callable[[], object] = lambda: None,
    env: Mapping[str, str] | None = None,
) -> object:
    """Run one job in a process of its own.

    Args:
        on_step: called for each step of `pedsup_bench.speed.progress` that is done.
        env: variables to add to ours.

    Raises:
        EngineError: it failed or was killed.
    """
    with tempfile.TemporaryFile() as err:
        command = [sys.executable, "-m", "pedsup_bench.speed.worker"]
        child = LineChild(command, env=env, stderr=err)
        try:
            answer = child.ask({"kind": kind, "plan": plan.to_json()})
            while "step" in answer:
                on_step()
                answer = child.ask(None)
        except NoAnswerError as gone:
            err.seek(0)
            said = err.read().decode("utf-8", "replace")
            raise EngineError(
                f"the measurement has no result: {gone.why}",
                where=said.strip().splitlines()[-4:] or plan.model,
                remedy="killed: too little memory; illegal instruction: a library built for "
                "another processor; else see the message above",
            ) from gone
        finally:
            child.close()
    if (error := error_in(answer)) is not None:
        raise error
    return answer["result"]
