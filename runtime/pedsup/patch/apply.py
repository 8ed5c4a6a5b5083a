"""What `pedsup-run patch` does: an old file and a patch become the new file, or nothing changes.

Before a byte is made: is the patch for this file and whole, does its header pass the door before
llama.cpp, does somebody vouch for it as for the old one, is there room. After the last one: the
new file is read from the disk and compared with what was signed or recorded; then it takes its
name, and is known and trusted as after a first `verify`.
"""

from __future__ import annotations

import os
from dataclasses import replace

from pedsup.errors import (
    BadFileError,
    MismatchError,
    OutputError,
    PedsupError,
    UntrustedError,
    UsageError,
)
from pedsup.gguf_file.validate import validate_model_or_drafter
from pedsup.messages import message
from pedsup.patch.copying import Copying
from pedsup.patch.in_place import HEADER, InPlace
from pedsup.patch.plan import ApplyPlan
from pedsup.patch.target import (
    OldModel,
    Target,
    TrustQuestion,
    make_target,
    old_of_header,
    open_old,
    require_trusted,
)
from pedsup.patch.work import Work, open_work
from pedsup.trust.assess import Policy, assess, verify_weights
from pedsup.trust.bundle import signature_path
from pedsup.trust.identity import identify
from pedsup.trust.store import load_store
from pedsup.trust.verdict import Trust
from pedsup.trust.verified import FileState, Reading, read_in_full, record_reading, recorded_reading


def check(plan: ApplyPlan) -> None:
    """What `--dry-run` does: every check that needs no writing.

    Raises:
        MismatchError: the patch is for another file.
        BadFileError: the patch is damaged or forged.
    """
    if plan.ready:
        _refuse_undo(plan)
        return
    old = open_old(plan.request.old, plan.index)
    plan.payload.require_whole()
    make_target(plan.payload, old, plan.final)


def apply(plan: ApplyPlan) -> Trust | None:
    """Make the new file; what is known of it then. None where the old one was brought back.

    Raises:
        PedsupError: the old file is as it was, or, in place, the same command goes on or `--undo`
            brings it back.
    """
    if plan.ready:
        _refuse_undo(plan)
        return _trusted(plan)
    with open_work(plan.final) as work:
        trust = _in_place(plan, work) if plan.in_place else _beside(plan, work)
        work.remove()
    return trust


def _beside(plan: ApplyPlan, work: Work) -> Trust:
    old = open_old(plan.request.old, plan.index)
    plan.payload.require_whole()
    target = make_target(plan.payload, old, work.model)
    job = work.read_job()
    if job is not None and job[1] and work.model.exists():
        raise _other_job(work)
    if job != (plan.index.digest, False):
        work.clear()
    expected = _require_trusted(plan, work, old, target)
    copying = Copying(plan.payload, old, target, work)
    copying.require_room()
    work.write_job(plan.index.digest, in_place=False)
    try:
        copying.run()
    except (MismatchError, BadFileError):
        work.clear()  # the same inputs would fail again
        raise
    try:
        checked = _require_right(plan, work, expected)
    except PedsupError:
        work.clear()
        raise
    return _publish(plan, work, target, checked)


def _in_place(plan: ApplyPlan, work: Work) -> Trust | None:
    resumed = work.model.exists()
    if resumed and work.read_job() != (plan.index.digest, True):
        raise _other_job(work)
    if resumed and os.path.lexists(plan.final):
        raise OutputError(
            "another file has taken the name of the file that is being patched",
            where=plan.final,
            wanted=message(
                "nothing with this name until the patch in {path} is done", path=work.folder
            ),
            remedy="move it away and give the same command again; or, if it is the old file "
            "copied again, remove the folder of the interrupted patch",
        )
    if resumed:
        old = old_of_header(plan.final, (work.before / HEADER).read_bytes(), plan.index)
    else:
        old = open_old(plan.final, plan.index)
    plan.payload.require_whole()
    target = make_target(plan.payload, old, work.model)
    job = InPlace(plan.payload, old, target, work)
    if plan.request.undo:
        if not resumed:
            _refuse_undo(plan)
        _undo(plan, job)
        return None
    expected = _require_trusted(plan, work, old, target)
    if not resumed:
        job.require_possible()
        _require_old_bytes(plan)
        job.prepare()
        work.write_beside(target.manifest, target.signature)
    job.run()
    try:
        checked = _require_right(plan, work, expected)
    except PedsupError:
        _undo(plan, job)
        work.remove()
        raise
    return _publish(plan, work, target, checked)


