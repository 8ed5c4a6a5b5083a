"""The door before llama.cpp: attack shapes by name, damage of every kind, and bounds."""

from __future__ import annotations

import ast
import io
import os
import struct
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pedsup_testing import forged_gguf as fg
from pedsup_testing import load_oracle, mutate_gguf
from pedsup_testing.forged_gguf import Array, Forged, Key, Row
from pedsup_testing.gguf_shapes import LLAMA, MODELS, SHAPES, keyed
from pedsup_testing.slowly import slow_but

import pedsup
from pedsup.errors import BadFileError, MissingFileError, PedsupError, UnsupportedError
from pedsup.gguf_file import read_header
from pedsup.gguf_file.architecture import check_architecture
from pedsup.gguf_file.cursor import Cursor
from pedsup.gguf_file.header import parse_header
from pedsup.gguf_file.tensor_table import check_layout
from pedsup.gguf_file.tokenizer import check_tokenizer
from pedsup.gguf_file.validate import validate_model


def check(data: bytes) -> None:
    """`validate_model` of bytes in memory; the tiny models' arrays are all kept."""
    header = parse_header(io.BytesIO(data), len(data), Path("in-memory.gguf"))
    check_architecture(header)
    check_tokenizer(header)


def survives(data: bytes) -> bool:
    """Whether bytes are accepted; anything but a `PedsupError` with all its parts fails."""
    try:
        check(data)
    except PedsupError as error:
        assert error.found
        assert error.where
        assert error.wanted or error.remedy
        return False
    return True


def test_whole_models_pass_and_run(tmp_path: Path, smollm2: Path) -> None:
    paths = []
    for name, forged in MODELS.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(forged.encode())
        header = validate_model(path)
        assert header.data_offset == -(-len(forged.header()) // 32) * 32
        assert len(header.tensors) == len(forged.rows)
        paths.append(path)
    assert validate_model(smollm2).get("%s.block_count") == 30
    assert load_oracle.outcomes(paths) == ["runs"] * 3


# ---- attack shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_attack_shape_is_refused_by_name(name: str) -> None:
    forged, words = SHAPES[name]
    with pytest.raises(BadFileError) as caught:
        check(forged.encode())
    assert words in str(caught.value), str(caught.value)
    assert "in-memory.gguf" in str(caught.value.where)
    assert caught.value.remedy


@pytest.mark.parametrize("model", ["no_vocab", "bert", "t5", "rwkv", "test", "none"])
def test_a_tokenizer_of_another_kind_is_unsupported(model: str) -> None:
    with pytest.raises(UnsupportedError, match="a tokenizer of kind"):
        check(keyed("tokenizer.ggml.model", fg.STRING, model).encode())


def test_another_architecture_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="architecture 'bert'"):
        check(keyed("general.architecture", fg.STRING, "bert").encode())


# ---- damage -------------------------------------------------------------------------------------


def flips(forged: Forged, step: int, masks: tuple[int, ...]) -> tuple[int, int]:
    """Flip bits of every `step`-th header byte; how many files were tried and accepted."""
    data, n_header = forged.encode(), len(forged.header())
    tried = accepted = 0
    for at in range(0, n_header, step):
        for mask in masks:
            damaged = bytearray(data)
            damaged[at] ^= mask
            accepted += survives(bytes(damaged))
            tried += 1
    return tried, accepted


@pytest.mark.parametrize("name", slow_but(["llama"], ["llama", "gemma4"]))
def test_a_flipped_header_byte_is_refused_or_harmless(name: str) -> None:
    tried, accepted = flips(MODELS[name], 13, (0xFF,))
    assert 0 < accepted < tried


@pytest.mark.slow
@pytest.mark.parametrize(("name", "masks"), [("llama", (0xFF, 0x01)), ("gemma4", (0xFF,))])
def test_every_flipped_header_byte_is_refused_or_harmless(
    name: str, masks: tuple[int, ...]
) -> None:
    tried, accepted = flips(MODELS[name], 1, masks)
    assert tried == len(masks) * len(MODELS[name].header())
    assert 0 < accepted < tried


def test_every_short_truncation_is_refused() -> None:
    data, n_header = LLAMA.encode(), len(LLAMA.header())
    for cut in [*range(0, n_header, 31), *range(n_header, len(data), 4096)]:
        with pytest.raises(BadFileError):
            check(data[:cut])


