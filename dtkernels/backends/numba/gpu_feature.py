"""The feature transform on NVIDIA GPUs: rows in closed form, then y and z, a thread per line.

As on the CPU (feature.py), a voxel is its squared distance within the axes done and the position of the nearest
voxel there. 30 bytes of scratch per voxel.
"""

from __future__ import annotations

from typing import Any

import numba.cuda
import numpy as np
import torch
from numpy.typing import NDArray

from ...problem import NearestProblem, Problem
from . import gpu
from .argmin import LEAD, solve_line
from .gpu import ABOVE, EQUALS_CLASS, Number, array, kernel, per_thread
from .layout import FlatMask

cuda: Any = numba.cuda  # known to mypy without the language of kernels
Array = NDArray[Any]  # in memory of a device

_solve_line = cuda.jit(device=True)(solve_line)

# --- Kernels ---


@kernel
def scan_rows(
    data: Array, stride: tuple[int, ...], classes: int, depth: int, height: int, width: int, rows: int,
    rule: int, threshold: float, cost: Array, rows_per_cost: int, none: Number, squares: Array, places: Array,
) -> None:  # fmt: skip
    """Two scans of a row: the last background voxel, and the next; of two equally near the left."""
    unit = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if unit >= rows:
        return
    image, row = unit // (depth * height), unit % (depth * height)
    index = image % classes
    start = image // classes * stride[0] + index * stride[1]
    start += row // height * stride[2] + row % height * stride[3]
    at = unit * width
    near: Any = -1
    for x in range(width):
        value = data[start + x * stride[4]]
        if rule == ABOVE:
            inside = np.float64(value) > threshold
        elif rule == EQUALS_CLASS:
            inside = value == index + np.int64(threshold)
        else:
            inside = value != 0 and value == value
        if not inside:
            near = x
        places[at + x] = near
    near = -1
    for i in range(width):
        x = width - 1 - i
        left = places[at + x]
        if left == x:
            near = x
        if left < 0 or (near >= 0 and near - x < x - left):
            left = near
        squares[at + x] = cost[unit // rows_per_cost, abs(x - left)] if left >= 0 else none
        places[at + x] = row * width + left if left >= 0 else -1


@kernel
def solve_axis(
    source: Array, source_places: Array, target: Array, target_places: Array, inner: int, n: int, lines: int,
    cost: Array, lines_per_cost: int, none: Number, slack: Number, low: Array, high: Array, arg: Array,
) -> None:  # fmt: skip
    """One axis; ``inner`` lines lie side by side."""
    line = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if line >= lines:
        return
    row = line // lines_per_cost
    at = line // inner * n * inner + line % inner
    _solve_line(source, at, inner, n, cost, row, none, slack, low, high, arg)
    for p in range(n):
        here = at + p * inner
        j = np.int64(arg[here])
        if j >= 0:
            target[here] = source[at + j * inner] + cost[row, abs(p - j)]
            target_places[here] = source_places[at + j * inner]
        else:
            target[here] = none
            target_places[here] = -1


# --- Launches ---


def run(
    problem: NearestProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    distance: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """Every axis of every image, on torch's current stream and in torch's memory."""
    transform = Problem(
        problem.image, problem.spatial_dims, problem.spacing, False, False, False, problem.distances
    )
    costs, none, scale = gpu.costs_of(transform, rows, index.device)
    exact = costs[2].dtype == torch.int32
    if not exact:  # where squares are rounded, the distances are the distance transform's own
        gpu.run(transform, source, rows, distance)
    slack = np.int32(1) if exact else np.float32(LEAD)

    _, classes, depth, height, width = problem.image.shape
    voxels, groups = index.numel(), len(costs[0])
    axes = [(n, inner, cost) for n, inner, cost in (
        (height, width, costs[1]), (depth, height * width, costs[0])
    ) if n > 1]  # fmt: skip
    mask = FlatMask(problem.image, source)
    g, other = (torch.empty(voxels, dtype=costs[2].dtype, device=index.device) for _ in range(2))
    places = index.view(-1)
    other_places = torch.empty_like(places)
    if len(axes) == 1:  # so that the last axis writes to the result
        places, other_places = other_places, places
    marks = [array(torch.empty(voxels, dtype=torch.int16, device=index.device)) for _ in range(3)]

    with gpu.current_stream(source.device) as stream:
        lines = voxels // width
        per_thread(
            scan_rows, stream, lines, array(mask.memory), mask.stride, classes, depth, height, width, lines,
            int(mask.rule), problem.image.threshold, array(costs[2]), lines // groups, none,
            array(g), array(places),
        )  # fmt: skip
        for n, inner, cost in axes:
            lines = voxels // n
            per_thread(
                solve_axis, stream, lines, array(g), array(places), array(other), array(other_places),
                inner, n, lines, array(cost), lines // groups, none, slack, *marks,
            )  # fmt: skip
            g, other, places, other_places = other, g, other_places, places
        if exact:
            result = array(distance.view(-1))
            per_thread(gpu.finish, stream, voxels, array(g), voxels, np.float32(scale), none, 0, 0, result)
