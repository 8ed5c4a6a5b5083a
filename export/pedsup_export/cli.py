"""The command `pedsup-export`: run, calibrate, plan, verify, keygen, sign, ..."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pedsup
from pedsup.cli.border import border
from pedsup.cli.command_line import Commands
from pedsup.errors import UsageError
from pedsup.files.envelope import enveloped
from pedsup.files.standard_streams import json_text
from pedsup.progress import say
from pedsup.texts.safe import clean
from pedsup_export.patch import command as patch_commands
from pedsup_export.plan.request import ExportRequest
from pedsup_export.source.hub import ModelRef
from pedsup_export.vocabulary_cut.request import VocabularyRequest
from pedsup_export.write.adapter_command import adapter

if TYPE_CHECKING:
    from pedsup_export.allocation.budget import Budget
    from pedsup_export.plan.planner import ExportPlan


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(pedsup.__version__, prog_name="pedsup-export")
def cli() -> None:
    """Turn a base model and a LoRA adapter into one verified GGUF file.

    Research only, not a medical device.
    """


_base = click.option("--base", required=True, help="Base model: a folder, or a hub id owner/name.")
_FILE = click.Path(path_type=Path, dir_okay=False)
_passphrase_file = click.option(
    "--passphrase-file", type=_FILE, help="Read the passphrase from a file of yours alone."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@cli.command()
@_base
@click.option("--adapter", help="LoRA adapter (PEFT): a folder, or a hub id.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The GGUF to write.")
@click.option("--quant", default="Q4_K_M", show_default=True, help="llama.cpp file type.")
@click.option("--phone", help="Let this phone's profile choose the type; an explicit --quant wins.")
@click.option("--base-4bit", help="The 4-bit base (bitsandbytes) the adapter was trained against.")
@click.option(
    "--merge-base",
    type=click.Choice(["16bit", "4bit"]),
    help="Which base to merge into when both are given; default: the one the adapter names.",
)
@click.option(
    "--merge-dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Round the merged weight before it is quantized, as a 16-bit intermediate file would.",
)
@click.option(
    "--tensor-type", "tensor_types", multiple=True, metavar="PATTERN=TYPE",
    help="Override the type of the tensors whose name matches; can be repeated.",
)  # fmt: skip
@click.option(
    "--imatrix",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Importance matrix (llama.cpp's GGUF format).",
)
@click.option(
    "--calibrated",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Statistics of `calibrate`: round with error feedback (docs/calibration.md).",
)
@click.option("--budget", help="Choose types for a size: 3.5GB, 4.5bpw, or that of Q4_K_M.")
@click.option("--allocation", type=_FILE, help="Take the types that --save-allocation kept.")
@click.option("--save-allocation", type=_FILE, help="Keep the types that --budget chose.")
@click.option(
    "--gate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Refuse to publish a file too far from this one: the same merge in 16 or 32 bits.",
)
@click.option(
    "--thresholds",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Thresholds of --gate (TOML); default: those that ship with pedsup-bench.",
)
@click.option(
    "--gate-examples",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Held-out examples of the adapter's task (JSON lines), which --gate scores too.",
)
@click.option(
    "--languages", metavar="CODES", help="Cut the vocabulary to these: es,en,pt,fr,qu,ay."
)
@click.option(
    "--vocabulary", metavar="SIZE|FILE",
    help="Tokens to keep: a number (96k), a list, or a GGUF whose vocabulary is taken over.",
)  # fmt: skip
@click.option(
    "--keep-text", "keep_texts", multiple=True, type=_FILE,
    help="Keep every token that this text uses; can be repeated.",
)  # fmt: skip
@click.option("--allow-unused", is_flag=True, help="Export although deltas have no tensor.")
@click.option(
    "--allow-no-effect", is_flag=True, help="Export although the adapter changes nothing."
)
@click.option(
    "--tokenizer",
    type=click.Choice(["adapter", "base"]),
    default="adapter",
    show_default=True,
    help="Whose tokenizer and chat template, where the adapter's folder has others.",
)
@click.option("--force", is_flag=True, help="Replace an existing export.")
@click.option(
    "--if-changed", is_flag=True,
    help="Do nothing where the output is what the same inputs, options and version make.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--threads", type=click.IntRange(1, 64), help="Default: the cores of this process.")
@click.option("--name", help="Name shown in the file; default: adapter on base.")
@click.option("--license", "licence", help="Licence shown in the file; default: the base's card.")
@click.option("--revision", help="Hub revision of the base.")
@click.option("--adapter-revision", help="Hub revision of the adapter.")
@_json
def run(**options: Any) -> None:
    """Export: merge, quantize, write, prove, verify."""
    from pedsup_export.plan.calibrated import make_plan
    from pedsup_export.prove.verify import verify
    from pedsup_export.write import render
    from pedsup_export.write.publish import check_output, execute
    from pedsup_export.write.unchanged import unchanged

    _refuse_without_effect(options)
    request = _request(options)
    plan, inputs = make_plan(request)
    if options["dry_run"]:
        if request.out.exists() and not request.force:
            say(f"note: {request.out} exists: the export itself will want --force")
        _show("plan", render.plan_json(plan), render.plan_text(plan), options["as_json"])
        return
    if options["if_changed"] and (same := unchanged(plan, inputs)) is not None:
        say(f"{request.out} is up to date: nothing is written")
        _show(
            "verify",
            render.verify_json(same),
            f"ok: {render.verified_text(same)}",
            options["as_json"],
        )
        return
    plan = _ask_before_replacing(plan)
    check_output(plan)
    say(render.summary_text(plan))
    result = execute(plan, inputs)
    report = verify(result.path, read_sha256=result.sha256)
    _show(
        "verify", render.verify_json(report), render.result_text(result, report), options["as_json"]
    )


def _ask_before_replacing(plan: ExportPlan) -> ExportPlan:
    """With `--force`, the plan that may replace a file of somebody else's, if the user says so.

    Where there is nobody to ask, the plan stays as it is, and its execution refuses.
    """
    from pedsup_export.write.ownership import foreign_files

    foreign = foreign_files(plan.request.out) if plan.request.force else ()
    if not foreign or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return plan
    names = ", ".join(clean(str(path)) for path in foreign)
    question = f"pedsup did not write {names}. Replace what is there?"
    if not click.confirm(question, default=False, err=True):
        return plan
    return replace(plan, request=replace(plan.request, replace_foreign=True))


def _refuse_without_effect(options: dict[str, Any]) -> None:
    """An option that would do nothing is a mistake, not to be passed over."""
    pairs = (
        ("thresholds", "gate", "--gate"),
        ("gate_examples", "gate", "--gate"),
        ("adapter_revision", "adapter", "--adapter"),
        ("budget", "calibrated", "--calibrated"),
        ("allocation", "calibrated", "--calibrated"),
    )
    for first, second in (("imatrix", "calibrated"), ("budget", "allocation")):
        if options[first] is not None and options[second] is not None:
            raise UsageError(
                f"--{first} and --{second} exclude each other", remedy="give one of them"
            )
    chosen = options["budget"] is not None or _phone_chooses_types(options)
    if options["save_allocation"] is not None and not chosen:
        raise UsageError(
            "--save-allocation has no effect without --budget",
            remedy="give a --budget, or --phone with --calibrated",
        )
    for name, needed, option in pairs:
        if options[name] is not None and options[needed] is None:
            given = "--" + name.replace("_", "-")
            raise UsageError(
                f"{given} has no effect without {option}", remedy=f"give both, or leave {given} out"
            )


def _request(options: dict[str, Any]) -> ExportRequest:
    from pedsup_export.allocation.budget import parse_budget
    from pedsup_export.source.hub import ADAPTER_FILES, BASE_FILES, resolve
    from pedsup_export.vocabulary_cut.request import vocabulary_request

    base = resolve(options["base"], BASE_FILES, revision=options["revision"])
    vocabulary = vocabulary_request(
        options["languages"], options["vocabulary"], options["keep_texts"]
    )
    quant = _quant(options, base, vocabulary)
    budget = parse_budget(options["budget"]) if options["budget"] else None
    if _phone_chooses_types(options):
        budget = _phone_budget(options["phone"], base, vocabulary)
    adapter = base_4bit = None
    if options["adapter"]:
        adapter = resolve(options["adapter"], ADAPTER_FILES, revision=options["adapter_revision"])
    if options["base_4bit"]:
        base_4bit = resolve(options["base_4bit"], BASE_FILES)
    return ExportRequest(
        base=base,
        adapter=adapter,
        base_4bit=base_4bit,
        merge_base=choose_merge_base(options["merge_base"], adapter, base_4bit),
        out=options["out"],
        quant=quant,
        merge_dtype=options["merge_dtype"],
        tensor_types=tuple(_split(text) for text in options["tensor_types"]),
        imatrix=options["imatrix"],
        calibrated=options["calibrated"],
        budget=budget,
        allocation=options["allocation"],
        save_allocation=options["save_allocation"],
        gate_reference=options["gate"],
        gate_thresholds=options["thresholds"],
        gate_examples=options["gate_examples"],
        allow_unused=options["allow_unused"],
        allow_no_effect=options["allow_no_effect"],
        tokenizer=options["tokenizer"],
        force=options["force"],
        threads=options["threads"] or len(os.sched_getaffinity(0)),
        name=options["name"],
        license=options["licence"],
        vocabulary=vocabulary,
    )


def _quant(options: dict[str, Any], base: ModelRef, vocabulary: VocabularyRequest | None) -> str:
    """The type asked for, or the one that suits `--phone`."""
    asked: str = options["quant"]
    if options["phone"] is None:
        return asked
    from pedsup_export.phone.command import find_phone, quant_for

    phone = find_phone(options["phone"], None, None)
    return quant_for(phone, base, asked if _explicit("quant") else None, vocabulary)


def _explicit(name: str) -> bool:
    """Whether an option was given, and not left at its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


