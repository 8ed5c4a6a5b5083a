"""4-bit weights by rows against bitsandbytes itself, and against every kind of damage."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pedsup_testing.lazy import Lazy, lazy_names

from pedsup.errors import BadFileError, PedsupError
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.source.nf4 import Bnb4bitSource, open_4bit
from pedsup_export.source.safetensors_file import SafetensorsFile

torch = Lazy("torch")
load_file, save_file = lazy_names("safetensors.torch", "load_file", "save_file")

functional = Lazy(
    "bitsandbytes.functional", reason="bitsandbytes is the oracle: pip install 'pedsup[train]'"
)
STATE = "w.quant_state.bitsandbytes__"


def packed(
    weight: torch.Tensor, kind: str = "nf4", *, blocksize: int = 64, nested: bool = True
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The tensors bitsandbytes would save for `weight`, and what it dequantizes them to."""
    data, state = functional.quantize_4bit(
        weight, blocksize=blocksize, compress_statistics=nested, quant_type=kind
    )
    tensors = {"w": data} | {f"w.{k}": v for k, v in state.as_dict(packed=True).items()}
    return tensors, generic_dequantize(data, state)


def generic_dequantize(data: torch.Tensor, state: object) -> torch.Tensor:
    """bitsandbytes' portable implementation.

    Not `dequantize_4bit`: its AVX-512 kernel (0.50.2) misplaces the scales when the row length
    is even but no multiple of the block size; see `test_whole_rows_...` for the public function.
    """
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    absmax = state.absmax  # type: ignore[attr-defined]
    if state.nested:  # type: ignore[attr-defined]
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset  # type: ignore[attr-defined]
    s: object = state
    # The plain function: compiling it for every shape takes longer than all the tests.
    plain = getattr(_dequantize_4bit_compute, "__wrapped__", _dequantize_4bit_compute)
    return plain(
        data.reshape(-1),
        absmax,
        s.code,  # type: ignore[attr-defined]
        s.blocksize,  # type: ignore[attr-defined]
        s.shape,  # type: ignore[attr-defined]
        s.dtype,  # type: ignore[attr-defined]
    )


def opened(tmp_path: Path, tensors: dict[str, torch.Tensor], kind: str = "nf4") -> Bnb4bitSource:
    path = tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    file = SafetensorsFile(path)
    return open_4bit("w", STATE + kind, dict.fromkeys(file.tensors, file))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("nested", [True, False])
def test_whole_rows_are_bit_identical_to_dequantize_4bit(
    tmp_path: Path, kind: str, dtype: str, nested: bool
) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(300, 256) * torch.logspace(-3, 2, 300)[:, None]).to(getattr(torch, dtype))
    weight[7] = 0
    data, state = functional.quantize_4bit(weight, compress_statistics=nested, quant_type=kind)
    expected = functional.dequantize_4bit(data, state).float().numpy()
    tensors = {"w": data} | {f"w.{k}": v for k, v in state.as_dict(packed=True).items()}
    source = opened(tmp_path, tensors, kind)
    assert source.shape == (300, 256)
    assert source.dtype_name == kind.upper()
    assert source.rows(0, 300).tobytes() == expected.tobytes()
    for lo, hi in [(0, 1), (17, 18), (100, 231), (299, 300), (5, 5)]:
        assert source.rows(lo, hi).tobytes() == expected[lo:hi].tobytes()
    buffer = np.empty((131, 256), np.float32)
    assert source.rows(100, 231, buffer) is buffer
    assert buffer.tobytes() == expected[100:231].tobytes()


@pytest.mark.parametrize("shape", [(5, 37), (64, 96), (9, 32), (7, 100), (101,), (3, 5, 24)])
@pytest.mark.parametrize("blocksize", [64, 128, 4096])
def test_rows_that_cut_blocks_and_bytes(
    tmp_path: Path, shape: tuple[int, ...], blocksize: int
) -> None:
    torch.manual_seed(1)
    tensors, oracle = packed(torch.randn(shape).bfloat16(), blocksize=blocksize)
    expected = oracle.float().numpy()
    source = opened(tmp_path, tensors)
    for lo in range(shape[0]):
        for hi in {lo, lo + 1, min(lo + 3, shape[0]), shape[0]}:
            assert source.rows(lo, hi).tobytes() == expected[lo:hi].tobytes()


def test_a_tensor_larger_than_one_chunk(tmp_path: Path) -> None:
    torch.manual_seed(2)
    tensors, oracle = packed(torch.randn(1000, 333).bfloat16())
    source = opened(tmp_path, tensors)
    assert source.rows(0, 1000).tobytes() == oracle.float().numpy().tobytes()
    assert source.rows(1, 999).tobytes() == oracle.float().numpy()[1:999].tobytes()


