"""The default base: the converter's inverse, bit for bit, and the same text as llama.cpp."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from pedsup_testing.converter import Converter

from pedsup.errors import BadFileError, OutputError, UnsupportedError
from pedsup.gguf_file import read_header
from pedsup_train.base import smollm2 as smollm2_base
from pedsup_train.base.smollm2 import make_base, unpermute_rope

PROMPT = "What are the warning signs of dehydration in a child?"
SPANISH = "¿Cuáles son los signos de alarma del dengue en niños de 2 a 11 años?\n\tFiebre 38,5 °C."


@pytest.fixture(scope="module")
def base(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base", source=smollm2).folder


@pytest.fixture(scope="module")
def reconverted(base: Path, converter: Converter) -> Path:
    """Our folder through llama.cpp's own converter."""
    return converter(base, base.parent / "again.gguf")


@pytest.mark.slow
def test_converter_gives_back_every_weight_of_the_package(smollm2: Path, reconverted: Path) -> None:
    theirs = {t.name: t for t in gguf.GGUFReader(smollm2).tensors}
    ours = {t.name: t for t in gguf.GGUFReader(reconverted).tensors}
    assert ours.keys() == theirs.keys() and len(ours) == 272
    for name, tensor in theirs.items():
        wanted = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(ours[name].data.reshape(wanted.shape), wanted), name


@pytest.mark.slow
def test_converter_gives_back_the_metadata(smollm2: Path, reconverted: Path) -> None:
    theirs, ours = read_header(smollm2), read_header(reconverted)
    for key, value in theirs.metadata.items():
        if key.startswith("general."):
            continue
        ours_value = ours.metadata.get(key)
        if hasattr(value, "values"):
            assert ours_value.values() == value.values(), key
        elif key in ("tokenizer.ggml.add_space_prefix", "tokenizer.ggml.add_bos_token"):
            assert ours_value in (value, None), key
        else:
            assert ours_value == value, key
    assert ours.metadata["general.license"] == "apache-2.0"


@pytest.mark.slow
def test_weights_equal_transformers_own_gguf_loader(smollm2: Path, base: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
    ).state_dict()
    ours = load_file(base / "model.safetensors")
    assert torch.equal(oracle.pop("lm_head.weight"), ours["model.embed_tokens.weight"])
    assert oracle.keys() == ours.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, oracle[name]), name


LLAMA_CPP = """
import ctypes, json, sys
import llama_cpp as L
model_path, jobs = sys.argv[1], json.loads(sys.argv[2])
params = L.llama_model_default_params()
params.use_extra_bufts = False  # AMX crashes on some machines
model = L.llama_model_load_from_file(model_path.encode(), params)
vocab = L.llama_model_get_vocab(model)
def tokens(text):
    raw = text.encode()
    out = (L.llama_token * (len(raw) + 8))()
    n = L.llama_tokenize(vocab, raw, len(raw), out, len(out), False, True)
    return list(out[:n])
context_params = L.llama_context_default_params()
context_params.n_ctx, context_params.n_threads, context_params.n_threads_batch = 256, 1, 1
context = L.llama_init_from_model(model, context_params)
sampler = L.llama_sampler_init_greedy()
current, made = tokens(jobs["prompt"]), []
for _ in range(jobs["n"]):
    array = (L.llama_token * len(current))(*current)
    assert L.llama_decode(context, L.llama_batch_get_one(array, len(current))) == 0
    current = [L.llama_sampler_sample(sampler, context, -1)]
    made += current
print(json.dumps({"tokens": [tokens(t) for t in jobs["texts"]], "made": made}))
"""


@pytest.mark.slow
def test_tokens_and_greedy_text_equal_llama_cpp(base: Path, reconverted: Path) -> None:
    """Run in float32: on Q4_1 blocks llama.cpp rounds the activations to 8 bits too, which is
    enough to turn the first word of this answer."""
    pytest.importorskip("llama_cpp")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], tokenize=False, add_generation_prompt=True
    )
    texts = [PROMPT, SPANISH, prompt, "12345 kg,  añ\u0301o 🙂 <|im_end|>x"]
    jobs = json.dumps({"prompt": prompt, "texts": texts, "n": 24})
    done = subprocess.run(
        [sys.executable, "-c", LLAMA_CPP, reconverted, jobs],
        capture_output=True,
        text=True,
        env={**os.environ, "LLAMA_LOG_LEVEL": "error"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    oracle = json.loads(done.stdout.splitlines()[-1])
    for text, wanted in zip(texts, oracle["tokens"], strict=True):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == wanted, text
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other by spinning cost more beside other work
    with torch.no_grad():
        made = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    torch.set_num_threads(threads)
    assert made.tolist() == oracle["made"][: len(made)]
    assert len(made) == 24


@pytest.mark.slow
def test_round_trip_text_and_chat_template(base: Path, smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.decode(tokenizer(SPANISH)["input_ids"]) == SPANISH
    assert tokenizer.chat_template == read_header(smollm2).metadata["tokenizer.chat_template"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_refuses_an_existing_folder_and_leaves_it(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        make_base(tmp_path / "base", source=smollm2)
    assert [p.name for p in tmp_path.rglob("*")] == ["base", "mine.txt"]


def test_a_truncated_source_leaves_nothing(smollm2: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    with smollm2.open("rb") as file:
        short.write_bytes(file.read(3_000_000))
    with pytest.raises(BadFileError, match="ends inside"):
        make_base(tmp_path / "base", source=short)
    assert [p.name for p in tmp_path.iterdir()] == ["short.gguf"]


def test_an_error_while_writing_leaves_nothing(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk full after the weights: no folder, no partial folder."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smollm2_base, "write_tokenizer", full)
    monkeypatch.setattr(smollm2_base, "_write_weights", lambda *a: (0, 0))
    with pytest.raises(OSError, match="No space"):
        make_base(tmp_path / "base", source=smollm2)
    assert list(tmp_path.iterdir()) == []


def test_another_architecture_is_refused(llama_cpp_source: Path, tmp_path: Path) -> None:
    vocab = llama_cpp_source / "models" / "ggml-vocab-gemma-4.gguf"
    with pytest.raises(UnsupportedError, match="architecture"):
        make_base(tmp_path / "base", source=vocab)


def test_unpermute_is_the_inverse_of_the_converters_permute() -> None:
    """The formula of `LlamaModel.permute` in convert_hf_to_gguf.py, on numbered rows."""
    heads, rows = 3, 8
    weight = np.arange(heads * rows * 2, dtype=np.float32).reshape(heads * rows, 2)
    permuted = weight.reshape(heads, 2, rows // 2, 2).swapaxes(1, 2).reshape(weight.shape)
    assert not np.array_equal(permuted, weight)
    assert np.array_equal(unpermute_rope(permuted, heads), weight)
