"""Conversions of stored floats to float32, and the rounding of float32 to 16-bit values."""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
RoundTo = Literal["float32", "bfloat16", "float16"]

_CHUNK: Final = 1 << 18
"""Elements that several passes work on before the next ones: small enough for the L2 cache."""


def allocate(shape: tuple[int, ...], out: Float32Array | None) -> Float32Array:
    """`out` if it is given, else a new array; `out` must be contiguous float32 of that shape."""
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be contiguous float32 {shape}, not {out.dtype} {out.shape}")
    return out


def to_float32(
    raw: NDArray[np.generic], dtype: str, out: Float32Array | None = None
) -> Float32Array:
    """Copy stored elements to float32; exact for BF16, F16 and F32, rounded for F64.

    Args:
        raw: the elements as `SafetensorsFile.rows` gives them (BF16 as uint16).
        dtype: their safetensors name.
        out: contiguous float32 of the same shape, to write into.
    """
    if dtype not in ("BF16", "F16", "F32", "F64"):
        raise ValueError(f"{dtype} is not a floating-point type")
    result = allocate(raw.shape, out)
    if dtype == "F32":
        np.copyto(result, raw)
    elif dtype == "F64":
        # What is beyond float32's range becomes infinite, as in torch's cast.
        with np.errstate(over="ignore"):
            np.copyto(result, raw, casting="same_kind")
    else:
        convert = _from_bf16 if dtype == "BF16" else _from_f16
        stored, flat = raw.reshape(-1).view(np.uint16), result.reshape(-1)
        for at in range(0, flat.size, _CHUNK):
            convert(stored[at : at + _CHUNK], flat[at : at + _CHUNK])
    return result


def _from_bf16(stored: NDArray[np.uint16], out: Float32Array) -> None:
    """A bf16 is the upper half of a float32."""
    bits = out.view(np.uint32)
    np.copyto(bits, stored)
    np.left_shift(bits, 16, out=bits)


def _from_f16(stored: NDArray[np.uint16], out: Float32Array) -> None:
    """By a table of all 65536 values: numpy's own cast takes about three times as long."""
    # mode="wrap" skips the bounds check; an index of 16 bits cannot pass the table.
    np.take(_f16_values(), stored, out=out, mode="wrap")


@cache
def _f16_values() -> Float32Array:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def round_to(values: Float32Array, target: RoundTo) -> Float32Array:
    """Round float32 in place to the nearest value of `target`, ties to even; still float32.

    The rounding is that of torch's cast and of ggml's `ggml_compute_fp32_to_bf16`: subnormals
    are kept, what is beyond float16's range becomes infinite.
    """
    if not values.flags.c_contiguous:
        raise ValueError("round_to works in place on contiguous arrays")
    flat = values.reshape(-1)
    if target == "bfloat16":
        for at in range(0, flat.size, _CHUNK):
            _round_bf16(flat[at : at + _CHUNK])
    elif target == "float16":
        for at in range(0, flat.size, _CHUNK):
            part = flat[at : at + _CHUNK]
            with np.errstate(over="ignore", under="ignore"):
                part[...] = part.astype(np.float16)
    return values


def _round_bf16(part: Float32Array) -> None:
    bits = part.view(np.uint32)
    nan = np.isnan(part)
    carry = (bits >> np.uint32(16)) & np.uint32(1)
    carry += np.uint32(0x7FFF)
    if nan.any():
        # The carry could turn a NaN into an infinity; cut its payload, keep it quiet.
        bits[nan] |= np.uint32(0x00400000)
        carry[nan] = 0
    bits += carry
    bits &= np.uint32(0xFFFF0000)
