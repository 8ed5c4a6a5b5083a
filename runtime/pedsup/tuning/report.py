"""The outcome in words, as a table and as JSON."""

from __future__ import annotations

from typing import Final

from pedsup.device.noise import MIN_SAMPLES
from pedsup.texts.intended_use import Language
from pedsup.texts.language import local
from pedsup.tuning.plan import Metric, TunePlan
from pedsup.tuning.results import Outcome, Row, StageResult

SCHEMA: Final = "pedsup-tune/1"
_STAGES: Final[dict[str, dict[Language, str]]] = {
    "threads": {"en": "number of threads", "es": "número de hilos"},
    "pin": {"en": "kept on the big cores", "es": "fijados a los núcleos grandes"},
    "extra_buffers": {"en": "repacked weights", "es": "pesos reorganizados"},
    "ubatch": {"en": "prompt tokens per step", "es": "tokens de la pregunta por paso"},
    "mmap": {"en": "mapping of the file", "es": "archivo mapeado"},
}
_REASONS: Final[dict[str, dict[Language, str]]] = {
    "better": {
        "en": "changed, better than before beyond the noise",
        "es": "cambiado, mejor que antes más allá del ruido",
    },
    "kept": {
        "en": "kept, nothing was better beyond the noise",
        "es": "se mantiene, nada fue mejor más allá del ruido",
    },
    "no time": {
        "en": "kept, the time did not suffice to tell (give --seconds {advised})",
        "es": "se mantiene, el tiempo no bastó para saberlo (dé --seconds {advised})",
    },
    "failed": {
        "en": "kept, the alternative does not run here, or not in bearable time",
        "es": "se mantiene, la alternativa no funciona aquí, o no en un tiempo soportable",
    },
    "disturbed": {
        "en": "kept, but it gave no result either this time: something else had the cores or the "
        "memory; close other apps and run tune again",
        "es": "se mantiene, pero esta vez tampoco dio resultado: otra cosa ocupaba los núcleos o "
        "la memoria; cierre otras aplicaciones y repita tune",
    },
}
_STATES: Final[dict[str, dict[Language, str]]] = {
    "chosen": {"en": "chosen", "es": "elegido"},
    "dropped": {"en": "dropped", "es": "descartado"},
    "untried": {"en": "not tried", "es": "no probado"},
}
_SPEEDS: Final[dict[Language, tuple[str, str]]] = {
    "en": ("decode", "prompt"),
    "es": ("generar", "leer"),
}
_SKIPPED: Final[dict[Language, str]] = {"en": "not tried", "es": "no se probó"}


def report_lines(plan: TunePlan, outcome: Outcome, language: Language) -> list[str]:
    """A table per stage, and below it what was decided and why."""
    lines: list[str] = []
    for result in outcome.stages:
        lines += [f"{_STAGES[result.stage.name][language]}:", *_table(result, language)]
        reason = _REASONS[result.reason][language].format(advised=outcome.advised_s)
        lines += [f"  => {reason}", ""]
    lines += [
        f"{_STAGES[name][language]}: {_SKIPPED[language]} ({local(reason, language)})"
        for name, reason in plan.skipped
    ]
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


def _table(result: StageResult, language: Language) -> list[str]:
    names = [local(row.candidate.label(), language) for row in result.rows]
    width = max(map(len, names))
    return [f"  {name:<{width}}  {_cells(row, result, language)}"
            for name, row in zip(names, result.rows, strict=True)]  # fmt: skip


def _cells(row: Row, result: StageResult, language: Language) -> str:
    if row.failure is not None:
        return local(row.failure, language)
    if not row.speeds:
        return _STATES["untried"][language]
    state = "chosen" if row.candidate == result.chosen else "dropped" if row.dropped else None
    end = f"  {_STATES[state][language]}" if state else ""
    decode, prompt = row.series("decode"), row.series("prompt")
    noise, names = len(row.speeds) >= MIN_SAMPLES, _SPEEDS[language]
    text = (
        f"{names[0]} {decode.median:7.2f}{_noise(decode.noise, noise)}  "
        f"{names[1]} {prompt.median:8.2f}{_noise(prompt.noise, noise)} tokens/s  "
        f"n={len(row.speeds)}"
    )
    return text + end


def _noise(value: float, known: bool) -> str:
    return f" ±{100 * value:4.1f} %" if known else "        "
