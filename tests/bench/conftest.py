"""Tiny models for the bench stage, made by our exporter and llama-quantize."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pedsup_testing import native, programs, tiny_models
from pedsup_testing.lazy import require

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Hugging Face folders of a tiny llama and a tiny Gemma 4 (sliding window 16)."""
    require("transformers", "pip install 'pedsup[train]'")
    root = tmp_path_factory.mktemp("tiny")
    return {
        "llama": tiny_models.llama(root / "llama"),
        "gemma4": tiny_models.gemma4(root / "gemma4"),
    }


@pytest.fixture(scope="session")
def tiny_ggufs(tiny_folders: dict[str, Path]) -> dict[str, Path]:
    """The same as float32 GGUF. Where files come from is no matter here: the oracles read them."""
    pytest.importorskip("gguf", reason="pip install 'pedsup[export]'")
    from pedsup_export.plan.planner import make_plan
    from pedsup_export.plan.request import ExportRequest
    from pedsup_export.source.hub import ModelRef
    from pedsup_export.write.publish import execute

    result = {}
    for name, folder in tiny_folders.items():
        out = folder / "f32.gguf"
        request = ExportRequest(base=ModelRef(folder, name), out=out, quant="F32", threads=1)
        result[name] = execute(*make_plan(request)).path
    return result


@pytest.fixture(scope="session")
def tiny_quantized(tiny_ggufs: dict[str, Path], native_tool) -> dict[str, Path]:  # type: ignore[no-untyped-def]
    """The same as Q4_K_M."""
    program, result = native_tool("llama-quantize"), {}
    for name, path in tiny_ggufs.items():
        result[name] = path.with_name("q4_k_m.gguf")
        subprocess.run([program, path, result[name], "Q4_K_M"], check=True, capture_output=True)
    return result


@pytest.fixture
def bench(tmp_path: Path) -> Run:
    """Run `pedsup-bench` as a user would; its cache lies in the test's own folder."""

    def run(*arguments: object, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **env}
        done = programs.run("pedsup_bench", *arguments, env=env)
        if check and done.returncode:
            raise AssertionError(f"rc {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def native_libraries() -> dict[str, str]:
    """Environment that makes llama-cpp-python use the library of the native programs.

    Figures are then of the same compiled kernels: another build rounds in another order.
    """
    folder = native.BIN
    if not (folder / "libllama.so").is_file():
        pytest.skip("llama.cpp's programs are not built: run `make native`")
    return {"LLAMA_CPP_LIB_PATH": str(folder)}
