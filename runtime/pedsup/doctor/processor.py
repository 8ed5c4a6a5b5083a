"""Probes of the processor: chip, cores, instructions, page size."""

from __future__ import annotations

from collections import Counter
from typing import Final

from pedsup.device.cores import CORE_MODELS, Core, cpu_features, cpuinfo, plan_threads, read_cores
from pedsup.device.system_files import text_of
from pedsup.doctor.device import Device
from pedsup.doctor.finding import Finding

ARM_NAMES: Final = {
    "asimddp": "dotprod", "i8mm": "i8mm", "sve": "SVE", "sve2": "SVE2", "sme": "SME",
    "asimdhp": "fp16", "bf16": "bf16",
}  # fmt: skip
X86_NAMES: Final = {
    "avx2": "AVX2", "fma": "FMA", "avx512f": "AVX-512", "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI", "amx_int8": "AMX",
}  # fmt: skip
SMALL_PAGE: Final = 4096
_TREE_FILES: Final = ("proc/device-tree/model", "sys/firmware/devicetree/base/model")
_CPUINFO_NAMES: Final = ("Hardware", "model name", "Model", "Processor")
NAME_LENGTH: Final = 80


def chip(device: Device) -> list[Finding]:
    """The name of the system on chip, from whatever source has it."""
    properties = device.properties
    maker = properties.get("ro.soc.manufacturer", "")
    names = [
        f"{maker} {properties.get('ro.soc.model', '')}".strip(),
        *(properties.get(n, "") for n in ("ro.board.platform", "ro.product.model")),
        _cpuinfo_name(device),
        *(device.text(path).strip("\x00\n ") for path in _TREE_FILES),
    ]
    known = [name[:NAME_LENGTH] for name in dict.fromkeys(names) if name]
    findings = [
        Finding("chip", "ok", "chip", {"name": ", ".join(known)})
        if known
        else Finding("chip", "note", "chip_unknown")
    ]
    if device.machine in ("armv7l", "armv8l", "i686", "i386"):
        findings.append(Finding("chip", "problem", "bits32", {"machine": device.machine}))
    return findings


def cores(device: Device) -> list[Finding]:
    """The cores this process may use, by cluster, and the threads that follow from them."""
    found = read_cores(device.cpus, device.root)
    plan = plan_threads(found, machine=device.machine)
    findings = []
    if plan.evidence == "nothing":
        values: dict[str, object] = {"n": len(found), "threads": plan.n_threads}
        findings.append(Finding("cores", "note", "cores_unknown", values))
    else:
        big = plan.cpus or frozenset(core.index for core in found)
        values = {
            "clusters": _clusters(found),
            "n_big": len(big),
            "threads": plan.n_threads,
            "evidence": plan.by,
        }
        findings.append(Finding("cores", "ok", "cores", values))
    present = _present(device)
    if present > len(found):
        values = {"n": len(found), "present": present}
        findings.append(Finding("cores", "note", "cores_fewer", values))
    return findings


def features(device: Device) -> list[Finding]:
    """The instructions that decide which build of llama.cpp runs, and how fast."""
    flags = cpu_features(device.root)
    if not flags:
        return [Finding("features", "note", "features_unknown")]
    names = ARM_NAMES if device.arm else X86_NAMES
    has = ", ".join(text for flag, text in names.items() if flag in flags) or "-"
    findings = [Finding("features", "ok", "features", {"names": has})]
    if device.arm and "asimddp" not in flags:
        findings.append(Finding("features", "note", "no_dotprod"))
    if not device.arm and "avx2" not in flags:
        findings.append(Finding("features", "note", "no_avx2"))
    return findings


def page(device: Device) -> list[Finding]:
    """Phones with 16 KiB pages (Android 15) load no library that was linked for 4 KiB."""
    large = device.page_size > SMALL_PAGE
    values = {"kib": device.page_size // 1024}
    return [Finding("page", "note" if large else "ok", "page_large" if large else "page", values)]


def _cpuinfo_name(device: Device) -> str:
    # 'Processor' and 'model name' of ARM name the architecture only.
    named = (v for n, v in cpuinfo(device.root) if n in _CPUINFO_NAMES and v and "rev" not in v)
    return next(named, "")


def _clusters(found: tuple[Core, ...]) -> str:
    """E.g. '2 x Cortex-A76 2.20 GHz (1024), 6 x Cortex-A55 2.00 GHz (372)', the best first."""
    kinds = Counter((c.part, c.max_khz, c.capacity) for c in found)
    order = sorted(kinds, key=lambda kind: (-(kind[2] or 0), -(kind[1] or 0)))
    return ", ".join(f"{kinds[kind]} x {_kind_text(*kind)}" for kind in order)


def _kind_text(part: tuple[int, int] | None, khz: int | None, capacity: int | None) -> str:
    model = CORE_MODELS.get(part) if part else None
    name = model.name if model else f"{part[0]:#x}/{part[1]:#x}" if part else "core"
    clock = f" {khz / 1e6:.2f} GHz" if khz else ""
    return name + clock + (f" ({capacity})" if capacity else "")


def _present(device: Device) -> int:
    """Cores that the kernel shows, whether this process may use them or not."""
    folder = device.root / "sys/devices/system/cpu"
    listed = sum(name == "processor" for name, _ in cpuinfo(device.root))
    top = max(device.cpus, default=0) + 1
    probed = sum(
        bool(text_of(folder / f"cpu{i}/topology/thread_siblings_list")
             or text_of(folder / f"cpu{i}/cpufreq/cpuinfo_max_freq"))
        for i in range(max(top, 8))
    )  # fmt: skip
    return max(listed, probed)
