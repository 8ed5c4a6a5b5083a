"""Model files with a manifest, as an export leaves them, and keys of openssl to sign them with."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.trust.manifest import DIGEST_KEY, core_digest, manifest_document, manifest_path
from pedsup_testing import forged_gguf

STRING = 8
"""The number of GGUF's string type."""
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tiny(path: Path, *, name: str = "Tiny") -> Path:
    """A whole model of 115 kB."""
    made = forged_gguf.tiny_llama().with_key("general.name", forged_gguf.STRING, name)
    made = made.with_key("tokenizer.chat_template", forged_gguf.STRING, TEMPLATE)
    path.write_bytes(made.encode())
    return path


def with_manifest(source: Path, target: Path) -> Path:
    """`source` with the manifest's digest in its metadata, and that manifest beside it."""
    header = read_header(source)
    core = _core(header)
    _write(header, target, {DIGEST_KEY: core_digest(core)})
    facts = {
        "name": target.name,
        "size": target.stat().st_size,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
    }
    document = manifest_document(core, facts, "2026-11-24T00:00:00+00:00")
    manifest_path(target).write_text(json.dumps(document, indent=1))
    return target


def _core(header: GGUFHeader) -> dict[str, Any]:
    template = str(header.get("tokenizer.chat_template"))
    with header.path.open("rb") as file:
        tensors = {}
        for tensor in header.tensors.values():
            file.seek(header.data_offset + tensor.offset)
            digest = hashlib.sha256(file.read(tensor.n_bytes)).hexdigest()
            tensors[tensor.name] = {
                "type": tensor.type.name,
                "shape": list(tensor.shape),
                "bytes": tensor.n_bytes,
                "sha256": digest,
            }
    return {
        "base": {"name": "base"},
        "recipe": {"quant": "as it was"},
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "tensors": tensors,
    }


def _write(header: GGUFHeader, target: Path, strings: dict[str, str]) -> None:
    """A copy with more metadata; a filler keeps the tensor data aligned without new padding."""
    added = b"".join(_string(key, value) for key, value in strings.items())
    empty = len(_string("test.filler", ""))
    filler = "." * (-(len(added) + empty) % header.alignment)
    added += _string("test.filler", filler)
    with header.path.open("rb") as source, target.open("wb") as out:
        magic, version, n_tensors, n_kv = struct.unpack("<4sIQQ", source.read(24))
        out.write(struct.pack("<4sIQQ", magic, version, n_tensors, n_kv + len(strings) + 1))
        out.write(added)
        shutil.copyfileobj(source, out)


def _string(key: str, value: str) -> bytes:
    name, text = key.encode(), value.encode()
    return struct.pack(f"<Q{len(name)}sIQ{len(text)}s", len(name), name, STRING, len(text), text)


def openssl(*arguments: object, stdin: bytes = b"") -> bytes:
    """Run openssl; skips when it is not there."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed: apt install openssl")
    return subprocess.run(
        [program, *map(str, arguments)], input=stdin, capture_output=True, check=True
    ).stdout


def key_pair(stem: Path, curve: str = "prime256v1") -> tuple[Path, Path]:
    """A key pair made by openssl: the private file and the public one."""
    private, public = stem.with_suffix(".key"), stem.with_suffix(".pub")
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}",
            "-out", private)  # fmt: skip
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    return private, public
