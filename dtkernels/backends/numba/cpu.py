"""The Numba backend on CPUs: what the units of work are, and who does them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...problem import Problem
from . import passes
from .layout import FlatMask, axes_to_do, is_isotropic
from .pool import parallel
from .simd import LANES
from .solver import COST_MARGIN

_VOXELS_PER_THREAD = 1 << 16  # less is not worth waking a thread for
_GROUP_VOXELS = 1 << 20  # small images are done together, up to so many voxels
_TILE_CODES = 1 << 17  # codes in a tile of the scan, which stay in L2 between its two directions
_MIN_COLUMNS, _MAX_COLUMNS = 64, 4096  # of a tile of the scan

Array = NDArray[Any]
Triple = tuple[float, float, float]


def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
    """Every axis of every image."""
    samples, classes = problem.image.shape[:2]
    mask = FlatMask(problem.image, source)
    result = out.view(torch.int32).numpy().view(np.uint32).reshape(-1)
    if problem.spacing.values is not None:
        _run_images(problem, mask, problem.spacing.values, 0, samples * classes, result)
        return
    for sample, spacing in enumerate(rows.tolist()):  # type: ignore[union-attr]
        _run_images(problem, mask, tuple(spacing), sample * classes, classes, result)


class _Axis(NamedTuple):
    """How a squared distance is counted along an axis."""

    cost: Array  # w k^2 for k = -n - COST_MARGIN .. n + COST_MARGIN
    inverse_weight: float


@functools.lru_cache(maxsize=64)
def _exact_axis(length: int) -> _Axis:
    k = np.arange(-length - COST_MARGIN, length + COST_MARGIN + 1)
    return _Axis((k * k).astype(np.uint32), 1.0)


@functools.lru_cache(maxsize=64)
def _rounded_axis(length: int, weight: float) -> _Axis:
    """float32 costs fl(w fl(k^2)): two roundings, the same as in the compiled kernels."""
    k = np.arange(-length - COST_MARGIN, length + COST_MARGIN + 1)
    with np.errstate(over="ignore"):  # beyond the largest float: as far as no site
        return _Axis(np.float32(weight) * (k * k).astype(np.float32), float(1 / np.float32(weight)))


def _run_images(problem: Problem, mask: FlatMask, spacing: Triple, first: int, count: int, out: Array) -> None:
    """``count`` images from ``first`` on, all of one spacing."""
    _, classes, depth, height, width = problem.image.shape
    voxels = depth * height * width
    sample_stride, class_stride, *strides = mask.stride

    dims = axes_to_do(problem)  # the first of them is scanned
    length, line_stride = (depth, height, width)[3 - dims], strides[3 - dims]
    columns = voxels // length
    tile = min(columns, _MAX_COLUMNS, max(_MIN_COLUMNS, _TILE_CODES // length))
    tiles = -(-columns // tile)
    plane = (width, strides[1], strides[2]) if dims > 1 else (1, 0, 0)

    if is_isotropic(spacing, problem.spatial_dims):
        y, x = _exact_axis(height), _exact_axis(width)
        weight, scale = 1.0, spacing[2] ** 2 if problem.squared else spacing[2]
    else:
        weights = [float(np.float32(s * s)) for s in spacing]
        y, x = _rounded_axis(height, weights[1]), _rounded_axis(width, weights[2])
        weight, scale = weights[3 - dims], 1.0
    units = depth if dims == 3 else -(-height // LANES)

    memory = mask.memory.numpy()
    group = max(1, min(count, _GROUP_VOXELS // voxels))
    codes = np.empty(group * voxels + passes.CODE_PADDING, np.uint16)
    for start in range(first, first + count, group):
        images = min(group, first + count - start)
        threads = min(torch.get_num_threads(), images * voxels // _VOXELS_PER_THREAD)
        target = out[start * voxels :]

        def scan(a: int, b: int, start: int = start) -> None:
            passes.scan(
                memory, sample_stride, class_stride, classes, line_stride, plane[1], plane[2], length, columns,
                plane[0], int(mask.rule), problem.image.threshold, problem.closed, codes,
                tile, np.empty(tile, np.uint8), np.empty(tile, np.uint16), start, a, b,
            )  # fmt: skip

        def solve(a: int, b: int, target: Array = target) -> None:
            passes.solve_units(
                codes, target, depth, height, width, dims, problem.signed, problem.squared, problem.closed,
                np.float32(weight), y.cost, y.inverse_weight, x.cost, x.inverse_weight, np.float32(scale),
                *passes.slice_scratch(height, width, dims), a, b,
            )  # fmt: skip

        parallel(scan, images * tiles, threads)
        parallel(solve, images * units, threads)
