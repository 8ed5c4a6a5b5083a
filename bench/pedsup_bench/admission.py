"""The runtime's trust check before a file is measured: the same rules as for `pedsup-run`.

A figure is a statement about a file, so that it must be the file that was exported: signature and
manifest are checked at each start, all bytes once per file. Where nothing vouches for it, it is
measured all the same, after a warning, and the document says so.
"""

from __future__ import annotations

from pathlib import Path

from pedsup.errors import PedsupError
from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.gguf_file.projector import matching_projector
from pedsup.gguf_file.validate import validate_model
from pedsup.progress import say
from pedsup.settings.load import load_settings
from pedsup.texts.safe import clean
from pedsup.trust.assess import Policy, verify_weights
from pedsup.trust.manifest import PartFacts, manifest_path, read_manifest
from pedsup.trust.pair import Checked, assess_pair
from pedsup.trust.projector import assess_projector
from pedsup.trust.verdict import Trust


def admit(
    model: Path,
    adapter: Path | None = None,
    *,
    projector: Path | None = None,
    weights: bool = True,
    as_before: bool = True,
) -> Trust:
    """Check a file and warn on stderr if it is unsigned.

    Args:
        adapter: the adapter that is applied to it, checked too.
        projector: through which it sees, checked too.
        weights: read the whole file if that was not done before; without it only its header,
            manifest and signature are looked at.
        as_before: refuse it if a model of its name came signed before. A reference is the same
            model in 16 bits, of the same name, and hardly ever signed.

    Raises:
        BadFileError, UnsupportedError: the file is not a model that pedsup runs.
        MismatchError: the adapter or the projector does not belong to it.
        UntrustedError: file, manifest and signature do not fit together, or the user's settings
            require a signature and there is none that is trusted.
    """
    header = validate_model(model)
    required = load_settings(None, {}).require_signature
    policy = Policy(require_signature=required, as_before=as_before)
    checked = assess_pair(header, adapter, policy)
    trust = _with_projector(checked, header, projector, policy)
    if weights:
        # Measuring a file does not pin its signer; running it does.
        trust = verify_weights(trust, remember=False)
    if trust.warns:
        for line in trust.lines():
            say(clean(f"{model.name}: {line}"))
    return trust


def _with_projector(
    checked: Checked, header: GGUFHeader, projector: Path | None, policy: Policy
) -> Trust:
    """The trust in the model and, where it is given one, in its projector."""
    if projector is None:
        return checked.trust
    seen = matching_projector(projector, header)
    its = assess_projector(seen.header, checked.model, checked.trust, policy, strict=False)
    return checked.trust.beside("projector", its)


def admit_all(
    model: Path,
    reference: Path | None = None,
    adapter: Path | None = None,
    projector: Path | None = None,
) -> dict[str, object]:
    """The model and what it is compared with; what the document says of the model."""
    found = admit(model, adapter, projector=projector).describe()
    if reference is not None:
        admit(reference, as_before=False)
    return found


def reference_notes(model: Path, reference: Path, adapter: Path | None = None) -> list[str]:
    """Why a reference may not be what the model should be compared with; empty if it may.

    A distance to a quantized file says little, and one to a file without the adapter says what was
    trained, not what rounding lost. The manifests tell, where both files have one.
    """
    notes = []
    coarse = sorted({t.type.name for t in read_header(reference).tensors.values()
                     if t.type.block_size > 1})  # fmt: skip
    if coarse:
        notes.append(f"the reference is quantized itself ({', '.join(coarse)}): use 16 or 32 bits")
    both = manifest_path(model).exists() and manifest_path(reference).exists()
    if adapter is None and both and _merged(model) != _merged(reference):
        notes.append("the manifests of model and reference name different adapters")
    return notes


def _merged(path: Path) -> object:
    """The digests of the merged adapter, by the file's manifest; None if it has none."""
    try:
        part = read_manifest(manifest_path(path)).facts.adapter
    except PedsupError:
        return None
    return part.files if isinstance(part, PartFacts) else None
