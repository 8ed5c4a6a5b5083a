"""Whether llama.cpp was built for this processor's vector units, according to the library itself.

A build without them works, gives the same text and is many times slower; nothing else shows it.
ggml's CMake leaves them out where the environment holds SOURCE_DATE_EPOCH, as packagers set it.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from typing import Final, TypedDict

from pedsup.device.cores import cpu_features
from pedsup.messages import Message, message

VERSION: Final = "0.3.36"
"""The version of llama-cpp-python that pyproject.toml pins."""
X86_OPTIONS: Final = (
    "-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON",
    "-DGGML_BMI2=ON",
)  # fmt: skip
"""CMake options of llama.cpp for an x86 processor with AVX2. Not the machine's own instructions:
AVX-512 and AMX read prompts faster and write slower in a long context (docs/bench.md)."""
NATIVE_OPTIONS: Final = ("-DGGML_NATIVE=ON",)
"""For other processors: all that the one here has."""
_BUILT: Final = {
    "avx2": "AVX2", "avx512f": "AVX512", "avx512_vnni": "AVX512_VNNI", "amx_int8": "AMX_INT8",
    "amx_tile": "AMX_INT8", "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8", "sve": "SVE",
}  # fmt: skip
"""Flags of /proc/cpuinfo that a build may leave unused, by ggml's names."""
X86_MACHINES: Final = ("x86_64", "amd64")
PACKAGED: Final = message(
    "install a llama.cpp for this processor; in Termux: pkg upgrade && pkg install llama-cpp"
)
_FEATURE: Final = re.compile(r"\b([A-Z][A-Z0-9_]*) = (\d+)")


@dataclass(frozen=True)
class Unit:
    """A vector unit that decides the speed."""

    name: str
    """Its name in ggml's list of features."""
    flag: str
    """Its name in /proc/cpuinfo."""
    factor: float
    """About how many times longer a prompt takes without it."""


UNITS: Final = (
    # Measured, SmolLM2 Q4_1, 2 threads: prompts 416 tokens/s with and 20 without, decode 81 and 16.
    Unit("AVX2", "avx2", 20.0),
    # Not measured by us: dotprod halves the multiplications of quantized weights, i8mm those again.
    Unit("DOTPROD", "asimddp", 2.0),
    Unit("MATMUL_INT8", "i8mm", 1.5),
    # Only their absence from a build with AVX2 matters: they came into processors with it.
    Unit("FMA", "fma", 1.2),
    Unit("F16C", "f16c", 1.2),
    Unit("FP16_VA", "asimdhp", 1.2),
)
"""What a build must have where the processor has it. AVX-512, AMX and SVE are not among them."""


class BuildFacts(TypedDict):
    """How llama.cpp was built, for JSON."""

    features: list[str]
    missing: list[str]
    """Vector units that the processor has and the build lacks."""
    times_slower: float
    """Approximate factor for reading prompts."""
    remedy: str | None


@dataclass(frozen=True)
class Build:
    """A build of llama.cpp beside the processor that it runs on."""

    features: tuple[str, ...]
    """The features that the library reports, vector units and others."""
    missing: tuple[Unit, ...]
    """What the processor has and the build lacks, the costliest first."""
    remedy: Message
    """How to get a build with them."""

    @property
    def factor(self) -> float:
        """About how many times longer a prompt takes than necessary; 1 if nothing is missing."""
        return max((unit.factor for unit in self.missing), default=1.0)

    @property
    def names(self) -> str:
        return ", ".join(unit.name for unit in self.missing)

    def describe(self) -> BuildFacts:
        """For JSON."""
        return {
            "features": list(self.features),
            "missing": [unit.name for unit in self.missing],
            "times_slower": self.factor,
            "remedy": self.remedy if self.missing else None,
        }

    def warning(self) -> Message | None:
        """One line for whoever starts a model; None if nothing is missing."""
        if not self.missing:
            return None
        return message(
            "llama.cpp was built without {units}, which this processor has: about {factor} times "
            "slower; {remedy}",
            units=self.names,
            factor=f"{self.factor:g}",
            remedy=self.remedy,
        )


def judge(
    system_info: str, *, packaged: bool = False, features: frozenset[str] | None = None
) -> Build | None:
    """What `llama_print_system_info` says, held against the processor.

    Args:
        system_info: e.g. 'CPU : AVX = 1 | AVX2 = 1 | LLAMAFILE = 1 | '.
        packaged: whether llama.cpp came from elsewhere than llama-cpp-python, as Termux's.
        features: flags of /proc/cpuinfo (None: this machine's).

    Returns:
        None when the library says nothing.
    """
    found = {name: int(value) for name, value in _FEATURE.findall(system_info)}
    if not found:
        return None
    has = cpu_features() if features is None else features
    missing = [unit for unit in UNITS if unit.flag in has and not found.get(unit.name)]
    built = tuple(name for name, value in found.items() if value)
    remedy = PACKAGED if packaged else message("rebuild it: {command}", command=reinstall())
    return Build(built, tuple(sorted(missing, key=lambda unit: -unit.factor)), remedy)


def usable(features: frozenset[str], build: Build | None) -> frozenset[str]:
    """The processor's flags without those whose units the build leaves out (None: all)."""
    if build is None:
        return features
    return frozenset(f for f in features if f not in _BUILT or _BUILT[f] in build.features)


def cmake_options(machine: str) -> tuple[str, ...]:
    """How llama.cpp is built for a kind of processor (`platform.machine()`), said outright.

    With explicit options the environment (SOURCE_DATE_EPOCH, a cross-compiling CMake) decides
    nothing.
    """
    return X86_OPTIONS if machine.lower() in X86_MACHINES else NATIVE_OPTIONS


def reinstall(machine: str | None = None) -> str:
    """The command that builds llama-cpp-python for the processor here.

    Not from pip's cache: it may hold the very build that is to go.
    """
    options = " ".join(cmake_options(machine or platform.machine()))
    return (
        f'CMAKE_ARGS="{options}" pip install --force-reinstall --no-deps --no-cache-dir '
        f"llama-cpp-python=={VERSION}"
    )
