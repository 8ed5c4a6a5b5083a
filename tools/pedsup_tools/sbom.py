"""A CycloneDX SBOM of the wheel: what it needs, as installed here and locked by hash.

`cyclonedx-py environment` reads names, licences and the graph from the installed packages. What no
stage needs is left out; `scope` says whether the phone needs a component or only an extra does;
the lock's SHA-256 digests are added.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

import pedsup
from pedsup.files.fsio import atomic_file
from pedsup_tools.lock import Locked, normal, read_lock

ROOT: Final = Path(__file__).parents[2]
DEVELOPMENT: Final = frozenset({"test", "dist"})
"""Extras that only this repository's own tests and builds use."""

Document = dict[str, Any]


def environment_document() -> Document:
    """The SBOM of everything installed here, reproducible, with pedsup as its root."""
    command = [
        sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject",
        str(ROOT / "pyproject.toml"), "--mc-type", "application", "--output-reproducible",
        "--spec-version", "1.6", "--no-validate", "--of", "JSON", "-o", "-", sys.executable,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document: Document = json.loads(done.stdout)
    return document


def wheel_document(document: Document, project: Document, locked: Iterable[Locked]) -> Document:
    """The part of an environment that the wheel and its extras need.

    Args:
        document: `environment_document`.
        project: the `project` table of pyproject.toml.
    """
    phone = closure(project["dependencies"])
    extras = [
        line
        for name, lines in project["optional-dependencies"].items()
        if name not in DEVELOPMENT
        for line in lines
    ]
    edges = closure([*project["dependencies"], *extras])
    refs = {normal(c["name"]): c["bom-ref"] for c in document["components"]}
    digests = {(entry.name, entry.version): entry.sha256 for entry in locked}
    root = {**document["metadata"]["component"], "version": pedsup.__version__}
    return {
        **document,
        "metadata": {**document["metadata"], "component": root},
        "components": [
            _component(c, required=normal(c["name"]) in phone, digests=digests)
            for c in document["components"]
            if normal(c["name"]) in edges
        ],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(refs[name] for name in needs if name in refs)}
            for ref, needs in sorted(
                [(root["bom-ref"], edges[""])]
                + [(refs[name], needs) for name, needs in edges.items() if name in refs]
            )
        ],
    }


def closure(requirements: Iterable[str]) -> dict[str, set[str]]:
    """What a list of requirements needs here, and what that needs: name -> names.

    The requirements themselves stand under the empty name. What is not installed has no needs.
    """
    edges: dict[str, set[str]] = {"": set()}
    todo = [("", Requirement(line)) for line in requirements]
    seen = set[tuple[str, str]]()
    while todo:
        parent, requirement = todo.pop()
        name = normal(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        edges[parent].add(name)
        edges.setdefault(name, set())
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                todo += [(name, need) for need in _needs(name, extra)]
    return edges


def _needs(name: str, extra: str) -> list[Requirement]:
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    needs = []
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            requirement.marker = None
            needs.append(requirement)
    return needs


def _component(
    component: Document, *, required: bool, digests: Mapping[tuple[str, str], tuple[str, ...]]
) -> Document:
    known = digests.get((normal(component["name"]), component["version"]), ())
    return {
        **component,
        "scope": "required" if required else "optional",
        "properties": [
            *component.get("properties", ()),
            *({"name": "pedsup:lock:sha256", "value": digest} for digest in known),
        ],
    }


def main() -> None:
    """Write the SBOM to the path given."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    document = wheel_document(environment_document(), project, read_lock())
    with atomic_file(Path(sys.argv[1])) as file:
        file.write(json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


if __name__ == "__main__":
    main()
