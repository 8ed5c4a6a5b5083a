"""Rounding with statistics and a cut vocabulary in one export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pedsup_testing import cut_models

from pedsup.errors import MismatchError
from pedsup.gguf_file import read_header
from pedsup.questions.texts import Text
from pedsup_bench.quality.measure import QualityPlan, measure
from pedsup_bench.quality.summary import summarize
from pedsup_bench.report.texts import default_texts
from pedsup_export.allocation.budget import Budget
from pedsup_export.calibration import command
from pedsup_export.plan.calibrated import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.prove.remake import MadeWith
from pedsup_export.prove.verify import verify
from pedsup_export.source.hub import ModelRef
from pedsup_export.vocabulary_cut.cut import TABLES
from pedsup_export.vocabulary_cut.request import VocabularyRequest
from pedsup_export.vocabulary_cut.weights import shipped_texts
from pedsup_export.write.publish import execute


@dataclass(frozen=True)
class Made:
    """A base, statistics of its full and of its cut merge, and calibrated files of both."""

    folder: Path
    base: ModelRef
    statistics: dict[str, Path]
    full: Path
    cut: Path
    kept: np.ndarray

    def request(self, name: str, *, cut: bool, **more: Any) -> ExportRequest:
        return request(self.base, self.folder / name, cut=cut, **more)


def request(base: ModelRef, out: Path, *, cut: bool, **more: Any) -> ExportRequest:
    listed = out.parent / "tokens.txt"
    listed.write_text("▁fiebre\n▁child\n", encoding="utf-8")
    vocabulary = VocabularyRequest(file=listed) if cut else None
    plain = ExportRequest(base=base, out=out, vocabulary=vocabulary, threads=1)
    return replace(plain, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("both")
    base = ModelRef(cut_models.gemma4(folder / "base"), "tiny")
    words = folder / "words.txt"
    words.write_text(shipped_texts()["demo_pairs.jsonl"][:12_000], encoding="utf-8")
    statistics = {}
    for kind in ("full", "cut"):
        merge = folder / f"{kind}-f32.gguf"
        execute(*make_plan(request(base, merge, cut=kind == "cut", quant="F32")))
        statistics[kind] = folder / f"{kind}-statistics.gguf"
        asked = command.CalibrationRequest(
            merge, statistics[kind], (words,), window=64, n_windows=8, threads=1
        )
        command.execute(command.make_plan(asked))
    for kind in ("full", "cut"):
        plan, inputs = make_plan(
            request(base, folder / f"{kind}.gguf", cut=kind == "cut", calibrated=statistics["full"])
        )
        execute(plan, inputs)
    assert plan.cut is not None
    return Made(folder, base, statistics, folder / "full.gguf", folder / "cut.gguf", plan.cut.rows)


def rows_of(path: Path, name: str) -> np.ndarray:
    """Packed rows of a tensor, uint8 [n, row bytes]."""
    header = read_header(path)
    info = header.tensors[name]
    data = np.memmap(path, np.uint8, "r", header.data_offset + info.offset, info.n_bytes)
    return np.array(data).reshape(-1, info.type.row_bytes(info.shape[0]))


@pytest.mark.slow
def test_every_row_is_that_of_the_full_calibrated_file(made: Made) -> None:
    names = list(read_header(made.full).tensors)
    assert names == list(read_header(made.cut).tensors)
    tables = [name for name in names if name in TABLES]
    assert len(tables) == 2
    for name in names:
        full = rows_of(made.full, name)
        wanted = full[made.kept] if name in tables else full
        assert np.array_equal(rows_of(made.cut, name), wanted), name


@pytest.mark.slow
def test_statistics_of_the_cut_merge_give_the_same_bytes(made: Made) -> None:
    """The text uses kept tokens only: every activation is the same."""
    other = made.request("other.gguf", cut=True, calibrated=made.statistics["cut"])
    execute(*make_plan(other))
    for name in read_header(made.cut).tensors:
        assert np.array_equal(rows_of(other.out, name), rows_of(made.cut, name)), name


@pytest.mark.slow
def test_logits_of_kept_tokens_are_those_of_the_full_calibrated_file(made: Made) -> None:
    texts = tuple(Text(t.name, t.content[:1500]) for t in default_texts())
    plan = QualityPlan(made.cut, made.full, texts, n_ctx=64, n_chunks=1, n_threads=1)
    for figures in measure(plan).values():
        found = summarize(figures)
        assert found.flips == 0 and found.kld.max < 1e-12


@pytest.mark.slow
def test_it_is_proved_with_the_statistics(made: Made) -> None:
    report = verify(made.cut, base=made.base,
                    made_with=MadeWith(calibrated=made.statistics["full"]))  # fmt: skip
    assert report.remade
    assert report.manifest.core["vocabulary"]["tokens"] == len(made.kept)
    assert report.manifest.core["recipe"]["calibrated"]["texts"][0]["name"] == "words.txt"
    assert not verify(made.cut, base=made.base).remade


@pytest.mark.slow
def test_a_budget_counts_the_rows_that_are_kept(made: Made) -> None:
    size = made.cut.stat().st_size
    wanted = made.request("budget.gguf", cut=True, calibrated=made.statistics["full"],
                          budget=Budget(n_bytes=size))  # fmt: skip
    plan, inputs = make_plan(wanted)
    assert plan.output_bytes <= size + 32 * len(plan.tensors)
    assert plan.cut is not None and plan.calibration is not None
    execute(plan, inputs)
    assert verify(wanted.out).n_tensors == len(plan.tensors)


@pytest.mark.slow
def test_other_rows_of_the_token_table_are_noticed_before_anything_is_written(
    made: Made, tmp_path: Path
) -> None:
    """The row of a token that is cut differs: the statistics are of another merge."""
    from safetensors.numpy import load_file, save_file

    other = cut_models.gemma4(tmp_path / "base")
    (shard,) = other.glob("*.safetensors")
    tensors = load_file(shard)
    (name,) = [n for n in tensors if n.endswith("embed_tokens.weight")]
    removed = sorted(set(range(cut_models.N_TOKENS)) - set(made.kept.tolist()))[5]
    tensors[name][removed] *= 2
    save_file(tensors, shard, metadata={"format": "pt"})
    wanted = request(ModelRef(other, "tiny"), tmp_path / "x.gguf", cut=True,
                     calibrated=made.statistics["full"])  # fmt: skip
    with pytest.raises(MismatchError, match=r"other weights of 'token_embd\.weight'"):
        make_plan(wanted)
