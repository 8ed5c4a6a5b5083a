"""The outcome in words, as a table and as JSON."""

from __future__ import annotations

from typing import Final

from pedsup.device.noise import MIN_SAMPLES
from pedsup.messages import Message, joined, message
from pedsup.texts.language import translated
from pedsup.tuning.plan import STAGES, Metric, TunePlan
from pedsup.tuning.results import Outcome, Row, StageResult

SCHEMA: Final = "pedsup-tune/1"
_REASONS: Final[dict[str, Message]] = {
    "better": message("changed: measurably better than before"),
    "kept": message("kept: nothing was measurably better"),
    "no time": message("kept: there was not enough time to tell (give --seconds {advised})"),
    "failed": message("kept: the alternative does not run here, or takes far too long"),
    "disturbed": message(
        "kept, although it gave no result this time either: something else had "
        "the cores or the memory; close other apps and run tune again"
    ),
}


def report_lines(plan: TunePlan, outcome: Outcome) -> list[str]:
    """A table per stage, and below it what was decided and why, in the current language."""
    lines: list[str] = []
    for result in outcome.stages:
        lines += [f"{translated(STAGES[result.stage.name])}:", *_table(result)]
        reason = _REASONS[result.reason].filled(advised=outcome.advised_s)
        lines += [f"  => {translated(reason)}", ""]
    for name, why in plan.skipped:
        lines.append(
            translated(message("{stage}: not tried, {reason}", stage=STAGES[name], reason=why))
        )
    return lines


def document(plan: TunePlan, outcome: Outcome, engine: str, file: str | None) -> dict[str, object]:
    """As JSON values; speeds in tokens per second."""
    return {
        "schema": SCHEMA,
        "engine": engine,
        "seconds": round(outcome.seconds, 1),
        "advised_seconds": outcome.advised_s,
        "settings": outcome.best.settings(),
        "kept_in": file,
        "stages": [
            {
                "name": result.stage.name,
                "metric": result.stage.metric,
                "reason": result.reason,
                "rows": [_row(row) for row in result.rows],
            }
            for result in outcome.stages
        ],
        "skipped": dict(plan.skipped),
    }


def _row(row: Row) -> dict[str, object]:
    kinds: tuple[Metric, ...] = ("decode", "prompt")
    speeds = {kind: row.series(kind) for kind in kinds}
    return {
        "settings": row.candidate.settings(),
        "n": len(row.speeds),
        **{f"{kind}_tps": round(s.median, 2) if row.speeds else None for kind, s in speeds.items()},
        **{f"{kind}_noise": round(s.noise, 4) for kind, s in speeds.items()},
        "failure": row.failure,
        "dropped": row.dropped,
    }


def _table(result: StageResult) -> list[str]:
    names = [translated(row.candidate.label()) for row in result.rows]
    width = max(map(len, names))
    return [f"  {name:<{width}}  {translated(_cells(row, result))}"
            for name, row in zip(names, result.rows, strict=True)]  # fmt: skip


def _cells(row: Row, result: StageResult) -> Message:
    if row.failure is not None:
        return row.failure
    if not row.speeds:
        return message("not tried")
    decode, prompt = row.series("decode"), row.series("prompt")
    noise = len(row.speeds) >= MIN_SAMPLES
    cells = [
        message(
            "decode {decode}  prompt {prompt} tokens/s  n={n}",
            decode=f"{decode.median:7.2f}{_noise(decode.noise, noise)}",
            prompt=f"{prompt.median:8.2f}{_noise(prompt.noise, noise)}",
            n=len(row.speeds),
        )
    ]
    if row.candidate == result.chosen:
        cells.append(message("chosen"))
    elif row.dropped:
        cells.append(message("dropped"))
    return joined("  ", cells)


def _noise(value: float, known: bool) -> str:
    return f" ±{100 * value:4.1f} %" if known else "        "
