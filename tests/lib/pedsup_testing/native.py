"""llama.cpp's own programs and converter, built once per user from the llama-cpp-python sdist.

They are the oracle: the commit is the one that the Python bindings pin. Run as a script to
build them (with --source: to fetch the source alone, nothing is compiled); the tests call
`source()` and `tool(name)` and skip with a remedy when absent.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from pedsup.engine.vector_units import VERSION, cmake_options
from pedsup.files.paths import cache_folder
from pedsup_tools.llama_cpp import LOCK, build_environment, requirements

TOOLS = ("llama-server", "llama-bench", "llama-quantize", "llama-imatrix", "llama-perplexity")
ROOT = Path(os.environ.get("PEDSUP_NATIVE") or cache_folder() / f"llama-cpp-{VERSION}")
# Beside them the vector units, said outright and the same as our own engine's library has.
OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_OPENMP=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
]


def source() -> Path | None:
    """The llama.cpp source tree with `convert_hf_to_gguf.py`, or None when not fetched."""
    path = ROOT / "src"
    return path if (path / "convert_hf_to_gguf.py").is_file() else None


def tool(name: str) -> Path | None:
    """The path of one native program, or None when not built."""
    path = ROOT / "build" / "bin" / name
    return path if path.is_file() else None


def fetch() -> Path:
    """Download the sdist with pip and unpack its llama.cpp."""
    if (found := source()) is not None:
        return found
    ROOT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(requirements(LOCK, ["llama-cpp-python"]), encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
             "llama-cpp-python", "--require-hashes", "-d", folder, "-r", wanted],
            check=True, env=clean_environment(),
        )  # fmt: skip
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        (tree,) = Path(folder).glob("llama_cpp_python-*/vendor/llama.cpp")
        shutil.move(tree, ROOT / "src")
    return ROOT / "src"


def build() -> None:
    """Build the programs (about 6 minutes on 2 cores the first time)."""
    tree = fetch()
    if all(tool(name) for name in TOOLS):
        return
    env = clean_environment()
    options = [*OPTIONS, *cmake_options(platform.machine())]
    subprocess.run(["cmake", "-S", tree, "-B", ROOT / "build", *options], check=True, env=env)
    jobs = str(len(os.sched_getaffinity(0)))
    command = ["cmake", "--build", ROOT / "build", "-j", jobs, "--target", *TOOLS]
    subprocess.run(command, check=True, env=env)


def clean_environment() -> dict[str, str]:
    """The environment without what changes how llama.cpp is built."""
    return build_environment(os.environ)


if __name__ == "__main__":
    if sys.argv[1:] == ["--source"]:
        fetch()
    else:
        build()
    print(ROOT)
