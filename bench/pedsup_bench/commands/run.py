"""`pedsup-bench run`: speed and memory on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

import click

from pedsup.engine.limits import cannot_see
from pedsup.engine.select import EngineChoice
from pedsup.errors import UsageError
from pedsup.files.fsio import sha256_file
from pedsup.gguf_file.projector import matching_projector
from pedsup.gguf_file.validate import validate_model
from pedsup.phones.profiles import profile
from pedsup.trust.identity import identify
from pedsup.trust.projector import projector_beside
from pedsup_bench.admission import admit_all
from pedsup_bench.phone.limits import Limited, limited_as
from pedsup_bench.report import options
from pedsup_bench.report.document import ModelFacts, as_written
from pedsup_bench.report.forecast import human_seconds
from pedsup_bench.speed import llama_bench
from pedsup_bench.speed.html import report
from pedsup_bench.speed.measure import measure
from pedsup_bench.speed.picture import check_picture
from pedsup_bench.speed.plan import MAX_LOADS, MAX_REPEATS, SpeedPlan
from pedsup_bench.speed.progress import foresee
from pedsup_bench.speed.render import run_table

QUICK = SpeedPlan(Path(), prompts=(32, 128), depths=(0,), n_decode=16, repeats=3, loads=1)
T = TypeVar("T")


class RunOptions(TypedDict):
    """The values that click gives."""

    engine: EngineChoice
    adapter: Path | None
    prompts: tuple[int, ...] | None
    depths: tuple[int, ...] | None
    n_decode: int | None
    repeats: int | None
    loads: int | None
    sustained: float
    image: Path | None
    picture: tuple[int, int] | None
    mmproj: Path | None
    extra_buffers: bool
    quick: bool
    against: str | None
    phone: str | None
    html: Path | None
    dry_run: bool
    threads: int | None
    out: Path | None
    force: bool
    as_json: bool


def _numbers(_: object, __: object, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise click.BadParameter("numbers with commas, such as 32,128,512")
    return tuple(int(part) for part in parts)


def _size(_: object, __: object, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text.strip())
    if match is None:
        raise click.BadParameter("width and height in pixels, such as 1024x768")
    return int(match[1]), int(match[2])


@click.command()
@options.MODEL
@options.ADAPTER
@click.option("--engine", type=click.Choice(["auto", "inprocess", "server"]), default="auto")
@click.option("--prompts", callback=_numbers, help="Prompt lengths in tokens [32,128,512].")
@click.option("--depths", callback=_numbers, help="Context depths for decoding [0,512].")
@click.option("--decode", "n_decode", type=click.IntRange(2, 4096), help="Tokens per sample [32].")
@click.option("--repeats", type=click.IntRange(1, MAX_REPEATS), help="Samples per figure [5].")
@click.option("--loads", type=click.IntRange(1, MAX_LOADS), help="Cold and warm loads each [3].")
@click.option("--sustained", default=0.0, help="Seconds of decoding without a pause.")
@click.option(
    "--image", type=click.Path(dir_okay=False, path_type=Path), help="Measure this picture too."
)
@click.option(
    "--picture", callback=_size, metavar="WxH", help="Measure a picture of noise too: 1024x768."
)
@click.option(
    "--mmproj",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The projector for it [mmproj-MODEL.gguf beside MODEL].",
)
@click.option("--extra-buffers", is_flag=True, help="Repacked weights (ARM) or AMX (x86).")
@click.option("--quick", is_flag=True, help="Fewer and shorter samples, for a first look.")
@click.option("--against", type=click.Choice(["llama-bench"]), help="Run it side by side.")
@click.option("--phone", help="Limit memory, cores and storage reads as on this phone (cgroups).")
@options.DRY_RUN
@options.THREADS
@options.PAGE_OUTPUTS
def run(model: Path, **given: Unpack[RunOptions]) -> None:
    """Measure load, first token, prompt and decode speed, and memory of MODEL."""
    options.refuse_existing_outputs(given["out"], given["html"], force=given["force"])
    plan = make_plan(model, given)
    if given["dry_run"]:
        options.show_plan(_plan_facts(plan), as_json=given["as_json"])
        return
    trust = admit_all(model, adapter=plan.adapter, projector=plan.projector)
    with _limits(plan, given["phone"]) as limited:
        document = measure(limited.apply(plan) if limited else plan)
        document["trust"] = trust
        document["model"] = with_digests(document["model"], plan, trust)
        document["limits"] = limited.to_json() if limited else None
    if given["against"]:
        document["against"] = llama_bench.run(plan, document["figures"])
    options.put_out(document, run_table(document), given, lambda: report(document))


def _plan_facts(plan: SpeedPlan) -> dict[str, object]:
    """What will be measured; what is not asked for is left out."""
    asked = {name: value for name, value in plan.to_json().items() if value}
    if plan.projector is None:
        asked.pop("noise", None)  # the size of a picture that nobody asked for
    asked["time"] = (
        f"roughly {human_seconds(foresee(validate_model(plan.model), plan).left())}, guessed from "
        "the file's size"
    )
    return {name.removeprefix("n_").replace("_", " "): value for name, value in asked.items()}


def with_digests(facts: ModelFacts, plan: SpeedPlan, trust: Mapping[str, object]) -> ModelFacts:
    """The model's facts with its SHA-256 and its adapter's, after the speeds were measured.

    Where the trust check has just compared all bytes with a digest, that is the digest.
    """
    adapter, of_adapter = plan.adapter, trust.get("adapter")
    found = {**facts, "sha256": trust.get("sha256") or sha256_file(plan.model)}
    if adapter is not None and "adapter" in facts:
        known = of_adapter.get("sha256") if isinstance(of_adapter, Mapping) else None
        found["adapter"] = {**facts["adapter"], "sha256": known or sha256_file(adapter)}
    return as_written(ModelFacts, found, plan.model)


def make_plan(model: Path, given: RunOptions) -> SpeedPlan:
    """The plan from the options; what is not given is the plan's own default."""
    if given["adapter"] and given["against"]:
        raise UsageError("llama-bench applies no adapter", remedy="leave --against out")
    projector = _projector(model, given)
    plan = QUICK if given["quick"] else SpeedPlan(model)
    plan = replace(
        plan,
        model=model,
        engine=given["engine"],
        n_threads=options.n_threads(given["threads"]),
        extra_buffers=given["extra_buffers"],
        sustained=given["sustained"],
        adapter=given["adapter"],
        projector=projector,
        image=given["image"],
        noise=_given(given["picture"], plan.noise),
        prompts=_given(given["prompts"], plan.prompts),
        depths=_given(given["depths"], plan.depths),
        n_decode=_given(given["n_decode"], plan.n_decode),
        repeats=_given(given["repeats"], plan.repeats),
        loads=_given(given["loads"], plan.loads),
    )
    if not all(plan.prompts):
        raise UsageError("a prompt of 0 tokens", wanted="1 or more")
    return plan


def _projector(model: Path, given: RunOptions) -> Path | None:
    """The checked projector where a picture is to be measured; None where none is.

    Raises:
        UsageError: options that exclude or need each other.
        BadFileError, UnsupportedError, MismatchError: the picture or the projector cannot be used.
    """
    image, size = given["image"], given["picture"]
    if image is None and size is None:
        if given["mmproj"] is not None:
            raise UsageError(
                "--mmproj has no effect without a picture",
                remedy="give --image FILE or --picture WxH, or leave --mmproj out",
            )
        return None
    if image is not None and size is not None:
        raise UsageError("--image and --picture exclude each other", remedy="give one of them")
    check_picture(image, size)
    header = validate_model(model)
    path = given["mmproj"] or projector_beside(model, identify(header).manifest)
    if path is None or not path.exists():
        raise cannot_see()
    matching_projector(path, header)
    return path


def _given(value: T | None, usual: T) -> T:
    return usual if value is None else value


def _limits(plan: SpeedPlan, phone: str | None) -> AbstractContextManager[Limited | None]:
    if phone is None:
        return nullcontext(None)
    return limited_as(profile(phone), plan.model)
