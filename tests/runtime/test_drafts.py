"""Speculative decoding: the same text, more of it per pass; nothing that was refused stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pedsup_testing.near_ties import require_same_text

from pedsup.engine.api import DraftConfig, DraftStats, EngineConfig, SamplingConfig
from pedsup.engine.drafts.fit import require_drafter
from pedsup.engine.drafts.length import MAX_PAUSE, DraftLength
from pedsup.engine.drafts.lookup import CANDIDATES, PromptLookup
from pedsup.engine.drafts.measure import DraftTrial, Timing, best_draft
from pedsup.engine.drafts.option import draft_config, draft_text
from pedsup.errors import BadFileError, MismatchError, UsageError
from pedsup.gguf_file import read_header
from pedsup.memory import estimate

GREEDY = SamplingConfig(temperature=0)
LOOKUP = DraftConfig("lookup")
NOTE = (
    "Ana Torres, 3 years, 14.2 kg. Fever of 39.1 C for two days, cough. Paracetamol 15 mg/kg "
    "every six hours as needed. Return if she cannot drink."
)
QUOTE = f"<|im_start|>user\nRepeat: {NOTE}<|im_end|>\n<|im_start|>assistant\n{NOTE[:40]}"


def lookup(text, limit):
    return PromptLookup().draft(text[:-1], text[-1], limit=limit, row=0)


def naive_lookup(text, limit):
    """The longest earlier match of at least 3 tokens, the latest of those, by trying all."""
    best, longest = None, 2
    for end in range(3, len(text)):
        length = 0
        while length < end and text[end - 1 - length] == text[len(text) - 1 - length]:
            length += 1
        if length >= max(longest, 3):
            best, longest = end, length
    if best is None:
        return []
    found = list(text)
    for i in range(limit):
        found.append(found[best + i])
    return found[len(text) :]


class TestLookup:
    def test_it_copies_what_followed_the_last_tokens(self):
        assert lookup([9, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 3) == [4, 5, 6]

    def test_a_repetition_goes_on(self):
        assert lookup([7, 1, 2, 3, 1, 2, 3, 1, 2, 3], 5) == [1, 2, 3, 1, 2]
        assert lookup([5, 5, 5, 5, 5], 4) == [5, 5, 5, 5]

    def test_the_longer_match_wins_over_the_later(self):
        text = [8, 1, 2, 3, 40, 9, 1, 2, 3, 50, 8, 1, 2, 3]
        assert lookup(text, 1) == [40]

    @pytest.mark.parametrize("text", [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 5]])
    def test_nothing_to_copy(self, text):
        assert lookup(text, 4) == []

    @given(st.lists(st.integers(0, 2), min_size=1, max_size=18), st.integers(1, 8))
    def test_against_trying_every_place(self, text, limit):
        found, wanted = lookup(text, limit), naive_lookup(text, limit)
        assert bool(found) == bool(wanted)
        places = [i for i in range(3, len(text)) if text[i - 3 : i] == text[-3:]]
        if len(places) <= CANDIDATES:
            assert found == wanted

    @given(st.data())
    def test_following_a_text_that_grows_and_is_cut_changes_nothing(self, data):
        tokens = st.lists(st.integers(0, 3), max_size=12)
        drafter, text = PromptLookup(), []
        for _ in range(6):
            text = text[: data.draw(st.integers(0, len(text)))] + data.draw(tokens)
            if text:
                found = drafter.draft(text[:-1], text[-1], limit=4, row=0)
                assert found == lookup(text, 4)


class TestLength:
    def test_right_drafts_grow_to_the_bound(self):
        length = DraftLength(6)
        for _ in range(5):
            length.note(length.next(), length._length)
        assert length.next() == 6

    def test_wrong_drafts_shrink_and_pause(self):
        length, lengths = DraftLength(6), []
        for _ in range(400):
            n = length.next()
            lengths.append(n)
            if n:
                length.note(n, 0)
        assert lengths[0] == 2
        assert max(lengths[3:]) == 1
        # A text that never repeats costs a draft in 33 steps.
        assert sum(map(bool, lengths[-10 * (MAX_PAUSE + 1) :])) == 10

    def test_one_right_token_ends_the_pause(self):
        length = DraftLength(6)
        for _ in range(8):
            if n := length.next():
                length.note(n, 0)
        while not (n := length.next()):
            pass
        length.note(n, n)
        assert length.next() == 2

    @given(st.integers(1, 64), st.lists(st.integers(0, 64), max_size=40))
    def test_always_within_the_bound(self, bound, accepted):
        length = DraftLength(bound)
        for right in accepted:
            n = length.next()
            assert 0 <= n <= bound
            if n:
                length.note(n, min(right, n))


class TestOption:
    def test_words(self):
        assert draft_config("off", 6) == draft_config("auto", 6) == DraftConfig()
        assert draft_config("lookup", 4) == DraftConfig("lookup", n_max=4)

    def test_a_file(self, smollm2):
        draft = draft_config(str(smollm2), 6)
        assert draft == DraftConfig("model", model=smollm2)
        assert [draft_text(d) for d in (draft, LOOKUP)] == [str(smollm2), "lookup"]

    @pytest.mark.parametrize("asked", ["on", "", "no/such.gguf", "README.md"])
    def test_anything_else_is_refused(self, asked):
        with pytest.raises(UsageError, match="'draft' is"):
            draft_config(asked, 6)


def test_stats_add_up_and_know_what_they_do_not_know():
    none = DraftStats()
    assert none.acceptance is None
    assert none.speed_up is None
    both = DraftStats(10, 4, 1.0, 1.5) + DraftStats(10, 6, 1.0, 1.5)
    assert (both.acceptance, both.speed_up) == (0.5, 1.5)


def trial(*ratios):
    timings = {str(i): Timing(1.0, ratio, 10, 5, True) for i, ratio in enumerate(ratios)}
    return DraftTrial(LOOKUP, timings)


def test_a_default_must_gain_on_the_whole_and_harm_nowhere():
    assert best_draft([trial(1.5, 1.0)]) == LOOKUP
    assert best_draft([trial(1.04, 1.04)]) == DraftConfig()
    assert best_draft([trial(3.0, 0.8)]) == DraftConfig()
    assert best_draft([]) == DraftConfig()
    better = replace(trial(1.5, 1.4), draft=DraftConfig("lookup", n_max=3))
    assert best_draft([trial(1.2, 1.2), better]) == better.draft


# ---- SmolLM2 --------------------------------------------------------------------------------


def ids(engine, prompt, sampling=GREEDY, n=40):
    return [token.id for token in engine.generate(prompt, sampling, max_tokens=n)]


def positions(engine):
    """How many positions llama.cpp's memory holds, whatever our own list says."""
    lib = engine._lib
    return lib.llama_memory_seq_pos_max(lib.llama_get_memory(engine._ctx), 0) + 1


