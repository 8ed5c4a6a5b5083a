"""The real server on a scripted engine: `python scripted_server.py CONFIG.json`.

The configuration holds the template, the script, a delay per token and the transcripts' folder; a
question 'echo TEXT' is answered with its text, whatever the script says. With `sees`, one that
comes with pictures is answered with the beginnings of their digests.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pedsup.chat.templates.template import ChatTemplate
from pedsup.cli.border import border
from pedsup.device.cores import ThreadPlan
from pedsup.engine.api import EngineConfig, SamplingConfig, Token
from pedsup.errors import EngineError
from pedsup.run.load import LoadedModel, turn_settings
from pedsup.serve.command import ServeRequest, serve
from pedsup.serve.http_server import reserve_port
from pedsup.session.consent import accepted_by_environment, require_consent
from pedsup.session.files import new_session
from pedsup.session.history import Session
from pedsup.settings.schema import Settings
from pedsup.trust.identity import ModelIdentity
from pedsup.trust.store import TrustStore
from pedsup.trust.verdict import Trust
from pedsup.trust.verified import FileState
from pedsup_testing.fake_engine import END
from pedsup_testing.scripted_repl import SlowEngine

ECHO = re.compile(r"echo ([^<]*)<turn\|>\n<\|turn>model\n\Z")
SEEN = re.compile(r"((?:\s*\[[0-9a-f]{8}\]\s*)+)[^<]*<turn\|>\n<\|turn>model\n\Z")


class EchoEngine(SlowEngine):
    """Repeats what it is asked to, and says where it is in a long prompt.

    With `dies` it stays dead after the token 'DIE'.
    """

    dies = dead = False
    reading_s = 0.0
    """How long it takes to read a prompt."""

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Token]:  # type: ignore[override]
        prompt = self.text(args[0])
        if found := ECHO.search(prompt) or SEEN.search(prompt):
            self.script.insert(0, [*found[1], END])
        if kwargs.get("on_prompt") is not None:
            kwargs["on_prompt"](1, 2)
            for done in range(int(self.reading_s * 10)):
                time.sleep(0.1)
                kwargs["on_prompt"](100 + done, 100 + 10 * int(self.reading_s * 10))
        try:
            yield from super().generate(*args, **kwargs)
        except EngineError:
            self.dead = self.dies
            raise

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        if self.dead:
            raise EngineError("the engine is gone")
        return super().tokenize(text, parse_special=parse_special)


def unsigned() -> Trust:
    """What is known of a file that nobody signed."""
    path = Path("scripted.gguf")
    return Trust(
        path=path, name="Scripted", header_sha256="d" * 64, state=FileState(1, 0, 0, 0, 0),
        signed="unsigned", key=None, hint=None, expected_sha256=None,
        weights="nothing-to-compare", store=TrustStore(path),
    )  # fmt: skip


def main() -> int:
    """Build the server as `pedsup-run --serve` would and run it."""
    config = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    engine = EchoEngine(config.get("script", []))
    engine.delay_s = config.get("delay_s", 0.0)
    engine.dies = config.get("dies", False)
    engine.reading_s = config.get("reading", 0.0)
    engine.n_ctx = config.get("ctx", engine.n_ctx)
    engine.can_see = config.get("sees", False)
    loaded = LoadedModel(
        engine=engine,
        template=ChatTemplate.from_model(config["template"], bos="<bos>"),
        identity=ModelIdentity(config.get("name", "Scripted"), "scripted.gguf", 1, "d" * 64, None),
        config=EngineConfig(Path("scripted.gguf")),
        threads=ThreadPlan(1, None, "asked for"),
        sampling=SamplingConfig(seed=7),
        load_s=0.0,
        trust=unsigned() if config.get("unsigned") else None,
    )
    if accepted_by_environment():
        require_consent("en", accepted=True, ask=None)
    folder = Path(config["folder"])
    kept = config.get("history", True)

    def make_session() -> Session:
        return new_session(folder, {"model": {"digest": "d" * 64}}) if kept else Session()

    with closing(reserve_port(0)) as sock:
        request = ServeRequest(
            sock=sock, language="en", chosen_language=None, as_json=True,
            system=config.get("system", ""), fixed_seed=False,
            folder=folder if kept else None, make_session=make_session,
        )  # fmt: skip
        return serve(request, loaded, turn_settings(loaded, Settings()))


if __name__ == "__main__":
    border(main)
