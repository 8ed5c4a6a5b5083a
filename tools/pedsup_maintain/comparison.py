"""`make comparison`: MedGemma 1.5 4B beside Gemma 4 on the same phones, as docs/comparison.md.

    PYTHONPATH=tools python -m pedsup_maintain.comparison [--out docs/comparison.md]

Everything follows from the models' published configurations and the phones' profiles: no weights
are read. What nobody measured is said so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from pedsup.cli.border import border
from pedsup.files.fsio import atomic_file
from pedsup.gguf_file.projector import DEFAULT_TOKENS, Projector
from pedsup.memory.picture import projector_bytes
from pedsup.phones.profiles import Phone, shipped_profiles
from pedsup.phones.traffic import traffic
from pedsup_export.phone.advise import DEPTH, advise
from pedsup_export.phone.models import PhoneModel, gemma3_model, gemma4_models, planned_header
from pedsup_export.phone.policy import CONTEXT, Candidate
from pedsup_export.phone.sight import KINDS, Sight, planned_projector, sight
from pedsup_export.types.mixture import file_type

PAGE: Final = Path(__file__).parents[2] / "docs" / "comparison.md"
TYPES: Final = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M")
USUAL: Final = "Q4_K_M"
_GIB: Final = 1 << 30

_TITLE: Final = """\
# MedGemma 1.5 4B beside Gemma 4

Made by `make comparison` from the models' published configurations and the phone profiles
(`pedsup-bench phones`). A test fails when it is out of date.

**Nothing on this page was measured.**

- Sizes follow exactly from the shapes of the tensors.
- Memory is the estimate of `pedsup-run --check`, which the tests compare with llama.cpp's figures.
- Pictures count the whole projector, one picture and its buffers. An audio tower in it is loaded,
  but not used.
- How long a phone takes to see a picture is not predicted. How well a model sees was not measured.
- Speed is predicted from memory bandwidth, an unverified figure of each profile.
- Which model answers better is not known here: `pedsup-bench mcqa` compares two files.
"""

_FACTS: Final = (
    ("architecture in llama.cpp", "gemma3", "gemma4", "gemma4"),
    ("per-layer embeddings", "none",
     "yes: that table stays in the file, a few KB are read per token", "as E4B"),
    ("thinking", "not a switch: it reasons at times, unasked; pedsup keeps that out of the answer",
     "on or off by `/think`, with a budget", "as E4B"),
    ("pictures", "trained on medical ones; needs a projector file", "yes; needs a projector file",
     "as E4B"),
    ("sound", "no", "the model hears; pedsup does not use it ([pictures.md](pictures.md#hearing))",
     "as E4B"),
    ("drafter for `--draft`", "none", "yes, published by Google", "as E4B"),
    ("vocabulary cut (`--languages`)", "yes", "yes, with the per-layer table", "as E4B"),
    ("special training on medical text", "yes, by Google", "none known", "none known"),
    ("licence", "Health AI Developer Foundations terms", "Apache-2.0", "Apache-2.0"),
)  # fmt: skip
"""What the shapes do not say, from the models' cards."""


def models() -> tuple[PhoneModel, ...]:
    """The models of the page, in its columns' order."""
    return (gemma3_model("MedGemma 1.5 4B"), *gemma4_models())


def page() -> str:
    """The whole page."""
    sections = [_TITLE, _models(), _sizes(), *(_phone(p) for p in shipped_profiles().values())]
    return "\n".join(sections)


def _title(model: PhoneModel) -> str:
    return model.name if model.architecture == "gemma3" else f"Gemma 4 {model.name}"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _models() -> str:
    hyper = [{e.key.partition(".")[2]: e.value for e in m.hyper} for m in models()]
    rows = [
        ["parameters of the text model", *(f"{m.n_params / 1e9:.2f} billion" for m in models())],
        ["layers", *(str(h["block_count"]) for h in hyper)],
        ["hidden size", *(str(h["embedding_length"]) for h in hyper)],
        ["sliding window", *(f"{h['attention.sliding_window']} tokens" for h in hyper)],
        ["trained for a context of", *(f"{h['context_length']} tokens" for h in hyper)],
        *(list(row) for row in _FACTS),
        *_projectors(),
    ]
    return "## The models\n\n" + _table(["", *(_title(m) for m in models())], rows)