@pytest.fixture(scope="module")
def pair(smollm2):
    """SmolLM2 without and with lookup."""
    from pedsup.engine.inprocess import InProcessEngine

    config = EngineConfig(smollm2, n_ctx=512, n_threads=1, n_threads_batch=1)
    engines = InProcessEngine(config), InProcessEngine(replace(config, draft=LOOKUP))
    yield engines
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("sampling", [GREEDY, SamplingConfig(temperature=0.4, seed=5)])
def test_a_quoting_answer_is_the_same_and_much_of_it_was_drafted(pair, sampling):
    off, on = pair
    prompt = on.tokenize(QUOTE, parse_special=True)
    found, stats = ids(on, prompt, sampling), on.last_stats
    assert (stats.n_prompt, stats.n_generated) == (len(prompt), len(found))
    assert stats.drafts.n_accepted > 0
    assert stats.drafts.with_s == stats.decode_s > 0
    wanted = ids(off, prompt, sampling)
    assert off.last_stats.drafts == DraftStats()
    require_same_text(off, prompt, found, wanted, sampling)


@pytest.mark.parametrize("left_after", range(1, 12))
def test_leaving_in_mid_draft_keeps_what_was_yielded_and_no_more(pair, left_after):
    off, on = pair
    prompt = on.tokenize(QUOTE, parse_special=True)
    stream = on.generate(prompt, GREEDY, max_tokens=400)
    seen = [next(stream).id for _ in range(left_after)]
    stream.close()
    assert on.cached in ([*prompt, *seen], [*prompt, *seen[:-1]])
    assert positions(on) == len(on.cached)
    assert on.last_stats.n_generated == left_after
    more = [*prompt, *seen, *on.tokenize(" The end.", parse_special=False)]
    after = ids(on, more, n=8)
    assert on.last_stats.n_cached >= len(prompt) + left_after - 1
    require_same_text(off, more, after, ids(off, more, n=8))


def test_fewer_threads_in_mid_answer_change_no_text(pair):
    off, on = pair
    prompt = on.tokenize(QUOTE, parse_special=True)
    found = []
    for token in on.generate(prompt, GREEDY, max_tokens=12):
        found.append(token.id)
        on.set_threads(1)
    require_same_text(off, prompt, found, ids(off, prompt, n=12))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9])
def test_max_tokens_cuts_a_draft(pair, n):
    off, on = pair
    prompt = on.tokenize(QUOTE, parse_special=True)
    found = ids(on, prompt, n=n)
    assert len(found) == n
    require_same_text(off, prompt, found, ids(off, prompt, n=n))
    assert positions(on) == len(on.cached) <= len(prompt) + n


