"""The vector kernels against ggml_quantize_chunk, byte by byte."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pedsup.errors import UsageError
from pedsup.gguf_file import read_header
from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType
from pedsup_export.kernels import dispatch, ggml
from pedsup_export.types.quantize import backend, quantize_rows

Rows = NDArray[np.float32]
FAST = {("Q4_K", False), ("Q4_K", True), ("Q6_K", False), ("Q8_0", False)}
"""The fast tests; test_quantize.py compares every type once, there through llama_model_quantize."""
KERNELS = [
    pytest.param(
        BY_NAME[name], weighted, id=f"{name}-{'imatrix' if weighted else 'plain'}",
        marks=[] if (name, weighted) in FAST else pytest.mark.slow,
    )
    for name in ("Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K", "Q4_0", "Q8_0", "IQ4_NL", "IQ4_XS")
    for weighted in (False, True)
    if not (name == "Q8_0" and weighted)
]  # fmt: skip
every_kernel = pytest.mark.parametrize(("kind", "weighted"), KERNELS)


def kernel(kind: GGMLType, weighted: bool) -> dispatch.Kernel:
    found = dispatch.kernel_for(kind, weighted)
    assert isinstance(found, dispatch.Kernel), dispatch.why_ggml()
    return found


def both(kind: GGMLType, rows: Rows, importance: Rows | None) -> tuple[NDArray, NDArray]:
    """Our bytes and ggml's; both buffers start with other contents, so that a gap shows."""
    shape = len(rows), kind.row_bytes(rows.shape[1])
    ours, theirs = np.full(shape, 0xAA, np.uint8), np.full(shape, 0x55, np.uint8)
    kernel(kind, importance is not None).quantize_into(rows, kind, importance, ours)
    ggml.quantize_into(rows, kind, importance, theirs)
    return ours, theirs


def assert_same(kind: GGMLType, rows: Rows, importance: Rows | None) -> None:
    ours, theirs = both(kind, rows, importance)
    wrong = np.flatnonzero((ours != theirs).any(axis=1))
    assert not wrong.size, f"rows {wrong[:10]}"


@every_kernel
def test_nasty_rows_have_ggmls_bytes(kind: GGMLType, weighted: bool) -> None:
    rows = dispatch.nasty_rows()
    assert np.isfinite(rows).all()
    importance = dispatch.nasty_importance(rows.shape[1]) if weighted else None
    assert_same(kind, rows, importance)


