"""The feature transform on CPUs: rows in closed form, then y and z, a tile of columns at a time.

Between axes a voxel is its squared distance within the axes done, and the position of the nearest voxel there, in
the output itself. x comes first and z last, and each axis takes its lowest minimiser, which makes the voxel found
the first in raster order (csrc/cpu/nearest_slice.h).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...problem import NearestProblem, Problem
from . import cpu
from .argmin import LEAD, solve_line
from .jit import Pointer, entry, inner
from .layout import FlatMask, is_isotropic
from .passes import read_run
from .pool import parallel
from .simd import address

Array = NDArray[Any]
Number = Any
Triple = tuple[float, float, float]

TILE = 16  # columns that are solved together: a cache line of squares
_VOXELS_PER_THREAD = 1 << 15  # less is not worth waking a thread for
_INT_NONE, _FLOAT_NONE = np.int32(0x7FFFFFFF), np.float32(np.inf)

_solve_line = inner(solve_line)


def run(
    problem: NearestProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    distance: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """Every axis of every image."""
    samples, classes = problem.image.shape[:2]
    mask = FlatMask(problem.image, source)
    spacing = [problem.spacing.values] if problem.spacing.values is not None else rows.tolist()  # type: ignore[union-attr]
    if not all(is_isotropic(s, problem.spatial_dims) for s in spacing):
        # Where squares are rounded, the distances are the distance transform's own.
        cpu.run(
            Problem(problem.image, problem.spatial_dims, problem.spacing, False, False, False, problem.distances),
            source, rows, distance,
        )  # fmt: skip
    images = samples * classes // len(spacing)  # of one spacing
    for i, s in enumerate(spacing):
        _run_images(problem, mask, tuple(s), i * images, images, distance, index)


def _run_images(
    problem: NearestProblem, mask: FlatMask, spacing: Triple, first: int, count: int,
    distance: torch.Tensor, index: torch.Tensor,
) -> None:  # fmt: skip
    _, classes, depth, height, width = problem.image.shape
    voxels = depth * height * width
    exact = is_isotropic(spacing, problem.spatial_dims)
    none = _INT_NONE if exact else _FLOAT_NONE
    slack = np.int32(1) if exact else np.float32(LEAD)
    costs = [_cost(n, s, exact) for n, s in zip((depth, height, width), spacing, strict=True)]
    places = index.view(-1).numpy()[first * voxels :]
    distances = distance.view(-1).numpy()[first * voxels :]
    memory, threads = mask.memory.numpy(), torch.get_num_threads()

    group = max(1, min(count, (1 << 20) // voxels))  # small images are done together
    squares = np.empty(group * voxels, costs[2].dtype)
    for start in range(0, count, group):
        images = min(group, count - start)
        part = images * voxels
        results = places[start * voxels : start * voxels + part]
        helpers = min(threads, part // _VOXELS_PER_THREAD)

        def scan(a: int, b: int, start: int = start, results: Array = results) -> None:
            rows_pass(
                memory, mask.stride, classes, depth, height, width, int(mask.rule), problem.image.threshold,
                costs[2], none, np.empty(width, np.uint8), squares, results, first + start, a, b,
            )  # fmt: skip

        parallel(scan, images * depth * height, helpers)
        for n, outer, across, cost in (
            (height, images * depth, width, costs[1]), (depth, images, height * width, costs[0])
        ):  # fmt: skip
            if n == 1:
                continue

            def solve(
                a: int, b: int, n: int = n, across: int = across, cost: Array = cost, results: Array = results
            ) -> None:
                lines, positions = np.empty(TILE * n, squares.dtype), np.empty(TILE * n, np.int64)
                marks = np.empty((3, TILE * n), np.int16)
                axis_pass(squares, results, n, across, cost, none, slack, lines, positions, marks, a, b)

            parallel(solve, outer * -(-across // TILE), helpers)
        if exact:
            roots(squares, part, none, np.float32(spacing[2]), distances[start * voxels :])


def _cost(n: int, spacing: float, exact: bool) -> Array:
    """w k^2 for k = 0 .. n: voxel counts, or float32 of two roundings as in the compiled kernels."""
    k = np.arange(n + 1, dtype=np.int64)
    if exact:
        return (k * k).astype(np.int32)[None]
    with np.errstate(over="ignore"):  # beyond the largest float: as far as no site
        return (np.float32(spacing * spacing) * (k * k).astype(np.float32))[None]


@entry
def rows_pass(
    data: Array, stride: tuple[int, ...],
    classes: int, depth: int, height: int, width: int, rule: int, threshold: float,
    cost: Array, none: Number, mask_row: Array, squares: Array, places: Array,
    first_image: int, first: int, last: int,
) -> None:  # fmt: skip
    """Rows ``first`` to ``last``, counted through the images from ``first_image`` on; of two sides the left."""
    mask = address(mask_row, 0)
    for unit in range(first, last):
        image, row = first_image + unit // (depth * height), unit % (depth * height)
        start = image // classes * stride[0] + image % classes * stride[1]
        start += row // height * stride[2] + row % height * stride[3]
        read_run(address(data, start), stride[4], width, rule, threshold, image % classes, mask)
        nearest_in_row(
            mask, width, row * width, cost, none, address(squares, unit * width), address(places, unit * width)
        )


@inner
def nearest_in_row(
    mask: Pointer, width: int, base: int, cost: Array, none: Number, squares: Pointer, places: Pointer
) -> None:
    """Two scans: the last background voxel, and the next."""
    near = -1
    for x in range(width):
        if not mask[x]:
            near = x
        places[x] = near
    near = -1
    for i in range(width):
        x = width - 1 - i
        if not mask[x]:
            near = x
        left = places[x]
        if left < 0 or (near >= 0 and near - x < x - left):
            left = near
        squares[x] = cost[0, abs(x - left)] if left >= 0 else none
        places[x] = base + left if left >= 0 else -1


@entry
def axis_pass(
    squares: Array, places: Array, n: int, across: int, cost: Array, none: Number, slack: Number,
    lines: Array, positions: Array, marks: Array, first: int, last: int,
) -> None:  # fmt: skip
    """Tiles ``first`` to ``last`` of ``across`` lines side by side: element p is p rows of ``across`` further."""
    tiles = -(-across // TILE)
    low, high, arg = marks[0], marks[1], marks[2]
    for unit in range(first, last):
        x = unit % tiles * TILE
        count = min(TILE, across - x)
        start = unit // tiles * n * across + x
        busy = False
        for p in range(n):
            line = address(squares, start + p * across)
            for i in range(count):
                lines[i * n + p] = line[i]
                busy = busy or line[i] != 0
        if not busy:
            continue
        for i in range(count):
            _solve_line(lines, i * n, 1, n, cost, 0, none, slack, low, high, arg)
        for p in range(n):
            line = address(places, start + p * across)
            for i in range(count):
                positions[i * n + p] = line[i]
        for p in range(n):
            line, place = address(squares, start + p * across), address(places, start + p * across)
            for i in range(count):
                j = arg[i * n + p]
                if j >= 0:
                    line[i] = lines[i * n + j] + cost[0, abs(p - j)]
                    place[i] = positions[i * n + j]
                else:
                    line[i], place[i] = none, -1


@entry
def roots(squares: Array, count: int, none: Number, scale: Number, distances: Array) -> None:
    """Distances from squared voxel counts."""
    for i in range(count):
        square = squares[i]
        distances[i] = np.float32(np.inf) if square == none else np.float32(math.sqrt(np.float32(square))) * scale
