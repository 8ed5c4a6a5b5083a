"""Whether a file is judged on what it was calibrated on: by the sketches in its manifest.

Rounding that was chosen on a text is good on that text. `pedsup-export calibrate` refuses the
texts that ship for judging; texts, questions and examples of the user's own are compared here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pedsup.errors import MismatchError, PedsupError
from pedsup.progress import say
from pedsup.questions.texts import SHINGLE, shared_with_sketch
from pedsup.trust.manifest import manifest_path, read_manifest


class Calibrating(NamedTuple):
    """A text that decided how a file was rounded: its name, and a sketch of its words."""

    name: str
    sketch: str


def sketches_of(model: Path) -> tuple[Calibrating, ...]:
    """The texts that a file's manifest names; () if it has none or was not calibrated."""
    try:
        core = read_manifest(manifest_path(model)).core
    except (PedsupError, OSError):
        return ()
    recipe = core.get("recipe")
    calibrated = recipe.get("calibrated") if isinstance(recipe, dict) else None
    return sketches_in(calibrated.get("texts") if isinstance(calibrated, dict) else None)


def sketches_in(texts: object) -> tuple[Calibrating, ...]:
    """The sketches in a list of texts, from a manifest or from statistics."""
    if not isinstance(texts, list | tuple):
        return ()
    named = [t for t in texts if isinstance(t, Mapping)]
    return tuple(Calibrating(str(t.get("name")), str(t.get("sketch", ""))) for t in named)


def found(calibrating: Iterable[Calibrating], judged: Mapping[str, str]) -> list[str]:
    """One sentence for each text that it is judged on (name -> words) and was calibrated on."""
    return [
        f"{name} and the calibration text '{text.name}' share {n} sampled passages (runs of "
        f"{SHINGLE} words, or short lines)"
        for name, words in judged.items()
        for text in calibrating
        if (n := shared_with_sketch(words, text.sketch))
    ]


def refuse(calibrating: Iterable[Calibrating], judged: Mapping[str, str]) -> None:
    """Refuse to pass a file on what it was calibrated on.

    Raises:
        MismatchError: names both texts.
    """
    if shared := found(calibrating, judged):
        raise MismatchError(
            "the file would be judged on text that it was calibrated on",
            where=shared,
            wanted="other text: its figures there flatter the file",
            remedy="judge it on text that was held out, or calibrate again without those passages",
        )


def warn(model: Path, judged: Mapping[str, str]) -> list[str]:
    """Warn instead of refusing, if figures are only shown; returns the sentences."""
    shared = found(sketches_of(model), judged)
    for sentence in shared:
        say(f"warning: {sentence}: figures on it flatter the file")
    return shared
