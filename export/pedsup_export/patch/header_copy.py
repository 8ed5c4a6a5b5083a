"""A header as copies of another one's bytes and what is new between them."""

from __future__ import annotations

from typing import Final

BLOCK: Final = 64
"""Bytes that must be the same for a copy to be found."""


def copies(old: bytes, new: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """(byte of `old`, length), or (-1, length) for the next bytes of what is returned beside.

    Gemma 4's header has 16 MB of vocabulary. A line before it that grows by a byte moves all of
    it, so copies are found wherever they are (as rsync does, but with the blocks themselves).
    """
    where = {old[at : at + BLOCK]: at for at in range(0, len(old) - BLOCK + 1, BLOCK)}
    found: list[tuple[int, int]] = []
    literal = bytearray()
    at = source = 0
    while at < len(new):
        n = _common(old, new, source, at)
        if n >= BLOCK or (n and at + n == len(new)):
            found.append((source, n))
            at, source = at + n, source + n
            continue
        begin = at
        while at < len(new) and (here := where.get(new[at : at + BLOCK])) is None:
            at += 1
        if at < len(new):
            assert here is not None
            # The copy may begin before the block that was found.
            while at > begin and here and new[at - 1] == old[here - 1]:
                at, here = at - 1, here - 1
            source = here
        literal += new[begin:at]
        if at > begin:
            found.append((-1, at - begin))
    return found, bytes(literal)


def _common(old: bytes, new: bytes, source: int, at: int) -> int:
    """Length of what is the same from these two places on."""
    n, step = 0, 1 << 20
    limit = min(len(old) - source, len(new) - at)
    while n < limit:
        size = min(step, limit - n)
        if old[source + n : source + n + size] == new[at + n : at + n + size]:
            n += size
        elif step == 1:
            break
        else:
            step = max(1, size // 2)
    return n
