"""A stand-in for Termux: a prefix with `pkg` and a llama-server, and this machine's tools.

What is tested, install.sh and the folder that `pedsup-export phone-bundle` makes, is the real
thing; stand-ins are Termux's package manager and its two packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

TOOLS = (
    "cat", "chmod", "cp", "date", "dd", "df", "dirname", "env", "grep", "head", "id", "mkdir", "mv",
    "rm", "sed", "sha256sum", "sh", "sort", "stat", "sync", "tail", "tr", "uname", "wc", "sleep",
)  # fmt: skip
"""What Termux's own base has of these names; nothing else is on the PATH: no compiler."""

# `pkg install -y NAME...`: notes what it was asked for and moves those packages in.
PKG = """#!/bin/sh
echo "pkg $*" >>"$PREFIX/pkg.log"
[ ! -e "$PREFIX/offline" ] || exit 100
shift
for name in "$@"; do
    case $name in -y) ;; *) cp "$PREFIX/repository/$name"/* "$PREFIX/bin/" || exit 100 ;; esac
done
"""
# `dpkg -i FILE...`: a .deb of the stand-in is named after the program that it holds.
DPKG = """#!/bin/sh
echo "dpkg $*" >>"$PREFIX/pkg.log"
shift
for deb in "$@"; do
    name=${deb##*/}
    name=${name%%_*}
    cp "$PREFIX/repository/$name"/* "$PREFIX/bin/" || exit 1
done
"""
ANDROID = """import ctypes, os, platform, sys, sysconfig
platform.uname()  # it and ctypes would look for Android's libc.so and libpython: asked before
os.environ["_PYTHON_SYSCONFIGDATA_NAME"] = sysconfig._get_sysconfigdata_name()
sys.platform = "android"
"""
"""A sitecustomize.py: the platform as Python 3.13 and newer name it in Termux."""
SERVER = "#!/bin/sh\necho 'version: 1 (stand-in)'\n"


@dataclass
class Termux:
    """A prefix and a home of its own."""

    root: Path
    shell: tuple[str, ...] = ("sh",)
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in (
            self.bin,
            self.home,
            self.repository / "python",
            self.repository / "llama-cpp",
        ):
            folder.mkdir(parents=True)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"{tool} is not installed"
            (self.bin / tool).symlink_to(found)
        self.program(self.bin / "pkg", PKG)
        self.program(self.bin / "dpkg", DPKG)
        self.program(self.repository / "llama-cpp" / "llama-server", SERVER)
        # Without the packages of the test's own environment.
        python = getattr(sys, "_base_executable", sys.executable)
        launcher = f'#!/bin/sh\nexec {Path(python).resolve()} "$@"\n'
        self.program(self.repository / "python" / "python", launcher)

    @property
    def prefix(self) -> Path:
        return self.root / "usr"

    @property
    def bin(self) -> Path:
        return self.prefix / "bin"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def repository(self) -> Path:
        return self.prefix / "repository"

    @property
    def models(self) -> Path:
        return self.home / "pedsup"

    def program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def environment(self) -> dict[str, str]:
        return {
            "PREFIX": str(self.prefix), "HOME": str(self.home), "PATH": str(self.bin),
            "TMPDIR": str(self.root), "LANG": "en_US.UTF-8", "PEDSUP_ALLOW_ROOT": "1",
            **{k: v for k, v in os.environ.items() if k.startswith("PIP_") or k == "SSL_CERT_FILE"},
            **self.env,
        }  # fmt: skip

    def command(self, bundle: Path, *arguments: object) -> list[str]:
        return [*self.shell, str(bundle / "install.sh"), *map(str, arguments)]

    def install(self, bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run install.sh to its end."""
        return subprocess.run(
            self.command(bundle, *arguments), env=self.environment(), capture_output=True,
            text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run the installed pedsup-run."""
        return subprocess.run(
            [str(self.bin / "pedsup-run"), *map(str, arguments)], env=self.environment(),
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=self.home,
        )  # fmt: skip

    def asked(self) -> list[str]:
        """What the package manager was asked for."""
        log = self.prefix / "pkg.log"
        return log.read_text().splitlines() if log.exists() else []
