"""How much faster a model writes with drafts, beside itself without: a ratio, and what it cost.

    python -m pedsup_bench.draft_speed MODEL.gguf [--draft lookup|DRAFTER.gguf]...

Greedy answers to a prompt that is quoted and to one that is not, with the engines of
`pedsup-run`. The measure is `pedsup.engine.drafts.measure`, which `pedsup-run tune` uses too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from pedsup.engine.api import DEFAULT_DRAFT_MAX, EngineConfig
from pedsup.engine.drafts.measure import DraftTrial, best_draft, measure_drafts
from pedsup.engine.drafts.option import draft_config
from pedsup.engine.select import open_engine
from pedsup.errors import border


def render(trials: list[DraftTrial]) -> str:
    """A table of all trials, and what `--draft auto` would be."""
    rows = [
        f"{'draft':<24}{'prompt':<8}{'plain':>8}{'drafts':>8}{'ratio':>7}{'accepted':>10}  text"
    ]
    for trial in trials:
        name = trial.draft.model.name if trial.draft.model else trial.draft.kind
        for prompt, t in trial.timings.items():
            share = f"{t.n_accepted}/{t.n_drafted}"
            rows.append(
                f"{name:<24}{prompt:<8}{t.plain_tokens_per_s:>8.1f}{t.tokens_per_s:>8.1f}"
                f"{t.speed_up:>7.2f}{share:>10}  {'same' if t.same_text else 'differs'}"
            )
        rows.append(f"{name:<24}{'all':<8}{'':>16}{trial.speed_up:>7.2f}")
    best = best_draft(trials)
    rows.append(f"fastest: {best.model or best.kind}")
    return "\n".join(rows)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--draft", "drafts", multiple=True, default=("lookup",), show_default=True)
@click.option("--draft-max", type=click.IntRange(1, 64), default=DEFAULT_DRAFT_MAX)
@click.option("--engine", type=click.Choice(["auto", "inprocess", "server"]), default="auto")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--ctx", type=click.IntRange(64), default=1024, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=96, show_default=True)
def main(model: Path, drafts: tuple[str, ...], draft_max: int, engine: str, **sizes: int) -> None:
    """Time MODEL with and without drafts."""
    config = EngineConfig(
        model, n_ctx=sizes["ctx"], n_threads=sizes["threads"], n_threads_batch=sizes["threads"]
    )
    asked = [draft_config(draft, draft_max) for draft in drafts]
    load = partial(open_engine, choice=engine)  # type: ignore[arg-type]
    print(render(measure_drafts(config, asked, load, n_tokens=sizes["tokens"])))


if __name__ == "__main__":
    border(lambda: main.main(standalone_mode=False) or 0)
