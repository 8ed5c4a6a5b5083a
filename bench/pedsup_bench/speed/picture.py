"""What one picture costs: tokens, seconds, memory. Runs in a measured process of its own."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Final

from pedsup.engine.api import Engine, SamplingConfig
from pedsup.engine.limits import cannot_see
from pedsup.errors import EngineError
from pedsup.pictures.picture import Picture
from pedsup.pictures.read import picture_from_bytes, read_picture
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.process_memory import engine_memory
from pedsup_bench.speed.result import SeenPicture

WORDS: Final = 4
"""Tokens of text before the picture: others for each sample, so that nothing is kept."""


def see_pictures(
    plan: SpeedPlan, engine: Engine, text: Sequence[int], step: Callable[[], object]
) -> SeenPicture:
    """Show the model one picture after the other, and read each as a part of a prompt.

    The first sample is apart: with the in-process engine it loads the projector.

    Args:
        text: tokens of prose, more than `WORDS` and `plan.repeats` together.
        step: called after each picture.

    Raises:
        BadFileError, UnsupportedError: the picture, or the projector, is not one that is taken.
        EngineError: the engine did not look at a picture anew.
    """
    if not engine.can_see:
        raise cannot_see()
    shown = [picture_of(plan, number) for number in range(plan.repeats + 1)]
    samples, n_tokens = [], 0
    for number, picture in enumerate(shown):
        seconds, n_tokens = _see(engine, picture, text[number : number + WORDS], text[:1])
        samples.append(seconds)
        step()
    memory = engine_memory()
    width, height = shown[0].upright_size
    return {
        "image": "noise" if plan.image is None else plan.image.name,
        "image_sha256": None if plan.image is None else shown[0].sha256,
        "width": width,
        "height": height,
        "tokens": n_tokens,
        "first_s": samples[0],
        "samples": samples[1:],
        "rss_anon": memory.anon or None,
        "rss_file": memory.file or None,
        "peak": memory.peak or None,
    }


def _see(
    engine: Engine, picture: Picture, before: Sequence[int], after: Sequence[int]
) -> tuple[float, int]:
    """Seconds for one picture between tokens of text, and how many tokens it takes."""
    started = perf_counter()
    places = engine.see(picture)
    sampling = SamplingConfig(temperature=0.0)
    for _ in engine.generate([*before, *places, *after], sampling, max_tokens=0):
        pass
    seconds = perf_counter() - started
    if engine.last_stats.n_cached > WORDS:
        raise EngineError(
            f"the engine kept {engine.last_stats.n_cached} tokens of the picture before",
            wanted="a picture that is seen anew for each sample",
        )
    return seconds, sum(token < 0 for token in places)


def picture_of(plan: SpeedPlan, number: int) -> Picture:
    """The picture of a sample: its own noise, or the file under a name of its own.

    Engines keep what they have seen by a picture's digest; each sample must be seen anew.
    """
    if plan.image is None:
        width, height = plan.noise
        return picture_from_bytes(noise_png(width, height, number), where="noise")
    picture = read_picture(plan.image)
    if number == 0:
        return picture
    other = hashlib.sha256(f"{picture.sha256} {number}".encode()).hexdigest()
    return replace(picture, sha256=other)


def noise_png(width: int, height: int, seed: int) -> bytes:
    """A PNG file of random pixels, RGB with 8 bits each."""
    source = random.Random(seed)
    rows = b"".join(b"\0" + source.randbytes(3 * width) for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def check_picture(image: Path | None, size: tuple[int, int] | None) -> None:
    """Refuse a picture before anything is measured.

    Raises:
        BadFileError, UnsupportedError: it is not one that is taken.
    """
    if image is not None:
        read_picture(image)
    elif size is not None:
        picture_from_bytes(noise_png(*size, 0), where=f"--picture {size[0]}x{size[1]}")
