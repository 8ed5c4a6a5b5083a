"""Rounding with error feedback: ggml reads the bytes, and the outputs come closer than ggml's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pedsup.errors import BadFileError
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_export.calibration import fingerprint
from pedsup_export.rounding.layouts import LAYOUTS, Grid, Layout
from pedsup_export.rounding.matrix import Effort, Moments, round_rows
from pedsup_export.types.quantize import NonFiniteError, dequantize_rows, quantize_rows

Floats = NDArray[np.float32]
WIDTH = 512


def weights(n: int = 70, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, WIDTH)).astype(np.float32)


def second_moments(seed: int = 1, n: int = WIDTH) -> NDArray[np.float64]:
    """Of correlated inputs of very different sizes."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((n, n)) * np.exp(-np.arange(n) / 100)
    inputs = rng.standard_normal((2 * n, n)) @ mix.T
    return np.asarray(inputs.T @ inputs / (2 * n))


def output_error(rows: Floats, rounded: Floats, hessian: Floats) -> float:
    error = (rows - rounded).astype(np.float64)
    return float(np.einsum("ij,jk,ik->", error, hessian.astype(np.float64), error, optimize=True))


def values_of(layout: Layout, grid: Grid) -> Floats:
    """The weights of groups, float32 [n, group], in ggml's order of operations up to rounding."""
    n = len(grid.levels)
    if layout.table is None:
        level = grid.levels.astype(np.float32) + np.float32(layout.lowest)
    else:
        level = layout.table[grid.levels]
    level = level.reshape(n, layout.parts, layout.part)
    scale = grid.d.astype(np.float32)[:, None] * grid.scales.astype(np.float32)
    minimum = grid.dmin.astype(np.float32)[:, None] * grid.minima.astype(np.float32)
    return (scale[:, :, None] * level - minimum[:, :, None]).reshape(n, layout.group)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_is_ggmls(name: str) -> None:
    layout, kind = LAYOUTS[name], BY_NAME[name]
    packed = quantize_rows(weights(), kind)
    raw = packed.reshape(-1, layout.size)
    grid = layout.unpack(raw)
    assert np.array_equal(layout.pack(grid), raw)
    ours = values_of(layout, grid).reshape(-1, WIDTH)
    np.testing.assert_allclose(ours, dequantize_rows(packed, kind, WIDTH), rtol=1e-6, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(LAYOUTS)), st.integers(0, 2**32 - 1))
def test_any_bytes_survive_unpacking_and_packing(name: str, seed: int) -> None:
    layout = LAYOUTS[name]
    raw = np.random.default_rng(seed).integers(0, 256, (3, layout.size), dtype=np.uint8)
    assert np.array_equal(layout.pack(layout.unpack(raw)), raw)


@pytest.mark.parametrize("name", LAYOUTS)
def test_outputs_come_closer_than_with_ggmls_search(name: str) -> None:
    rows, kind, moments = weights(), BY_NAME[name], Moments.factored(second_moments())
    packed, said = round_rows(rows, kind, [moments], Effort())
    importance = np.ascontiguousarray(np.diag(moments.hessian))
    theirs = quantize_rows(rows, kind, importance)
    ours = output_error(rows, dequantize_rows(packed, kind, WIDTH), moments.hessian)
    assert ours < 0.5 * output_error(rows, dequantize_rows(theirs, kind, WIDTH), moments.hessian)
    assert said == pytest.approx(ours, rel=0.01)


@pytest.mark.parametrize("name", ["Q4_K", "Q3_K", "IQ4_XS", "Q5_0"])
def test_more_effort_leaves_less_error(name: str) -> None:
    rows, kind, moments = weights(), BY_NAME[name], Moments.factored(second_moments())
    errors = [
        round_rows(rows, kind, [moments], effort)[1]
        for effort in (Effort(0, 0, 0), Effort(1, 1, 1), Effort(2, 2, 3))
    ]
    assert errors == sorted(errors, reverse=True)


def test_two_runs_and_other_blocks_of_rows_give_the_same_bytes() -> None:
    rows, kind, moments = weights(128), BY_NAME["Q4_K"], Moments.factored(second_moments())
    whole, _ = round_rows(rows, kind, [moments], Effort())
    again, _ = round_rows(rows, kind, [moments], Effort())
    assert np.array_equal(whole, again)
    for lo, hi in ((0, 64), (64, 128), (5, 38), (100, 101), (17, 117)):
        part, _ = round_rows(rows[lo:hi], kind, [moments], Effort())
        assert np.array_equal(whole[lo:hi], part)


def test_runs_of_columns_are_rounded_apart() -> None:
    rows, kind = weights(64), BY_NAME["Q4_K"]
    runs = [Moments.factored(second_moments(i, 256)) for i in (3, 4)]
    whole, _ = round_rows(rows, kind, runs, Effort())
    parts = [
        round_rows(np.ascontiguousarray(rows[:, i * 256 : (i + 1) * 256]), kind, [run], Effort())[0]
        for i, run in enumerate(runs)
    ]
    assert np.array_equal(whole, np.concatenate(parts, axis=1))


def test_inputs_that_are_never_used_and_rows_of_zeros() -> None:
    hessian = second_moments()
    hessian[:, 40:80] = hessian[40:80] = 0
    rows = weights()
    rows[3] = 0
    packed, error = round_rows(rows, BY_NAME["Q4_K"], [Moments.factored(hessian)], Effort())
    values = dequantize_rows(packed, BY_NAME["Q4_K"], WIDTH)
    assert np.isfinite(error)
    assert not values[3].any()
    dead = round_rows(rows, BY_NAME["Q3_K"], [Moments.factored(np.zeros((WIDTH, WIDTH)))], Effort())
    assert np.isfinite(dequantize_rows(dead[0], BY_NAME["Q3_K"], WIDTH)).all()


def test_what_cannot_be_rounded_is_refused() -> None:
    moments = Moments.plain(WIDTH)
    rows = weights()
    rows[5, 7] = np.nan
    with pytest.raises(NonFiniteError, match="nan"):
        round_rows(rows, BY_NAME["Q4_K"], [moments], Effort())
    rows[5, 7] = 1e30
    with pytest.raises(NonFiniteError, match="does not fit Q4_K"):
        round_rows(rows, BY_NAME["Q4_K"], [moments], Effort())
    with pytest.raises(BadFileError, match="positive definite"):
        Moments.factored(-second_moments())


def test_a_fingerprint_minds_every_row_and_its_place_but_not_the_blocks() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (9, 64), dtype=np.uint8)
    whole = fingerprint.of_rows(rows, 0)
    parts = (fingerprint.of_rows(rows[5:], 5) + fingerprint.of_rows(rows[:5], 0)) % (1 << 256)
    assert whole == parts
    assert whole != fingerprint.of_rows(rows[::-1].copy(), 0)
