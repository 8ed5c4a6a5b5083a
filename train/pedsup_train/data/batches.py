"""Steps: examples of similar length together, in an order that depends on seed and epoch only."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pedsup_train.data.render import IGNORE

if TYPE_CHECKING:
    from torch import Tensor


def epoch_order(
    lengths: Sequence[int], *, step_size: int, seed: int, epoch: int, by_length: bool = True
) -> list[int]:
    """The order of an epoch's examples, to be cut into steps of `step_size`.

    Within pools of 16 shuffled steps the examples are sorted by length, so that little is
    padded; the steps are then shuffled. A short last step stays last. A step has the same examples
    however many forward passes or processes share them out.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if not by_length:
        return order
    pool = 16 * step_size
    steps: list[list[int]] = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda i: lengths[i], reverse=True)
        steps += [part[i : i + step_size] for i in range(0, len(part), step_size)]
    last = steps.pop() if steps and len(steps[-1]) < step_size else []
    rng.shuffle(steps)
    return [i for step in [*steps, last] for i in step]


class EpochSampler:
    """A sampler for a `DataLoader` whose order is set by `epoch` (an attribute, set from outside).

    It draws nothing from torch's generator: a resumed run sees the order of the unbroken one.

    Args:
        multiple: the epoch is filled up to a multiple of this with the index after the last, a row
            without a loss. accelerate would repeat examples for processes that have none left.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        step_size: int,
        seed: int,
        by_length: bool,
        multiple: int = 1,
    ) -> None:
        self.lengths, self.step_size, self.seed = list(lengths), step_size, seed
        self.by_length = by_length
        self.n_filled = -len(self.lengths) % multiple
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths) + self.n_filled

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(
            self.lengths,
            step_size=self.step_size,
            seed=self.seed,
            epoch=self.epoch,
            by_length=self.by_length,
        )
        return iter(order + [len(self.lengths)] * self.n_filled)


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
