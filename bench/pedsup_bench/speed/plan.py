"""What a speed run measures. Plans travel to the child process as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from pedsup.engine.select import EngineChoice

MAX_REPEATS = 100
MAX_LOADS = 20
"""Most samples of a speed, and most loads of each kind."""

PICTURE = 512
"""Tokens of a picture and the text around it, at most."""


@dataclass(frozen=True)
class SpeedPlan:
    """Lengths and depths in tokens, times in seconds."""

    model: Path
    engine: EngineChoice = "auto"
    n_threads: int = 2
    n_ubatch: int = 512
    extra_buffers: bool = False
    prompts: tuple[int, ...] = (32, 128, 512)
    depths: tuple[int, ...] = (0, 512)
    n_decode: int = 32
    repeats: int = 5
    loads: int = 3
    """Cold and warm loads, each in a process of its own."""
    first_prompt: int = 128
    """Prompt tokens before the first token whose time is taken."""
    sustained: float = 0.0
    """Seconds of decoding without a pause; 0: none."""
    adapter: Path | None = None
    """The GGUF of a LoRA adapter to apply."""
    projector: Path | None = None
    """Through which the model sees, where a picture is measured."""
    image: Path | None = None
    """The picture; without it noise of the size `noise`."""
    noise: tuple[int, int] = (1024, 768)
    """Width and height in pixels."""
    cgroups: tuple[str, ...] = field(default=())
    """`cgroup.procs` files that the measured processes join first."""

    @property
    def n_ctx(self) -> int:
        """The context that all parts need, in tokens."""
        deepest = max((*self.depths, 0)) + self.n_decode
        longest = max((*self.prompts, self.first_prompt)) + self.repeats
        most = max(deepest, longest, PICTURE if self.projector else 0)
        return -(-most // 256) * 256 + 256

    def to_json(self) -> dict[str, object]:
        files = {name: getattr(self, name) for name in ("adapter", "projector", "image")}
        return {
            **asdict(self),
            "model": str(self.model),
            **{name: str(path) if path else None for name, path in files.items()},
        }
