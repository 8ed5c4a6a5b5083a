"""`python -m pedsup_maintain.exporting.peer`: our export beside the usual pipeline, in one run.

Both start from the same made checkpoint (random weights, E4B's shape) and the same adapter and
end in a quantized GGUF. Wall times of different days or machines do not compare; the ratios of
one run do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from pedsup.cli.border import border
from pedsup.errors import ResourceError
from pedsup.progress import human_bytes, say
from pedsup_maintain.exporting import report
from pedsup_maintain.exporting.disk_floor import DROP
from pedsup_maintain.exporting.runs import Options, compare, holds_checkpoint, machine, peak_by_size
from pedsup_maintain.synthetic.shapes import Shape
from pedsup_maintain.synthetic.sizes import SIZES, model_bytes

PEER_FACTOR: Final = 2.9
"""Disk the peer needs in models: merged and 16-bit GGUF (2), two results and one floor file."""
OUR_FACTOR: Final = 0.9
SPARE: Final = 1 << 30


def needed_bytes(shape: Shape, sides: Sequence[str], *, made: bool) -> int:
    """Free bytes that a run wants: the checkpoint unless `made` already, intermediates, results."""
    model = model_bytes(shape)
    factor = (0 if made else 1) + (PEER_FACTOR if "peer" in sides else OUR_FACTOR)
    return int(model * factor) + SPARE


def check_space(folder: Path, wanted: int) -> None:
    """Refuse before anything is written.

    Raises:
        ResourceError: the disk has less than `wanted` bytes free.
    """
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise ResourceError(
            f"the disk has {human_bytes(free)} free",
            where=folder,
            wanted=f"{human_bytes(wanted)} for this benchmark",
            remedy="give a --work-dir on another disk, or a smaller --size",
        )


@contextmanager
def workspace(work_dir: Path | None, *, keep: bool) -> Iterator[Path]:
    """A folder of our own for one run; gone at its end, however it ends, unless `keep`."""
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="pedsup-bench-export-", dir=work_dir))
    try:
        yield folder
    finally:
        if keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--size", type=click.Choice(list(SIZES)), default="2GB", show_default=True)
@click.option("--work-dir", type=click.Path(path_type=Path, file_okay=False),
              help="Disk to work on; default: the folder for temporary files.")  # fmt: skip
@click.option("--checkpoint", type=click.Path(path_type=Path, file_okay=False),
              help="Keep the made checkpoint here, or use the one that lies here.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep checkpoint, results and logs.")
@click.option("--threads", type=click.IntRange(1, 64), help="Default: the cores of this process.")
@click.option("--only", type=click.Choice(["ours", "peer"]), help="Run one side.")
@click.option("--repeat", type=click.IntRange(1, 20), default=1, show_default=True)
@click.option("--quant", default="Q4_K_M", show_default=True)
@click.option(
    "--drop-cache",
    "drop",
    type=click.Choice(DROP),
    default="inputs",
    show_default=True,
    help="What is dropped from the page cache before each step.",
)
@click.option("--memory", is_flag=True, help="Compare our peak memory on --sizes instead.")
@click.option("--sizes", default="2GB,15GB", show_default=True, help="For --memory.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def cli(**given: Any) -> None:
    """Export a made Gemma 4 checkpoint with the usual pipeline and with pedsup; print the ratios.

    The 15GB size has E4B's true shape and needs about 60 GB of disk and ten minutes or more.
    """
    sides = (given["only"],) if given["only"] else ("peer", "ours")
    threads = given["threads"] or len(os.sched_getaffinity(0))
    options = Options(
        given["size"], given["quant"], threads, given["repeat"], sides, given["drop"], given["keep"]
    )  # fmt: skip
    with workspace(given["work_dir"], keep=options.keep) as folder:
        if given["memory"]:
            _memory(options, given["sizes"].split(","), folder, as_json=given["as_json"])
            return
        checkpoint = given["checkpoint"] or folder / "checkpoint"
        made = holds_checkpoint(checkpoint, options.size)
        check_space(folder, needed_bytes(SIZES[options.size], sides, made=made))
        found = compare(options, folder, checkpoint)
    click.echo(
        json.dumps(report.to_json(found), indent=1) if given["as_json"] else report.to_text(found)
    )


def _memory(options: Options, sizes: Sequence[str], folder: Path, *, as_json: bool) -> None:
    unknown = [s for s in sizes if s not in SIZES]
    if unknown:
        raise click.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(SIZES)}", param_hint="sizes"
        )
    largest = max((SIZES[s] for s in sizes), key=model_bytes)
    check_space(folder, needed_bytes(largest, ("ours",), made=False))
    found = peak_by_size(sizes, options, folder)
    if as_json:
        rows = [{"size": s, "model_bytes": n, **asdict(t)} for s, n, t in found]
        document = {"benchmark": "export-memory", "machine": machine(), "runs": rows}
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo(report.memory_rows(found))


def main() -> None:
    """Entry point; SIGTERM cleans up as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    border(lambda: cli.main(standalone_mode=False))


if __name__ == "__main__":
    main()
