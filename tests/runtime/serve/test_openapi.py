"""The OpenAPI document: true to the server (schemathesis), and complete."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing.served import Served

from pedsup.serve import command

DOCUMENT = json.loads((Path(command.__file__).parent / "openapi.json").read_text("utf-8"))


def test_the_document_names_every_path_of_the_server() -> None:
    class Nothing:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    routes = command.routes(Nothing(), Nothing(), Nothing())  # type: ignore[arg-type]
    real = {(route.path.replace("*", "{}"), method.lower(), route.open)
            for route in routes for method in route.handlers}  # fmt: skip
    described = set()
    for path, operations in DOCUMENT["paths"].items():
        head, brace, _ = path.partition("{")
        for method, operation in operations.items():
            is_open = operation.get("security") == []
            described.add((head + ("{}" if brace else ""), method, is_open))
    assert described == real


def test_the_server_serves_the_document(real: Served) -> None:
    assert real.call("GET", "/openapi.json", Authorization="")[2] == DOCUMENT


@pytest.mark.slow
def test_the_server_does_what_the_document_says(real: Served, pytestconfig: Any) -> None:
    """In a process of its own: working out the cases takes longer than collecting all tests."""
    cases = Path(__file__).with_name("openapi_cases.py")
    environment = os.environ | {"PEDSUP_PORT": str(real.port), "PEDSUP_TOKEN": real.token}
    command_line = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        str(cases),
    ]
    done = subprocess.run(
        command_line, cwd=pytestconfig.rootpath, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    n = sum(len(operations) for operations in DOCUMENT["paths"].values())
    assert re.search(rf"\b{n} passed", done.stdout), done.stdout
