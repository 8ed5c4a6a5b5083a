"""A child that answers in lines: what comes from it is an answer or a `NoAnswerError`, in time."""

from __future__ import annotations

import sys
from contextlib import closing

import pytest

from pedsup.child.lines import MAX_ANSWER, LineChild, NoAnswerError

BAD = {
    "words": ("print('ggml_init: found 1 device')", "cannot be understood"),
    "a list": ("print([1, 2])", "cannot be understood"),
    "deep": ("print('[' * 100_000)", "cannot be understood"),
    "bytes": ("import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n')", "cannot be understood"),
    "digits": ("print('9' * 10_000)", "cannot be understood"),
    "half a line": ("print('{', end='')", "ended by itself"),
    "nothing": ("", "ended by itself (exit code 0)"),
    "a signal": ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    "endless": (f"print('x' * {MAX_ANSWER + 1})", "too long"),
    "many lines": (f"print('{{}}\\n' * {MAX_ANSWER // 2})", None),
    "a grandchild that holds the pipe": (
        "import os, time\nif os.fork() == 0: time.sleep(600)\nos._exit(3)", "exit code 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_a_child_prints_is_an_answer_or_told(name: str) -> None:
    code, said = BAD[name]
    with closing(LineChild([sys.executable, "-c", code])) as child:
        if said is None:
            assert child.ask({"question": 1}, 60) == {}
            return
        with pytest.raises(NoAnswerError) as caught:
            child.ask({"question": 1}, 60)
        assert said in str(caught.value.why)
        assert not caught.value.slow


def test_a_child_that_closes_its_output_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pedsup.child.lines.LAST_S", 0.1)
    code = "import os, time; os.close(1); time.sleep(600)"
    with (
        closing(LineChild([sys.executable, "-c", code])) as child,
        pytest.raises(NoAnswerError, match="closed its output"),
    ):
        child.ask(None, 60)


def test_answers_stay_apart() -> None:
    code = "print('{\"a\": 1}\\n{\"a\": 2}\\n{\"a\"', end='', flush=True); print(': 3}')"
    with closing(LineChild([sys.executable, "-c", code])) as child:
        assert [child.ask(None, 60)["a"] for _ in range(3)] == [1, 2, 3]
