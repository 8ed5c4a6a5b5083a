"""The safetensors reader against the reference library, and against every kind of damage."""

from __future__ import annotations

import json
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pedsup_testing.lazy import Lazy, lazy_names

from pedsup.errors import BadFileError, PedsupError, UnsupportedError
from pedsup_export.source.safetensors_file import SafetensorsFile
from pedsup_export.source.safetensors_header import MAX_HEADER

torch = Lazy("torch")
load_file, save_file = lazy_names("safetensors.torch", "load_file", "save_file")


def sample() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "a.weight": torch.randn(7, 5),
        "b.weight": torch.randn(3, 4, 2).bfloat16(),
        "c": torch.randn(9).half(),
        "d": torch.tensor(2.5),
        "e": torch.arange(6).reshape(2, 3),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False, True]),
        "bytes": torch.arange(11, dtype=torch.uint8),
    }


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(sample(), path, metadata={"format": "pt"})
    return path


def build(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def line(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_the_reference_library_wrote(whole: Path) -> None:
    ours, reference = SafetensorsFile(whole), load_file(whole)
    assert set(ours.tensors) == set(reference)
    assert ours.metadata == {"format": "pt"}
    for name, tensor in reference.items():
        view = {torch.bfloat16: torch.uint16, torch.bool: torch.uint8}.get(tensor.dtype)
        expected = (tensor.view(view) if view else tensor).numpy()
        entry = ours.entry(name)
        assert entry.shape == tuple(tensor.shape)
        got = ours.rows(name, 0, entry.n_rows)
        assert got.tobytes() == expected.tobytes()
        assert not (got.size and got.flags.writeable)
        for lo in range(entry.n_rows):
            row = ours.rows(name, lo, lo + 1)
            assert row.tobytes() == np.atleast_1d(expected)[lo : lo + 1].tobytes()
        assert ours.raw(name).tobytes() == expected.tobytes()


def test_rows_are_views_and_outlive_a_release(whole: Path) -> None:
    file = SafetensorsFile(whole)
    rows = file.rows("a.weight", 1, 4)
    assert not rows.flags.owndata
    before = rows.copy()
    entry = file.entry("a.weight")
    file.release_bytes(entry.begin, entry.end)
    file.release_bytes(entry.end, entry.end)
    assert np.array_equal(rows, before)
    with pytest.raises(IndexError):
        file.rows("a.weight", 5, 8)


def test_released_pages_leave_resident_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(4096, 4096)}, path)  # 64 MiB
    file = SafetensorsFile(path)
    begin, row = file.entry("w").begin, 4 * 4096

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def read_all(*, release: bool) -> int:
        start, peak = resident(), 0
        for lo in range(0, 4096, 256):
            assert float(file.rows("w", lo, lo + 256).sum()) == 256 * 4096
            if release:
                file.release_bytes(begin + lo * row, begin + (lo + 256) * row)
            peak = max(peak, resident() - start)
        return peak

    assert read_all(release=True) < 20 << 20
    assert read_all(release=False) > 40 << 20
    file.release_bytes(begin, begin + 4096 * row)
    assert read_all(release=True) < 20 << 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"\x00" * 9, "9 bytes"),
        (build({}, length=1 << 60), "header of"),
        (build({}, length=MAX_HEADER + 1), "header of"),
        (build({}, length=100), "in a file of"),
        (build(b"{nonsense"), "not JSON"),
        (build(b"\xff\xfe{}"), "not JSON"),
        (build(b"[" * 100_000), "not JSON"),
        (build([1, 2]), "not a JSON object"),
        (build(b'{"a":' + b"1" * 5000 + b"}"), "not JSON"),
        (build({"__metadata__": {"a": 1}}), "__metadata__"),
        (build({"w": line("F33")}, b"\0" * 8), "F33"),
        (build({"w": line(dtype=["F32"])}, b"\0" * 8), "unknown dtype"),  # type: ignore[arg-type]
        (build({"w": line(shape=[-2])}, b"\0" * 8), "shape"),
        (build({"w": line(shape=[True, 2])}, b"\0" * 8), "shape"),
        (build({"w": line(shape=[2.0])}, b"\0" * 8), "shape"),
        (build({"w": line(shape=[1] * 33 + [2])}, b"\0" * 8), "shape"),
        (build({"w": line(shape=[1 << 62, 1 << 62])}, b"\0" * 8), "bytes for shape"),
        (build({"w": line(shape=[3])}, b"\0" * 8), "bytes for shape"),
        (build({"w": line(offsets=[0, 8, 9])}, b"\0" * 8), "data_offsets"),
        (build({"w": line(offsets=[8, 0])}, b"\0" * 8), "truncated or its header lies"),
        (build({"w": line()}, b"\0" * 7), "truncated"),
        (build({"w": line()}, b"\0" * 9), "after the last tensor"),
        (build({"w": line(offsets=[1, 9])}, b"\0" * 9), "hole"),
        (build({"v": line(), "w": line(offsets=[4, 12])}, b"\0" * 12), "overlaps"),
        (build({"w": {"dtype": "F32", "shape": [2]}}, b"\0" * 8), "without dtype"),
        (build({"w": 3}), "without dtype"),
        (build(b'{"w":%s,"w":%s}' % ((json.dumps(line()).encode(),) * 2), b"\0" * 8), "twice"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"PK\x03\x04" + b"\0" * 100, "pickle"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match=words) as caught:
        SafetensorsFile(path)
    assert caught.value.remedy
    assert str(path) in str(caught.value.where)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_truncation_or_a_flipped_header_byte_is_a_typed_error_or_harmless(
    whole: Path, tmp_path: Path, stride: int
) -> None:
    content = whole.read_bytes()
    path = tmp_path / "damaged.safetensors"
    for cut in range(0, len(content), stride):
        path.write_bytes(content[:cut])
        with pytest.raises(BadFileError):
            SafetensorsFile(path)
    header_end = 8 + struct.unpack_from("<Q", content)[0]
    for at in range(0, header_end, stride):
        for flip in (0x01, 0x20, 0xFF):
            damaged = bytearray(content)
            damaged[at] ^= flip
            path.write_bytes(damaged)
            read_everything(path)


