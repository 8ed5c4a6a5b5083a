"""llama.cpp's own programs and converter, built once per user from the llama-cpp-python sdist.

They are the oracle: the commit is the one that the Python bindings pin. Run as a script to
build them; the tests call `source()` and `tool(name)` and skip with a remedy when absent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "0.3.36"
TOOLS = ("llama-server", "llama-bench", "llama-quantize", "llama-imatrix", "llama-perplexity")
ROOT = Path(
    os.environ.get("PEDSUP_NATIVE", Path.home() / ".cache" / "pedsup" / f"llama-cpp-{VERSION}")
)
# GGML_NATIVE would bake in this machine's instructions; these run on any x86-64 of ten years.
OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
]
X86_OPTIONS = ["-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON"]


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
        # pip would run the build backend for `download`; --no-build-isolation is not enough,
        # so its dependency is fetched in isolation, which pip does by itself.
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
             "llama-cpp-python", "-d", folder, f"llama-cpp-python=={VERSION}"],
            check=True,
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
    import platform

    extra = X86_OPTIONS if platform.machine() == "x86_64" else []
    subprocess.run(["cmake", "-S", tree, "-B", ROOT / "build", *OPTIONS, *extra], check=True)
    jobs = str(len(os.sched_getaffinity(0)))
    subprocess.run(["cmake", "--build", ROOT / "build", "-j", jobs, "--target", *TOOLS], check=True)


if __name__ == "__main__":
    build()
    print(ROOT)
