"""The Numba backend on NVIDIA GPUs, for machines with neither a compiler nor CuPy: plain kernels, same results.

    mask -> scan of the first axis -> envelope along y, lanes along x -> transpose
         -> envelope along x, lanes along y -> transpose -> finish: square root, spacing -> output

Between kernels a voxel is its squared distance to the opposite class within the axes done: int32 voxel counts at
equal spacing and float32 otherwise, negative in the foreground; in unsigned transforms the background is 0. Costs
w k^2 come from a table, so no product stands beside a sum and no compiler can fuse the two: rounding is that of
the other backends. One thread does one line and its neighbours the neighbouring lines, so accesses are coalesced.
The stack of a line lies in global memory. 12 bytes of scratch per voxel, about 60 bytes of memory traffic.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numba.cuda
import numpy as np
import torch
from numba.core.errors import NumbaPerformanceWarning
from numpy.typing import NDArray

from ...problem import Problem, Rule
from .jit import cached
from .layout import FlatMask, axes_to_do, is_isotropic

THREADS = 128
TILE, TILE_ROWS = 32, 8  # the transposition: squares of TILE, done by TILE x TILE_ROWS threads
PITCH = TILE + 1  # elements of a column of the square lie in different banks
INT_NONE = 0x7FFFFFFF  # squared distance where there is no site; in float32 it is infinity
ABOVE, EQUALS_CLASS = int(Rule.ABOVE), int(Rule.EQUALS_CLASS)

cuda: Any = numba.cuda  # known to mypy without the language of kernels
Array = NDArray[Any]  # in memory of a device
Number = np.int32 | np.float32

kernel = cached(cuda.jit)

# --- Kernels: without min, max and int, which the CUDA target that is built into Numba 0.68 cannot compile ---


@kernel
def scan(
    data: Array, sample_stride: int, class_stride: int, classes: int,
    row_stride: int, column_stride: int, line_stride: int, width: int, inner: int, n: int, lines: int,
    rule: int, threshold: float, cost: Array, lines_per_cost: int, none: Number,
    signed: int, closed: int, g: Array,
) -> None:  # fmt: skip
    """First axis in closed form: the nearest voxel of the opposite class is the last change of class, seen from
    either side. A line is (image, row, column); ``inner`` lines lie side by side in g.
    """
    line = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if line >= lines:
        return
    image, column = line // inner, line % inner
    index = image % classes
    start = image // classes * sample_stride + index * class_stride
    start += column // width * row_stride + column % width * column_stride
    at = image * n * inner + column
    far: Any = n + 1
    steps = far
    previous: Any = False
    for p in range(n):
        x = data[start + p * line_stride]
        if rule == ABOVE:
            inside = np.float64(x) > threshold
        elif rule == EQUALS_CLASS:
            inside = x == index + np.int64(threshold)
        else:
            inside = x != 0 and x == x
        changed = inside != previous if p > 0 else closed and inside
        if changed:
            steps = 1
        elif steps < far:
            steps += 1
        previous = inside
        g[at + p * inner] = -steps if inside else steps
    steps = far
    for i in range(n):
        p = n - 1 - i
        v = g[at + p * inner]
        inside = v < 0
        changed = inside != previous if i > 0 else closed and inside
        if changed:
            steps = 1
        elif steps < far:
            steps += 1
        previous = inside
        nearest = np.int64(abs(v))
        nearest = steps if steps < nearest else nearest
        square = cost[line // lines_per_cost, nearest] if nearest < far else none
        if inside:
            g[at + p * inner] = -square
        else:
            g[at + p * inner] = square if signed else 0


@kernel
def envelope(
    source: Array, target: Array, sites: Array, starts: Array, inner: int, n: int, lines: int,
    cost: Array, lines_per_cost: int, none: Number, signed: int, closed: int,
) -> None:  # fmt: skip
    """One axis: lower envelope of parabolas per run of equal class (Felzenszwalb & Huttenlocher 2012).

    D(p) = min over j of h(j) + w (p - j)^2, where the sites of a run of equal class are its own voxels with their
    values and the voxel before and after it with 0: what lies further is dominated by those two.

    The stack holds sites and the first position where each is the cheapest. Site v, right of u, is cheaper where

        h(v) + w (p - v)^2 < h(u) + w (p - u)^2   <=>   2 w (v - u) p > h(v) - h(u) + w (v - u) (v + u).

    In double precision the first such p is exact for integers: a quotient that is no integer is at least 2^-16
    away from one, and a double below 2^32 is rounded by less than that. With float32 values a tie may go either
    way. First positions strictly increase within a run, so entry k of the stack can lie at first + k of the line's
    own column, and runs need not more room than the image.
    """
    line = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if line >= lines:
        return
    row = line // lines_per_cost
    w = np.float64(cost[row, 1])
    at = line // inner * n * inner + line % inner
    first = 0
    while first < n:
        inside = source[at + first * inner] < 0
        last = first
        while last + 1 < n and (source[at + (last + 1) * inner] < 0) == inside:
            last += 1
        if not (signed or inside):
            for p in range(first, last + 1):
                target[at + p * inner] = 0
            first = last + 1
            continue
        top = first - 1  # below `first` the stack is empty
        before = first - 1 if first > 0 else first
        after = last + 1 if last + 1 < n else last
        for v in range(before, after + 1):
            hv = abs(source[at + v * inner]) if first <= v <= last else 0
            if hv == none:
                continue
            begin: Any = first
            while top >= first:
                u = np.int64(sites[at + top * inner])
                hu = abs(source[at + u * inner]) if first <= u <= last else 0
                difference = np.float64(hv) - np.float64(hu) + w * (np.float64(v - u) * np.float64(v + u))
                place = math.floor(difference / (2.0 * w * (v - u))) + 1.0
                begin = first if place <= first else last + 1 if place > last else np.int64(place)
                if begin > starts[at + top * inner]:
                    break
                top -= 1
                begin = first
            if begin <= last:
                top += 1
                sites[at + top * inner] = v
                starts[at + top * inner] = begin
        for i in range(last - first + 1):
            p = last - i
            best = none
            if top >= first:
                while starts[at + top * inner] > p:
                    top -= 1
                u = np.int64(sites[at + top * inner])
                h = abs(source[at + u * inner]) if first <= u <= last else 0
                best = h + cost[row, abs(p - u)]
            if closed and inside:
                edge = cost[row, p + 1 if p + 1 < n - p else n - p]
                best = edge if edge < best else best
            target[at + p * inner] = -best if inside else best
        first = last + 1


@kernel
def transpose(source: Array, rows: int, columns: int, target: Array) -> None:
    """(rows, columns) to (columns, rows), through a square in shared memory: both sides in whole cache lines."""
    square = cuda.shared.array((TILE, PITCH), np.int32)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    across = (columns + TILE - 1) // TILE
    row = np.int64(cuda.blockIdx.x) // across * TILE
    column = np.int64(cuda.blockIdx.x) % across * TILE
    for i in range(y, TILE, TILE_ROWS):
        if row + i < rows and column + x < columns:
            square[i, x] = source[(row + i) * columns + column + x]
    cuda.syncthreads()
    for i in range(y, TILE, TILE_ROWS):
        if column + i < columns and row + x < rows:
            target[(column + i) * rows + row + x] = square[x, i]


@kernel
def finish(
    source: Array, count: int, scale: np.float32, none: Number, squared: int, signed: int, out: Array
) -> None:
    """Squared distances to the result; ``scale`` in the unit of the spacing."""
    i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if i >= count:
        return
    v = source[i]
    square = abs(v)
    value = np.float32(square)
    if square == none:
        value = np.float32(math.inf)
    elif not squared:
        value = np.float32(math.sqrt(value))
    value = value * scale
    out[i] = -value if signed and v < 0 else value


# --- Launches ---


def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
    """Every axis of every image, on torch's current stream and in torch's memory.

    On Numba's simulator, whose kernels take NumPy arrays, the tensors may be on the CPU.
    """
    with current_stream(source.device) as stream:
        _launch_all(problem, FlatMask(problem.image, source), rows, out, stream)


@contextlib.contextmanager
def current_stream(device: torch.device) -> Iterator[Any]:
    """Torch's current stream, with the device current for both libraries; the simulator's only one on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaPerformanceWarning)  # a small image makes a small grid
        if device.type == "cpu":
            yield 0
            return
        with torch.cuda.device(device), cuda.gpus[device.index]:
            yield cuda.external_stream(torch.cuda.current_stream().cuda_stream)


