"""`pedsup-run verify`: read a model file in full and compare it with its manifest and signature."""

from __future__ import annotations

from pathlib import Path

import click

from pedsup.cli.output import show
from pedsup.cli.verbs import LANG
from pedsup.errors import UntrustedError
from pedsup.gguf_file.validate import validate_any_gguf
from pedsup.messages import message
from pedsup.settings.load import load_settings
from pedsup.texts.safe import clean
from pedsup.trust.assess import Policy, assess, verify_weights
from pedsup.trust.identity import identify
from pedsup.trust.keys import read_public_key
from pedsup.trust.store import TrustedKey, load_store


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path),
    help="Public key that must have signed it; default: any trusted key, or no "
"signature.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@LANG
def command(model: Path, key: Path | None, as_json: bool) -> int:
    """Read all of MODEL and compare it with its manifest and its signature."""
    settings = load_settings(None, {})
    store = load_store()
    required = settings.require_signature or key is not None
    header = validate_any_gguf(model)
    identity = identify(header)
    if key is not None:
        # For this check only: nothing is trusted afterwards that was not before.
        store = type(store)(store.path, (TrustedKey(key.name, read_public_key(key), ""),))
    policy = Policy(require_signature=required, verify=True, key_given=key is not None)
    trust = assess(header, identity, store, policy)
    if trust.expected_sha256 is None:
        raise UntrustedError(
            "there is neither a manifest nor a signature to compare this file with",
            where=model,
            wanted=message("{name}.manifest.json beside it", name=model.name),
            remedy="copy it from where the model came from",
        )
    trust = verify_weights(trust, remember=key is None)
    document = {"schema": "pedsup-verify/1", "model": identity.describe(),
                "trust": trust.describe()}  # fmt: skip
    lines = [*identity.lines(), *(line.mapped(clean) for line in trust.lines())]
    show(as_json, document, lines)
    return 0
