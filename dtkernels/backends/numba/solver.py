"""One axis of the transform: n rows of 16 independent lines (the mathematics of csrc/cpu/line_solver.h).

A line holds g(j), the squared distance from voxel j to the nearest voxel of the opposite class within the axes
already done; the sign bit carries the class (unsigned transforms have one class: foreground is positive,
background is 0). Wanted is

    D(p) = min over j of h(j) + w (p - j)^2,   h(j) = g(j) if j has p's class, else 0,

since a voxel of the other class is itself a site: h is one clamp, max(g(j) with p's sign divided out, 0). Beyond
the end of p's run of equal class this h is not the truth, but the first voxel after the run is a site at a smaller
offset and beats everything there. So one sweep serves both signs.

1. Window. Only j with w (p - j)^2 < h(p) can beat j = p. Near the boundary a search that widens step by step, and
   stops when the step costs as much as the best so far, is the fastest thing there is.
2. Lipschitz. sqrt(D) is the distance of the point (p sqrt(w), 0) to the points (j sqrt(w), sqrt(h(j))), so it
   changes by at most sqrt(w) per row: one row in a block of 8 tells whether the block is near.
3. Monotone argmin. For i < j the lead of i over j, h(j) - h(i) + w ((p - j)^2 - (p - i)^2), strictly decreases in
   p. If j does not lose to i at p, it beats i at every p' > p: a minimiser of p' > p is never left of a minimiser
   of p, whichever a tie picks. This holds for any h, hence for each class's own. Far blocks find the argmins of
   every 8th row (landmarks) by bisection over rows, and then search only between the argmins above and below.

Rounding. With integers fact 3 is exact. With floats a computed candidate is the ideal one (with the given h and w)
times 1 + e, |e| <= 3u, u = 2^-24 (two roundings in the table, one in the sum). A landmark therefore reports the
first and last j within a factor 1 + 16u of its minimum. A j outside them is ideally worse than the reported
minimiser at this p, on the outer side, hence at all p beyond: no ideal minimiser is ever excluded.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import Pointer, Vector, inner
from .simd import (
    LANES,
    any_above,
    any_within,
    both,
    class_sign,
    differing,
    either,
    improved,
    largest_lane,
    magnitude,
    nearer_seen,
    none_of,
    row,
    seen,
    set_row,
    sign_bits,
    sign_of,
    smaller,
    splat,
    spread_sign,
    value_of,
    where_zero,
    widened,
)

BLOCK = 8
COST_MARGIN = BLOCK  # tables of costs hold w k^2 for |k| <= n + COST_MARGIN
# Arguments must not be literals, since Numba would compile a function for each.
PROBE: Any = np.int64(10)  # steps of the window before a block counts as far
START: Any = np.int64(0)  # of a line
NARROW = 8  # landmarks do not search intervals of this length
ALL = (1 << LANES) - 1

Marks = NDArray[np.int64]

# Kinds of a block: near, or far with these classes present.
NEAR, PLUS, MINUS, MIXED = 0, 1, 2, 3

# Rows of the scratch array `marks`, PER_CLASS for each class: its landmarks know the interval of their lanes'
# argmins, and the bits of the largest minimum over the lanes; WANTED lists, ascending, those that far blocks
# need. KIND is per block. A line has one landmark more than blocks: at the first row of
# each, and at its last row.
LOW, HIGH, TOP, WANTED, PER_CLASS, KIND = 0, 1, 2, 3, 4, 8


@inner
def solve(source: Pointer, target: Pointer, n: int, cost: Pointer, inverse_weight: float, marks: Marks) -> None:
    """n rows of LANES lines; ``source`` is clobbered, and both have room for n + BLOCK rows.

    ``cost`` points to cost[0], the middle of its table; ``inverse_weight`` is 1 / w.
    """
    if _settle_near_blocks(source, target, n, cost, marks):
        return
    # A lane without any site keeps every window open. It is taken out, and its voxels get "none".
    none = splat(none_of(cost))
    zero = splat(0)
    nearest, some, every = none, zero, splat(0xFFFFFFFF)
    for p in range(n):
        g = row(source, p)
        nearest = smaller(nearest, magnitude(g))
        some = either(some, g)
        every = both(every, g)
    alive = either(differing(nearest, none), spread_sign(differing(some, every)))
    dead_value = either(none, sign_of(some))
    dead = sign_bits(where_zero(alive, splat(0x80000000), zero))
    if dead == ALL:
        for p in range(n):
            set_row(target, p, dead_value)
        return
    if dead:
        for p in range(n):
            set_row(source, p, where_zero(alive, zero, row(source, p)))
        _settle_near_blocks(source, target, n, cost, marks)
    blocks = -(-n // BLOCK)
    for c in range(2):
        wanted = PER_CLASS * c + WANTED
        count = 0
        for i in range(blocks):
            if marks[KIND, i] >> c & 1:
                if count == 0 or marks[wanted, count - 1] != i:
                    marks[wanted, count] = i
                    count += 1
                marks[wanted, count] = i + 1
                count += 1
        if count > 0:
            _place_landmarks(source, n, cost, inverse_weight, c, marks, count - 1)
    for i in range(blocks):
        if marks[KIND, i] != NEAR:
            _fill_block(source, target, n, cost, inverse_weight, marks, i)
    if dead:
        for p in range(n):
            set_row(target, p, where_zero(alive, dead_value, row(target, p)))


@inner
def _settle_near_blocks(source: Pointer, target: Pointer, n: int, cost: Pointer, marks: Marks) -> bool:
    """Fact 2: probes one row per block and finishes the near blocks. True if there are no others."""
    all_near = True
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        probe = min(begin + BLOCK // 2, end - 1)
        kind = NEAR
        if _window(source, target, n, cost, probe, PROBE):
            for p in range(begin, end):
                if p != probe:
                    _window(source, target, n, cost, p, n)
        else:
            all_near = False
            some, every = splat(0), splat(0xFFFFFFFF)
            for p in range(begin, end):
                some = either(some, row(source, p))
                every = both(every, row(source, p))
            kind = (PLUS if sign_bits(every) != ALL else 0) | (MINUS if sign_bits(some) != 0 else 0)
        marks[KIND, begin // BLOCK] = kind
    return all_near


@inner
def _window(source: Pointer, target: Pointer, n: int, cost: Pointer, p: int, limit: int) -> bool:
    """Fact 1. False, and nothing stored, if the search is not over after ``limit`` steps."""
    own = row(source, p)
    sign = sign_of(own)
    best = magnitude(own)
    both_sides = min(p, n - 1 - p, limit)
    k = 1
    while k <= both_sides and any_above(best, cost, k):
        best = improved(best, nearer_seen(row(source, p - k), row(source, p + k), sign), cost, k)
        k += 1
    if k > both_sides:
        while (k <= p or k < n - p) and any_above(best, cost, k):
            if k > limit:
                return False
            # Beyond an end the row at the end is offered again, at its own distance.
            before, after = min(k, p), min(k, n - 1 - p)
            best = improved(best, seen(row(source, p - before), sign), cost, before)
            best = improved(best, seen(row(source, p + after), sign), cost, after)
            k += 1
    set_row(target, p, either(best, sign))
    return True


@inner
def _place_landmarks(
    source: Pointer, n: int, cost: Pointer, inverse_weight: float, c: int, marks: Marks, last: int
) -> None:
    """Fact 3: both ends first, then bisection; every landmark searches between its two neighbours' argmins."""
    first_row = PER_CLASS * c
    low, high, wanted = first_row + LOW, first_row + HIGH, first_row + WANTED
    sign = class_sign(c == 1)
    start, end = marks[wanted, 0], marks[wanted, last]
    _place_landmark(source, n, cost, inverse_weight, sign, marks, first_row, start, START, n - 1)
    _place_landmark(source, n, cost, inverse_weight, sign, marks, first_row, end, marks[low, start], n - 1)
    span = 1
    while 2 * span < last:
        span *= 2
    while span >= 1:
        for middle in range(span, last, 2 * span):
            left, right = marks[wanted, middle - span], marks[wanted, min(middle + span, last)]
            _place_landmark(
                source, n, cost, inverse_weight, sign, marks, first_row,
                marks[wanted, middle], marks[low, left], marks[high, right],
            )  # fmt: skip
        span //= 2


