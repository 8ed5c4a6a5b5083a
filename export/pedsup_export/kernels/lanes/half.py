"""float16 as ggml converts it without hardware: the same bits on every machine."""

from __future__ import annotations

from typing import Final

import numpy as np

from pedsup_export.kernels.lanes.jit import inline
from pedsup_export.kernels.lanes.vec import bits_float, float_bits

F32: Final = np.float32
HALF: Final = np.float32(0.5)


@inline
def to_half(value):
    """The bits of a float32 as float16, rounded half to even: ggml_compute_fp32_to_fp16."""
    base = (abs(value) * F32(2.0**112)) * F32(2.0**-110)
    word = float_bits(value)
    shifted = np.uint32(word + word)
    bias = max(np.uint32(shifted & np.uint32(0xFF000000)), np.uint32(0x71000000))
    base = bits_float(np.uint32((bias >> np.uint32(1)) + np.uint32(0x07800000))) + base
    bits = float_bits(base)
    number = ((bits >> np.uint32(13)) & np.uint32(0x7C00)) + (bits & np.uint32(0x0FFF))
    if shifted > np.uint32(0xFF000000):
        number = np.uint32(0x7E00)
    return np.uint32(((word & np.uint32(0x80000000)) >> np.uint32(16)) | number)


@inline
def from_half(half):
    """The float32 of float16 bits: ggml_compute_fp16_to_fp32."""
    word = np.uint32(half << np.uint32(16))
    doubled = np.uint32(word + word)
    if doubled < np.uint32(1 << 27):
        small = bits_float(np.uint32((doubled >> np.uint32(17)) | np.uint32(126 << 23))) - HALF
        bits = float_bits(small)
    else:
        large = bits_float(np.uint32((doubled >> np.uint32(4)) + np.uint32(0xE0 << 23)))
        bits = float_bits(F32(large * F32(2.0**-112)))
    return bits_float(np.uint32((word & np.uint32(0x80000000)) | bits))


@inline
def put_half(out, at, half):
    """Two bytes, little-endian."""
    out[at] = np.uint8(half & np.uint32(255))
    out[at + 1] = np.uint8((half >> np.uint32(8)) & np.uint32(255))
