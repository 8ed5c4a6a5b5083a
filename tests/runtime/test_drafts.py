"""`--draft`: what it means, which models belong together, and `llama-server` guessing tokens."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from pedsup_testing import native, oracle, programs, tiny_models
from pedsup_testing.near_ties import require_same_text

from pedsup.engine.api import DraftConfig, DraftStats, EngineConfig, SamplingConfig
from pedsup.engine.drafts import draft_config, draft_text, require_drafter
from pedsup.engine.llama_server.process import explain_death
from pedsup.engine.select import engine_kind
from pedsup.errors import (
    BadFileError,
    MismatchError,
    MissingDependencyError,
    UnsupportedError,
    UsageError,
)
from pedsup.gguf_file import read_header
from pedsup.gguf_file.validate import validate_model_or_drafter
from pedsup.memory import estimate, model_shape

GREEDY = SamplingConfig(temperature=0)
LOOKUP = DraftConfig("lookup")
NOTE = (
    "Ana Torres, 3 years, 14.2 kg. Fever of 39.1 C for two days, cough. Paracetamol 15 mg/kg "
    "every six hours as needed. Return if she cannot drink."
)


class TestOption:
    def test_words(self, smollm2):
        header = read_header(smollm2)
        assert draft_config("off", 6, header) == DraftConfig()
        assert draft_config("lookup", 4, header) == DraftConfig("lookup", n_max=4)

    def test_a_file(self, smollm2):
        draft = draft_config(str(smollm2), 6, read_header(smollm2))
        assert draft == DraftConfig("model", model=smollm2)
        assert [draft_text(d) for d in (draft, LOOKUP, DraftConfig())] == [
            str(smollm2), "lookup", "none"
        ]  # fmt: skip

    @pytest.mark.parametrize("asked", ["on", "auto", "", "no/such.gguf", "README.md"])
    def test_anything_else_is_refused(self, asked, smollm2):
        with pytest.raises(UsageError, match="'draft' is"):
            draft_config(asked, 6, read_header(smollm2))


def test_stats_add_up_and_know_what_they_do_not_know():
    assert DraftStats().acceptance is None
    assert (DraftStats(10, 4) + DraftStats(10, 6)).acceptance == 0.5


# ---- the engine ---------------------------------------------------------------------------------


def run(smollm2, home, *options, **env):
    env = {**os.environ, "HOME": str(home), "PEDSUP_ACCEPT_INTENDED_USE": "1", **env}
    return programs.run("pedsup", smollm2, "--ctx", "512", "--threads", "1", *options, env=env)


def test_without_llama_server_it_says_what_to_install(smollm2, tmp_path):
    for draft in ("lookup", str(smollm2)):
        found = run(
            smollm2, tmp_path, "--draft", draft, "-p", "Hi.", PEDSUP_LLAMA_SERVER="/no/such"
        )
        assert found.returncode == 8, found.stderr
        assert "--draft needs the program 'llama-server'" in found.stderr
        assert "pkg install llama-cpp" in found.stderr


def test_drafts_choose_the_server(tmp_path, monkeypatch):
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", str(program))
    assert engine_kind("auto", drafts=True) == engine_kind("server", drafts=True) == "server"
    with pytest.raises(UsageError, match="does not guess"):
        engine_kind("inprocess", drafts=True)
    program.unlink()
    with pytest.raises(MissingDependencyError, match="llama-server"):
        engine_kind("server", drafts=True)


def test_a_server_that_does_not_know_drafts_is_told_apart():
    error = explain_death(1, "error: invalid argument: --spec-type")
    assert "--draft off" in str(error.remedy)
    assert "--draft off" not in str(explain_death(1, "error: out of memory").remedy)


@pytest.mark.slow
def test_the_json_document_tells_drafts(smollm2, tmp_path):
    program = native.tool("llama-server")
    if program is None:
        pytest.skip("llama-server is not built: run `make native`")
    # What it shall quote is no matter of luck.
    (tmp_path / "quote.gbnf").write_text(f'root ::= "{NOTE}"', encoding="utf-8")
    done = run(
        smollm2, tmp_path, "--json", "--draft", "lookup", "--draft-max", "4",
        "-p", f"Repeat word for word: {NOTE} {NOTE}", "--temp", "0", "--max-tokens", "60",
        "--grammar", tmp_path / "quote.gbnf", PEDSUP_LLAMA_SERVER=str(program),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["drafts"]["drafted"] >= document["drafts"]["accepted"] > 0


# ---- what belongs together ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma_vocabulary(llama_cpp_source):
    return llama_cpp_source / "models/ggml-vocab-gemma-4.gguf"


def test_a_model_of_another_vocabulary_is_refused(smollm2, gemma_vocabulary):
    with pytest.raises(MismatchError, match="does not belong"):
        require_drafter(read_header(smollm2), read_header(gemma_vocabulary))
    # A file that holds no more than a vocabulary does not come as far as that.
    with pytest.raises(BadFileError, match="token_embd"):
        draft_config(str(gemma_vocabulary), 6, read_header(smollm2))


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


@pytest.fixture(scope="module")
def files(tmp_path_factory, gemma4_gguf, converter):
    """Models and drafters by name, made by transformers, llama.cpp's converter and quantizer."""
    root = tmp_path_factory.mktemp("drafts")

    def convert(folder):
        return converter(folder, root / f"{folder.name}.gguf")

    llama = convert(tiny_models.llama(root / "llama"))
    made = {"llama-F32": llama,
            "assistant-F32": convert(tiny_models.gemma4_assistant(root / "assistant"))}  # fmt: skip
    for name, source in (("gemma4", gemma4_gguf), ("llama", llama)):
        made[f"{name}-Q8_0"] = oracle.quantize(source, root / f"{name}-Q8_0.gguf", 7)
    return made