def _refuse_undo(plan: ApplyPlan) -> None:
    """Raise `UsageError` if nothing is left that could be taken back, and that was asked for."""
    if plan.request.undo:
        raise UsageError("there is no interrupted patch to undo", where=plan.final)


def _require_trusted(plan: ApplyPlan, work: Work, old: OldModel, target: Target) -> str:
    """The SHA-256 that the new file must have, by who vouches for it."""
    work.write_beside(target.manifest, target.signature)
    request, kept = plan.request, signature_path(work.before / plan.final.name)
    question = TrustQuestion(
        plan.index,
        replace(old, path=request.old),
        plan.final,
        load_store(),
        request.require_signature,
        kept if work.before.exists() else signature_path(request.old),
    )
    return require_trusted(target, question)


def _require_old_bytes(plan: ApplyPlan) -> None:
    """Raise `MismatchError` if a byte of the old file is not what it was: nothing could undo it."""
    path, state = plan.final, FileState.of(plan.final)
    known = recorded_reading(path, state, plan.index.old.header_sha256)
    if (known or read_in_full(path, state)).sha256 != plan.index.old.sha256:
        raise MismatchError(
            "the old file is not what it was: it is damaged or was changed",
            where=path,
            wanted=f"SHA-256 {plan.index.old.sha256}",
            remedy="copy it again from where it came from, or get the whole new file",
        )


def _undo(plan: ApplyPlan, job: InPlace) -> None:
    job.undo()
    path = plan.final
    if read_in_full(path, FileState.of(path)).sha256 != plan.index.old.sha256:
        raise MismatchError(
            "the old file could not be brought back as it was",
            where=path,
            wanted=f"SHA-256 {plan.index.old.sha256}",
            remedy="copy it again from where it came from: the storage may be failing",
        )


def _require_right(plan: ApplyPlan, work: Work, expected: str) -> tuple[FileState, Reading]:
    """Read what is on the disk, whatever was written; it may be opened, and is what was exported.

    Raises:
        BadFileError, UnsupportedError: llama.cpp must not see it.
        UntrustedError: it is another file.
    """
    state = FileState.of(work.model)
    validate_model_or_drafter(work.model)
    reading = read_in_full(work.model, state)
    if reading.sha256 != expected:
        raise UntrustedError(
            "the new file is not the one that was exported: the patch was changed",
            where=plan.index.path,
            wanted=message("SHA-256 {wanted}, not {found}", wanted=expected, found=reading.sha256),
            remedy="copy the patch again from where it came from",
        )
    return state, reading


def _publish(
    plan: ApplyPlan, work: Work, target: Target, checked: tuple[FileState, Reading]
) -> Trust:
    state, reading = checked
    work.publish()
    now = FileState.of(plan.final)
    # Taking its name changes a file's change time and nothing else.
    if replace(now, ctime_ns=state.ctime_ns) == state:
        record_reading(plan.final, now, target.digest, reading)
    return _trusted(plan)


def _trusted(plan: ApplyPlan) -> Trust:
    """The new file under its name, as a first `verify` leaves it."""
    header = validate_model_or_drafter(plan.final)
    policy = Policy(require_signature=plan.request.require_signature)
    return verify_weights(assess(header, identify(header), load_store(), policy))


def _other_job(work: Work) -> OutputError:
    return OutputError(
        "another patch was interrupted here",
        where=work.folder,
        wanted="the patch that was being applied",
        remedy="finish it with the same command, or take it back with --undo",
    )
