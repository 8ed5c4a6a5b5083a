"""How much memory the largest and the most hostile GGUF headers take to read."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pedsup_testing import forged_gguf as fg
from pedsup_testing.forged_gguf import Array, Forged, Key, Row
from pedsup_testing.gguf_shapes import LLAMA, TOKENS, keyed

from pedsup.gguf_file import read_header
from pedsup.gguf_file.limits import MAX_ARRAY, MAX_KEYS, MAX_STRINGS, MAX_TENSORS
from pedsup.gguf_file.tokenizer import MAX_TOKENS, check_tokenizer

MEASURE = """
import sys, time
from pathlib import Path
from pedsup.errors import PedsupError
from pedsup.gguf_file import read_header
from pedsup.gguf_file.validate import validate_model
started = time.monotonic()
try:
    (read_header if sys.argv[2] == "header" else validate_model)(Path(sys.argv[1]))
    how = "accepted"
except PedsupError as error:
    how = "refused: " + error.found
# Not ru_maxrss, which begins with what the parent had.
status = Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0]) >> 10
print(peak, time.monotonic() - started, how)
"""


FLOATS = MAX_ARRAY - 64
LUNGS = "🫁".encode() * (1 << 22)


def largest_tokens() -> bytes:
    """The most tokens that are accepted, as long as the header's limit lets them be."""
    tokens = [b"%0104d" % i for i in range(MAX_TOKENS)]
    head = keyed("tokenizer.ggml.add_bos_token", fg.BOOL, True).without_key(TOKENS)
    for name in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        head = head.without_key(name)
    rows = (Row("token_embd.weight", (32, MAX_TOKENS), 2), *LLAMA.rows[1:])
    return replace(head, rows=rows).with_key(TOKENS, fg.ARRAY, Array(fg.STRING, tokens)).encode()


LARGEST: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "keys": (
        "header",
        lambda: Forged(tuple(Key(f"k{i}", fg.U8, 1) for i in range(MAX_KEYS))).encode(),
        "accepted",
    ),
    "one more key": (
        "header",
        lambda: Forged(tuple(Key(f"k{i}", fg.U8, 1) for i in range(MAX_KEYS + 1))).encode(),
        "refused: 0 tensors and 16385 metadata keys",
    ),
    "tensors": (
        "header",
        lambda: Forged((), tuple(Row(f"t{i}", (1,)) for i in range(MAX_TENSORS))).encode(),
        "accepted",
    ),
    "2^20 tensors": (
        "header",
        lambda: Forged(n_rows=1 << 20).encode() + bytes(1 << 24),
        "refused: 1048576 tensors",
    ),
    "empty strings": (
        "header",
        lambda: Forged((Key("s", fg.ARRAY, Array(fg.STRING, [b""] * MAX_STRINGS)),)).encode(),
        "accepted",
    ),
    "empty strings in many arrays": (
        "header",
        lambda: Forged(
            tuple(Key(f"s{i}", fg.ARRAY, Array(fg.STRING, [b""] * 200)) for i in range(10_000))
        ).encode(),
        "accepted",
    ),
    "floats": (
        "header",
        lambda: Forged(
            (Key("f", fg.ARRAY, struct.pack("<IQ", fg.F32, FLOATS) + bytes(4 * FLOATS)),)
        ).encode(),
        "accepted",
    ),
    "a long text": (
        "header",
        lambda: Forged((Key("t", fg.STRING, LUNGS[:-64]),)).encode(),
        "accepted",
    ),
    "an ASCII text with one character of four bytes": (
        "header",
        lambda: Forged((Key("t", fg.STRING, LUNGS[:4] + b"x" * ((16 << 20) - 64)),)).encode(),
        "accepted",
    ),
    "four such texts": (
        "header",
        lambda: Forged(
            tuple(Key(f"t{i}", fg.STRING, LUNGS[:4] + b"x" * (15 << 20)) for i in range(4))
        ).encode(),
        "refused: with the text 't1' there are more than",
    ),
    "a thousand such keys": (
        "header",
        lambda: Forged(
            tuple(Key(b"%03d" % i + LUNGS[:4] + b"x" * 65000, fg.U8, 1) for i in range(1000))
        ).encode(),
        "refused: with the name of metadata key 259 of 1000 there are more than",
    ),
    "an architecture of 16 MB": (
        "model",
        lambda: LLAMA.with_key("general.architecture", fg.STRING, LUNGS[:-4096]).encode(),
        "refused: a GGUF of the architecture '\U0001fac1",
    ),
    "strings of 128 bytes and empty ones": (
        "header",
        lambda: Forged(
            (Key("s", fg.ARRAY, Array(fg.STRING, [b"x" * 128, b""] * 440_000)),)
        ).encode(),
        "accepted",
    ),
    "small arrays": (
        "header",
        lambda: Forged(
            tuple(
                Key(f"k{i}", fg.ARRAY, struct.pack("<IQ", fg.F32, 1000) + bytes(4000))
                for i in range(16_000)
            )
        ).encode(),
        "accepted",
    ),
    "a header that does not end": (
        "header",
        lambda: Forged(
            tuple(
                Key(f"t{i}", fg.ARRAY, struct.pack("<IQ", fg.U8, FLOATS) + bytes(FLOATS))
                for i in range(9)
            )
        ).encode(),
        "refused: a header that reaches byte",
    ),
    "tokens": ("model", largest_tokens, "accepted"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_header_is_read_within_256_mb(name: str, tmp_path: Path) -> None:
    what, make, expected = LARGEST[name]
    path = tmp_path / "large.gguf"
    path.write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path, what], capture_output=True, text=True, check=True
    )
    mib, seconds, how = done.stdout.split(" ", 2)
    print(f"{name}: {mib} MiB, {float(seconds):.2f} s, {path.stat().st_size >> 20} MiB of file")
    assert how.startswith(expected), how
    assert int(mib) < 256
    assert float(seconds) < 60  # a sanity limit for a busy machine; 2 s are what is promised


@pytest.mark.slow
def test_gemma4_vocabulary(llama_cpp_source: Path) -> None:
    """The largest real header: 262144 tokens and 514906 merges."""
    path = llama_cpp_source / "models/ggml-vocab-gemma-4.gguf"
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path, "header"], capture_output=True, text=True, check=True
    )
    mib, _, how = done.stdout.split(" ", 2)
    assert how.strip() == "accepted"
    assert int(mib) < 100
    header = read_header(path)
    assert len(header.metadata["tokenizer.ggml.merges"]) == 514906
    check_tokenizer(header)