def _phone_chooses_types(options: dict[str, Any]) -> bool:
    """Whether `--phone` is the budget: with statistics, and nothing that says more."""
    if options["phone"] is None or options["calibrated"] is None or _explicit("quant"):
        return False
    return options["budget"] is None and options["allocation"] is None


def _phone_budget(name: str, base: ModelRef, vocabulary: VocabularyRequest | None) -> Budget:
    from pedsup_export.phone.budget import phone_budget
    from pedsup_export.phone.command import find_phone
    from pedsup_export.phone.models import model_of_folder
    from pedsup_export.phone.vocabulary import cut_model

    model = cut_model(model_of_folder(base.folder, base.name), vocabulary)
    return phone_budget(find_phone(name, None, None), model)


def choose_merge_base(
    asked: str | None, adapter: ModelRef | None, base_4bit: ModelRef | None
) -> str | None:
    """Which base the adapter is merged into: the one asked for, else the one it names.

    An adapter trained against a 4-bit base has learned to correct that base's rounding too.
    """
    if base_4bit is None:
        if asked == "4bit":
            raise UsageError("--merge-base 4bit needs --base-4bit", remedy="give both")
        return asked
    if asked is not None or adapter is None:
        return asked
    from pedsup_export.adapter.folder import Adapter

    trained_on = Adapter.open(adapter.folder).base_model_name or ""
    return "4bit" if "4bit" in trained_on.lower() or "nf4" in trained_on.lower() else "16bit"


