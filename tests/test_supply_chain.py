"""The lock, the audit, the SBOM, and that one commit gives one wheel."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

pytest.importorskip("cyclonedx_py", reason="pip install 'pedsup[dist]'")
pytest.importorskip("license_expression", reason="pip install 'pedsup[dist]'")

from pedsup_tools import audit
from pedsup_tools.lock import Locked, normal, read_lock
from pedsup_tools.sbom import environment_document, wheel_document

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
POLICY = tomllib.loads(audit.POLICY.read_text("utf-8"))
NOT_LOCKED = {"torch", "unsloth", "pedsup"}
"""Builds that depend on the machine, and ourselves."""


def requirements() -> dict[str, Requirement]:
    """Every requirement of pyproject.toml by name."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = {normal(r.name): r for group in groups for r in map(Requirement, group)}
    return {name: r for name, r in found.items() if name not in NOT_LOCKED}


def test_the_lock_holds_every_requirement_with_digests() -> None:
    locked = {entry.name: entry for entry in read_lock()}
    for name, requirement in requirements().items():
        assert name in locked, f"{name} is not locked: make lock"
        assert requirement.specifier.contains(locked[name].version), f"{name}: make lock"
    assert all(entry.sha256 for entry in locked.values())
    assert len(locked) > 100


def test_the_lock_and_the_constraints_agree() -> None:
    locked = {entry.name: entry.version for entry in read_lock()}
    for line in (ROOT / "tests/constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert locked[normal(name)] == version.split()[0], f"{line}: make lock"


def test_no_requirement_allows_a_version_with_a_known_vulnerability() -> None:
    """What a phone installs by pyproject.toml alone."""
    for line in PROJECT["dependencies"]:
        requirement = Requirement(line)
        least = POLICY["minimum"].get(normal(requirement.name))
        if least is not None:
            (bound,) = [s for s in requirement.specifier if s.operator in (">=", "==")]
            found = audit.check_minimums({normal(requirement.name): bound.version}, POLICY)
            assert [f for f in found if not f.note] == []


# ---- the audit finds what it is for ----


def test_versions() -> None:
    locked = [
        Locked("a", "1.0", ("0" * 64,), applies=True),
        Locked("b", "1.0", (), applies=True),
        Locked("c", "1.0", ("0" * 64,), applies=False),
        Locked("d", "2.0", ("0" * 64,), applies=True),
    ]
    found = audit.check_versions({"a": "1.1", "b": "1.0", "c": "9", "e": "1"}, locked)
    assert {(f.package, f.note) for f in found} == {
        ("a", False), ("b", False), ("d", True), ("e", True), ("c", True),
    }  # fmt: skip


def test_known_vulnerabilities() -> None:
    found = audit.check_minimums(
        {"jinja2": "3.1.5", "urllib3": "2.10.0", "ecdsa": "0.19.2"}, POLICY
    )
    assert [(f.package, f.note) for f in found] == [("jinja2", False), ("ecdsa", True)]
    assert "CVE-2025-27516" in found[0].text


@pytest.mark.parametrize(
    ("licences", "good"),
    [
        ([{"license": {"id": "MIT"}}], True),
        ([{"license": {"name": "License :: OSI Approved :: BSD License"}}], True),
        ([{"expression": "GPL-3.0-only OR MIT"}], True),
        ([{"expression": "GPL-3.0-only AND MIT"}], False),
        ([{"expression": "Apache-2.0 WITH LLVM-exception"}], True),
        ([{"expression": "GPL-2.0-only WITH Classpath-exception-2.0"}], False),
        ([{"license": {"id": "MIT"}}, {"license": {"id": "AGPL-3.0-only"}}], False),
        ([{"license": {"name": "free for friends (mostly)"}}], False),
        ([], False),
    ],
)
def test_licences(licences: list[Mapping[str, Any]], good: bool) -> None:
    document = {"components": [{"name": "x", "licenses": licences}]}
    assert (audit.check_licences(document, POLICY) == []) == good


# ---- what is shipped ----


@pytest.mark.slow
def test_the_sbom_is_valid_and_says_what_a_phone_needs() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    document = wheel_document(environment_document(), PROJECT, read_lock())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    scopes = {normal(c["name"]): c["scope"] for c in document["components"]}
    required = {name for name, scope in scopes.items() if scope == "required"}
    assert {normal(Requirement(line).name) for line in PROJECT["dependencies"]} <= required
    # llama-cpp-python is not for Android, and brings numpy and diskcache.
    assert required <= {
        "click", "diskcache", "ecdsa", "jinja2", "llama-cpp-python", "markupsafe", "mnemonic",
        "numpy", "six", "tqdm", "typing-extensions", "waitress",
    }  # fmt: skip
    assert scopes["torch"] == scopes["model-signing"] == "optional"
    assert not {"ruff", "mypy", "hatchling", "pytest-cov"} & scopes.keys()
    locked = {entry.name: entry for entry in read_lock()}
    for component in document["components"]:
        name = normal(component["name"])
        if name in locked and locked[name].version == component["version"]:
            digests = {p["value"] for p in component.get("properties", ())}
            assert digests >= set(locked[name].sha256), name
    assert document["metadata"]["component"]["version"] == PROJECT.get("version", version())


def version() -> str:
    import pedsup

    return pedsup.__version__


def copy_of_the_project(target: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("this is no git checkout: clone it")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    return target


@pytest.mark.slow
def test_two_builds_give_one_wheel(tmp_path: Path) -> None:
    """Other folders, other umasks, other times of the files, other locale and time zone."""
    digests = []
    for folder, umask, zone in (("a", 0o022, "UTC"), ("b/deeper one", 0o077, "Asia/Tokyo")):
        before = os.umask(umask)
        try:
            source = copy_of_the_project(tmp_path / folder)
            for path in source.rglob("*"):
                os.utime(path, (umask * 1e6, umask * 1e6))
            subprocess.run(
                [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "out",
                 source],
                env={**os.environ, "SOURCE_DATE_EPOCH": "1760000000", "TZ": zone},
                check=True, capture_output=True, umask=umask,
            )  # fmt: skip
        finally:
            os.umask(before)
        built = sorted((tmp_path / "out").iterdir())
        assert [path.suffix for path in built] == [".whl", ".gz"]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in built])
        for path in built:
            path.unlink()
    assert digests[0] == digests[1]
