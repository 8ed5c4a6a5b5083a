"""bitsandbytes 4-bit weights (NF4, FP4), dequantized by rows in numpy.

Layout of a linear weight X in safetensors, as `bitsandbytes.functional.QuantState` packs it:

    X                                    u8   two elements per byte, the first in the high nibble
    X.absmax                             f32  one per `blocksize` elements; with double
                                         u8   quantization an index into `nested_quant_map`
    X.quant_map                          f32  [16], what a nibble stands for
    X.nested_absmax                      f32  one per `nested_blocksize` blocks
    X.nested_quant_map                   f32  [256]
    X.quant_state.bitsandbytes__nf4      u8   JSON: quant_type, blocksize, dtype, shape, and
                                              nested_blocksize, nested_dtype, nested_offset

    scale   = nested_quant_map[absmax] * nested_absmax + nested_offset      (float32)
    element = round_to_dtype(quant_map[nibble] * scale)

Blocks run over the flattened tensor and do not stop at the end of a row. Source of the format:
bitsandbytes `functional.py` and `backends/default/ops.py`; of the values: Dettmers et al.,
QLoRA, https://arxiv.org/abs/2305.14314, appendix E.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Annotated, Final, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pedsup.errors import BadFileError
from pedsup.files.checks import Check
from pedsup.files.records import record
from pedsup.files.source import Source, parsed_json
from pedsup_export.source.floats import Float32Array, RoundTo, allocate, round_to
from pedsup_export.source.safetensors_file import SafetensorsFile

# fmt: off
NF4: Final = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)
FP4: Final = np.array([
    0.0, 0.0052083334885537624, 0.6666666865348816, 1.0,
    0.3333333432674408, 0.5, 0.1666666716337204, 0.25,
    0.0, -0.0052083334885537624, -0.6666666865348816, -1.0,
    -0.3333333432674408, -0.5, -0.1666666716337204, -0.25,
], np.float32)
# fmt: on
CODES: Final = {"nf4": NF4, "fp4": FP4}
BLOCKSIZES: Final = (32, 64, 128, 256, 512, 1024, 2048, 4096)
STATE_SUFFIX: Final = ".quant_state.bitsandbytes__"
COMPANIONS: Final = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_MAX_STATE: Final = 1 << 16
_REMEDY: Final = "download the 4-bit checkpoint again, or export from the 16-bit base"
_CHUNK: Final = 1 << 16
"""Elements dequantized at a time: their float32 values stay in the L2 cache."""


_Size: TypeAlias = Annotated[int, Check[int](lambda n: 0 < n < 1 << 40, "a size above zero")]


@dataclass(frozen=True)
class QuantState:
    """The checked JSON of `quant_state`; `nested_offset` is float32 in the arithmetic."""

    quant_type: Annotated[str, Check[str](CODES.__contains__, "nf4 or fp4")]
    blocksize: Annotated[int, Check[int](BLOCKSIZES.__contains__, f"one of {BLOCKSIZES}")]
    dtype: RoundTo
    shape: Annotated[
        tuple[_Size, ...],
        Check[tuple[int, ...]](lambda sizes: 1 <= len(sizes) <= 4, "a list of one to four sizes"),
    ]
    nested_blocksize: _Size | None = None
    nested_dtype: Literal["float32"] | None = None
    nested_offset: float | None = None

    def __post_init__(self) -> None:
        if self.nested_blocksize and (self.nested_dtype is None or self.nested_offset is None):
            raise ValueError("a nested state that bitsandbytes does not write")

    @property
    def n_blocks(self) -> int:
        return -(-prod(self.shape) // self.blocksize)


def parse_quant_state(raw: bytes, quant_type: str, where: str) -> QuantState:
    """Read the JSON bytes of a `quant_state` tensor.

    Raises:
        BadFileError: not JSON, a field is missing, or a value that bitsandbytes never writes.
    """
    source = Source("the quantization state", where, remedy=_REMEDY, only_known=False)
    state = record(QuantState, parsed_json(raw, source), source)
    if state.quant_type != quant_type:
        raise source.problem(
            f"quant_type is {state.quant_type}", wanted=f"{quant_type}, by its name"
        )
    return state


@dataclass(frozen=True)
class Bnb4bitSource:
    """A 4-bit tensor of a checkpoint, read as float32 rows (see `tensor_source.TensorSource`).

    Build it with `open_4bit`, which checks all sizes.
    """

    name: str
    state: QuantState
    files: dict[str, SafetensorsFile]
    """Where each part is: '' for the packed weight, else the companion's name."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.state.shape

    @property
    def dtype_name(self) -> str:
        return self.state.quant_type.upper()

    @property
    def stored_names(self) -> tuple[str, ...]:
        """The tensors of the file that make up this one."""
        return tuple(self._part_name(part) for part in self.files)

    def rows(self, lo: int, hi: int, out: Float32Array | None = None) -> Float32Array:
        """Dequantize rows `lo` to `hi` (exclusive) to float32 [hi - lo, ...].

        Every value is one of the state's dtype (bf16 or f16), as bitsandbytes gives it.
        """
        if not 0 <= lo <= hi <= self.shape[0]:
            raise IndexError(f"rows {lo}:{hi} of {self.name}, which has {self.shape[0]}")
        result = allocate((hi - lo, *self.shape[1:]), out)
        per_row = prod(self.shape[1:])
        self._elements(lo * per_row, result.reshape(-1))
        begin = self.files[""].entry(self.name).begin
        self.files[""].release_bytes(begin + lo * per_row // 2, begin + (hi * per_row + 1) // 2)
        return result

    def _part_name(self, part: str) -> str:
        return f"{self.name}.{part}" if part else self.name

    def _raw(self, part: str) -> NDArray[np.uint8]:
        return self.files[part].raw(self._part_name(part))

    @cached_property
    def _pairs(self) -> NDArray[np.uint64]:
        """The two float32 code values of each byte, as one 8-byte element [256]."""
        code = CODES[self.state.quant_type]
        byte = np.arange(256)
        return np.stack([code[byte >> 4], code[byte & 15]], axis=1).view(np.uint64).reshape(-1)

    def scales(self, first: int, last: int) -> Float32Array:
        """The float32 scale of blocks `first` to `last` (exclusive)."""
        stored = self._raw("absmax")
        if self.state.nested_blocksize is None:
            return stored[4 * first : 4 * last].view("<f4").astype(np.float32)
        code = self._raw("nested_quant_map").view("<f4")
        outer = self._raw("nested_absmax").view("<f4")
        index = np.arange(first, last) // self.state.nested_blocksize
        # Three roundings, in bitsandbytes' order: product, sum, then the element's product.
        scale = code[stored[first:last]] * outer[index]
        scale += np.float32(self.state.nested_offset or 0.0)
        return cast(Float32Array, scale.astype(np.float32, copy=False))

    def _elements(self, start: int, flat: Float32Array) -> None:
        """Fill `flat` with the elements from position `start` of the flattened tensor."""
        size = self.state.blocksize
        packed = self._raw("")
        stop = start + flat.size
        for at in range(start - start % size, stop, _CHUNK):
            end = min(at + _CHUNK, -(-stop // size) * size)
            # mode="wrap" skips the bounds check; an index of 8 bits cannot pass 256.
            values = np.take(self._pairs, packed[at // 2 : (end + 1) // 2], mode="wrap")
            part = values.view(np.float32)
            # The last block of a tensor may be short; bytes beyond its end do not exist.
            whole = part.size - part.size % size
            scale = self.scales(at // size, -(-(at + part.size) // size))
            part[:whole].reshape(-1, size)[...] *= scale[: whole // size, None]
            if whole < part.size:
                part[whole:] *= scale[-1]
            lo, hi = max(start, at), min(stop, end)
            flat[lo - start : hi - start] = round_to(part, self.state.dtype)[lo - at : hi - at]


def open_4bit(name: str, state_name: str, files: Mapping[str, SafetensorsFile]) -> Bnb4bitSource:
    """The source of 4-bit weight `name`, every size checked against the state.

    Args:
        name: the packed weight, e.g. 'model.layers.0.mlp.up_proj.weight'.
        state_name: its `...quant_state.bitsandbytes__nf4` (or fp4) tensor.
        files: the file of every tensor of the checkpoint, by tensor name.

    Raises:
        BadFileError: a companion is missing, or sizes do not belong together.
    """
    where = f"{files[state_name].path}: {name}"
    if files[state_name].entry(state_name).n_bytes > _MAX_STATE:
        raise BadFileError("a quantization state of this size", where=where, remedy=_REMEDY)
    raw_state = files[state_name].raw(state_name).tobytes()
    state = parse_quant_state(raw_state, state_name.rpartition("__")[2], where)
    nested = state.nested_blocksize is not None
    parts = ["", *(COMPANIONS if nested else COMPANIONS[:2])]
    found = {}
    for part in parts:
        full = f"{name}.{part}" if part else name
        if full not in files:
            raise BadFileError(
                f"the 4-bit weight lacks its part '{full}'", where=where, remedy=_REMEDY
            )
        found[part] = files[full]
    source = Bnb4bitSource(name, state, found)
    _check_sizes(source, where)
    return source


def _check_sizes(source: Bnb4bitSource, where: str) -> None:
    state = source.state
    nested = state.nested_blocksize
    wanted = {"": -(-prod(state.shape) // 2), "quant_map": 64}
    wanted["absmax"] = state.n_blocks if nested else 4 * state.n_blocks
    if nested:
        wanted |= {"nested_quant_map": 1024, "nested_absmax": 4 * -(-state.n_blocks // nested)}
    for part, n_bytes in wanted.items():
        entry = source.files[part].entry(source._part_name(part))
        kind = "U8" if part == "absmax" and nested else "F32"
        if entry.n_bytes != n_bytes or (part and entry.dtype != kind):
            raise BadFileError(
                f"'{entry.name}' holds {entry.n_bytes} bytes of {entry.dtype}",
                where=where,
                wanted=f"{n_bytes} bytes{f' of {kind}' if part else ''} for shape {state.shape}",
                remedy=_REMEDY,
            )
    if not np.array_equal(source._raw("quant_map").view("<f4"), CODES[state.quant_type]):
        raise BadFileError(
            f"'{source.name}.quant_map' is not the table of {state.quant_type}",
            where=where,
            wanted="the 16 values of bitsandbytes (its kernels know no other)",
            remedy=_REMEDY,
        )
    for part in ("absmax", "nested_absmax", "nested_quant_map"):
        if part not in source.files or (part == "absmax" and nested):
            continue
        if not np.isfinite(source._raw(part).view("<f4")).all():
            raise BadFileError(f"NaN or Inf in '{source.name}.{part}'", where=where, remedy=_REMEDY)
