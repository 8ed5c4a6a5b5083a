"""Pictures through Gemma 3, as MedGemma sees them, with transformers as the oracle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing import mtmd, seeing
from pedsup_testing.lazy import require
from pedsup_testing.seeing import BEGIN, END, GEMMA3_SIDE, png

from pedsup.engine.api import Engine, EngineConfig, SamplingConfig

GREEDY = SamplingConfig(temperature=0)
FLOOR = 0.02
"""Between root mean squares: float16 in the projector, the convolution and the cache."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, its GGUF and its projector, both by our exporter."""
    require("transformers", "pip install 'pedsup[train]'")
    from pedsup_export.plan.planner import make_plan
    from pedsup_export.plan.request import ExportRequest
    from pedsup_export.source.hub import ModelRef
    from pedsup_export.write.publish import execute

    mtmd.require()
    made = seeing.gemma3(tmp_path_factory.mktemp("gemma3"))
    request = ExportRequest(
        base=ModelRef(made, "tiny"), out=made / "m.gguf", quant="F32", mmproj="F16", threads=1
    )
    execute(*make_plan(request))
    return made


def random_picture(seed: int) -> np.ndarray:
    shape = GEMMA3_SIDE, GEMMA3_SIDE, 3
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the difference, over that of what is wanted."""
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


@pytest.mark.slow
def test_gemma_3_sees_what_transformers_sees(folder: Path) -> None:
    from pedsup.engine.llama_cpp.inprocess import InProcessEngine

    oracle = seeing.Gemma3Oracle.load(folder)
    config = EngineConfig(
        folder / "m.gguf", projector=folder / "mmproj-m.gguf", n_ctx=512, n_threads=1,
        n_threads_batch=1,
    )  # fmt: skip
    image, other = random_picture(0), random_picture(1)
    with closing(InProcessEngine(config)) as engine:
        places = engine.see(png(image))
        assert sum(token < 0 for token in places) == 16
        assert BEGIN in places and END in places
        wanted = oracle.embeddings(image)
        first = next(token for token in places if token < 0)
        found = np.reshape(engine._eyes.embeddings(first), wanted.shape)  # type: ignore[union-attr]
        assert apart(found, wanted) < FLOOR
        assert 5 * apart(found, wanted) < apart(found, oracle.embeddings(other))
        # More before the picture than the sliding window holds, and some behind it.
        words = engine.tokenize("Does the child have a fever? " * 3, parse_special=False)
        prompt = [2, *words, *places, *words[:8]]
        list(engine.generate(prompt, GREEDY, max_tokens=0))
        pointer = engine._lib.llama_get_logits(engine._ctx)
        ours = np.ctypeslib.as_array(pointer, (engine.info.n_vocab,)).copy()
    right, wrong = oracle.logits(prompt, image), oracle.logits(prompt, other)
    assert apart(ours, right) < FLOOR
    assert 5 * apart(ours, right) < apart(ours, wrong), "the picture is seen"


@pytest.mark.slow
def test_llama_server_sees_it_too(folder: Path, open_server: Callable[..., Engine]) -> None:
    fields = {"n_ctx": 512, "projector": folder / "mmproj-m.gguf"}
    server = open_server(folder / "m.gguf", **fields)
    oracle, ends = seeing.Gemma3Oracle.load(folder), sorted(server.info.end_of_generation)
    sampling = SamplingConfig(temperature=0, banned=tuple(ends))
    for seed in (0, 1, 2):
        image = random_picture(seed)
        words = server.tokenize("Does the child have a fever?", parse_special=False)
        prompt = [2, *words, *server.see(png(image)), *words]
        logits = oracle.logits(prompt, image)
        logits[ends] = -np.inf
        (first,) = server.generate(prompt, sampling, max_tokens=1)
        assert logits.max() - logits[first.id] < 2 * FLOOR * logits.max()
