"""axe-core, the accessibility checker, for the tests of the page.

`python -m pedsup_testing.axe` fetches it with npm into the user's cache, once. Its digest is
checked when it is fetched and when it is used. It is under MPL-2.0 and no part of pedsup.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

from pedsup.files.paths import cache_folder

VERSION: Final = "4.14.1"
PACKED: Final = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
"""SHA-256 of npm's tarball."""
SCRIPT: Final = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""SHA-256 of `axe.min.js` in it."""
PATH: Final = Path(os.environ.get("PEDSUP_AXE") or cache_folder() / f"axe-core-{VERSION}.min.js")
RULES: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


def script() -> str | None:
    """The checker's source, or None where it was not fetched."""
    if not PATH.is_file():
        return None
    data = PATH.read_bytes()
    _require(data, SCRIPT)
    return data.decode()


def fetch() -> None:
    """Fetch it where it is not there yet."""
    if script() is not None:
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", "--ignore-scripts", f"axe-core@{VERSION}"],
            cwd=folder, check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "npm_config_cache": str(Path(folder) / "cache")},
        )  # fmt: skip
        (archive,) = Path(folder).glob("*.tgz")
        _require(archive.read_bytes(), PACKED)
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/axe.min.js")
            assert member is not None
            data = member.read()
    _require(data, SCRIPT)
    PATH.parent.mkdir(parents=True, exist_ok=True)
    partial = PATH.with_suffix(".partial")
    partial.write_bytes(data)
    partial.rename(PATH)


def violations(browser: Any, source: str) -> list[str]:
    """What it finds on the page as it is now: rule, impact and elements."""
    browser.execute_script("if (!window.axe) { " + source + " }")
    found = browser.execute_async_script(
        "const [tags, done] = arguments;"
        "axe.run(document, {runOnly: tags, resultTypes: ['violations']})"
        ".then((r) => done(r.violations), (e) => done([{id: String(e), nodes: []}]));",
        list(RULES),
    )
    return [
        f"{one['id']} ({one.get('impact')}): {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found
    ]


def _require(data: bytes, digest: str) -> None:
    if hashlib.sha256(data).hexdigest() != digest:
        raise RuntimeError(f"axe-core {VERSION} is not the one that was looked at")


if __name__ == "__main__":
    try:
        fetch()
    except (OSError, subprocess.CalledProcessError) as error:
        # A desk without npm or a network goes on; CI fails on the test that is then skipped.
        print(f"axe-core was not fetched, its test is skipped: {error}", file=sys.stderr)
