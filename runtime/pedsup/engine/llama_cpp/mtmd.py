"""llama.cpp's mtmd: its declarations, and a picture as it cuts it into chunks."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pedsup.engine.build_probe import library_is_packaged
from pedsup.engine.limits import NO_PROGRAMS
from pedsup.engine.llama_cpp import bindings
from pedsup.engine.vector_units import reinstall
from pedsup.errors import BadFileError, MissingDependencyError
from pedsup.messages import message
from pedsup.pictures.orientation import turned_upright
from pedsup.pictures.picture import UPRIGHT, Picture

LIBRARY_VARIABLE: Final = "MTMD_CPP_LIB"
"""Where llama-cpp-python's declarations look for libmtmd."""
CANNOT_SEE: Final = message("this build of llama.cpp cannot see pictures: it has no libmtmd")
IMAGE: Final = 1
"""MTMD_INPUT_CHUNK_TYPE_IMAGE."""


def load_mtmd(lib: ModuleType) -> ModuleType:
    """llama-cpp-python's declarations of mtmd, with its log kept quiet.

    Args:
        lib: the declarations of llama.cpp; libmtmd must be beside its library.

    Raises:
        MissingDependencyError: the library was built without it.
    """
    folder = Path(os.fspath(lib._base_path))
    before = os.environ.get(LIBRARY_VARIABLE)
    os.environ[LIBRARY_VARIABLE] = str(folder)
    try:
        mtmd = bindings.import_submodule("mtmd_cpp")
    except (OSError, RuntimeError, AttributeError) as error:
        raise without_mtmd(folder) from error
    finally:
        if before is None:
            del os.environ[LIBRARY_VARIABLE]
        else:
            os.environ[LIBRARY_VARIABLE] = before
    callback = vars(lib)["pedsup_log_callback"]
    mtmd.mtmd_helper_log_set(callback, ctypes.c_void_p(0))
    return mtmd


def without_mtmd(folder: Path | None = None) -> MissingDependencyError:
    """The error for a build of llama.cpp that cannot see; `folder` is where libmtmd should be."""
    if library_is_packaged():
        remedy = message("give --engine server")
    else:
        remedy = message(
            "in a checkout of pedsup: make pictures; elsewhere: {command}; or give --engine server",
            command=reinstall(),  # which leaves nothing out, unlike `make setup`
        )
    return MissingDependencyError(
        CANNOT_SEE,
        where=folder,
        wanted="llama-cpp-python built with it, or a llama-server program",
        remedy=remedy,
    )


def chunks(lib: ModuleType, context: Any, picture: Picture) -> Any:
    """The picture as mtmd cuts it, to be freed. Raises `BadFileError` if mtmd cannot decode it."""
    image = _bitmap(lib, context, picture)
    cut = lib.mtmd_input_chunks_init()
    try:
        lib.mtmd_bitmap_set_id(image, picture.sha256.encode("ascii"))
        marker = lib.mtmd_default_marker()
        text = lib.mtmd_input_text(marker, len(marker), False, True)
        images = (ctypes.c_void_p * 1)(image)
        code = lib.mtmd_tokenize(context, cut, ctypes.byref(text), images, 1)
    finally:
        lib.mtmd_bitmap_free(image)
    if code:
        lib.mtmd_input_chunks_free(cut)
        raise _undecodable()
    return cut


def _bitmap(lib: ModuleType, context: Any, picture: Picture) -> Any:
    """The pixels, upright."""
    data = (ctypes.c_uint8 * len(picture.data)).from_buffer_copy(picture.data)
    options = lib.mtmd_helper_init_opt_default()
    options.video_params.ffmpeg_bin_dir = NO_PROGRAMS
    bitmap = lib.mtmd_helper_bitmap_init_from_buf(context, data, len(data), False, options)
    if not bitmap:
        raise _undecodable()
    if picture.orientation == UPRIGHT:
        return bitmap
    try:
        size = lib.mtmd_bitmap_get_nx(bitmap), lib.mtmd_bitmap_get_ny(bitmap)
        n = lib.mtmd_bitmap_get_n_bytes(bitmap)
        pixels = ctypes.string_at(lib.mtmd_bitmap_get_data(bitmap), n)
    finally:
        lib.mtmd_bitmap_free(bitmap)
    pixels, width, height = turned_upright(pixels, *size, picture.orientation)
    raw = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    return lib.mtmd_bitmap_init(width, height, raw)


def _undecodable() -> BadFileError:
    return BadFileError(
        "the picture cannot be decoded",
        where=bindings.log_tail() or None,
        wanted="a whole JPEG or PNG file",
        remedy="open it in another program and save it again",
    )
