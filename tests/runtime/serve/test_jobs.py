"""The queue before the engine: order, bounds, leaving it, and who hears of what."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pedsup.chat.events import AnswerText, Done, Notice, ReasoningText, TurnResult, TurnTimings
from pedsup.errors import ContextFullError, EngineError
from pedsup.serve.faults import ApiError
from pedsup.serve.jobs import Failed, Job, JobQueue, Progress, Started
from pedsup.texts.notices import NOTICES

RESULT = TurnResult("a", "", 1, 0, 0, 1, TurnTimings(), "end")


def alive() -> bool:
    return True


def job_for(log: list[str], name: str, gate: threading.Event | None = None) -> Job:
    def ask(_job: Job) -> TurnResult:
        log.append(name)
        if gate is not None:
            gate.wait(10)
        return RESULT

    return Job(ask)


def run_in_thread(queue: JobQueue) -> threading.Thread:
    thread = threading.Thread(target=queue.run, daemon=True)
    thread.start()
    return thread


def heard(job: Job) -> list[Any]:
    return [event for event in job.events(lambda: False) if event is not None]


def test_first_come_first_served_and_no_more_than_may_wait() -> None:
    queue, log, gate = JobQueue(alive, waiting=3), list[str](), threading.Event()
    thread = run_in_thread(queue)
    jobs = [job_for(log, "0", gate)]
    queue.submit(jobs[0])
    while not log:
        time.sleep(0.01)
    for name in "123":
        jobs.append(job_for(log, name))
        queue.submit(jobs[-1])
    assert [job.position for job in jobs] == [0, 1, 2, 3]
    with pytest.raises(ApiError) as refused:
        queue.submit(job_for(log, "4"))
    assert refused.value.status == 429
    ((name, seconds),) = refused.value.headers
    assert name == "Retry-After"
    assert 1 <= int(seconds) <= 60
    gate.set()
    assert [heard(job) for job in jobs] == [[Done(RESULT)]] * 4
    assert log == ["0", "1", "2", "3"]
    queue.close()
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(ApiError) as ending:
        queue.submit(job_for(log, "5"))
    assert ending.value.status == 503


def test_who_leaves_the_queue_makes_room_and_is_not_asked() -> None:
    queue, log, gate = JobQueue(alive, waiting=1), list[str](), threading.Event()
    thread = run_in_thread(queue)
    first, second, third = (job_for(log, name, gate) for name in "123")
    queue.submit(first)
    while not log:
        time.sleep(0.01)
    queue.submit(second)
    second.cancel()
    queue.submit(third)
    gate.set()
    assert isinstance(heard(second)[-1], Failed)
    assert heard(third) == [Done(RESULT)]
    assert log == ["1", "3"]
    queue.close()
    thread.join(5)


def test_pieces_that_nobody_fetched_are_joined() -> None:
    """However slow the reader, what waits for it is one answer long and few objects."""
    job = Job(lambda _job: RESULT)
    job.put(Started("x"))
    for n in range(1000):
        job.prompt_progress(n, 1000)
    for _ in range(1000):
        job.reasoning("r")
    for _ in range(1000):
        job.answer("a")
    job.notice(Notice("loop", NOTICES["loop"]))
    job.answer("b")
    job.put(Done(RESULT))
    job.answer("too late")
    assert heard(job) == [
        Started("x"), Progress(999, 1000), ReasoningText("r" * 1000), AnswerText("a" * 1000),
        Notice("loop", NOTICES["loop"]), AnswerText("b"), Done(RESULT),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextFullError("the conversation is too long"), 400, "context_length_exceeded"),
        (EngineError("llama.cpp cannot decode"), 500, "EngineError"),
        (ZeroDivisionError("the patient's name"), 500, "internal_error"),
    ],
)
def test_an_error_is_for_its_asker_and_the_next_one_is_served(
    error: Exception, status: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_job: Job) -> TurnResult:
        raise error

    queue, log = JobQueue(alive), list[str]()
    thread = run_in_thread(queue)
    bad, good = Job(fail), job_for(log, "good")
    queue.submit(bad)
    queue.submit(good)
    (failed,) = heard(bad)
    assert (failed.error.status, failed.error.code) == (status, code)
    assert heard(good) == [Done(RESULT)]
    queue.close()
    thread.join(5)
    shown = capsys.readouterr().err
    assert "the patient's name" not in shown + failed.error.message
    assert ("ZeroDivisionError" in shown) == (code == "internal_error")


def test_a_dead_engine_ends_the_queue() -> None:
    def fail(_job: Job) -> TurnResult:
        raise EngineError("killed")

    queue = JobQueue(lambda: False)
    job = Job(fail)
    queue.submit(job)
    with pytest.raises(EngineError, match="killed"):
        queue.run()
    assert heard(job)[-1].error.message == "killed"


def test_ctrl_c_in_an_answer_ends_the_queue_and_tells_those_who_wait() -> None:
    queue = JobQueue(alive)
    interrupted = TurnResult("half", "", 1, 0, 0, 1, TurnTimings(), "interrupted")
    first, second = Job(lambda _job: interrupted), job_for([], "second")
    queue.submit(first)
    queue.submit(second)
    with pytest.raises(KeyboardInterrupt):
        queue.run()
    queue.close()
    assert heard(first) == [Done(interrupted)]
    assert heard(second)[0].error.status == 503


def test_a_cancelled_answer_stops_at_its_next_piece() -> None:
    job = Job(lambda _job: RESULT)
    job.answer("one")
    job.cancel()
    for show in (job.answer, job.reasoning):
        with pytest.raises(KeyboardInterrupt):
            show("two")
    with pytest.raises(KeyboardInterrupt):
        job.prompt_progress(1, 2)
