"""From sources to a training part and an evaluation part that share nothing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from pedsup.errors import BadFileError, UsageError
from pedsup_train.data.examples import Example, ReadResult
from pedsup_train.data.readers import limit, read_source
from pedsup_train.recipe.schema import DataConfig

SHINGLE: Final = 5
"""Words in a shingle of the near-duplicate test."""
NEAR: Final = 0.8
"""Share of an evaluation question's shingles that makes a training question the same one."""


@dataclass
class Prepared:
    """The two parts, and how they came to be."""

    train: list[Example]
    evaluation: list[Example]
    sources: list[ReadResult] = field(default_factory=list)
    eval_sources: list[ReadResult] = field(default_factory=list)
    duplicates: int = 0
    conflicts: int = 0
    """Same question and options, another answer: both are left out."""
    overlap: int = 0
    """Training examples whose question is in the evaluation part, word for word."""
    near_overlap: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 over the examples of both parts in their order."""
        digest = hashlib.sha256()
        for part in (self.train, self.evaluation):
            for e in part:
                digest.update(e.line + b"\n")
            digest.update(b"--\n")
        return digest.hexdigest()

    @property
    def n_bad(self) -> int:
        return sum(len(result.bad) for result in [*self.sources, *self.eval_sources])


def prepare(config: DataConfig) -> Prepared:
    """Read, deduplicate, split and separate.

    Raises:
        UsageError: no source, or nothing is left to train on.
        BadFileError: more bad rows than `max_bad_rows`.
    """
    if not config.sources:
        raise UsageError("the recipe names no data", wanted="[[data.sources]]")
    sources = [read_source(source, seed=config.seed) for source in config.sources]
    eval_sources = [read_source(source, seed=config.seed) for source in config.eval_sources]
    prepared = Prepared([], [], sources, eval_sources)
    _refuse_bad_rows(prepared, config.max_bad_rows)
    _drop_duplicates(sources, prepared)
    _drop_duplicates(eval_sources, prepared)
    if eval_sources:
        for source, result in zip(config.eval_sources, eval_sources, strict=True):
            limit(result, source.limit, seed=config.seed)
        prepared.evaluation = [e for result in eval_sources for e in result.examples]
    else:
        prepared.evaluation = _hold_out(sources, config.eval_examples, seed=config.seed)
    _drop_overlap(sources, prepared)
    for source, result in zip(config.sources, sources, strict=True):
        limit(result, source.limit, seed=config.seed)
    prepared.train = [e for result in sources for e in result.examples]
    if not prepared.train:
        raise UsageError(
            "nothing is left to train on",
            wanted="more rows than are held out for evaluation",
            remedy="lower data.eval_examples, or give more data",
        )
    return prepared


def _refuse_bad_rows(prepared: Prepared, allowed: int) -> None:
    if prepared.n_bad <= allowed:
        return
    bad = [row for result in [*prepared.sources, *prepared.eval_sources] for row in result.bad]
    shown = [f"{row.where}: {row.reason}" for row in bad[:10]]
    more = [f"and {len(bad) - 10} more"] if len(bad) > 10 else []
    raise BadFileError(
        f"{len(bad)} bad rows",
        where=[*shown, *more],
        wanted=f"at most {allowed} (data.max_bad_rows)",
        remedy=f"correct the rows, or accept their loss with --set data.max_bad_rows={len(bad)}",
    )


def _drop_duplicates(results: list[ReadResult], prepared: Prepared) -> None:
    """Keep the first of equal examples; where equal ones disagree on the answer keep none."""
    answers: dict[str, set[str]] = defaultdict(set)
    for result in results:
        for example in result.examples:
            if example.options:
                answers[example.full_key].add(example.options[example.answer].casefold())
    seen: set[str] = set()
    for result in results:
        kept = []
        for example in result.examples:
            key = example.full_key
            if len(answers[key]) > 1:
                prepared.conflicts += 1
            elif key in seen:
                prepared.duplicates += 1
            else:
                kept.append(example)
            seen.add(key)
        result.examples = kept


def _hold_out(results: list[ReadResult], n: int, *, seed: int) -> list[Example]:
    """Take whole groups (same question, or translations) in the order of a hash until `n` are out.

    The hash depends on seed and text only: adding data moves no example across the split.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for result in results:
        for example in result.examples:
            groups[example.group or example.question_key].append(example)

    def draw(key: str) -> bytes:
        return hashlib.sha256(f"{seed}|{key}".encode()).digest()

    held: list[Example] = []
    for key in sorted(groups, key=draw):
        if len(held) >= n:
            break
        held += groups[key]
    out = {id(example) for example in held}
    for result in results:
        result.examples = [e for e in result.examples if id(e) not in out]
    return held


def _shingles(example: Example) -> set[tuple[str, ...]]:
    words = example.question_key.split()
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def _drop_overlap(results: list[ReadResult], prepared: Prepared) -> None:
    exact = {example.question_key for example in prepared.evaluation}
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes = []
    for number, example in enumerate(prepared.evaluation):
        shingles = _shingles(example)
        sizes.append(len(shingles))
        for shingle in shingles:
            index[shingle].append(number)
    for result in results:
        kept = []
        for example in result.examples:
            if example.question_key in exact:
                prepared.overlap += 1
            elif _is_near(example, index, sizes):
                prepared.near_overlap += 1
            else:
                kept.append(example)
        result.examples = kept


def _is_near(example: Example, index: dict[tuple[str, ...], list[int]], sizes: list[int]) -> bool:
    hits: dict[int, int] = defaultdict(int)
    for shingle in _shingles(example):
        for number in index.get(shingle, ()):
            hits[number] += 1
    # Four shingles are eight words: shorter questions share phrases without being the same.
    return any(sizes[n] >= 4 and count >= NEAR * sizes[n] for n, count in hits.items())
