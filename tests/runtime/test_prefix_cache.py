"""The saved system prompt: found again, exact, and rebuilt when damaged or stale."""

from __future__ import annotations

import os

import pytest
from pedsup_testing.slowly import slow_but

from pedsup.chat.events import TurnSettings
from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.chat.turn import Turn
from pedsup.engine.api import EngineConfig, SamplingConfig
from pedsup.gguf_file import read_header
from pedsup.session.prefix_cache import PrefixCache, StateKey

SYSTEM: list[Message] = [
    {"role": "system", "content": "El niño tiene fiebre. Controle el peso y la respiración. " * 3}
]
ASK: list[Message] = [*SYSTEM, {"role": "user", "content": "¿Peso?"}]


class Start:
    """A program start: engine, template and cache of one model."""

    def __init__(self, open_engine, model, folder, **fields):
        config = EngineConfig(
            model, **{"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, **fields}
        )
        self.engine = open_engine(model, **fields)
        self.template = ChatTemplate.from_engine(self.engine)
        self.identity = StateKey.of(read_header(model))
        self.config = config
        self.cache = PrefixCache(folder, config, self.identity)

    def warm(self, system=SYSTEM, think=True):
        return self.cache.warm(self.engine, self.template, system, think=think)

    def answer(self):
        settings = TurnSettings(sampling=SamplingConfig(temperature=0), max_tokens=12)
        turn = Turn(self.engine, self.template, ASK, settings)
        list(turn.stream())
        return turn.result


@pytest.fixture(params=["inprocess", pytest.param("server", marks=pytest.mark.slow)])
def open_any(request):
    return request.getfixturevalue(f"open_{request.param}")


@pytest.mark.parametrize("model", [pytest.param("smollm2", marks=pytest.mark.slow), "gemma4_gguf"])
def test_the_second_start_finds_the_state(open_any, model, request, tmp_path):
    path = request.getfixturevalue(model)
    first = Start(open_any, path, tmp_path / "cache")
    warmed = first.warm()
    assert (warmed.source, warmed.notice) == ("read", None)
    assert warmed.n_tokens > 32
    wanted = first.answer()
    assert wanted.n_cached == warmed.n_tokens
    second = Start(open_any, path, tmp_path / "cache")
    assert second.warm().source == "disk"
    found = second.answer()
    assert found.n_cached == warmed.n_tokens
    assert (found.answer, found.reasoning) == (wanted.answer, wanted.reasoning)
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def damage_byte(cache):
    (state,) = cache.glob("*.state")
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)


def damage_cut(cache):
    (state,) = cache.glob("*.state")
    os.truncate(state, state.stat().st_size // 2)


def damage_gone(cache):
    (state,) = cache.glob("*.state")
    state.unlink()


def damage_note(cache):
    (note,) = cache.glob("*.json")
    note.write_text("{}")


def damage_no_json(cache):
    (note,) = cache.glob("*.json")
    note.write_bytes(b"\xff\xfe{")


@pytest.mark.parametrize(
    "damage",
    slow_but(
        [damage_byte, damage_no_json],
        [damage_byte, damage_cut, damage_gone, damage_note, damage_no_json],
    ),
)
def test_a_damaged_state_is_told_and_made_again(damage, open_inprocess, gemma4_gguf, tmp_path):
    start = Start(open_inprocess, gemma4_gguf, tmp_path)
    start.warm()
    wanted = start.answer().answer
    damage(tmp_path)
    again = Start(open_inprocess, gemma4_gguf, tmp_path)
    warmed = again.warm()
    assert warmed.source == "read"
    assert warmed.notice is not None
    assert warmed.notice.code == "cache_damaged"
    assert again.answer().answer == wanted
    assert Start(open_inprocess, gemma4_gguf, tmp_path).warm().source == "disk"


def test_another_prompt_setting_or_file_is_another_state(open_inprocess, gemma4_gguf, tmp_path):
    cache = tmp_path / "cache"
    start = Start(open_inprocess, gemma4_gguf, cache)
    start.warm()
    assert start.warm(think=False).source == "read"
    other: list[Message] = [{"role": "system", "content": SYSTEM[0]["content"] + " Más."}]
    assert start.warm(other).source == "read"
    assert Start(open_inprocess, gemma4_gguf, cache, n_ctx=768).warm().source == "read"
    os.utime(gemma4_gguf, ns=(1, 1))
    assert Start(open_inprocess, gemma4_gguf, cache).warm().source == "read"
    assert Start(open_inprocess, gemma4_gguf, cache).warm().source == "disk"
    assert len(list(cache.iterdir())) == 10


def test_the_folder_stays_within_its_bound(open_inprocess, gemma4_gguf, tmp_path):
    start = Start(open_inprocess, gemma4_gguf, tmp_path)
    start.warm()
    one = sum(p.stat().st_size for p in tmp_path.iterdir())
    start.cache = PrefixCache(tmp_path, start.config, start.identity, max_bytes=int(one * 2.5))
    for word in ("uno", "dos", "tres", "cuatro"):
        system: list[Message] = [{"role": "system", "content": SYSTEM[0]["content"] + word}]
        start.warm(system)
    assert len(list(tmp_path.glob("*.state"))) == 2
    assert start.warm(system).source == "disk", "the newest stays"


def test_a_short_prompt_is_not_saved(open_inprocess, smollm2, tmp_path):
    start = Start(open_inprocess, smollm2, tmp_path)
    assert start.warm([{"role": "system", "content": "Hola."}]).source == "short"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_no_error(open_inprocess, smollm2, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    start = Start(open_inprocess, smollm2, blocked)
    warmed = start.warm()
    assert warmed.source == "read"
    assert warmed.notice is not None
    assert warmed.notice.code == "cache_unwritable"
    assert start.answer().n_cached == warmed.n_tokens
