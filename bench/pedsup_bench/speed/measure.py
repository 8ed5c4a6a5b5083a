"""Run the measured processes and put their samples into one document."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Final

from pedsup.files.fsio import sha256_file
from pedsup.gguf_file.validate import validate_model
from pedsup.phones.traffic import Traffic, traffic
from pedsup.progress import say
from pedsup_bench.report import document
from pedsup_bench.report.forecast import announce
from pedsup_bench.speed import device
from pedsup_bench.speed.child import measured_load, measured_picture, measured_speed
from pedsup_bench.speed.device import Busy, Moment, between, warning_before
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.progress import (
    Work,
    foresee,
    load_steps,
    picture_steps,
    speed_steps,
    work_bar,
)
from pedsup_bench.speed.result import (
    SCHEMA,
    BytesPerToken,
    Figure,
    Figures,
    Load,
    PictureEntry,
    Resources,
    RunDocument,
    SeenPicture,
    Speed,
    Unit,
)
from pedsup_bench.stats import median, spread

COLD: Final = 0.02
"""Share of the file's pages that may be there: headers that were just checked."""
READ: Final = 0.9
"""Share of the file that must come from storage where the kernel does not show its pages."""


def resident_share(path: Path) -> float | None:
    """Share of a file's pages in the page cache, by mincore(2); None if that is not available.

    Linux says 1.0 of a file that the caller neither owns nor may write.
    """
    size = path.stat().st_size
    if not size:
        return None
    n_pages = -(-size // mmap.PAGESIZE)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        map_, unmap, ask = libc.mmap, libc.munmap, libc.mincore
    except (OSError, AttributeError):
        return None
    map_.restype = ctypes.c_void_p
    map_.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                     ctypes.c_long]  # fmt: skip
    unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    ask.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    with path.open("rb") as file:
        address = map_(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    pages = ctypes.create_string_buffer(n_pages)
    try:
        if ask(address, size, pages) != 0:
            return None
    finally:
        unmap(address, size)
    # The other bits of each byte mean nothing.
    return sum(page & 1 for page in pages.raw) / n_pages


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget the file's pages; needs no rights where nobody maps them."""
    if not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def was_cold(resident: float | None, read_bytes: int | None, size: int) -> bool:
    """Whether a load began without the file: by its pages just before, or by what was read."""
    if resident is not None and resident <= COLD:
        return True
    return read_bytes is not None and read_bytes >= READ * size


_FILES: Final = ("model", "adapter", "projector", "image")
"""Settings that are paths: the document names them by their content."""


def measure(plan: SpeedPlan) -> RunDocument:
    """The whole document of `pedsup-bench run`.

    Raises:
        EngineError: a measured process failed or was killed.
        BadFileError, UnsupportedError: the file is not a model that pedsup runs.
    """
    header = validate_model(plan.model)
    bytes_per_token = traffic(header)
    began = Moment.now()
    if warning := warning_before(began):
        say(warning)
    loads, speed, seen = _samples(plan, foresee(header, plan))
    found = _document(plan, bytes_per_token, loads, speed, between(began, Moment.now()))
    if plan.projector is None or seen is None:
        return found
    samples = entry(seen["samples"], "s")
    assert samples is not None, "a plan has at least one repeat"
    found["figures"]["picture"] = samples
    found["picture"] = _picture_entry(plan.projector, seen)
    return found


def _picture_entry(projector: Path, seen: SeenPicture) -> PictureEntry:
    return {
        **seen,
        "projector": projector.name,
        "projector_sha256": sha256_file(projector),
        "projector_bytes": projector.stat().st_size,
    }


def _in_bytes(found: Traffic) -> BytesPerToken:
    return {
        "weights": found.weights,
        "rows": found.rows,
        "cache_per_1000_tokens": found.cache(1000),
    }


def _resources(after: Resources) -> Resources:
    return {
        "rss_anon": after["rss_anon"],
        "rss_file": after["rss_file"],
        "read_bytes": after["read_bytes"],
        "major_faults": after["major_faults"],
    }


def _document(
    plan: SpeedPlan,
    bytes_per_token: Traffic,
    loads: dict[str, list[Load]],
    speed: Speed,
    busy: Busy,
) -> RunDocument:
    head, before, after = document.head(SCHEMA), speed["before"], speed["after"]
    return {
        "schema": head["schema"],
        "kind": head["kind"],
        "version": head["version"],
        "program": head["program"],
        "warnings": head["warnings"],
        "created": head["created"],
        "pedsup": head["pedsup"],
        "intended_use": head["intended_use"],
        "measured": True,
        "model": document.describe_model(plan.model, plan.adapter, digest=False),
        "device": device.describe(),
        "settings": {k: v for k, v in plan.to_json().items() if k not in _FILES},
        "engine": speed["engine"],
        "build": speed["build"],
        "n_ctx": speed["n_ctx"],
        "bandwidth": {
            "n_threads": plan.n_threads,
            "best": max(speed["bandwidth"]),
            "passes": speed["bandwidth"],
            "by": "memchr",
        },
        "bytes_per_token": _in_bytes(bytes_per_token),
        "busy": busy,
        "figures": figures(plan, loads, speed, bytes_per_token),
        "memory": _resources(after),
        "sustained": speed["sustained"],
        "celsius": {"before": before["celsius"], "after": after["celsius"]},
        "battery": {"before": before["battery"], "after": after["battery"]},
    }


def _samples(
    plan: SpeedPlan, work: Work
) -> tuple[dict[str, list[Load]], Speed, SeenPicture | None]:
    """Each load, all speeds and pictures, in processes of their own."""
    loads: dict[str, list[Load]] = {"cold": [], "uncertain": [], "warm": []}
    with work_bar(work, plan.model.name):
        for number in range(2 * plan.loads):
            kind, load = load_once(plan, cold=number < plan.loads)
            loads[kind].append(load)
            work.done(load_steps(plan))
            if number == 0:
                _announce(plan, work, load)
        steps = iter(speed_steps(plan))
        speed = measured_speed(plan, on_step=lambda: work.done([next(steps)]))
        if plan.projector is None:
            return loads, speed, None
        more = iter(picture_steps(plan))
        seen = measured_picture(plan, on_step=lambda: work.done([next(more)]))
        return loads, speed, seen


def _announce(plan: SpeedPlan, work: Work, first: Load) -> None:
    """Say how long the rest takes, by the first load and its prompt."""
    work.saw("prompt", first["first_token_s"], plan.first_prompt)
    announce("loads, cold and warm, then prompts and decoding", work.left())


def figures(
    plan: SpeedPlan, loads: dict[str, list[Load]], speed: Speed, bytes_per_token: Traffic
) -> Figures:
    """Every figure with its samples, unit, direction, and ceiling where there is one."""
    best = max(speed["bandwidth"])
    result: dict[str, Figure | None] = {}
    for kind, runs in loads.items():
        result[f"load_{kind}"] = entry([r["load_s"] for r in runs], "s")
        result[f"first_token_{kind}"] = entry([r["first_token_s"] for r in runs], "s")
        result[f"read_{kind}"] = entry(_known([r["read_bytes"] for r in runs]), "B")
        result[f"rss_anon_{kind}"] = entry(_known([r["rss_anon"] for r in runs]), "B")
        result[f"rss_file_{kind}"] = entry(_known([r["rss_file"] for r in runs]), "B")
    for n, samples in speed["prompt"].items():
        ceiling = best / bytes_per_token.prompt(int(n), plan.n_ubatch)
        result[f"prompt_{n}"] = entry(samples, "tokens/s", ceiling)
    for depth, samples in speed["decode"].items():
        ceiling = best / bytes_per_token.decode(int(depth) + plan.n_decode // 2)
        result[f"decode_{depth}"] = entry(samples, "tokens/s", ceiling)
    return {name: value for name, value in result.items() if value is not None}


def _known(values: list[int | None]) -> list[float]:
    return [value for value in values if value is not None]


def entry(samples: list[float], unit: Unit, ceiling: float | None = None) -> Figure | None:
    """One figure; None without samples."""
    if not samples:
        return None
    middle = median(samples)
    return {
        "unit": unit,
        "higher_is_better": unit == "tokens/s",
        "n": len(samples),
        "median": middle,
        "spread": spread(samples),
        "low": min(samples),
        "high": max(samples),
        "samples": samples,
        "ceiling": ceiling,
        "of_ceiling": None if ceiling is None else middle / ceiling,
    }


def load_once(plan: SpeedPlan, *, cold: bool) -> tuple[str, Load]:
    """One load in a child, and how it began: 'cold', 'warm', or 'uncertain'.

    For a cold one the file is dropped from the page cache first. Whether it was is measured: a
    file that another program maps stays.
    """
    if not cold:
        return "warm", measured_load(plan)
    drop_from_cache(plan.model)
    resident = resident_share(plan.model)
    load = measured_load(plan)
    size = plan.model.stat().st_size
    return "cold" if was_cold(resident, load["read_bytes"], size) else "uncertain", load
