"""Cut files against full ones in llama.cpp: tokens, rows, logits, special ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pedsup_testing import oracle
from pedsup_testing.cut_models import FOREIGN, Pair
from pedsup_testing.llama_tokens import LlamaTokens

from pedsup.gguf_file import read_header
from pedsup.gguf_file.cut_vocabulary import base_ids
from pedsup.gguf_file.validate import validate_model
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_export.cli import cli
from pedsup_export.plan.calibrated import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef
from pedsup_export.vocabulary_cut.cut import TABLES
from pedsup_export.vocabulary_cut.proof import OTHER_TEXT, generated_lines
from pedsup_export.vocabulary_cut.request import VocabularyRequest
from pedsup_export.vocabulary_cut.weights import shipped_texts
from pedsup_export.write.publish import execute


@pytest.mark.slow
def test_text_of_kept_tokens_has_the_same_tokens_in_llama_cpp(pair: Pair) -> None:
    lines = [line for text in shipped_texts().values() for line in text.splitlines(True)]
    lines += generated_lines(pair.vocabulary, 3000, seed=5)
    same = 0
    with LlamaTokens(pair.full) as full, LlamaTokens(pair.cut) as cut:
        for line in lines:
            theirs, ours = full.encode(line), cut.encode(line)
            if pair.vocabulary.kept.issuperset(theirs):
                same += 1
                assert [pair.vocabulary.base_ids[i] for i in ours] == theirs, line
            assert cut.decode(ours) == full.decode(theirs)
    assert same > 2500


def test_any_other_text_comes_back(pair: Pair) -> None:
    with LlamaTokens(pair.full) as full, LlamaTokens(pair.cut) as cut:
        for text in (FOREIGN, *OTHER_TEXT):
            ours = cut.encode(text)
            assert cut.decode(ours) == full.decode(full.encode(text))
            assert cut.decode(ours).removeprefix(b" ") == text.encode()
        assert len(cut.encode(FOREIGN)) > 1.5 * len(full.encode(FOREIGN))


def test_every_kept_row_is_the_full_export_s(pair: Pair) -> None:
    full, cut = read_header(pair.full), read_header(pair.cut)
    ids = list(pair.vocabulary.base_ids)
    assert list(base_ids(cut) or ()) == ids
    assert full.tensors.keys() == cut.tensors.keys()
    for name, mine in cut.tensors.items():
        theirs = full.tensors[name]
        assert mine.type == theirs.type
        a, b = (
            np.fromfile(h.path, np.uint8, t.n_bytes, offset=h.data_offset + t.offset)
            for h, t in ((full, theirs), (cut, mine))
        )
        if name in TABLES:
            a = a.reshape(theirs.shape[1], -1)[ids].ravel()
        assert np.array_equal(a, b), name
    assert cut.file_size < full.file_size


def test_logits_of_kept_tokens_are_the_same_bits(pair: Pair) -> None:
    ids = list(pair.vocabulary.base_ids)
    with LlamaTokens(pair.cut) as cut:
        tokens = [2, *cut.encode(shipped_texts()["pediatric_es.txt"])][:100]
    ours = oracle.logits(pair.cut, tokens)
    theirs = oracle.logits(pair.full, [ids[i] for i in tokens])[:, ids]
    assert ours.shape == theirs.shape and np.ptp(ours) > 1
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def test_ids_that_software_knows_by_number_stay(pair: Pair) -> None:
    with LlamaTokens(pair.full) as full, LlamaTokens(pair.cut) as cut:
        for token in range(107):
            assert cut.text(token) == full.text(token)
        lib = full._lib
        for ask in ("bos", "eos", "eot", "pad", "nl", "mask"):
            a, b = (getattr(lib, f"llama_vocab_{ask}")(v.vocab) for v in (full, cut))
            assert (b < 0 and a < 0) or pair.vocabulary.base_ids[b] == a, ask
        for token in range(cut.n_tokens):
            old = pair.vocabulary.base_ids[token]
            for ask in ("is_control", "is_eog", "get_attr"):
                function = getattr(lib, f"llama_vocab_{ask}")
                assert function(cut.vocab, token) == function(full.vocab, old)
        turn = "<|turn>user\nHola<turn|>\n<|channel>thought\n<channel|>"
        assert [pair.vocabulary.base_ids[i] for i in cut.encode(turn, special=True)] == full.encode(
            turn, special=True
        )


def test_the_runtime_takes_a_cut_file(pair: Pair) -> None:
    header = validate_model(pair.cut)
    assert len(header.metadata["tokenizer.ggml.tokens"]) % 256 == 0


@pytest.mark.slow
def test_a_million_strings_in_python_and_a_tenth_of_them_in_llama_cpp(pair: Pair) -> None:
    """A third of a million for each of the three models."""
    from pedsup_export.vocabulary_cut.encoder import Encoder
    from pedsup_export.vocabulary_cut.proof import cut_document, prove_texts

    document, vocabulary = pair.vocabulary.document, pair.vocabulary
    encoders = [Encoder.from_document(d) for d in (document, cut_document(document, vocabulary))]
    lines = list(generated_lines(vocabulary, 333_334, seed=7))
    proof = prove_texts(vocabulary, encoders[0], encoders[1], lines)
    assert proof.lines_of_kept_tokens > 283_000
    with LlamaTokens(pair.full) as full, LlamaTokens(pair.cut) as cut:
        for line in lines[::10]:
            theirs = full.encode(line)
            if vocabulary.kept.issuperset(theirs):
                assert [vocabulary.base_ids[i] for i in cut.encode(line)] == theirs, line


@pytest.mark.slow
def test_many_small_blocks_give_the_same_file(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a few rows on several threads, with rows between them that are left out."""
    monkeypatch.setattr("pedsup_export.plan.projector.BLOCK_FLOATS", 24 * 256)
    request = ExportRequest(
        base=ModelRef(pair.base, pair.base.name), out=tmp_path / "cut.gguf", threads=4,
        vocabulary=VocabularyRequest(file=pair.cut),
    )  # fmt: skip
    plan, inputs = make_plan(request)
    assert any(t.origin.kept_rows is not None and t.rows_per_block < 64 for t in plan.tensors)
    execute(plan, inputs)
    digests = [
        {n: t.sha256 for n, t in read_manifest(manifest_path(path)).tensors.items()}
        for path in (pair.cut, request.out)
    ]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_a_cut_file_that_would_be_made_again_is_left_alone(pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "cut.gguf"
    run = ["run", "--base", str(pair.base), "--out", str(out), "--vocabulary", str(pair.cut),
           "--force", "--if-changed"]  # fmt: skip
    assert CliRunner().invoke(cli, run, catch_exceptions=False).exit_code == 0
    before = out.stat().st_mtime_ns
    assert CliRunner().invoke(cli, run, catch_exceptions=False).exit_code == 0
    assert out.stat().st_mtime_ns == before
    whole = [word for word in run if word not in ("--vocabulary", str(pair.cut))]
    assert CliRunner().invoke(cli, whole, catch_exceptions=False).exit_code == 0
    assert out.stat().st_size > pair.cut.stat().st_size
