"""The wheels that a phone needs, each of them pure Python, so that nothing is compiled there.

PyPI has wheels of MarkupSafe for Android, but each fits one version of Python, and Termux moves
to the next within weeks. A package whose wheels are native is therefore built here from its
source without a compiler, which MarkupSafe's own build falls back to.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pedsup.errors import BadFileError, MissingDependencyError, UnsupportedError
from pedsup.optional import require
from pedsup.progress import say

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PHONE: Final = {
    "sys_platform": "android",
    "platform_system": "Android",
    "os_name": "posix",
    "platform_machine": "aarch64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "extra": "",
}
"""What dependency markers are evaluated for, besides the Python version."""
PHONE_PYTHONS: Final = ("3.11", "3.14")
"""Oldest and newest version of Python that the folder serves."""
PURE: Final = "-none-any.whl"


@dataclass(frozen=True)
class PhoneWheel:
    """One wheel, as its own metadata describes it."""

    path: Path
    name: str
    """Normalized: lower case, dashes."""
    version: str
    requires: tuple[str, ...]


def phone_wheels(project: Path, out: Path, constraints: Path | None = None) -> list[PhoneWheel]:
    """Put pedsup's wheel, all that it needs on a phone, and pip into the folder `out`.

    Args:
        project: the checkout of pedsup.
        out: an existing, empty folder.
        constraints: a pip constraints file with the versions to take.

    Raises:
        MissingDependencyError: pip could not fetch or build a wheel.
        UnsupportedError: a package is not available as pure Python.
    """
    pip = _Pip(out, constraints)
    own = pip.build([str(project)], "pedsup")
    wheels = {own.name: own}
    queue = list(needed(own.requires))
    while queue:
        requirement = queue.pop()
        known = wheels.get(_normal(requirement.name))
        if known is None:
            known = pip.pure(requirement)
            wheels[known.name] = known
            queue += needed(known.requires, requirement.extras)
        _check(known, requirement)
    wheels["pip"] = pip.pure(_requirement("pip"))
    return list(wheels.values())


def needed(requires: Sequence[str], extras: set[str] | None = None) -> Iterator[Requirement]:
    """Those requirements whose markers hold on a phone, with any Python it may have."""
    for text in requires:
        requirement = _requirement(text)
        marker = requirement.marker
        environments = [
            {**PHONE, "python_version": v, "python_full_version": f"{v}.0", "extra": extra}
            for v in PHONE_PYTHONS
            for extra in ("", *(extras or ()))
        ]
        if marker is None or any(marker.evaluate(environment) for environment in environments):
            yield requirement


def read_wheel(path: Path) -> PhoneWheel:
    """The name, version and requirements in a wheel's METADATA.

    Raises:
        BadFileError: it is not a wheel.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
            metadata = email.message_from_bytes(wheel.read(name))
    except (zipfile.BadZipFile, ValueError) as error:
        raise BadFileError("not a wheel", where=path) from error
    return PhoneWheel(
        path,
        _normal(str(metadata["Name"])),
        str(metadata["Version"]),
        tuple(metadata.get_all("Requires-Dist", [])),
    )


def _check(wheel: PhoneWheel, requirement: Requirement) -> None:
    if not requirement.specifier.contains(wheel.version, prereleases=True):
        raise UnsupportedError(
            f"{wheel.name} {wheel.version} was chosen, but {requirement} is needed too",
            remedy="name a version that fits all in the constraints file",
        )


def _requirement(text: str) -> Requirement:
    module = require("packaging.requirements", extra="export")
    requirement: Requirement = module.Requirement(text)
    return requirement


def _normal(name: str) -> str:
    return str(require("packaging.utils", extra="export").canonicalize_name(name))


class _Pip:
    """pip as a child process, with one folder to fill."""

    def __init__(self, out: Path, constraints: Path | None) -> None:
        self._out, self._constraints = out, constraints

    def pure(self, requirement: Requirement) -> PhoneWheel:
        """A wheel of a requirement for any machine and any Python 3."""
        wanted = f"{requirement.name}{requirement.specifier}"
        # No ABI and no platform: only wheels of pure Python fit.
        selection = ("--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none")
        try:
            return self._get(["download", *selection, wanted], requirement.name)
        except MissingDependencyError:
            say(f"{requirement.name} has no wheel of pure Python: building one without a compiler")
            return self.build([f"--no-binary={requirement.name}", wanted], requirement.name)

    def build(self, arguments: Sequence[str], name: str) -> PhoneWheel:
        """Build a wheel with no C compiler in reach."""
        return self._get(["wheel", "--no-cache-dir", *arguments], name)

    def _get(self, arguments: Sequence[str], name: str) -> PhoneWheel:
        before = set(self._out.glob("*.whl"))
        limit = ["--constraint", str(self._constraints)] if self._constraints else []
        done = subprocess.run(
            [sys.executable, "-m", "pip", arguments[0], "--no-deps", "--quiet", "--no-input",
             "--disable-pip-version-check", *limit,
             "--dest" if arguments[0] == "download" else "--wheel-dir", str(self._out),
             *arguments[1:]],
            capture_output=True, text=True, check=False,
            env={**os.environ, "CC": "false", "CXX": "false"},
        )  # fmt: skip
        new = sorted(set(self._out.glob("*.whl")) - before)
        if done.returncode or len(new) != 1:
            raise MissingDependencyError(
                f"pip could not get a wheel of {name}",
                where=" ".join(done.stderr.split())[-400:] or None,
                remedy="connect to the internet, or to a mirror of PyPI (PIP_INDEX_URL)",
            )
        if not new[0].name.endswith(PURE):
            raise UnsupportedError(
                f"{name} is not available as pure Python", where=new[0].name, wanted=f"*{PURE}"
            )
        return read_wheel(new[0])
