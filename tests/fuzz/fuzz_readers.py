"""Fuzz pedsup's readers with atheris (libFuzzer): `make fuzz`, or

    python tests/fuzz/fuzz_readers.py TARGET -runs=100000

Targets: gguf, safetensors, manifest, transcript, adapter, picture. A target may raise
`PedsupError` and nothing else, must end, and must not take more than 512 MB. Not part of CI:
atheris has no wheels for every Python; hypothesis does a small run of the same there. New finds go
into the tests of the reader as an example of their own.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))

with atheris.instrument_imports(include=["pedsup", "pedsup_export"]):
    from pedsup.errors import PedsupError
    from pedsup.gguf_file.architecture import check_architecture
    from pedsup.gguf_file.header import parse_header
    from pedsup.gguf_file.tokenizer import check_tokenizer
    from pedsup.pictures.read import picture_from_bytes
    from pedsup.session.history import replay
    from pedsup.session.transcript import read_records
    from pedsup.trust.manifest import core_digest, read_manifest
    from pedsup_export.adapter.config import parse_config
    from pedsup_export.source.safetensors_file import SafetensorsFile

from pedsup_testing import mutate_gguf, pictures
from pedsup_testing.gguf_shapes import GEMMA, LLAMA, MODELS, SPM

# In memory where there is such a file system: a file is written for each input.
SHM = Path("/dev/shm")
FOLDER = Path(tempfile.mkdtemp(prefix="pedsup-fuzz-", dir=SHM if SHM.is_dir() else None))
ACCEPTED = [0, 0]
TAIL = len(LLAMA.encode()) - len(LLAMA.header())
"""Bytes of tensor data that a GGUF input is said to be followed by; they are not read."""


def gguf(data: bytes) -> None:
    """Header and model checks; `validate_model` without the opening of a file."""
    path = Path("fuzz.gguf")
    header = parse_header(io.BytesIO(data + bytes(64)), len(data) + TAIL, path)
    check_architecture(header)
    check_tokenizer(header)


def safetensors(data: bytes) -> None:
    """The header, and every byte that an accepted one points to."""
    file = SafetensorsFile(_written("x.safetensors", data))
    for name in file.tensors:
        file.raw(name).sum()


def manifest(data: bytes) -> None:
    """A manifest; half of the inputs are sealed with the right digest of their core."""
    if data[:1] == b"S":
        data = data[1:]
        try:
            document = json.loads(data)
            document["core_sha256"] = core_digest(document["core"])
            data = json.dumps(document).encode()
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
    for tensor in read_manifest(_written("m.json", data)).tensors.values():
        tensor.sha256.lower()


def transcript(data: bytes) -> None:
    """Records and what they lead to."""
    for message in replay(read_records(_written("s.jsonl", data))).messages():
        message["content"].encode("utf-8")


def adapter(data: bytes) -> None:
    """adapter_config.json once it is a JSON object."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(config, dict):
        settings = parse_config(config, Path("adapter_config.json"))
        settings.scaling("model.layers.3.self_attn.q_proj")


def picture(data: bytes) -> None:
    """A picture that is taken is taken again as it was written."""
    once = picture_from_bytes(data, where="fuzz")
    assert picture_from_bytes(once.data, where="fuzz").data == once.data


def _written(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def _seeds() -> dict[str, list[bytes]]:
    line = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    head = json.dumps({"__metadata__": {"format": "pt"}, "w": line}).encode()
    document = {
        "schema": "pedsup-manifest/1", "created": "x", "file": {"sha256": "f", "size": 1},
        "core_sha256": "", "core": {"adapter": {"shares": {"t": 1.0}}, "recipe": {},
                                    "tensors": {"t": {"sha256": "0"}}},
    }  # fmt: skip
    lines = [
        {"type": "session", "schema": 1}, {"type": "user", "text": "a"},
        {"type": "partial", "answer": "b"}, {"type": "assistant", "answer": "c"}, {"type": "reset"},
    ]  # fmt: skip
    config = {
        "peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {".*v": 2.0}, "modules_to_save": ["lm_head"], "bias": "none",
        "trainable_token_indices": {"embed_tokens": [1, 2]},
    }  # fmt: skip
    return {
        "gguf": [forged.header() for forged in (LLAMA, SPM, GEMMA)],
        "safetensors": [struct.pack("<Q", len(head)) + head + bytes(16)],
        "manifest": [b"S" + json.dumps(document).encode()],
        "transcript": [b"".join(json.dumps(item).encode() + b"\n" for item in lines)],
        "adapter": [json.dumps(config).encode()],
        "picture": [
            *(pictures.private_jpeg(progressive=progressive) for progressive in (False, True)),
            pictures.private_png(), pictures.png((20, 20, 8, 3, 1), bytes(500)),
        ],
    }  # fmt: skip


def _mutate_gguf(data: bytes, max_size: int, seed: int) -> bytes:
    """A third of the inputs is made by structured mutation, the rest by libFuzzer's own."""
    random = Random(seed)
    if random.randrange(3):
        return bytes(atheris.Mutate(data, max_size))
    whole = random.choice(list(MODELS.values()))
    return mutate_gguf.mutate(whole, random)[: len(whole.header()) + 512][:max_size]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "gguf": gguf,
    "safetensors": safetensors,
    "manifest": manifest,
    "transcript": transcript,
    "adapter": adapter,
    "picture": picture,
}


def main() -> None:
    """Fuzz the target named first."""
    name = sys.argv.pop(1)
    target = TARGETS[name]

    def one_input(data: bytes) -> None:
        ACCEPTED[1] += 1
        try:
            target(data)
            ACCEPTED[0] += 1
        except PedsupError as error:
            assert error.found, "an error that says nothing"
        if ACCEPTED[1] % 10_000 == 0:
            print(f"{name}: {ACCEPTED[1]} inputs, {ACCEPTED[0]} accepted", flush=True)

    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(_seeds()[name]):
        (corpus / str(number)).write_bytes(seed)
    options = ["-max_len=16384", "-timeout=20", "-rss_limit_mb=512", "-print_final_stats=1"]
    argv = [sys.argv[0], *options, *sys.argv[1:], str(corpus)]
    if name == "gguf":
        atheris.Setup(argv, one_input, custom_mutator=_mutate_gguf)
    else:
        atheris.Setup(argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
