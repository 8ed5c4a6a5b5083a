"""The document of `pedsup-bench run` and its parts, as they stand in JSON."""

from __future__ import annotations

from typing import Final, Literal, TypedDict

from pedsup.engine.vector_units import BuildFacts
from pedsup_bench.report.document import Head, ModelFacts
from pedsup_bench.speed.device import Battery, Busy, Device

SCHEMA: Final = "pedsup-bench-run/1"
Unit = Literal["s", "tokens/s", "B"]


class Figure(TypedDict):
    """One figure with its samples; `ceiling` is bandwidth over bytes read per token."""

    unit: Unit
    higher_is_better: bool
    n: int
    median: float
    spread: float
    low: float
    high: float
    samples: list[float]
    ceiling: float | None
    of_ceiling: float | None


Figures = dict[str, Figure]


class Bandwidth(TypedDict):
    """Memory reads in bytes per second, before and after the speeds."""

    n_threads: int
    best: float
    passes: list[float]
    by: str


class BytesPerToken(TypedDict):
    """What decoding one token reads."""

    weights: int
    rows: int
    cache_per_1000_tokens: int


class Resources(TypedDict):
    """Of the measured process and its child; bytes, and a count of faults."""

    rss_anon: int | None
    rss_file: int | None
    read_bytes: int | None
    major_faults: int | None


class Load(Resources):
    """One load in a process of its own; seconds."""

    load_s: float
    first_token_s: float
    n_prompt: int


class State(Resources):
    """Before or after the speeds."""

    celsius: dict[str, float]
    battery: Battery | None


class Sustained(TypedDict):
    """Decoding without a pause; tokens per second of the first and the last window."""

    seconds: float
    window: float
    first: float
    last: float
    samples: list[tuple[float, float]]
    """(second, tokens per second)"""
    celsius_before: dict[str, float]
    celsius_after: dict[str, float]


class Speed(TypedDict):
    """What the process that is measured finds; samples in tokens per second by length or depth."""

    engine: str
    build: BuildFacts | None
    n_ctx: int
    before: State
    after: State
    prompt: dict[str, list[float]]
    decode: dict[str, list[float]]
    bandwidth: list[float]
    sustained: Sustained | None


class SeenPicture(TypedDict):
    """What one picture costs; seconds, bytes, pixels, tokens of the context."""

    image: str
    """Name of the file, or 'noise'."""
    image_sha256: str | None
    """Of the file without its metadata."""
    width: int
    height: int
    tokens: int
    first_s: float
    """Of the first picture; it loads the projector, unless `llama-server` did at its start."""
    samples: list[float]
    """Of each later picture: seen, and read with a few tokens of text."""
    rss_anon: int | None
    rss_file: int | None
    peak: int | None
    """The most that was resident at once, of any kind (VmHWM)."""


class PictureEntry(SeenPicture):
    """The same in the document, with the projector."""

    projector: str
    projector_sha256: str
    projector_bytes: int


class Against(TypedDict):
    """One test beside llama-bench; its best sample of each round, and the ratio of ours."""

    test: str
    samples: list[float]
    median: float
    ours: list[float]
    ratio: float
    ours_same_build: list[float] | None
    ratio_same_build: float | None


class Temperatures(TypedDict):
    """Degrees Celsius by thermal zone."""

    before: dict[str, float]
    after: dict[str, float]


class Charges(TypedDict):
    """The battery."""

    before: Battery | None
    after: Battery | None


class Limits(TypedDict):
    """What `--phone` could set here, and what not and why."""

    version: int
    set: dict[str, float]
    refused: dict[str, str]
    procs: list[str]
    phone: str | None
    text: str


class Comparable(TypedDict):
    """What `pedsup-bench compare` reads of a run, including those of older versions."""

    device: Device
    settings: dict[str, object]
    engine: str
    bandwidth: Bandwidth
    figures: Figures


class _Measured(Head):
    measured: bool
    model: ModelFacts
    device: Device
    settings: dict[str, object]
    engine: str
    n_ctx: int
    bandwidth: Bandwidth
    bytes_per_token: BytesPerToken
    figures: Figures
    memory: Resources
    sustained: Sustained | None
    celsius: Temperatures
    battery: Charges


class RunDocument(_Measured, total=False):
    """All of it; docs/bench-run.schema.json says the same to other programs."""

    busy: Busy
    trust: dict[str, object]
    limits: Limits | None
    against: list[Against]
    picture: PictureEntry | None
