"""llama-cpp-python's ctypes declarations, without its high-level classes.

`import llama_cpp` runs the package's `__init__`, which pulls in numpy, jinja2 and diskcache:
0.6 s and 30 MB that a chat session never uses. The declarations live in the one submodule
`llama_cpp.llama_cpp`; it is imported here under a parent package without that `__init__`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import re
import sys
import types
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

from pedsup.engine.llama_cpp import library_match
from pedsup.errors import EngineError, MissingDependencyError

PACKAGE: Final = "llama_cpp"
MODULE: Final = "llama_cpp.llama_cpp"
LOG_WARN: Final = 3
LOG_CONTINUED: Final = 5
"""GGML_LOG_LEVEL_WARN and GGML_LOG_LEVEL_CONT."""
MAX_N_THREADS: Final = 512
"""GGML_MAX_N_THREADS."""

_log_tail: deque[str] = deque(maxlen=12)


class ThreadpoolParams(ctypes.Structure):
    """`struct ggml_threadpool_params`, which the bindings leave out."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_N_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


@functools.cache
def load() -> ModuleType:
    """The module of declarations, with the backends loaded and llama.cpp's log kept quiet.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed.
        EngineError: its library cannot be loaded on this machine, or is not the one that the
            declarations were written for.
    """
    lib = _import_declarations()
    own = Path(_folders()[0]) / "lib"
    library_match.require_match(lib, package=package_version(), own_folder=own)
    keep = lib.llama_log_callback(_remember)
    lib.llama_log_set(keep, ctypes.c_void_p(0))
    vars(lib)["pedsup_log_callback"] = keep  # ctypes callbacks die with their last reference
    lib.llama_backend_init()
    _load_backends(lib)
    return lib


def import_submodule(name: str) -> ModuleType:
    """Another pure-Python module of llama-cpp-python, without the package's `__init__`."""
    _import_declarations()
    with _bare_package(_folders()):
        return importlib.import_module(f"{PACKAGE}.{name}")


def package_version() -> str:
    """llama-cpp-python's version, from its file: importlib.metadata takes 30 ms to import."""
    path = Path(_folders()[0]) / "__init__.py"
    found = re.search(r'^__version__ = "([^"]+)"', path.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else "?"


def version(lib: ModuleType) -> str:
    """llama.cpp's own version text, or '?' if the library is too old to tell."""
    return library_match.text_from(lib._lib, "llama_version") or "?"


def system_info(lib: ModuleType) -> str:
    """What the library was built with, as `vector_units.judge` reads it; '' if it cannot tell."""
    return library_match.text_from(lib._lib, "llama_print_system_info")


def log_tail() -> str:
    """The last warnings and errors that llama.cpp logged, to explain a failure."""
    return "; ".join(line for line in _log_tail if line)


def clear_log() -> None:
    """Forget old warnings, so that the next failure is not explained by them."""
    _log_tail.clear()


def make_threadpool(lib: ModuleType, n_threads: int) -> ctypes.c_void_p | None:
    """A ggml thread pool that lives as long as its context.

    Without OpenMP ggml would otherwise start and join its threads for every token. None when
    the library does not export the functions (they then live in a backend loaded by name).
    """
    handle = lib._lib
    try:
        init, new = handle.ggml_threadpool_params_init, handle.ggml_threadpool_new
        attach = handle.llama_attach_threadpool
    except AttributeError:
        return None
    init.argtypes, init.restype = [ctypes.POINTER(ThreadpoolParams), ctypes.c_int], None
    new.argtypes, new.restype = [ctypes.POINTER(ThreadpoolParams)], ctypes.c_void_p
    attach.argtypes, attach.restype = [ctypes.c_void_p] * 3, None
    params = ThreadpoolParams()
    init(ctypes.byref(params), n_threads)
    pool = new(ctypes.byref(params))
    return ctypes.c_void_p(pool) if pool else None


def free_threadpool(lib: ModuleType, pool: ctypes.c_void_p) -> None:
    """End the threads of a pool; its context must be gone."""
    free = lib._lib.ggml_threadpool_free
    free.argtypes, free.restype = [ctypes.c_void_p], None
    free(pool)


def _remember(level: int, text: bytes, _user_data: object) -> None:
    if level == LOG_CONTINUED or level >= LOG_WARN:
        _log_tail.append(text.decode("utf-8", "replace").strip())


def _folders() -> list[str]:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise MissingDependencyError(
            "the Python package 'llama-cpp-python' is not installed",
            wanted="version 0.3.36, or a llama-server program for --engine server",
            remedy="pip install llama-cpp-python==0.3.36; in Termux: pkg install llama-cpp",
        )
    return list(spec.submodule_search_locations)


def _import_declarations() -> ModuleType:
    if MODULE in sys.modules:
        return sys.modules[MODULE]
    try:
        with _bare_package(_folders()), _as_linux():
            return importlib.import_module(MODULE)
    except (OSError, RuntimeError, AttributeError) as error:
        raise EngineError(
            "llama.cpp's library cannot be loaded",
            where=error,
            wanted="the library of the same llama.cpp as llama-cpp-python's declarations",
            remedy="reinstall llama-cpp-python for this machine, or use --engine server",
        ) from error


@contextmanager
def _bare_package(folders: list[str]) -> Iterator[None]:
    """Let `llama_cpp.llama_cpp` be imported without running `llama_cpp/__init__.py`."""
    if PACKAGE in sys.modules:
        yield
        return
    package = types.ModuleType(PACKAGE)
    package.__path__ = folders
    sys.modules[PACKAGE] = package
    try:
        yield
    finally:
        # A later `import llama_cpp` elsewhere in the process gets the real package.
        del sys.modules[PACKAGE]


@contextmanager
def _as_linux() -> Iterator[None]:
    """The bindings refuse Python 3.13+ on Android, whose libraries are Linux ones."""
    if sys.platform != "android":
        yield
        return
    real = sys.platform
    sys.platform = "linux"
    try:
        yield
    finally:
        sys.platform = real


def _load_backends(lib: ModuleType) -> None:
    """Find the CPU backend beside the library, where ggml itself does not look for it."""
    handle = lib._lib
    try:
        count = handle.ggml_backend_dev_count
        load_from = handle.ggml_backend_load_all_from_path
    except AttributeError:
        return
    count.restype, load_from.restype = ctypes.c_size_t, None
    load_from.argtypes = [ctypes.c_char_p]
    if count() == 0:
        load_from(bytes(Path(lib._base_path)))
    if count() == 0:
        raise EngineError(
            "llama.cpp has no CPU backend here",
            where=lib._base_path,
            remedy="reinstall llama-cpp-python, or use --engine server",
        )
