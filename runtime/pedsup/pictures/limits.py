"""How much of a picture is taken. A phone with 4 GB holds the model beside it."""

from __future__ import annotations

from typing import Final

MAX_BYTES: Final = 20_000_000
"""Of one file."""
MAX_PIXELS: Final = 25_000_000
"""Phones take photos of 12 to 24.5 megapixels unless they are told otherwise."""
MAX_DECODED: Final = 300_000_000
"""Bytes that llama.cpp's decoder (stb_image) takes at its peak. At `MAX_PIXELS` every JPEG stays
below; a PNG of 16 bits does not."""
MIN_SIDE: Final = 16
"""Pixels: less shows nothing, and some projectors end the process on it."""
MAX_RATIO: Final = 20
"""Long side to short side. Gemma 4's preprocessing leaves its own limit of tokens above 1120."""
MAX_PICTURES: Final = 8
"""In one message."""
MAX_SCANS: Final = 100
"""Of a progressive JPEG, which has about ten. Each costs a pass over all pixels, however few bytes
it has."""
MAX_PARTS: Final = 65_536
"""Segments of a JPEG, chunks of a PNG."""
