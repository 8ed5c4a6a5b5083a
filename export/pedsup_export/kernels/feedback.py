"""The inner loops of rounding with error feedback, compiled by numba.

Arrays lie with rows of the matrix side by side: [column, row], so that every statement on a column
is one vector operation over the rows of a tile. `shape` is the tuple

    (part, n_levels, lowest, least scale, largest scale, least minimum, largest minimum, table)

with `table` float32 [16] for the IQ4 types and empty for the others. Arguments of all of them, for
one group of columns of a tile of rows (float32):

    d, dmin            [rows], values of float16
    scales, minima     [parts, rows], whole numbers
    e                  [group, rows], weight less rounded weight
    levels             [group, rows]
    factor             [group, group], feedback of column i's error into column k > i
    variance           [group], the weight of each column's squared miss
    gradient           [group, rows], E H for these columns, E the errors of all columns; kept up
                       to date
    hessian            [group, group], its diagonal positive
"""

from __future__ import annotations

import numpy as np

from pedsup_export.kernels.lanes.jit import inline, kernel

_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding and taking it off rounds to whole numbers
_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)


@inline
def _whole(x):
    return (x + _ROUND) - _ROUND


@inline
def _levels_of(t, a, b, top, lowest, table, out):
    """Nearest level of each row's value; t, a, b, out float32 [rows]."""
    n = t.shape[0]
    if table.shape[0] == 0:
        for r in range(n):
            inverse = _ONE / a[r] if a[r] != _ZERO else _ZERO
            level = (t[r] - b[r]) * inverse - lowest
            # Clip first: adding the rounding constant is exact for small numbers only.
            level = min(max(level, _ZERO), top)
            out[r] = _whole(level)
    else:
        for r in range(n):
            out[r] = _ZERO
        for j in range(table.shape[0] - 1):
            middle = _HALF * (table[j] + table[j + 1])
            for r in range(n):
                inverse = _ONE / a[r] if a[r] != _ZERO else _ZERO
                out[r] += _ONE if t[r] * inverse > middle else _ZERO


@inline
def _values_of(level, a, b, lowest, table, out):
    """level, a, b, out float32 [rows]."""
    n = level.shape[0]
    if table.shape[0] == 0:
        for r in range(n):
            out[r] = a[r] * (level[r] + lowest) + b[r]
    else:
        for r in range(n):
            out[r] = a[r] * table[np.int32(level[r])]


@inline
def _round_part(w, y, factor, variance, start, stop, a, b, shape, e, levels, loss):
    """Round one part column by column, each with the errors of the columns before it.

    loss [rows] is the sum of variance * (compensated weight - rounded weight)^2.
    """
    _, n_levels, lowest, _, _, _, _, table = shape
    top, low = np.float32(n_levels - 1), np.float32(lowest)
    n = a.shape[0]
    t, q = np.empty(n, np.float32), np.empty(n, np.float32)
    for r in range(n):
        loss[r] = _ZERO
    for k in range(start, stop):
        for r in range(n):
            t[r] = y[k, r]
        for i in range(start, k):
            c = factor[i, k]
            if c != _ZERO:
                for r in range(n):
                    t[r] += c * e[i, r]
        _levels_of(t, a, b, top, low, table, levels[k])
        _values_of(levels[k], a, b, low, table, q)
        v = variance[k]
        for r in range(n):
            miss = t[r] - q[r]
            loss[r] += v * miss * miss
            e[k, r] = w[k, r] - q[r]


@inline
def _trial_steps(trial, radius):
    """Whether a trial is of the scale, and its steps of scale and minimum.

    First the scale with the minimum as it is, then the minimum with the best scale.
    """
    first = trial <= 2 * radius[0]
    ds = trial - radius[0] if first else 0
    dm = 0 if first else trial - 2 * radius[0] - 1 - radius[1]
    dm += 1 if not first and dm >= 0 else 0
    return first, ds, dm


@inline
def _feed_on(y, factor, start, stop, e):
    """Put the errors of columns start..stop into all later columns of the group."""
    group, rows = y.shape
    for k in range(stop, group):
        for i in range(start, stop):
            c = factor[i, k]
            if c != _ZERO:
                for r in range(rows):
                    y[k, r] += c * e[i, r]


