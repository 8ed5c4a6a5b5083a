"""Both engines: same text, same rules; and what happens when the child dies."""

from __future__ import annotations

import http.client
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pedsup_testing.forged_gguf import tiny_llama
from pedsup_testing.near_ties import require_same_text
from pedsup_testing.slowly import slow_but

from pedsup.chat.prompt import build_prompt
from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.engine.api import EngineConfig, SamplingConfig
from pedsup.engine.llama_server.process import explain_death, find_program
from pedsup.engine.sampler import recommended_sampling
from pedsup.engine.select import extra_buffers_policy, open_engine
from pedsup.errors import (
    BadFileError,
    EngineError,
    MissingDependencyError,
    UnsupportedError,
    UsageError,
)
from pedsup.gguf_file import read_header

GREEDY = SamplingConfig(temperature=0)
ASK: list[Message] = [
    {"role": "system", "content": "Eres un asistente. Responde en español."},
    {"role": "user", "content": "¿Cuál es la capital de Francia? 🫁"},
]


@pytest.fixture(params=["inprocess", pytest.param("server", marks=pytest.mark.slow)])
def open_any(request):
    return request.getfixturevalue(f"open_{request.param}")


WORDS = "El niño 🫁 tiene"
MORE: list[Message] = [
    {"role": "assistant", "content": "París."},
    {"role": "user", "content": "Otra vez, más breve."},
]


def transcript(engine):
    """What both engines say of a model, and what they write after the same prompts."""
    template = ChatTemplate.from_engine(engine)
    prompts = [
        engine.tokenize(WORDS, parse_special=False),
        *(build_prompt(engine, template, messages, think=False).tokens
          for messages in (ASK, [*ASK, *MORE])),
    ]  # fmt: skip
    texts = [[t.id for t in engine.generate(p, GREEDY, max_tokens=32)] for p in prompts]
    info = engine.info
    facts = [info.architecture, info.bos, info.eos, info.n_vocab, info.chat_template]
    return {"facts": facts, "prompts": prompts, "texts": texts}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2", "gemma4_gguf"])
def test_same_greedy_text_from_both_engines(
    model, request, open_inprocess, open_server, native_tool
):
    """On one build of llama.cpp, whose server reads a prompt in other batches than we do."""
    path = request.getfixturevalue(model)
    child = open_server(path)
    code = (
        "import json, sys\nfrom pathlib import Path\nimport runpy\n"
        "from pedsup.engine.api import EngineConfig\n"
        "from pedsup.engine.llama_cpp.inprocess import InProcessEngine\n"
        "test = runpy.run_path(sys.argv[1])\n"
        "config = EngineConfig(Path(sys.argv[2]), n_ctx=512, n_threads=1, n_threads_batch=1)\n"
        "engine = InProcessEngine(config)\n"
        "print(json.dumps(test['transcript'](engine)))\n"
    )
    paths = [*(p for p in sys.path if p), str(Path(__file__).parents[1] / "lib")]
    here = subprocess.run(
        [sys.executable, "-c", code, __file__, path],
        stdout=subprocess.PIPE,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "LLAMA_CPP_LIB_PATH": str(native_tool("llama-server").parent),
        },
    )
    found, wanted = transcript(child), json.loads(here.stdout)
    assert found["facts"] == wanted["facts"]
    assert found["prompts"] == wanted["prompts"]
    judge = open_inprocess(path)
    for prompt, text, other in zip(found["prompts"], found["texts"], wanted["texts"], strict=True):
        # The server keeps back the beginning of a character that the limit cuts.
        assert len(text) >= len(other) - 3 > 0
        require_same_text(judge, prompt, text, other[: len(text)])


def test_both_engines_know_the_same_ends(open_inprocess, open_server, smollm2, gemma4_gguf):
    for path in (smollm2, gemma4_gguf):
        here, child = open_inprocess(path), open_server(path)
        assert child.info.end_of_generation == here.info.end_of_generation


@pytest.mark.slow
def test_same_seed_same_text(open_any, smollm2):
    engine = open_any(smollm2)
    prompt = engine.tokenize("Once upon a time", parse_special=False)

    def draw(seed):
        sampling = SamplingConfig(temperature=1.5, seed=seed)
        return [t.id for t in engine.generate(prompt, sampling, max_tokens=16)]

    draw(0)  # the prompt is read once, for all
    assert draw(3) == draw(3)
    assert len({tuple(draw(seed)) for seed in range(4)}) > 1


def test_banned_tokens_do_not_come(open_any, smollm2):
    engine = open_any(smollm2)
    prompt = engine.tokenize("One, two, three,", parse_special=False)
    first = next(engine.generate(prompt, GREEDY, max_tokens=1)).id
    banned = SamplingConfig(temperature=0, banned=(first,))
    assert next(engine.generate(prompt, banned, max_tokens=1)).id != first


