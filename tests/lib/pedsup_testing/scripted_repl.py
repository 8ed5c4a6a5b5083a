"""The real interactive session on a scripted engine: `python scripted_repl.py CONFIG.json`.

The configuration holds the template, the script, a delay per token and the transcript's folder.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pedsup.chat.templates.template import ChatTemplate
from pedsup.cli.border import border
from pedsup.device.cores import ThreadPlan
from pedsup.engine.api import EngineConfig, SamplingConfig, Token
from pedsup.errors import EngineError
from pedsup.run.load import LoadedModel, turn_settings
from pedsup.session.conversation import Conversation
from pedsup.session.files import find_session, new_session, resume_session
from pedsup.settings.schema import Settings
from pedsup.terminal.reading import terminal_reader
from pedsup.terminal.render import terminal_renderer
from pedsup.terminal.repl import Repl
from pedsup.trust.identity import ModelIdentity
from pedsup_testing.fake_engine import FakeEngine


class SlowEngine(FakeEngine):
    """Takes its time for each token, and dies at the token 'DIE'."""

    delay_s = 0.0

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[Token]:  # type: ignore[override]
        for token in super().generate(*args, **kwargs):
            time.sleep(self.delay_s)
            if token.piece == b"DIE":
                raise EngineError("the engine was killed (signal 9)", remedy="use a smaller model")
            yield token


def main() -> int:
    """Build the session as `pedsup-run` would and run it."""
    config = json.loads(Path(sys.argv[1]).read_text())
    engine = SlowEngine(config["script"])
    engine.delay_s = config.get("delay_s", 0.0)
    engine.can_see = config.get("sees", False)
    template = ChatTemplate.from_model(config["template"], bos="<bos>")
    loaded = LoadedModel(
        engine=engine,
        template=template,
        identity=ModelIdentity("Scripted", "scripted.gguf", 1, "d" * 64, None),
        config=EngineConfig(Path("scripted.gguf")),
        threads=ThreadPlan(1, None, "asked for"),
        sampling=SamplingConfig(seed=7),
        load_s=0.0,
    )
    settings = Settings(think=config.get("think", "shown"))
    folder = Path(config["folder"])
    if config.get("resume"):
        session = resume_session(find_session(folder, "last"))
    else:
        session = new_session(folder, {"model": {"digest": "d" * 64}})
    conversation = Conversation(engine, template, session, terminal_renderer(settings.think, "en"))
    earlier = [exchange.user for exchange in session.exchanges]
    turns = turn_settings(loaded, settings)
    try:
        code = Repl(conversation, loaded, turns, terminal_reader(earlier)).run()
    finally:
        Path(config["calls"]).write_text(
            json.dumps([{"prompt": call.prompt, "max_tokens": call.max_tokens}
                        for call in engine.calls])
        )  # fmt: skip
    return code


if __name__ == "__main__":
    border(main)