@pytest.mark.slow
def test_every_truncation_of_a_real_file_on_a_4k_grid_is_refused(smollm2: Path) -> None:
    """In the header by reading all of it; behind it by the layout check, which sees the size."""
    whole = validate_model(smollm2)
    data = smollm2.read_bytes()[: whole.data_offset]
    for cut in range(0, whole.data_offset, 4096):
        with pytest.raises(BadFileError):
            parse_header(io.BytesIO(data[:cut]), cut, smollm2)
    cuts = range(-(-whole.data_offset // 4096) * 4096, whole.file_size, 4096)
    assert len(cuts) > 20_000
    for cut in cuts:
        cursor = Cursor(io.BytesIO(data), cut, smollm2)
        cursor.at = whole.data_offset
        with pytest.raises(BadFileError, match="the file ends inside or before tensor"):
            check_layout(cursor, whole.tensors, whole.alignment)
    for cut in cuts[:: len(cuts) // 40]:
        with pytest.raises(BadFileError, match="the file ends inside or before tensor"):
            parse_header(io.BytesIO(data), cut, smollm2)


def test_the_padding_after_the_last_tensor_may_be_missing() -> None:
    rows = (*LLAMA.rows[:-1], Row("rope_freqs.weight", (4,)), LLAMA.rows[-1])
    last = Row("output_norm.bias", (5,))
    forged = replace(LLAMA, rows=(*rows, last))
    data = forged.encode()
    assert survives(data)
    assert survives(data[:-12])
    assert not survives(data[:-13])


@settings(max_examples=200, deadline=None)
@given(random=st.randoms(use_true_random=False), name=st.sampled_from(sorted(MODELS)))
def test_a_mutated_file_is_refused_with_a_reason_or_accepted(random: Random, name: str) -> None:
    survives(mutate_gguf.mutate(MODELS[name], random))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_after_a_prefix(data: bytes) -> None:
    survives(b"GGUF" + data)
    survives(b"GGUF\3\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0" + data)


@pytest.mark.slow
def test_llama_cpp_does_not_crash_on_what_is_accepted(tmp_path: Path) -> None:
    """The oracle: every accepted mutation is loaded, and run if it loads, in its own process."""
    accepted = []
    for seed in range(1500):
        random = Random(seed)
        data = mutate_gguf.mutate(random.choice(list(MODELS.values())), random)
        if survives(data):
            path = tmp_path / f"{seed}.gguf"
            path.write_bytes(data)
            accepted.append(path)
    outcomes = load_oracle.outcomes(accepted)
    assert len(accepted) > 200
    crashed = [
        (path.name, how)
        for path, how in zip(accepted, outcomes, strict=True)
        if how not in ("runs", "refused")
    ]
    assert crashed == []


@pytest.mark.slow
def test_the_oracle_sees_crashes(tmp_path: Path) -> None:
    """Without the validator llama.cpp dies of these files: else the test above shows nothing."""
    shapes = ("no layers", "two equal tokens", "epsilon of -1", "matrix of Q8_1")
    paths = []
    for name in shapes:
        path = tmp_path / f"{len(paths)}.gguf"
        path.write_bytes(SHAPES[name][0].encode())
        paths.append(path)
    assert all(how.startswith("signal") for how in load_oracle.outcomes(paths))


# ---- the file itself ----------------------------------------------------------------------------


def test_a_pipe_a_folder_and_a_device_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(BadFileError, match=r"not a regular file|cannot be opened"):
            validate_model(path)
    for name in ("none.gguf", "a\0b", "x/y/z"):
        with pytest.raises(
            (BadFileError, MissingFileError), match=r"no such file|cannot be opened"
        ):
            validate_model(tmp_path / name)


def test_a_file_is_checked_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(LLAMA.encode())
    first = validate_model(path)
    assert validate_model(path) is first
    path.write_bytes(SHAPES["no layers"][0].encode())
    with pytest.raises(BadFileError):
        validate_model(path)


def test_a_file_that_is_cut_after_the_check(tmp_path: Path) -> None:
    """Large arrays are read again when asked for; a file cut meanwhile is an error, no SIGBUS."""
    tokens: list[object] = [f"token {i}" for i in range(9000)]
    path = tmp_path / "m.gguf"
    path.write_bytes(Forged((Key("x", fg.ARRAY, Array(fg.STRING, tokens)),)).encode())
    value = read_header(path).metadata["x"]
    assert value.values() == tokens
    data = bytearray(path.read_bytes())
    data[value.offset : value.offset + 8] = struct.pack("<Q", 1 << 50)
    path.write_bytes(data)
    with pytest.raises(BadFileError, match="changed while it was read"):
        list(value.raw_strings())
    path.write_bytes(data[:5000])
    with pytest.raises(BadFileError, match="changed while it was read"):
        value.values()


# ---- the door stands everywhere -----------------------------------------------------------------

NATIVE = ("llama_model_load_from_file", "llama_model_quantize", "-m", "--model")
EXEMPT = {
    # asks llama-server what it was built with; the model that it names is not there
    "engine/build_probe.py",
}
CALLED_AFTER = {
    "engine/llama_server/process.py": ["engine/llama_server/engine.py"],
    # loading.py, between native.py and inprocess.py, takes a checked header
    "engine/llama_cpp/native.py": [
        "engine/llama_cpp/inprocess.py",
        "engine/llama_cpp/evaluation.py",
    ],
}
"""Modules that load what their callers have validated."""


def test_every_module_that_gives_a_file_to_llama_cpp_validates_it() -> None:
    """A module that names a loading function or a model option must call the validator."""
    root = Path(pedsup.__file__).parents[2]
    found = []
    for part in ("runtime", "export", "train", "bench"):
        for path in sorted((root / part).rglob("*.py")):
            source, name = path.read_text("utf-8"), "/".join(path.relative_to(root).parts[2:])
            if not any(name in source for name in NATIVE) or name in EXEMPT:
                continue
            if _loads(ast.parse(source)):
                found.append(name)
                validated = "validate_model(" in source or name in CALLED_AFTER
                assert validated, f"{path} gives a file to llama.cpp without validate_model"
    assert {*CALLED_AFTER, "speed/llama_bench.py"} <= set(found)
    for callers in CALLED_AFTER.values():
        for caller in callers:
            assert "validate_" in (root / "runtime/pedsup" / caller).read_text("utf-8"), caller


def _loads(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in NATIVE[:2]:
            return True
        if isinstance(node, ast.List | ast.Dict):
            parts = node.elts if isinstance(node, ast.List) else node.keys
            texts = [p.value for p in parts if isinstance(p, ast.Constant)]
            # `python -m module` is no model.
            if "--model" in texts or ("-m" in texts and "-t" in texts):
                return True
    return False
