"""`make gguf` as a new user runs it, and what it must come to: CI's first step.

The file being right is not enough: built without vector units llama.cpp makes the same file and is
twenty times slower. So the library is asked, the quality gate must have passed with figures (they
are in the manifest), and the processor time must stay within a budget. The budget is a multiple of
a calibration loop timed on the same machine before and after, in processor time, which waiting for
a disk, a network or another program changes little. It is twice what is needed. The fault makes
statistics and gate, a sixth of that, more than ten times as slow.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
LOOP: Final = 20_000_000
MAKE_BUDGET: Final = 1700.0
"""Processor time of `make gguf`, in calibration loops."""


def calibrate() -> float:
    """Seconds of processor time of a fixed loop of the interpreter."""
    started, total = time.process_time(), 0
    for i in range(LOOP):
        total += i & 3
    return time.process_time() - started + 0.0 * total


def measured(command: list[str], **more: Any) -> tuple[float, float, str]:
    """Processor and wall seconds of a command and its children, and its standard output.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **more)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - started, done.stdout


def make_gguf(arguments: list[str], times: Path) -> tuple[float, float]:
    """Run it; processor and wall seconds. What each recipe line took is written to stderr."""
    command = ["make", "gguf", f"SHELL={ROOT / '.ci/timed-shell'}", *arguments]
    cpu, wall, _ = measured(command, cwd=ROOT, env={**os.environ, "PEDSUP_TIMES": str(times)})
    print("\nprocessor s  wall s  step of make gguf", file=sys.stderr)
    for line in times.read_text("utf-8").splitlines():
        seconds, _, step = line.partition("\t")
        user, system, real = map(float, seconds.split())
        if user + system >= 1:
            print(f"{user + system:11.0f} {real:7.0f}  {step[:90]}", file=sys.stderr)
    print(f"{cpu:11.0f} {wall:7.0f}  in all", file=sys.stderr)
    return cpu, wall


def check_quality(quality: dict[str, Any] | None, build: dict[str, Any] | None) -> list[str]:
    """What is wrong with the gate's figures in a manifest, and with the build of llama.cpp."""
    if quality is None:
        return ["the file has passed no quality gate"]
    figures, checks = quality["figures"]["all"], quality["checks"]
    wrong = [check["sentence"] for check in checks if not check["passed"]]
    if len(checks) < 4:
        wrong.append(f"the gate made {len(checks)} checks")
    # A file that is its own reference would pass every limit.
    if not 0.001 < figures["kld"]["mean"] < 0.15 or not 0.72 < figures["same_top"] < 1:
        wrong.append(f"figures of no Q4_K_M file: {figures}")
    if build is None or build["missing"]:
        wrong.append(f"llama.cpp lacks vector units of this processor: {build}")
    return wrong


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 when anything is wrong."""
    before = calibrate()
    with tempfile.TemporaryDirectory() as folder:
        cpu, _ = make_gguf(arguments, Path(folder) / "times")
    loop = (before + calibrate()) / 2
    venv = dict(a.split("=", 1) for a in arguments).get("VENV", ".venv")
    runner = os.fspath((ROOT / venv / "bin/pedsup-run").absolute())
    model = ROOT / "out/smollm2-pediatric-demo-Q4_K_M.gguf"
    _, _, checked = measured([runner, str(model), "--check", "--engine", "inprocess", "--json",
                              "--accept-intended-use"])  # fmt: skip
    manifest = json.loads(model.with_name(f"{model.name}.manifest.json").read_text("utf-8"))
    quality = manifest["core"].get("quality")
    wrong = check_quality(quality, json.loads(checked)["build"])
    print(
        f"\ncalibration loop {loop:.2f} s; make gguf {cpu / loop:.0f} loops of {MAKE_BUDGET:.0f}",
        file=sys.stderr,
    )
    if cpu > MAKE_BUDGET * loop:
        wrong.append(f"make gguf took {cpu:.0f} s of processor time")
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
