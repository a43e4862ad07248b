"""The feature transform: rows, then a pass over lines for each further axis (``csrc/dtk/nearest.cuh``).

The last axis left comes first, so that the lowest position wins among equals. Squares are integers at equal
spacing, else float32; then the distances are those of the distance transform, whose plan is appended. A map that
moves to the faces between voxels takes the same passes twice, once for either side, and neither result.
"""

from __future__ import annotations

import functools
import struct
from math import prod
from typing import NamedTuple

from ..problem import FacesProblem, Image, NearestProblem, Problem, Spacing
from . import transform
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
    best_lanes,
    check_options,
    float32,
    image_bytes,
    kept_axes,
)

STRIP = 8  # voxels of a thread: 1 << ArgTile::kShift of csrc/dtk/argmin.cuh
_THREADS = 512
_ROWS = struct.Struct("<q2ifi")
_LINES = struct.Struct("<4q8iI5i8f2i")


def plan(
    problem: NearestProblem, device: DeviceProperties, max_blocks: int | None = None, keyed: bool = True
) -> Plan:
    """Plan of ``problem`` on a device of these properties; distances are the first result, positions the second.

    ``max_blocks`` limits every grid; without ``keyed`` squares and positions never share a word.
    """
    return _plan(
        problem.image._replace(data=0),
        problem.spatial_dims,
        problem.spacing._replace(data=0),
        device,
        max_blocks,
        keyed,
    )


@functools.lru_cache(maxsize=1024)
def _plan(
    image: Image,
    spatial_dims: int,
    spacing: Spacing,
    device: DeviceProperties,
    max_blocks: int | None,
    keyed: bool,
) -> Plan:
    check_options(image, spacing, max_blocks)
    if min(image.shape) == 0:
        return Plan(0, False, ())
    axes = kept_axes(image.shape, spatial_dims)
    values = spacing.values
    # The axes of length 1 count as well: all backends take a spacing as equal or not by the same rule.
    equal = values is not None and len({values[k] for k in range(3 - spatial_dims, 3)}) == 1
    direct = values is not None and (equal or len(axes) == 1)  # else the distance transform's distances
    scale = float32(values[axes[-1]]) if values is not None and direct else 0.0

    steps = [_rows_step(image, axes, scale, False, max_blocks)]
    scratch = align(2 * prod(image.shape)) if len(axes) > 1 else 0
    source: Address = (SCRATCH, 0)
    tiles = 0
    for axis in reversed(axes[:-1]):
        last = axis == axes[0]
        target = (SECOND, 0) if last else (OUT, 0)
        metrics = [_integer_metric(image, axes, keyed)] if equal or values is None else []
        metrics += ["Rounded"] if not equal else []
        for metric in metrics:
            step, in_global = _lines_step(
                image, axes, axis, spatial_dims, spacing, metric, scale, source, target, device, max_blocks
            )
            steps.append(step._replace(scratch=(SCRATCH, scratch)))
            tiles = max(tiles, in_global)
        source = target
    scratch += tiles
    if not direct:
        problem = Problem(image, spatial_dims, spacing, False, False, False, 0)
        distances = transform.plan(problem, device, max_blocks)
        scratch = max(scratch, distances.scratch_bytes)
        steps += [step._replace(second=(NOWHERE, 0)) for step in distances.steps]
    return Plan(scratch, values is None, tuple(steps))


def faces_plan(problem: FacesProblem, device: DeviceProperties, max_blocks: int | None = None) -> Plan:
    """Plan of maps that move in place, which are the first result."""
    bare = problem._replace(maps=0, image=problem.image._replace(data=0), spacing=problem.spacing._replace(data=0))
    return _faces_plan(bare, device, max_blocks)


@functools.lru_cache(maxsize=1024)
def _faces_plan(problem: FacesProblem, device: DeviceProperties, max_blocks: int | None) -> Plan:
    image, spacing, dims = problem.image, problem.spacing, problem.spatial_dims
    check_options(image, spacing, max_blocks)
    if min(image.shape) == 0:
        return Plan(0, False, ())
    axes = kept_axes(image.shape, dims)
    if len(axes) == 1:  # maps move in a pass over lines
        axes = sorted({*axes, 2 if axes[0] != 2 else 1})
    metrics = ["Rounded"] if spacing.values is not None else [_integer_metric(image, axes, True), "Rounded"]
    # Scratch: places in the row, places in the slice, tiles.
    slices = align(2 * prod(image.shape))
    scratch = slices + (align(4 * prod(image.shape)) if len(axes) == 3 else 0)
    steps, tiles = [], 0
    for inverted in (False, True):
        steps.append(_rows_step(image, axes, 0.0, inverted, max_blocks))
        source: Address = (SCRATCH, 0)
        for axis in reversed(axes[:-1]):
            target = (NOWHERE, 0) if axis == axes[0] else (SCRATCH, slices)
            for metric in metrics:
                step, in_global = _lines_step(
                    image, axes, axis, dims, spacing, metric, 0.0, source, target, device, max_blocks,
                    move=-1.0 if inverted else 1.0, closed=problem.closed and not inverted,
                )  # fmt: skip
                steps.append(step._replace(scratch=(SCRATCH, scratch)))
                tiles = max(tiles, in_global)
            source = target
    return Plan(scratch + tiles, spacing.values is None, tuple(steps))


