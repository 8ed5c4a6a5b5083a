"""A signed model stays signed by the same key through a patch; memory stays bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner
from pedsup_testing import versions
from pedsup_testing.home import environment
from pedsup_testing.signed_models import key_pair
from pedsup_testing.slowly import slow_but

from pedsup.errors import UntrustedError
from pedsup.gguf_file.validate import validate_model
from pedsup.patch.apply import apply
from pedsup.patch.plan import ApplyRequest, open_plan
from pedsup.trust.assess import Policy, assess, verify_weights
from pedsup.trust.bundle import signature_path
from pedsup.trust.identity import identify
from pedsup.trust.keys import read_public_key
from pedsup.trust.store import TrustedKey, load_store
from pedsup.trust.verdict import Trust
from pedsup_export.cli import cli
from pedsup_export.patch.make import make_patch
from pedsup_export.patch.plan import PatchRequest, plan_patch
from pedsup_export.prove.sign import sign


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)


def trust_key(public: Path, name: str) -> None:
    load_store().with_key(TrustedKey(name, read_public_key(public), "")).save()


def verified(path: Path) -> Trust:
    header = validate_model(path)
    return verify_weights(assess(header, identify(header), load_store(), Policy()))


def patch_of(old: Path, new: Path, out: Path) -> Path:
    return make_patch(plan_patch(PatchRequest(old, new, out, force=True))).path


def run(old: Path, patch: Path, **options: bool) -> Trust | None:
    with open_plan(ApplyRequest(old, patch, **options)) as plan:  # type: ignore[arg-type]
        return apply(plan)


@pytest.mark.parametrize(
    ("in_place", "name"),
    slow_but(
        {(True, "Tiny"), (False, "Tiny of another name")},
        product([False, True], ["Tiny", "Tiny of another name"]),
    ),
)
def test_a_signed_model_stays_signed(tmp_path: Path, in_place: bool, name: str) -> None:
    private, public = key_pair(tmp_path / "lab")
    other, other_public = key_pair(tmp_path / "other")
    trust_key(public, "lab")
    trust_key(other_public, "other")
    (tmp_path / "phone").mkdir()
    old = versions.version(tmp_path / "phone/v0.2.gguf", 2)
    new = versions.version(tmp_path / "v0.3.gguf", 3, name=name)
    sign(old, private, None)
    assert verified(old).signed == "signed"
    before = {p.name: p.read_bytes() for p in old.parent.iterdir()}

    for signer in (None, other):
        if signer is not None:
            sign(new, signer, None)
        with pytest.raises(UntrustedError, match="came signed before"):
            run(old, patch_of(old, new, tmp_path / "p"), in_place=in_place)
        assert {p.name: p.read_bytes() for p in old.parent.iterdir()} == before

    signature_path(new).unlink()
    sign(new, private, None)
    trust = run(old, patch_of(old, new, tmp_path / "p"), in_place=in_place)
    assert trust is not None
    assert (trust.signed, trust.weights) == ("signed", "earlier")
    made = old if in_place else old.with_name("v0.3.gguf")
    assert signature_path(made).read_bytes() == signature_path(new).read_bytes()
    # As after a first verify: known as signed by this key, and not read in full again.
    assert load_store().known(name, made)
    assert verified(made).weights == "earlier"


@pytest.mark.parametrize("in_place", [False, True])
def test_an_old_file_that_never_ran_here_counts_as_signed_too(
    tmp_path: Path, in_place: bool
) -> None:
    """Copied from a card with its signature, and patched at once: nothing is known of it yet."""
    private, public = key_pair(tmp_path / "lab")
    (tmp_path / "phone").mkdir()
    old = versions.version(tmp_path / "phone/v0.2.gguf", 2)
    new = versions.version(tmp_path / "v0.3.gguf", 3)
    sign(old, private, None)
    before = {p.name: p.read_bytes() for p in old.parent.iterdir()}
    trust_key(public, "lab")
    with pytest.raises(UntrustedError, match="the old version is signed"):
        run(old, patch_of(old, new, tmp_path / "p"), in_place=in_place)
    assert {p.name: p.read_bytes() for p in old.parent.iterdir()} == before
    sign(new, private, None)
    trust = run(old, patch_of(old, new, tmp_path / "p"), in_place=in_place)
    assert trust is not None and trust.signed == "signed"


def test_a_required_signature_is_required_of_the_new_version(tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    old = versions.version(tmp_path / "phone/v0.2.gguf", 2)
    new = versions.version(tmp_path / "v0.3.gguf", 3)
    patch = patch_of(old, new, tmp_path / "p")
    with pytest.raises(UntrustedError, match="not signed by a trusted key"):
        run(old, patch, require_signature=True)
    assert {p.name for p in old.parent.iterdir()} == {"v0.2.gguf", "v0.2.gguf.manifest.json"}


PROBE = """import json, resource, sys
from pathlib import Path
from pedsup.patch.apply import apply
from pedsup.patch.plan import ApplyRequest, open_plan
import pedsup.trust.assess, pedsup.gguf_file.validate
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
before = peak()
for patch in sys.argv[2:]:
    try:
        with open_plan(ApplyRequest(Path(sys.argv[1]), Path(patch))) as plan: apply(plan)
    except Exception as error: print(type(error).__name__, file=sys.stderr)
print(json.dumps(peak() - before), "numpy" in sys.modules)
"""


@pytest.mark.slow
def test_memory_is_bounded_and_numpy_is_not_needed(tmp_path: Path) -> None:
    """A model of 65 MB, in full pieces of a MiB."""
    old, new = (
        versions.version(tmp_path / f"v0.{n}.gguf", n, feed_forward=1 << 19) for n in (2, 3)
    )
    assert new.stat().st_size > 60 << 20
    patch = patch_of(old, new, tmp_path / "p")
    new.unlink()
    done = subprocess.run(
        [sys.executable, "-c", PROBE, old, patch], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    used, numpy = done.stdout.split()
    assert numpy == "False"
    assert json.loads(used) < 48 << 20


@pytest.mark.parametrize("signed", [False, True])
def test_the_maker_of_a_patch_is_told_whether_it_carries_a_signature(
    tmp_path: Path, signed: bool
) -> None:
    old, new = versions.version(tmp_path / "a.gguf", 2), versions.version(tmp_path / "b.gguf", 3)
    if signed:
        sign(new, key_pair(tmp_path / "lab")[0], None)
    words = ["patch", str(old), str(new), "--out", str(tmp_path / "p")]
    last = CliRunner().invoke(cli, words).stdout.splitlines()[-1]
    assert ("is signed" in last, "sign it before" in last) == (signed, not signed)
