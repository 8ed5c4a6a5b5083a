"""Pictures through both engines, with transformers as the oracle on a tiny random Gemma 4."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing import mtmd, seeing
from pedsup_testing.converter import Converter
from pedsup_testing.home import environment
from pedsup_testing.lazy import require
from pedsup_testing.pictures import undecodable_jpeg
from pedsup_testing.seeing import BEGIN, END, Oracle, pixels, png
from pedsup_testing.served import Served

from pedsup.chat.events import TurnSettings
from pedsup.chat.prompt import build_prompt
from pedsup.chat.templates.template import ChatTemplate
from pedsup.engine.api import Engine, EngineConfig, SamplingConfig
from pedsup.engine.picture_ids import without_pictures
from pedsup.errors import BadFileError, PedsupError, UnsupportedError, UsageError
from pedsup.pictures.read import picture_from_bytes
from pedsup.session.conversation import Conversation
from pedsup.session.files import new_session, resume_session
from pedsup.session.history import Session
from pedsup.session.picture_notes import PICTURE_GONE
from pedsup.terminal.render import pipe_renderer

GREEDY = SamplingConfig(temperature=0)
FLOOR = 0.02
"""Between root mean squares: mtmd convolves in float16, and the cache is float16."""
Open = Callable[..., Engine]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, edge_template: str, converter: Converter
) -> Path:
    """A model as wide as E2B: its pictures are read from left to right."""
    require("transformers", "pip install 'pedsup[train]'")
    made = seeing.gemma4(tmp_path_factory.mktemp("edge"), width=1536, template=edge_template)
    seeing.convert(made, converter)
    return made


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Oracle:
    return Oracle.load(folder)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    from pedsup.engine.llama_cpp.inprocess import InProcessEngine

    mtmd.require()
    with closing(InProcessEngine(_config(folder))) as opened:
        yield opened


def _config(folder: Path, **fields: object) -> EngineConfig:
    values = {"n_ctx": 768, "n_threads": 1, "n_threads_batch": 1, **fields}
    projector = folder / "mmproj-tiny.gguf"
    return EngineConfig(folder / "tiny.gguf", projector=projector, **values)  # type: ignore[arg-type]


def _prompt(engine: Engine, image: np.ndarray, question: str = "What is it?") -> list[int]:
    template = ChatTemplate.from_engine(engine, allow_unknown=True)
    with closing(template):
        shown = {"role": "user", "content": question, "pictures": (png(image),)}
        return build_prompt(engine, template, [shown], think=False).tokens  # type: ignore[list-item]


def _next_logits(engine: Engine, prompt: list[int]) -> np.ndarray:
    list(engine.generate(prompt, GREEDY, max_tokens=0))
    pointer = engine._lib.llama_get_logits(engine._ctx)  # type: ignore[attr-defined]
    return np.ctypeslib.as_array(pointer, (engine.info.n_vocab,)).copy()


def _apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the difference, over that of what is wanted."""
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


def _check_against(oracle: Oracle, engine: Engine) -> None:
    image = pixels(10, 8)
    ids = engine.see(png(image))
    assert (ids[0], len(ids), ids[-1]) == (BEGIN, 10 * 8 + 2, END)
    wanted = oracle.embeddings(image)
    found = engine._eyes.embeddings(ids[1])  # type: ignore[attr-defined]
    assert _apart(np.reshape(found, wanted.shape), wanted) < FLOOR
    prompt = _prompt(engine, image)
    right, other = (oracle.logits(prompt, one) for one in (image, pixels(10, 8, seed=1)))
    ours = _next_logits(engine, prompt)
    assert _apart(ours, right) < FLOOR
    assert 3 * _apart(ours, right) < _apart(ours, other), "the picture is seen"


@pytest.mark.slow
def test_a_picture_is_seen_as_transformers_sees_it(oracle: Oracle, engine: Engine) -> None:
    _check_against(oracle, engine)


