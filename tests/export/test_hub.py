"""Hub ids: the real huggingface_hub against a loopback hub that serves what the test made."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pedsup_testing import programs

COMMIT = "c0ffee" * 6 + "c0ff"
EXTRA = "pytorch_model.bin"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as `snapshot_download` speaks."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        names = [*sorted(p.name for p in self.folder.iterdir()), EXTRA]
        if path.startswith("/api/models/made/tiny/tree/"):
            tree = [{"type": "file", "path": n, "size": 1, "oid": "0" * 40} for n in names]
            content = json.dumps(tree).encode()
        elif path.startswith("/api/models/made/tiny/"):
            info = {"id": "made/tiny", "modelId": "made/tiny", "sha": COMMIT, "private": False,
                    "siblings": [{"rfilename": n} for n in names]}  # fmt: skip
            content = json.dumps(info).encode()
        elif path.startswith(f"/made/tiny/resolve/{COMMIT}/"):
            self.asked.append(path.rpartition("/")[2])
            content = (self.folder / self.asked[-1]).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def hub(models: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    handler = type("MadeHub", (Hub,), {"folder": models["e4b"], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def run(*arguments: object, home: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **extra}
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN"):
        if name not in extra:
            environment.pop(name, None)
    return programs.run("pedsup_export", *arguments, env=environment, timeout=120)


@pytest.mark.slow
def test_only_the_needed_files_are_fetched_and_the_commit_is_pinned(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    endpoint, asked = hub
    out, home = tmp_path / "m.gguf", tmp_path / "home"
    done = run("run", "--base", "made/tiny", "--out", out, home=home, HF_ENDPOINT=endpoint)
    assert done.returncode == 0, done.stderr
    assert EXTRA not in asked
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(asked)
    manifest = json.loads((tmp_path / "m.gguf.manifest.json").read_text())
    assert manifest["core"]["base"]["name"] == "made/tiny"
    assert manifest["core"]["base"]["revision"] == COMMIT
    # A second time, offline, from the cache.
    asked.clear()
    again = run("run", "--base", "made/tiny", "--out", out, "--dry-run", "--json", home=home,
                HF_HUB_OFFLINE="1")  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["architecture"] == "gemma4"
    assert not asked


def test_offline_and_not_in_the_cache(tmp_path: Path) -> None:
    done = run("run", "--base", "nobody/nothing", "--out", tmp_path / "m.gguf",
               home=tmp_path, HF_HUB_OFFLINE="1")  # fmt: skip
    assert done.returncode == 13
    assert "cannot be reached" in done.stderr
    assert "hf download nobody/nothing" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_such_repository(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    done = run("run", "--base", "made/other", "--out", tmp_path / "m.gguf",
               home=tmp_path, HF_ENDPOINT=hub[0])  # fmt: skip
    assert done.returncode == 13
    assert "there is no repository 'made/other'" in done.stderr


def test_neither_folder_nor_hub_id(tmp_path: Path) -> None:
    done = run("run", "--base", "./not/there", "--out", tmp_path / "m.gguf", home=tmp_path)
    assert done.returncode == 2
    assert "neither a folder nor a hub id" in done.stderr