@kernel
def round_group(w, y, factor, variance, d, dmin, scales, minima, radius, shape, e, levels, total):
    """Round one group; scales and minima are searched part by part from where they are.

    Args:
        w, y: [group, rows], the weights, and with the errors of all earlier groups; overwritten.
        radius: (scale steps, minimum steps): how far to look on each side.
        total: [rows], the loss, added to.
    """
    part, _, _, s_low, s_high, m_low, m_high, _ = shape
    group, rows = w.shape
    a, b = np.empty(rows, np.float32), np.empty(rows, np.float32)
    loss, best = np.empty(rows, np.float32), np.empty(rows, np.float32)
    best_s, best_m = np.empty(rows, np.float32), np.empty(rows, np.float32)
    s_try, m_try = np.empty(rows, np.float32), np.empty(rows, np.float32)
    fixed_s = np.empty(rows, np.float32)
    for p in range(group // part):
        start, stop = p * part, (p + 1) * part
        for r in range(rows):
            best[r] = np.float32(np.inf)
            best_s[r], best_m[r] = scales[p, r], minima[p, r]
            fixed_s[r] = scales[p, r]
        for trial in range(2 * radius[0] + 1 + 2 * radius[1]):
            first, ds, dm = _trial_steps(trial, radius)
            for r in range(rows):
                s = scales[p, r] + ds if first else fixed_s[r]
                s_try[r] = min(max(s, np.float32(s_low)), np.float32(s_high))
                m_try[r] = min(max(minima[p, r] + dm, np.float32(m_low)), np.float32(m_high))
                a[r], b[r] = d[r] * s_try[r], -dmin[r] * m_try[r]
            _round_part(w, y, factor, variance, start, stop, a, b, shape, e, levels, loss)
            for r in range(rows):
                if loss[r] < best[r]:
                    best[r], best_s[r], best_m[r] = loss[r], s_try[r], m_try[r]
                fixed_s[r] = best_s[r] if trial == 2 * radius[0] else fixed_s[r]
        for r in range(rows):
            scales[p, r], minima[p, r] = best_s[r], best_m[r]
            a[r], b[r] = d[r] * best_s[r], -dmin[r] * best_m[r]
        _round_part(w, y, factor, variance, start, stop, a, b, shape, e, levels, loss)
        for r in range(rows):
            total[r] += loss[r]
        _feed_on(y, factor, start, stop, e)


@kernel
def descend_group(gradient, hessian, d, dmin, scales, minima, shape, e, levels):
    """One pass of coordinate descent over the levels of one group; the number of changes."""
    part, n_levels, lowest, _, _, _, _, table = shape
    group, rows = e.shape
    low, top = np.float32(lowest), np.float32(n_levels - 1)
    a, b = np.empty(rows, np.float32), np.empty(rows, np.float32)
    t, now, new = np.empty(rows, np.float32), np.empty(rows, np.float32), np.empty(rows, np.float32)
    level, step = np.empty(rows, np.float32), np.empty(rows, np.float32)
    changes = 0
    for k in range(group):
        if k % part == 0:
            p = k // part
            for r in range(rows):
                a[r], b[r] = d[r] * scales[p, r], -dmin[r] * minima[p, r]
        inverse = _ONE / hessian[k, k]
        _values_of(levels[k], a, b, low, table, now)
        for r in range(rows):
            t[r] = now[r] + gradient[k, r] * inverse
        _levels_of(t, a, b, top, low, table, level)
        _values_of(level, a, b, low, table, new)
        moved = 0
        for r in range(rows):
            step[r] = new[r] - now[r]
            moved += 1 if step[r] != _ZERO else 0
            levels[k, r] = level[r]
            e[k, r] -= step[r]
        if moved:
            changes += moved
            for j in range(group):
                h = hessian[k, j]
                for r in range(rows):
                    gradient[j, r] -= step[r] * h
    return changes


@inline
def _unit_values(levels, k, lowest, table, out):
    """What d * scale multiplies in column k; out float32 [rows]."""
    if table.shape[0] == 0:
        for r in range(out.shape[0]):
            out[r] = levels[k, r] + lowest
    else:
        for r in range(out.shape[0]):
            out[r] = table[np.int32(levels[k, r])]


@inline
def _apply(change, start, stop, gradient, hessian, e):
    """Rounded weights of columns start..stop grow by `change` [column, rows]."""
    group, rows = e.shape
    for k in range(start, stop):
        for r in range(rows):
            e[k, r] -= change[k, r]
        for j in range(group):
            h = hessian[k, j]
            for r in range(rows):
                gradient[j, r] -= change[k, r] * h


@inline
def _products(change, start, stop, gradient, hessian, t, ahead, back):
    """u G and u H u of each row for the change u of columns start..stop; t is scratch."""
    rows = ahead.shape[0]
    for r in range(rows):
        ahead[r], back[r] = _ZERO, _ZERO
    for k in range(start, stop):
        for r in range(rows):
            ahead[r] += change[k, r] * gradient[k, r]
            t[r] = _ZERO
        for j in range(start, stop):
            h = hessian[k, j]
            for r in range(rows):
                t[r] += h * change[j, r]
        for r in range(rows):
            back[r] += change[k, r] * t[r]


@inline
def _best_steps(now, ahead, back, least, most, step):
    """Move whole numbers to the best within their range; how many moved, and how far each."""
    moved = 0
    for r in range(now.shape[0]):
        best = ahead[r] / back[r] if back[r] > _ZERO else _ZERO
        best = min(max(now[r] + _whole(min(max(best, -most), most)), least), most) - now[r]
        step[r] = best
        moved += 1 if best != _ZERO else 0
        now[r] += best
    return moved


@kernel
def tune_scales(gradient, hessian, d, dmin, scales, minima, shape, e, levels):
    """Move the scale, then the minimum of every part to the best whole number, levels kept.

    The loss tr(E H E^T) of a change x of the rounded weights is -2 x G + x H x, least for a step
    t u at t = u G / u H u.
    """
    part, _, lowest, s_low, s_high, m_low, m_high, table = shape
    ranges = (s_low, s_high), (m_low, m_high)
    group, rows = e.shape
    low = np.float32(lowest)
    change = np.zeros((group, rows), np.float32)
    ahead, back = np.empty(rows, np.float32), np.empty(rows, np.float32)
    step = np.empty(rows, np.float32)
    t = np.empty(rows, np.float32)
    for p in range(group // part):
        start, stop = p * part, (p + 1) * part
        for which in range(2):
            if which == 1 and m_low == m_high:
                continue
            for k in range(start, stop):
                if which == 0:
                    _unit_values(levels, k, low, table, t)
                    for r in range(rows):
                        change[k, r] = d[r] * t[r]
                else:
                    for r in range(rows):
                        change[k, r] = -dmin[r]
            _products(change, start, stop, gradient, hessian, t, ahead, back)
            now = scales[p] if which == 0 else minima[p]
            least, most = np.float32(ranges[which][0]), np.float32(ranges[which][1])
            if _best_steps(now, ahead, back, least, most, step):
                for k in range(start, stop):
                    for r in range(rows):
                        change[k, r] *= step[r]
                _apply(change, start, stop, gradient, hessian, e)
