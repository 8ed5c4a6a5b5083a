"""A model changed through a mapping that was there before: found by its times, or by its blocks."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pedsup_testing import signed_models
from pedsup_testing.home import environment

from pedsup.device.storage import file_system
from pedsup.errors import UntrustedError
from pedsup.files import direct_io
from pedsup.gguf_file import read_header
from pedsup.trust import blocks, verified
from pedsup.trust.assess import Policy, assess, verify_weights, watch
from pedsup.trust.blocks import BLOCK, Watch, block_digests, sample
from pedsup.trust.identity import identify
from pedsup.trust.store import load_store
from pedsup.trust.verdict import Trust
from pedsup.trust.verified import FileState

SHM = Path("/dev/shm")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def on_tmpfs(tmp_path: Path) -> Path:
    if file_system(SHM) != "tmpfs" or not os.access(SHM, os.W_OK):
        pytest.skip("no tmpfs that can be written")
    import tempfile

    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder)  # type: ignore[misc]


def assessed(model: Path) -> Trust:
    header = read_header(model)
    return assess(header, identify(header), load_store(), Policy())


def model_in(folder: Path, tmp_path: Path) -> Path:
    return signed_models.with_manifest(signed_models.tiny(tmp_path / "s"), folder / "m.gguf")


def writer(path: Path) -> mmap.mmap:
    """A shared mapping that has written to every page before, as an attacker keeps it."""
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    for at in range(0, len(mapping), mmap.PAGESIZE):
        mapping[at] = mapping[at]
    return mapping


def change(mapping: mmap.mmap, at: int = -1) -> None:
    mapping[at] = mapping[at] ^ 1


def test_tmpfs_does_not_tell_and_the_blocks_do(on_tmpfs: Path, tmp_path: Path) -> None:
    model = model_in(on_tmpfs, tmp_path)
    mapping = writer(model)
    assert verify_weights(assessed(model)).weights == "read"
    assert verify_weights(assessed(model)).weights == "earlier"
    before = FileState.of(model)
    time.sleep(0.05)
    change(mapping)
    assert FileState.of(model) == before, "this is why the blocks are needed"
    with pytest.raises(UntrustedError, match="leaves no trace in its times"):
        verify_weights(assessed(model))


def test_ext4_tells(tmp_path: Path) -> None:
    if file_system(tmp_path) != "ext4":
        pytest.skip("the temporary folder is not on ext4")
    model = model_in(tmp_path, tmp_path)
    mapping = writer(model)
    trust = verify_weights(assessed(model))
    assert trust.weights == "read" and trust.blocks is None
    time.sleep(0.05)
    change(mapping)
    with pytest.raises(UntrustedError, match="damaged or was changed"):
        verify_weights(assessed(model))


def test_a_change_while_the_session_runs_ends_it(on_tmpfs: Path, tmp_path: Path) -> None:
    model = model_in(on_tmpfs, tmp_path)
    mapping = writer(model)
    trust = verify_weights(assessed(model))
    change(mapping)
    told: list[UntrustedError] = []
    (one,) = watch(trust, told.append)
    assert one.done.wait(30)
    assert len(told) == 1
    with pytest.raises(UntrustedError):
        one.require_unchanged()
    one.close()


def test_every_block_is_compared_beside_the_session(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(5 * BLOCK + 7))
    digests = digests_of(path)
    assert len(digests) == 6
    clean = Watch(path, digests)
    assert clean.done.wait(30)
    clean.require_unchanged()
    clean.close()
    for number in range(6):
        raw = bytearray(path.read_bytes())
        raw[number * BLOCK] ^= 1
        path.write_bytes(raw)
        one = Watch(path, digests)
        assert one.done.wait(30) and one.failure is not None
        assert f"bytes {number * BLOCK} to" in str(one.failure)
        one.close()
        raw[number * BLOCK] ^= 1
        path.write_bytes(raw)


def test_the_sample_always_holds_both_ends_and_differs_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    monkeypatch.setattr(blocks, "require_block", lambda _f, _d, number: compared.append(number))
    path, seen = tmp_path / "m", set()
    path.write_bytes(b"")
    for _ in range(20):
        compared.clear()
        sample(path, (b"",) * 5000)
        assert {0, 4999} <= set(compared) and len(compared) <= 66
        seen.add(frozenset(compared))
    assert len(seen) == 20


def test_a_file_moved_to_another_device_is_read_again(tmp_path: Path) -> None:
    state = FileState.of(model_in(tmp_path, tmp_path))
    assert state.device == tmp_path.stat().st_dev


def test_a_record_without_the_blocks_it_needs_is_not_used(on_tmpfs: Path, tmp_path: Path) -> None:
    model = model_in(on_tmpfs, tmp_path)
    trust = verify_weights(assessed(model))
    assert trust.blocks
    verified.record_reading(
        model, trust.state, trust.header_sha256, verified.Reading(trust.expected_sha256 or "")
    )
    assert assessed(model).weights == "unread"


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /dev/shm rw shared:2 - tmpfs tmpfs rw
40 22 0:40 / /storage/emulated rw master:3 shared:4 - fuse /dev/fuse rw
41 22 0:41 / /with\\040space rw - vfat /dev/sdb1 rw
42 22 0:42 / /data rw - f2fs /dev/dm-1 rw
43 22 0:43 / /data rw - tmpfs hides rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/m.gguf", "ext4"), ("/dev/shm/x/m.gguf", "tmpfs"), ("/storage/emulated/0/m.gguf", "fuse"),
     ("/with space/m", "vfat"), ("/dev/shmx", "ext4"), ("/data/m", "tmpfs")],
)  # fmt: skip
def test_the_file_system_of_a_file(path: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "realpath", lambda given: str(given))
    assert file_system(Path(path), MOUNTS) == kind
    assert file_system(Path(path), "") == ""


def test_block_digests_of_a_file_are_those_of_its_whole_blocks_in_turn() -> None:
    raw = memoryview(os.urandom(2 * BLOCK + 5))
    at_once = block_digests(raw)
    assert len(at_once) == 3 and direct_io.BLOCK % BLOCK == 0
    assert at_once == block_digests(raw[: 2 * BLOCK]) + block_digests(raw[2 * BLOCK :])


def digests_of(path: Path) -> tuple[bytes, ...]:
    return tuple(block_digests(memoryview(path.read_bytes())))


def test_an_engine_ends_when_its_model_changed() -> None:
    from pedsup_testing.fake_engine import FakeEngine

    from pedsup.engine.api import SamplingConfig
    from pedsup.engine.proxy import checked, passed_on

    changed: list[bool] = []

    def check() -> None:
        if changed:
            raise UntrustedError("changed")

    make: Callable[..., FakeEngine] = FakeEngine
    closed: list[bool] = []
    inner = make([["a", "b", "c"]])
    engine = passed_on(inner, checked(check), lambda: closed.append(True))
    tokens = engine.generate([1], SamplingConfig(), max_tokens=3)
    next(tokens)
    changed.append(True)
    with pytest.raises(UntrustedError):
        next(tokens)
    engine.close()
    assert closed == [True]