@pytest.mark.parametrize("temperature", slow_but([1.0], [0.0, 1.0]))
def test_grammar_and_json_schema(open_any, smollm2, temperature):
    engine = open_any(smollm2)
    prompt = engine.tokenize("Is water wet? Answer:", parse_special=False)

    def text(**fields):
        sampling = SamplingConfig(temperature=temperature, seed=1, **fields)
        return b"".join(t.piece for t in engine.generate(prompt, sampling, max_tokens=60)).decode()

    assert text(grammar='root ::= "sí" | "no"') in ("sí", "no")
    schema = {
        "type": "object",
        "properties": {"urgent": {"type": "boolean"}, "n": {"enum": [1, 2]}},
        "required": ["urgent", "n"],
        "additionalProperties": False,
    }
    found = json.loads(text(json_schema=json.dumps(schema)))
    assert isinstance(found["urgent"], bool)
    assert found["n"] in (1, 2)


def test_bad_grammar_is_the_users_error(open_inprocess, smollm2):
    engine = open_inprocess(smollm2)
    with pytest.raises(UsageError, match="grammar"):
        list(engine.generate([1], SamplingConfig(grammar="root ::= ("), max_tokens=1))


def test_a_schema_from_the_network_is_refused(open_inprocess, smollm2):
    engine = open_inprocess(smollm2)
    schema = json.dumps({"$ref": "https://example.org/schema.json"})
    with pytest.raises(UsageError, match="refers to"):
        list(engine.generate([1], SamplingConfig(json_schema=schema), max_tokens=1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0), ("seed", -1)],
)
def test_senseless_sampling_is_refused(open_inprocess, smollm2, field, value):
    engine = open_inprocess(smollm2)
    with pytest.raises(UsageError, match=field):
        list(engine.generate([1], SamplingConfig(**{field: value}), max_tokens=1))


def test_an_emoji_has_all_its_tokens(open_any, smollm2):
    """llama-server holds back the ids of tokens inside a character: they are found again."""
    engine = open_any(smollm2)
    grammar = SamplingConfig(temperature=0, grammar='root ::= "🫁é🫁"')
    prompt = engine.tokenize("Lung:", parse_special=False)
    tokens = list(engine.generate(prompt, grammar, max_tokens=30))
    assert b"".join(t.piece for t in tokens).decode() == "🫁é🫁"
    assert len(tokens) > 4
    assert engine.last_stats.n_generated >= len(tokens)


@pytest.mark.slow
def test_prompt_progress_reaches_the_end(open_any, smollm2):
    engine = open_any(smollm2, n_batch=64, n_ubatch=64)
    seen = []
    prompt = engine.tokenize("uno dos tres " * 60, parse_special=False)
    list(engine.generate(prompt, GREEDY, max_tokens=1, on_prompt=lambda *at: seen.append(at)))
    assert seen[-1] == (len(prompt), len(prompt))
    assert len(seen) >= 3


def test_leaving_early_does_no_harm(open_any, smollm2):
    engine = open_any(smollm2)
    prompt = engine.tokenize("Count: one, two,", parse_special=False)
    list(engine.generate(prompt, GREEDY, max_tokens=0))  # it is read once, for all
    whole = [t.id for t in engine.generate(prompt, GREEDY, max_tokens=12)]
    stream = engine.generate(prompt, GREEDY, max_tokens=400)
    assert [next(stream).id for _ in range(3)] == whole[:3]
    stream.close()
    assert [t.id for t in engine.generate(prompt, GREEDY, max_tokens=12)] == whole


def test_context_larger_than_the_models_is_refused(open_any, smollm2):
    with pytest.raises(UsageError, match="8192"):
        open_any(smollm2, n_ctx=10_000)


@pytest.mark.parametrize("content", [b"", b"no model at all" * 10, b"GGUF" + bytes(60)])
def test_what_is_no_model_is_refused(open_any, tmp_path, content):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises((BadFileError, EngineError), match=r"."):
        open_any(path)


def test_a_truncated_model_is_refused(open_any, smollm2, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(smollm2.read_bytes()[:20_000_000])
    with pytest.raises(BadFileError, match="the file ends inside"):
        open_any(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_model_that_computes_no_numbers_is_told(open_any, tmp_path, value, temperature):
    """llama.cpp's samplers draw a token all the same: an answer of one word, without a warning."""
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny_llama().encode())
    header = read_header(model)
    at = header.data_offset + header.tensors["output_norm.weight"].offset
    with model.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<32f", *[value] * 32))
    engine = open_any(model, n_ctx=64)
    with pytest.raises(EngineError, match="is not a number"):
        list(engine.generate([1, 5, 6], SamplingConfig(temperature=temperature), max_tokens=3))


def test_another_architecture_is_refused_by_name(open_any, smollm2, tmp_path):
    path = tmp_path / "other.gguf"
    data = smollm2.read_bytes()
    at = data.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
    assert data[at : at + 5] == b"llama"
    path.write_bytes(data[:at] + b"xlama" + data[at + 5 :])
    with pytest.raises(UnsupportedError, match="xlama"):
        open_any(path)


# ---- the child ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGILL, "instruction that this processor does not have"),
        (signal.SIGKILL, "memory ran out"),
        (signal.SIGSEGV, "crashed"),
    ],
)
def test_death_in_mid_answer_is_told(open_server, smollm2, number, words):
    engine = open_server(smollm2)
    stream = engine.generate([1, 2, 3], SamplingConfig(seed=1), max_tokens=400)
    next(stream)
    os.kill(engine.child_pid, number)
    with pytest.raises(EngineError, match=words) as caught:
        list(stream)
    assert "transcript is kept" in str(caught.value)
    with pytest.raises(EngineError):
        engine.tokenize("x", parse_special=False)


