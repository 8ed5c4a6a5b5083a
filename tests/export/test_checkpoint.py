"""Checkpoint folders as transformers writes them, and every way in which one can be incomplete."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing.lazy import Lazy, lazy_names

from pedsup.errors import BadFileError, PedsupError, UnsupportedError
from pedsup_export.source.checkpoint import INDEX, SINGLE, Checkpoint
from pedsup_export.source.floats import round_to, to_float32
from pedsup_export.source.tensor_source import n_rows, whole

torch = Lazy("torch")
load_file, save_file = lazy_names("safetensors.torch", "load_file", "save_file")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama in bf16, in shards, saved by transformers."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).bfloat16()
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / INDEX).exists()
    return folder


@pytest.fixture
def sharded(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "base"))


def simple(folder: Path, tensors: dict[str, torch.Tensor], config: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / SINGLE)
    (folder / "config.json").write_text(json.dumps({} if config is None else config))
    return folder


def test_all_tensors_of_a_sharded_checkpoint(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    expected = {k: v for p in sharded.glob("*.safetensors") for k, v in load_file(p).items()}
    assert set(checkpoint.tensors) == set(expected)
    for name, source in checkpoint.tensors.items():
        assert (source.name, source.dtype_name) == (name, "BF16")
        assert source.shape == tuple(expected[name].shape)
        assert whole(source).tobytes() == expected[name].float().numpy().tobytes()
        assert source.rows(3, 9).tobytes() == expected[name][3:9].float().numpy().tobytes()
    assert checkpoint.n_bytes == sum(t.numel() * 2 for t in expected.values())
    assert checkpoint.config["model_type"] == "llama"


def test_digests_are_of_every_file_and_read_once(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    digests = checkpoint.digest()
    assert set(digests) == {p.name for p in checkpoint.files}
    assert {"config.json", INDEX} < set(digests)
    for name, digest in digests.items():
        assert digest == hashlib.sha256((sharded / name).read_bytes()).hexdigest()
    for path in checkpoint.files:
        path.unlink()
    assert checkpoint.digest() == digests


def test_dtypes_scalars_and_buffers(tmp_path: Path) -> None:
    tensors = {
        "bf16": torch.randn(5, 3).bfloat16(),
        "f16": torch.tensor([1.0, -65504.0, 6e-8, float("inf")]).half(),
        "f32": torch.randn(4, 2, 2),
        "f64": torch.tensor([1.0 + 2**-40, 1e300], dtype=torch.float64),
        "scalar": torch.tensor(3.25),
        "ids": torch.arange(4),
    }
    checkpoint = Checkpoint.open(simple(tmp_path, tensors))
    for name, tensor in tensors.items():
        source = checkpoint.tensors[name]
        if name == "ids":
            with pytest.raises(UnsupportedError, match="I64"):
                source.rows(0, 4)
            continue
        got = source.rows(0, n_rows(source))
        assert got.dtype == np.float32
        assert got.tobytes() == tensor.float().numpy().tobytes()
        got += 1  # the caller owns it
        assert whole(source).shape == tuple(tensor.shape)


def test_rows_fill_a_given_buffer(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(6, 4).bfloat16()}
    source = Checkpoint.open(simple(tmp_path, tensors)).tensors["w"]
    buffer = np.empty((2, 4), np.float32)
    assert source.rows(1, 3, buffer) is buffer
    assert buffer.tobytes() == tensors["w"][1:3].float().numpy().tobytes()
    with pytest.raises(ValueError, match="contiguous float32"):
        source.rows(0, 1, buffer)


def test_every_bf16_and_f16_pattern_is_exact() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    bf16 = torch.from_numpy(patterns.view(np.int16)).view(torch.bfloat16).float().numpy()
    f16 = torch.from_numpy(patterns.view(np.float16)).float().numpy()
    for got, expected in [
        (to_float32(patterns, "BF16"), bf16),
        (to_float32(patterns.view(np.float16), "F16"), f16),
    ]:
        assert np.array_equal(np.isnan(got), np.isnan(expected))
        assert got[~np.isnan(got)].tobytes() == expected[~np.isnan(got)].tobytes()


@pytest.mark.parametrize("target", ["float32", "bfloat16", "float16"])
def test_rounding_is_torchs_and_ggufs(target: str) -> None:
    import gguf

    rng = np.random.default_rng(0)
    bits = np.concatenate(
        [
            rng.integers(0, 2**32, 300_000, dtype=np.uint64).astype(np.uint32),
            np.array([0, 0x80000000, 1, 0x007FFFFF, 0x7F7FFFFF, 0x7F800000, 0xFF800000,
                      0x3F808000, 0x3F818000, 0x3F808001, 0x477FF000], np.uint32),
        ]
    )  # fmt: skip
    values = bits.view(np.float32)
    finite = ~np.isnan(values)
    expected = torch.from_numpy(values.copy()).to(getattr(torch, target)).float().numpy()
    got = round_to(values.copy(), target)  # type: ignore[arg-type]
    assert got[finite].tobytes() == expected[finite].tobytes()
    assert np.isnan(got[~finite]).all()
    if target == "bfloat16":
        bf16 = gguf.quants.quantize(values[finite], gguf.GGMLQuantizationType.BF16)
        assert (
            bf16.view(np.uint16).tobytes()
            == (got.view(np.uint32)[finite] >> 16).astype(np.uint16).tobytes()
        )


def edit_index(folder: Path, change: object) -> None:
    value = json.loads((folder / INDEX).read_text())
    change(value)  # type: ignore[operator]
    (folder / INDEX).write_text(json.dumps(value))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BadFileError, match=shard.name):
        Checkpoint.open(sharded)


def test_a_truncated_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(BadFileError, match="truncated") as caught:
        Checkpoint.open(sharded)
    assert shard.name in str(caught.value.where)


def test_a_tensor_that_is_not_in_its_shard(sharded: Path) -> None:
    first = sorted(p.name for p in sharded.glob("*.safetensors"))[0]
    edit_index(sharded, lambda v: v["weight_map"].update({"model.ghost.weight": first}))
    with pytest.raises(BadFileError, match=r"'model\.ghost\.weight' is not in its shard"):
        Checkpoint.open(sharded)


def test_a_tensor_that_the_index_does_not_name(sharded: Path) -> None:
    edit_index(sharded, lambda v: v["weight_map"].pop("model.norm.weight"))
    with pytest.raises(BadFileError, match=r"model\.norm\.weight"):
        Checkpoint.open(sharded)


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(BadFileError, match="in two shards"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x\\y.safetensors", 3]
)
def test_an_index_that_points_elsewhere(sharded: Path, shard: object) -> None:
    edit_index(sharded, lambda v: v["weight_map"].update({"model.norm.weight": shard}))
    with pytest.raises(BadFileError, match="the index places"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_a_broken_index(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    with pytest.raises(BadFileError, match="index"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00"])
def test_a_broken_config(sharded: Path, text: str) -> None:
    (sharded / "config.json").write_text(text)
    with pytest.raises(BadFileError, match="configuration"):
        Checkpoint.open(sharded)


def test_folders_that_are_no_base(tmp_path: Path, sharded: Path) -> None:
    def refused(folder: Path, kind: type[PedsupError], words: str) -> None:
        with pytest.raises(kind, match=words) as caught:
            Checkpoint.open(folder)
        assert caught.value.remedy

    refused(tmp_path / "nowhere", BadFileError, "no such folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, BadFileError, "configuration is missing")
    (empty / "adapter_config.json").write_text("{}")
    refused(empty, BadFileError, "LoRA adapter")
    (empty / "config.json").write_text("{}")
    refused(empty, BadFileError, "no weights")
    (empty / "pytorch_model.bin").write_bytes(b"\x80\x02")
    refused(empty, UnsupportedError, "pickle")
    (sharded / INDEX).unlink()
    refused(sharded, BadFileError, "without their index")


@pytest.mark.parametrize(
    ("config", "tensors", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, {}, "gptq"),
        ({"quantization_config": {"load_in_8bit": True}}, {}, "8-bit"),
        ({}, {"w.weight": "int8", "w.SCB": "float32"}, "8-bit"),
        ({}, {"w.qweight": "int32"}, "GPTQ"),
        ({}, {"w": "float8_e4m3fn"}, "F8_E4M3"),
    ],
)
def test_other_quantizations_are_refused_by_name(
    tmp_path: Path, config: object, tensors: dict[str, str], words: str
) -> None:
    made = {name: torch.ones(2, 2).to(getattr(torch, kind)) for name, kind in tensors.items()}
    with pytest.raises(UnsupportedError, match=words) as caught:
        Checkpoint.open(simple(tmp_path, made, config))
    assert "bf16" in str(caught.value.remedy)


def test_a_packed_weight_that_is_missing_beside_its_state(tmp_path: Path) -> None:
    state = {"w.quant_state.bitsandbytes__nf4": torch.zeros(4, dtype=torch.uint8)}
    with pytest.raises(BadFileError, match="packed weight 'w' is missing"):
        Checkpoint.open(simple(tmp_path, state))