@pytest.mark.slow
def test_a_grammar_holds_inside_drafts(pair):
    off, on = pair
    note = json.dumps({"weight": [14.2] * 4, "fever": [39.1] * 4})
    prompt = on.tokenize(f"Copy the JSON {note}\n{note}\nJSON:", parse_special=False)
    schema = json.dumps(
        {
            "type": "object",
            "properties": {
                name: {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
                for name in ("weight", "fever")
            },
            "required": ["weight", "fever"],
            "additionalProperties": False,
        }
    )
    strict = replace(GREEDY, json_schema=schema)
    found = ids(on, prompt, strict, n=80)
    assert on.last_stats.drafts.n_accepted > 0
    assert set(json.loads(b"".join(map(on.piece, found)))) == {"weight", "fever"}
    require_same_text(off, prompt, found, ids(off, prompt, strict, n=80), strict)


@pytest.mark.slow
def test_banned_tokens_and_the_repeat_penalty_hold_inside_drafts(pair):
    off, on = pair
    prompt = on.tokenize(QUOTE, parse_special=True)
    plain = ids(on, prompt, n=12)
    for sampling in (
        SamplingConfig(temperature=0, banned=(plain[5],)),
        SamplingConfig(temperature=0, repeat_penalty=1.3),
    ):
        found = ids(on, prompt, sampling, n=24)
        require_same_text(off, prompt, found, ids(off, prompt, sampling, n=24), sampling)
        assert not set(found) & set(sampling.banned)


def test_a_state_saved_after_drafts_goes_on_without_them(pair, tmp_path):
    off, on = pair
    prompt = on.tokenize(QUOTE, parse_special=True)
    text = [*prompt, *ids(on, prompt, n=20)]
    on.save_state(tmp_path / "state")
    assert off.load_state(tmp_path / "state") == text[: len(on.cached)]
    found, wanted = (ids(engine, [*text, 30], n=10) for engine in (on, off))
    require_same_text(off, [*text, 30], found, wanted)


@pytest.mark.slow
def test_the_json_document_tells_drafts(smollm2, tmp_path):
    # What it shall quote is no matter of luck.
    (tmp_path / "quote.gbnf").write_text(f'root ::= "{NOTE}"', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pedsup", smollm2, "--json", "--draft", "lookup", "--draft-max", "4",
         "-p", f"Repeat word for word: {NOTE} {NOTE}", "--temp", "0", "--max-tokens", "60",
         "--grammar", tmp_path / "quote.gbnf",
         "--ctx", "512", "--threads", "1"],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path),
             "PEDSUP_ACCEPT_INTENDED_USE": "1"},
    )  # fmt: skip
    drafts = json.loads(done.stdout)["drafts"]
    assert drafts["drafted"] >= drafts["accepted"] > 0
    assert drafts["speed_up"] is None or drafts["speed_up"] > 0


# ---- what belongs together ------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma_vocabulary(llama_cpp_source):
    return llama_cpp_source / "models/ggml-vocab-gemma-4.gguf"


def test_a_model_of_another_vocabulary_is_refused(smollm2, gemma_vocabulary, open_inprocess):
    with pytest.raises(MismatchError, match="does not belong"):
        require_drafter(read_header(smollm2), read_header(gemma_vocabulary))
    # A file that holds no more than a vocabulary does not come as far as that.
    draft = DraftConfig("model", model=gemma_vocabulary)
    with pytest.raises(BadFileError, match="token_embd"):
        open_inprocess(smollm2, draft=draft)


def test_one_other_token_is_enough(smollm2, tmp_path):
    data = bytearray(smollm2.read_bytes()[: 8 << 20])
    at = data.index("Ġcapital".encode())
    data[at : at + 9] = "Ġcapitol".encode()
    whole = tmp_path / "other.gguf"
    whole.write_bytes(bytes(data) + smollm2.read_bytes()[8 << 20 :])
    with pytest.raises(MismatchError, match="capitol"):
        require_drafter(read_header(smollm2), read_header(whole))


def test_the_estimate_counts_the_draft_model_and_the_rows(smollm2):
    header = read_header(smollm2)
    config = EngineConfig(smollm2, n_ctx=1024)
    plain = estimate(header, config)
    rows = estimate(header, replace(config, draft=LOOKUP))
    assert rows.total - plain.total == 6 * 49152 * 4
    both = estimate(header, replace(config, draft=DraftConfig("model", model=smollm2)))
    assert both.draft_weights == plain.weights
    assert both.draft == plain.anonymous - plain.program
    assert both.total - rows.total == both.draft_weights + both.draft
