"""The envelope, a pass over the lines of each axis, the last axis first (``parabolas.cuh``); and its gradient,
the same way back (``receivers.cuh``).

Axes of length 1 are dropped. Values and positions alternate between two buffers, so that the last pass writes the
results.
"""

from __future__ import annotations

import functools
import struct
from math import prod

from ..problem import DType, EnvelopeProblem, Image, Rule, Spacing
from .launch import (
    MAX_GRID,
    NOWHERE,
    OUT,
    SCRATCH,
    SECOND,
    STATIC_SHARED,
    Address,
    DeviceProperties,
    Plan,
    Step,
    align,
    check_options,
    image_bytes,
    kept_axes,
)

THREADS = 256
LANDMARK_STEP = 8  # kLandmarkStep of csrc/dtk/parabolas.cuh
SENDERS = 128  # threads of a block of receivers.cuh

_PARABOLAS = struct.Struct("<3qd2q6i")
_RECEIVERS = struct.Struct("<3q2i")


def plan(problem: EnvelopeProblem, device: DeviceProperties, max_blocks: int | None = None) -> Plan:
    """Plan of ``problem``; its positions are the second result. ``max_blocks`` limits every grid."""
    return _plan(
        problem.image._replace(data=0),
        problem.spatial_dims,
        problem.spacing._replace(data=0),
        problem.indices != 0,
        device,
        max_blocks,
    )


@functools.lru_cache(maxsize=1024)
def _plan(
    image: Image,
    spatial_dims: int,
    spacing: Spacing,
    with_index: bool,
    device: DeviceProperties,
    max_blocks: int | None,
) -> Plan:
    check_options(image, spacing, max_blocks)
    if min(image.shape) == 0:
        return Plan(0, False, ())
    axes = kept_axes(image.shape, spatial_dims)
    sides = [image.shape[2 + k] for k in axes]
    voxels = image.shape[0] * image.shape[1] * prod(sides)
    value = "double" if image.dtype == DType.FLOAT64 else "float"
    value_bytes = 8 if image.dtype == DType.FLOAT64 else 4
    samples = spacing.values is None and spacing.rows > 1
    groups = image.shape[0] if samples else 1
    buffers, scratch = _buffers(len(axes), voxels, value_bytes, with_index)

    steps: list[Step] = []
    source: Address = (NOWHERE, 0)
    earlier: Address = (NOWHERE, 0)
    for number, axis in enumerate(reversed(axes)):
        n, inner = image.shape[2 + axis], prod(sides[len(axes) - number :])
        lines = voxels // n // groups
        lanes, pitch, shared, offsets = _tile(n, lines, groups, inner == 1, value_bytes, device)
        tiles = groups * -(-lines // lanes)
        target, positions = buffers[number]
        constant = image_bytes(image, axes) + _PARABOLAS.pack(
            groups,
            lines,
            inner,
            0.0 if spacing.values is None else spacing.values[axis] ** 2,
            *offsets,
            n,
            lanes.bit_length() - 1,
            pitch,
            number == 0,
            axis,
            3 if samples else 0,
        )
        steps.append(
            Step(
                f"dtk::parabolas<{value}, {str(pitch > 0).lower()}>",
                (min(tiles, max_blocks or MAX_GRID), 1, 1),
                THREADS,
                shared,
                source,
                target,
                earlier,
                constant,
                positions,
            )
        )
        source, earlier = target, positions
    return Plan(scratch, spacing.values is None, tuple(steps))


def _buffers(
    passes: int, voxels: int, value_bytes: int, with_index: bool
) -> tuple[list[tuple[Address, Address]], int]:
    """Where each pass writes values and positions, the last one the results; and the bytes of scratch."""
    results = ((OUT, 0), (SECOND, 0) if with_index else (NOWHERE, 0))
    places = align(voxels * value_bytes)
    between = ((SCRATCH, 0), (SCRATCH, places) if with_index else (NOWHERE, 0))
    scratch = places + (align(8 * voxels) if with_index else 0) if passes > 1 else 0
    return [results if (passes - i) % 2 else between for i in range(passes)], scratch


def _tile(
    n: int, lines: int, groups: int, along_rows: bool, value_bytes: int, device: DeviceProperties
) -> tuple[int, int, int, tuple[int, int]]:
    """Lanes, pitch (0: not in shared memory), bytes, and the offsets of landmarks and partial extrema.

    Two blocks should share a multiprocessor, and every multiprocessor have one; 8 lanes are a sector.
    """
    landmarks = 2 * 2 * (-(-n // LANDMARK_STEP) + 1)  # two arrays of 16 bits
    partials = 2 * value_bytes * THREADS
    limit = device.shared_per_block_optin - STATIC_SHARED
    most = min(32, 1 << (lines - 1).bit_length())

    def layout(lanes: int, held: bool) -> tuple[int, int, int, tuple[int, int]]:
        pitch = 0 if not held else lanes + 1 if along_rows and lanes > 1 else lanes
        at = align(value_bytes * n * pitch, 16)
        end = at + align(landmarks * lanes, 16)
        return lanes, pitch, end + partials, (at, end)

    choices = [layout(most >> k, True) for k in range(most.bit_length())]
    fitting = [c for c in choices if c[2] <= limit]
    if not fitting:
        return next(c for k in range(6) if (c := layout(most >> k or 1, False))[2] <= limit)
    wide = [c for c in fitting if c[0] >= min(8, most)] or fitting[:1]
    paired = [c for c in wide if 2 * c[2] <= limit] or wide[-1:]
    enough = [c for c in paired if groups * (lines // c[0]) >= device.multiprocessors]
    return enough[0] if enough else paired[-1]


@functools.lru_cache(maxsize=1024)
def scatter_plan(
    shape: tuple[int, int, int, int, int], wide: bool, device: DeviceProperties, max_blocks: int | None = None
) -> Plan:
    """Plan of the gradient: gradients are the image, their positions the second result (which is only read)."""
    if min(shape) == 0:
        return Plan(0, False, ())
    dtype = DType.FLOAT64 if wide else DType.FLOAT32
    image = Image(0, dtype, shape, (0, 0, 0, 0, 0), Rule.NONZERO)
    check_options(image, Spacing(), max_blocks)
    axes = kept_axes(shape, 3)
    sides = [shape[2 + k] for k in axes]
    voxels = shape[0] * shape[1] * prod(sides)
    between = [(SCRATCH, i * align(8 * voxels)) for i in range(4)]  # sums and positions, twice
    steps: list[Step] = []
    source: Address = (NOWHERE, 0)
    places: Address = (SECOND, 0)
    for number, n in enumerate(sides):
        last = number == len(sides) - 1
        target = (OUT, 0) if last else between[2 * (number % 2)]
        travelling = (NOWHERE, 0) if last else between[2 * (number % 2) + 1]
        lines = voxels // n
        constant = image_bytes(image, axes) + _RECEIVERS.pack(
            lines, prod(sides[number + 1 :]), prod(sides), n, number == 0
        )
        blocks = min(-(-lines // SENDERS), max_blocks or MAX_GRID)
        kernel = f"dtk::receivers<{'double' if wide else 'float'}>"
        steps.append(Step(kernel, (blocks, 1, 1), SENDERS, 0, source, target, places, constant, travelling))
        source, places = target, travelling
    count = (0, 2, 4)[min(len(sides), 3) - 1]
    return Plan(count * align(8 * voxels), False, tuple(steps))
