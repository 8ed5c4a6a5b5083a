"""`--adapter`: the door before llama.cpp, whose files these are, and that the pair is one thing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from pedsup_testing import forged_gguf as fg
from pedsup_testing import programs
from pedsup_testing.home import environment
from pedsup_testing.signed_models import with_manifest

from pedsup.cli.app import _with_model
from pedsup.cli.request import RunRequest
from pedsup.cli.run_session import first_line
from pedsup.engine.api import EngineConfig, SamplingConfig
from pedsup.engine.select import open_engine
from pedsup.errors import BadFileError, MismatchError, PedsupError, UnsupportedError, UntrustedError
from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.gguf_file.finite import require_finite
from pedsup.gguf_file.lora import (
    require_applicable,
    require_fits,
    validate_adapter,
)
from pedsup.gguf_file.validate import validate_any_gguf, validate_model
from pedsup.memory.estimate import estimate
from pedsup.run.plan import plan_launch
from pedsup.run.preview import check_document, check_text
from pedsup.session.files import new_session, resume_session
from pedsup.session.prefix_cache import StateKey
from pedsup.settings.load import load_settings
from pedsup.settings.schema import Settings
from pedsup.trust.assess import Policy, verify_weights
from pedsup.trust.identity import identify
from pedsup.trust.manifest import core_digest, manifest_document, manifest_path, read_manifest
from pedsup.trust.pair import assess_pair

RANK = 4


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "base.gguf"
    made = fg.tiny_llama().with_key("tokenizer.chat_template", fg.STRING, "{{ messages }}")
    path.write_bytes(made.encode())
    return path


def write(
    path: Path, model: Path, *, seed: int = 0, arch: str = "llama", alpha: float = 8.0,
    kind: str = "lora", change: Callable[[dict[str, np.ndarray]], None] = lambda _: None,
) -> Path:  # fmt: skip
    """An adapter of every matrix of the first layer, by gguf-py."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for tensor in read_header(model).tensors.values():
        if tensor.name.startswith("blk.0.") and len(tensor.shape) == 2:
            n_in, n_out = tensor.shape
            tensors[f"{tensor.name}.lora_a"] = rng.standard_normal((RANK, n_in))
            tensors[f"{tensor.name}.lora_b"] = rng.standard_normal((n_out, RANK))
    change(tensors)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, values in tensors.items():
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def bound(adapter: Path, model: Path, target: Path) -> Path:
    """The adapter with a manifest that names the model, as an export leaves it."""
    with_manifest(adapter, target)
    return rebind(target, model)