def _split(text: str) -> tuple[str, str]:
    pattern, equals, kind = text.rpartition("=")
    return (pattern, kind) if equals else (text, "")  # what is missing is said by the plan


def _show(kind: str, document: Mapping[str, object], text: str, as_json: bool) -> None:
    """Print a document in its envelope, or its text."""
    whole = enveloped(document, "pedsup-export", schema=f"pedsup-export-{kind}/1")
    click.echo(json_text(whole) if as_json else text)


@cli.command()
@click.option("--phone", help="Phone: name, chip or id; `pedsup-bench phones` lists them.")
@click.option(
    "--phone-profile",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A phone of your own: a TOML file of the form of phones.toml.",
)
@click.option("--memory", metavar="SIZE", help="The phone's memory, if it has another: 6GB.")
@click.option("--base", help="Only this base: a folder, or a hub id; default: Gemma 4 E4B and E2B.")
@click.option("--languages", metavar="CODES", help="With a vocabulary cut to these: es,en.")
@click.option("--vocabulary", metavar="SIZE", help="Tokens to keep; default: 96k.")
@_json
def plan(
    phone: str | None,
    phone_profile: Path | None,
    memory: str | None,
    base: str | None,
    **given: Any,
) -> int:
    """Choose model, type and context for a phone; nothing is read but shapes."""
    from pedsup_export.phone.command import find_phone, models_for, print_plan
    from pedsup_export.vocabulary_cut.request import vocabulary_request

    wish = vocabulary_request(given["languages"], given["vocabulary"])
    found = find_phone(phone, phone_profile, memory)
    return print_plan(found, models_for(base), wish, as_json=given["as_json"])


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--base",
    help="The base it was made from, to prove the adapter again; of an adapter file its GGUF.",
)
@click.option("--adapter", help="The adapter that must be in it.")
@click.option("--imatrix", type=_FILE, help="The importance matrix that it was made with.")
@click.option("--calibrated", type=_FILE, help="The statistics that it was rounded with.")
@click.option("--key", type=_FILE, help="Public key of the one who must have signed it.")
@_json
def verify(
    file: Path, base: str | None, adapter: str | None, key: Path | None, as_json: bool, **given: Any
) -> None:
    """Check a file against its manifest and signature, and that the adapter is in it."""
    from pedsup.gguf_file import read_header
    from pedsup.gguf_file.cut_vocabulary import is_cut
    from pedsup.gguf_file.lora import is_adapter
    from pedsup.trust.keys import read_public_key
    from pedsup_export.prove.verify import MadeWith
    from pedsup_export.prove.verify import verify as check
    from pedsup_export.source.hub import ADAPTER_FILES, BASE_FILES, ModelRef, resolve
    from pedsup_export.write import render

    if (base is None) != (adapter is None) and not (base and is_cut(read_header(file))):
        raise UsageError("--base and --adapter go together", remedy="give both or none")
    for name, value in given.items():
        if value is not None and base is None:
            raise UsageError(
                f"--{name} has no effect without --base and --adapter", remedy="give all three"
            )
    own = base is not None and is_adapter(read_header(file))
    report = check(
        file,
        base=ModelRef(Path(base), base)
        if base and own
        else resolve(base, BASE_FILES)
        if base
        else None,
        adapter=resolve(adapter, ADAPTER_FILES) if adapter else None,
        key=read_public_key(key) if key else None,
        made_with=MadeWith(**given),
    )
    _show("verify", render.verify_json(report), f"ok: {render.verified_text(report)}", as_json)