def _rows_step(image: Image, axes: list[int], scale: float, inverted: bool, max_blocks: int | None) -> Step:
    rows = prod(image.shape) // image.shape[2 + axes[-1]]
    words = -(-image.shape[2 + axes[-1]] // 32)
    warps = min(8, (48 * 1024 - STATIC_SHARED) // (12 * words))
    last = len(axes) == 1
    return Step(
        "dtk::nearest_rows<uint16_t>",
        (min(-(-rows // warps), MAX_GRID, max_blocks or MAX_GRID), 1, 1),
        32 * warps,
        12 * words * warps,
        (NOWHERE, 0),
        (SECOND, 0) if last else (SCRATCH, 0),
        (NOWHERE, 0),
        image_bytes(image, axes) + _ROWS.pack(rows, words, last, scale, inverted),
        (OUT, 0) if last else (NOWHERE, 0),
    )


def _squares(image: Image, axes: list[int]) -> tuple[int, int]:
    """The largest square between two voxels, and the bits of a position along any axis but the last."""
    sides = [image.shape[2 + k] for k in axes]
    return sum((n - 1) ** 2 for n in sides), max((n - 1).bit_length() for n in sides[:-1])


def _integer_metric(image: Image, axes: list[int], keyed: bool) -> str:
    """Whether a square, a position below it and the steps of a strip share 32 bits (csrc/dtk/argmin.cuh)."""
    largest, bits = _squares(image, axes)
    if largest >= transform.NONE_32:
        sides = tuple(image.shape[2:])
        raise ValueError(f"image: expected squared diagonals below 2^31 - 1 voxels, got sides {sides}")
    return "Keyed" if keyed and (largest + 33) << bits < 2**31 else "Exact"


def _lines_step(
    image: Image,
    axes: list[int],
    axis: int,
    spatial_dims: int,
    spacing: Spacing,
    metric: str,
    scale: float,
    source: Address,
    target: Address,
    device: DeviceProperties,
    max_blocks: int | None,
    move: float = 0.0,
    closed: bool = False,
) -> tuple[Step, int]:
    """One pass, and the bytes of its tiles in scratch memory; the last moves maps, or writes both results."""
    n, width = image.shape[2 + axis], image.shape[2 + axes[-1]]
    inner = prod(image.shape[2 + k] for k in axes if k > axis)
    last = axis == axes[0]
    samples = spacing.values is None and spacing.rows > 1  # each sample has its own weights
    groups = image.shape[0] if samples else 1
    lines = prod(image.shape) // n // groups
    tile = _tile(n, lines, groups, metric, device)
    blocks = min(
        groups * -(-lines // tile.lanes),
        2 * device.multiprocessors if tile.in_global else MAX_GRID,
        max_blocks or MAX_GRID,
    )
    largest, bits = _squares(image, axes)
    first = 3 - spatial_dims
    weights = (0.0, 0.0, 0.0) if spacing.values is None else tuple(s * s for s in spacing.values)
    constant = image_bytes(image, axes) + _LINES.pack(
        groups,
        lines,
        inner,
        tile.bytes if tile.in_global else 0,
        tile.nearest_offset,
        tile.marks_offset,
        n,
        tile.lanes.bit_length() - 1,
        width,
        source == (SCRATCH, 0),
        last,
        bits if metric == "Keyed" else 0,
        largest + 1 if metric == "Keyed" else 0,
        1 + first if spacing.values is None else 0,
        axis,
        axes[1] if len(axes) == 3 else axes[-1],
        axes[-1],
        3 if samples else 0,
        *map(float32, weights),
        scale if last else 0.0,
        move,
        *(0.5 * float32(s) for s in spacing.values or (1.0, 1.0, 1.0)),
        first,
        closed,
    )
    step = Step(
        f"dtk::nearest_lines<dtk::{metric}, {str(tile.in_global).lower()}>",
        (blocks, 1, 1),
        tile.threads,
        0 if tile.in_global else tile.bytes,
        source,
        target,
        (NOWHERE, 0),
        constant,
        (OUT, 0) if last else (NOWHERE, 0),
    )
    return step, blocks * tile.bytes if tile.in_global else 0


class Tile(NamedTuple):
    """How a block holds ``lanes`` whole lines, and its threads."""

    lanes: int
    nearest_offset: int
    marks_offset: int
    bytes: int
    threads: int
    in_global: bool  # too long for shared memory: tiles lie in scratch


def _tile(n: int, lines: int, groups: int, metric: str, device: DeviceProperties) -> Tile:
    """Values of 4 bytes, sites of 2, and marks of one word or three for every eighth voxel and the last."""
    strips = -(-n // STRIP)
    marks = -(-(n - 1) // STRIP) + 1

    def layout(lanes: int, in_global: bool = False) -> Tile:
        nearest_offset = 4 * n * lanes
        marks_offset = align(nearest_offset + 2 * n * lanes, 4)
        size = marks_offset + 4 * marks * lanes * (1 if metric == "Keyed" else 3)
        threads = min(_THREADS, align(strips * lanes, 32))
        return Tile(lanes, nearest_offset, marks_offset, align(size) if in_global else size, threads, in_global)

    most = min(32, 1 << (lines - 1).bit_length())
    layouts = {1 << log2: layout(1 << log2) for log2 in range(most.bit_length())}
    sizes = {lanes: tile.bytes for lanes, tile in layouts.items()}
    lanes = best_lanes(sizes, lines, groups, device.shared_per_block_optin - STATIC_SHARED, device)
    return layouts[lanes] if lanes is not None else layout(min(8, most), in_global=True)