def read_everything(path: Path) -> None:
    """Open and read all tensors; only a `PedsupError` may come out."""
    try:
        file = SafetensorsFile(path)
        for name, entry in file.tensors.items():
            file.rows(name, 0, entry.n_rows).sum()
    except PedsupError:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
lines = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F4", "F6_E2M3", "BOOL", "C64", "X"])
        | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=4) | json_values,
        "data_offsets": st.tuples(st.integers(-1, 70), st.integers(-1, 70)) | json_values,
    }
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    header=st.dictionaries(st.text(max_size=6), lines | json_values, max_size=4) | json_values,
    data=st.binary(max_size=64),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_forged_headers_raise_typed_errors_only(
    tmp_path: Path, header: object, data: bytes, length: int | None
) -> None:
    path = tmp_path / "forged.safetensors"
    path.write_bytes(build(header, data, length=length))
    read_everything(path)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(st.tuples(st.integers(0, 800), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 900),
    extra=st.binary(max_size=9),
)
def test_edited_files_raise_typed_errors_only(
    whole: Path, tmp_path: Path, edits: list[tuple[int, int]], cut: int, extra: bytes
) -> None:
    content = bytearray(whole.read_bytes())
    for at, value in edits:
        content[at % len(content)] = value
    path = tmp_path / "edited.safetensors"
    path.write_bytes(bytes(content[:cut]) + extra if cut < 800 else bytes(content) + extra)
    read_everything(path)


def test_sub_byte_elements_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "fp4.safetensors"
    path.write_bytes(build({"w": line("F4", [4], [0, 2])}, b"\0\0"))
    file = SafetensorsFile(path)
    with pytest.raises(UnsupportedError, match="F4"):
        file.rows("w", 0, 4)
    with pytest.raises(BadFileError, match="no tensor 'x'"):
        file.rows("x", 0, 1)
