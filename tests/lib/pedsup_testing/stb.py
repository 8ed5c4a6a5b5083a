"""llama.cpp's own decoder of pictures (stb_image, in libmtmd): what the model will see."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def _mtmd() -> Any:
    module = pytest.importorskip("llama_cpp.mtmd_cpp")
    quiet = module.llama_cpp.llama_log_callback(lambda *_: None)
    module.mtmd_helper_log_set(quiet, None)
    module.pedsup_keeps = quiet
    return module


def decoded(data: bytes) -> tuple[int, int, bytes] | None:
    """Width, height and RGB pixels; None where stb_image refuses."""
    mtmd = _mtmd()
    options = mtmd.mtmd_helper_init_opt_default()
    # Where stb_image refuses, llama.cpp would start ffmpeg.
    options.video_params.ffmpeg_bin_dir = str(Path(__file__) / "none").encode()
    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(None, buffer, len(data), False, options)
    if not bitmap:
        return None
    try:
        size = mtmd.mtmd_bitmap_get_nx(bitmap), mtmd.mtmd_bitmap_get_ny(bitmap)
        n = mtmd.mtmd_bitmap_get_n_bytes(bitmap)
        return (*size, ctypes.string_at(mtmd.mtmd_bitmap_get_data(bitmap), n))
    finally:
        mtmd.mtmd_bitmap_free(bitmap)
