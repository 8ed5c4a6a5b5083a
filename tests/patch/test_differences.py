"""Differences of blocks: every type, against gguf's own dequantization, and back again."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.patch.arithmetic import changed
from pedsup.patch.layouts import Layout, layout_of, width
from pedsup.patch.streams import MAX_HEAD, RUNS, inflated, unpacked
from pedsup_export.patch.pack import copies, deflated, differences, packed, sparse_stream

QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
             "IQ4_NL", "IQ4_XS")  # fmt: skip


@pytest.mark.parametrize("name", BY_NAME)
def test_every_bit_of_a_block_belongs_to_one_number(name: str) -> None:
    layout = layout_of(BY_NAME[name])
    seen = np.zeros((layout.block_bytes, 8), int)
    for columns in layout.floats:
        seen[list(columns)] += 1
    for field in (*layout.scales, *layout.codes):
        filled = sum(((1 << part.bits) - 1) << part.at for part in field)
        assert filled == (1 << width(field)) - 1
        for part in field:
            assert len(part.columns) == len(field[0].columns)
            seen[list(part.columns), part.shift : part.shift + part.bits] += 1
    assert (seen == 1).all()
    assert layout.block_bytes == BY_NAME[name].type_size


def test_types_without_a_layout_of_their_own_are_taken_as_bytes() -> None:
    assert layout_of(BY_NAME["MXFP4"]).streams == (0, 17)


@pytest.mark.parametrize("name", BY_NAME)
@given(seed=st.integers(0, 1 << 30), n_blocks=st.integers(1, 40), share=st.floats(0, 1))
def test_the_new_bytes_and_back_to_the_old_ones(
    name: str, seed: int, n_blocks: int, share: float
) -> None:
    layout = layout_of(BY_NAME[name])
    draw = np.random.default_rng(seed)
    old = draw.integers(0, 256, n_blocks * layout.block_bytes, dtype=np.uint8)
    other = draw.integers(0, 256, len(old), dtype=np.uint8)
    new = np.where(draw.random(len(old)) < share, other, old)
    streams = differences(old.tobytes(), new.tobytes(), layout)
    packs = [packed(stream) for stream in streams]
    lengths = [n * n_blocks for n in layout.streams]
    again = [unpacked(*pack, n) for pack, n in zip(packs, lengths, strict=True)]
    assert changed(old.tobytes(), layout, again, back=False) == new.tobytes()
    assert changed(new.tobytes(), layout, again, back=True) == old.tobytes()


def _one_code(layout: Layout, n: int) -> list[bytes]:
    """Streams that add one to the `n`-th code of a single block."""
    streams = [b""] * len(layout.streams)
    codes = bytearray(layout.streams[-1])
    codes[n] = 1
    streams[-1] = bytes(codes)
    return streams


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_code_is_one_weight_as_gguf_dequantizes_it(name: str) -> None:
    kind, layout = BY_NAME[name], layout_of(BY_NAME[name])
    number = gguf.GGMLQuantizationType[name]
    draw = np.random.default_rng(7)
    block = draw.integers(1, 255, kind.type_size, dtype=np.uint8)
    for field in layout.scales:
        for part in field:
            block[list(part.columns)] = 0x53  # no scale is zero
    for columns in layout.floats:
        block[list(columns)] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
    before = gguf.dequantize(block[None], number)[0]
    touched = []
    for n in range(kind.block_size):
        new = changed(block.tobytes(), layout, _one_code(layout, n), back=False)
        after = gguf.dequantize(np.frombuffer(new, np.uint8)[None], number)[0]
        (where,) = np.flatnonzero(after != before)
        touched.append(int(where))
    assert sorted(touched) == list(range(kind.block_size))


@pytest.mark.parametrize("name", ["F16", "BF16", "F32", "Q4_0"])
def test_a_float_that_changes_little_has_a_small_difference_of_either_sign(name: str) -> None:
    layout = layout_of(BY_NAME[name])
    block = np.full(layout.block_bytes, 100, np.uint8)
    for step, folded in ((1, 2), (-1, 1), (2, 4)):
        new = block.copy()
        new[0] = 100 + step
        streams = differences(block.tobytes(), new.tobytes(), layout)
        assert streams[0] == bytes([folded])
        assert not any(streams[1:])


@given(
    n=st.integers(1, 5000),
    share=st.floats(0, 1),
    values=st.integers(1, 140),
    seed=st.integers(0, 1 << 30),
)
def test_streams_are_what_was_packed(n: int, share: float, values: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    raw = np.where(draw.random(n) < share, draw.integers(1, values + 1, n), 0).astype(np.uint8)
    method, data = packed(raw.tobytes() if raw.any() else b"")
    assert (unpacked(method, data, n) or bytes(n)) == raw.tobytes()
    if (sparse := sparse_stream(raw)) is not None:
        assert unpacked(2, deflated(sparse), n) == raw.tobytes()


def test_a_sparse_stream_is_near_the_entropy_of_what_it_holds() -> None:
    draw = np.random.default_rng(1)
    n = 1 << 20
    for share in (0.01, 0.03, 0.15):
        raw = np.where(draw.random(n) < share, draw.choice([1, 15], n), 0).astype(np.uint8)
        p = np.bincount(raw) / n
        entropy = -sum(x * np.log2(x) for x in p if x) * n / 8
        assert len(packed(raw.tobytes())[1]) < 1.1 * entropy


BAD = {
    "a method that there is not": (9, b"", 4),
    "bytes in an empty stream": (0, b"x", 4),
    "no deflate": (1, b"\xff\xff\xff", 4),
    "too few": (1, deflated(b"abc"), 4),
    "too many": (1, deflated(b"abcde"), 4),
    "cut": (1, deflated(b"abcd")[:-1], 4),
    "something behind it": (1, deflated(b"abcd") + b"x", 4),
    "a bomb": (1, deflated(bytes(1 << 24), 2), 4),
    "a sparse bomb": (2, deflated(bytes([1, 1, 1]) + b"\1" * 100), 4),
    "no table": (2, deflated(b""), 4),
    "a table of nothing": (2, deflated(b"\0"), 4),
    "a table that is cut": (2, deflated(b"\2\1\1\1"), 4),
    "a value of zero": (2, deflated(bytes([1, 0, 1, 0])), 4),
    "a value that never stands": (2, deflated(bytes([1, 1, 0, 0])), 4),
    "a table with more than a byte can say": (2, deflated(bytes([1, 1, 251, 0])), 4),
    "a byte beyond the table": (2, deflated(bytes([1, 1, 1, 1 + len(RUNS)])), 4),
    "more than there can be": (2, deflated(bytes([1, 1, 1]) + bytes(5)), 4),
    "a sparse stream larger than any": (2, deflated(bytes(MAX_HEAD + 5)), 4),
}


@pytest.mark.parametrize("what", BAD)
def test_a_damaged_stream_is_refused(what: str) -> None:
    with pytest.raises(ValueError):
        unpacked(*BAD[what])


def test_a_bomb_is_not_unpacked() -> None:
    with pytest.raises(ValueError, match="more than 100 bytes"):
        inflated(deflated(bytes(1 << 26), 2), 100)


@given(
    old=st.binary(max_size=400),
    cuts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 90)), max_size=4),
    extra=st.binary(max_size=80),
    repeat=st.integers(1, 40),
)
def test_a_header_is_copies_and_what_is_new(
    old: bytes, cuts: list[tuple[int, int]], extra: bytes, repeat: int
) -> None:
    base = old * repeat
    new = extra.join(base[at : at + length * 20] for at, length in cuts) + base[: len(base) // 2]
    found, literal = copies(base, new)
    at, made = 0, b""
    for begin, length in found:
        if begin < 0:
            made, at = made + literal[at : at + length], at + length
        else:
            made += base[begin : begin + length]
    assert made == new
    assert at == len(literal)


def test_a_line_that_grows_does_not_cost_the_vocabulary_behind_it() -> None:
    vocabulary = np.random.default_rng(0).bytes(1 << 20)
    found, literal = copies(b"name: v0.9" + vocabulary, b"name: v0.10" + vocabulary)
    assert len(literal) < 200
    assert len(found) <= 4
