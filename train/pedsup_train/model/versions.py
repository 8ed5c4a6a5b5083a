"""Library versions: which are recorded, and which are known to train Gemma 4 wrongly."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Final

from pedsup.errors import UnsupportedError

RECORDED: Final = (
    "pedsup", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "tokenizers",
    "safetensors", "datasets", "unsloth", "unsloth_zoo", "triton",
)  # fmt: skip


@dataclass(frozen=True)
class KnownBad:
    """Versions below `fixed` of `package` train `model_type` models on a wrong forward pass."""

    package: str
    fixed: str
    model_type: str
    reason: str


_SHARED_KV = (
    "layers that share K/V read it through the cache, which is off in training, and fell back on"
    " projections that inference never uses"
)
KNOWN_BAD: Final = (
    KnownBad("transformers", "5.6.0", "gemma4", f"{_SHARED_KV} (transformers #45242, #45312)"),
    # The fix is in the wheel of 2026.6.7 (22 June 2026) and not in that of 2026.6.6. It also makes
    # checkpointing non-reentrant, without which the layer that the others read got wrong gradients.
    KnownBad("unsloth_zoo", "2026.6.7", "gemma4", f"{_SHARED_KV} (unsloth-zoo #813)"),
)


def installed(package: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def recorded() -> dict[str, str]:
    """Versions that go into the adapter's card."""
    found = {name: version for name in RECORDED if (version := installed(name))}
    return {"python": platform.python_version(), **found}


def refuse_known_bad(model_type: str, packages: tuple[str, ...]) -> None:
    """Raise `UnsupportedError` if a package in use is known to train this kind of model wrongly."""
    from packaging.version import Version

    for bad in KNOWN_BAD:
        version = installed(bad.package)
        if bad.package not in packages or not model_type.startswith(bad.model_type) or not version:
            continue
        if Version(version).release < Version(bad.fixed).release:
            raise UnsupportedError(
                f"{bad.package} {version} trains {model_type} on a wrong forward pass:"
                f" {bad.reason}",
                wanted=f"{bad.package} {bad.fixed} or newer",
                remedy=f"pip install -U '{bad.package.replace('_', '-')}>={bad.fixed}'",
            )
