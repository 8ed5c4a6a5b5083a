"""llama.cpp's own decoder of pictures (stb_image, in libmtmd): what the model will see."""

from __future__ import annotations

import ctypes
from pathlib import Path

from pedsup_testing import mtmd


def decoded(data: bytes) -> tuple[int, int, bytes] | None:
    """Width, height and RGB pixels; None where stb_image refuses."""
    lib = mtmd.require()
    options = lib.mtmd_helper_init_opt_default()
    # Where stb_image refuses, llama.cpp would start ffmpeg.
    options.video_params.ffmpeg_bin_dir = str(Path(__file__) / "none").encode()
    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    bitmap = lib.mtmd_helper_bitmap_init_from_buf(None, buffer, len(data), False, options)
    if not bitmap:
        return None
    try:
        size = lib.mtmd_bitmap_get_nx(bitmap), lib.mtmd_bitmap_get_ny(bitmap)
        n = lib.mtmd_bitmap_get_n_bytes(bitmap)
        return (*size, ctypes.string_at(lib.mtmd_bitmap_get_data(bitmap), n))
    finally:
        lib.mtmd_bitmap_free(bitmap)
