"""Checks the blocks of a model file at each start, on file systems whose times prove nothing.

A write through a mapping that was there before changes neither size nor, on tmpfs, FAT or many
FUSE file systems (Android's shared storage), any time. So a full reading there keeps a digest of
each MiB. A later start compares some blocks, drawn anew with the system's random numbers, before
the model is loaded, and all of them, in another random order, while the session runs. Who changes
a block cannot know which ones are looked at first.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pedsup.device.storage import file_system
from pedsup.errors import UntrustedError
from pedsup.files.direct_io import DirectFile
from pedsup.messages import message

BLOCK: Final = 1 << 20
DIGEST_BYTES: Final = 16
"""Bytes of SHA-256 that are kept: 128 bits against a second block with the same digest."""
SAMPLED: Final = 64
"""Blocks compared before loading: a file changed in one of a hundred is found in every other start,
one changed in one of ten in 999 of 1000."""
SHARE: Final = 0.25
"""Share of the time for the reading beside a session."""
PROVING: Final = frozenset({"ext4", "f2fs", "xfs", "btrfs"})
"""Where a write through a mapping changes ctime: `file_update_time` in their `page_mkwrite`. ext4
is tested (`test_trust_blocks.py`)."""


def times_prove(path: Path) -> bool:
    """Whether any write to a file is known to show in its change time."""
    return file_system(path) in PROVING


def block_digests(data: memoryview) -> list[bytes]:
    """The digest of each block; `data` begins with a block, only the last may be short."""
    parts = (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
    return [hashlib.sha256(part).digest()[:DIGEST_BYTES] for part in parts]


def sample(path: Path, digests: tuple[bytes, ...], n: int = SAMPLED) -> None:
    """Compare both ends and `n` other blocks, drawn by chance. Raises as `require_block`."""
    draw = secrets.SystemRandom()
    ends = {0, len(digests) - 1} if digests else set()
    file = DirectFile(path)
    for number in ends | set(draw.sample(range(len(digests)), min(n, len(digests)))):
        require_block(file, digests, number)


def require_block(file: DirectFile, digests: tuple[bytes, ...], number: int) -> None:
    """Raise `UntrustedError` if a block is not what was read before."""
    found = hashlib.sha256(file.read(number * BLOCK, BLOCK)).digest()[:DIGEST_BYTES]
    if found != digests[number]:
        raise UntrustedError(
            "the model file was changed after it was checked, in a way that leaves "
            "no trace in its timestamps",
            where=message(
                "{path}, bytes {first} to {last}",
                path=file.path,
                first=number * BLOCK,
                last=(number + 1) * BLOCK,
            ),
            wanted="the bytes that were signed or exported",
            remedy="copy it again from where it came from, to a place where other apps "
            "cannot write (in Termux: its home folder)",
        )


class Watch:
    """Reads all blocks once, beside the session, and keeps what it finds.

    Args:
        path: the model.
        digests: of its blocks.
        on_difference: called once, from the watching thread.
    """

    def __init__(
        self,
        path: Path,
        digests: tuple[bytes, ...],
        on_difference: Callable[[UntrustedError], object] = lambda _error: None,
    ) -> None:
        self._path, self._digests, self._tell = path, digests, on_difference
        self._closed = threading.Event()
        self.failure: UntrustedError | None = None
        self.done = threading.Event()
        """Set when every block was compared, or one differed."""
        self._thread = threading.Thread(target=self._run, name="pedsup-blocks", daemon=True)
        self._thread.start()

    def require_unchanged(self) -> None:
        """Raise `UntrustedError` if a block differed so far."""
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # this thread's alone
        numbers = list(range(len(self._digests)))
        secrets.SystemRandom().shuffle(numbers)
        try:
            file = DirectFile(self._path)
            for number in numbers:
                started = time.monotonic()
                require_block(file, self._digests, number)
                pause = (time.monotonic() - started) * (1 / SHARE - 1)
                if self._closed.wait(pause):
                    return
        except UntrustedError as error:
            self.failure = error
            self._tell(error)
        except OSError:
            pass  # the card was taken out: llama.cpp notices that as well
        self.done.set()
