"""Models for the runtime's tests: real SmolLM2 and a tiny random Gemma 4 with real templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pedsup_testing import native, tiny_models
from pedsup_testing.converter import Converter
from pedsup_testing.gemma4_template import edge, large
from pedsup_testing.lazy import require

from pedsup.engine.api import Engine, EngineConfig


@pytest.fixture(scope="session")
def large_template(llama_cpp_source: Path) -> str:
    """Google's Gemma 4 31B template, as llama.cpp ships it."""
    return large(llama_cpp_source)


@pytest.fixture(scope="session")
def edge_template(large_template: str) -> str:
    """The same as E2B and E4B have it."""
    return edge(large_template)


@pytest.fixture(scope="session")
def gemma4_folder(tmp_path_factory: pytest.TempPathFactory, edge_template: str) -> Path:
    """A tiny random Gemma 4 (sliding window 16) as transformers saves it, with the E4B template."""
    require("transformers", "pip install 'pedsup[train]'")
    # The converter writes the folder's name: another one would not be found among what is kept.
    folder = tiny_models.gemma4(tmp_path_factory.mktemp("gemma4") / "tiny")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "chat_template": edge_template}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def gemma4_gguf(gemma4_folder: Path, converter: Converter) -> Path:
    """`gemma4_folder` through llama.cpp's own converter, in float32."""
    return converter(gemma4_folder, gemma4_folder / "tiny-gemma4.gguf")


OpenEngine = Callable[..., Engine]


@pytest.fixture
def open_inprocess() -> Iterator[OpenEngine]:
    """A function from a model path and `EngineConfig` fields to an engine, closed at the end."""
    from pedsup.engine.llama_cpp.inprocess import InProcessEngine

    opened: list[Engine] = []

    def make(model: Path, **fields: object) -> Engine:
        values = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, **fields}
        engine = InProcessEngine(EngineConfig(model, **values))
        opened.append(engine)
        return engine

    yield make
    for engine in opened:
        engine.close()


@pytest.fixture
def open_server() -> Iterator[OpenEngine]:
    """The same for `llama-server`; skips when it is not built."""
    from pedsup.engine.llama_server.engine import ServerEngine

    program = native.tool("llama-server")
    if program is None:
        pytest.skip("llama-server is not built: run `make native`")
    opened: list[Engine] = []

    def make(model: Path, **fields: object) -> Engine:
        values = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, **fields}
        engine = ServerEngine(EngineConfig(model, **values), program=program)
        opened.append(engine)
        return engine

    yield make
    for engine in opened:
        engine.close()
