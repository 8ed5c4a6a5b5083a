"""The importance matrix against llama-quantize --imatrix and llama-imatrix's own files."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from pedsup_testing import made_gguf

from pedsup.errors import BadFileError, MismatchError, MissingFileError, UnsupportedError
from pedsup.gguf_file import read_header
from pedsup.gguf_file.file_types import FILE_TYPES
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.gguf_file.type_mixture import StoredTensor
from pedsup.gguf_file.type_recipes import ModelShape
from pedsup_export.types.imatrix import read_imatrix
from pedsup_export.types.mixture import choose_types
from pedsup_export.types.quantize import quantize_rows

Entry = tuple[Any, Any]
"""Sums and counts, as numpy would make arrays of them."""


def write_imatrix(
    path: Path,
    entries: Mapping[str, Entry],
    *,
    datasets: list[str] | None = None,
    leave_out: str = "",
) -> Path:
    writer = gguf.GGUFWriter(path, "", use_temp_file=False)
    writer.add_type("imatrix")
    if leave_out != "imatrix.datasets":
        writer.add_array("imatrix.datasets", ["calibration.txt"] if datasets is None else datasets)
    if leave_out != "imatrix.chunk_count":
        writer.add_uint32("imatrix.chunk_count", 12)
    if leave_out != "imatrix.chunk_size":
        writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in entries.items():
        for suffix, values in ((".in_sum2", sums), (".counts", counts)):
            if values is not None and name + suffix != leave_out:
                writer.add_tensor(name + suffix, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_values_are_sums_over_rounded_counts(tmp_path: Path) -> None:
    path = write_imatrix(
        tmp_path / "i.gguf",
        {"a.weight": ([3.0, 1.0], [[2.5]]), "b.weight": ([[4.0, 8.0], [5.0, 6.0]], [[4.0], [0.0]])},
    )
    imatrix = read_imatrix(path)
    third = np.float32(1) / np.float32(3)
    assert imatrix.importances["a.weight"].tolist() == [1.0, third]
    assert imatrix.importances["b.weight"].tolist() == [1.0, 2.0, 1.0, 1.0]
    assert imatrix.datasets == ("calibration.txt",) and imatrix.chunk_count == 12


def test_the_report_names_every_tensor(tmp_path: Path) -> None:
    ones = np.ones((1, 64))
    path = write_imatrix(
        tmp_path / "i.gguf",
        {"a.weight": (ones, [[1]]), "token_embd.weight": (ones, [[1]]), "z.weight": (ones, [[1]])},
    )
    imatrix = read_imatrix(path)
    shapes = {"a.weight": (64, 8), "b.weight": (64, 8), "token_embd.weight": (32, 100)}
    report = imatrix.report(shapes)
    assert report.used == ("a.weight",)
    assert report.missing == ("b.weight",)
    assert report.ignored == ("token_embd.weight",)
    assert report.unused == ("z.weight",)
    with pytest.raises(MismatchError, match=r"64 values for 'a\.weight'"):
        imatrix.report({"a.weight": (96, 8)})


@pytest.mark.parametrize(
    "quant",
    ["Q4_K_M",
     *(pytest.param(q, marks=pytest.mark.slow)
       for q in ("Q3_K_M", "Q2_K", "Q4_0", "IQ4_XS", "Q6_K", "Q5_K_M"))],
)  # fmt: skip
def test_bytes_and_metadata_equal_llama_quantize(
    tmp_path: Path, native_tool: Any, quant: str
) -> None:
    program = native_tool("llama-quantize")
    made = made_gguf.llama(8, 256, (4, 1), 352, 300, tied=True)
    rng = np.random.default_rng(11)

    def random(_name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return rng.standard_normal(shape[::-1]).astype(np.float32)

    arrays = made_gguf.write_data(tmp_path / "f32.gguf", made, random)
    entries = {}
    for i, (name, shape) in enumerate(made.tensors.items()):
        # One tensor without entry, one that saw no token, token embeddings of another size.
        if len(shape) == 2 and name != "blk.3.attn_q.weight":
            width = 13 if name == "token_embd.weight" else shape[0]
            entries[name] = rng.standard_exponential((1, width)), [[0 if i == 5 else 700 + i]]
    file = write_imatrix(tmp_path / "i.gguf", entries, datasets=["español.txt", "b.txt"])
    target = tmp_path / "out.gguf"
    command = [program, "--imatrix", file, tmp_path / "f32.gguf", target, quant, "1"]
    subprocess.run(command, check=True, capture_output=True)

    imatrix = read_imatrix(file)
    header = read_header(target)
    theirs_added = {k: v for k, v in header.metadata.items() if k.startswith("quantize.")}
    assert imatrix.metadata() == theirs_added
    choices = choose_types(
        {n: StoredTensor(s, BY_NAME["F32"]) for n, s in made.tensors.items()},
        file_type=FILE_TYPES[quant],
        model=ModelShape("llama", 8, 4, 1),
        has_imatrix=True,
    )
    data = target.read_bytes()
    for name, choice in choices.items():
        shape, info = made.tensors[name], header.tensors[name]
        start = header.data_offset + info.offset
        ours = quantize_rows(
            arrays[name].reshape(-1, shape[0]), choice.type, imatrix.for_tensor(name, shape)
        )
        assert info.type == choice.type
        assert ours.tobytes() == data[start : start + info.n_bytes], name


@pytest.mark.slow
def test_a_file_of_llama_imatrix_is_read(tmp_path: Path, native_tool: Any, smollm2: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The child has a fever and should drink water often. " * 60)
    file = tmp_path / "i.gguf"
    command = [native_tool("llama-imatrix"), "-m", smollm2, "-f", text, "-o", file,
               "-c", "128", "-b", "128", "-t", "2", "--chunks", "2", "--no-ppl"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    imatrix = read_imatrix(file)
    model = read_header(smollm2)
    shapes = {n: t.shape for n, t in model.tensors.items() if len(t.shape) == 2}
    report = imatrix.report(shapes)
    assert report.missing == ("token_embd.weight",)
    assert len(report.used) == 30 * 7 and not report.unused
    assert imatrix.chunk_count == 2


def test_the_old_format_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(struct.pack("<ii", 1, 8) + b"a.weight" + struct.pack("<iif", 1, 1, 1.0))
    with pytest.raises(UnsupportedError, match="llama-imatrix --in-file"):
        read_imatrix(path)


@pytest.mark.parametrize(
    ("entry", "leave_out", "message"),
    [
        (([1.0, 2.0], [[1.0]]), "imatrix.chunk_size", "lacks imatrix.chunk_size"),
        (([1.0, 2.0], [[1.0]]), "imatrix.datasets", "lacks imatrix.datasets"),
        (([1.0, 2.0], [[1.0]]), "a.weight.counts", "come in pairs"),
        (([1.0, 2.0], [[1.0]]), "a.weight.in_sum2", "come in pairs"),
        (([1.0, np.nan], [[1.0]]), "", "NaN or Inf"),
        (([1.0, 2.0], [[np.inf]]), "", "NaN or Inf"),
        (([1.0, 2.0, 3.0], [[1.0], [1.0]]), "", "3 sums for 2 counts"),
    ],
)
def test_damage_is_named(tmp_path: Path, entry: Entry, leave_out: str, message: str) -> None:
    path = write_imatrix(tmp_path / "i.gguf", {"a.weight": entry}, leave_out=leave_out)
    with pytest.raises(BadFileError, match=message):
        read_imatrix(path)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        read_imatrix(tmp_path / "nothing.gguf")
    path = write_imatrix(tmp_path / "i.gguf", {"other": (None, None)})
    with pytest.raises(BadFileError, match="no entry"):
        read_imatrix(path)