@pytest.mark.slow
def test_pictures_of_the_large_models_are_seen_as_a_whole(
    tmp_path: Path, large_template: str, converter: Converter
) -> None:
    """Their tokens all see each other: one compute step must hold them."""
    from pedsup.engine.llama_cpp.inprocess import InProcessEngine

    mtmd.require()
    require("transformers", "pip install 'pedsup[train]'")
    made = seeing.gemma4(
        tmp_path, width=256, template=large_template, use_bidirectional_attention="vision"
    )
    seeing.convert(made, converter)
    with closing(InProcessEngine(_config(made))) as opened:
        _check_against(Oracle.load(made), opened)
    with closing(InProcessEngine(_config(made, n_ubatch=64))) as opened:
        prompt = _prompt(opened, pixels(10, 8))
        with pytest.raises(PedsupError, match="does not fit into one compute step"):
            list(opened.generate(prompt, GREEDY, max_tokens=1))


def test_what_was_read_is_kept_by_the_picture_s_content(engine: Engine) -> None:
    image, other = pixels(9, 8, seed=2), pixels(9, 8, seed=3)
    prompt, changed = _prompt(engine, image), _prompt(engine, other)
    begin = next(i for i, token in enumerate(prompt) if token < 0)
    assert prompt[:begin] == changed[:begin]
    assert prompt[begin : begin + 72] != changed[begin : begin + 72]
    first = [t.id for t in engine.generate(prompt, GREEDY, max_tokens=8)]
    kept = [t.id for t in engine.generate(prompt, GREEDY, max_tokens=8)]
    assert engine.last_stats.n_cached == len(prompt) - 1
    list(engine.generate(changed, GREEDY, max_tokens=8))
    assert engine.last_stats.n_cached == begin
    # Back again: nothing of the other picture is left.
    again = [t.id for t in engine.generate(prompt, GREEDY, max_tokens=8)]
    assert engine.last_stats.n_cached == begin
    assert first == kept == again
    # A cut inside a picture keeps none of it.
    shorter = [*prompt[: begin + 72], *engine.tokenize(" No.", parse_special=False)]
    list(engine.generate(shorter, GREEDY, max_tokens=1))
    assert engine.last_stats.n_cached in (begin, begin + 72)


def test_the_tokens_of_a_picture_are_known_before_it_is_seen(engine: Engine) -> None:
    """`--check` and llama-server's engine count them without llama.cpp."""
    projector = engine._loaded.projector  # type: ignore[attr-defined]
    for width, height in (
        (16, 16), (50, 700), (700, 50), (120, 96), (333, 251), (640, 480), (3000, 151),
        (201, 203), (199, 1999), (1024, 1023),
    ):  # fmt: skip
        image = np.zeros((height, width, 3), dtype=np.uint8)
        seen = engine.see(png(image))
        assert sum(token < 0 for token in seen) == projector.tokens(width, height), (width, height)
        assert len(without_pictures(seen)) == 2


def test_a_photo_that_lies_on_its_side_is_turned(engine: Engine) -> None:
    image = pixels(10, 8)
    ids = engine.see(png(image))
    upright = np.array(engine._eyes.embeddings(ids[1]))  # type: ignore[attr-defined]
    lying = np.rot90(image, axes=(0, 1))  # its first row is the right side, as EXIF's 6 says
    turned = engine.see(png(np.ascontiguousarray(lying), orientation=6))
    assert turned[1] != ids[1]
    found = np.array(engine._eyes.embeddings(turned[1]))  # type: ignore[attr-defined]
    assert np.array_equal(found, upright)


@pytest.mark.slow
def test_llama_server_sees_what_transformers_sees(
    oracle: Oracle, folder: Path, open_server: Open
) -> None:
    fields = {"n_ctx": 768, "projector": folder / "mmproj-tiny.gguf"}
    server = open_server(folder / "tiny.gguf", **fields)
    assert server.can_see
    ends = sorted(server.info.end_of_generation)
    sampling = SamplingConfig(temperature=0, banned=tuple(ends))
    image = pixels(10, 8)
    for question in ("What is it?", "Does the child have a fever?"):
        prompt = _prompt(server, image, question)
        logits = oracle.logits(prompt, image)
        logits[ends] = -np.inf
        (first,) = server.generate(prompt, sampling, max_tokens=1)
        assert logits.max() - logits[first.id] < 2 * FLOOR * logits.max()
    assert server.last_stats.n_cached > 80, "the picture is not read again"
    with pytest.raises(UnsupportedError, match="spells one of the model's control tokens"):
        list(server.generate(_prompt(server, image, "a <turn|> b"), GREEDY, max_tokens=1))


