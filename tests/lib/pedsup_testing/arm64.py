"""A 64-bit ARM machine on this x86 one: llama.cpp cross-built, Debian's Python, qemu.

Nothing here knows pedsup. What takes long is kept under ~/.cache/pedsup and taken up again where
it was stopped; the root directory that a run changes is a copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pedsup_testing import native

CACHE = Path(os.environ.get("PEDSUP_ARM64", Path.home() / ".cache" / "pedsup"))
LLAMA = CACHE / f"arm64-llama-cpp-{native.VERSION}"
SUITE = os.environ.get("PHONE_SUITE", "forky")
"""Debian forky has Python 3.14, as Termux has; trixie 3.13, bookworm 3.11."""
MIRROR = "http://deb.debian.org/debian"
PACKAGES = "g++-aarch64-linux-gnu qemu-user-static debootstrap cmake ninja-build"
PROGRAMS = ("aarch64-linux-gnu-g++", "qemu-aarch64-static", "debootstrap", "cmake", "ninja")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
DEFINITION = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
TOO_NEW = ("armv8.2_3", "armv8.6_1", "armv8.6_2", "armv9.2_1", "armv9.2_2")
"""Variants of the CPU backend with SVE or SME: more than Debian 12's gcc knows, and than the
phones have that we plan for."""
TOOLCHAIN = """set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
"""
OPTIONS = (
    *native.OPTIONS, "-DGGML_NATIVE=OFF", "-DGGML_BACKEND_DL=ON", "-DGGML_OPENMP=OFF",
    "-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN;$ORIGIN/../lib",
)  # fmt: skip


def require_tools() -> None:
    """Leave with a remedy where a program, the right to use it, or binfmt_misc is missing."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise SystemExit(f"missing: {' '.join(missing)}\n  do: apt-get install {PACKAGES}")
    if os.geteuid() != 0:
        raise SystemExit("chroot and mount need root\n  do: sudo make phone-test")
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=False)
    if not (BINFMT / "qemu-aarch64").exists():
        try:
            (BINFMT / "register").write_text(DEFINITION.read_text())
        except OSError as error:
            raise SystemExit(f"this kernel cannot start ARM programs: {error}") from error


# ---- llama.cpp --------------------------------------------------------------------------------


def build_llama(jobs: int) -> Path:
    """llama-server and its libraries for ARM, the CPU backends as plug-ins; their folder.

    Three variants as ggml names them: armv8.0_1, armv8.2_1 (dotprod), armv8.2_2 (and fp16); and
    one under `baked` that is for dotprod and does not say so, as a build with `-march` is.
    """
    source = _source()
    (LLAMA / "toolchain.cmake").write_text(TOOLCHAIN)
    builds = {
        "build": (["-DGGML_CPU_ALL_VARIANTS=ON"], ["llama", "llama-server"]),
        "dotprod": (["-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod"], ["ggml-cpu"]),
    }
    for name, (options, targets) in builds.items():
        toolchain = f"-DCMAKE_TOOLCHAIN_FILE={LLAMA / 'toolchain.cmake'}"
        configure = ["cmake", "-G", "Ninja", "-S", source, "-B", LLAMA / name, toolchain]
        if not (LLAMA / name / "build.ninja").exists():
            subprocess.run([*configure, *OPTIONS, *options], check=True, capture_output=True)
        build = ["cmake", "--build", LLAMA / name, "-j", str(jobs), "--target", *targets]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return LLAMA


def _source() -> Path:
    tree = LLAMA / "src"
    if not tree.exists():
        fresh = LLAMA / "src.partial"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(native.fetch(), fresh, symlinks=True)
        path = fresh / "ggml/src/CMakeLists.txt"
        lines = path.read_text("utf-8").splitlines(keepends=True)
        kept = [
            line
            for line in lines
            if not any(f"ggml_add_cpu_backend_variant({name} " in line for name in TOO_NEW)
        ]
        assert len(lines) - len(kept) == len(TOO_NEW), "llama.cpp's list of variants has changed"
        path.write_text("".join(kept), encoding="utf-8")
        fresh.rename(tree)
    return tree


# ---- the root directory -----------------------------------------------------------------------


def base_root() -> Path:
    """An arm64 Debian with Python and no compiler, unpacked once.

    debootstrap chooses, checks and fetches the packages; they are unpacked, not configured: the
    latter takes half an hour under emulation and adds nothing that Python needs.
    """
    folder = CACHE / f"arm64-root-{SUITE}"
    root = folder / "root"
    if not (folder / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        # An older debootstrap does not know the newest suite's name: any script of today does.
        script = Path("/usr/share/debootstrap/scripts") / SUITE
        more = [] if script.exists() else [str(script.with_name("sid"))]
        subprocess.run(
            ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", "--merged-usr",
             "--include=python3", SUITE, root, MIRROR, *more],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        debs = sorted((root / "var/cache/apt/archives").glob("*.deb"))
        for deb in debs:
            subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
            deb.unlink()
        (folder / "complete").touch()
    return root


@dataclass
class Machine:
    """A copy of the root, and how programs are started in it."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    uid: int = 10123
    """What Android gives an app."""

    @classmethod
    def create(cls, root: Path) -> Machine:
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", base_root(), root], check=True)
        return cls(root)

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def own(self, inside: str) -> None:
        """Give a folder to the user that programs run as."""
        subprocess.run(["chown", "-R", f"{self.uid}:{self.uid}", self.path(inside)], check=True)

    def run(
        self, command: Sequence[str], *, cpu: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the processor `cpu` (qemu's name for it), not as root.

        /proc and /dev are mounted in a namespace that ends with the program.
        """
        script = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot ' \
                 '--userspec="$1" "$0" env -i -- "${@:2}"'  # fmt: skip
        variables = {**self.env, **(env or {}), "QEMU_CPU": cpu}
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", script,
             str(self.root), f"{self.uid}:{self.uid}",
             *(f"{k}={v}" for k, v in variables.items()), *command],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
