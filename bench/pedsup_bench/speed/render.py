"""The document of a speed run as a table for the terminal."""

from __future__ import annotations

from typing import Final

from pedsup.progress import human_bytes
from pedsup_bench.report.options import table
from pedsup_bench.speed.device import told
from pedsup_bench.speed.result import PictureEntry, RunDocument

_NAMES: Final = {
    "load": "load",
    "first_token": "first token after load",
    "read": "read from storage",
    "rss_anon": "own memory (RssAnon)",
    "rss_file": "mapped file (RssFile)",
}
_LOADS: Final = {"cold": "cold", "warm": "warm", "uncertain": "perhaps warm"}
"""How a load began; 'uncertain': the file may still have been in the page cache."""


def figure_name(key: str) -> str:
    """A figure's key in words."""
    kind, _, n = key.rpartition("_")
    if kind in _NAMES and n in _LOADS:
        return f"{_NAMES[kind]}, {_LOADS[n]}"
    if key == "picture":
        return "a picture, seen and read"
    return {"prompt": f"prompt of {n}", "decode": f"decode at depth {n}"}.get(kind, key)


def quantity(value: float, unit: str) -> str:
    """A value with its unit, three significant digits or so."""
    if unit == "B":
        return human_bytes(value)
    return f"{value:.3f} s" if unit == "s" else f"{value:.1f} t/s"


def run_table(document: RunDocument) -> str:
    """All figures, each with its spread, and its ceiling where there is one."""
    rows = [["measured", "median", "± spread", "ceiling", "of ceiling", "n"]]
    for key, f in document["figures"].items():
        unit, ceiling = f["unit"], f["ceiling"]
        rows.append([
            figure_name(key), quantity(f["median"], unit), quantity(f["spread"], unit),
            quantity(ceiling, unit) if ceiling else "",
            f"{f['median'] / ceiling:.0%}" if ceiling else "", str(f["n"]),
        ])  # fmt: skip
    lines = [table(rows), "", *notes(document)]
    return "\n".join(lines)


def notes(document: RunDocument) -> list[str]:
    """The notes beside the figures."""
    bandwidth, per_token = document["bandwidth"], document["bytes_per_token"]
    found = [
        f"memory bandwidth {bandwidth['best'] / 1e9:.1f} GB/s with {bandwidth['n_threads']} "
        f"threads, measured in this run; a token reads "
        f"{human_bytes(per_token['weights'] + per_token['rows'])} of weights",
        f"memory at the end: {human_bytes(document['memory']['rss_anon'] or 0)} of its own "
        f"(RssAnon), {human_bytes(document['memory']['rss_file'] or 0)} of the mapped file "
        "(RssFile)",
    ]
    if seen := document.get("picture"):
        found.append(_picture(seen))
    if any(key.startswith("prompt_") for key in document["figures"]):
        found.append("a prompt's ceiling is that of memory; arithmetic bounds prompts far below it")
    found += _circumstances(document)
    build = document.get("build")
    if build and build["missing"]:
        found.append(
            f"llama.cpp was built without {', '.join(build['missing'])}, which this processor has: "
            f"about {build['times_slower']:g} times slower; {build['remedy']}"
        )
    if (s := document["sustained"]) is not None:
        change = s["last"] / s["first"] - 1
        found.append(
            f"sustained decode over {s['seconds']:.0f} s: first {s['window']:.0f} s "
            f"{s['first']:.1f} t/s, last {s['last']:.1f} t/s ({change:+.0%})"
        )
    if limits := document.get("limits"):
        found.append(f"limits: {limits['text']}")
    for other in document.get("against", []):
        same = other["ratio_same_build"]
        found.append(
            f"llama-bench {figure_name(other['test'])}: {other['median']:.1f} t/s; "
            f"ours is {other['ratio']:.3f} of it"
            + (f", {same:.3f} with the same build of llama.cpp" if same else "")
        )
    return found


def _picture(seen: PictureEntry) -> str:
    what = "noise" if seen["image"] == "noise" else seen["image"]
    return (
        f"a picture ({what}, {seen['width']} x {seen['height']} pixels) takes {seen['tokens']} "
        f"tokens of the context; the first took {seen['first_s']:.1f} s; memory with it: "
        f"{human_bytes(seen['rss_anon'] or 0)} of its own (RssAnon), "
        f"{human_bytes(seen['peak'] or 0)} of all kinds at the peak; projector "
        f"{seen['projector']}, {human_bytes(seen['projector_bytes'])}"
    )


def _circumstances(document: RunDocument) -> list[str]:
    """How busy the machine was, and whether loads were what they should be."""
    found = []
    if busy := document.get("busy"):
        found.append(told(busy))
    cold = document["figures"].get("read_cold")
    old = "busy" not in document and cold is not None
    uncertain = any(key.endswith("_uncertain") for key in document["figures"])
    # Older documents call every first load cold.
    if uncertain or (old and cold and cold["median"] < document["model"]["size"] / 2):
        found.append(
            "the file could not be dropped from the page cache (another program maps it, or the "
            "system does not allow or show it): "
            + ("these loads may be warm" if uncertain else "the loads called cold are warm ones")
        )
    return found
