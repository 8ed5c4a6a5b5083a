"""Sessions: real kills at many moments, torn files, locks, what the model sees."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pedsup_testing import killable_session

from pedsup.chat.events import Notice
from pedsup.errors import BadFileError, MismatchError, OutputError, PedsupError, UsageError
from pedsup.messages import Message as Said
from pedsup.messages import message
from pedsup.session.copy import as_text, save_copy
from pedsup.session.files import find_session, new_session, resume_session
from pedsup.session.history import Session, replay
from pedsup.session.transcript import Transcript, read_records
from pedsup.terminal.recap import recap
from pedsup.texts.intended_use import SHORT
from pedsup.texts.notices import GUARDS, NOTICES

HEADER = {"model": {"digest": "abc", "name": "m"}}


def talk(session: Session, *turns: tuple[str, str]) -> None:
    for question, answer in turns:
        session.ask(question)
        session.heard(reasoning="hm", answer=answer)
        session.finish(answer, "hm", "end")


def test_a_session_is_readable_jsonl(tmp_path: Path) -> None:
    session = new_session(tmp_path, HEADER, system="Sé breve.")
    talk(session, ("¿Fiebre?", "Sí."), ("Why?", "Because."))
    assert session.transcript is not None
    path = session.transcript.path
    assert path.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["type"] for line in lines] == [
        "session", "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert lines[0]["schema"] == 1
    assert lines[0]["model"] == HEADER["model"]
    assert "¿Fiebre?" in path.read_text("utf-8")  # not escaped: a person reads it
    assert lines[3]["stop_reason"] == "end"


def test_resume_gives_the_same_messages(tmp_path: Path) -> None:
    session = new_session(tmp_path, HEADER, system="S")
    talk(session, ("a", "A"), ("b", "B"))
    messages = session.messages()
    session.close()
    again = resume_session(find_session(tmp_path, "last"), model_digest="abc")
    assert (
        again.messages()
        == messages
        == [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "A"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "B"},
        ]
    )
    talk(again, ("c", "C"))
    assert [e.turn for e in again.exchanges] == [1, 2, 3]


def test_reset_hides_but_keeps(tmp_path: Path) -> None:
    session = new_session(tmp_path, HEADER)
    talk(session, ("a", "A"))
    session.reset()
    talk(session, ("b", "B"))
    assert [m["content"] for m in session.messages()] == ["b", "B"]
    session.close()
    again = resume_session(find_session(tmp_path, "last"))
    assert [m["content"] for m in again.messages()] == ["b", "B"]
    assert [e.user for e in again.exchanges] == ["a", "b"]


def test_a_question_without_an_answer_leaves_the_roles_alternating(tmp_path: Path) -> None:
    session = new_session(tmp_path, HEADER)
    session.ask("lost")
    session.finish("", "only thoughts", "failed")
    session.ask("next")
    assert session.messages() == [{"role": "user", "content": "next"}]


def test_partial_text_is_journalled_while_the_answer_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pedsup.session.history.PARTIAL_EVERY_S", 0.0)
    session = new_session(tmp_path, HEADER)
    session.ask("q")
    session.heard(reasoning="think ")
    session.heard(answer="half an ans")
    assert session.transcript is not None
    seen = replay(read_records(session.transcript.path))
    assert (seen.exchanges[0].reasoning, seen.exchanges[0].answer) == ("think ", "half an ans")


# ---- kills ----


def start_child(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, killable_session.__file__, str(folder)], stdout=subprocess.PIPE, text=True
    )


def check_after_kill(folder: Path, said: list[str]) -> None:
    """All that was said to be done is there, whole; the rest is at most a beginning."""
    if not any(line.startswith("open") for line in said):
        return
    done = {int(line.split()[1]) for line in said if line.startswith("done")}
    session = resume_session(find_session(folder, "last"))
    try:
        for exchange in session.exchanges:
            whole = killable_session.answer(exchange.turn)
            assert exchange.user == f"question {exchange.turn}"
            if exchange.stop_reason == "end":
                assert exchange.answer == whole
            else:
                assert exchange.stop_reason == "killed"
                assert whole.startswith(exchange.answer)
                assert exchange.turn not in done
        asked = [int(line.split()[1]) for line in said if line.startswith("asked")]
        assert len(session.exchanges) >= max([0, *done, *asked])
    finally:
        session.close()


@pytest.mark.slow
def test_sigkill_at_many_moments_loses_nothing_that_was_shown_as_done(tmp_path: Path) -> None:
    """One transcript through 40 lives; the moments are random, the seed is not."""
    moments = random.Random(11)
    killed_in_answer = 0
    for _ in range(40):
        child = start_child(tmp_path)
        assert child.stdout is not None
        said = [child.stdout.readline().strip()]  # 'start': the imports are over
        if moments.random() < 0.7:
            said.append(child.stdout.readline().strip())
        time.sleep(moments.uniform(0.0, 0.06))
        child.send_signal(signal.SIGKILL)
        said += [line.strip() for line in child.stdout if line.endswith("\n")]
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        check_after_kill(tmp_path, said)
        killed_in_answer += said[-1].startswith("asked")
    assert killed_in_answer > 5  # the moments did fall into answers
    records = read_records(find_session(tmp_path, "last"))
    partial = [r for r in records if r["type"] == "assistant" and r["stop_reason"] == "killed"]
    assert any(record["answer"] for record in partial)
    assert all(record["partial"] for record in partial)


def written_session(folder: Path) -> Path:
    session = new_session(folder, HEADER, system="Sé breve.")
    talk(session, ("¿Qué es la fiebre? 🫁", "Temperatura alta."))
    session.ask("ñ?")
    session._save_partial(durable=False)
    session.heard(answer="una par")
    session._save_partial(durable=False)
    assert session.transcript is not None
    path = session.transcript.path
    session.close()
    return path


def test_a_transcript_torn_at_any_byte_is_mended(tmp_path: Path) -> None:
    """Each length of the file, as a power cut could leave it."""
    path = written_session(tmp_path)
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    torn = tmp_path / "torn.jsonl"
    for length in range(first, len(data) + 1):
        torn.write_bytes(data[:length])
        torn.chmod(0o600)
        whole_lines = data[:length].count(b"\n")
        session = resume_session(torn)
        session.close()
        records = read_records(torn)  # and now every line is one record
        assert torn.read_bytes().endswith(b"\n")
        kept = [json.loads(line) for line in data[:length].splitlines()[:whole_lines]]
        assert records[:whole_lines] == kept
        rest = data[:length].split(b"\n")[-1]
        if rest:
            assert records[whole_lines]["type"] == "recovered"
            assert records[whole_lines]["torn"] == rest.decode("utf-8", "replace")


def test_damage_in_the_middle_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = written_session(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b'{"type": "user", "tu\n'
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    with pytest.raises(BadFileError, match="line 3"):
        resume_session(path)
    assert path.read_bytes() == before


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_or_a_session_never_a_traceback(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_bytes(data)
        with pytest.raises(BadFileError):
            resume_session(path)
        path.write_bytes(b'{"type": "session", "schema": 1}\n' + data)
        try:
            resume_session(path).close()
        except BadFileError:
            assert path.read_bytes().endswith(data)


@pytest.mark.parametrize("first", [b'{"type": "session", "schema": 2}\n', b'{"type": "user"}\n'])
def test_another_schema_is_refused(tmp_path: Path, first: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(first)
    with pytest.raises(BadFileError, match="not a transcript"):
        resume_session(tmp_path / "x.jsonl")


# ---- two sessions, another model, other places ----


def test_the_second_session_on_a_transcript_is_refused(tmp_path: Path) -> None:
    session = new_session(tmp_path, HEADER)
    talk(session, ("a", "A"))
    path = find_session(tmp_path, "last")
    before = path.read_bytes()
    program = (
        "import sys; from pathlib import Path; from pedsup.session.files import resume_session\n"
        "from pedsup.cli.border import border\n"
        "border(lambda: resume_session(Path(sys.argv[1])) and 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == OutputError.exit_code
    assert "open in another session" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == before
    talk(session, ("b", "B"))
    session.close()
    resume_session(path).close()


def test_a_session_with_another_model_is_refused(tmp_path: Path) -> None:
    new_session(tmp_path, HEADER).close()
    path = find_session(tmp_path, "last")
    with pytest.raises(MismatchError, match="another model"):
        resume_session(path, model_digest="other")
    resume_session(path, model_digest="abc").close()  # and the lock was released


def test_find_by_the_beginning_of_the_id(tmp_path: Path) -> None:
    for name in ("20260101-000000-aaaa", "20260101-000000-bbbb", "20270101-000000-cccc"):
        Transcript.create(tmp_path / f"{name}.jsonl", {}).close()
    assert find_session(tmp_path, "2027").name == "20270101-000000-cccc.jsonl"
    with pytest.raises(UsageError, match="2 sessions"):
        find_session(tmp_path, "2026")
    with pytest.raises(UsageError, match="no session to resume"):
        find_session(tmp_path / "none", "last")


def test_an_empty_file_left_by_a_kill_at_birth_is_not_the_last_session(tmp_path: Path) -> None:
    talk(new_session(tmp_path, HEADER), ("a", "A"))
    wanted = find_session(tmp_path, "last")
    (tmp_path / "99991231-000000-ffff.jsonl").touch()
    assert find_session(tmp_path, "last") == wanted


def test_a_folder_that_cannot_be_written_says_what_to_do() -> None:
    with pytest.raises(OutputError) as caught:
        new_session(Path("/proc/nowhere"), HEADER)
    assert "--no-history" in str(caught.value)


def test_a_resumed_session_says_its_notices_in_the_readers_language(tmp_path: Path) -> None:
    reason = message(
        "this folder cannot be created: {reason}", reason=Said("No space left on device")
    )
    unwritable = Notice("cache_unwritable", NOTICES["cache_unwritable"].filled(reason=reason))
    rows = [
        {"code": "loop", "text": "how an earlier version said it"},
        {"code": "of-a-later-version", "text": "nobody knows this one"},
        unwritable.document(),
        {"code": ["loop"], "text": 7},
        "loop",
    ]
    session = new_session(tmp_path, HEADER)
    session.ask("q")
    session.finish("A", "", "end", {"notices": rows})
    session.close()
    (path,) = tmp_path.glob("*.jsonl")
    (exchange,) = replay(read_records(path)).exchanges
    assert [str(notice) for notice in exchange.notices] == [
        NOTICES["loop"], "nobody knows this one", unwritable.text,
    ]  # fmt: skip
    shown = recap(replay(read_records(path)), "es")
    assert shown[-3:] == [
        "[la respuesta se repetía y se detuvo]",
        "[nobody knows this one]",
        "[no se puede guardar el estado de las instrucciones del sistema: no se puede crear esta "
        "carpeta: no queda espacio en el dispositivo]",
    ]


def test_copies_to_read(tmp_path: Path) -> None:
    session = new_session(tmp_path / ".", HEADER, system="S")
    talk(session, ("q", "A"))
    save_copy(session, tmp_path / "copy.md")
    text = (tmp_path / "copy.md").read_text()
    assert text == as_text(session)
    for part in ("q", "A", "hm", "S", session.id, SHORT["en"], SHORT["es"]):
        assert part in text
    session.ask("dose?")
    notice = Notice("guard_dose_no_weight", GUARDS["guard_dose_no_weight"])
    session.finish("B", "", "end", {"notices": [notice.document()]})
    assert f"> [{notice.text}]" in as_text(session)
    assert session.transcript is not None
    assert as_text(replay(read_records(session.transcript.path))) == as_text(session)
    save_copy(session, tmp_path / "copy.jsonl")
    assert session.transcript is not None
    assert (tmp_path / "copy.jsonl").read_bytes() == session.transcript.path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        save_copy(session, tmp_path / "copy.md")


def test_without_a_transcript_nothing_is_written(tmp_path: Path) -> None:
    session = Session(system="S")
    talk(session, ("q", "A"))
    session.close()
    assert list(tmp_path.iterdir()) == []


# ---- a full disk ----


@contextmanager
def room_for(path: Path, n_bytes: int) -> Iterator[None]:
    """Let files grow to `n_bytes` more than `path` has; the kernel refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    session = new_session(tmp_path, HEADER)
    talk(session, ("a", "A"))
    path = find_session(tmp_path, "last")
    before = path.read_bytes()
    with room_for(path, 30), pytest.raises(PedsupError):
        session.ask("a question of more than thirty bytes")
    assert path.read_bytes() == before
    talk(session, ("b", "B"))  # when there is room again, the session goes on
    session.close()
    assert [e.user for e in resume_session(path).exchanges] == ["a", "b"]


def test_an_answer_that_does_not_fit_can_still_be_saved_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pedsup.session.history.PARTIAL_EVERY_S", 0.0)
    session = new_session(tmp_path, HEADER)
    session.ask("q")
    path = find_session(tmp_path, "last")
    before = path.read_bytes()
    with room_for(path, 10):
        session.heard(answer="the whole answer")  # no error in the middle of an answer
        with pytest.raises(PedsupError):
            session.finish("the whole answer", "", "end")
    assert path.read_bytes() == before
    save_copy(session, tmp_path / "copy.md")
    assert "the whole answer" in (tmp_path / "copy.md").read_text()