def per_thread(function: Any, stream: Any, count: int, *args: Any) -> None:
    """Launch ``count`` threads, or a few more."""
    blocks = -(-count // THREADS)
    function[blocks, THREADS, stream](*args)


def _launch_all(
    problem: Problem, mask: FlatMask, rows: torch.Tensor | None, out: torch.Tensor, stream: Any
) -> None:
    samples, classes, *sides = problem.image.shape
    sample_stride, class_stride, *strides = mask.stride
    images, voxels = samples * classes, math.prod(problem.image.shape)
    dims = axes_to_do(problem)
    costs, none, scale = costs_of(problem, rows, out.device)
    groups = len(costs[0])  # of images with one spacing, all of the same size
    signed, closed = int(problem.signed), int(problem.closed)

    g, other = (torch.empty(voxels, dtype=costs[0].dtype, device=out.device) for _ in range(2))
    sites, starts = (array(torch.empty(voxels, dtype=torch.int16, device=out.device)) for _ in range(2))

    def solve(side: int, inner: int, cost: torch.Tensor) -> None:
        nonlocal g, other
        lines = voxels // side
        per_thread(
            envelope, stream, lines, array(g), array(other), sites, starts, inner, side, lines,
            array(cost), lines // groups, none, signed, closed,
        )  # fmt: skip
        g, other = other, g

    def turn(height: int, width: int) -> None:
        nonlocal g, other
        squares = -(-height // TILE) * -(-width // TILE)
        launch: Any = transpose
        launch[squares, (TILE, TILE_ROWS), stream](
            array(g.view(torch.int32)), height, width, array(other.view(torch.int32))
        )
        g, other = other, g

    side = sides[3 - dims]
    lines = voxels // side
    plane = (sides[2], strides[1], strides[2]) if dims > 1 else (1, 0, 0)
    per_thread(
        scan, stream, lines, array(mask.memory), sample_stride, class_stride, classes, plane[1], plane[2],
        strides[3 - dims], plane[0], lines // images, side, lines, int(mask.rule), problem.image.threshold,
        array(costs[3 - dims]), lines // groups, none, signed, closed, array(g),
    )  # fmt: skip
    if dims == 3:
        solve(sides[1], sides[2], costs[1])
    if dims >= 2:
        turn(voxels // sides[2], sides[2])
        solve(sides[2], voxels // sides[2], costs[2])
        turn(sides[2], voxels // sides[2])
    squared, result = int(problem.squared), array(out.view(-1))
    per_thread(finish, stream, voxels, array(g), voxels, np.float32(scale), none, squared, signed, result)


def array(tensor: torch.Tensor) -> Any:
    """The tensor's memory as Numba sees it."""
    return tensor.numpy() if tensor.device.type == "cpu" else cuda.as_cuda_array(tensor)


def costs_of(
    problem: Problem, rows: torch.Tensor | None, device: torch.device
) -> tuple[list[torch.Tensor], np.int32 | np.float32, float]:
    """w k^2 for k = 0 .. n per axis, with one row for each spacing; "none" in that arithmetic; the final scale.

    float32 costs are fl(w fl(k^2)), w = fl(s^2), as in the compiled kernels. Nothing is read back from the device.
    """
    squares = [torch.arange(n + 1, device=device) ** 2 for n in problem.image.shape[2:]]
    spacing = problem.spacing.values
    if spacing is None:
        assert rows is not None
        by_row = (rows * rows).float()
        return [by_row[:, i, None] * squares[i].float() for i in range(3)], np.float32(np.inf), 1.0
    if is_isotropic(spacing, problem.spatial_dims):
        scale = spacing[2] ** 2 if problem.squared else spacing[2]
        return [k[None].int() for k in squares], np.int32(INT_NONE), scale
    weights = [float(np.float32(s * s)) for s in spacing]
    return [(w * k.float())[None] for w, k in zip(weights, squares, strict=True)], np.float32(np.inf), 1.0
