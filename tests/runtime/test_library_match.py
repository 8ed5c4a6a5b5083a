"""A library of llama.cpp under declarations of another: seen before it is called, and survived.

The libraries are real: llama.cpp's own, and ones built here on top of it that answer some
functions as another version does. ctypes finds a function in the outer library first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pedsup_testing.slowly import slow_but
from pedsup_testing.termux import ANDROID

from pedsup.engine.llama_cpp.library_match import WRITTEN_FOR, LibraryIdentity, identity_mismatch

OURS = WRITTEN_FOR["0.3.36"]
HEADER = """
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
const char * %s(void) { return "%s"; }
"""
COMMIT = HEADER % ("ggml_commit", "unknown")
# llama_model_params of 0.3.36 (llama.h), with a field that a later version put in front.
GROWN = """
struct params {
    void * logger;
    void * devices; void * overrides;
    int32_t n_gpu_layers; int split_mode; int load_mode; int lazy_mode; int32_t main_gpu;
    float * tensor_split; void * callback; void * data; void * kv;
    bool vocab_only, check_tensors, use_extra_bufts, no_host, no_alloc, load_mtp;
    char more[2000];
};
struct params llama_model_default_params(void) {
    struct params p;
    memset(&p, 0x5a, sizeof p);
    p.logger = p.devices = p.overrides = NULL;
    p.n_gpu_layers = -1; p.split_mode = 1; p.load_mode = -1; p.lazy_mode = 1; p.main_gpu = 0;
    return p;
}
"""
BATCH = """
struct batch { int32_t n_tokens; float * embd; int32_t * token; void * rest[4]; };
struct batch llama_batch_get_one(int32_t * tokens, int32_t n) {
    struct batch b = { n, NULL, tokens, { NULL, NULL, NULL, NULL } };
    return b;
}
"""


@pytest.fixture
def library(tmp_path, native_tool):
    """A function from C source to a folder with a libllama.so that answers so."""
    compiler = shutil.which("cc") or pytest.skip("apt-get install gcc")
    real = native_tool("llama-server").parent

    def build(code: str) -> Path:
        source = tmp_path / "outer.c"
        source.write_text(code)
        folder = tmp_path / "lib"
        folder.mkdir()
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", folder / "libllama.so", source, "-L", real,
             "-Wl,--no-as-needed", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{real}"],
            check=True,
        )  # fmt: skip
        return folder

    return build


def load(folder: Path) -> subprocess.CompletedProcess[str]:
    """Load it as the engine does; in a process of its own, a library is loaded once."""
    code = (
        "from pedsup.engine.llama_cpp import bindings\n"
        "from pedsup.cli.border import border\n"
        "border(lambda: print(bindings.load()._base_path))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
             "LLAMA_CPP_LIB_PATH": str(folder)},
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode == 9, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_the_same_llama_cpp_built_elsewhere_is_taken(library, native_tool):
    """A build from the source archive knows no commit: the versions and structures speak for it."""
    for folder in (native_tool("llama-server").parent, library(COMMIT)):
        done = load(folder)
        assert (done.returncode, done.stdout.strip()) == (0, str(folder)), done.stderr


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (HEADER % ("ggml_commit", "4f2c1a9"), "another commit"),
        (COMMIT + HEADER % ("ggml_version", "0.26.0"), "another version"),
        (COMMIT + HEADER % ("llama_version", "0.6.1"), "another version"),
        (COMMIT + GROWN, "llama_model_params."),
        (COMMIT + BATCH, "llama_batch.embd, llama_batch.token"),
    ],
    ids=["commit", "ggml", "llama", "grown structure", "moved fields"],
)
def test_another_llama_cpp_is_refused_before_it_is_called(code, reason, library):
    refused(load(library(code)), reason)


def test_a_library_without_the_functions_of_the_declarations_is_refused(tmp_path):
    """An old or a strange libllama.so."""
    compiler = shutil.which("cc") or pytest.skip("apt-get install gcc")
    (tmp_path / "o.c").write_text("int llama_backend_init(void) { return 0; }\n")
    subprocess.run(
        [compiler, "-shared", "-o", tmp_path / "libllama.so", tmp_path / "o.c"], check=True
    )
    refused(load(tmp_path), "cannot be loaded")


def test_declarations_of_another_version_are_refused(tmp_path, native_tool):
    """The declarations of 0.3.36 that call themselves 0.3.99, over a library of their own."""
    import llama_cpp

    package = tmp_path / "site" / "llama_cpp"
    package.mkdir(parents=True)
    real = Path(llama_cpp.__file__).parent
    for name in ("llama_cpp.py", "_ctypes_extensions.py"):
        shutil.copy(real / name, package)
    (package / "__init__.py").write_text('__version__ = "0.3.99"\n')
    code = "from pedsup.cli.border import border\nfrom pedsup.engine.llama_cpp import bindings\n" \
           "border(bindings.load)"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "LLAMA_CPP_LIB_PATH": str(native_tool("llama-server").parent),
             "PYTHONPATH": os.pathsep.join([str(package.parent), *(p for p in sys.path if p)])},
    )  # fmt: skip
    refused(done, "unknown declarations")


@pytest.mark.parametrize(
    ("llama", "ggml", "commit", "reason"),
    [
        ("0.5.0", "0.25.3", "0c1e570", None),
        ("9.9", "9.9", "0c1e57098aa", None),
        ("0.5.0", "0.25.3", "unknown", None),
        ("0.5.0", "0.25.3", "", None),
        ("0.5.0", "0.25.3", "0c1e571", "another commit"),
        ("0.5.0", "0.25.4", "unknown", "another version"),
        ("", "", "", "another version"),
    ],
)
def test_who_is_the_same(llama, ggml, commit, reason):
    assert identity_mismatch(LibraryIdentity(llama, ggml, commit), OURS) == reason


def test_nobody_knows_unknown_declarations():
    assert identity_mismatch(OURS, None) == "unknown declarations"


@pytest.mark.parametrize("platform", slow_but(["android"], ["linux", "android"]))
def test_a_mismatch_is_told_and_the_server_takes_over(
    platform, library, smollm2, native_tool, tmp_path
):
    """Also where sys.platform is 'android', as Termux's Python says."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ANDROID if platform == "android" else "")
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), *(p for p in sys.path if p)]),
        "LLAMA_CPP_LIB_PATH": str(library(COMMIT + HEADER % ("ggml_version", "0.99.0"))),
        "PEDSUP_LLAMA_SERVER": str(native_tool("llama-server")),
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "pedsup", smollm2, "-p", "Hi", "--json", "--max-tokens", "2",
               "--ctx", "256", "--threads", "1", "--accept-intended-use"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engine"].startswith("llama-server")
    assert done.stderr.count("llama-server runs the model, not this process") == 1
    done = subprocess.run(
        [*command, "--engine", "inprocess"], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 9
    assert "another version" in done.stderr


@pytest.mark.slow
def test_the_engine_in_the_process_runs_where_the_platform_is_android(smollm2, tmp_path):
    """llama-cpp-python itself refuses to be imported there."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ANDROID)
    code = "import llama_cpp.llama_cpp"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *(p for p in sys.path if p)])}
    plain = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert "Unsupported platform" in plain.stderr
    command = [sys.executable, "-m", "pedsup", smollm2, "-p", "Hi", "--json", "--max-tokens", "2",
               "--ctx", "256", "--threads", "1", "--accept-intended-use"]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**env, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engine"].startswith("llama-cpp-python")