def test_unknown_signals_and_exits_are_told_too():
    assert "SIGHUP" in str(explain_death(-signal.SIGHUP, ""))
    assert "signal 63" in str(explain_death(-63, ""))
    assert "exit code 1" in str(explain_death(1, "bad file"))


def test_the_child_wants_the_key_and_listens_on_loopback_only(open_server, smollm2):
    engine = open_server(smollm2)
    port = engine._process.port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("POST", "/completion", b'{"prompt": "x"}')
    assert connection.getresponse().status == http.client.UNAUTHORIZED
    connection.close()
    arguments = Path(f"/proc/{engine.child_pid}/cmdline").read_bytes()
    assert engine._process.key.encode() not in arguments
    listening = Path("/proc/net/tcp").read_text("ascii")
    rows = [row.split()[1] for row in listening.splitlines()[1:] if row.split()[3] == "0A"]
    assert f"0100007F:{port:04X}" in rows
    assert f"00000000:{port:04X}" not in rows


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(") ", 1)[1][0]
    except OSError:
        return True
    return state == "Z"


def test_close_ends_the_child(open_server, smollm2):
    engine = open_server(smollm2)
    pid, folder = engine.child_pid, engine._states
    assert folder.stat().st_mode & 0o077 == 0
    engine.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()
    engine.close()


def test_the_child_dies_with_a_killed_parent(native_tool, smollm2):
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from pedsup.engine.api import EngineConfig\n"
        "from pedsup.engine.llama_server.engine import ServerEngine\n"
        "e = ServerEngine(EngineConfig(Path(sys.argv[1]), n_ctx=256, n_threads=1),"
        " program=Path(sys.argv[2]))\n"
        "print(e.child_pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, smollm2, native_tool("llama-server")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(pid)


# ---- choices --------------------------------------------------------------------------------


@pytest.mark.slow
def test_auto_takes_the_server_when_the_bindings_are_missing(monkeypatch, smollm2, native_tool):
    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", str(native_tool("llama-server")))
    config = EngineConfig(smollm2, n_ctx=256, n_threads=1)
    engine = open_engine(config)
    assert engine.name.startswith("llama-cpp-python")
    engine.close()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    engine = open_engine(config)
    assert engine.name.startswith("llama-server")
    engine.close()


def test_no_engine_at_all(monkeypatch, smollm2):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("PEDSUP_LLAMA_SERVER", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_program() is None
    with pytest.raises(MissingDependencyError, match="pkg install llama-cpp"):
        open_engine(EngineConfig(smollm2))


GIB = 1 << 30


@pytest.mark.parametrize(
    ("machine", "available", "enabled"),
    [
        ("x86_64", 64 * GIB, False),
        ("aarch64", 8 * GIB, True),
        ("aarch64", 4 * GIB, False),
        ("aarch64", None, False),
    ],
)
def test_extra_buffers(machine, available, enabled):
    policy = extra_buffers_policy(machine, weight_bytes=3 * GIB, available_bytes=available)
    assert policy.enabled is enabled
    assert policy.reason


def test_recommended_sampling(smollm2, gemma4_gguf, llama_cpp_source):
    assert recommended_sampling(read_header(smollm2)).temperature == 0.2
    gemma = recommended_sampling(read_header(gemma4_gguf))
    assert (gemma.temperature, gemma.top_p, gemma.top_k) == (1.0, 0.95, 64)


def test_the_files_own_recommendation_goes_first(smollm2):
    header = read_header(smollm2)
    header.metadata.update(
        {
            "general.sampling.temp": 0.7,
            "general.sampling.top_k": 20,
            "general.sampling.top_p": "forged",
        }
    )
    found = recommended_sampling(header)
    assert (found.temperature, found.top_k, found.top_p) == (0.7, 20, 0.9)


def test_importing_the_engine_does_not_import_numpy():
    code = (
        "import sys\nfrom pedsup.engine.llama_cpp import bindings\nbindings.load()\n"
        "assert 'numpy' not in sys.modules and 'diskcache' not in sys.modules\n"
        "import llama_cpp\nassert llama_cpp.Llama and 'numpy' in sys.modules\n"
        "assert llama_cpp.llama_cpp is bindings.load()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
