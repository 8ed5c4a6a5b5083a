"""Driver of the session's fault sweeps: see `pedsup_testing.faults`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

from pedsup_testing.faults import Job, Report, finish, sweep

import pedsup.session.history
from pedsup.chat.templates.template import ChatTemplate
from pedsup.engine.api import EngineConfig
from pedsup.engine.llama_cpp.inprocess import InProcessEngine
from pedsup.errors import UsageError
from pedsup.gguf_file import read_header
from pedsup.session.copy import save_copy
from pedsup.session.files import find_session, new_session, resume_session
from pedsup.session.prefix_cache import PrefixCache, StateKey
from pedsup.session.transcript import read_records

TURNS, PIECES = 4, 6


def answer(turn: int) -> str:
    return f"respuesta {turn}: ñandú 🫁 " * PIECES


def transcripts(root: Path) -> Report:
    """Turns are held; each one said to be done is written to another folder."""
    folder, said = root / "work/sessions", root / "said"
    pedsup.session.history.PARTIAL_EVERY_S = 0.0

    def hold() -> None:
        try:
            session = resume_session(find_session(folder, "last"))
        except UsageError:
            session = new_session(folder, {"model": {"digest": "d"}}, system="be short")
        for _ in range(TURNS):
            turn = len(session.exchanges) + 1
            session.ask(f"question {turn}")
            text = answer(turn)
            for at in range(0, len(text), 30):
                session.heard(answer=text[at : at + 30])
            session.finish(text, "", "end")
            with said.open("a") as file:
                file.write(f"{turn}\n")
                file.flush()
                os.fsync(file.fileno())
        save_copy(session, folder / "copy.md")
        session.close()

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        said.write_text("")

    def check(kind: str) -> None:
        done = [int(line) for line in said.read_text().split()]
        copy = folder / "copy.md"
        if copy.exists():
            assert copy.read_text("utf-8").rstrip().endswith(answer(TURNS).strip())
        if not done and not [p for p in folder.glob("*.jsonl") if b"\n" in p.read_bytes()]:
            with contextlib.suppress(UsageError):
                find_session(folder, "last")
                raise AssertionError("a session without a first line was found")
            return  # it died before its first line: there is nothing to lose
        path = find_session(folder, "last")
        session = resume_session(path)
        for exchange in session.exchanges:
            whole = answer(exchange.turn)
            if exchange.turn in done:
                assert exchange.stop_reason == "end" and exchange.answer == whole
            else:
                assert whole.startswith(exchange.answer), "text that was never said"
        assert {e.turn for e in session.exchanges} >= set(done)
        session.ask("what next")  # and it goes on
        session.finish("ok", "", "end")
        session.close()
        assert read_records(path)[-1]["answer"] == "ok"

    return sweep(Job(root / "work", prepare, hold, check))


def prefix_cache(root: Path, model: Path) -> Report:
    """The read system prompt is saved; a later start finds it whole, or reads it again."""
    folder = root / "work/prefix"
    config = EngineConfig(model, n_ctx=512, n_threads=1, n_threads_batch=1)
    identity = StateKey.of(read_header(model))
    system = [{"role": "system", "content": "Answer briefly and name your sources. " * 12}]

    def warm() -> tuple[str, list[int]]:
        engine = InProcessEngine(config)
        try:
            template = ChatTemplate.from_engine(engine)
            warmed = PrefixCache(folder, config, identity).warm(
                engine, template, system, think=False
            )
            return warmed.source, list(engine.cached)
        finally:
            engine.close()

    wanted = warm()[1]

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)

    def check(kind: str) -> None:
        source, tokens = warm()
        assert tokens == wanted
        assert source in ("disk", "read")
        again, tokens = warm()
        assert (again, tokens) == ("disk", wanted), "what was mended is not found again"

    return sweep(Job(root / "work", prepare, warm, check))


def main(config: dict[str, str]) -> None:
    root = Path(config["root"])
    if config.get("model"):
        finish({"prefix cache": prefix_cache(root, Path(config["model"]))})
    else:
        finish({"transcripts": transcripts(root)})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
