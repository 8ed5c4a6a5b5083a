"""`pedsup-run patch`: make the new version of a model out of the old one and a patch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pedsup.cli.output import show
from pedsup.cli.verbs import LANG
from pedsup.errors import BadFileError
from pedsup.escape import escaped
from pedsup.messages import Message, message
from pedsup.patch.apply import apply, check
from pedsup.patch.plan import ApplyPlan, ApplyRequest, open_plan
from pedsup.progress import human_bytes
from pedsup.settings.load import load_settings
from pedsup.trust.manifest import MmprojFacts, manifest_path, mmproj_path, read_manifest
from pedsup.trust.projector import named_projector, projector_beside
from pedsup.trust.verdict import Trust


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("old", metavar="MODEL", type=click.Path(path_type=Path))
@click.argument("patch", metavar="PATCH", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="The new file; default: beside the old one, by the name that the patch has for it.",
)  # fmt: skip
@click.option(
    "--in-place", is_flag=True, help="Change the old file itself: for a phone without room for two."
)
@click.option("--undo", is_flag=True, help="Take back an interrupted --in-place.")
@click.option("--dry-run", is_flag=True, help="Check the patch and the file; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@LANG
def command(as_json: bool, dry_run: bool, **options: Any) -> int:
    """Make the new version of MODEL with PATCH, a file of `pedsup-export patch`.

    The old file stays as it is. The new one is checked against its manifest and its signature
    before it takes its name. If this is interrupted, the same command goes on.
    """
    settings = load_settings(None, {})
    request = ApplyRequest(**options, require_signature=settings.require_signature)
    with open_plan(request) as plan:
        if dry_run:
            check(plan)
            show(as_json, _document(plan, None), _plan_text(plan))
            return 0
        before = _beside(request.old)
        trust = apply(plan)
        made = None if trust is None else _made(plan.final, trust, before)
        show(as_json, _document(plan, made), _done_text(plan, made))
    return 0


@dataclass(frozen=True)
class _Made:
    """The new file, and the projector that its manifest names."""

    trust: Trust
    named: MmprojFacts | None
    projector: Path | None
    """Where the file that is named lies."""
    left: Path | None
    """The old version's projector, where the new one names none."""


def _made(model: Path, trust: Trust, before: Path | None) -> _Made:
    named = read_manifest(manifest_path(model)).facts.mmproj
    if named is None:
        return _Made(trust, None, None, before)
    return _Made(trust, named, named_projector(model, named), None)


def _beside(model: Path) -> Path | None:
    """The projector of the version that is here, while its manifest is."""
    try:
        manifest = read_manifest(manifest_path(model))
    except BadFileError:  # not there, or damaged: no reason to refuse a patch
        manifest = None
    return projector_beside(model, manifest)


def _plan_text(plan: ApplyPlan) -> list[Message]:
    if plan.ready:
        return [_nothing_to_do(plan)]
    counts = plan.as_dict()["tensors"]
    size = human_bytes(plan.index.new.size)
    return [
        message("the patch fits: {path}, {size}", path=escaped(str(plan.final)), size=size),
        message(
            "tensors: {same} the same, {delta} changed, {whole} new",
            same=counts["same"],
            delta=counts["delta"],
            whole=counts["whole"],
        ),
    ]


def _done_text(plan: ApplyPlan, made: _Made | None) -> list[Message]:
    if made is None:
        return [message("the old file is back: {path}", path=escaped(str(plan.final)))]
    ready = message("the new file is ready: {path}", path=escaped(str(plan.final)))
    first = _nothing_to_do(plan) if plan.ready else ready
    lines = [first, *_projector_text(plan.final, made), *made.trust.lines()]
    if plan.final.name != plan.index.new.name:
        exported = escaped(plan.index.new.name)
        lines.insert(1, message("the new version was exported as {name}", name=exported))
    return lines


def _nothing_to_do(plan: ApplyPlan) -> Message:
    path = escaped(str(plan.final))
    return message("nothing to do: {path} is the new version already", path=path)


def _projector_text(model: Path, made: _Made) -> list[Message]:
    """What is to be done so that the new file sees."""
    if (named := made.named) is None:
        return [] if made.left is None else [_left_text(model, made.left)]
    if (found := made.projector) is not None:
        return [message("its projector is this file, keep it: {path}", path=escaped(str(found)))]
    own = mmproj_path(model)
    if own.exists():
        return [message(
            "its projector is another file than {old}: get the one of the new version ({size}) and "
            "put it in its place; until then give --mmproj off",
            old=escaped(str(own)), size=human_bytes(named.size),
        )]  # fmt: skip
    return [message(
        "its projector is not here: get it ({size}) and name it {path}; until then the model sees "
        "no pictures",
        path=escaped(str(own)), size=human_bytes(named.size),
    )]  # fmt: skip


def _left_text(model: Path, left: Path) -> Message:
    if left != mmproj_path(model):
        return message(
            "the new version has no projector: it does not use {path}", path=escaped(str(left))
        )
    # Under this name it would still be taken for the new version's, with a warning or an error.
    return message(
        "the new version has no projector, and {path} is the old one's: delete it, or give "
        "--mmproj off",
        path=escaped(str(left)),
    )


def _document(plan: ApplyPlan, made: _Made | None) -> dict[str, Any]:
    known = made.trust.describe() if made is not None else None
    document = {"schema": "pedsup-patch-run/1", **plan.as_dict(), "trust": known}
    document["exported_as"] = plan.index.new.name
    if made is not None and made.left is not None:
        document["old_projector"] = str(made.left)
    if made is not None and (named := made.named) is not None:
        document["projector"] = {
            "name": named.name, "size": named.size, "sha256": named.sha256,
            "path": None if made.projector is None else str(made.projector),
        }  # fmt: skip
    return document
