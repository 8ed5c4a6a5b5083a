"""Adapters from anywhere: damaged, forged or hostile, an adapter folder is one typed error."""

from __future__ import annotations

import json
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pedsup.errors import BadFileError, PedsupError, UnsupportedError
from pedsup_export.adapter.config import parse_config, pattern_key
from pedsup_export.adapter.folder import CONFIG, WEIGHTS, Adapter
from pedsup_export.source.safetensors_file import SafetensorsFile
from pedsup_export.source.safetensors_header import MAX_NAME, MAX_TENSORS

quick = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)
OPTIONS = (
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias",
    "modules_to_save", "trainable_token_indices", "base_model_name_or_path", "revision",
    "peft_type", "init_lora_weights", "layer_replication", "target_modules", "lora_bias",
)  # fmt: skip


@pytest.fixture
def adapter(adapters: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapters["llama"], tmp_path / "adapter"))


def opens(folder: Path) -> bool:
    """Whether an adapter opens; only a `PedsupError` may say no."""
    try:
        Adapter.open(folder)
    except PedsupError as error:
        assert error.remedy
        return False
    return True


@quick
@given(changes=st.dictionaries(st.sampled_from(OPTIONS), values, min_size=1, max_size=3))
@example(changes={"rank_pattern": {"(": 3}})
@example(changes={"rank_pattern": {"(?P<a": 3}})
@example(changes={"trainable_token_indices": {"x": [[1]]}})
@example(changes={"modules_to_save": [1]})
@example(changes={"r": 1 << 400})
def test_any_configuration_is_refused_or_opens(changes: dict[str, Any], adapter: Path) -> None:
    path = adapter / CONFIG
    whole = path.read_bytes()
    path.write_text(json.dumps({**json.loads(whole), **changes}), encoding="utf-8")
    opens(adapter)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|aa)+x", "(.*a){20}", "(a*)*b", ".*.*.*.*x", "a" * 3000, "(?:a|b|ab)*c"],
)
def test_a_pattern_that_could_take_for_ever_is_refused(pattern: str, adapter: Path) -> None:
    config = json.loads((adapter / CONFIG).read_text())
    for option in ("rank_pattern", "alpha_pattern"):
        with pytest.raises(UnsupportedError, match="could take for ever"):
            parse_config({**config, option: {pattern: 8}}, adapter / CONFIG)


def test_the_worst_pattern_that_is_accepted_ends(adapter: Path) -> None:
    config = json.loads((adapter / CONFIG).read_text())
    pattern = ".*.*.*x"
    parsed = parse_config({**config, "rank_pattern": {pattern: 8}}, adapter / CONFIG)
    started = time.monotonic()
    name = "a" * 100
    assert pattern_key(parsed.rank_pattern, name) == name
    assert time.monotonic() - started < 30  # a sanity limit: an exponential one would take years


@pytest.mark.parametrize("pattern", [r"model\.layers\.\d+\..*q_proj", "q_proj", "layers.(0|1).mlp"])
def test_patterns_as_people_write_them_are_accepted(pattern: str, adapter: Path) -> None:
    config = json.loads((adapter / CONFIG).read_text())
    assert parse_config({**config, "rank_pattern": {pattern: 8}}, adapter / CONFIG)


def header_end(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int(struct.unpack("<Q", file.read(8))[0])


def test_flipped_header_bytes_of_adapter_tensors(adapter: Path) -> None:
    path = adapter / WEIGHTS
    whole = path.read_bytes()
    opened = 0
    for at in range(0, header_end(path), 29):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :])
        opened += opens(adapter)
    assert opened < 30


@pytest.mark.slow
def test_every_flipped_header_byte_of_adapter_tensors(adapter: Path) -> None:
    path = adapter / WEIGHTS
    whole = path.read_bytes()
    for at in range(header_end(path)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        opens(adapter)


def test_every_truncation_of_adapter_tensors_on_a_4k_grid(adapter: Path) -> None:
    path = adapter / WEIGHTS
    whole = path.read_bytes()
    cuts = range(0, len(whole), 4096)
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(BadFileError):
            SafetensorsFile(path)
    assert len(cuts) > 10
    assert not opens(adapter)


@quick
@given(data=st.binary(max_size=200) | values.map(lambda v: json.dumps(v).encode()))
@example(data=b"[" * 100_000)
@example(data=b'{"peft_type": "\\ud800"}')
def test_any_bytes_as_configuration(data: bytes, adapter: Path) -> None:
    path = adapter / CONFIG
    whole = path.read_bytes()
    path.write_bytes(data)
    assert not opens(adapter)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ((b'"a":[],' * (3 * MAX_TENSORS)), "more parts in the header"),
        (b'"' + b"n" * (MAX_NAME + 1) + b'":{},', "a name of"),
        (b'"a\\u0000b":{},', "a name of"),
    ],
)
def test_headers_made_to_take_memory_are_refused(text: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = b"{" + text.rstrip(b",") + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BadFileError, match=words):
        SafetensorsFile(path)
