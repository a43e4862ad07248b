"""One line of the feature transform: the nearest site of every voxel, and of several equally near the lowest.

    D(p) = min over j of h(j) + cost(|p - j|),    arg(p) = the lowest j that attains it.

Plain scalar code, which the CPU and the GPU kernels both compile. Minimisers are monotone in p (solver.py, fact
3): the middle of the line is searched first, then the middles of its halves, each only between the minimisers of
the voxels around it that are known. That takes n log n steps at most, however far the sites. Known minimisers are
an interval [low, high]: with integers the lowest; with floats all j whose computed sum is within a factor 1 + 32u
of the smallest, which excludes none that a search of the whole line could choose (see csrc/cpu/arg_solver.h).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Number = Any

LEAD = 1.0 + 2.0**-19  # the factor for floats


def solve_line(
    h: Array, at: int, step: int, n: int, cost: Array, row: int, none: Number, slack: Number,
    low: Array, high: Array, arg: Array,
) -> None:  # fmt: skip
    """Element p of a line lies at ``at + p * step`` of every array; arg is -1 where no site can be had.

    ``cost[row, k]`` is w k^2 in the arithmetic of h, k = 0 .. n; ``none`` is h without a site, which loses against
    every sum; ``slack`` is 1 or LEAD.
    """
    some = False
    for p in range(n):
        some = some or h[at + p * step] < none
        arg[at + p * step] = -1
    if not some:
        return
    inverse = 1.0 / np.float64(cost[row, 1])
    span = 1
    while span < n:
        span *= 2
    while span >= 1:
        for p in range(span - 1, n, 2 * span):
            here = at + p * step
            own = h[here]
            if own == 0:
                low[here] = high[here] = arg[here] = p
                continue
            first: Any = 0
            last: Any = n - 1
            if p >= span:
                first = low[here - span * step]
            if p + span < n:
                last = high[here + span * step]
            # No j can do better that is farther than h(p), or does as well within the factor: 1e-5 is more.
            if own < none:
                reach = math.sqrt(np.float64(own) * inverse) * 1.00001
                if reach < n:
                    k = np.int64(reach) + 1
                    first = p - k if p - k > first else first
                    last = p + k if p + k < last else last
            best, found = none, -1
            for j in range(first, last + 1):
                v = h[at + j * step]
                if v < none:
                    v += cost[row, abs(p - j)]
                    if v < best:
                        best, found = v, j
            arg[here] = found
            if found >= 0:
                if slack == 1:
                    first = last = found
                else:
                    limit = best * slack
                    while h[at + first * step] + cost[row, abs(p - first)] > limit:
                        first += 1
                    while h[at + last * step] + cost[row, abs(p - last)] > limit:
                        last -= 1
            low[here], high[here] = first, last
        span //= 2
