"""How large a GGUF header may be: more than any model has, less than what hurts a phone.

The largest real case is Gemma 4: 262144 tokens and 514906 merges, a header of 16 MB. A file
within these limits is read in bounded memory and time; docs/threat-model.md has the figures.
"""

from __future__ import annotations

from typing import Final

VERSIONS: Final = (2, 3)
MAX_HEADER: Final = 64 << 20
"""Bytes of metadata and tensor table together."""
MAX_KEYS: Final = 1 << 14
MAX_TENSORS: Final = 1 << 16
MAX_ARRAY: Final = 1 << 24
"""Elements of one array of numbers."""
MAX_STRINGS: Final = 1 << 21
"""Strings in all arrays together."""
MAX_KEY: Final = 65535
"""Bytes of a metadata key, by the format's definition."""
MAX_TEXT: Final = 16 << 20
"""Bytes of one text in an array."""
MAX_TEXTS: Final = 16 << 20
"""Bytes of all keys, names and texts outside of arrays together. Python may hold four bytes for
each: one character beyond the 16-bit ones is enough."""
MAX_NAME: Final = 63
"""Bytes of a tensor's name: ggml's GGML_MAX_NAME counts the final zero byte."""
MAX_DIMS: Final = 4
MAX_SIGNED: Final = (1 << 63) - 1
"""ggml counts elements and bytes in signed 64-bit integers."""
DEFAULT_ALIGNMENT: Final = 32
MIN_ALIGNMENT: Final = 8
MAX_ALIGNMENT: Final = 65536