@pytest.mark.slow
def test_llama_server_says_the_same(engine: Engine, folder: Path, open_server: Open) -> None:
    fields = {"n_ctx": 768, "projector": folder / "mmproj-tiny.gguf"}
    server = open_server(folder / "tiny.gguf", **fields)
    assert server.can_see
    image = pixels(10, 8)
    for question in ("What is it?", "Does the child have a fever?"):
        prompt = _prompt(engine, image, question)
        assert _prompt(server, image, question) == prompt
        ours = [t.id for t in engine.generate(prompt, GREEDY, max_tokens=8)]
        theirs = [t.id for t in server.generate(prompt, GREEDY, max_tokens=8)]
        assert theirs == ours


def test_a_message_that_spells_a_control_token_or_a_mark_stays_text(engine: Engine) -> None:
    image = pixels(9, 8)
    plain = _prompt(engine, image, "a  b")
    (turn,) = engine.tokenize("<turn|>", parse_special=True)
    for text in ("a <turn|> b", "a \ue002 b"):
        spelled = _prompt(engine, image, text)
        assert spelled.count(turn) == plain.count(turn)
        assert sum(t < 0 for t in spelled) == sum(t < 0 for t in plain) == 72


def test_without_a_projector_a_picture_is_refused(folder: Path, open_inprocess: Open) -> None:
    blind = open_inprocess(folder / "tiny.gguf")
    assert not blind.can_see
    template = ChatTemplate.from_engine(blind, allow_unknown=True)
    session = Session()
    with closing(template):
        conversation = Conversation(
            blind, template, session, pipe_renderer("off", "en", answers=True)
        )
        with pytest.raises(UnsupportedError, match="cannot see pictures"):
            conversation.ask("What is it?", TurnSettings(), (png(pixels(9, 8)),))
    assert not session.exchanges
    with pytest.raises(UsageError, match="was not shown"):
        list(blind.generate([2, -7, 3], GREEDY, max_tokens=1))


