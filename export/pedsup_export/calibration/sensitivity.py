"""How much the model's answers change with an error in a matrix: measured, not assumed.

Noise of a known share of its power is put on the outputs of some matrices, and the divergence (KL)
of the next-token distributions from the undisturbed ones is measured. For small errors it grows in
proportion, so that one measurement gives the KL per unit of relative error. On a trained Gemma 4 of
30 M parameters that agrees with really rounding the one matrix to about a tenth.

Matrices of one kind in neighbouring layers are measured together: what counts for the choice of
types is mostly the kind and the depth.

llama.cpp rounds the inputs of a quantized matrix too, to 8 bits in blocks. What share of its power
an input loses by that is kept beside: it adds to the error of the outputs whatever the weights are.
"""

from __future__ import annotations

import ctypes
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from pedsup_export.calibration.collect import weight_name
from pedsup_export.calibration.forward import ForwardPass, node_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE: Final = 0.01
"""Noise power as a share of the output's."""
TABLES: Final = ("token_embd.weight", "per_layer_token_embd.weight")
ROWS: Final = "@rows"
"""Marks the look-up in a table, apart from its use as output matrix."""
ACTIVATIONS: Final = {256: "@q8_k", 32: "@q8_0"}
"""Columns of a block of ggml's types for rounded inputs (`block_q8_K`, `block_q8_0`), and the mark
of the share that an input loses in it."""
MAX_SETS: Final = 48
MAX_TOKENS: Final = 256
"""Of each window: what a set costs is a forward pass over so many."""
SCORED_EVERY: Final = 2
SCORED_FROM: Final = 32
NoiseSet: TypeAlias = frozenset[str]
"""Matrices that are disturbed together."""


def noise_sets(names: Sequence[str]) -> list[NoiseSet]:
    """Sets of one kind and neighbouring layers, at most about `MAX_SETS`; each table alone."""
    kinds: dict[str, list[tuple[int, str]]] = defaultdict(list)
    alone = []
    for name in names:
        layer = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
        if layer:
            kinds[layer[2]].append((int(layer[1]), name))
        else:
            alone.append(frozenset({name}))
    bins = max(1, MAX_SETS // max(1, len(kinds)))
    sets = []
    for members in kinds.values():
        for part in np.array_split([name for _, name in sorted(members)], min(bins, len(members))):
            sets.append(frozenset(map(str, part)))
    return sets + alone


def names_to_disturb(model: ForwardPass, window: Sequence[int]) -> list[str]:
    """Every matrix and table that the model computes with, tables marked with `ROWS`."""
    found: dict[str, None] = {}

    def look(node: ctypes.Structure, kind: str) -> bool:
        found.setdefault(_place(node, kind))
        return True

    model.run(window, lambda node, kind: bool(_place(node, kind)), look)
    return list(found)


def measure(
    model: ForwardPass,
    windows: Sequence[Sequence[int]],
    sets: Sequence[NoiseSet],
    advance: Callable[[int], object],
) -> dict[str, float]:
    """Name -> KL per unit of relative error of its outputs, an equal share of its set's.

    Args:
        advance: told of every forward pass (`(1 + len(sets)) * len(windows)` in all).
    """
    total = np.zeros(len(sets))
    for number, window in enumerate(windows):
        scored = range(SCORED_FROM, len(window), SCORED_EVERY)
        model.run(window, _nothing, _go_on, scored)
        reference = _log_softmax(model.logits(len(scored)))
        advance(1)
        for i, noise in enumerate(sets):
            generator = np.random.default_rng([number, i])
            model.run(window, _in(noise), _disturb(generator), scored)
            total[i] += _divergence(reference, model.logits(len(scored)))
            advance(1)
    per_set = total / len(windows) / NOISE
    found = {}
    for noise, value in zip(sets, per_set, strict=True):
        for name in noise:
            found[name] = max(0.0, float(value)) / len(noise)
    return found


def input_errors(model: ForwardPass, window: Sequence[int]) -> dict[str, float]:
    """Name with a mark of `ACTIVATIONS` -> squared error of the rounded inputs over their power."""
    found: dict[str, float] = {}

    def look(node: ctypes.Structure, kind: str) -> bool:
        x = node_values(node.src[1].contents)
        for columns, mark in ACTIVATIONS.items():
            if x.shape[1] % columns == 0:
                found[_place(node, kind) + mark] = rounding_loss(x, columns)
        return True

    model.run(window, lambda node, kind: kind == "MUL_MAT" and bool(_place(node, kind)), look)
    return found


def rounding_loss(x: NDArray[np.float32], columns: int) -> float:
    """Squared error of rounding to 8 bits, over the power: float32 [rows, n] in blocks of columns.

    As `quantize_row_q8_K_ref` and `quantize_row_q8_0_ref` have it: the largest of a block is 127.
    """
    blocks = x.reshape(-1, columns)
    step = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    safe = np.where(step > 0, step, np.float32(1))
    error = blocks - np.rint(blocks / safe) * step
    power = float(np.square(x, dtype=np.float64).sum())
    return float(np.square(error, dtype=np.float64).sum()) / power if power else 0.0


def _place(node: ctypes.Structure, kind: str) -> str:
    """The name under which an operation is disturbed, or ''."""
    if not node.src[0]:
        return ""
    if kind == "MUL_MAT":
        name = weight_name(node)
        return name if name.endswith(".weight") else ""
    if kind == "GET_ROWS":
        name = node.src[0].contents.name.decode("utf-8", "replace")
        return name + ROWS if name in TABLES else ""
    return ""


def _nothing(_node: ctypes.Structure, _kind: str) -> bool:
    return False


def _go_on(_node: ctypes.Structure, _kind: str) -> bool:
    return True


def _in(noise: NoiseSet) -> Callable[[ctypes.Structure, str], bool]:
    return lambda node, kind: _place(node, kind) in noise


def _disturb(generator: np.random.Generator) -> Callable[[ctypes.Structure, str], bool]:
    def look(node: ctypes.Structure, _kind: str) -> bool:
        output = node_values(node)
        size = np.sqrt(NOISE * np.mean(np.square(output, dtype=np.float64)))
        output += generator.standard_normal(output.shape, np.float32) * np.float32(size)
        return True

    return look


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _divergence(reference: NDArray[np.float64], logits: NDArray[np.float32]) -> float:
    """Mean KL(reference || disturbed) in nats."""
    other = _log_softmax(logits)
    return float((np.exp(reference) * (reference - other)).sum(axis=1).mean())