@inner
def _reach(bits: int, n: int, cost: Pointer, inverse_weight: float) -> int:
    """The largest |p - j| that can improve on a squared distance, or a little more."""
    if bits >= none_of(cost):
        return n
    k = math.sqrt(value_of(cost, bits) * inverse_weight) * 1.00001
    return int(k) + 1 if k < n else n  # n for NaN, too


@inner
def _place_landmark(
    source: Pointer,
    n: int,
    cost: Pointer,
    inverse_weight: float,
    sign: Vector,
    marks: Marks,
    first_row: int,
    i: int,
    low: int,
    high: int,
) -> None:
    p = min(i * BLOCK, n - 1)
    best = seen(row(source, p), sign)
    top = largest_lane(best)
    k = _reach(top, n, cost, inverse_weight)
    low, high = max(low, p - k), min(high, p + k)
    if top == 0:
        low = high = p
    if high - low > NARROW:
        other = best  # two minima at once, since each step waits for the one before
        j = low
        while j < high:
            best = improved(best, seen(row(source, j), sign), cost, j - p)
            other = improved(other, seen(row(source, j + 1), sign), cost, j + 1 - p)
            j += 2
        best = smaller(best, other)
        if j == high:
            best = improved(best, seen(row(source, j), sign), cost, j - p)
        top = largest_lane(best)
        limit = widened(best, cost)
        while low < high and not any_within(seen(row(source, low), sign), cost, low - p, limit):
            low += 1
        while low < high and not any_within(seen(row(source, high), sign), cost, high - p, limit):
            high -= 1
    marks[first_row + LOW, i] = low
    marks[first_row + HIGH, i] = high
    marks[first_row + TOP, i] = top