@every_kernel
def test_a_kernel_does_nearly_all_ordinary_blocks_itself(kind: GGMLType, weighted: bool) -> None:
    rows = np.random.default_rng(1).standard_normal((20, 1024)).astype(np.float32)
    importance = np.ones(1024, np.float32) if weighted else dispatch._NOTHING
    odd = np.full(rows.size // kind.block_size, 7, np.uint8)
    out = np.zeros(rows.size // kind.block_size * kind.type_size, np.uint8)
    run = kernel(kind, weighted).run
    for array in (rows, importance):  # as `quantize_into` gives them: numba compiles for each kind
        array.flags.writeable = False
    run(rows.reshape(-1), importance, 1024 // kind.block_size, out, odd)
    assert not odd.any()
    theirs = np.zeros((20, kind.row_bytes(1024)), np.uint8)
    ggml.quantize_into(rows, kind, importance if weighted else None, theirs)
    assert out.tobytes() == theirs.tobytes()


def _edge_rows() -> dict[str, Rows]:
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((3, 512)).astype(np.float32)
    outlier = noise * np.float32(1e-4)
    outlier[1, 300] = 1000
    mixed = noise.copy()
    mixed[:, 256:] = 0
    return {
        "zeros": np.zeros((3, 512), np.float32),
        "negative zeros": np.full((3, 512), -0.0, np.float32),
        "constant": np.full((3, 512), 0.7, np.float32),
        "negative constant": np.full((3, 512), -0.7, np.float32),
        "outlier": outlier,
        "half zeros": mixed,
        "negative": -np.abs(noise) - np.float32(0.5),
        "positive": np.abs(noise) + np.float32(0.5),
        "subnormal": noise * np.float32(1e-39),
        "tiny": noise * np.float32(1e-30),
        "below half precision": noise * np.float32(3e-8),
        "overflows half": noise * np.float32(1e7),
        "huge": noise * np.float32(1e30),
        "largest": np.where(noise > 0, np.finfo(np.float32).max, np.finfo(np.float32).min),
        "two values": np.where(noise > 0, np.float32(1), np.float32(-1)),
        "integers": np.round(noise * 4),
        "one weight": np.eye(3, 512, dtype=np.float32),
    }


EDGES = _edge_rows()


@every_kernel
@pytest.mark.parametrize("edge", EDGES)
def test_edge_rows(kind: GGMLType, weighted: bool, edge: str) -> None:
    rows = np.ascontiguousarray(EDGES[edge], np.float32)
    assert_same(kind, rows, dispatch.nasty_importance(512) if weighted else None)
    if weighted:
        for constant in (0.0, 1.0, 1e-30, 1e30):
            assert_same(kind, rows, np.full(512, constant, np.float32))


any_weight = st.floats(width=32, allow_nan=False, allow_infinity=False)
common_weight = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, -1e-3]) | st.floats(
    -4.0, 4.0, width=32
)


@every_kernel
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_rows(kind: GGMLType, weighted: bool, data: st.DataObject) -> None:
    element = data.draw(st.sampled_from([any_weight, common_weight]))
    width = data.draw(st.sampled_from([256, 512]))
    rows = data.draw(arrays(np.float32, (data.draw(st.integers(1, 3)), width), elements=element))
    importance = None
    if weighted:
        positive = st.floats(0, float(np.float32(1e6)), width=32)
        importance = data.draw(arrays(np.float32, width, elements=positive))
    assert_same(kind, rows, importance)


@every_kernel
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 40), blocks=st.integers(1, 5))
def test_any_shape_of_noise(
    kind: GGMLType, weighted: bool, seed: int, rows: int, blocks: int
) -> None:
    """Numbers of blocks around a multiple of the lanes, with rows of many sizes."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-6, 3, (rows, 1))
    x = (rng.standard_t(3, (rows, 256 * blocks)) * size).astype(np.float32)
    importance = (rng.standard_exponential(256 * blocks) ** 4).astype(np.float32)
    assert_same(kind, x, importance if weighted else None)


@pytest.fixture(scope="module")
def real_rows(smollm2: Path) -> list[Rows]:
    """Three matrices of a real model, their rows of 576 laid end to end."""
    header, result = read_header(smollm2), []
    for name in ("blk.0.ffn_down.weight", "blk.17.attn_v.weight", "blk.29.ffn_up.weight"):
        info = header.tensors[name]
        data = np.memmap(smollm2, np.uint8, "r", header.data_offset + info.offset, info.n_bytes)
        x = gguf.dequantize(data, gguf.GGMLQuantizationType[info.type.name]).reshape(-1)
        result.append(np.ascontiguousarray(x[: x.size // 768 * 768].reshape(-1, 768), np.float32))
    return result


@every_kernel
def test_real_weights(kind: GGMLType, weighted: bool, real_rows: list[Rows]) -> None:
    for rows in real_rows:
        assert_same(kind, rows, dispatch.nasty_importance(768) if weighted else None)


@pytest.mark.slow
@every_kernel
def test_many_weights(kind: GGMLType, weighted: bool) -> None:
    """As many random weights as PEDSUP_KERNEL_WEIGHTS says, normal and heavy-tailed in turn."""
    left = int(os.environ.get("PEDSUP_KERNEL_WEIGHTS", "2000000"))
    rng = np.random.default_rng(99)
    turn = 0
    while left > 0:
        n_rows = min(400, -(-left // 2560))
        scale = np.float32(10.0 ** rng.uniform(-3, 0))
        draw = rng.standard_normal if turn % 2 else lambda shape, dtype: rng.standard_t(4, shape)
        x = np.ascontiguousarray(draw((n_rows, 2560), dtype=np.float32) * scale, np.float32)
        importance = (rng.standard_exponential(2560) ** 2).astype(np.float32)
        assert_same(kind, x, importance if weighted else None)
        left -= x.size
        turn += 1


def test_two_threads_at_once_give_the_same_bytes() -> None:
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal((64, 2048)).astype(np.float32) for _ in range(2)]
    kind = BY_NAME["Q4_K"]
    expected = [both(kind, x, None)[1] for x in inputs]
    results: list[list[NDArray]] = [[], []]

    def work(which: int) -> None:
        for _ in range(20):
            results[which].append(quantize_rows(inputs[which], kind))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for done, wanted in zip(results, expected, strict=True):
        assert len(done) == 20
        assert all(np.array_equal(packed, wanted) for packed in done)


def test_read_only_rows_of_a_mapped_file_need_no_second_compilation(tmp_path: Path) -> None:
    kind = BY_NAME["Q8_0"]
    np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32).tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float32, "r", shape=(8, 64))
    expected = quantize_rows(np.array(mapped), kind)
    made = kernel(kind, False)
    compiled = len(made.run.signatures)
    assert np.array_equal(quantize_rows(mapped, kind), expected)
    assert len(made.run.signatures) == compiled


def test_a_kernel_with_other_arithmetic_is_found_out() -> None:
    right = kernel(BY_NAME["Q4_K"], False)
    assert dispatch.agrees_with_ggml(right)

    def one_bit_off(x, importance, per_row, out, odd):  # type: ignore[no-untyped-def]
        right.run(x, importance, per_row, out, odd)
        out[40 * 144 + 20] ^= 1

    wrong = dispatch.Kernel(right.kind, False, one_bit_off)
    assert not dispatch.agrees_with_ggml(wrong)


def test_the_switch_leaves_everything_to_ggml(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = BY_NAME["Q4_K"]
    assert backend(kind, False) is not ggml.quantize_into
    monkeypatch.setenv(dispatch.SWITCH, "ggml")
    assert backend(kind, False) is ggml.quantize_into
    monkeypatch.setenv(dispatch.SWITCH, "fast")
    with pytest.raises(UsageError, match="PEDSUP_KERNELS"):
        backend(kind, False)


def test_types_without_a_kernel_go_to_ggml() -> None:
    for name in ("F16", "BF16", "F32", "Q5_0", "IQ3_S"):
        assert backend(BY_NAME[name], False) is ggml.quantize_into


def test_midpoints_decide_as_bisection_does() -> None:
    """best_index_int8 compares two float32 differences; near a midpoint they are exact."""
    from pedsup_export.kernels.iq4 import MIDPOINTS
    from pedsup_export.kernels.lanes.constants import IQ4_VALUES

    for low, high, middle in zip(IQ4_VALUES, IQ4_VALUES[1:], MIDPOINTS, strict=False):
        near = np.float32(middle).view(np.int32) + np.arange(-5000, 5001, dtype=np.int32)
        x = np.concatenate([near.view(np.float32), np.linspace(low, high, 10001, dtype=np.float32)])
        assert np.array_equal(~(x - low < high - x), x >= middle)


CACHE_CODE = """
import sys
import numpy as np
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_export.kernels import q8_0
out, odd = np.zeros(34, np.uint8), np.zeros(1, np.uint8)
q8_0.quantize_q8_0(np.ones(32, np.float32), np.empty(0, np.float32), 1, out, odd)
print(sum(q8_0.quantize_q8_0.stats.cache_hits.values()))
"""


@pytest.mark.slow  # compiles twice
def test_machine_code_is_kept_for_the_next_run(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    hits = [
        subprocess.run(
            [sys.executable, "-c", CACHE_CODE],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout.strip()
        for _ in range(2)
    ]  # fmt: skip
    assert hits == ["0", "1"]


@pytest.mark.slow  # compiles
def test_no_place_for_a_cache_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "file")}
    done = subprocess.run(
        [sys.executable, "-c", CACHE_CODE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
"""
NOT_TO_BE_COMPILED = """
import numba
from pedsup_export.kernels import q45_k
q45_k.quantize_q4_k = numba.njit(lambda x, importance, per_row, out, odd: x.no_such_attribute)
"""
QUANTIZE = """
import sys
import numpy as np
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_export.kernels import dispatch
from pedsup_export.types.quantize import quantize_rows
sys.stdout.buffer.write(quantize_rows(np.eye(2, 256, dtype=np.float32), BY_NAME["Q4_K"]).tobytes())
assert sys.argv[1] in dispatch.why_ggml()["Q4_K", False]
"""


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (WITHOUT_NUMBA, "numba cannot be imported"),
        pytest.param(NOT_TO_BE_COMPILED, "TypingError", marks=pytest.mark.slow),
    ],
)
def test_without_a_kernel_ggml_does_it_and_says_so(start: str, reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", start + QUANTIZE, reason], capture_output=True, check=True
    )
    assert done.stdout == quantize_rows(np.eye(2, 256, dtype=np.float32), BY_NAME["Q4_K"]).tobytes()
    assert b"ggml's own code" in done.stderr
