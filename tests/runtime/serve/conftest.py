"""Servers: the real program on SmolLM2, and the real server on a scripted engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import scripted_server
from pedsup_testing.browser import chromium, programs
from pedsup_testing.home import environment
from pedsup_testing.served import Served

QUICK = ["--temp", "0", "--max-tokens", "24", "--ctx", "512", "--threads", "1", "--lang", "en"]
Start = Callable[..., Served]


@pytest.fixture
def start(tmp_path: Path, smollm2: Path) -> Iterator[Start]:
    """A function that starts `pedsup-run SmolLM2 --serve` with more options."""
    running: list[Served] = []

    def launch(*options: str, accepted: bool = True, port: int = 0) -> Served:
        command = ["-m", "pedsup", str(smollm2), "--serve", "--json", "--port", str(port)]
        server = Served([*command, *QUICK, *options], environment(tmp_path, accepted=accepted))
        running.append(server)
        return server

    yield launch
    for server in running:
        server.finish()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Served]:
    """One `pedsup-run SmolLM2 --serve` for a whole module."""
    home = tmp_path_factory.mktemp("home")
    command = ["-m", "pedsup", str(smollm2), "--serve", "--json", "--port", "0", *QUICK]
    server = Served(command, environment(home))
    yield server
    server.finish()


@pytest.fixture
def scripted(tmp_path: Path, edge_template: str) -> Iterator[Start]:
    """A function that starts the server on a scripted Gemma 4 with what it shall write."""
    running: list[Served] = []

    def launch(*script: list[str], accepted: bool = True, **options: Any) -> Served:
        config = tmp_path / f"config-{len(running)}.json"
        folder = tmp_path / "sessions"
        folder.mkdir(exist_ok=True)
        document = {"script": script, "template": edge_template, "folder": str(folder), **options}
        config.write_text(json.dumps(document), encoding="utf-8")
        server = Served(
            [scripted_server.__file__, str(config)], environment(tmp_path, accepted=accepted)
        )
        running.append(server)
        return server

    yield launch
    for server in running:
        server.finish()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory, edge_template: str) -> Iterator[Served]:
    """One scripted server for a whole module: it answers 'echo TEXT' with the text."""
    home = tmp_path_factory.mktemp("home")
    config = home / "config.json"
    document = {"template": edge_template, "folder": str(home), "history": False}
    config.write_text(json.dumps(document), encoding="utf-8")
    server = Served([scripted_server.__file__, str(config)], environment(home))
    yield server
    server.finish()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium in the size of a small phone."""
    pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    if programs() is None:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver (`make browser`)")
    with chromium(tmp_path / "profile") as chrome:
        yield chrome