@pytest.mark.slow
def test_a_drafter_of_another_model_is_refused(files):
    """Before llama.cpp sees it: it would end the process."""
    draft = files["assistant-F32"]
    with pytest.raises(MismatchError, match="Gemma 4"):
        draft_config(str(draft), 6, read_header(files["llama-Q8_0"]))
    target = read_header(files["gemma4-Q8_0"])
    require_drafter(target, read_header(draft))
    for key, value, words in (
        ("embedding_length_out", 512, "hidden size of 512"),
        ("attention.key_length", 64, "key_length is 64"),
        ("attention.value_length_swa", 32, "value_length_swa is 32"),
        ("attention.head_count", 3, "3 heads"),
        ("tokenizer.ggml.model", "llama", "another kind"),
    ):
        other = read_header(draft)
        other.metadata[key if key in other.metadata else f"gemma4-assistant.{key}"] = value
        with pytest.raises(MismatchError, match=words):
            require_drafter(target, other)


@pytest.mark.slow
def test_a_forged_drafter_is_refused_at_the_door(files, tmp_path):
    good = files["assistant-F32"].read_bytes()
    assert validate_model_or_drafter(files["assistant-F32"]).architecture == "gemma4-assistant"
    for key, old, new in ((b"nextn_predict_layers", 4, 3), (b"embedding_length_out", 256, 128),
                          (b"attention.sliding_window", 16, 0)):  # fmt: skip
        at = good.index(b"gemma4-assistant." + key) + len(b"gemma4-assistant." + key) + 4
        assert int.from_bytes(good[at : at + 4], "little") == old
        path = tmp_path / "forged.gguf"
        path.write_bytes(good[:at] + new.to_bytes(4, "little") + good[at + 4 :])
        with pytest.raises(BadFileError, match=key.decode()):
            validate_model_or_drafter(path)
    with pytest.raises(UnsupportedError, match="gemma4-assistant") as caught:
        model_shape(read_header(files["assistant-F32"]))
    assert "--draft" in str(caught.value.remedy)


@pytest.mark.slow
def test_the_estimate_counts_a_drafter(files):
    header = read_header(files["gemma4-Q8_0"])
    draft = DraftConfig("model", model=files["assistant-F32"])
    config = EngineConfig(header.path, n_ctx=512)
    plain, both = estimate(header, config), estimate(header, replace(config, draft=draft))
    size = files["assistant-F32"].stat().st_size
    assert 0.9 * size < both.draft_weights < size
    assert both.draft > 512 * 256 * 4  # hidden states of a batch
    assert both.total > plain.total + both.draft_weights + both.draft


# ---- llama-server -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "drafter"),
    [("llama-Q8_0", "lookup"), ("llama-Q8_0", "llama-F32"), ("gemma4-Q8_0", "assistant-F32")],
)
def test_llama_server_with_drafts_says_the_same(
    files, open_inprocess, open_server, model, drafter, tmp_path
):
    def ids(engine, prompt, sampling=GREEDY, n=64):
        return [token.id for token in engine.generate(prompt, sampling, max_tokens=n)]

    kind = "lookup" if drafter == "lookup" else "model"
    reference = open_inprocess(files[model], n_ctx=1024)
    off = open_server(files[model])
    on = open_server(files[model], draft=DraftConfig(kind, model=files.get(drafter)))
    prompt = [2, *([150, 151, 152, 160] * 12)]
    # Whole characters only: the server holds back the tokens of split ones.
    odd = tuple(t for t in range(off.info.n_vocab) if not off.piece(t).isalpha())
    for temperature in (0, 1):
        sampling = SamplingConfig(temperature=temperature, seed=3, banned=odd)
        found, wanted = (ids(engine, prompt, sampling, 80) for engine in (on, off))
        require_same_text(reference, prompt, found, wanted, sampling)
    assert on.last_stats.drafts.n_drafted >= on.last_stats.drafts.n_accepted
    # A saved prompt is as good with drafts.
    ids(on, prompt, n=0)
    on.save_state(tmp_path / "state")
    assert on.load_state(tmp_path / "state") == prompt
    sampling = SamplingConfig(temperature=0, banned=odd)
    found, wanted = (ids(engine, [*prompt, 170], sampling, 20) for engine in (on, off))
    require_same_text(reference, [*prompt, 170], found, wanted, sampling)
