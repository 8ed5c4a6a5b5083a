"""Round rows of a matrix onto a tensor type so that its outputs, not its weights, come close.

With W the weights, Q the rounded ones and H the second moments of the inputs, the error of the
outputs is tr((W - Q) H (W - Q)^T). Columns are rounded in order, each with the errors of the ones
before it fed back (Frantar et al., GPTQ, https://arxiv.org/abs/2210.17323; in the form of Chee et
al., QuIP, https://arxiv.org/abs/2307.13304, section 3: H = U D U^T, column k is rounded from
w_k + sum over i < k of (w_i - q_i) U_ik, and the error is the sum of D_k times the squared misses).

Each group of columns (what one 16-bit scale covers) starts from ggml's own search on the
compensated weights; the small scales are then chosen by the error that rounding with them leaves.
Afterwards scales, factors and levels are improved in turns against H (coordinate descent).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pedsup.errors import BadFileError
from pedsup.gguf_file.ggml_types import GGMLType
from pedsup_export.kernels import feedback, ggml
from pedsup_export.rounding.layouts import LAYOUTS, Grid, Layout
from pedsup_export.types.quantize import quantize_rows, refuse_non_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Packed = NDArray[np.uint8]

TILE: Final = 64
"""Rows worked on together: vectors of the kernels, and what stays in the L2 cache."""
DAMPING: Final = 0.01
"""Share of the mean diagonal that is added to it, as in GPTQ."""
_FACTOR_STEPS: Final = (-2, -1, 1, 2)
_FACTOR_STEP: Final = 0.02


@dataclass(frozen=True)
class Effort:
    """How long to search.

    Attributes:
        scale_steps, minimum_steps: whole-number scales and minima tried on each side.
        passes: turns of scales, factors and levels after the feedback.
    """

    scale_steps: int = 2
    minimum_steps: int = 2
    passes: int = 2


@dataclass(frozen=True)
class Moments:
    """Second moments of b neighbouring input columns, factored; all float32 [b, b] or [b].

    hessian is damped; upper is U (its diagonal 1) and variance D of H = U D U^T.
    """

    hessian: Floats
    upper: Floats
    variance: Floats

    @classmethod
    def factored(cls, moments: NDArray[np.generic]) -> Moments:
        """Damp and factor float [b, b], symmetric, not negative.

        Raises:
            BadFileError: it is not positive definite even with damping.
        """
        hessian = np.array(moments, np.float64)
        diagonal = np.einsum("ii->i", hessian)
        mean = float(diagonal.mean())
        # Inputs that are never used leave nothing to weigh by: every weight is as good.
        diagonal += DAMPING * mean if mean > 0 else 1.0
        try:
            # The Cholesky factor of H read backwards is upper triangular.
            upper = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError as error:
            raise BadFileError(
                "the second moments are not those of any inputs (not positive definite)",
                remedy="make the statistics again: pedsup-export calibrate",
            ) from error
        root = np.diag(upper)
        return cls(
            hessian.astype(np.float32),
            (upper / root).astype(np.float32),
            (root * root).astype(np.float32),
        )

    @classmethod
    def plain(cls, n: int) -> Moments:
        """Inputs without any known structure: the identity."""
        eye = np.eye(n, dtype=np.float32)
        return cls(eye, eye, np.ones(n, np.float32))


def can_round(kind: GGMLType) -> bool:
    """Whether this type is rounded with error feedback; ggml's own search packs the others."""
    return kind.name in LAYOUTS


