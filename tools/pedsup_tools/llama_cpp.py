"""Installs llama-cpp-python, built for this processor whatever the environment holds.

PyPI has it as source only. Left alone, its CMake follows the environment (CMAKE_ARGS, and ggml
leaves all vector units out where SOURCE_DATE_EPOCH is set: twenty times slower), and pip's cache
brings such a build back. So the options are given outright, the cache is not used, and the library
itself is asked at the end. Run by `make setup` before the other packages, with pip alone there.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from pedsup.engine.build_probe import library_build
from pedsup.engine.vector_units import VERSION, cmake_options

LOCK: Final = Path(__file__).parents[2] / "tests/lock.txt"
ONLY_THE_LIBRARY: Final = (
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
    f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={Path(__file__).with_name('llama_cpp_library.cmake')}",
)
"""What the bindings load: libllama and ggml; not the pictures' library, not llama.cpp's helpers."""
PACKAGES: Final = ("llama-cpp-python", "typing-extensions")
"""typing-extensions is all that its declarations import."""
_DECIDES: Final = re.compile(
    r"SOURCE_DATE_EPOCH|CMAKE_ARGS|CMAKE_BUILD_TYPE|FORCE_CMAKE|SKBUILD_.*"
)
"""Variables that change how it is built."""


def requirements(lock: Path | None, packages: Collection[str] = PACKAGES) -> str:
    """The lock's entries for some packages, with their hashes; without a lock, by version alone."""
    if lock is None:
        return f"llama-cpp-python=={VERSION}\ntyping-extensions\n"
    blocks = re.split(r"(?m)^(?=\S)", lock.read_text("utf-8"))
    return "".join(b for b in blocks if re.split(r"[=; ]", b)[0].lower() in packages)


def build_environment(environ: Mapping[str, str], options: Sequence[str] = ()) -> dict[str, str]:
    """An environment without what decides a build of llama.cpp, and with CMake options of ours."""
    kept = {name: value for name, value in environ.items() if not _DECIDES.fullmatch(name)}
    # scikit-build-core splits CMAKE_ARGS at spaces, which a folder's name may hold.
    return {**kept, "SKBUILD_CMAKE_ARGS": ";".join(options)} if options else kept


def install(lock: Path | None) -> None:
    """Build and install it where it is absent or lacks this processor's vector units."""
    if _good():
        return
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements(lock))
        file.flush()
        options = (*cmake_options(platform.machine()), *ONLY_THE_LIBRARY)
        hashes = ["--require-hashes"] if lock else []
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps",
             "--no-cache-dir", *hashes, "-r", file.name],
            check=True, env=build_environment(os.environ, options),
        )  # fmt: skip
    library_build.cache_clear()
    if not _good():
        raise SystemExit("llama-cpp-python was built, but not for this processor (see above)")


def _good() -> bool:
    """Whether the library is there, of the pinned version, and has all vector units."""
    try:
        if metadata.version("llama-cpp-python") != VERSION:
            return False
    except metadata.PackageNotFoundError:
        return False
    build = library_build()
    if build is not None and (warning := build.warning()):
        print(warning, file=sys.stderr)
    return build is not None and not build.missing


if __name__ == "__main__":
    install(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
