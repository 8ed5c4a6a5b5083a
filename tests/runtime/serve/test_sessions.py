"""The life of a server: transcripts, stopping, clients that leave, kills, and its end."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import programs
from pedsup_testing.fake_engine import END
from pedsup_testing.home import environment
from pedsup_testing.served import Served, events

from pedsup.session.files import find_session
from pedsup.session.history import replay
from pedsup.session.transcript import read_records
from pedsup.texts.intended_use import SHORT

pytestmark = pytest.mark.slow  # most start a server of their own
LONG = [*(" ".join(str(i * i) for i in range(2000))), END]
"""A text that goes on for long without going in circles."""


def thought(text: str, answer: str) -> list[str]:
    return ["<|channel>", "thought", "\n", *text, "<channel|>", *answer, END]


def texts(found: list[tuple[str, Any]], kind: str) -> str:
    return "".join(data["text"] for name, data in found if name == kind)


def transcripts(home: Path) -> list[Path]:
    return sorted(home.rglob("*.jsonl"))


def wait_for(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def stream(server: Served, path: str, body: object) -> tuple[Any, Any]:
    """A connection and its response, the headers read and the body not."""
    connection = server.connect()
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    return connection, connection.getresponse()


def test_a_turn_of_the_page_and_its_transcript(scripted: Any, tmp_path: Path) -> None:
    server = scripted(thought("hmm", "Sí."), thought("ok", "No."))
    first = server.ask("¿Fiebre?")
    kinds = [name for name, _ in first]
    assert kinds[0] == "waiting"
    assert kinds[1] == "started"
    assert kinds[-1] == "done"
    assert (texts(first, "reasoning"), texts(first, "answer")) == ("hmm", "Sí.")
    name = first[0][1]["conversation"]
    done = first[-1][1]
    assert done["stop_reason"] == "end"
    assert done["tokens"]["answer"] == 3
    (path,) = transcripts(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    second = server.ask("¿Y tos?", conversation=name)
    assert texts(second, "answer") == "No."
    session = replay(read_records(path))
    assert [(e.user, e.answer, e.reasoning) for e in session.exchanges] == [
        ("¿Fiebre?", "Sí.", "hmm"), ("¿Y tos?", "No.", "ok"),
    ]  # fmt: skip
    status, _, found = server.call("GET", f"/page/conversations/{name}")
    assert status == 200
    assert [e["answer"] for e in found["exchanges"]] == ["Sí.", "No."]


def test_a_new_conversation_knows_nothing_of_the_other(scripted: Any, tmp_path: Path) -> None:
    server = scripted(thought("a", "Sí."), thought("b", "No."))
    one, two = server.ask("¿Fiebre?"), server.ask("¿Tos?")
    assert one[0][1]["conversation"] != two[0][1]["conversation"]
    assert two[-1][1]["tokens"]["prompt"] < one[-1][1]["tokens"]["prompt"]
    assert len(transcripts(tmp_path)) == 2


def test_without_history_nothing_is_on_the_disk(start: Any, tmp_path: Path) -> None:
    server = start("--no-history")
    assert texts(server.ask("Say hello."), "answer").strip()
    assert server.call("GET", "/page/state")[2]["history"] is False
    server.finish()
    found = [p.name for p in tmp_path.rglob("*") if p.is_file()]
    assert found == ["intended-use.json"]


def test_the_api_leaves_nothing_on_the_disk(real: Served) -> None:
    home = Path(environment_of(real)["HOME"]).parent  # what pedsup writes lies beside it
    body = {"model": "pedsup", "messages": [
        {"role": "system", "content": "You answer in one word. " * 20},
        {"role": "user", "content": "SECRET"}], "max_tokens": 2}  # fmt: skip
    assert real.call("POST", "/v1/chat/completions", body)[0] == 200
    files = [p for p in home.rglob("*") if p.is_file()]
    # The mark of a running program goes at its end, and holds no word of a conversation.
    assert [p.name for p in files if p.parent.name != "running"] == ["intended-use.json"]
    assert not any(b"SECRET" in p.read_bytes() for p in files)


def environment_of(server: Served) -> dict[str, str]:
    raw = Path(f"/proc/{server.process.pid}/environ").read_bytes().decode().split("\0")
    return dict(part.split("=", 1) for part in raw if part)


def test_stop_ends_the_answer_and_keeps_what_came(scripted: Any, tmp_path: Path) -> None:
    server = scripted(LONG, thought("x", "Sí."), delay_s=0.005)
    connection, response = stream(server, "/page/ask", {"text": "Largo", "think": False})
    name = events(response.readline().decode() + response.readline().decode() + "\n")
    assert name[0][0] == "waiting"
    conversation = name[0][1]["conversation"]
    wait_for(lambda: transcripts(tmp_path) and "partial" in transcripts(tmp_path)[0].read_text())
    busy = server.call("POST", "/page/ask", {"text": "y?", "conversation": conversation})
    assert (busy[0], busy[2]["error"]["code"]) == (409, "busy")
    assert server.call("POST", "/page/stop", {"conversation": conversation})[0] == 200
    rest = events(response.read().decode())
    connection.close()
    assert rest[-1][0] == "done"
    assert rest[-1][1]["stop_reason"] == "interrupted"
    (exchange,) = replay(read_records(transcripts(tmp_path)[0])).exchanges
    assert exchange.stop_reason == "interrupted"
    assert exchange.answer.startswith("0 1 4 9")
    assert exchange.answer == texts(rest, "answer")
    after = server.ask("otra", conversation=conversation)
    assert texts(after, "answer") == "Sí."


@pytest.mark.parametrize("path", ["/page/ask", "/v1/chat/completions"])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_stops_its_answer(scripted: Any, path: str, streamed: bool) -> None:
    """LONG would take 100 s: the next question is answered long before."""
    server = scripted(LONG, thought("x", "Sí."), delay_s=0.01)
    body: dict[str, Any] = {"text": "Largo", "think": False}
    if path.startswith("/v1"):
        body = {"model": "pedsup", "messages": [{"role": "user", "content": "Largo"}],
                "stream": streamed, "reasoning_effort": "none"}  # fmt: skip
    connection = server.connect()
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    time.sleep(0.3)
    connection.close()
    started = time.monotonic()
    assert texts(server.ask("Corto"), "answer") == "Sí."
    assert time.monotonic() - started < 50


def test_a_client_that_leaves_the_queue_is_not_answered(scripted: Any, tmp_path: Path) -> None:
    server = scripted(LONG, thought("x", "Sí."), delay_s=0.005)
    first, response = stream(server, "/page/ask", {"text": "Largo", "think": False})
    response.readline()
    second, waiting = stream(server, "/page/ask", {"text": "Impaciente"})
    waiting.readline()
    assert json.loads(waiting.readline()[6:])["position"] == 1
    second.close()
    waiting.close()
    time.sleep(0.6)
    first.close()
    response.close()
    assert texts(server.ask("Corto"), "answer") == "Sí."
    assert "Impaciente" not in "".join(p.read_text("utf-8") for p in transcripts(tmp_path))


def test_a_full_queue_says_when_to_come_back(scripted: Any) -> None:
    from pedsup.serve.jobs import WAITING

    server = scripted(LONG, delay_s=0.01)
    held = [stream(server, "/page/ask", {"text": str(n), "think": False})
            for n in range(WAITING + 1)]  # fmt: skip
    for _, response in held:
        response.readline()
    for path, body in (
        ("/page/ask", {"text": "x"}),
        ("/v1/chat/completions",
         {"model": "pedsup", "messages": [{"role": "user", "content": "x"}]}),
    ):  # fmt: skip
        status, headers, found = server.call("POST", path, body)
        assert (status, found["error"]["code"]) == (429, "queue_full")
        assert int(headers["retry-after"]) >= 1
    # What needs no engine is answered at once.
    assert server.call("GET", "/page/state")[0] == 200
    for connection, response in held:
        response.close()
        connection.close()


def test_answers_go_to_those_who_asked(scripted: Any) -> None:
    import threading

    server = scripted(delay_s=0.001)
    found: dict[int, str] = {}

    def ask(n: int) -> None:
        body = {"model": "pedsup", "messages": [{"role": "user", "content": f"echo {n}-{n * n}"}]}
        found[n] = server.call("POST", "/v1/chat/completions", body)[2]["choices"][0]["message"][
            "content"
        ]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {n: f"{n}-{n * n}" for n in range(12)}


# ---- first use ----


def test_nothing_is_answered_before_the_acknowledgement(scripted: Any, tmp_path: Path) -> None:
    server = scripted(thought("x", "Sí."), accepted=False)
    assert server.call("GET", "/page/state")[2]["acknowledged"] is False
    chat = {"model": "pedsup", "messages": [{"role": "user", "content": "x"}]}
    for path, body in (("/page/ask", {"text": "x"}), ("/v1/chat/completions", chat)):
        status, _, found = server.call("POST", path, body)
        assert (status, found["error"]["code"]) == (403, "intended_use_not_acknowledged")
    assert server.call("POST", "/page/acknowledge", {"language": "es"})[0] == 200
    assert texts(server.ask("x"), "answer") == "Sí."
    record = json.loads((tmp_path / "data/pedsup/intended-use.json").read_text())
    assert (record["how"], record["language"]) == ("page", "es")
    again = scripted(accepted=False)
    assert again.call("GET", "/page/state")[2]["acknowledged"] is True


# ---- the end ----


def test_it_says_where_it_is_and_ends_quietly(start: Any) -> None:
    server = start()
    code, errors = server.finish(signal.SIGTERM)
    assert code == 0
    assert SHORT["en"] in errors
    assert server.url in errors
    assert server.url == f"http://127.0.0.1:{server.port}/#{server.token}"
    assert len(server.token) >= 32
    assert "termux" not in errors
    assert "Traceback" not in errors


def test_ctrl_c_in_an_answer_keeps_it_and_tells_the_reader(scripted: Any, tmp_path: Path) -> None:
    server = scripted(LONG, delay_s=0.01)
    _, response = stream(server, "/page/ask", {"text": "Largo", "think": False})
    response.readline()
    _, waiting = stream(server, "/page/ask", {"text": "Después"})
    waiting.readline()
    wait_for(lambda: transcripts(tmp_path) and "partial" in transcripts(tmp_path)[0].read_text())
    code, errors = server.finish(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in errors
    (path,) = transcripts(tmp_path)
    assert f"--resume {path.stem}" in errors
    rest = events(response.read().decode())
    assert rest[-1][0] == "done"
    assert rest[-1][1]["stop_reason"] == "interrupted"
    assert events(waiting.read().decode())[-1][1]["code"] == "shutting_down"
    (exchange,) = replay(read_records(path)).exchanges
    assert exchange.answer == texts(rest, "answer")


def test_a_dead_engine_ends_the_server_and_the_answer_so_far_is_kept(
    scripted: Any, tmp_path: Path
) -> None:
    server = scripted([*"Uno dos", "DIE", *" tres"], dies=True)
    found = server.ask("Cuenta", think=False)
    assert found[-1][0] == "error"
    assert "killed" in found[-1][1]["message"]
    server.process.wait(20)
    code, errors = server.finish()
    assert code == 9
    assert "Traceback" not in errors
    (exchange,) = replay(read_records(transcripts(tmp_path)[0])).exchanges
    assert (exchange.answer, exchange.stop_reason) == ("Uno dos", "failed")


def test_a_kill_loses_nothing_that_was_shown_as_done(start: Any, tmp_path: Path) -> None:
    server = start("--max-tokens", "200")
    done = server.ask("Say hello.")
    name = done[0][1]["conversation"]
    _, response = stream(
        server, "/page/ask", {"text": "Count from 1 to 100.", "conversation": name}
    )
    response.readline()
    folder = tmp_path / "data/pedsup/sessions"
    wait_for(lambda: '"partial", "turn": 2' in transcripts(folder)[0].read_text())
    server.process.kill()
    assert server.finish()[0] == -signal.SIGKILL
    again = start("--resume")
    state = again.call("GET", "/page/state")[2]
    assert state["conversation"] == find_session(folder, "last").stem
    exchanges = again.call("GET", f"/page/conversations/{state['conversation']}")[2]["exchanges"]
    assert exchanges[0]["answer"] == texts(done, "answer")
    assert exchanges[1]["stop_reason"] == "killed"
    assert exchanges[1]["answer"].strip()
    more = again.ask("Go on.", conversation=state["conversation"])
    assert more[-1][0] == "done"


# ---- the command line ----


def refuse(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = programs.run("pedsup", *arguments, env=environment(tmp_path), timeout=60)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done


def test_a_taken_port_is_told_before_the_model_is_loaded(
    start: Any, tmp_path: Path, smollm2: Path
) -> None:
    server = start()
    done = refuse(tmp_path, str(smollm2), "--serve", "--port", str(server.port))
    assert done.returncode == 2
    assert f"port {server.port} cannot be used" in done.stderr
    assert "--port 0" in done.stderr


def test_options_that_do_not_go_together(tmp_path: Path, smollm2: Path) -> None:
    done = refuse(tmp_path, str(smollm2), "--port", "9000", "-p", "x")
    assert (done.returncode, "--serve" in done.stderr) == (2, True)
    done = refuse(tmp_path, str(smollm2), "--serve", "-p", "x")
    assert (done.returncode, "not for --serve" in done.stderr) == (2, True)


def test_termux_is_told_how_to_open_the_page(tmp_path: Path, smollm2: Path) -> None:
    env = {**environment(tmp_path), "PREFIX": "/data/data/com.termux/files/usr"}
    server = Served(["-m", "pedsup", str(smollm2), "--serve", "--json", "--port", "0", "--ctx",
                     "256", "--threads", "1", "--lang", "es"], env)  # fmt: skip
    _, errors = server.finish()
    assert f"termux-open-url '{server.url}'" in errors
    assert SHORT["es"] in errors


def test_no_request_is_ever_written_to_the_terminal(real: Served) -> None:
    """Nor by the HTTP library, whose warnings quote what they are about."""
    for method, path, body in (
        ("POST", "/page/ask", b'{"text": "SECRET-NAME"'),
        ("GET", "/SECRET-NAME", None),
        ("POST", "/v1/chat/completions", {"model": "SECRET-NAME", "messages": []}),
    ):
        assert real.call(method, path, body)[0] >= 400
    chat = {"model": "pedsup", "max_tokens": 2,
            "messages": [{"role": "user", "content": "SECRET-NAME"}]}  # fmt: skip
    assert real.call("POST", "/v1/chat/completions", chat)[0] == 200
    _, errors = real.finish()
    assert "SECRET-NAME" not in errors
    assert "Traceback" not in errors