def _projectors() -> list[list[str]]:
    """What seeing takes on any phone."""
    found = {kind: [_projector(model, kind) for model in models()] for kind in KINDS}
    tokens = [str(projector.most_tokens()) for projector in found[KINDS[0]]]
    return [
        ["tokens of a picture, at most", *tokens],
        *(
            [f"projector, {kind}: file; memory with one picture", *map(_projector_sizes, row)]
            for kind, row in found.items()
        ),
    ]


def _projector(model: PhoneModel, kind: str) -> Projector:
    found = planned_projector(model, kind)
    assert found is not None, "every model of the page sees"
    return found


def _projector_sizes(projector: Projector) -> str:
    memory = projector_bytes(projector, DEFAULT_TOKENS)
    return f"{projector.header.file_size / _GIB:.2f} GiB; {memory / _GIB:.2f} GiB"


def _sizes() -> str:
    rows = []
    for quant in TYPES:
        row = [quant]
        for model in models():
            header = planned_header(model, file_type(quant))
            read = traffic(header).decode(DEPTH)
            row.append(f"{header.file_size / _GIB:.2f} GiB, {read / _GIB:.2f} GiB")
        rows.append(row)
    return (
        f"## Files\n\nSize of the file, and what decoding one token reads at {DEPTH} tokens of "
        "context. Nearly half of\nE4B's file is a table of which a token reads one "
        "row.\n\n" + _table(["type", *(_title(m) for m in models())], rows)
    )


def _phone(phone: Phone) -> str:
    low, high = phone.figures.bandwidth_gb_s.value
    rows = []
    for model in models():
        advice = advise(phone, (model,))
        usual = next(c for c in advice.candidates if c.quant == USUAL)
        chosen = advice.choice.chosen
        seen = sight(model, usual, phone, CONTEXT)
        rows.append([
            _title(model), f"{usual.need[CONTEXT] / _GIB:.2f} GiB", _fit(usual, phone),
            _pictures(seen), f"{usual.decode[0]:.1f} to {usual.decode[1]:.1f}",
            chosen.quant if chosen else "none",
        ])  # fmt: skip
    heads = ["model", f"memory at {CONTEXT} tokens", "fits", "fits with pictures",
             "tokens/s, predicted", "advised type"]  # fmt: skip
    return (
        f"## {phone.name}\n\n{phone.chip}; an app is likely to get "
        f"{phone.available_bytes / _GIB:.1f} GiB of memory; {low:g} to {high:g} GB/s. "
        f"{USUAL}, but for the last column.\n\n" + _table(heads, rows)
    )


def _fit(candidate: Candidate, phone: Phone) -> str:
    if candidate.need[CONTEXT] <= phone.available_bytes:
        return f"yes, up to {candidate.largest_context} tokens"
    if candidate.largest_context is not None:
        return f"only {candidate.largest_context} tokens"
    if candidate.paging is not None:
        return f"no; from storage at most {candidate.paging:.2g} tokens/s"
    return "no"


def _pictures(seen: Sight | None) -> str:
    if seen is None or seen.context is None:
        return "no"
    kind = f"projector {seen.projector_type}"
    if seen.fits:
        return f"yes, up to {seen.context} tokens ({kind})"
    return f"only {seen.context} tokens ({kind})"


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=PAGE)
def command(out: Path) -> None:
    """Write docs/comparison.md."""
    with atomic_file(out) as file:
        file.write(page().encode())
    click.echo(out)


if __name__ == "__main__":
    border(lambda: command.main(standalone_mode=False))
