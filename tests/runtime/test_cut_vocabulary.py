"""The map of a cut vocabulary in a file: checked before it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from pedsup.errors import BadFileError
from pedsup.gguf_file import GGUFHeader, ValueType, read_header
from pedsup.gguf_file.cut_vocabulary import BASE_IDS, BASE_SIZE, base_ids, is_cut
from pedsup_export.gguf.header import KV, array, header_bytes, string, u32

TOKENS = ["<pad>", "<eos>", "<bos>", "fiebre"]


def header(folder: Path, *entries: KV) -> GGUFHeader:
    path = folder / "x.gguf"
    tokens = array("tokenizer.ggml.tokens", ValueType.STRING, TOKENS)
    path.write_bytes(header_bytes([string("general.architecture", "llama"), tokens, *entries], ()))
    return read_header(path)


def ids(*numbers: int) -> KV:
    return array(BASE_IDS, ValueType.INT32, numbers)


def test_a_whole_vocabulary_has_no_map(tmp_path: Path) -> None:
    found = header(tmp_path)
    assert not is_cut(found) and base_ids(found) is None


def test_the_map_is_read(tmp_path: Path) -> None:
    found = header(tmp_path, ids(0, 1, 2, 9000), u32(BASE_SIZE, 9001))
    assert is_cut(found) and list(base_ids(found) or ()) == [0, 1, 2, 9000]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((ids(0, 1, 2), u32(BASE_SIZE, 10)), "has 3 values"),
        ((ids(0, 1, 3, 2), u32(BASE_SIZE, 10)), "is not in ascending order"),
        ((ids(0, 1, 1, 2), u32(BASE_SIZE, 10)), "is not in ascending order"),
        ((ids(-1, 1, 2, 3), u32(BASE_SIZE, 10)), "out of range"),
        ((ids(0, 1, 2, 10), u32(BASE_SIZE, 10)), "out of range"),
        ((ids(0, 1, 2, 3),), "out of range"),
        ((u32(BASE_IDS, 3), u32(BASE_SIZE, 10)), "INT32"),
        ((array(BASE_IDS, ValueType.UINT32, [0, 1, 2, 3]), u32(BASE_SIZE, 10)), "INT32"),
    ],
)
def test_a_wrong_map_is_refused(tmp_path: Path, entries: tuple[KV, ...], message: str) -> None:
    with pytest.raises(BadFileError, match=message):
        base_ids(header(tmp_path, *entries))
