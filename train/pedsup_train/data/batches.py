"""Batches: examples of like length together, in an order that depends on seed and epoch only."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pedsup_train.data.render import IGNORE

if TYPE_CHECKING:
    from torch import Tensor


def epoch_order(
    lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int, by_length: bool = True
) -> list[int]:
    """The order of an epoch's examples, to be cut into batches of `batch_size`.

    Within pools of 16 shuffled batches the examples are sorted by length, so that little is
    padded; the batches are then shuffled. A short last batch stays last.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if not by_length:
        return order
    pool = 16 * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda i: lengths[i], reverse=True)
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    last = batches.pop() if batches and len(batches[-1]) < batch_size else []
    rng.shuffle(batches)
    return [i for batch in [*batches, last] for i in batch]


class EpochSampler:
    """A sampler for a `DataLoader` whose order is set by `epoch` (an attribute, set from outside).

    It draws nothing from torch's generator: a resumed run sees the order of the unbroken one.
    """

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, seed: int, by_length: bool
    ) -> None:
        self.lengths, self.batch_size, self.seed = list(lengths), batch_size, seed
        self.by_length = by_length
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(
            epoch_order(
                self.lengths,
                batch_size=self.batch_size,
                seed=self.seed,
                epoch=self.epoch,
                by_length=self.by_length,
            )
        )


class Collator:
    """Pads on the right; padding has attention 0 and label -100."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, features: Sequence[dict[str, list[int]]]) -> dict[str, object]:
        import torch

        def padded(rows: Iterable[list[int]], fill: int) -> Tensor:
            tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
            return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)

        return {
            "input_ids": padded((f["input_ids"] for f in features), self.pad_token_id),
            "attention_mask": padded(([1] * len(f["input_ids"]) for f in features), 0),
            "labels": padded((f["labels"] for f in features), IGNORE),
        }
