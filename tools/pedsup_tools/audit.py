"""`make audit`: what can be said offline of the packages that are installed.

- they fit together (`pip check`);
- each has the version that the lock says, and the lock has a SHA-256 for each;
- each has a licence that is allowed (policy.toml);
- none is older than the first release without a known vulnerability (policy.toml).

The advisories in policy.toml are as old as that file: with a network, `pip-audit` knows more.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from license_expression import LicenseSymbol, get_spdx_licensing
from packaging.version import Version

from pedsup.progress import say
from pedsup_tools.lock import Locked, normal, read_lock
from pedsup_tools.sbom import Document, environment_document

POLICY: Final = Path(__file__).with_name("policy.toml")
UNLOCKED: Final = frozenset({"pedsup", "pip", "setuptools", "torch"})
"""Ourselves, what a virtual environment brings, and the build of torch that this machine has."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be; a note does not fail the audit."""

    package: str
    text: str
    note: bool = False


def check_versions(installed: Mapping[str, str], locked: Iterable[Locked]) -> list[Finding]:
    """Installed versions against the lock's."""
    wanted = {entry.name: entry for entry in locked if entry.applies}
    found = [
        Finding(name, f"{version} is installed, {wanted[name].version} is locked")
        for name, version in installed.items()
        if name in wanted and wanted[name].version != version and name not in UNLOCKED
    ]
    found += [Finding(e.name, "locked without a SHA-256") for e in wanted.values() if not e.sha256]
    found += [Finding(e.name, "locked, not installed", note=True)
              for e in wanted.values() if e.name not in installed]  # fmt: skip
    return found + [
        Finding(name, "installed, not locked", note=True)
        for name in installed
        if name not in wanted and name not in UNLOCKED
    ]


def check_minimums(installed: Mapping[str, str], policy: Mapping[str, Any]) -> list[Finding]:
    """Installed versions against the oldest ones without a known vulnerability."""
    found = []
    for name, (least, advisory) in policy["minimum"].items():
        version = installed.get(name)
        if version is not None and Version(version) < Version(least):
            found.append(Finding(name, f"{version} has {advisory}: {least} or later fixes it"))
    return found + [
        Finding(name, text, note=True)
        for name, text in policy["accepted"].items()
        if name in installed
    ]


def check_licences(document: Document, policy: Mapping[str, Any]) -> list[Finding]:
    """The licences of an environment's SBOM against those allowed."""
    found = []
    for component in document["components"]:
        licences = _expressions(component, policy["licences"])
        if not licences:
            found.append(Finding(component["name"], "no licence in its metadata: read its LICENSE"))
        elif not all(_allowed(expression, policy) for expression in licences):
            found.append(Finding(component["name"], f"licence: {', '.join(licences)}"))
    return found


def _expressions(component: Document, policy: Mapping[str, Any]) -> list[str]:
    by_name = policy["by_name"].get(normal(component["name"]))
    given = []
    for entry in component.get("licenses", ()):
        licence = entry.get("license", {})
        given.append(entry.get("expression") or licence.get("id") or licence.get("name"))
    known = [policy["classifiers"].get(text, text) for text in given if text]
    return [by_name] if by_name and not known else known


def _allowed(expression: str, policy: Mapping[str, Any]) -> bool:
    """Whether an SPDX expression can be met with the licences allowed."""
    licensing = get_spdx_licensing()
    try:
        tree = licensing.parse(expression)
    except Exception:  # the parser's errors have no common class of their own
        return False

    def met(node: Any) -> bool:
        if isinstance(node, licensing.OR):
            return any(met(part) for part in node.args)
        if isinstance(node, licensing.AND):
            return all(met(part) for part in node.args)
        assert isinstance(node, LicenseSymbol) or hasattr(node, "render")
        return str(node.render("{symbol.key}")) in policy["licences"]["allowed"]

    return met(tree)


def installed_versions() -> dict[str, str]:
    """Name to version of everything installed, local labels such as +cpu left out."""
    return {
        normal(d.metadata["Name"]): d.version.partition("+")[0]
        for d in importlib.metadata.distributions()
    }


def _pip_check() -> list[Finding]:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    return [Finding("pip check", line) for line in done.stdout.splitlines() if done.returncode]


def main() -> int:
    """Run every check; 0 when nothing but notes was found."""
    policy = tomllib.loads(POLICY.read_text("utf-8"))
    installed = installed_versions()
    checks: dict[str, Callable[[], list[Finding]]] = {
        "requirements fit": _pip_check,
        "versions as locked": lambda: check_versions(installed, read_lock()),
        "known vulnerabilities": lambda: check_minimums(installed, policy),
        "licences": lambda: check_licences(environment_document(), policy),
    }
    failed = False
    for what, check in checks.items():
        found = check()
        wrong = [finding for finding in found if not finding.note]
        failed = failed or bool(wrong)
        print(f"{what}: {f'{len(wrong)} wrong' if wrong else 'ok'}")
        for finding in found:
            say(f"  {'note' if finding.note else 'WRONG'}: {finding.package}: {finding.text}")
    print(f"{len(installed)} packages, policy of {POLICY.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
