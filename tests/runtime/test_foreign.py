"""Models of architectures that llama.cpp runs and pedsup does not know: run, with a warning."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pedsup_testing import forged_gguf, memory_probe, programs, tiny_models
from pedsup_testing.converter import Converter
from pedsup_testing.forged_gguf import Forged, Key
from pedsup_testing.lazy import require

from pedsup.engine.api import EngineConfig
from pedsup.errors import BadFileError, UnsupportedError
from pedsup.gguf_file import read_header
from pedsup.gguf_file.foreign import FOREIGN, is_foreign, unchecked
from pedsup.gguf_file.rules import RULES
from pedsup.gguf_file.validate import validate_model
from pedsup.memory import estimate
from pedsup.messages import Message
from pedsup.run.plan import plan_launch
from pedsup.settings.schema import Settings
from pedsup.texts.language import catalogue

MIB = 1 << 20
_NOT_FOR_CHAT = """
    clip bert modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert
    gemma-embedding llama-embed t5 t5encoder wavtokenizer-dec dream llada llada-moe rnd1 eagle3
    dflash qwen3tts pockettts (unknown)
"""
NOT_FOR_CHAT = frozenset(_NOT_FOR_CHAT.split())
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@pytest.fixture(scope="module")
def gemma2(converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Gemma 2 by llama.cpp's converter, with a template that nobody knows."""
    require("transformers", "pip install 'pedsup[train]'")
    folder = tmp_path_factory.mktemp("gemma2") / "tiny"
    tiny_models.gemma2(folder, chat_template=TEMPLATE)
    return converter(folder, folder / "tiny-gemma2.gguf")


def test_the_list_is_llama_cpp_s(llama_cpp_source: Path) -> None:
    text = (llama_cpp_source / "src/llama-arch.cpp").read_text("utf-8")
    table = text.partition("LLM_ARCH_NAMES = {")[2].partition("};")[0]
    names = set(re.findall(r'LLM_ARCH_\w+,\s*"([^"]+)"', table))
    assert names == FOREIGN | RULES.keys() | NOT_FOR_CHAT
    assert not FOREIGN & RULES.keys()


def test_a_foreign_model_passes_with_a_warning(gemma2: Path) -> None:
    header = validate_model(gemma2)
    warning = unchecked(header)
    assert isinstance(warning, Message) and "architecture 'gemma2'" in warning
    assert warning.msgid in catalogue("es")


def test_strict_refuses_it(gemma2: Path) -> None:
    assert plan_launch(gemma2, Settings(), available=None).unchecked
    with pytest.raises(UnsupportedError, match="architecture 'gemma2'"):
        plan_launch(gemma2, Settings(strict=True), available=None)


def test_a_known_model_has_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "llama.gguf"
    path.write_bytes(forged_gguf.tiny_llama().encode())
    assert unchecked(validate_model(path)) is None


@pytest.mark.parametrize("n_ctx", [512, 2048])
def test_memory_is_an_upper_bound(gemma2: Path, n_ctx: int) -> None:
    done = subprocess.run(
        [sys.executable, memory_probe.__file__, "reported", str(gemma2),
         json.dumps({"n_ctx": n_ctx})],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    real = json.loads(done.stdout)
    need = estimate(read_header(gemma2), EngineConfig(gemma2, n_ctx=n_ctx))
    assert need.kv_cache / MIB >= real["kv_cache"] > 0
    assert need.compute / MIB >= real["compute"] > 0


@pytest.mark.parametrize(("language", "said"), [("en", "does not know"), ("es", "no conoce")])
def test_the_program_runs_it(gemma2: Path, tmp_path: Path, language: str, said: str) -> None:
    home = {name: str(tmp_path) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME",
                                             "XDG_CACHE_HOME")}  # fmt: skip
    done = programs.run(
        "pedsup", gemma2, "-p", "Fever?", "--json", "--allow-template", "--lang", language,
        "--temp", "0", "--max-tokens", "6", "--ctx", "512", "--threads", "1",
        env={**os.environ, **home, "PEDSUP_ACCEPT_INTENDED_USE": "1"},
    )  # fmt: skip
    assert said in done.stderr and "gemma2" in done.stderr, done.stderr
    document = json.loads(done.stdout)
    assert document["tokens"]["answer"] > 0


def foreign(name: str) -> Forged:
    """The tiny llama under another architecture's name."""
    model = forged_gguf.tiny_llama()
    keys = tuple(
        replace(key, name=key.name.replace("llama.", f"{name}."),
                value=name if key.name == "general.architecture" else key.value)
        for key in model.keys
    )  # fmt: skip
    return replace(model, keys=keys)


@pytest.mark.parametrize("name", ["bert", "clip", "t5", "gemma4-assistant", "neverheard"])
def test_what_cannot_chat_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(foreign(name).encode())
    with pytest.raises(UnsupportedError, match=name):
        validate_model(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.with_key("olmo2.block_count", forged_gguf.U32, 1), "belongs to no layer"),
        (lambda m: m.with_key("olmo2.block_count", forged_gguf.U32, 0), "block_count"),
        (lambda m: m.with_key("olmo2.context_length", forged_gguf.STRING, "x"), "context_length"),
        (lambda m: m.with_key("olmo2.embedding_length", forged_gguf.U32, 64), "token_embd"),
        (lambda m: m.with_row("blk.0.ffn_up.weight", kind=26), "a type for weights"),
    ],
)
def test_the_generic_part_is_checked(change, said: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "m.gguf"
    path.write_bytes(foreign("olmo2").encode())
    assert is_foreign(validate_model(path))
    path.write_bytes(change(foreign("olmo2")).encode())
    with pytest.raises(BadFileError, match=said):
        validate_model(path)


def test_sizes_that_an_architecture_does_not_have(tmp_path: Path) -> None:
    """A recurrent model has no heads: the bound is that of plain attention."""
    model = foreign("mamba")
    gone = ("head_count", "feed_forward_length")
    keys: tuple[Key, ...] = tuple(k for k in model.keys if not any(g in k.name for g in gone))
    path = tmp_path / "m.gguf"
    path.write_bytes(replace(model, keys=keys).encode())
    header = validate_model(path)
    need = estimate(header, EngineConfig(path, n_ctx=256))
    assert need.kv_cache == 2 * 256 * (32 + 32) * 2
