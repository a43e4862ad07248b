"""The pass that makes a map of distances, after the maxima of components where they count; contours of masks.

The kernels are those of ``csrc/dtk/remap.cuh``.
"""

from __future__ import annotations

import functools
import struct
from math import prod

from ..problem import ContourProblem, RemapProblem, Spacing
from .formula import FORMULA, SIZE, formula_fields, size_fields
from .launch import (
    MAX_GRID,
    NOWHERE,
    OUT,
    SCRATCH,
    SECOND,
    DeviceProperties,
    Plan,
    Step,
    check_options,
    image_bytes,
)

CHUNK, THREADS, RUN = 4096, 256, 16  # of csrc/dtk/remap.cuh

_REMAP = struct.Struct(f"<4q{FORMULA}{SIZE}5i4x")
_CONTOUR = struct.Struct("<3q2i")


def entries(problem: RemapProblem) -> int:
    """Maxima of components of an image, the background's place included: no image has more components.

    Of voxels without a common face there are at most (N + 1) / 2; so the table needs no count of the components,
    which would have to be read back.
    """
    return (prod(problem.image.shape[2:]) + 1) // 2 + 1 if problem.labels else 0


def plan(problem: RemapProblem, device: DeviceProperties, max_blocks: int | None = None) -> Plan:
    """Plan of ``problem``: maps are the result, extrema and maxima the second, labels in place of scratch."""
    bare = problem._replace(
        maps=0,
        image=problem.image._replace(data=0),
        spacing=problem.spacing._replace(data=0),
        extrema=int(problem.extrema != 0),
        labels=int(problem.labels != 0),
        counts=0,
    )
    return _plan(bare, device, max_blocks)


@functools.lru_cache(maxsize=1024)
def _plan(problem: RemapProblem, device: DeviceProperties, max_blocks: int | None) -> Plan:
    image, spacing = problem.image, problem.spacing
    check_options(image, spacing, max_blocks)
    if min(image.shape) == 0:
        return Plan(0, False, ())
    images, voxels = image.shape[0] * image.shape[1], prod(image.shape[2:])
    chunks = -(-voxels // CHUNK)
    closed = _closed_axes(problem.spatial_dims) if problem.closed else 0
    constant = image_bytes(image, (0, 1, 2)) + _REMAP.pack(
        images,
        chunks,
        voxels,
        entries(problem),
        *formula_fields(problem.formula),
        *size_fields(image.shape, problem.spatial_dims, spacing),
        problem.inside,
        problem.inner_zero,
        closed,
        spacing.values is None and spacing.rows > 1,
        problem.extrema,
    )
    most = max_blocks or MAX_GRID
    labels = (SCRATCH if problem.labels else NOWHERE, 0)

    def step(kernel: str, blocks: int) -> Step:
        grid = (min(blocks, most), 1, 1)
        return Step(f"dtk::{kernel}", grid, THREADS, 0, labels, (OUT, 0), (NOWHERE, 0), constant, (SECOND, 0))

    steps = [
        step(f"remap<{str(bool(problem.labels)).lower()}>", min(images * chunks, 32 * device.multiprocessors))
    ]
    if problem.labels:
        runs = images * -(-voxels // RUN)
        steps.insert(0, step("component_maxima<int32_t>", -(-runs // THREADS)))
    return Plan(0, spacing.values is None, tuple(steps))


def contour_plan(problem: ContourProblem, device: DeviceProperties, max_blocks: int | None = None) -> Plan:
    """Plan of a contour, which is the result."""
    image = problem.image._replace(data=0)
    return _contour_plan(problem._replace(image=image, out=0), device, max_blocks)


@functools.lru_cache(maxsize=1024)
def _contour_plan(problem: ContourProblem, device: DeviceProperties, max_blocks: int | None) -> Plan:
    image = problem.image
    check_options(image, Spacing(), max_blocks)
    if min(image.shape) == 0:
        return Plan(0, False, ())
    images, voxels = image.shape[0] * image.shape[1], prod(image.shape[2:])
    chunks = -(-voxels // CHUNK)
    closed = _closed_axes(problem.spatial_dims) if problem.closed else 0
    constant = image_bytes(image, (0, 1, 2)) + _CONTOUR.pack(images, chunks, voxels, problem.connectivity, closed)
    blocks = min(images * chunks, 32 * device.multiprocessors, max_blocks or MAX_GRID)
    nowhere = (NOWHERE, 0)
    step = Step("dtk::contour<uint8_t>", (blocks, 1, 1), THREADS, 0, nowhere, (OUT, 0), nowhere, constant)
    return Plan(0, False, (step,))


def _closed_axes(spatial_dims: int) -> int:
    """Bit k: beyond axis k of (z, y, x) is background."""
    return sum(1 << axis for axis in range(3 - spatial_dims, 3))
