"""Merged rows against PEFT's own merge, bit for bit where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pedsup_testing.lazy import Lazy, lazy_names
from pedsup_testing.slowly import slow_but

from pedsup.errors import MismatchError
from pedsup_export.adapter.folder import Adapter
from pedsup_export.adapter.lora import MergedSource
from pedsup_export.adapter.match import TensorChange, match
from pedsup_export.adapter.tensors import LoraDelta
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.source.floats import RoundTo
from pedsup_export.source.tensor_source import TensorSource, n_rows, whole

torch = Lazy("torch")
load_file, save_file = lazy_names("safetensors.torch", "load_file", "save_file")
peft = Lazy("peft")
transformers = Lazy("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def save_base(folder: Path, *, tied: bool, dtype: torch.dtype, bias: bool = False) -> None:
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=128, intermediate_size=192, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
        attention_bias=bias,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    model.to(dtype).save_pretrained(folder)


def save_adapter(base: Path, folder: Path, *, dtype: torch.dtype, **options: Any) -> None:
    """An adapter whose every parameter is random, as training would leave it."""
    options.setdefault("r", 16)
    options.setdefault("lora_alpha", 32)
    options.setdefault("target_modules", "all-linear")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
            elif parameter.requires_grad and "base_layer" not in name:
                parameter.normal_(std=0.1)
    wrapped.save_pretrained(folder)


def peft_merge(base: Path, adapter: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    merged_model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    state = merged_model.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def our_merge(base: Path, adapter: Path, merge_dtype: RoundTo) -> dict[str, TensorSource]:
    checkpoint = Checkpoint.open(base)
    shapes = {name: source.shape for name, source in checkpoint.tensors.items()}
    report = match(Adapter.open(adapter), shapes)
    assert not report.unused
    return {
        name: MergedSource(source, report.matched.get(name), merge_dtype)
        for name, source in checkpoint.tensors.items()
    }


def by_blocks(source: TensorSource, step: int) -> np.ndarray:
    n = n_rows(source)
    return np.concatenate([source.rows(lo, min(lo + step, n)) for lo in range(0, n, step)])


PLAIN: dict[str, dict[str, Any]] = {
    "all linears": {},
    "odd rank": {"r": 5, "lora_alpha": 7},
    "rank 1": {"r": 1, "lora_alpha": 3},
    "rank 64, more than a gemv could sum in order": {"r": 64},
    "rslora": {"use_rslora": True, "r": 8},
    "patterns": {
        "rank_pattern": {"layers.1.self_attn.q_proj": 4, r".*\.0\.mlp\.(up|gate)_proj": 24},
        "alpha_pattern": {"v_proj": 11, r"layers\.2\..*": 5},
    },
    "rslora with patterns": {
        "use_rslora": True, "rank_pattern": {"o_proj": 3}, "alpha_pattern": {"o_proj": 6.5},
    },
    "regex targets": {"target_modules": r".*layers\.[12]\.(self_attn\.[qv]|mlp\.down)_proj"},
    "two layers": {"target_modules": ["k_proj"], "layers_to_transform": [0, 2]},
    "norms whole": {"modules_to_save": ["norm"]},
    "tokens": {"trainable_token_indices": [0, 7, 319]},
    "eva-like start": {"init_lora_weights": "gaussian"},
}  # fmt: skip
FAST = ("all linears", "odd rank", "rslora with patterns", "norms whole", "tokens")
UNTIED: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head"], "use_rslora": True},
    "head whole": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "tokens by name": {"trainable_token_indices": {"embed_tokens": [3, 1], "lm_head": [9]}},
    "biases": {"bias": "all"},
    "biases of the adapted": {"bias": "lora_only", "target_modules": ["q_proj"]},
}


def check_identity(tmp_path: Path, options: dict[str, Any], *, tied: bool, dtype: str) -> None:
    torch_dtype = getattr(torch, dtype)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_base(base, tied=tied, dtype=torch_dtype, bias="bias" in options)
    save_adapter(base, adapter, dtype=torch_dtype, **options)
    # A norm stays float32 in the official converter's file; PEFT in 16 bit rounds it, too.
    ours = our_merge(base, adapter, dtype)  # type: ignore[arg-type]
    expected = peft_merge(base, adapter, torch_dtype)
    plain = load_all(base)
    changed = 0
    for name, source in ours.items():
        oracle = expected[name].float().numpy()
        assert whole(source).tobytes() == oracle.tobytes(), name
        for step in (1, 7, 100):
            assert by_blocks(source, step).tobytes() == oracle.tobytes(), (name, step)
        changed += not np.array_equal(oracle, plain[name].float().numpy())
    assert changed > 0


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for p in folder.glob("*.safetensors") for k, v in load_file(p).items()}


@pytest.mark.parametrize("case", slow_but(FAST, PLAIN))
def test_float32_merge_is_pefts_bit_for_bit(tmp_path: Path, case: str) -> None:
    check_identity(tmp_path, PLAIN[case], tied=True, dtype="float32")


@pytest.mark.parametrize("case", slow_but(("embedding and head", "head whole", "biases"), UNTIED))
def test_float32_merge_of_untied_models(tmp_path: Path, case: str) -> None:
    check_identity(tmp_path, UNTIED[case], tied=False, dtype="float32")


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "case", slow_but(("all linears", "tokens"), ["all linears", "rslora", "norms whole", "tokens"])
)
def test_16_bit_merge_is_pefts_in_that_dtype(tmp_path: Path, case: str, dtype: str) -> None:
    check_identity(tmp_path, PLAIN[case], tied=True, dtype=dtype)


def test_bfloat16_is_the_converters_rounding_of_pefts_float32_merge(tmp_path: Path) -> None:
    """PEFT in float32, then gguf's bf16 as `convert_hf_to_gguf.py --outtype bf16` writes it."""
    import gguf

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_base(base, tied=True, dtype=torch.bfloat16)
    save_adapter(base, adapter, dtype=torch.float32)
    exact = our_merge(base, adapter, "float32")
    rounded = our_merge(base, adapter, "bfloat16")
    for name, tensor in peft_merge(base, adapter, torch.float32).items():
        if tensor.ndim == 1 or name not in exact:
            continue
        assert whole(exact[name]).tobytes() == tensor.numpy().tobytes()
        bf16 = gguf.quants.quantize(tensor.numpy(), gguf.GGMLQuantizationType.BF16)
        back = (bf16.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        assert whole(rounded[name]).tobytes() == back.tobytes()


def test_dora_is_pefts_to_float32_rounding(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_base(base, tied=True, dtype=torch.float32)
    save_adapter(base, adapter, dtype=torch.float32, use_dora=True)
    expected = peft_merge(base, adapter, torch.float32)
    for name, source in our_merge(base, adapter, "float32").items():
        oracle = expected[name].numpy()
        np.testing.assert_allclose(whole(source), oracle, rtol=4e-7, atol=1e-9, err_msg=name)
        assert by_blocks(source, 7).tobytes() == whole(source).tobytes()


def test_dora_on_a_zero_row_is_refused() -> None:
    zeros = np.zeros((4, 16), np.float32)
    lora = LoraDelta("m", zeros[:1], zeros[:, :1], 1.0, np.ones(4, np.float32))
    with pytest.raises(MismatchError, match="row of the merged weight is zero"):
        change_of(zeros, lora).rows(0, 4)


class Constant:
    """A source in memory."""

    name, dtype_name = "w.weight", "F32"

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape = values, values.shape

    def rows(self, lo: int, hi: int, out: np.ndarray | None = None) -> np.ndarray:
        part = np.empty((hi - lo, *self.shape[1:]), np.float32) if out is None else out
        part[...] = self.values[lo:hi]
        return part

    def release(self, lo: int = 0, hi: int | None = None) -> None: ...
    def prefetch(self, lo: int = 0, hi: int | None = None) -> None: ...


def change_of(values: np.ndarray, lora: LoraDelta) -> MergedSource:
    return MergedSource(Constant(values), TensorChange(lora=lora))


def random_case(
    out: int, in_: int, r: int, seed: int = 0
) -> tuple[np.ndarray, LoraDelta, Callable[[], np.ndarray]]:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((out, in_), dtype=np.float32) * np.float32(0.02)
    a = rng.standard_normal((r, in_), dtype=np.float32) * np.float32(0.1)
    b = rng.standard_normal((out, r), dtype=np.float32) * np.float32(0.1)

    def torchs() -> np.ndarray:
        """PEFT's arithmetic: `get_delta_weight`, then `weight.data += delta`."""
        weight = torch.from_numpy(w.copy())
        weight += (torch.from_numpy(b) @ torch.from_numpy(a)) * (32 / r)
        return weight.numpy()

    return w, LoraDelta("w", a, b, 32 / r), torchs


@pytest.mark.parametrize(
    ("out", "in_", "r"),
    [*(pytest.param(*shape, marks=pytest.mark.slow)
       for shape in [(2560, 2560, 16), (2048, 2560, 16), (10240, 256, 16), (300, 512, 192)]),
     (512, 2560, 16), (256, 1536, 8), (576, 1536, 16), (333, 1000, 7), (16, 16, 4),
     (300, 512, 128), (4, 640, 16)],
)  # fmt: skip
def test_blocks_of_any_size_have_torchs_bits(out: int, in_: int, r: int) -> None:
    w, lora, torchs = random_case(out, in_, r)
    source, expected = change_of(w, lora), torchs()
    for step in (out, 1000, 64, 17, 1):
        if step == 1 and out > 600:
            continue  # the same code path as the smaller shapes, and slow
        assert by_blocks(source, step).tobytes() == expected.tobytes(), step


@pytest.mark.parametrize(
    ("out", "in_", "r"), [(300, 512, 256), (300, 512, 512), (3, 64, 16), (40, 8, 16)]
)
def test_beyond_the_common_order_of_sums_only_the_last_bits_differ(
    out: int, in_: int, r: int
) -> None:
    """Ranks where MKL splits the sum, and toy shapes that torch multiplies without MKL."""
    w, lora, torchs = random_case(out, in_, r)
    exact = w + (lora.b.astype(np.float64) @ lora.a.astype(np.float64)) * lora.scaling
    ours, theirs = change_of(w, lora).rows(0, out), torchs()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    assert np.abs(ours - exact).max() < 2e-6


def test_the_given_buffer_is_filled(tmp_path: Path) -> None:
    w, lora, torchs = random_case(64, 128, 16)
    buffer = np.empty((20, 128), np.float32)
    assert change_of(w, lora).rows(11, 31, buffer) is buffer
    assert buffer.tobytes() == torchs()[11:31].tobytes()


def test_float32_is_nearer_to_the_exact_merge_than_16_bit(tmp_path: Path) -> None:
    w, lora, _ = random_case(512, 512, 16)
    exact = w + (lora.b.astype(np.float64) @ lora.a.astype(np.float64)) * lora.scaling
    errors = {
        dtype: float(
            np.linalg.norm(
                MergedSource(Constant(w), TensorChange(lora=lora), dtype).rows(0, 512) - exact  # type: ignore[arg-type]
            )
        )
        for dtype in ("float32", "float16", "bfloat16")
    }
    assert errors["float32"] * 1000 < errors["float16"] < errors["bfloat16"]


def test_tied_token_rows_reach_both_sides_as_in_peft(tmp_path: Path) -> None:
    """The one change of a tied embedding that is exported: PEFT keeps both sides together."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save_base(base, tied=True, dtype=torch.float32)
    save_adapter(base, adapter, dtype=torch.float32, trainable_token_indices=[2, 5])
    state = peft_merge(base, adapter, torch.float32)
    assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])


def test_a_4_bit_base_is_merged_on_its_dequantized_values(tmp_path: Path) -> None:
    bnb = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(64, 128).bfloat16()
    data, state = bnb.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    tensors = {"w.weight": data}
    tensors |= {f"w.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    source = Checkpoint.open(tmp_path).tensors["w.weight"]
    _, lora, _ = random_case(64, 128, 16)
    delta = (torch.from_numpy(lora.b) @ torch.from_numpy(lora.a)) * lora.scaling
    expected = bnb.dequantize_4bit(data, state).float() + delta
    got = by_blocks(MergedSource(source, TensorChange(lora=lora)), 9)
    assert got.tobytes() == expected.numpy().tobytes()