cli.add_command(adapter)


@cli.command()
@click.argument("name", type=click.Path(path_type=Path))
@click.option("--no-passphrase", is_flag=True, help="Leave the private key unencrypted.")
@_passphrase_file
@_json
def keygen(name: Path, no_passphrase: bool, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a key pair for signing: NAME.key (private) and NAME.pub (public)."""
    from pedsup_export.prove.sign import make_keys
    from pedsup_export.write import render

    if no_passphrase and passphrase_file:
        raise UsageError("--no-passphrase and --passphrase-file exclude each other")
    passphrase = None if no_passphrase else _passphrase(passphrase_file, new=True)
    pair = make_keys(name, passphrase)
    document = {
        "private": str(pair.private),
        "public": str(pair.public),
        "encrypted": pair.encrypted,
        "fingerprint": pair.key.fingerprint,
        "words": {"en": pair.key.words("en"), "es": pair.key.words("es")},
    }
    _show("keygen", document, render.keys_text(pair), as_json)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", type=_FILE, required=True, help="Private key of `keygen`.")
@_passphrase_file
@_json
def sign(file: Path, key: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Check a file against its manifest and sign both: FILE.sig appears beside it."""
    from pedsup_export.prove.sign import needs_passphrase
    from pedsup_export.prove.sign import sign as sign_model
    from pedsup_export.write import render

    passphrase = _passphrase(passphrase_file, new=False) if needs_passphrase(key) else None
    result = sign_model(file, key, passphrase)
    document = {
        "path": str(result.path),
        "signature": str(result.signature),
        "sha256": result.sha256,
        "fingerprint": result.key.fingerprint,
    }
    _show("sign", document, render.signed_text(result), as_json)


def _passphrase(file: Path | None, *, new: bool) -> bytes:
    """From a file, or asked for on the terminal; a new one twice."""
    from pedsup_export.prove.sign import read_passphrase

    if file is not None:
        return read_passphrase(file)
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for the passphrase", remedy="give --passphrase-file FILE"
        )
    answer: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True)
    return answer.encode()


