"""The latency regression suite: `pytest --benchmark`."""

from __future__ import annotations

import itertools
from pathlib import Path
from time import process_time

import pytest

from pedsup.engine.api import Engine, EngineConfig, SamplingConfig
from pedsup.engine.select import open_engine

pytestmark = [pytest.mark.latency, pytest.mark.benchmark(timer=process_time)]

N_FIRST, N_PROMPT, N_DECODE = 64, 192, 24


def consume(engine: Engine, prompt: list[int], sampling: SamplingConfig, n: int) -> int:
    return sum(1 for _ in engine.generate(prompt, sampling, max_tokens=n))


def test_load(latency, engine_config: EngineConfig) -> None:
    """Open the file, build the vocabulary, make a context."""
    latency("load", lambda: open_engine(engine_config, "inprocess").close())


def test_first_token(latency, engine, greedy, text_tokens) -> None:
    starts = itertools.count()

    def first() -> None:
        at = next(starts)  # another first token: nothing of the cache can be used again
        assert consume(engine, text_tokens[at : at + N_FIRST], greedy, 1) == 1

    latency("first_token", first)


def test_prompt(latency, engine, greedy, text_tokens) -> None:
    starts = itertools.count(100)

    def read() -> None:
        at = next(starts)
        consume(engine, text_tokens[at : at + N_PROMPT], greedy, 0)
        assert engine.last_stats.n_cached == 0

    latency("prompt", read, rounds=4)


def test_decode(latency, engine, greedy, text_tokens) -> None:
    def write() -> None:
        assert consume(engine, text_tokens[:8], greedy, N_DECODE) == N_DECODE

    latency("decode", write)


def test_prefix_cache_hit(latency, engine, engine_config, greedy, text_tokens, tmp_path) -> None:
    """A system prompt of some 300 tokens comes back from disk."""
    from pedsup.chat.templates.template import ChatTemplate
    from pedsup.gguf_file import read_header
    from pedsup.session.prefix_cache import PrefixCache, StateKey
    from pedsup_bench.report.texts import default_texts

    identity = StateKey.of(read_header(engine_config.model))
    cache = PrefixCache(tmp_path, engine_config, identity)
    template = ChatTemplate.from_engine(engine)
    system = [{"role": "system", "content": default_texts()[0].content[:1600]}]
    starts = itertools.count(300)

    def other_conversation() -> None:
        consume(engine, text_tokens[(at := next(starts)) : at + 4], greedy, 0)

    def warm():  # type: ignore[no-untyped-def]
        return cache.warm(engine, template, system, think=False)

    other_conversation()
    assert warm().source == "read"
    hit = latency("prefix_cache_hit", warm, setup=other_conversation)
    assert hit.source == "disk"
    assert hit.n_tokens > 200


def test_export(latency, export_base: Path, tmp_path: Path) -> None:
    """The whole export of 19 M weights to Q4_K_M, in bytes the same each time."""
    pytest.importorskip("gguf", reason="pip install 'pedsup[export]'")
    from pedsup_export.plan.planner import make_plan
    from pedsup_export.plan.request import ExportRequest
    from pedsup_export.source.hub import ModelRef
    from pedsup_export.write.publish import execute

    request = ExportRequest(
        base=ModelRef(export_base, "tiny"), out=tmp_path / "out.gguf", quant="Q4_K_M", threads=1,
        force=True,
    )  # fmt: skip

    def export() -> Path:
        plan, inputs = make_plan(request)
        return execute(plan, inputs).path

    assert latency("export", export, rounds=3).stat().st_size > 8 << 20
