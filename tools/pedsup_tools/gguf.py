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
from collections.abc import Mapping
from pathlib import Path

from pedsup.cli.border import border
from pedsup.errors import PedsupError, UsageError
from pedsup.gguf_file import read_header
from pedsup.progress import say
from pedsup.trust.bundle import read_signature, signature_path
from pedsup.trust.keys import read_public_key
from pedsup.trust.manifest import manifest_path, read_manifest
from pedsup_tools.gguf_job import (
    DEFAULT_ADAPTER,
    DEFAULT_BASE,
    Job,
    job_from,
    reference_options,
)


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


def calibrate(job: Job, reference: Path) -> tuple[str, ...]:
    """Statistics of the reference and text, unless they are there; the options that use them."""
    found = job.statistics
    if not _is_of(found, reference, job.calibration_text, allocates=job.allocates):
        options = ("--text", job.calibration_text) * bool(job.calibration_text)
        # Sensitivities take twice the time of all the rest, and only a budget needs them.
        options += ("--sensitivity-windows", "0") * (job.default_base and not job.allocates)
        # Its matrices are so small that two threads mostly wait for each other: 124 seconds of
        # processor time instead of 46.
        options += ("--threads", "1") * job.default_base
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