@cli.command()
@click.argument("model", type=_FILE)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option(
    "--text", "texts", type=_FILE, multiple=True,
    help="Text, or dialogues (.jsonl); can be repeated. Default: the dialogues that ship.",
)  # fmt: skip
@click.option(
    "--judged-on", "judged", type=_FILE, multiple=True,
    help="A text that files are judged on: an overlap is refused. Can be repeated.",
)  # fmt: skip
@click.option("--window", type=click.IntRange(16, 8192), default=512, show_default=True)
@click.option("--windows", "n_windows", type=click.IntRange(4), help="At most so many windows.")
@click.option("--memory", help="For sums held at a time; default: half of what is free.")
@click.option(
    "--sensitivity-windows", type=click.IntRange(0), default=1, show_default=True,
    help="Windows on which sensitivities (for --budget) are measured; 0: none.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 64), help="Default: the cores of this process.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--dry-run", is_flag=True, help="Check model and texts and compute nothing.")
@_json
def calibrate(as_json: bool, dry_run: bool, memory: str | None, **options: Any) -> None:
    """Run the 16-bit merge MODEL over text; keep what `run --calibrated` needs."""
    from pedsup_export.allocation.budget import parse_size
    from pedsup_export.calibration import command

    options["threads"] = options["threads"] or len(os.sched_getaffinity(0))
    held = parse_size(memory, "--memory") if memory else command.half_of_free_memory()
    request = command.CalibrationRequest(memory=held, **options)
    plan = command.make_plan(request)
    if dry_run:
        document = {"model": str(request.model), "texts": [t.name for t in plan.texts]}
        _show(
            "calibrate-plan",
            document,
            f"{request.model} on {', '.join(document['texts'])}",
            as_json,
        )
        return
    result = command.execute(plan)
    _show("calibrate", result.as_dict(), result.as_text(), as_json)


@cli.command("compare-bases")
@click.argument("base_16bit")
@click.argument("base_4bit")
@_json
def compare_bases(base_16bit: str, base_4bit: str, as_json: bool) -> None:
    """Print how far a 4-bit base is from the 16-bit one, per tensor and in sum."""
    from pedsup_export.prove.compare_bases import compare_bases as compare
    from pedsup_export.source.checkpoint import Checkpoint
    from pedsup_export.source.hub import BASE_FILES, resolve

    first, second = (
        Checkpoint.open(resolve(name, BASE_FILES).folder) for name in (base_16bit, base_4bit)
    )
    report = compare(first, second)
    _show("compare-bases", report.as_dict(), report.table(), as_json)


cli.add_command(patch_commands.patch)
cli.add_command(patch_commands.split)


@cli.command("phone-bundle")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--model", type=click.Path(path_type=Path), help="The GGUF that goes along.")
@click.option("--adapter", type=click.Path(path_type=Path), help="An adapter file for it.")
@click.option("--patch", type=_FILE, help="A patch for the model that is on the phone already.")
@click.option(
    "--debs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Termux's packages (.deb) for a phone without internet.",
)
@click.option("--force", is_flag=True, help="Replace an existing folder.")
@click.option(
    "--constraints",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Versions of the wheels (a pip constraints file).",
)
@_json
def phone_bundle(as_json: bool, **options: Any) -> None:
    """Write the folder that installs pedsup and a model in Termux from an SD card."""
    from pedsup_export.phone import bundle as bundles

    project = Path(__file__).resolve().parents[2]
    plan = bundles.plan_bundle(bundles.BundleRequest(project=project, **options))
    if plan.model is not None and plan.model.manifest_sha256 is None:
        say(f"warning: {plan.model.path.name} has no manifest: the phone cannot tell "
            "whether it is the file that was exported")  # fmt: skip
    bundle = bundles.write_bundle(plan)
    _show("phone-bundle", bundle.as_dict(), bundle.as_text(), as_json)


def main() -> None:
    """Entry point of the console script."""
    border(lambda: cli.main(standalone_mode=False))
