"""`pedsup-bench gate`: publish or refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pedsup_bench.admission import admit, admit_all
from pedsup_bench.gate.check import require_pass
from pedsup_bench.gate.run import GatePlan, plan_facts, run_gate
from pedsup_bench.report import options


@click.command()
@options.MODEL
@options.ADAPTER
@click.option("--reference", type=click.Path(path_type=Path), help="The file it was made from.")
@click.option("--thresholds", type=click.Path(path_type=Path), help="TOML; default: shipped.")
@click.option("--questions", type=click.Path(path_type=Path), help="Multiple-choice set to add.")
@click.option("--examples", type=click.Path(path_type=Path),
              help="Held-out examples of the adapter's own task to add (JSON lines).")  # fmt: skip
@click.option("--full", is_flag=True, help="All of the shipped text instead of a quick part.")
@click.option("--logits", "logits_folder", type=click.Path(path_type=Path, file_okay=False),
              help="Folder of the reference's log-probabilities.")  # fmt: skip
@options.ALLOW_TEMPLATE
@options.DRY_RUN
@options.THREADS
@options.OUTPUTS
def gate(model: Path, **given: Any) -> None:
    """Check MODEL against thresholds; exit code 11 and by how much if it breaks one."""
    plan = GatePlan(
        model,
        given["reference"],
        given["thresholds"],
        given["questions"],
        given["examples"],
        n_threads=options.n_threads(given["threads"]),
        logits_folder=given["logits_folder"],
        allow_template=given["allow_template"],
        adapter=given["adapter"],
    )
    if given["full"]:
        plan = replace(plan, n_ctx=512, n_chunks=None)
    options.refuse_existing_outputs(given["out"], force=given["force"])
    if given["dry_run"]:
        admit(model, plan.adapter, weights=False)
        if plan.reference is not None:
            admit(plan.reference, weights=False, as_before=False)
        options.show_plan(plan_facts(plan), as_json=given["as_json"])
        return
    trust = admit_all(model, plan.reference, plan.adapter)
    result = run_gate(plan)
    whole = {**result, "trust": trust}
    text = "\n".join(
        f"{'ok    ' if check['passed'] else 'BREACH'} {check['sentence']}"
        for check in result["checks"]
    )
    verdict = "passed" if result["passed"] else "refused"
    text += f"\n{result['file_type']} gate: {verdict}"
    # The document is written for a breach too: it says what to look at.
    options.put_out(whole, text, given)
    require_pass(result)