def rebind(adapter: Path, model: Path, **changes: str) -> Path:
    """Its manifest with another `fits`; header and manifest go together again."""
    manifest = read_manifest(manifest_path(adapter))
    fit = {
        "name": model.name,
        "header": identify(validate_model(model)).digest,
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        **changes,
    }
    core = {**manifest.core, "fits": [fit]}
    data = adapter.read_bytes().replace(manifest.core_sha256.encode(), core_digest(core).encode())
    adapter.write_bytes(data)
    facts = {"name": adapter.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    document = manifest_document(core, facts, manifest.created)
    manifest_path(adapter).write_text(json.dumps(document))
    return adapter


# ---- the door -----------------------------------------------------------------------------------


def test_a_good_adapter_passes(model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", model)
    header = validate_adapter(path)
    require_fits(header, validate_model(model))
    assert validate_any_gguf(path).path == path
    assert header.tensor_bytes == sum(t.n_bytes for t in header.tensors.values())


Tensors = dict[str, np.ndarray]


def _without_a(t: Tensors) -> None:
    del t["blk.0.attn_q.weight.lora_a"]


def _with_norm(t: Tensors) -> None:
    t["blk.0.attn_norm.weight"] = np.ones(64)


def _three_axes(t: Tensors) -> None:
    t["blk.0.attn_q.weight.lora_a"] = t["blk.0.attn_q.weight.lora_a"][None]


def _ranks(t: Tensors) -> None:
    t["blk.0.attn_q.weight.lora_a"] = t["blk.0.attn_q.weight.lora_a"][:2]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"change": _without_a}, BadFileError, "half of the change"),
        ({"change": _with_norm}, UnsupportedError, "does not apply"),
        ({"change": _three_axes}, BadFileError, "matrix"),
        ({"change": _ranks}, BadFileError, "the ranks 2 and 4"),
        ({"change": lambda t: t.clear()}, BadFileError, "no tensors"),
        ({"alpha": 0.0}, BadFileError, "adapter.lora.alpha"),
        ({"alpha": float("nan")}, BadFileError, "adapter.lora.alpha"),
        ({"kind": "cvec"}, UnsupportedError, "cvec"),
        ({"arch": "mamba"}, UnsupportedError, "mamba"),
    ],
)
def test_what_llama_cpp_would_fail_at_is_refused(
    options: dict[str, object], error: type[PedsupError], said: str, model: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.gguf", model, **options)  # type: ignore[arg-type]
    with pytest.raises(error, match=said):
        validate_adapter(path)


def _weights(path: Path, kind: int, data: bytes, n: int) -> GGUFHeader:
    """A file with one tensor of these bytes."""
    keys = (fg.Key("general.architecture", fg.STRING, "llama"),)
    path.write_bytes(fg.Forged(keys, (fg.Row("w", (n,), kind),), data=data).encode())
    return read_header(path)


def _refuses(header: GGUFHeader) -> bool:
    try:
        require_finite(header)
    except BadFileError as error:
        assert "not all numbers" in str(error)
        return True
    return False


def test_weights_that_are_no_numbers_are_found(tmp_path: Path) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    finite = finite[: len(finite) // 32 * 32]
    path = tmp_path / "w"
    assert not _refuses(_weights(path, fg.F16_TENSOR, finite.tobytes(), len(finite)))
    for value in every[~np.isfinite(every)][::31]:
        data = finite.copy()
        data[-1] = value
        assert _refuses(_weights(path, fg.F16_TENSOR, data.tobytes(), len(data)))
    large = np.array([1e38, -1e38, 0.0, -0.0, 1e-45], np.float32)
    assert not _refuses(_weights(path, fg.F32_TENSOR, np.resize(large, 64).tobytes(), 64))
    for value in (np.nan, np.inf, -np.inf):
        data = np.resize(large, 64)
        data[17] = value
        assert _refuses(_weights(path, fg.F32_TENSOR, data.tobytes(), 64))
        brain = (data.view(np.uint32) >> 16).astype(np.uint16)
        assert _refuses(_weights(path, fg.BF16_TENSOR, brain.tobytes(), 64))
        block = np.float16(value).tobytes() + bytes(32)
        good = np.float16(2).tobytes() + b"\xff" * 32
        assert _refuses(_weights(path, fg.Q8_0_TENSOR, good + block, 64))
        assert not _refuses(_weights(path, fg.Q8_0_TENSOR, good * 2, 64))


def test_an_adapter_with_nan_is_refused_before_llama_cpp_opens_it(
    model: Path, tmp_path: Path
) -> None:
    def spoil(t: Tensors) -> None:
        t["blk.0.attn_q.weight.lora_b"][3, 1] = np.nan

    path = write(tmp_path / "a.gguf", model, change=spoil)
    with pytest.raises(BadFileError, match=r"attn_q\.weight\.lora_b' are not all numbers"):
        require_applicable(path, validate_model(model))
    require_applicable(write(tmp_path / "b.gguf", model), validate_model(model))


def test_another_model_s_adapter_is_refused(model: Path, tmp_path: Path) -> None:
    def renamed(t: Tensors) -> None:
        for name in list(t):
            t[name.replace("blk.0", "blk.77")] = t.pop(name)

    def wider(t: Tensors) -> None:
        t["blk.0.attn_q.weight.lora_b"] = np.ones((2 * len(t["blk.0.attn_q.weight.lora_b"]), RANK))

    base = validate_model(model)
    for change, said in ((renamed, "does not have"), (wider, "shape")):
        path = write(tmp_path / f"{said}.gguf", model, change=change)
        with pytest.raises(MismatchError, match=said):
            require_fits(validate_adapter(path), base)


def test_a_model_is_no_adapter_and_the_reverse(model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", model)
    with pytest.raises(UnsupportedError, match="--adapter"):
        validate_model(path)
    with pytest.raises(UnsupportedError, match="not an adapter"):
        validate_adapter(model)


# ---- whose it is --------------------------------------------------------------------------------


def test_an_adapter_without_a_manifest_is_warned_of(model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", model)
    checked = assess_pair(validate_model(model), path, Policy())
    assert checked.trust.companions["adapter"].unbound
    assert any("was made for this model" in line for line in checked.trust.lines())
    assert checked.trust.describe()["adapter"]["signed"] == "unsigned"
    with pytest.raises(UntrustedError, match="not signed"):
        assess_pair(validate_model(model), path, Policy(require_signature=True))


def test_a_bound_adapter_says_what_its_base_must_be(model: Path, tmp_path: Path) -> None:
    path = bound(write(tmp_path / "x.gguf", model), model, tmp_path / "a.gguf")
    checked = assess_pair(validate_model(model), path, Policy())
    assert not checked.trust.companions["adapter"].unbound
    # The base has no manifest of its own: its bytes are compared with the adapter's all the same.
    assert checked.trust.expected_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert verify_weights(checked.trust).weights == "read"


def test_a_base_with_other_weights_is_refused(model: Path, tmp_path: Path) -> None:
    path = bound(write(tmp_path / "x.gguf", model), model, tmp_path / "a.gguf")
    data = bytearray(model.read_bytes())
    data[-100] ^= 1
    model.write_bytes(data)
    checked = assess_pair(validate_model(model), path, Policy())  # the header is the same
    with pytest.raises(UntrustedError, match="not the one"):
        verify_weights(checked.trust)


def test_another_base_is_refused_at_once(model: Path, tmp_path: Path) -> None:
    path = bound(write(tmp_path / "x.gguf", model), model, tmp_path / "a.gguf")
    other = tmp_path / "other.gguf"
    made = fg.tiny_llama().with_key("general.name", fg.STRING, "Another")
    other.write_bytes(made.encode())
    with pytest.raises(MismatchError, match=r"made for another model: base\.gguf"):
        assess_pair(validate_model(other), path, Policy())


def test_changed_adapters_and_forged_manifests_are_refused(model: Path, tmp_path: Path) -> None:
    path = bound(write(tmp_path / "x.gguf", model), model, tmp_path / "a.gguf")
    whole = path.read_bytes()
    data = bytearray(whole)
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UntrustedError):
        verify_weights(assess_pair(validate_model(model), path, Policy()).trust)
    manifest = manifest_path(path).read_bytes()
    for changes in ({"sha256": "no digest"}, {"header": "x"}):
        path.write_bytes(whole)
        manifest_path(path).write_bytes(manifest)
        rebind(path, model, **changes)
        with pytest.raises(UntrustedError, match="fits"):
            assess_pair(validate_model(model), path, Policy())


# ---- the pair is one thing ----------------------------------------------------------------------


def digests(model: Path, *adapters: Path | None) -> list[str]:
    header = validate_model(model)
    return [assess_pair(header, a, Policy()).identity.digest for a in adapters]


def test_every_pair_has_an_identity_of_its_own(model: Path, tmp_path: Path) -> None:
    """Two trainings have one header: the weights tell them apart. A copy is the same."""
    first = write(tmp_path / "a.gguf", model, seed=1)
    second = write(tmp_path / "b.gguf", model, seed=2)
    copy = tmp_path / "c.gguf"
    copy.write_bytes(first.read_bytes())
    alone, one, two, again = digests(model, None, first, second, copy)
    assert len({alone, one, two}) == 3
    assert one == again
    header = read_header(model)
    keys = {StateKey.of(header, digest) for digest in (alone, one, two)}
    assert len(keys) == 3


def test_the_plan_knows_the_pair(model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", model)
    plain = plan_launch(model, Settings(), available=None)
    plan = plan_launch(model, Settings(adapter=str(path)), available=None)
    assert plan.config.adapter == path
    assert plan.config.use_mmap
    assert plan.fit.need.adapter == read_header(path).tensor_bytes
    assert plan.fit.need.anonymous == plain.fit.need.anonymous + plan.fit.need.adapter
    assert plan.fit.need.file_backed == plain.fit.need.file_backed
    document = check_document(plan)
    assert document["model"]["adapter"]["file"] == "a.gguf"
    assert document["need"]["adapter"] == plan.fit.need.adapter
    text = check_text(plan)
    assert "adapter" in text
    assert "a.gguf" in text


def test_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('adapter = "x.gguf"\n')
    assert load_settings(file, {}).adapter == "x.gguf"
    assert load_settings(file, {"adapter": "y.gguf"}).adapter == "y.gguf"


# ---- llama.cpp ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_engines_apply_it(
    smollm2: Path, tmp_path: Path, native_tool: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Another text than without it, and the same one from both engines; a comma in its name."""
    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", str(native_tool("llama-server")))

    def small(t: Tensors) -> None:
        for name in t:
            t[name] = t[name] * 0.3

    folder = tmp_path / "a, b"
    folder.mkdir()
    adapter = write(folder / "a.gguf", smollm2, change=small)
    texts = {}
    for engine in ("inprocess", "server"):
        for lora in (None, adapter):
            config = EngineConfig(smollm2, n_ctx=256, n_threads=1, n_threads_batch=1, adapter=lora)
            opened = open_engine(config, engine)  # type: ignore[arg-type]
            try:
                prompt = opened.tokenize("The child has a fever and", parse_special=False)
                tokens = opened.generate(prompt, SamplingConfig(temperature=0), max_tokens=12)
                texts[engine, lora is None] = [token.id for token in tokens]
            finally:
                opened.close()
    assert texts["inprocess", True] != texts["inprocess", False]
    assert texts["inprocess", False] == texts["server", False]
    assert texts["inprocess", True] == texts["server", True]


def test_the_engine_refuses_another_model_s(smollm2: Path, model: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "a.gguf", model)
    with pytest.raises(MismatchError):
        open_engine(EngineConfig(smollm2, adapter=adapter), "inprocess")


def test_it_is_estimated(smollm2: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "a.gguf", smollm2)
    config = EngineConfig(smollm2)
    plain = estimate(validate_model(smollm2), config)
    found = estimate(validate_model(smollm2), replace(config, adapter=adapter))
    assert found.adapter == sum(t.n_bytes for t in read_header(adapter).tensors.values())
    assert found.total == plain.total + found.adapter


def test_a_session_belongs_to_the_pair(model: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "a.gguf", model)
    sessions = tmp_path / "sessions"
    settings = Settings(history_dir=str(sessions), adapter=str(adapter))
    plan = plan_launch(model, settings, available=None)
    sessions.mkdir()
    session = new_session(sessions, first_line(plan))
    path = session.transcript.path if session.transcript else None
    session.close()
    assert path is not None
    # --resume alone finds both files again.
    request = RunRequest(
        model=None, prompt=None, as_json=False, check=False, resume="last", grammar=None,
        json_schema=None, settings_file=None, accept_intended_use=True, serve=False, port=None,
        overrides={}, images=(),
    )  # fmt: skip
    found, resumed = _with_model(request, Settings(history_dir=str(sessions)))
    assert found.model == model.resolve()
    assert resumed.adapter == str(adapter.resolve())
    resume_session(path, model_digest=plan.identity.digest).close()
    alone = plan_launch(model, Settings(), available=None).identity.digest
    with pytest.raises(MismatchError):
        resume_session(path, model_digest=alone)


def test_the_program_answers_with_it(smollm2: Path, tmp_path: Path) -> None:
    def small(t: Tensors) -> None:
        for name in t:
            t[name] = t[name] * 0.1

    adapter = write(tmp_path / "a.gguf", smollm2, change=small)
    done = programs.run(
        "pedsup", smollm2, "--adapter", adapter, "--ctx", "256", "--threads", "1", "--temp", "0",
        "--max-tokens", "4", "-p", "Hello", "--json",
        env={**os.environ, "PEDSUP_ACCEPT_INTENDED_USE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["model"]["adapter"]["file"] == "a.gguf"
    assert "was made for this model" in done.stderr