def round_rows(
    rows: Floats,
    kind: GGMLType,
    moments: list[Moments],
    effort: Effort,
    name: str = "these rows",
) -> tuple[Packed, float]:
    """Pack rows; the bytes, and the error of the outputs tr((W - Q) H (W - Q)^T).

    Args:
        rows: float32 [n, n_per_row], C-contiguous.
        kind: a type for which `can_round`.
        moments: of neighbouring runs of columns, together n_per_row; a multiple of the group each.
        effort: how long to search.

    Raises:
        NonFiniteError: a weight is NaN or Inf, or too large for the type.
    """
    refuse_non_finite(rows, name)
    layout = LAYOUTS[kind.name]
    out = np.empty((len(rows), kind.row_bytes(rows.shape[1])), np.uint8)
    error, column = 0.0, 0
    for run in moments:
        width = len(run.variance)
        first, last = (c // layout.group * layout.size for c in (column, column + width))
        for lo in range(0, len(rows), TILE):
            hi = min(lo + TILE, len(rows))
            tile = _Tile(rows[lo:hi, column : column + width], kind, run, effort)
            out[lo:hi, first:last] = tile.rounded()
            error += tile.error()
        column += width
    if not ggml.is_valid(out, kind):
        return quantize_rows(rows, kind, None, name=name), error  # says which weight is too large
    return out, error


class _Tile:
    """Some rows of one run of columns; arrays are [column or group, row]."""

    def __init__(self, rows: Floats, kind: GGMLType, moments: Moments, effort: Effort) -> None:
        self._kind, self._layout = kind, LAYOUTS[kind.name]
        self._moments, self._effort = moments, effort
        # Always of one size: how BLAS adds up a row must not depend on the rows beside it.
        self._rows = len(rows)
        self._weights = np.zeros((rows.shape[1], TILE), np.float32)
        self._weights[:, : len(rows)] = rows.T
        self._errors, self._levels = np.zeros_like(self._weights), np.zeros_like(self._weights)
        n, r = self._weights.shape
        groups, parts = n // self._layout.group, self._layout.parts
        self._d, self._dmin = np.zeros((2, groups, r), np.float32)
        self._scales, self._minima = np.zeros((2, groups, parts, r), np.float32)
        self._format = _format(self._layout)

    def rounded(self) -> Packed:
        """Packed bytes, uint8 [rows, bytes of these columns]."""
        for group in range(len(self._d)):
            self._round(group)
        for _ in range(self._effort.passes):
            for group in range(len(self._d)):
                self._improve(group)
        return self._packed()

    def error(self) -> float:
        """tr(E H E^T)."""
        forward = self._moments.hessian @ self._errors
        return float(np.einsum("ir,ir->", forward, self._errors, dtype=np.float64))

    def _columns(self, group: int) -> slice:
        return slice(group * self._layout.group, (group + 1) * self._layout.group)

    def _round(self, group: int) -> None:
        at = self._columns(group)
        y = self._weights[at].copy()
        if at.start:
            y += self._moments.upper[: at.start, at].T @ self._errors[: at.start]
        variance = np.ascontiguousarray(self._moments.variance[at])
        self._start(group, y, variance)
        if self._layout.scale_range == (1, 1):
            self._choose_factor(group, y, variance)
        self._feed_back(group, y, variance)

    def _start(self, group: int, y: Floats, variance: Floats) -> None:
        """Factors, scales and minima by ggml's search on the compensated weights."""
        packed = quantize_rows(np.ascontiguousarray(y.T), self._kind, variance)
        grid = self._layout.unpack(packed.reshape(-1, self._layout.size))
        self._d[group], self._dmin[group] = grid.d, grid.dmin
        self._scales[group], self._minima[group] = grid.scales.T, grid.minima.T

    def _feed_back(self, group: int, y: Floats, variance: Floats) -> Floats:
        """Round with error feedback; the loss of each row, float32 [rows]."""
        at = self._columns(group)
        loss = np.zeros(y.shape[1], np.float32)
        feedback.round_group(
            self._weights[at], y, np.ascontiguousarray(self._moments.upper[at, at]), variance,
            self._d[group], self._dmin[group], self._scales[group], self._minima[group],
            (self._effort.scale_steps, self._effort.minimum_steps), self._format,
            self._errors[at], self._levels[at], loss,
        )  # fmt: skip
        return loss

    def _choose_factor(self, group: int, y: Floats, variance: Floats) -> None:
        """For a type whose only scale is d: try some around the one found."""
        start = self._d[group].copy()
        best = self._feed_back(group, y.copy(), variance)
        chosen = start.copy()
        for step in _FACTOR_STEPS if self._effort.scale_steps else ():
            tried = (start * np.float32(1 + _FACTOR_STEP * step)).astype(np.float16)
            self._d[group] = tried
            loss = self._feed_back(group, y.copy(), variance)
            better = loss < best
            best[better], chosen[better] = loss[better], self._d[group][better]
        self._d[group] = chosen

    def _improve(self, group: int) -> None:
        """Scales and minima, then d and dmin, then levels, each the best for the others."""
        at = self._columns(group)
        gradient = self._moments.hessian[:, at].T @ self._errors
        hessian = np.ascontiguousarray(self._moments.hessian[at, at])
        grid = (self._scales[group], self._minima[group], self._format)
        state = (self._errors[at], self._levels[at])
        d, dmin = self._d[group], self._dmin[group]
        if self._layout.scale_range != (1, 1):
            feedback.tune_scales(gradient, hessian, d, dmin, *grid, *state)
        self._fit_factors(group, gradient, hessian)
        feedback.descend_group(gradient, hessian, d, dmin, *grid, *state)

    def _fit_factors(self, group: int, gradient: Floats, hessian: Floats) -> None:
        """The best d and dmin for these levels: the 2 by 2 normal equations of the output error.

        The rounded weights are d u + dmin v, and a change x of them costs -2 x G + x H x.
        """
        at, part = self._columns(group), self._layout.part
        d, dmin = self._d[group], self._dmin[group]
        u = np.repeat(self._scales[group], part, axis=0) * self._values(self._levels[at])
        v = -np.repeat(self._minima[group], part, axis=0)
        uu, gu = _dot(u, hessian @ u), _dot(u, gradient)
        safe = np.where(uu > 0, uu, 1)
        new_d, new_dmin = d + np.where(uu > 0, gu / safe, 0), dmin
        if self._layout.minimum_range[1]:
            hv = hessian @ v
            uv, vv, gv = _dot(u, hv), _dot(v, hv), _dot(v, gradient)
            det = uu * vv - uv * uv
            both = det > 1e-6 * uu * vv
            det = np.where(both, det, 1)
            new_d = np.where(both, d + (gu * vv - gv * uv) / det, new_d)
            new_dmin = np.where(both, dmin + (gv * uu - gu * uv) / det, dmin)
        with np.errstate(over="ignore"):
            new = np.stack([new_d, new_dmin]).astype(np.float16).astype(np.float32)
        new = np.where(np.isfinite(new).all(axis=0), new, np.stack([d, dmin]))
        change = (new[0] - d) * u + (new[1] - dmin) * v
        d[:], dmin[:] = new
        self._errors[at] -= change
        gradient -= hessian @ change

    def _values(self, levels: Floats) -> Floats:
        """What d * scale multiplies, for levels."""
        table = self._layout.table
        if table is not None:
            return np.asarray(table[levels.astype(np.int64)])
        return levels + np.float32(self._layout.lowest)

    def _packed(self) -> Packed:
        groups, rows = self._d.shape
        layout = self._layout

        def by_row(array: Floats, width: int) -> NDArray[np.int16]:
            """[group * width, row] to int16 [row * group, width]."""
            flat = array.reshape(groups * width, rows).T
            return np.ascontiguousarray(flat).reshape(rows * groups, width).astype(np.int16)

        grid = Grid(
            np.ascontiguousarray(self._d.T).reshape(-1).astype(np.float16),
            np.ascontiguousarray(self._dmin.T).reshape(-1).astype(np.float16),
            by_row(self._scales, layout.parts),
            by_row(self._minima, layout.parts),
            by_row(self._levels, layout.group),
        )
        return layout.pack(grid).reshape(rows, groups * layout.size)[: self._rows]


def _dot(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Column-wise products summed, per row of the matrix."""
    return np.asarray(np.einsum("kr,kr->r", a, b), np.float64)


def _format(layout: Layout) -> tuple[Any, ...]:
    """The layout as the kernels take it."""
    table = layout.table if layout.table is not None else np.empty(0, np.float32)
    head = (layout.part, layout.n_levels, layout.lowest)
    return (*head, *layout.scale_range, *layout.minimum_range, table)