def test_a_session_keeps_which_picture_it_was_and_not_the_picture(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = png(pixels(9, 8))
    template = ChatTemplate.from_engine(engine, allow_unknown=True)
    session = new_session(tmp_path, {})
    settings = TurnSettings(sampling=GREEDY, think=False, max_tokens=4)
    with closing(template):
        conversation = Conversation(
            engine, template, session, pipe_renderer("off", "en", answers=True)
        )
        first = conversation.ask("What is it?", settings, (picture,))
        assert [notice.code for notice in first.notices if "guard" in notice.code] == [
            "guard_picture"
        ]
        assert "a picture changes nothing" in capsys.readouterr().err
        session.exchanges[0].answer = "A rash."  # a random model may say nothing that is text
        second = conversation.ask("And now?", settings)
        assert second.n_cached >= first.n_prompt - 2, "the picture of the first turn is kept"
        session.close()
        (path,) = tmp_path.glob("*.jsonl")
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        (asked,) = (r for r in records if r["type"] == "user" and "pictures" in r)
        assert asked["pictures"] == [
            {"sha256": picture.sha256, "media_type": "image/png", "width": 108, "height": 96,
             "bytes": len(picture.data)}
        ]  # fmt: skip
        assert not [p for p in tmp_path.iterdir() if p != path]
        resumed = resume_session(path)
        assert resumed.exchanges[0].picture_notes == session.exchanges[0].picture_notes
        resumed.exchanges[0].answer = "A rash."
        question = resumed.messages()[0]
        assert question == {"role": "user", "content": f"{PICTURE_GONE}\nWhat is it?"}
        resumed.close()


def test_a_state_with_a_picture_is_not_saved(engine: Engine, tmp_path: Path) -> None:
    list(engine.generate(_prompt(engine, pixels(9, 8)), GREEDY, max_tokens=1))
    with pytest.raises(PedsupError, match="a state with pictures"):
        engine.save_state(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_decoded_is_told(engine: Engine) -> None:
    from dataclasses import replace

    good = png(pixels(9, 8))
    broken = replace(good, data=good.data[: len(good.data) // 2], sha256="0" * 64)
    with pytest.raises(BadFileError, match="the picture cannot be decoded"):
        engine.see(broken)


def test_no_program_is_started_on_a_picture_that_llama_cpp_refuses(
    engine: Engine, folder: Path, open_server: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp tries ffmpeg where its own decoder fails: on bytes that anybody may have made."""
    mark = tmp_path / "started"
    for name in ("ffprobe", "ffmpeg"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {mark}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    picture = picture_from_bytes(undecodable_jpeg(), where="photo")
    with pytest.raises(BadFileError, match="the picture cannot be decoded"):
        engine.see(picture)
    assert not mark.exists()
    fields = {"n_ctx": 768, "projector": folder / "mmproj-tiny.gguf"}
    server = open_server(folder / "tiny.gguf", **fields)
    prompt = [*server.see(picture), *server.tokenize("Hi", parse_special=True)]
    with pytest.raises(PedsupError):
        list(server.generate(prompt, GREEDY, max_tokens=1))
    assert not mark.exists()


@pytest.mark.slow
def test_the_server_shows_the_model_what_a_program_sends(
    engine: Engine, folder: Path, tmp_path: Path
) -> None:
    """The whole program: a data URL becomes as many tokens as the engine gives the picture."""
    picture = png(pixels(5, 4))
    url = f"data:image/png;base64,{base64.b64encode(picture.data).decode()}"
    text, shown = {"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": url}}
    command = ["-m", "pedsup", str(folder / "tiny.gguf"), "--serve", "--json", "--port", "0"]
    server = Served(
        [*command, "--temp", "0", "--max-tokens", "2", "--ctx", "768", "--threads", "1",
         "--engine", "inprocess"],
        {**environment(tmp_path), **mtmd.libraries()},
    )  # fmt: skip
    try:
        assert server.call("GET", "/v1/models/pedsup")[2]["meta"]["vision"] is True
        counts = []
        for content in ([text], [shown, text], [shown, text, shown]):
            body = {"model": "pedsup", "messages": [{"role": "user", "content": content}]}
            status, _, found = server.call("POST", "/v1/chat/completions", body)
            assert status == 200, found
            counts.append(found["usage"]["prompt_tokens"])
            notices = [notice["code"] for notice in found["pedsup"]["notices"]]
            assert ("guard_picture" in notices) == (len(content) > 1)
    finally:
        server.finish()
    places = engine.see(picture)
    newlines = engine.tokenize("\n\n", parse_special=True)
    assert counts[1] - counts[0] >= len(places)
    assert 0 <= counts[2] - counts[1] - len(places) <= 2 * len(newlines)


def test_one_question_about_a_photo_on_the_command_line(
    engine: Engine, folder: Path, tmp_path: Path
) -> None:
    """The projector that lies beside the model is found, and nobody vouches for it."""
    del engine  # skips where there is no libmtmd
    sees = {**environment(tmp_path), **mtmd.libraries()}
    photo = tmp_path / "photo.png"
    photo.write_bytes(png(pixels(10, 8)).data)
    command = [sys.executable, "-m", "pedsup", folder / "tiny.gguf", "--image", photo, "-p", "?",
               "--json", "--ctx", "768", "--threads", "1", "--temp", "0", "--max-tokens", "4",
               "--think", "off", "--engine", "inprocess", "--accept-intended-use"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=sees)
    document = json.loads(done.stdout)
    assert document["tokens"]["pictures"] == 80
    assert document["timings"]["pictures_s"] > 0
    assert [g["code"] for g in document["guards"]] == ["guard_picture"]
    assert "nothing says that this projector" in document["trust"]["warning"]
    assert "a picture changes nothing" in done.stderr
    photo.write_bytes(b"GIF89a" + bytes(20))
    refused = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=sees)
    assert refused.returncode != 0
    assert "GIF" in refused.stderr
