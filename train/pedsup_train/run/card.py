"""The adapter's card: what it was made from and how, from measured facts only."""

from __future__ import annotations

from pathlib import Path

from pedsup.progress import human_bytes
from pedsup.texts.intended_use import FULL
from pedsup_train.recipe.schema import Recipe
from pedsup_train.run.facts import Facts


def write_card(path: Path, recipe: Recipe, facts: Facts) -> None:
    """Write `adapter_card.md` from the facts that `result_facts` collected."""
    sections = [
        _front(facts),
        f"# Adapter `{recipe.name}`\n\n{recipe.description}",
        f"## Intended use\n\n```text\n{FULL['en']}\n\n{FULL['es']}\n```",
        "## Training\n\n" + _table(_training(recipe, facts)),
        "![training curves](training_curves.png)",
        "## Data\n\n" + _data(facts["data"]),
        "## Versions\n\n" + _table(list(facts["versions"].items())),
        "## Files\n\n" + _table([(f"`{n}`", f"SHA-256 `{d}`") for n, d in facts["files"].items()]),
        "Written by `pedsup-train` from what it measured; `recipe.toml` repeats the run with"
        " `pedsup-train run --recipe recipe.toml`.",
    ]
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _front(facts: Facts) -> str:
    return f"---\nbase_model: {facts['base']}\nlibrary_name: peft\ntags: [lora, research-only]\n---"


def _table(rows: list[tuple[str, object]]) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows if value not in (None, "")]
    return "\n".join(lines)


def _loss(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _cosine(value: float | None) -> str | None:
    return None if value is None else f"lowest cosine {value:.5f}"


def _training(recipe: Recipe, facts: Facts) -> list[tuple[str, object]]:
    train, lora = recipe.train, recipe.lora
    seconds = facts["seconds"]
    gpu = facts["peak_gpu_bytes"]
    return [
        ("base", f"`{facts['base']}` ({facts['base_revision']})"),
        ("base's digest", facts["base_digest"]),
        ("backend", f"{facts['backend']} on {facts['device']}, {facts['dtype']}"),
        ("base held in", "4 bit (NF4)" if recipe.model.quantization == "nf4" else facts["dtype"]),
        ("LoRA", f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout}, rslora {lora.rslora}"),
        ("adapted", f"{facts['targets']} projections: {', '.join(lora.targets)}"),
        ("trained parameters", f"{facts['trainable_parameters']:,}"),
        (
            "examples of a step",
            facts["processes"] * facts["passes_per_step"] * facts["examples_per_pass"],
        ),
        (
            "forward passes of a step",
            f"{facts['passes_per_step']} of {facts['examples_per_pass']} examples"
            + (f" in each of {facts['processes']} processes" if facts["processes"] > 1 else ""),
        ),
        ("context", f"{recipe.data.max_length} tokens, packing {recipe.data.packing}"),
        (
            "optimizer",
            f"{facts['optimizer']}, {train.learning_rate:g} {train.schedule},"
            f" {train.warmup_steps} warm-up steps, seed {train.seed}",
        ),
        ("epochs, steps", f"{facts['epochs']:.3g}, {facts['steps']}"),
        ("tokens seen", f"{facts['tokens_seen']:,}"),
        ("time", f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} m {seconds % 60:.0f} s"),
        ("peak GPU memory", human_bytes(gpu) if gpu else None),
        ("training loss, first tenth of the steps", _loss(facts["loss_first_tenth"])),
        ("training loss, last tenth", _loss(facts["loss_last_tenth"])),
        ("held-out loss before", _loss(facts["eval_loss_before"])),
        ("held-out loss after", _loss(facts["eval_loss_after"])),
        ("training against inference logits", f"{facts['forward_difference']:.2g} of their spread"),
        ("gradients with and without checkpointing", _cosine(facts["gradient_cosine"])),
        ("finished", facts["finished"]),
    ]


def _data(data: Facts) -> str:
    lines = [
        "| source | rows | used | other subject | bad | over the limit | digest |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ("sources", "eval_sources"):
        for s in data[kind]:
            name = s["name"] + (" (evaluation)" if kind == "eval_sources" else "")
            lines.append(
                f"| {name} | {s['rows']} | {s['used']} | {s['other_subject']} | {s['bad']}"
                f" | {s['over_limit']} | `{s['digest']}` |"
            )
    train, evaluation = data["train_tokens"], data["eval_tokens"]
    lines += [
        "",
        f"Removed: {data['duplicates']} duplicates, {data['conflicting_answers']} with conflicting"
        f" answers, {data['overlap']} that are in the evaluation part and"
        f" {data['near_overlap']} that nearly do, {len(data['left_out'])} too long or with control"
        " tokens.",
        "",
        f"Training: {train['n']} examples, {train['total']:,} tokens of which {train['answer']:,}"
        f" in answers (median {train['median']}, longest {train['longest']}). Held out:"
        f" {evaluation['n']} examples, {evaluation['total']:,} tokens."
        " Loss is on the answers only.",
        "",
        f"Digest of both parts: `{data['digest']}`.",
    ]
    notes = [f"- {s['name']}: {note}" for s in data["sources"] for note in s["notes"]]
    return "\n".join([*lines, *(["", *notes] if notes else [])])
