"""The parsed command line of a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunRequest:
    """The command line, parsed; `overrides` are settings by name, None where not given."""

    model: Path | None
    prompt: str | None
    images: tuple[Path, ...]
    as_json: bool
    check: bool
    resume: str | None
    grammar: Path | None
    json_schema: Path | None
    settings_file: Path | None
    accept_intended_use: bool
    serve: bool
    port: int | None
    overrides: Mapping[str, object]

    @property
    def interactive(self) -> bool:
        """Whether this is a session rather than one question."""
        once = self.prompt is not None or self.as_json or self.serve or self.images
        return not once and sys.stdin is not None and sys.stdin.isatty()

    @property
    def alone(self) -> bool:
        """Whether somebody at a terminal gave neither a model nor anything to do."""
        asked = self.model is not None or self.resume is not None or self.check
        return not asked and self.interactive
