"""Which tokens stay: closure over merges, size, signs, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pedsup_testing import cut_models
from pedsup_testing.cut_models import Pair
from pedsup_testing.token_encoder import encoder_of

from pedsup.errors import BadFileError, MismatchError, PedsupError, UnsupportedError, UsageError
from pedsup_export.adapter.match import MatchReport, TensorChange, TokenRows
from pedsup_export.cli import cli
from pedsup_export.plan.planner import make_plan
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef
from pedsup_export.vocabulary_cut.choose import MULTIPLE, required
from pedsup_export.vocabulary_cut.derivation import (
    Derivations,
    last_pair,
    merge_rank,
    split_merge,
)
from pedsup_export.vocabulary_cut.encoder import LINE, Encoder
from pedsup_export.vocabulary_cut.languages import LANGUAGES, letters_of, parse_languages
from pedsup_export.vocabulary_cut.plan import texts_to_keep
from pedsup_export.vocabulary_cut.request import (
    VocabularyRequest,
    parse_vocabulary,
    vocabulary_request,
)
from pedsup_export.vocabulary_cut.signs import UNITS, is_signs
from pedsup_export.vocabulary_cut.token_list import TokenList, token_list
from pedsup_export.vocabulary_cut.weights import acronyms, clinical_names, clinical_terms


def toy(merges: list[str], letters: str = "abcd") -> TokenList:
    """A BPE with a token for each letter and each merge."""
    tokens = [*letters, *(m.replace(" ", "") for m in merges)]
    return TokenList("gemma4", tuple(tokens), (1,) * len(tokens), None, tuple(merges))


def test_the_last_merge_is_the_one_that_tokenizers_makes() -> None:
    tokens = toy(["a b", "c d", "ab c", "b cd", "abc d"])
    rank = merge_rank(tokens.merges)
    assert last_pair("abc", rank) == ("ab", "c")
    assert last_pair("abcd", rank) is None  # a b, then c d: the token is never reached
    assert last_pair("bcd", rank) == ("b", "cd")
    encoder = encoder_of(tokens)
    for text in ("abc", "abcd", "bcd", "cd", "ab"):
        reached = encoder.encode(text) == [tokens.ids.get(text)]
        assert reached == (last_pair(text, rank) is not None), text


@st.composite
def made_tokens(draw: st.DrawFn) -> TokenList:
    tokens = list("abc")
    merges: list[str] = []
    for _ in range(draw(st.integers(1, 14))):
        a, b = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if a + b not in tokens and len(a + b) < 9:
            tokens.append(a + b)
            merges.append(f"{a} {b}")
    return TokenList("gemma4", tuple(tokens), (1,) * len(tokens), None, tuple(merges) or ("a b",))


@given(made_tokens(), st.data())
def test_text_of_kept_tokens_keeps_them(tokens: TokenList, data: st.DataObject) -> None:
    """The argument of `derivation`, tried on random merge tables with tokenizers as the oracle."""
    kept = Derivations(tokens).close(
        {0, 1, 2} | data.draw(st.sets(st.sampled_from(range(len(tokens.tokens)))))
    )
    names = {tokens.tokens[i] for i in kept}
    ids = sorted(kept)
    pairs = [(m, *m.split(" ")) for m in tokens.merges]
    merges = [m for m, a, b in pairs if {a, b, a + b} <= names]
    cut = TokenList(
        "gemma4", tuple(tokens.tokens[i] for i in ids), (1,) * len(ids), None, tuple(merges)
    )
    full, mine = encoder_of(tokens), encoder_of(cut)
    for text in data.draw(st.lists(st.text("abc", min_size=1, max_size=24), max_size=20)):
        theirs = full.encode(text)
        if kept.issuperset(theirs):
            assert [ids[i] for i in mine.encode(text)] == theirs
        assert "".join(cut.tokens[i] for i in mine.encode(text)) == text


@given(made_tokens(), st.data())
def test_rarest_leaves_first(tokens: TokenList, data: st.DataObject) -> None:
    """The same set as taking the rarest leaf away until the size is reached."""
    n = len(tokens.tokens)
    weights = dict(enumerate(data.draw(st.permutations([float(i + 1) for i in range(n)]))))
    derivations = Derivations(tokens)
    goal = data.draw(st.integers(1, n))
    kept = set(range(n))
    while len(kept) > goal:
        used = {p for t in kept for p in derivations.needs(t)}
        kept.remove(min(kept - used, key=weights.__getitem__))
    taken: set[int] = set()
    for token in sorted(range(n), key=lambda t: -weights[t]):
        more = derivations.closure(token, taken)
        if len(taken) + len(more) > goal:
            break
        taken |= more
    assert taken <= kept


@pytest.mark.slow
def test_a_cut_is_closed_and_a_multiple_of_256(pair: Pair) -> None:
    cut = pair.vocabulary
    derivations = Derivations(cut.base)
    assert all(derivations.needs(i) <= cut.kept for i in cut.base_ids)
    assert cut.n_tokens % MULTIPLE == 0
    assert required(cut.base) <= cut.kept
    merges = cut.merges(cut.base.merges or cut.base.python_merges)
    names = {cut.base.tokens[i] for i in cut.base_ids}
    assert merges and all({a, b, a + b} <= names for a, b in (m.split(" ") for m in merges))


def test_without_the_closure_llama_cpp_tokenizes_otherwise(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """What merges that name absent tokens do: a pitfall, and the reason for all of this."""
    import gguf
    from pedsup_testing.llama_tokens import LlamaTokens

    def write(path: Path, tokens: list[str], types: list[int], merges: list[str]) -> Path:
        writer = gguf.GGUFWriter(path, "gemma4")
        writer.add_tokenizer_model("gemma4")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges(merges)
        writer.add_bos_token_id(0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path

    spelled = [f"<0x{i:02X}>" for i in range(256)]
    tokens = ["<bos>", *spelled, "f", "i", "e", "b", "r", "fi", "eb", "re", "fieb", "fiebre"]
    types = [3, *[6] * 256, *[1] * 10]
    merges = ["f i", "e b", "r e", "fi eb", "fieb re"]
    whole = write(tmp_path / "whole.gguf", tokens, types, merges)
    gone = tokens.index("eb")
    careless = write(
        tmp_path / "careless.gguf", tokens[:gone] + tokens[gone + 1 :], types[:-1], merges
    )
    with LlamaTokens(whole) as full, LlamaTokens(careless) as cut:
        assert [full.text(i) for i in full.encode("fiebr")] == ["fieb", "r"]
        # The pair still merges, and what it makes has no id: two byte tokens.
        assert [cut.text(i) for i in cut.encode("ebre")] == ["<0x65>", "<0x62>", "re"]


def test_signs_and_units() -> None:
    assert is_signs(" ¿") and is_signs("»,") and is_signs(" (") and not is_signs(" (a")
    assert not is_signs("====") and not is_signs(" ")
    prose = ("...", " ...", "---", " (+)", " (-)", "%).", "…).", '").', "%),")
    assert all(map(is_signs, prose))
    assert not any(map(is_signs, ("=>{", "-->", "</>", "$('", "....", "{}.")))
    assert {"mg/kg", "mmHg", "°C", "SpO2", "µg"} <= set(UNITS)
    assert {"ñ", "Ñ", "ü"} <= letters_of([LANGUAGES["es"]]) and "ñ" not in letters_of(
        [LANGUAGES["en"]]
    )


@pytest.mark.parametrize("text", ["de", "", "es,xx", "es,es"])
def test_unknown_languages(text: str) -> None:
    with pytest.raises(UsageError):
        parse_languages(text)


def test_the_options(tmp_path: Path) -> None:
    assert parse_vocabulary("96k") == (96_000, None)
    assert parse_vocabulary("98304") == (98_304, None)
    with pytest.raises(UsageError, match="neither a number"):
        parse_vocabulary(str(tmp_path / "none"))
    assert vocabulary_request(None, None) is None
    with pytest.raises(UsageError, match="a size alone"):
        vocabulary_request(None, "96k")
    with pytest.raises(UsageError, match="no effect"):
        vocabulary_request(None, None, (tmp_path / "notes.txt",))


def plan(base: Path, tmp_path: Path, **options: Any) -> Any:
    listed = tmp_path / "tokens.txt"
    listed.write_text(options.pop("tokens", "▁fiebre\n"), encoding="utf-8")
    wish = vocabulary_request(None, str(listed))
    assert wish is not None
    request = ExportRequest(
        base=ModelRef(base, "tiny"), out=tmp_path / "out.gguf",
        vocabulary=replace(wish, **options),
    )  # fmt: skip
    return make_plan(request)[0].cut


def test_a_size_below_what_must_stay(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too small") as caught:
        plan(bases["gemma4"], tmp_path, size=512)
    assert "at least" in str(caught.value.wanted)
    with pytest.raises(UsageError, match="cuts nothing"):
        plan(bases["gemma4"], tmp_path, size=4096)
    assert plan(bases["gemma4"], tmp_path, size=2700).n_tokens == 2560


def test_tokens_that_are_not_there(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="▁никогда") as caught:
        plan(bases["gemma4"], tmp_path, tokens="▁fiebre\n▁никогда\n")
    assert "--keep-text" in str(caught.value.remedy)
    with pytest.raises(BadFileError, match="not valid JSON"):
        plan(bases["gemma4"], tmp_path, tokens='"broken\n')


def test_keep_text_keeps_every_token(bases: dict[str, Path], tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text(cut_models.FOREIGN, encoding="utf-8")
    without, with_text = (plan(bases["gemma4"], tmp_path, keep_texts=t) for t in ((), (notes,)))
    encoder = Encoder.from_document(json.loads((bases["gemma4"] / "tokenizer.json").read_text()))
    used = set(encoder.encode(cut_models.FOREIGN))
    assert not used <= without.kept and used <= with_text.kept


def test_a_gguf_s_vocabulary_is_taken_over(pair: Pair, tmp_path: Path) -> None:
    wish = vocabulary_request(None, str(pair.cut))
    request = ExportRequest(
        base=ModelRef(pair.base, "tiny"), out=tmp_path / "again.gguf", vocabulary=wish
    )
    again = make_plan(request)[0].cut
    assert again is not None and again.base_ids == pair.vocabulary.base_ids
    with pytest.raises(MismatchError, match="was not cut"):
        make_plan(replace(request, vocabulary=vocabulary_request(None, str(pair.full))))


def test_trained_token_rows_are_not_cut_silently(pair: Pair) -> None:
    import numpy as np

    cut = pair.vocabulary
    gone = next(i for i in range(len(cut.base.tokens)) if i not in cut.kept)
    rows = TokenRows("embed", np.array([5, gone]), np.zeros((2, 4), np.float32))
    report = MatchReport({"embed": TensorChange(tokens=rows)}, (), ())
    with pytest.raises(MismatchError, match="would be cut") as caught:
        cut.require_trained_rows(report)
    assert repr(cut.base.text(gone)) in str(caught.value)
    cut.require_trained_rows(None)


def test_a_tokenizer_without_merges_is_refused(bases: dict[str, Path]) -> None:
    from pedsup_export.model import open_model

    entries = [
        replace(e, value=[]) if e.key.endswith(".merges") else e
        for e in open_model(bases["gemma4"], bases["gemma4"]).vocabulary.entries
    ]
    with pytest.raises(UnsupportedError, match="0 merges"):
        token_list(entries)


def test_dry_run_says_what_it_saves(pair: Pair, tmp_path: Path) -> None:
    run = ["run", "--base", str(pair.base), "--out", str(tmp_path / "x.gguf"), "--dry-run",
           "--vocabulary", str(pair.cut)]  # fmt: skip
    text = CliRunner().invoke(cli, run, catch_exceptions=False).output
    assert f"{pair.vocabulary.n_tokens} of {cut_models.N_TOKENS} tokens" in text
    shown = json.loads(CliRunner().invoke(cli, [*run, "--json"]).stdout)["vocabulary"]
    assert shown["file"] == pytest.approx(pair.cut.stat().st_size, abs=512)
    assert shown["file_full"] == pytest.approx(pair.full.stat().st_size, abs=512)
    assert shown["read_per_token"] < shown["read_per_token_full"]


def test_a_drafter_of_the_full_vocabulary_is_refused(pair: Pair) -> None:
    from pedsup.engine.drafts import require_drafter
    from pedsup.gguf_file import read_header

    cut, full = read_header(pair.cut), read_header(pair.full)
    with pytest.raises(MismatchError, match="the model's vocabulary was cut") as caught:
        require_drafter(cut, full)
    assert "--vocabulary MODEL.gguf" in str(caught.value.remedy)
    require_drafter(cut, cut)
    require_drafter(full, full)
    with pytest.raises(MismatchError):
        require_drafter(full, cut)


@pytest.mark.slow
@pytest.mark.usefixtures("few_words")
def test_languages_by_word_list(bases: dict[str, Path], tmp_path: Path) -> None:
    request = ExportRequest(
        base=ModelRef(bases["gemma4"], "tiny"), out=tmp_path / "out.gguf",
        vocabulary=vocabulary_request("es,en,qu", None),
    )  # fmt: skip
    cut = make_plan(request)[0].cut
    assert cut is not None and cut.n_tokens < cut_models.N_TOKENS
    assert cut.lost.keys() == {"es", "en"} and all(share < 0.01 for share in cut.lost.values())
    kept = {cut.base.tokens[i] for i in cut.base_ids}
    assert "▁niño" in kept and "▁ребёнок" not in kept and "孩子" not in kept
    small = make_plan(replace(request, vocabulary=vocabulary_request("es,en", "2304")))[0].cut
    assert small is not None and small.n_tokens == 2304
    assert all(small.lost[code] >= cut.lost[code] for code in small.lost)


def test_without_the_word_lists_the_message_says_what_to_install(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wordfreq", None)
    run = ["run", "--base", str(bases["gemma4"]), "--out", str(tmp_path / "x.gguf"),
           "--languages", "es", "--dry-run"]  # fmt: skip
    result = CliRunner().invoke(cli, run)
    assert "pedsup[vocabulary]" in str(getattr(result.exception, "remedy", ""))


def test_a_changed_map_is_found(pair: Pair, tmp_path: Path) -> None:
    """The map in the file against the digest in the manifest."""
    from pedsup.errors import UntrustedError
    from pedsup.gguf_file import read_header
    from pedsup.trust.manifest import manifest_path, read_manifest
    from pedsup_export.vocabulary_cut.proof import check_map

    header, manifest = read_header(pair.cut), read_manifest(manifest_path(pair.cut))
    check_map(header, manifest)
    for name, value in (("base_ids_sha256", "0" * 64), ("tokens", 1), ("base_tokens", "\x1b[2J")):
        vocabulary = {**manifest.facts.vocabulary, name: value}
        facts = replace(manifest.facts, vocabulary=vocabulary)
        with pytest.raises(UntrustedError, match="map of token ids") as caught:
            check_map(header, replace(manifest, facts=facts))
        assert "\x1b" not in str(caught.value.wanted)
    with pytest.raises(UntrustedError):
        check_map(read_header(pair.full), manifest)


@pytest.mark.slow
def test_verify_proves_the_vocabulary_again(pair: Pair, tmp_path: Path) -> None:
    from pedsup_export.prove.verify import verify

    report = verify(pair.cut, base=ModelRef(pair.base, "tiny"))
    assert report.manifest.core["vocabulary"]["tokens"] == pair.vocabulary.n_tokens
    result = CliRunner().invoke(cli, ["verify", str(pair.cut), "--base", str(pair.base)])
    assert result.exit_code == 0 and f"{pair.vocabulary.n_tokens} of" in result.output
    other = cut_models.gemma4(tmp_path / "other", seed=9)
    with pytest.raises(PedsupError):
        verify(pair.cut, base=ModelRef(other, "other"))


def test_words_written_in_capitals_are_told_by_the_order_of_training() -> None:
    """`▁HF` came before `▁hf`; of `DNA` there is no small token; `DOG` came after `dog`."""
    letters = ["▁", *"HFhfDNAdnaGOogr"]
    words = ["▁ H", "▁H F", "▁ h", "▁h f", "▁ D", "▁D N", "▁DN A", "▁ d", "▁d o", "▁do g", "▁D O",
             "▁DO G"]  # fmt: skip
    merges = [tuple(word.split()) for word in words]
    tokens = ("<unk>", *letters, *(a + b for a, b in merges))
    types = (2, *(1,) * (len(tokens) - 1))
    encoder = encoder_of(TokenList("gemma4", tokens, types, None, tuple(words)))
    assert acronyms(["hf", "dna", "dog", "or", "o", "fog-horn"], encoder) == ["hf", "dna"]


WORDS = st.lists(st.text("abc\n d", max_size=6), max_size=9)


@given(made_tokens(), WORDS, st.booleans())
def test_a_list_of_words_gives_what_each_word_gives(
    tokens: TokenList, words: list[str], newline: bool
) -> None:
    """With a newline token or without one, and where a merge goes across the newlines."""
    more, merges = ("\n", "a\n", "b\n", "b\na"), ("a \n", "b \n", "b\n a")
    if newline:
        tokens = replace(
            tokens, tokens=(*tokens.tokens, *more), types=(*tokens.types, *[1] * len(more)),
            merges=(*tokens.merges, *merges[: len(words) % 2 * 3]),
        )  # fmt: skip
    encoder = encoder_of(tokens)
    ids, sizes = encoder.encode_words(words)
    alone = [encoder.encode(word) for word in words]
    assert sizes.tolist() == [len(word) for word in alone]
    assert ids.tolist() == [token for word in alone for token in word]


@pytest.mark.parametrize("kind", ["gemma4", "llama"])
def test_long_lists_of_words_take_several_lines(bases: dict[str, Path], kind: str) -> None:
    encoder = Encoder.from_document(json.loads((bases[kind] / "tokenizer.json").read_text()))
    words = [form for term in clinical_terms()[:400] for form in (term, f" {term.upper()}")]
    ids, sizes = encoder.encode_words(words)
    assert len(words) > 2 * LINE
    assert sizes.tolist() == [len(encoder.encode(word)) for word in words]
    assert ids.tolist() == [token for word in words for token in encoder.encode(word)]


@given(st.lists(st.sampled_from(["a b", "ab c", " a b", "a  b", "b a", "a b c", "  c"])))
def test_ranks_are_those_of_the_split_merges(merges: list[str]) -> None:
    """llama.cpp splits at the first space after the first character; of equals the first counts."""
    rank = merge_rank(merges)
    parts = ["a", "b", "c", "ab", " a", " ", " b", "a b", "b c", " c"]
    split = [split_merge(m) for m in merges]
    for left, right in product(parts, parts):
        pair = (left, right)
        assert rank(left, right) == (split.index(pair) if pair in split else None)


def test_clinical_names_are_kept_as_they_are_written(pair: Pair) -> None:
    """The shipped lists: no word twice, names with their capitals, medicines without."""
    names, terms = clinical_names(), clinical_terms()
    assert len(names) == len(set(names)) > 1500
    assert {"Strongyloides", "HbA1c", "benznidazol", "mmHg", "Hirschsprung"} <= set(names)
    assert all(term == term.lower() for term in terms)
    texts = texts_to_keep(VocabularyRequest(), [])
    lines = texts["clinical terms"].splitlines()
    assert {"Strongyloides Strongyloides", "benznidazol benznidazol", "Benznidazol Benznidazol",
            "fiebre fiebre", "Fiebre Fiebre"} <= set(lines)  # fmt: skip
    assert "Hba1c Hba1c" not in lines
    assert pair.vocabulary.texts["clinical terms"] == texts["clinical terms"]
