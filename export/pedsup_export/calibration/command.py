"""`pedsup-export calibrate`: plan, then collect, measure and write."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

import pedsup
from pedsup.chat.templates.template import ChatTemplate
from pedsup.errors import MismatchError, ResourceError, UnsupportedError, UsageError
from pedsup.files.fsio import refuse_existing
from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.optional import require
from pedsup.progress import human_bytes, say
from pedsup.questions.texts import sketch
from pedsup_export.calibration import collect, fingerprint, sensitivity, store, work
from pedsup_export.calibration import text as texts
from pedsup_export.calibration.forward import ForwardPass
from pedsup_export.calibration.record import SIXTEEN_BITS, InputGroup, Record


@dataclass(frozen=True)
class CalibrationRequest:
    """What to calibrate, on what, how.

    Attributes:
        model: the merge in 16 or 32 bits (`run --quant BF16`).
        out: the file of statistics.
        texts: text files and .jsonl dialogues; the shipped dialogues when empty.
        judged: further texts that files are judged on; an overlap is refused.
        window: tokens of a window.
        n_windows: at most so many.
        memory: bytes for sums held at a time; None: half of what is free.
        sensitivity_windows: windows on which sensitivities are measured; 0 for none.
    """

    model: Path
    out: Path
    texts: tuple[Path, ...] = ()
    judged: tuple[Path, ...] = ()
    window: int = 512
    n_windows: int | None = None
    memory: int | None = 2 << 30
    sensitivity_windows: int = 1
    threads: int = 2
    force: bool = False


@dataclass(frozen=True)
class CalibrationPlan:
    """Everything that a calibration will do."""

    request: CalibrationRequest
    texts: tuple[texts.CalibrationText, ...]
    header: GGUFHeader


@dataclass(frozen=True)
class CalibrationResult:
    """Written statistics."""

    path: Path
    n_tokens: int
    n_matrices: int
    size: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """For --json."""
        return {
            "path": str(self.path),
            "tokens": self.n_tokens,
            "matrices": self.n_matrices,
            "bytes": self.size,
            "seconds": round(self.seconds, 1),
        }

    def as_text(self) -> str:
        """One line for people."""
        return (
            f"{self.path}: {self.n_matrices} matrices over {self.n_tokens} tokens, "
            f"{human_bytes(self.size)}, {self.seconds:.0f} s\n"
            f"next: pedsup-export run ... --calibrated {shlex.quote(str(self.path))}"
        )


def make_plan(request: CalibrationRequest) -> CalibrationPlan:
    """Check model and texts before anything is computed.

    Raises:
        UnsupportedError: the model is quantized.
        UsageError: a text is one that files are judged on.
        OutputError: the output exists.
    """
    refuse_existing(request.out, force=request.force)
    store.refuse_other_file(request.out)
    if request.window < 16:
        raise UsageError(f"a window of {request.window} tokens", wanted="16 or more")
    header = read_header(request.model)
    wrong = [t for t in header.tensors.values() if t.type.name not in SIXTEEN_BITS]
    if wrong:
        raise UnsupportedError(
            f"'{wrong[0].name}' is of type {wrong[0].type.name}",
            where=request.model,
            wanted="the merge in 16 or 32 bits: what the rounding is to come close to",
            remedy="make it: pedsup-export run ... --quant BF16",
        )
    found = texts.read_texts(request.texts)
    extra = [(f"'{t.name}'", t.words) for t in texts.read_texts(request.judged)] \
        if request.judged else []  # fmt: skip
    texts.refuse_overlap(found, [*texts.judging_texts(), *extra])
    return CalibrationPlan(request, found, header)


def execute(plan: CalibrationPlan) -> CalibrationResult:
    """Collect, measure and write.

    Raises:
        PedsupError: the text is too short, the model cannot be run, the disk is full.
    """
    request, start = plan.request, time.monotonic()
    with ForwardPass(request.model, window=request.window, n_threads=request.threads) as model:
        per_text, windows = _windows(plan, model)
        groups = collect.find_groups(model, windows[0])
        _check_space(request, groups)
        folder = work.Folder(_work(request.out), _job(plan, groups, windows))
        memory = request.memory or _half_of_free_memory()
        turns = folder.turns(groups, memory, request.memory or memory * 3 // 2)
        _announce(groups, turns, windows)
        with _blas(request.threads), _bar(len(turns) * len(windows), "statistics") as advance:
            collect.collect(model, windows, turns, folder, advance)
        sensitivities = _sensitivities(model, windows, request, folder)
    types, prints = _fingerprints(plan.header, groups)
    record = Record(
        model=request.model.name,
        architecture=plan.header.architecture,
        texts=per_text,
        tokens=len(windows) * request.window,
        window=request.window,
        types=types,
        fingerprints=prints,
        sensitivities=sensitivities,
        versions={"pedsup": pedsup.__version__, "python": platform.python_version()},
    )
    sums = partial(folder.sums, turns)
    store.write(request.out, record, groups, sums, force=request.force)
    folder.remove()
    size = request.out.stat().st_size
    seconds = time.monotonic() - start
    return CalibrationResult(request.out, record.tokens, len(types), size, seconds)


def _windows(
    plan: CalibrationPlan, model: ForwardPass
) -> tuple[tuple[dict[str, object], ...], list[list[int]]]:
    """What each text was, and the windows of all of them together."""
    template = _template(model) if any(t.dialogues for t in plan.texts) else None
    tokens: list[int] = []
    described = []
    for text in plan.texts:
        rendered = texts.rendered(text, template)
        add_special = not tokens and not text.dialogues  # a template writes bos itself
        own = model.vocabulary.tokenize(
            rendered, parse_special=bool(text.dialogues), add_special=add_special
        )
        tokens += own
        described.append(
            {
                "name": text.name,
                "sha256": text.sha256,
                "tokens": len(own),
                "sketch": sketch(text.words),
            }
        )
    request = plan.request
    return tuple(described), texts.cut(tokens, request.window, model.first_token, request.n_windows)


def _template(model: ForwardPass) -> ChatTemplate | None:
    info = model.info
    bos, eos = model.piece(info.bos), model.piece(info.eos)
    try:
        return ChatTemplate.from_model(info.chat_template, bos=bos, eos=eos)
    except UnsupportedError as error:
        say(f"warning: dialogues are calibrated as plain text: {error.found}")
        return None


def _job(
    plan: CalibrationPlan, groups: Sequence[InputGroup], windows: Sequence[Sequence[int]]
) -> str:
    """Digest of what decides the sums."""
    names = {name for group in groups for name in group.names}
    _, prints = _fingerprints(plan.header, groups)
    tokens = hashlib.sha256(np.array(windows, "<i4").tobytes()).hexdigest()
    facts = [sorted(names), prints, tokens, plan.request.window, [asdict(g) for g in groups]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _fingerprints(
    header: GGUFHeader, groups: Sequence[InputGroup]
) -> tuple[dict[str, str], dict[str, str]]:
    """Type and fingerprint of every calibrated matrix."""
    types, prints = {}, {}
    for name in sorted({name for group in groups for name in group.names}):
        info = header.tensors.get(name)
        if info is None:
            raise MismatchError(f"llama.cpp computes with '{name}', which is not in the file")
        rows = info.n_bytes // info.type.row_bytes(info.shape[0])
        start = header.data_offset + info.offset
        data = np.memmap(header.path, np.uint8, "r", start, (rows, info.n_bytes // rows))
        types[name] = info.type.name
        prints[name] = fingerprint.text(fingerprint.of_rows(data, 0))
    return types, prints


def _sensitivities(
    model: ForwardPass,
    windows: Sequence[Sequence[int]],
    request: CalibrationRequest,
    folder: work.Folder,
) -> dict[str, float]:
    if not request.sensitivity_windows:
        return {}
    name = f"sensitivities-{request.sensitivity_windows}"
    if (saved := folder.load(name)) is not None:
        return dict(zip(saved["names"].tolist(), saved["values"].tolist(), strict=True))
    # From the middle: the first windows of a text are often its preface.
    middle = len(windows) // 2
    chosen = windows[middle : middle + request.sensitivity_windows]
    used = [window[: sensitivity.MAX_TOKENS] for window in chosen]
    sets = sensitivity.noise_sets(sensitivity.names_to_disturb(model, used[0]))
    with _bar((1 + len(sets)) * len(used), "sensitivities") as advance:
        found = sensitivity.measure(model, used, sets, advance)
    found |= sensitivity.input_errors(model, used[0])
    folder.save(name, {"names": np.array(list(found)), "values": np.array(list(found.values()))})
    return found


def _half_of_free_memory() -> int:
    """Bytes; 2 GiB where the system does not say."""
    try:
        return max(1 << 28, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    except (ValueError, OSError, AttributeError):
        return 2 << 30


def _check_space(request: CalibrationRequest, groups: Sequence[InputGroup]) -> None:
    request.out.parent.mkdir(parents=True, exist_ok=True)
    needed = 2 * sum(g.n_bytes for g in groups) + (64 << 20)
    free = shutil.disk_usage(request.out.parent).free
    if free < needed:
        raise ResourceError(
            f"the disk has {human_bytes(free)} free",
            where=request.out.parent,
            wanted=f"{human_bytes(needed)} for the statistics and their unfinished parts",
            remedy="free space, or choose another --out",
        )


def _work(out: Path) -> Path:
    return out.with_name(out.name + ".unfinished")


def _announce(
    groups: Sequence[InputGroup],
    turns: Sequence[work.Turn],
    windows: Sequence[Sequence[int]],
) -> None:
    size = sum(g.n_bytes for g in groups)
    unit = "turn" if len(turns) == 1 else "turns"
    say(
        f"{sum(len(g.names) for g in groups)} matrices with {len(groups)} inputs, "
        f"{human_bytes(size)} of sums, {len(windows)} windows, {len(turns)} {unit}"
    )


def _blas(threads: int) -> AbstractContextManager[object]:
    library = require("threadpoolctl", extra="export")
    limits: AbstractContextManager[object] = library.threadpool_limits(threads, user_api="blas")
    return limits


@contextmanager
def _bar(total: int, label: str) -> Iterator[Callable[[int], object]]:
    with tqdm(total=total, desc=label, unit="window", delay=2.0, dynamic_ncols=True) as bar:
        yield bar.update