@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
def test_other_quant_storage_types(tmp_path: Path, storage: str) -> None:
    """`bnb_4bit_quant_storage` (FSDP) changes the dtype of the packed bytes, not the bytes."""
    tensors, oracle = packed(torch.randn(64, 128).bfloat16())
    tensors["w"] = tensors["w"].reshape(-1).view(getattr(torch, storage))
    source = opened(tmp_path, tensors)
    assert source.rows(0, 64).tobytes() == oracle.float().numpy().tobytes()


def state_with(tensors: dict[str, torch.Tensor], **changes: object) -> dict[str, torch.Tensor]:
    key = next(k for k in tensors if STATE in k)
    state = json.loads(bytes(tensors[key].numpy())) | changes
    text = json.dumps({k: v for k, v in state.items() if v != "drop"}).encode()
    return tensors | {key: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocksize": 0}, "blocksize.*0"),
        ({"blocksize": "64"}, "blocksize.*64"),
        ({"quant_type": "int8"}, "quant_type.*int8"),
        ({"dtype": "float64"}, "dtype.*float64"),
        ({"shape": [64, 129]}, "'w' holds"),
        ({"shape": [1 << 39, 1 << 39]}, "'w' holds"),
        ({"shape": [-64, -128]}, "shape"),
        ({"shape": []}, "shape"),
        ({"shape": "drop"}, "shape"),
        ({"blocksize": 128}, "absmax"),
        ({"nested_blocksize": 1}, "nested_absmax"),
        ({"nested_blocksize": -256}, "nested"),
        ({"nested_dtype": "float16"}, "nested"),
        ({"nested_offset": "a"}, "nested_offset"),
        ({"nested_offset": float("nan")}, "nested_offset"),
        ({"nested_blocksize": "drop"}, "absmax"),
    ],
)
def test_a_forged_state_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    tensors, _ = packed(torch.randn(64, 128).bfloat16())
    with pytest.raises(BadFileError, match=words) as caught:
        opened(tmp_path, state_with(tensors, **changes))
    assert "16-bit base" in str(caught.value.remedy)


@pytest.mark.parametrize("part", ["absmax", "quant_map", "nested_absmax", "nested_quant_map"])
def test_a_missing_short_or_broken_part_is_named(tmp_path: Path, part: str) -> None:
    tensors, _ = packed(torch.randn(64, 128).bfloat16())
    name = f"w.{part}"
    with pytest.raises(BadFileError, match=f"lacks its part '{name}'"):
        opened(tmp_path, {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(BadFileError, match=f"'{name}' holds"):
        opened(tmp_path, tensors | {name: tensors[name][:-1]})
    with pytest.raises(BadFileError, match=f"'{name}' holds"):
        opened(tmp_path, tensors | {name: tensors[name].half()})
    if part != "absmax":
        broken = tensors[name].clone()
        broken[0] = float("nan")
        with pytest.raises(BadFileError, match=name):
            opened(tmp_path, tensors | {name: broken})


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_state_bytes_raise_typed_errors_only(
    tmp_path: Path, edits: list[tuple[int, int]]
) -> None:
    tensors, _ = packed(torch.ones(8, 128).bfloat16())
    key = STATE + "nf4"
    text = bytearray(tensors[key].numpy().tobytes())
    for at, value in edits:
        text[at % len(text)] = value
    damaged = tensors | {key: torch.frombuffer(text, dtype=torch.uint8)}
    with contextlib.suppress(PedsupError):
        opened(tmp_path, damaged).rows(0, 1)


def test_a_real_4_bit_checkpoint_saved_by_transformers(tmp_path: Path) -> None:
    """Linears in NF4 with double quantization, one MLP, the head and the rest in 16 bit."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=128, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(3)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / "base")
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head", "model.layers.1.mlp"],
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=quantization, device_map={"": "cpu"},
        dtype=torch.bfloat16,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "four")
    checkpoint = Checkpoint.open(tmp_path / "four")
    stored = load_file(tmp_path / "four" / "model.safetensors")
    kinds = {name: source.dtype_name for name, source in checkpoint.tensors.items()}
    assert kinds["model.layers.0.mlp.up_proj.weight"] == "NF4"
    assert kinds["model.layers.1.mlp.up_proj.weight"] == "BF16"
    assert sum(k == "NF4" for k in kinds.values()) == 11
    modules = dict(model.named_modules())
    for name, source in checkpoint.tensors.items():
        weight = modules[name.removesuffix(".weight")].weight
        if source.dtype_name == "NF4":
            expected = functional.dequantize_4bit(weight.data, weight.quant_state)
        else:
            expected = stored[name]
        assert source.shape == tuple(expected.shape)
        rows = source.rows(0, source.shape[0])
        assert rows.tobytes() == expected.float().detach().numpy().tobytes()
