"""The tests' own way to start commands: a fault in it must not let another test pass."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pedsup_testing import programs


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A program of one module, `thing_imports`, and what it does."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(programs.PRELOADED, "thing", ("thing_imports",))
    (tmp_path / "thing_imports.py").touch()
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing/__main__.py").write_text(
        "import sys, time\nprint('begun')\ntime.sleep(float(sys.argv[1]))\nsys.exit(7)\n"
    )
    yield "thing"
    if (server := programs._servers.pop(("thing",), None)) is not None:
        server.close()


def test_after_a_command_that_was_too_slow_the_next_one_has_its_own_exit_code(program: str) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        programs.run(program, 60, timeout=0.5)
    done = programs.run(program, 0)
    assert (done.returncode, done.stdout) == (7, "begun\n")


@pytest.mark.parametrize("said", ["print('x')", "import warnings; warnings.warn('x')"])
def test_what_an_import_says_is_not_lost(program: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "thing_imports.py").write_text(said)
    with pytest.raises(ConnectionError):
        programs.run(program, 0)
