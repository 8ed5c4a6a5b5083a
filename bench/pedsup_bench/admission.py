"""The runtime's trust check before a file is measured: the same rules as for `pedsup-run`.

A figure is a statement about a file, so that it must be the file that was exported: signature and
manifest are checked at each start, all bytes once per file. Where nothing vouches for it, it is
measured all the same, after a warning, and the document says so.
"""

from __future__ import annotations

from pathlib import Path

from pedsup.gguf_file.validate import validate_model
from pedsup.progress import say
from pedsup.settings.load import load_settings
from pedsup.texts.safe import clean
from pedsup.trust.assess import Policy, Trust, verify_weights
from pedsup.trust.pair import assess_pair


def admit(
    model: Path, adapter: Path | None = None, *, weights: bool = True, as_before: bool = True
) -> Trust:
    """Check a file and warn on stderr if it is unsigned.

    Args:
        adapter: the adapter that is applied to it, checked too.
        weights: read the whole file if that was not done before; without it only its header,
            manifest and signature are looked at.
        as_before: refuse it if a model of its name came signed before. A reference is the same
            model in 16 bits, of the same name, and hardly ever signed.

    Raises:
        BadFileError, UnsupportedError: the file is not a model that pedsup runs.
        MismatchError: the adapter does not belong to it.
        UntrustedError: file, manifest and signature do not fit together, or the user's settings
            require a signature and there is none that is trusted.
    """
    header = validate_model(model)
    required = load_settings(None, {}).require_signature
    policy = Policy(require_signature=required, as_before=as_before)
    trust = assess_pair(header, adapter, policy).trust
    if weights:
        # Measuring a file does not pin its signer; running it does.
        trust = verify_weights(trust, remember=False)
    if trust.warns:
        for line in trust.lines():
            say(clean(f"{model.name}: {line}"))
    return trust


def admit_all(
    model: Path, reference: Path | None = None, adapter: Path | None = None
) -> dict[str, object]:
    """The model and what it is compared with; what the document says of the model."""
    found = admit(model, adapter).describe()
    if reference is not None:
        admit(reference, as_before=False)
    return found
