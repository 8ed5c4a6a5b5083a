"""What the runtime reads from disk beside the model: damaged or forged, it is one typed error."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pedsup.engine.llama_server.state_file import MAGIC, unpack_state
from pedsup.errors import BadFileError, PedsupError, UsageError
from pedsup.files.json_file import NO_FILE, parse_json
from pedsup.files.source import read_json_object
from pedsup.gguf_file import read_header
from pedsup.pictures.read import read_picture
from pedsup.session import prefix_cache
from pedsup.session.consent import FILE, is_recorded
from pedsup.session.copy import as_text
from pedsup.session.files import resume_session
from pedsup.session.history import replay
from pedsup.session.transcript import read_records
from pedsup.settings.load import load_settings
from pedsup.terminal.oneshot import read_question
from pedsup.trust.identity import identify
from pedsup.trust.manifest import (
    DIGEST_KEY,
    core_digest,
    manifest_document,
    manifest_path,
    read_manifest,
)

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DEEP = b"[" * 200_000
SURROGATE = b'{"type": "user", "text": "\\ud800"}'

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=10,
)


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


# ---- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [DEEP, b'{"a": "\\ud800"}', b'{"\\udfff": 1}', b"\xff{}", b"", b"{", b"1" * 5000, b'{"a":1}x'],
)
def test_what_is_no_json_is_one_kind_of_error(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        parse_json(data)
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(BadFileError, match="the note is not JSON"):
        read_json_object(tmp_path / "x.json", "the note", 1 << 20)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_json(b'"\\ud83e\\udec1"') == "🫁"


def test_a_byte_order_mark_is_passed_over_and_utf_16_is_named() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}\r\n') == parse_json('\ufeff{"a": 1}') == {"a": 1}
    for encoding in ("utf-16-le", "utf-16-be"):
        with pytest.raises(ValueError, match="UTF-16: save it as UTF-8"):
            parse_json('\ufeff{"a": 1}'.encode(encoding))


def test_a_pipe_a_folder_and_a_large_file_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * 101)
    for name, words in (
        ("pipe", "not a regular file"),
        ("large", "larger than 100"),
        ("no", "read"),
    ):
        with pytest.raises(BadFileError, match=words):
            read_json_object(tmp_path / name, "the note", 100)
    with pytest.raises(BadFileError):
        read_json_object(tmp_path, "the note", 100)


# ---- the manifest -------------------------------------------------------------------------------

TENSOR = {"type": "F32", "shape": [2, 2], "bytes": 16, "sha256": "0" * 64}
CORE: dict[str, Any] = {
    "base": {"name": "b"}, "adapter": {"name": "a", "shares": {"t": 0.9}},
    "recipe": {"quant": "Q4_K_M", "merge_dtype": "float32"}, "tensors": {"t": TENSOR},
}  # fmt: skip
FILE_FACTS = {"name": "m.gguf", "size": 1, "sha256": "f" * 64}


def model(tmp_path: Path, digest: str) -> Path:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string(DIGEST_KEY, digest)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


def replaced(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    return {**document, path[0]: replaced(document.get(path[0], {}), path[1:], value)}


paths = st.sampled_from(
    [
        [*head, *tail]
        for head, tails in {
            (): [["schema"], ["created"], ["file"], ["core_sha256"], ["core"], ["x"]],
            ("file",): [["size"], ["sha256"], ["name"]],
            ("core",): [["tensors"], ["base"], ["adapter"], ["recipe"], ["quality"]],
            ("core", "tensors"): [["t"], ["other"]],
            ("core", "tensors", "t"): [["sha256"], ["shape"], ["type"]],
            ("core", "adapter"): [["shares"], ["name"]],
        }.items()
        for tail in tails
    ]
)


@quick
@given(path=paths, value=values, seal=st.booleans())
def test_a_forged_manifest_is_refused_or_used_without_a_crash(
    path: list[str], value: Any, seal: bool, tmp_path: Path
) -> None:
    """`seal`: the forger writes the right digest of the forged core, and into the model too."""
    document = replaced(manifest_document(CORE, FILE_FACTS, "2026-01-01T00:00:00Z"), path, value)
    core = document["core"]
    if seal and isinstance(core, dict):
        document["core_sha256"] = core_digest(core)
    target = model(tmp_path, str(document["core_sha256"]))
    facts = document["file"]
    if isinstance(facts, dict) and facts.get("size") == 1:
        document["file"] = {**facts, "size": target.stat().st_size}
    manifest_path(target).write_bytes(dumped(document))
    identity = identify(read_header(target))
    assert all(isinstance(line, str) for line in identity.lines())
    json.dumps(identity.describe(), allow_nan=False)
    try:
        manifest = read_manifest(manifest_path(target))
    except BadFileError as error:
        assert error.remedy
    else:
        assert all(isinstance(t.sha256, str) for t in manifest.tensors.values())


@pytest.mark.parametrize("data", [DEEP, SURROGATE, b"[]", b"\0", b"{}", b'{"schema": [1]}'])
def test_a_damaged_manifest(data: bytes, tmp_path: Path) -> None:
    target = model(tmp_path, "x")
    manifest_path(target).write_bytes(data)
    assert "the manifest beside the model is damaged" in str(identify(read_header(target)).problem)


def test_truncations_and_flips_of_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf.manifest.json"
    whole = dumped(manifest_document(CORE, FILE_FACTS, "2026-01-01T00:00:00Z"))
    path.write_bytes(whole)
    assert read_manifest(path).core == CORE
    accepted = 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at])
        with pytest.raises(BadFileError):
            read_manifest(path)
        for mask in (0x01, 0x80):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
            try:
                # What a flip can leave whole is outside of the core: name, date, file digest.
                assert read_manifest(path).core == CORE
                accepted += 1
            except BadFileError:
                pass
    assert accepted < 100


# ---- transcripts --------------------------------------------------------------------------------

FIRST = b'{"type": "session", "schema": 1, "id": "x", "model": {"digest": "d"}}\n'
records = st.dictionaries(
    st.sampled_from(["type", "turn", "text", "answer", "reasoning", "stop_reason", "schema"])
    | st.text(max_size=4),
    st.sampled_from(["user", "assistant", "partial", "reset", "system", "recovered", "session"])
    | values,
    max_size=6,
)


@quick
@given(lines=st.lists(records.map(dumped) | st.binary(max_size=40), max_size=6))
@example(lines=[SURROGATE, b"{}"])
@example(lines=[DEEP[:70000], b"{}"])
def test_any_transcript_is_refused_or_resumed(lines: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(FIRST + b"\n".join(lines))
    before = path.read_bytes()
    try:
        session = replay(read_records(path))
        for message in session.messages():
            message["content"].encode("utf-8")
        as_text(session).encode("utf-8")
        resumed = resume_session(path)
        resumed.close()
    except PedsupError:
        assert path.read_bytes() == before, "a refused transcript is left as it is"


def test_half_a_surrogate_pair_does_not_reach_the_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(FIRST + SURROGATE + b"\n" + b'{"type": "reset"}\n')
    with pytest.raises(BadFileError, match="line 2 is not a record"):
        read_records(path)


def test_a_transcript_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.jsonl")
    for name in ("p.jsonl", "none.jsonl"):
        with pytest.raises(PedsupError):
            read_records(tmp_path / name)
        with pytest.raises(PedsupError):
            resume_session(tmp_path / name)


# ---- caches and settings ------------------------------------------------------------------------


@quick
@given(note=values.map(dumped) | st.binary(max_size=60), state=st.binary(max_size=60))
@example(note=DEEP, state=b"")
def test_any_saved_state_is_damaged_or_absent(note: bytes, state: bytes, tmp_path: Path) -> None:
    class NoEngine:
        name = "none"

        def load_state(self, path: Path) -> list[int]:
            raise AssertionError("a state that does not fit its note reached the engine")

    cache = prefix_cache.PrefixCache(tmp_path, None, None)  # type: ignore[arg-type]
    (tmp_path / "k.json").write_bytes(note)
    (tmp_path / "k.state").write_bytes(state)
    assert cache._load(NoEngine(), "k", [1, 2]) == "damaged"  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@quick
@given(data=st.binary(max_size=60), count=st.integers(0, (1 << 32) - 1), magic=st.booleans())
def test_any_state_file_is_refused_or_its_tokens(
    data: bytes, count: int, magic: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.state"
    path.write_bytes((MAGIC if magic else b"") + struct.pack("<I", count) + data)
    try:
        tokens = unpack_state(path, tmp_path / "out", 8)
    except BadFileError:
        return
    assert magic
    assert len(tokens) == count <= 8


@quick
@given(data=st.binary(max_size=80) | st.text(max_size=80).map(lambda t: t.encode("utf-8")))
@example(data=b"a = " + DEEP[:5000])
@example(data=b'system = "a\\u0000b"')
@example(data=b'history_dir = "a\\u0000b"')
@example(data=b"temp = nan")
@example(data=b"ctx = 99999999999999999999999999999")
@example(data=b"ctx = true")
def test_any_settings_file_is_refused_or_settings(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(data)
    try:
        load_settings(path, {})
    except UsageError as error:
        assert error.found
    else:
        assert b"\0" not in data
        assert b"\\u0000" not in data


@quick
@given(data=st.binary(max_size=60) | values.map(dumped))
@example(data=DEEP)
def test_any_acknowledgement_file_acknowledges_nothing(data: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(data)
    assert is_recorded(tmp_path) is False


def test_a_question_in_another_encoding_is_an_error() -> None:
    """As the command line gives it: the bytes that are no UTF-8 as surrogates."""
    with pytest.raises(UsageError, match="not UTF-8"):
        read_question(b"ni\xf1o con fiebre".decode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match="system ="):
        load_settings(None, {"system": "\udcf1"})


def test_no_pipe_in_the_place_of_a_file_is_waited_for(tmp_path: Path) -> None:
    """An audit found three readers that hung on one."""
    from pedsup.engine.grammar import read_grammar, read_json_schema
    from pedsup.tuning.store import read_entries
    from pedsup_export.source.safetensors_file import SafetensorsFile

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for read in (read_grammar, read_json_schema, read_entries, SafetensorsFile):
        with pytest.raises(BadFileError, match="regular file"):
            read(pipe)
    for other in (pipe, tmp_path, Path("/dev/zero")):
        for read in (read_picture, read_header):
            with pytest.raises(BadFileError, match="not a regular file") as refused:
                read(other)
            assert refused.value.remedy == NO_FILE, "no copy of it is any better"
