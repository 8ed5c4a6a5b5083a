"""Whether llama.cpp was built for the processor: what the library says, and what is made of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pedsup_testing import programs
from pedsup_testing.fake_engine import FakeEngine
from pedsup_testing.home import environment

from pedsup.child.bounded import Ran
from pedsup.device.cores import cpu_features
from pedsup.doctor.device import Device
from pedsup.doctor.engines import engines
from pedsup.engine import build_probe
from pedsup.engine.llama_cpp import bindings
from pedsup.engine.vector_units import PACKAGED, VERSION, cmake_options, judge, reinstall, usable
from pedsup.texts.language import translated
from pedsup_tools.llama_cpp import build_environment

# SCALAR and AVX2 were recorded from two builds of llama-cpp-python 0.3.36; the others are written
# by hand in llama.cpp's form.
SCALAR = "CPU : LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | "
AVX2 = (
    "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | "
    "LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | "
)
OLD_FORM = "AVX = 1 | AVX2 = 0 | AVX512 = 0 | FMA = 0 | NEON = 0 | F16C = 0 | "
"""As llama.cpp wrote it until 2024: what is absent is listed too."""
XEON = frozenset({
    "sse4_2", "avx", "avx2", "fma", "f16c", "bmi2", "avx512f", "avx512_vnni", "amx_tile",
    "amx_int8",
})  # fmt: skip
ATOM = frozenset({"sse4_2"})
A76 = frozenset({"fp", "asimd", "aes", "fphp", "asimdhp", "asimddp"})
ARM_PLAIN = "CPU : NEON = 1 | ARM_FMA = 1 | LLAMAFILE = 1 | REPACK = 1 | "


def test_a_build_without_vector_units_is_found_with_its_factor() -> None:
    build = judge(SCALAR, features=XEON)
    assert build is not None
    assert build.names == "AVX2, FMA, F16C"
    assert build.factor == 20
    assert build.warning() == (
        "llama.cpp was built without AVX2, FMA, F16C, which this processor has: about 20 times "
        f"slower; rebuild it: {reinstall()}"
    )
    assert build.describe()["times_slower"] == 20


def test_what_the_processor_lacks_too_is_not_missed() -> None:
    build = judge(SCALAR, features=ATOM)
    assert build is not None
    assert build.missing == ()
    assert build.warning() is None


def test_avx512_and_amx_are_not_asked_for() -> None:
    build = judge(AVX2, features=XEON)
    assert build is not None
    assert build.missing == ()
    assert "AVX2" in build.features


def test_the_old_form_lists_what_is_absent() -> None:
    build = judge(OLD_FORM, features=XEON)
    assert build is not None
    assert build.features == ("AVX",)
    assert build.names == "AVX2, FMA, F16C"


def test_arm_without_dotprod() -> None:
    build = judge(ARM_PLAIN, packaged=True, features=A76)
    assert build is not None
    assert [unit.name for unit in build.missing] == ["DOTPROD", "FP16_VA"]
    assert build.factor == 2
    assert build.remedy == PACKAGED


@pytest.mark.parametrize("text", ["", "llama.cpp", "load_backend: nothing found"])
def test_a_library_that_does_not_say_is_not_judged(text: str) -> None:
    assert judge(text, features=XEON) is None


def test_the_library_here_says_what_it_was_built_with() -> None:
    """The child and the library in this process, held against the real processor."""
    build = build_probe.library_build()
    told = judge(bindings.system_info(bindings.load()))
    assert build == told
    assert build is not None
    assert build.missing == (), build.warning()


def test_llama_server_says_the_same(native_tool) -> None:  # type: ignore[no-untyped-def]
    build = build_probe.server_build(native_tool("llama-server"))
    assert build is not None
    assert build.missing == (), build.warning()
    if "avx2" in cpu_features():
        assert {"AVX2", "FMA", "F16C"} <= set(build.features)


def test_usable_are_the_units_of_both() -> None:
    assert usable(XEON, judge(AVX2, features=XEON)) == XEON - {
        "avx512f", "avx512_vnni", "amx_tile", "amx_int8",
    }  # fmt: skip
    assert usable(XEON, None) == XEON


def test_every_start_warns_in_both_languages(capsys: pytest.CaptureFixture[str]) -> None:
    build = judge(SCALAR, features=XEON)
    assert build is not None
    warning = build.warning()
    assert warning is not None
    assert "\n" not in warning
    spanish = translated(warning, "es")
    assert spanish.startswith("llama.cpp se compiló sin AVX2, FMA, F16C, que este procesador tiene")
    assert spanish.endswith(reinstall())
    assert "rebuild it" not in spanish
    packaged = replace(build, remedy=PACKAGED).warning()
    assert packaged is not None
    assert "instale un llama.cpp" in translated(packaged, "es")


class Answers:
    """A runner whose children print what a build of llama.cpp prints."""

    def __init__(self, system_info: str) -> None:
        self.text = f"version: 0.3.36 (llama.cpp 0.5.0)\nsystem_info: {system_info}\n"

    def __call__(self, command: object, timeout_s: float) -> Ran:
        return Ran(0, self.text)


def device(tmp_path: Path, flags: frozenset[str], system_info: str) -> Device:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\nflags : {' '.join(sorted(flags))}\n")
    return Device(root=tmp_path, environ={}, run=Answers(system_info), machine="x86_64")


def test_doctor_calls_it_a_problem_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", "/nonexistent")
    _, built = engines(device(tmp_path, XEON, SCALAR))
    assert (built.level, built.key) == ("problem", "engine_units")
    assert "about 20 times slower" in built.found("en")
    assert "unas 20 veces más lento" in built.found("es")
    assert reinstall() in (built.remedy("en") or "")
    assert "recompílelo" in (built.remedy("es") or "")


def test_doctor_is_content_with_a_good_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", "/nonexistent")
    _, built = engines(device(tmp_path, XEON, AVX2))
    assert (built.level, built.key) == ("ok", "engine_built")


def test_check_and_json_tell_the_build(smollm2: Path, tmp_path: Path) -> None:
    env = environment(tmp_path)
    command = ["pedsup", smollm2, "--check", "--engine", "inprocess"]
    done = programs.run(*command, "--json", env=env)
    build = json.loads(done.stdout)["build"]
    assert build["missing"] == []
    assert build["times_slower"] == 1
    assert "LLAMAFILE" in build["features"]
    shown = programs.run(*command, env=env)
    assert "Built with: " in shown.stdout


def test_stats_tell_the_build() -> None:
    from pedsup.run.load import LoadedModel
    from pedsup.run.stats import _build_lines

    engine = FakeEngine([], build=judge(SCALAR, features=XEON))
    loaded = LoadedModel(engine, *[None] * 6)  # type: ignore[arg-type]
    first, second = _build_lines(loaded)
    assert first == "built with: LLAMAFILE, OPENMP, REPACK"
    assert "20 times slower" in second


# ---- how it is built ------------------------------------------------------------------------


def test_the_environment_does_not_decide_the_build() -> None:
    given = {
        "SOURCE_DATE_EPOCH": "1", "CMAKE_ARGS": "-DGGML_AVX2=OFF", "SKBUILD_CMAKE_ARGS": "-DX=1",
        "SKBUILD_CMAKE_BUILD_TYPE": "Debug", "FORCE_CMAKE": "1", "PATH": "/bin", "CC": "gcc",
    }  # fmt: skip
    assert build_environment(given) == {"PATH": "/bin", "CC": "gcc"}
    made = build_environment(given, cmake_options("x86_64"))
    assert "-DGGML_AVX2=ON" in made["SKBUILD_CMAKE_ARGS"].split(";")


def test_options_are_said_outright_for_each_processor() -> None:
    assert "-DGGML_NATIVE=OFF" in cmake_options("x86_64")
    assert cmake_options("aarch64") == ("-DGGML_NATIVE=ON",)
    assert "-DGGML_AVX2=ON" in reinstall("AMD64")
    assert "--no-cache-dir" in reinstall("aarch64"), "pip's cache may hold the build that is slow"


def test_the_version_is_the_pinned_one() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    assert f'"llama-cpp-python=={VERSION};' in project


def test_make_gives_source_date_epoch_to_dist_alone() -> None:
    """Of all recipes only `dist` may hold it: compilers follow it."""
    makefile = Path(__file__).parents[2] / "Makefile"
    assert not re.search(r"(?m)^export SOURCE_DATE_EPOCH", makefile.read_text("utf-8"))
    env = {k: v for k, v in os.environ.items() if k not in ("SOURCE_DATE_EPOCH", "MAKEFLAGS")}
    for target, count in (("setup", 0), ("native", 0), ("gguf", 0), ("dist", 2)):
        done = subprocess.run(
            ["make", "-n", "-B", "-f", makefile, target], cwd=makefile.parent, env=env,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.count("SOURCE_DATE_EPOCH=") == count, target
