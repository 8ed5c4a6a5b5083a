"""`pedsup-run tune MODEL`: measure the best settings for a model on this device, and keep them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pedsup.cli.output import show
from pedsup.device.cores import allowed_cpus, cpu_features, plan_threads, read_cores
from pedsup.device.noise import Series
from pedsup.errors import EngineError
from pedsup.files.timestamp import now
from pedsup.memory import available_memory
from pedsup.messages import joined, message, reason_of
from pedsup.progress import print_result, say
from pedsup.run.plan import LaunchPlan, plan_launch
from pedsup.settings.load import load_settings
from pedsup.settings.schema import Settings
from pedsup.texts.language import set_language
from pedsup.trust.assess import Policy, verify_weights
from pedsup.tuning.bench import ChildBench
from pedsup.tuning.fingerprint import device_digest, engine_digest
from pedsup.tuning.plan import STAGES, TunePlan, make_plan
from pedsup.tuning.report import document, report_lines
from pedsup.tuning.results import Outcome
from pedsup.tuning.search import NothingMeasuredError, Search
from pedsup.tuning.store import Tuned, keep


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--seconds", type=click.FloatRange(5, 3600), default=120.0, show_default=True,
    help="Seconds to spend on measuring; the first load of the model comes on top.",
)  # fmt: skip
@click.option("--adapter", metavar="FILE", help="Apply this LoRA adapter (a GGUF file) to MODEL.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "inprocess", "server"]),
    help="Which engine runs the model.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be tried; load nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--lang", type=click.Choice(["en", "es"]), help="Language of the messages.")
def command(model: Path, seconds: float, engine: str | None, lang: str | None, **more: Any) -> int:
    """Measure threads, cores, batch size, repacking and memory mapping for MODEL here.

    Close other apps and do not use the phone meanwhile. What is measurably better is kept for
    this model, device and engine version. pedsup-run then uses it for every option that neither
    the command line nor the settings file gives.
    """
    given = {"engine": engine, "lang": lang, "adapter": more.pop("adapter")}
    settings = load_settings(None, given)
    set_language(settings.lang)
    launch, plan, bench = _prepare(model, settings, seconds)
    if more["dry_run"]:
        print_result(joined("\n", plan.lines()))
        return 0
    trust = verify_weights(launch.trust)
    if trust.warns:
        say(joined("\n", trust.lines()))
    try:
        outcome = _search(plan, bench)
    finally:
        bench.close()
    entry = _entry(launch, bench, outcome)
    path = keep(entry)
    lines: list[str] = [
        *report_lines(plan, outcome),
        message("Best here: {label}", label=outcome.best.label()),
        message("Kept in {path}; pedsup-run uses it from now on (not with --no-tuned).", path=path),
    ]
    show(more["as_json"], document(plan, outcome, bench.engine_name, str(path)), lines)
    return 0


def _prepare(
    model: Path, settings: Settings, seconds: float
) -> tuple[LaunchPlan, TunePlan, ChildBench]:
    """What runs without tuning, the search from there, and what measures."""
    policy = Policy(require_signature=settings.require_signature)
    plain = Settings(
        engine=settings.engine,
        adapter=settings.adapter,
        mmproj=settings.mmproj,
        picture_tokens=settings.picture_tokens,
        tuned=False,
        require_signature=policy.require_signature,
    )
    launch = plan_launch(model, plain, available=available_memory(), origins={})
    cores = read_cores(allowed_cpus())
    threads = plan_threads(cores)
    plan = make_plan(launch.config, threads, cores, launch.room, seconds)
    most = max(
        plan.base.threads,
        *(change.get("threads", 0) for stage in plan.stages for change in stage.changes),
    )
    bench = ChildBench(
        base=replace(launch.config, n_ctx=0),
        engine="server" if launch.room.host.server else "inprocess",
        header=launch.header,
        host=launch.room.host,
        cpus=threads.cpus,
        most_threads=most,
        seconds=seconds,
    )
    return launch, plan, bench


def _search(plan: TunePlan, bench: ChildBench) -> Outcome:
    search = Search(
        plan, bench, lambda stage: say(message("measuring: {name}", name=STAGES[stage.name]))
    )
    try:
        return search.run()
    except NothingMeasuredError as error:
        raise EngineError(
            message("nothing could be measured: {reason}", reason=reason_of(error)),
            where=bench.base.model,
            remedy="pedsup-run doctor says what is in the way",
        ) from error


def _entry(launch: LaunchPlan, bench: ChildBench, outcome: Outcome) -> Tuned:
    decode = Series(tuple(speed.decode for speed in outcome.speeds))
    prompt = Series(tuple(speed.prompt for speed in outcome.speeds))
    return Tuned(
        model=launch.identity.digest,
        device=device_digest(read_cores(allowed_cpus()), cpu_features()),
        engine=engine_digest(server=launch.room.host.server),
        engine_name=bench.engine_name,
        measured=now(),
        settings=outcome.best.settings(),
        decode_tps=round(decode.median, 3),
        prompt_tps=round(prompt.median, 3),
        noise=round(decode.noise, 4),
    )
