"""Gemma 3's vocabulary: tokenizer.model against the sentencepiece library, and without it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedsup.errors import BadFileError, MismatchError, UnsupportedError
from pedsup_export.source.hub import ADAPTER_FILES, BASE_FILES
from pedsup_export.tokenizer.beside_adapter import choose_vocabulary
from pedsup_export.tokenizer.files import load_tokenizer
from pedsup_export.tokenizer.sentencepiece import Piece, read_pieces
from pedsup_export.tokenizer.vocab import sentencepiece_vocabulary

N_TOKENS = 768


@pytest.fixture
def folder(models: Mapping[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny Gemma 3's tokenizer files."""
    copy = tmp_path / "tokenizer"
    copy.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "config.json"):
        shutil.copy(models["gemma3"] / name, copy / name)
    return copy


def test_pieces_equal_the_library_s(folder: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    data = (folder / "tokenizer.model").read_bytes()
    theirs = SentencePieceProcessor()
    theirs.LoadFromSerializedProto(data)
    mine = read_pieces(data, folder)
    assert len(mine) == theirs.GetPieceSize() == N_TOKENS
    for i, piece in enumerate(mine):
        assert piece.text == theirs.IdToPiece(i)
        assert piece.score == theirs.GetScore(i)
        kinds = (theirs.IsUnknown(i), theirs.IsControl(i), theirs.IsUnused(i), theirs.IsByte(i))
        assert kinds == tuple(piece.kind == kind for kind in (2, 3, 5, 6))


def test_the_model_file_is_fetched_with_the_others() -> None:
    """Else a base from the hub would be another one than the same base in a folder."""
    assert {"tokenizer.model", "tokenizer.json"} <= {*BASE_FILES} & {*ADAPTER_FILES}


def test_without_the_model_file_the_tokens_merge_in_the_same_order(folder: Path) -> None:
    complete = sentencepiece_vocabulary(load_tokenizer(folder), N_TOKENS)
    (folder / "tokenizer.model").unlink()
    derived = sentencepiece_vocabulary(load_tokenizer(folder), N_TOKENS)
    assert derived.value("ggml.tokens") == complete.value("ggml.tokens")
    assert derived.value("ggml.scores") == complete.value("ggml.scores")
    # <unk> is the one that tokenizer.json marks as special only.
    assert derived.value("ggml.token_type") == complete.value("ggml.token_type")


def test_control_tokens_stay_so_without_added_tokens_decoder(folder: Path) -> None:
    """transformers 5 does not write it; the converter would then take `<|turn>` for text."""
    complete = sentencepiece_vocabulary(load_tokenizer(folder), N_TOKENS)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert sentencepiece_vocabulary(load_tokenizer(folder), N_TOKENS) == complete


def test_the_tab_that_stands_for_its_byte(folder: Path) -> None:
    """Gemma's tokenizer.json may have the character where tokenizer.model has <0x09>."""
    complete = sentencepiece_vocabulary(load_tokenizer(folder), N_TOKENS)
    document = json.loads((folder / "tokenizer.json").read_text())
    vocab = document["model"]["vocab"]
    vocab["\t"] = vocab.pop("<0x09>")
    (folder / "tokenizer.json").write_text(json.dumps(document))
    assert sentencepiece_vocabulary(load_tokenizer(folder), N_TOKENS) == complete
    (folder / "tokenizer.model").unlink()
    assert sentencepiece_vocabulary(load_tokenizer(folder), N_TOKENS) == complete


def test_files_of_two_models_are_refused(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    vocab = document["model"]["vocab"]
    a, b = (text for text, i in vocab.items() if i in (500, 501))
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(MismatchError, match="differ in 2 tokens: token 500"):
        sentencepiece_vocabulary(load_tokenizer(folder), N_TOKENS)


def test_an_adapter_s_tokenizer_without_the_model_file(folder: Path, tmp_path: Path) -> None:
    """What transformers 5 saves beside an adapter goes with the base's tokenizer.model."""
    beside = tmp_path / "adapter"
    beside.mkdir()
    document = json.loads((folder / "tokenizer.json").read_text())
    document["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst",
                              "stride": 0}  # fmt: skip
    (beside / "tokenizer.json").write_text(json.dumps(document))
    base = load_tokenizer(folder)
    used, vocabulary = choose_vocabulary(sentencepiece_vocabulary, base, beside, N_TOKENS)
    assert used.sentencepiece == base.sentencepiece
    assert vocabulary.entries == sentencepiece_vocabulary(base, N_TOKENS).entries


def test_a_tokenizer_without_bytes_is_refused(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["byte_fallback"] = False
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(UnsupportedError, match="without byte fallback"):
        sentencepiece_vocabulary(load_tokenizer(folder), N_TOKENS)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "holds no pieces"),
        (b"\x0a\x05\x0a", "ends within a field"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "ends within a field"),
        (b"\xff" * 11, "more than ten bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "not a message"),
        (b"\x0a\x03\x0a\x01\xff", "cannot be read"),
        (b"\x0a\x02\x18\x07", "a piece of type 7"),
        (b"\x0a\x02\x18", "cannot be read|ends within"),
    ],
)
def test_damaged_model_files_are_refused(data: bytes, found: str) -> None:
    with pytest.raises(BadFileError, match=found):
        read_pieces(data, "tokenizer.model")


@given(st.binary(max_size=60))
def test_any_bytes_are_pieces_or_an_error(data: bytes) -> None:
    try:
        pieces = read_pieces(data, "tokenizer.model")
    except BadFileError:
        return
    assert pieces and all(isinstance(piece, Piece) for piece in pieces)