@inner
def _fill_block(
    source: Pointer, target: Pointer, n: int, cost: Pointer, inverse_weight: float, marks: Marks, i: int
) -> None:
    begin = i * BLOCK
    kind = marks[KIND, i]
    low, high, top = n, START - 1, START
    for c in range(2):
        if kind >> c & 1:
            first_row = PER_CLASS * c
            low = min(low, marks[first_row + LOW, i])
            high = max(high, marks[first_row + HIGH, i + 1])
            top = max(top, min(marks[first_row + TOP, i], marks[first_row + TOP, i + 1]))
    # Fact 2: the landmark's reach, and one for each row away from it.
    k = _reach(top, n, cost, inverse_weight) + BLOCK
    low, high = max(low, begin - k), min(high, begin + BLOCK - 1 + k)
    # Rows past n in the last block are computed from whatever is there, and ignored.
    for p in range(begin, begin + BLOCK, ROWS):
        if kind == MIXED:
            _fill_mixed(source, target, cost, p, low, high)
        else:
            _fill_plain(source, target, cost, p, low, high, class_sign(kind == MINUS))


# The minimum over an interval of sites for ROWS rows at once: every site is loaded once for all of them.
ROWS = 4


@inner
def _fill_plain(
    source: Pointer, target: Pointer, cost: Pointer, p: int, low: int, high: int, sign: Vector
) -> None:
    """Rows of one class."""
    best0 = best1 = best2 = best3 = splat(none_of(cost))
    for j in range(low, high + 1):
        h = seen(row(source, j), sign)
        best0 = improved(best0, h, cost, j - p)
        best1 = improved(best1, h, cost, j - p - 1)
        best2 = improved(best2, h, cost, j - p - 2)
        best3 = improved(best3, h, cost, j - p - 3)
    set_row(target, p, either(best0, sign))
    set_row(target, p + 1, either(best1, sign))
    set_row(target, p + 2, either(best2, sign))
    set_row(target, p + 3, either(best3, sign))


@inner
def _fill_mixed(source: Pointer, target: Pointer, cost: Pointer, p: int, low: int, high: int) -> None:
    """Rows with lanes of both classes."""
    best0 = best1 = best2 = best3 = splat(none_of(cost))
    sign0, sign1 = sign_of(row(source, p)), sign_of(row(source, p + 1))
    sign2, sign3 = sign_of(row(source, p + 2)), sign_of(row(source, p + 3))
    for j in range(low, high + 1):
        g = row(source, j)
        best0 = improved(best0, seen(g, sign0), cost, j - p)
        best1 = improved(best1, seen(g, sign1), cost, j - p - 1)
        best2 = improved(best2, seen(g, sign2), cost, j - p - 2)
        best3 = improved(best3, seen(g, sign3), cost, j - p - 3)
    set_row(target, p, either(best0, sign0))
    set_row(target, p + 1, either(best1, sign1))
    set_row(target, p + 2, either(best2, sign2))
    set_row(target, p + 3, either(best3, sign3))
