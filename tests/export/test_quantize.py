"""quantize_rows against llama_model_quantize's bytes, and its refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from pedsup_testing import made_gguf, quantize_oracle
from pedsup_testing.made_gguf import Made, Shape
from pedsup_testing.slowly import slow_but

from pedsup.engine.build_probe import LIBRARY_VARIABLE
from pedsup.errors import MissingDependencyError, UnsupportedError
from pedsup.gguf_file import GGML_TYPES, read_header
from pedsup.gguf_file.file_types import FILE_TYPES
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.gguf_file.type_mixture import StoredTensor
from pedsup.gguf_file.type_recipes import ModelShape
from pedsup_export.kernels import ggml
from pedsup_export.types.mixture import choose_types
from pedsup_export.types.quantize import (
    SUPPORTED,
    NonFiniteError,
    dequantize_rows,
    quantize_rows,
)

MODELS = {
    # Rows that 256 divides, rows that only 32 divides, and rows that nothing divides.
    "friendly": lambda: made_gguf.llama(8, 256, (4, 1), 256, 40, tied=False),
    "unfriendly": lambda: made_gguf.llama(8, 96, (3, 3), 352, 40, tied=True),
    "odd": lambda: made_gguf.llama(2, 80, (5, 1), 112, 100, tied=True),
}


def random_tensor(name: str, shape: Shape) -> NDArray[np.float32]:
    rng = np.random.default_rng(sum(name.encode()) + len(name))
    return (rng.standard_normal(shape[::-1]) * 0.05).astype(np.float32)


def importances(made: Made) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    wanted = {n: s for n, s in made.tensors.items() if len(s) == 2 and "token_embd" not in n}
    return {n: (rng.standard_exponential(s[0]) ** 2).astype(np.float32) for n, s in wanted.items()}


def packed_by_us(
    made: Made,
    arrays: dict[str, NDArray[np.float32]],
    quant: str,
    imatrix: dict[str, NDArray[np.float32]],
) -> dict[str, tuple[str, bytes]]:
    """Tensor name to type name and bytes."""
    stored = {n: StoredTensor(s, BY_NAME["F32"]) for n, s in made.tensors.items()}
    model = ModelShape(made.arch, made.n_layer, made.n_head, made.n_head_kv)
    choices = choose_types(
        stored, file_type=FILE_TYPES[quant], model=model, has_imatrix=bool(imatrix)
    )
    result = {}
    for name, choice in choices.items():
        rows = arrays[name].reshape(-1, made.tensors[name][0])
        packed = quantize_rows(rows, choice.type, imatrix.get(name))
        result[name] = choice.type.name, packed.tobytes()
    return result


def packed_in_file(path: Path) -> dict[str, tuple[str, bytes]]:
    header = read_header(path)
    data = path.read_bytes()
    result = {}
    for name, info in header.tensors.items():
        start = header.data_offset + info.offset
        result[name] = info.type.name, data[start : start + info.n_bytes]
    return result


@pytest.mark.parametrize(
    "weighted", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "imatrix"]
)
@pytest.mark.parametrize("model", slow_but(["unfriendly", "odd"], MODELS))
def test_every_file_type_has_llama_cpps_bytes(tmp_path: Path, model: str, weighted: bool) -> None:
    made = MODELS[model]()
    arrays = made_gguf.write_data(tmp_path / "f32.gguf", made, random_tensor)
    imatrix = importances(made) if weighted else {}
    for quant, kind in FILE_TYPES.items():
        target = tmp_path / f"{quant}.gguf"
        code, log = quantize_oracle.quantize(
            tmp_path / "f32.gguf", target, kind.number, imatrix=imatrix
        )
        assert code == 0, log
        theirs = packed_in_file(target)
        ours = packed_by_us(made, arrays, quant, imatrix)
        assert list(ours) == list(theirs)
        wrong = [name for name in ours if ours[name] != theirs[name]]
        assert not wrong, (quant, wrong)


SLOW_GRIDS = ("IQ1_M", "IQ1_S", "IQ2_S", "IQ2_XS", "IQ2_XXS")
"""ggml builds their search grids at first use, for seconds."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_GRIDS else n for n in sorted(SUPPORTED)],
)
def test_block_sizes_and_dequantization_agree_with_ggml(name: str) -> None:
    kind = BY_NAME[name]
    rows = random_tensor(name, (512, 3))
    weights = np.ones(512, np.float32)
    packed = quantize_rows(rows, kind, weights)
    assert packed.shape == (3, kind.row_bytes(512))
    back = dequantize_rows(packed, kind, 512)
    theirs = gguf.dequantize(packed, gguf.GGMLQuantizationType[name]).reshape(back.shape)
    # gguf sums in numpy, so a few types differ in the last bit.
    np.testing.assert_allclose(back, theirs, rtol=2e-6, atol=1e-7)
    relative = np.linalg.norm(back - rows) / np.linalg.norm(rows)
    assert relative < (0.85 if kind.type_size * 8 / kind.block_size < 4 else 0.12)


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_sixteen_bit_rounding_is_torchs(name: str) -> None:
    import torch

    bits = np.random.default_rng(3).integers(0, 1 << 32, 1 << 18, dtype=np.uint64)
    rows = bits.astype(np.uint32).view(np.float32)
    rows = rows[np.isfinite(rows) & (np.abs(rows) < 65000)]
    # Subnormals of the target, ties to even, and the largest finite value.
    special = [0.0, -0.0, 5.9604645e-08, 2.9802322e-08, 2.98023259e-08, 1.00048828125, 65504.0]
    rows = np.append(rows, np.array(special, np.float32))[None]
    dtype = torch.float16 if name == "F16" else torch.bfloat16
    theirs = torch.from_numpy(rows).to(dtype)
    ours = quantize_rows(rows, BY_NAME[name])
    assert ours.tobytes() == theirs.view(torch.uint8).numpy().tobytes()
    again = dequantize_rows(ours, BY_NAME[name], rows.shape[1])
    np.testing.assert_array_equal(again, theirs.float().numpy())


