"""The child processes that measure: one loaded model each, kept while memory allows."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from pedsup.child.lines import LineChild, NoAnswerError, error_in
from pedsup.engine.api import EngineConfig
from pedsup.engine.select import EngineChoice
from pedsup.files.records import record
from pedsup.gguf_file import GGUFHeader
from pedsup.memory import Host, available_memory
from pedsup.memory.estimate import estimate
from pedsup.messages import Message, joined, message
from pedsup.tuning.budget import PROBE_PROMPT, SHORTEST, Lengths, lengths_for
from pedsup.tuning.plan import TUNE_CTX, Candidate, Failure, Metric, Speed
from pedsup.tuning.worker import FROM_CHILD, Ready, Seconds, Task, config_to_json

FLOOR: Final = 96 << 20
"""Bytes of available memory below which a child is ended before the system chooses a victim."""
FIRST_LOAD_S: Final = 600.0
POLITE_S: Final = 3.0
PROBE_DECODE: Final = 4
WARM_UP_SHARE: Final = 0.03
"""Share of the time: a longer first measurement is not repeated."""


@dataclass
class ChildBench:
    """Measures candidates in children. Use `close` when done."""

    base: EngineConfig
    engine: EngineChoice
    header: GGUFHeader
    host: Host
    cpus: frozenset[int] | None
    """The big cores."""
    most_threads: int
    seconds: float
    engine_name: str = ""
    n_loads: int = 0
    _children: OrderedDict[Hashable, LineChild] = field(default_factory=OrderedDict)
    _broken: dict[Hashable, Message] = field(default_factory=dict)
    _lengths: Lengths | None = None
    _usual: Speed | None = None
    _loads_s: list[float] = field(default_factory=list)
    _seed: int = 0

    def measure(self, candidate: Candidate, metric: Metric) -> Speed | Failure:
        """One measurement; a way to load whose child died is a `Failure`, and not tried again."""
        key = self._key(candidate)
        if key in self._broken:
            return Failure(self._broken[key])
        try:
            child = self._child(key, candidate)
            if self._lengths is None:
                usual = self._warm_up(child, candidate)
                self.start_stage(lengths_for(usual, self.seconds), usual)
            return self._timed(child, candidate, metric)
        except NoAnswerError as gone:
            self._drop(key, stuck=gone.code is None)
            # Too slow with this many threads does not mean that it cannot be loaded.
            if key not in self._children and not gone.slow:
                self._broken[key] = gone.why
            return Failure(gone.why)

    def start_stage(self, lengths: Lengths, usual: Speed) -> None:
        """How many tokens a measurement has from now on, and how fast they usually are."""
        self._lengths, self._usual = lengths, usual

    def load_s(self, candidates: Sequence[Candidate]) -> float:
        """About the seconds to load what these need: as the last load took, which was warm."""
        missing = {self._key(c) for c in candidates} - set(self._children) - set(self._broken)
        return len(missing) * self._loads_s[-1] if self._loads_s else 0.0

    def close(self) -> None:
        for key in list(self._children):
            self._drop(key)

    # ---- inside -------------------------------------------------------------------------

    def _key(self, candidate: Candidate) -> Hashable:
        """What needs a load of its own."""
        own = (candidate.pin, candidate.batch, candidate.ubatch)
        load = (*own, candidate.extra_buffers, candidate.mmap)
        if self.host.server:  # its threads are fixed at its start
            return (*load, candidate.threads, candidate.threads_batch)
        return load

    def _config(self, candidate: Candidate) -> EngineConfig:
        most = self.most_threads
        if candidate.pin and self.cpus:
            most = len(self.cpus)
        server = self.host.server
        return replace(
            self.base,
            n_ctx=min(TUNE_CTX, int(self.header.get("%s.context_length", TUNE_CTX))),
            n_batch=candidate.batch,
            n_ubatch=candidate.ubatch,
            n_threads=candidate.threads if server else most,
            n_threads_batch=candidate.threads_batch if server else most,
            cpus=self.cpus if candidate.pin else None,
            use_mmap=candidate.mmap,
            extra_buffers=candidate.extra_buffers,
        )

    def _child(self, key: Hashable, candidate: Candidate) -> LineChild:
        if key in self._children:
            self._children.move_to_end(key)
            return self._children[key]
        config = self._config(candidate)
        self._make_room(config)
        child = LineChild([sys.executable, "-m", "pedsup.tuning.worker"])
        self._children[key] = child
        self.n_loads += 1
        limit = FIRST_LOAD_S if not self._loads_s else 4 * max(self._loads_s) + 10
        ready = _ask(child, {"config": config_to_json(config), "engine": self.engine}, limit)
        loaded = record(Ready, ready, FROM_CHILD)
        self.engine_name = loaded.engine
        self._loads_s.append(loaded.load_s)
        return child

    def _make_room(self, config: EngineConfig) -> None:
        """End the children used longest ago until the next one fits beside the others."""
        need = estimate(self.header, config, self.host)
        while True:
            available = available_memory()
            # Mapped weights are shared with the other children.
            wanted = need.anonymous if self._children and need.mapped else need.total
            if available is None or available.bytes >= wanted + FLOOR:
                return
            if not self._children:
                raise NoAnswerError(message("it does not fit into the available memory"))
            self._drop(next(iter(self._children)))

    def _warm_up(self, child: LineChild, candidate: Candidate) -> Speed:
        """The first measurement reads the file's pages: a second one tells the speed."""
        started = time.monotonic()
        speed = self._speed(self._task(candidate, PROBE_PROMPT, PROBE_DECODE), child, FIRST_LOAD_S)
        if time.monotonic() - started > WARM_UP_SHARE * self.seconds:
            return speed
        return self._speed(self._task(candidate, PROBE_PROMPT, PROBE_DECODE), child, FIRST_LOAD_S)

    def _timed(self, child: LineChild, candidate: Candidate, metric: Metric) -> Speed:
        lengths = self._lengths
        assert lengths is not None
        n_prompt, n_decode = lengths.n_prompt, lengths.n_decode
        if metric == "prompt":
            n_prompt, n_decode = lengths.n_long, SHORTEST
        return self._speed(self._task(candidate, n_prompt, n_decode), child, self._limit(metric))

    def _limit(self, metric: Metric) -> float:
        assert self._lengths is not None
        assert self._usual is not None
        return 4 * self._lengths.seconds(metric, self._usual) + 5

    def _task(self, candidate: Candidate, n_prompt: int, n_decode: int) -> Task:
        self._seed += 1
        return Task(candidate.threads, candidate.threads_batch, n_prompt, n_decode, seed=self._seed)

    def _speed(self, task: Task, child: LineChild, limit: float) -> Speed:
        result = record(Seconds, _ask(child, asdict(task), limit), FROM_CHILD)
        n_decode = max(1, result.n_decode)
        return Speed(task.n_prompt / result.prompt_s, n_decode / result.decode_s)

    def _drop(self, key: Hashable, *, stuck: bool = False) -> None:
        child = self._children.pop(key, None)
        if child is not None:
            # One that is stuck, or takes the last memory, is not asked to leave.
            child.close(0.0 if stuck else POLITE_S)


def _ask(child: LineChild, request: Mapping[str, object], seconds: float) -> dict[str, Any]:
    """Send a request and wait for its answer. Raises `NoAnswerError`, also if memory runs out."""
    answer = child.ask(request, seconds, watch=_require_memory)
    if (error := error_in(answer)) is not None:
        parts = (error.found, error.where)
        raise NoAnswerError(joined(": ", filter(None, parts)), code=0)  # it is leaving
    return answer


def _require_memory() -> None:
    left = available_memory()
    if left is not None and left.bytes < FLOOR:
        raise NoAnswerError(message("memory ran out"))
