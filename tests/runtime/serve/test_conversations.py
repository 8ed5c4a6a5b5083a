"""The kept conversations: list, search, reopen, rename, delete, and who may not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import programs
from pedsup_testing.fake_engine import END
from pedsup_testing.home import environment
from pedsup_testing.served import Served

from pedsup.errors import BadFileError
from pedsup.serve.conversations import MAX_OPEN, Conversations
from pedsup.serve.faults import ApiError, from_pedsup, without_commands
from pedsup.session import listing, transcript
from pedsup.session.files import find_session, new_session, resume_session
from pedsup.session.history import Session, replay
from pedsup.session.listing import kept_path, search, summaries
from pedsup.session.transcript import Transcript, read_records
from pedsup.texts.language import translated
from pedsup.texts.notices import NOTICES

MODEL = {"model": {"digest": "d" * 64, "name": "Scripted"}}
ENDPOINTS = (
    ("GET", "/page/state", None),
    ("GET", "/page/conversations", None),
    ("GET", "/page/conversations/{id}", None),
    ("POST", "/page/search", {"text": "fiebre"}),
    ("POST", "/page/export", {"conversation": "{id}"}),
    ("POST", "/page/rename", {"conversation": "{id}", "title": "x"}),
    ("POST", "/page/delete", {"conversation": "{id}"}),
    ("POST", "/page/ask", {"conversation": "{id}", "text": "x"}),
    ("POST", "/page/stop", {"conversation": "{id}"}),
)


def kept(folder: Path, *turns: tuple[str, str], header: dict[str, Any] = MODEL) -> str:
    """A transcript of a session that has ended; its id."""
    folder.mkdir(exist_ok=True)
    session = new_session(folder, header)
    for question, answer in turns:
        session.ask(question)
        session.finish(answer, "hm", "end")
    session.close()
    return session.id


def attempts(server: Served, identity: str, **headers: str) -> list[tuple[int, str]]:
    """Status and code of every endpoint that reads or changes a conversation."""
    found = []
    for method, path, body in ENDPOINTS:
        filled = json.loads(json.dumps(body).replace("{id}", identity))
        status, _, reply = server.call(method, path.replace("{id}", identity), filled, **headers)
        found.append((status, reply["error"]["code"]))
    return found


def rows(server: Served) -> list[dict[str, Any]]:
    status, _, found = server.call("GET", "/page/conversations")
    assert status == 200
    return list(found["conversations"])


# ---- who may not ----


@pytest.mark.slow
def test_an_id_that_was_guessed_opens_nothing(scripted: Any, tmp_path: Path) -> None:
    """Ids are dates and 16 bits: they are no secret. An attacker who knows one, and a program that
    was given the key for OpenAI's protocol, learn not even whether it is there.
    """
    server = scripted()
    identity = kept(tmp_path / "sessions", ("SECRET", "also SECRET"))
    before = (tmp_path / "sessions" / f"{identity}.jsonl").read_bytes()
    for key in ("", "Bearer ", f"Bearer {server.api_token}", "Bearer guess"):
        for name in (identity, "20200101-000000-abcd", "nonsense"):
            found = attempts(server, name, Authorization=key)
            assert set(found) == {(401, "invalid_api_key")}
    assert (tmp_path / "sessions" / f"{identity}.jsonl").read_bytes() == before
    # The other way round: the page's key asks for everything, the programs' key only the model.
    assert server.api_token != server.token
    key = {"Authorization": f"Bearer {server.api_token}"}
    assert server.call("GET", "/v1/models", **key)[0] == 200
    assert server.call("GET", f"/page/conversations/{identity}")[2]["exchanges"][0]["answer"]


@pytest.mark.slow
def test_no_name_leads_out_of_the_folder(scripted: Any, tmp_path: Path) -> None:
    server = scripted()
    folder = tmp_path / "sessions"
    inside = kept(folder, ("dentro", "sí"))
    outside = kept(tmp_path / "other", ("SECRET", "sí"))
    (folder / "notes.jsonl").write_text('{"type": "session"}\n')
    link = folder / "20260101-000000-aaaa.jsonl"
    link.symlink_to(tmp_path / "other" / f"{outside}.jsonl")
    (folder / "20260101-000000-bbbb.jsonl").mkdir()
    os.mkfifo(folder / "20260101-000000-cccc.jsonl")
    names = [outside, f"..%2Fother%2F{outside}", "%2e%2e", f"../other/{outside}", "notes",
             link.stem, "20260101-000000-bbbb", "20260101-000000-cccc", f"{inside}.jsonl",
             f"{inside}\n", "a" * 256, f"{inside}%00", ""]  # fmt: skip
    for name in names:
        for method, path, body in ENDPOINTS[2:]:
            if body and "conversation" in body and name:
                filled = json.loads(json.dumps(body).replace("{id}", json.dumps(name)[1:-1]))
                status, _, found = server.call(method, path, filled)
                assert (status, found["error"]["code"]) == (404, "no_conversation"), (path, name)
            elif "{id}" in path and "\n" not in name:
                assert server.call(method, path.replace("{id}", name))[0] == 404, name
    assert [row["id"] for row in rows(server)] == [inside]
    assert link.is_symlink()
    assert (tmp_path / "other" / f"{outside}.jsonl").exists()


# ---- what the page does with them ----


@pytest.mark.slow
def test_list_reopen_rename_and_delete(scripted: Any, tmp_path: Path) -> None:
    server = scripted([*"Sí.", END])
    folder = tmp_path / "sessions"
    first = kept(folder, ("¿Fiebre?", "Mucha."), ("¿Y tos?", "Poca."))
    second = kept(folder, ("Otra", "x"))
    os.utime(folder / f"{second}.jsonl", (1, 1))
    assert [(r["id"], r["title"], r["turns"]) for r in rows(server)] == [
        (first, "¿Fiebre?", 2), (second, "Otra", 1),
    ]  # fmt: skip
    # Reading takes no lock: another program may go on with it.
    assert server.call("GET", f"/page/conversations/{first}")[0] == 200
    resume_session(folder / f"{first}.jsonl").close()

    done = server.ask("¿Más?", conversation=first, think=False)
    assert done[-1][1]["stop_reason"] == "end"
    assert done[1] == ("started", {"conversation": first, "turn": 3})
    assert (
        server.call("POST", "/page/rename", {"conversation": first, "title": "Niño de 3 años"})[0]
        == 200
    )
    assert (
        server.call("POST", "/page/rename", {"conversation": second, "title": "Segunda"})[0] == 200
    )
    assert {r["id"]: r["title"] for r in rows(server)} == {
        first: "Niño de 3 años",
        second: "Segunda",
    }
    assert replay(read_records(folder / f"{first}.jsonl")).title == "Niño de 3 años"

    # Deleting is `forget`: the file is gone, also while it is open here.
    for name in (first, second):
        assert server.call("POST", "/page/delete", {"conversation": name})[0] == 200
        assert server.call("GET", f"/page/conversations/{name}")[0] == 404
        assert server.call("POST", "/page/delete", {"conversation": name})[0] == 404
    assert list(folder.glob("*.jsonl")) == []
    assert rows(server) == []


@pytest.mark.slow
def test_one_that_another_program_holds_is_left(scripted: Any, tmp_path: Path) -> None:
    server = scripted()
    identity = kept(tmp_path / "sessions", ("¿Fiebre?", "Mucha."))
    path = tmp_path / "sessions" / f"{identity}.jsonl"
    transcript, _ = Transcript.reopen(path)
    for endpoint, body in (("rename", {"title": "x"}), ("delete", {})):
        status, _, found = server.call(
            "POST", f"/page/{endpoint}", {"conversation": identity, **body}
        )
        assert (status, found["error"]["code"]) == (409, "in_use")
    assert server.ask("x", conversation=identity)[-1][1]["code"] == "in_use"
    assert path.exists()
    transcript.close()
    assert server.call("POST", "/page/delete", {"conversation": identity})[0] == 200
    assert not path.exists()


@pytest.mark.slow
def test_one_of_another_model_can_be_read_and_not_go_on(scripted: Any, tmp_path: Path) -> None:
    server = scripted()
    other = {"model": {"digest": "e" * 64, "name": "Otro"}}
    identity = kept(tmp_path / "sessions", ("¿Fiebre?", "Mucha."), header=other)
    (row,) = rows(server)
    assert (row["same_model"], row["model"]) == (False, "Otro")
    found = server.call("GET", f"/page/conversations/{identity}")[2]
    assert (found["same_model"], found["exchanges"][0]["answer"]) == (False, "Mucha.")
    assert server.ask("x", conversation=identity)[-1][1]["code"] == "other_model"
    assert server.call("POST", "/page/delete", {"conversation": identity})[0] == 200


@pytest.mark.slow
def test_while_it_is_answered_it_is_not_deleted(scripted: Any, tmp_path: Path) -> None:
    server = scripted([*("a" * 3000), END], delay_s=0.01)
    connection = server.connect()
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    connection.request("POST", "/page/ask", json.dumps({"text": "x", "think": False}), headers)
    response = connection.getresponse()
    lines = [response.readline().decode() for _ in range(5)]
    identity = json.loads(lines[4][6:])["conversation"]
    for endpoint, body in (("rename", {"title": "x"}), ("delete", {})):
        status, _, found = server.call(
            "POST", f"/page/{endpoint}", {"conversation": identity, **body}
        )
        assert (status, found["error"]["code"]) == (409, "busy")
    response.close()
    connection.close()
    assert (tmp_path / "sessions" / f"{identity}.jsonl").exists()


@pytest.mark.slow
def test_without_history_the_list_is_of_this_run_only(scripted: Any, tmp_path: Path) -> None:
    server = scripted([*"Sí.", END], history=False)
    kept(tmp_path / "sessions", ("SECRET", "x"))
    name = server.ask("¿Fiebre?", think=False)[0][1]["conversation"]
    found = server.call("GET", "/page/conversations")[2]
    assert found["kept"] is False
    assert [(r["id"], r["title"], r["changed"]) for r in found["conversations"]] == [
        (name, "¿Fiebre?", None)
    ]
    assert server.call("POST", "/page/search", {"text": "SECRET"})[2]["conversations"] == []
    assert server.call("POST", "/page/delete", {"conversation": name})[0] == 200
    assert rows(server) == []
    assert len(list((tmp_path / "sessions").iterdir())) == 1


# ---- asking again ----


@pytest.mark.slow
def test_another_answer_takes_the_place_of_the_first(scripted: Any, tmp_path: Path) -> None:
    server = scripted(*([*text, END] for text in ("Uno.", "Dos.", "Tres.", "Cuatro.")))
    name = server.ask("¿A?", think=False)[1][1]["conversation"]
    server.ask("¿B?", conversation=name, think=False)
    third = server.ask("¿B bis?", conversation=name, think=False, from_turn=2)
    assert third[1] == ("started", {"conversation": name, "turn": 3})
    found = server.call("GET", f"/page/conversations/{name}")[2]["exchanges"]
    assert [(e["turn"], e["question"], e["answer"]) for e in found] == [
        (1, "¿A?", "Uno."), (3, "¿B bis?", "Tres."),
    ]  # fmt: skip
    fourth = server.ask("¿C?", conversation=name, think=False)
    # What was replaced is kept in the file, and the model does not see it.
    path = find_session(tmp_path / "sessions", name)
    session = replay(read_records(path))
    assert [e.answer for e in session.exchanges] == ["Uno.", "Dos.", "Tres.", "Cuatro."]
    assert [m["content"] for m in session.messages()] == [
        "¿A?", "Uno.", "¿B bis?", "Tres.", "¿C?", "Cuatro.",
    ]  # fmt: skip
    assert fourth[-1][1]["stop_reason"] == "end"
    text = server.call("POST", "/page/export", {"conversation": name})[2]["text"]
    assert "Dos." not in text
    plain = server.call(
        "POST", "/page/export", {"conversation": name, "format": "text", "language": "es"}
    )[2]
    assert plain["name"] == f"pedsup-{name}.txt"
    assert "Pregunta:\n¿B bis?\n\nRespuesta:\nTres.\n" in plain["text"]


@pytest.mark.slow
def test_settings_reach_the_model_and_the_transcript(scripted: Any, tmp_path: Path) -> None:
    server = scripted(*([*"Uno dos tres cuatro.", END] for _ in range(3)))
    done = server.ask("¿A?", think=False, max_tokens=3, temperature=0.5, system="Sea breve.")
    assert done[-1][1]["stop_reason"] == "length"
    assert done[-1][1]["tokens"]["answer"] == 3
    name = done[1][1]["conversation"]
    found = server.call("GET", f"/page/conversations/{name}")[2]
    assert found["system"] == "Sea breve."
    server.ask("¿B?", conversation=name, think=False, system="")
    records = read_records(tmp_path / "sessions" / f"{name}.jsonl")
    settings = [r["settings"] for r in records if r["type"] == "settings"]
    assert (settings[0]["temperature"], settings[0]["max_tokens"]) == (0.5, 3)
    assert (settings[1]["temperature"], settings[1]["max_tokens"]) == (1.0, None)
    assert [r["text"] for r in records if r["type"] == "system"] == ["Sea breve.", ""]
    for body in ({"temperature": 3}, {"think_budget": -1}, {"max_tokens": 0}, {"from_turn": 0},
                 {"system": "x" * 20_001}, {"temperature": "1"}):  # fmt: skip
        assert server.call("POST", "/page/ask", {"text": "x", **body})[0] == 400


@pytest.mark.slow
def test_errors_speak_of_no_command_of_the_terminal(scripted: Any) -> None:
    server = scripted(ctx=256)
    for language in ("en", "es"):
        error = server.ask("largo " * 200, language=language)[-1][1]
        assert error["code"] == "context_length_exceeded"
        assert "/reset" not in error["message"]
    assert "empiece una conversación nueva" in error["message"]
    for text in (*NOTICES.values(), *(translated(text, "es") for text in NOTICES.values())):
        assert " /" not in without_commands(text)
        assert "(/" not in without_commands(text)


# ---- the list itself, without a server ----


def test_a_search_finds_words_without_accents(tmp_path: Path) -> None:
    one = kept(tmp_path, ("¿Cuándo dar zinc?", "En la DESHIDRATACIÓN, 10 a 14 días."))
    kept(tmp_path, ("Otra cosa", "nada"))
    for text in ("deshidratacion", "ZINC dias", "cuándo"):
        hits, more = search(tmp_path, text, 10)
        assert ([hit.summary.id for hit in hits], more) == ([one], False)
    assert "DESHIDRATACIÓN" in search(tmp_path, "deshidratacion", 10)[0][0].excerpt
    assert search(tmp_path, "zinc nada", 10)[0] == []
    assert search(tmp_path, "otra", 0) == ([], True)
    # What was replaced is not found.
    session = resume_session(tmp_path / f"{one}.jsonl")
    session.rewind(1)
    session.ask("¿Cuándo dar hierro?")
    session.finish("Después.", "", "end")
    session.close()
    assert search(tmp_path, "zinc", 10)[0] == []
    (row,) = [hit.summary for hit in search(tmp_path, "hierro", 10)[0]]
    assert (row.title, row.turns) == ("¿Cuándo dar hierro?", 1)


def test_damaged_and_unfinished_transcripts_are_listed(tmp_path: Path) -> None:
    whole = kept(tmp_path, ("a", "b"))
    torn = kept(tmp_path, ("torn", "b"))
    with (tmp_path / f"{torn}.jsonl").open("a") as file:
        file.write('{"type": "user", "te')
    damaged = kept(tmp_path, ("c", "d"))
    with (tmp_path / f"{damaged}.jsonl").open("a") as file:
        file.write("no record\n{}\n")
    (tmp_path / "20260101-000000-abcd.jsonl").write_text("")
    found = {row.id: row for row in summaries(tmp_path, 10)[0]}
    assert set(found) == {whole, torn, damaged}
    assert [found[name].readable for name in (whole, torn, damaged)] == [True, True, False]
    assert len(summaries(tmp_path, 2)[0]) == 2
    assert summaries(tmp_path, 2)[1] is True
    assert summaries(tmp_path / "nowhere", 2) == ([], False)
    assert search(tmp_path, "torn", 5)[0][0].summary.id == torn


def test_a_copy_is_a_conversation_of_its_own(tmp_path: Path) -> None:
    """Its first line says the id of the one that it was copied from, or anything else."""
    whole = kept(tmp_path, ("a", "b"))
    copy = "20260101-000000-abcd"
    source, file = tmp_path / f"{whole}.jsonl", tmp_path / f"{copy}.jsonl"
    file.write_bytes(source.read_bytes())
    conversations = Conversations(lambda: new_session(tmp_path, MODEL), folder=tmp_path)
    assert conversations.open(conversations.get(copy)).id == copy
    assert conversations.get(copy).id == copy
    conversations.delete(whole)
    assert (source.exists(), file.exists()) == (False, True)
    conversations.delete(copy)
    assert not file.exists()
    conversations.close()


def test_a_transcript_of_millions_of_lines_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = kept(tmp_path, *([("a", "b")] * 6))
    few = kept(tmp_path, ("a", "b"))
    for module in (listing, transcript):
        monkeypatch.setattr(module, "MAX_RECORDS", 12)
    found = {row.id: row.readable for row in summaries(tmp_path, 10)[0]}
    assert found == {many: False, few: True}
    with pytest.raises(BadFileError, match="more than 12 lines"):
        read_records(tmp_path / f"{many}.jsonl")
    assert len(read_records(tmp_path / f"{few}.jsonl")) == 3


@pytest.mark.parametrize("seconds", [1 << 40, -(1 << 40), 0])
def test_a_file_s_time_may_be_any_number(seconds: int) -> None:
    assert listing._utc(seconds) == "1970-01-01T00:00:00+00:00"


def test_the_one_used_longest_ago_is_closed_and_opens_again(tmp_path: Path) -> None:
    conversations = Conversations(lambda: new_session(tmp_path, MODEL), folder=tmp_path)
    first = conversations.new()
    session = conversations.open(first)
    session.ask("¿Fiebre?")
    session.finish("Sí.", "", "end")
    for _ in range(MAX_OPEN):
        conversations.new()
    again = conversations.get(session.id)
    assert [e.answer for e in again.session.exchanges] == ["Sí."]
    assert not again.opened
    assert [e.answer for e in conversations.open(again).exchanges] == ["Sí."]
    # One that was deleted meanwhile, as by `pedsup-run forget`, is no longer there.
    conversations.close()
    kept_path(tmp_path, session.id).unlink()  # type: ignore[union-attr]
    with pytest.raises(ApiError) as error:
        conversations.get(session.id)
    assert error.value.status == 404


def test_a_delete_that_fails_leaves_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations = Conversations(lambda: new_session(tmp_path, MODEL), folder=tmp_path)
    held = conversations.new()
    session = conversations.open(held)
    session.ask("a")
    session.finish("b", "", "end")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ApiError, match="not erased") as error:
        conversations.delete(session.id)
    assert error.value.status == 409
    monkeypatch.undo()
    again = conversations.open(conversations.get(session.id))
    again.ask("c")
    again.finish("d", "", "end")
    assert len(replay(read_records(tmp_path / f"{session.id}.jsonl")).exchanges) == 2
    conversations.close()


@pytest.mark.slow
def test_deleting_is_what_forget_does(scripted: Any, tmp_path: Path) -> None:
    """The same file in two homes: one erased by the page, one by the command."""
    server = scripted()
    identity = kept(tmp_path / "sessions", ("a", "b"))
    kept(tmp_path / "twin", ("a", "b"))
    assert server.call("POST", "/page/delete", {"conversation": identity})[0] == 200
    words = ["forget", "--session", "last", "--yes", "--history-dir", tmp_path / "twin"]
    done = programs.run("pedsup", *words, env=environment(tmp_path))
    assert done.returncode == 0
    assert list((tmp_path / "sessions").iterdir()) == list((tmp_path / "twin").iterdir()) == []


def test_a_session_without_a_transcript_takes_the_same_commands() -> None:
    session = Session()
    session.ask("a")
    session.finish("b", "", "end")
    session.rename("x")
    session.rewind(1)
    session.rewind(9)
    assert (session.title, session.messages()) == ("x", [])


def test_a_lock_is_no_fault_of_the_server(tmp_path: Path) -> None:
    identity = kept(tmp_path, ("a", "b"))
    held, _ = Transcript.reopen(tmp_path / f"{identity}.jsonl")
    with pytest.raises(Exception, match="another session") as error:
        resume_session(tmp_path / f"{identity}.jsonl")
    held.close()
    assert from_pedsup(error.value).status == 409  # type: ignore[arg-type]