def test_out_is_written_and_returned() -> None:
    rows = random_tensor("x", (256, 4))
    out = np.zeros((4, 144), np.uint8)
    assert quantize_rows(rows, BY_NAME["Q4_K"], out=out) is out
    assert out.tobytes() == quantize_rows(rows, BY_NAME["Q4_K"]).tobytes()
    assert quantize_rows(rows[:0], BY_NAME["Q4_K"]).shape == (0, 144)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["F32", "BF16", "Q8_0", "Q4_K", "IQ4_XS"])
def test_non_finite_weights_are_refused_by_place(name: str, value: float) -> None:
    rows = random_tensor("x", (256, 5))
    rows[3, 17] = value
    with pytest.raises(NonFiniteError) as caught:
        quantize_rows(rows, BY_NAME[name], name="blk.0.attn_q.weight")
    assert "blk.0.attn_q.weight, row 3, column 17" in str(caught.value)


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "Q3_K"])
def test_overflow_is_refused_where_llama_cpp_refuses(tmp_path: Path, name: str) -> None:
    quant = next(f for f in FILE_TYPES.values() if f.default.name == name)

    def huge(tensor: str, shape: Shape) -> NDArray[np.float32]:
        value = random_tensor(tensor, shape)
        if tensor == "blk.0.attn_k.weight":
            value[2, 3] = 1e9
        return value

    made = made_gguf.llama(1, 256, (4, 1), 512, 300, tied=False)
    arrays = made_gguf.write_data(tmp_path / "f32.gguf", made, huge)
    code, log = quantize_oracle.quantize(tmp_path / "f32.gguf", tmp_path / "out.gguf", quant.number)
    assert code != 0 and "validation failed" in log
    with pytest.raises(NonFiniteError, match=r"1e\+09"):
        quantize_rows(arrays["blk.0.attn_k.weight"], BY_NAME[name])


def test_types_ggml_would_abort_on_are_refused() -> None:
    rows = random_tensor("x", (256, 1))
    for kind in GGML_TYPES.values():
        if kind.name not in SUPPORTED:
            with pytest.raises(UnsupportedError):
                quantize_rows(rows, kind)
    with pytest.raises(UnsupportedError, match="importances"):
        quantize_rows(rows, BY_NAME["IQ2_XS"])


def test_wrong_arrays_are_refused() -> None:
    rows = random_tensor("x", (256, 4))
    kind = BY_NAME["Q4_K"]
    with pytest.raises(ValueError, match="C-contiguous"):
        quantize_rows(rows[:, ::2], kind)
    with pytest.raises(ValueError, match="float32"):
        quantize_rows(rows.astype(np.float64), kind)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="importance"):
        quantize_rows(rows, kind, np.ones(255, np.float32))
    with pytest.raises(ValueError, match="out must"):
        quantize_rows(rows, kind, out=np.zeros((4, 143), np.uint8))
    with pytest.raises(ValueError, match="multiple"):
        quantize_rows(random_tensor("x", (96, 4)), kind)


def test_a_missing_library_names_the_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path))
    with pytest.raises(MissingDependencyError, match="pip install llama-cpp-python"):
        ggml.library_path()


def test_ggml_is_used_without_importing_llama_cpp() -> None:
    code = (
        "import sys, numpy as np\n"
        "from pedsup_export.types.quantize import quantize_rows\n"
        "from pedsup.gguf_file.ggml_types import BY_NAME\n"
        "quantize_rows(np.ones((1, 256), np.float32), BY_NAME['IQ4_XS'])\n"
        "assert 'llama_cpp' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
