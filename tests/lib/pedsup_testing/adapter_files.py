"""Adapters whose every change llama.cpp can apply, and llama.cpp's logits with an adapter."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pedsup_testing import tiny_models
from pedsup_testing.oracle import quiet

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def live_lora(folder: Path, base: Path, **options: Any) -> Path:
    """A random adapter on the projections that the forward pass uses."""
    import json

    config = json.loads((base / "config.json").read_text())
    n_own = config["num_hidden_layers"] - (config.get("num_kv_shared_layers") or 0)
    own = "|".join(map(str, range(n_own)))
    others = [p for p in PROJECTIONS if p not in ("k_proj", "v_proj")]
    pattern = rf".*\.layers\.(({own})\..*\.(k_proj|v_proj)|\d+\..*\.({'|'.join(others)}))"
    values = {"target_modules": pattern, **options}
    return tiny_models.lora(folder, base, **values)


def logits(model: Path, adapter: Path | None, tokens: list[int]) -> NDArray[np.float32]:
    """llama.cpp's logits of every position by its own calls, float32 [n_tokens, n_vocab]."""
    import llama_cpp as lib

    with quiet():
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = 0, False
        loaded = lib.llama_model_load_from_file(str(model).encode(), params)
        assert loaded
        lora = None
        if adapter is not None:
            lora = lib.llama_adapter_lora_init(loaded, str(adapter).encode())
            assert lora
        options = lib.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = 256
        options.n_threads = options.n_threads_batch = 1
        options.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.type_k = options.type_v = lib.GGML_TYPE_F32
        context = lib.llama_init_from_model(loaded, options)
        if lora is not None:
            handles = (lib.llama_adapter_lora_p_ctypes * 1)(lora)
            assert lib.llama_set_adapters_lora(context, handles, 1, (ctypes.c_float * 1)(1)) == 0
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        assert lib.llama_decode(context, batch) == 0
        n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(loaded))
        found = np.ctypeslib.as_array(lib.llama_get_logits(context), (len(tokens), n_vocab)).copy()
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        lib.llama_model_free(loaded)
    return found


def peft_logits(base: Path, adapter: Path | None, tokens: list[int]) -> NDArray[np.float32]:
    """transformers' logits, with PEFT's adapter, in float32 [n_tokens, n_vocab]."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return np.asarray(model(torch.tensor([tokens])).logits[0].float())


def dequantized(base: Path, source: Path, target: Path) -> Path:
    """The checkpoint with the weights that a GGUF of it holds, in float32."""
    import shutil

    import gguf
    import torch
    from safetensors.torch import load_file, save_file

    from pedsup_export.plan.planner import make_plan
    from pedsup_export.plan.request import ExportRequest
    from pedsup_export.source.hub import ModelRef

    plan, _ = make_plan(ExportRequest(base=ModelRef(source, "x"), out=target / "x.gguf"))
    read = {t.name: t for t in gguf.GGUFReader(base).tensors}
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    for tensor in plan.tensors:
        if tensor.origin.source is None:
            continue
        found = read[tensor.slot.name]
        rows = gguf.dequantize(found.data, found.tensor_type).astype(np.float32)
        if tensor.origin.head_rows:
            size = tensor.origin.head_rows
            rows = rows.reshape(-1, size // 2, 2, rows.shape[1]).swapaxes(1, 2)
        wanted = weights[tensor.origin.source]
        weights[tensor.origin.source] = torch.from_numpy(
            np.ascontiguousarray(rows.reshape(tuple(wanted.shape)))
        )
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target
