"""The passes over an image: any mask to codes along the first axis, then slice by slice to distances.

    mask -> scan -> codes -> columns of a slice, lanes along x -> solve y -> transpose
                          -> rows, lanes along y -> solve x -> square root, sign, spacing -> transpose -> output

The first axis is done in closed form: along a line the nearest voxel of the opposite class is the last change of
class seen from either side, so two scans do, whatever the data. A voxel's result is one 16-bit code, its class in
the top bit and distance - 1 below (all ones where the line has no change), so lines reach 32,768 voxels and later
passes never look at the mask again. A slice stays in cache between its two axes: per voxel, memory sees the mask,
one code written and read, and one float written.

Both entries work on a range of units of work, so that threads can share an image or a batch. They allocate
nothing: a pointer into an array does not keep it alive, so memory must be held by the caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...problem import Rule
from .jit import Pointer, entry, inner
from .simd import (
    LANES,
    address,
    advance,
    bounded,
    class_code,
    code_outside,
    decoded,
    distance,
    nearer_code,
    next_code,
    row,
    set_row,
    transpose,
)
from .solver import BLOCK, KIND, solve

CODE_PADDING = LANES  # codes that may be read past the last
ABOVE, EQUALS_CLASS = int(Rule.ABOVE), int(Rule.EQUALS_CLASS)

Array = NDArray[Any]
Number = np.float32 | float


# --- First axis ---


@entry
def scan(
    data: Array, sample_stride: int, class_stride: int, classes: int,
    line_stride: int, row_stride: int, column_stride: int, length: int, columns: int, width: int,
    rule: int, threshold: float, closed: bool, codes: Array,
    tile: int, mask_row: Array, behind_row: Array, first_image: int, first: int, last: int,
) -> None:  # fmt: skip
    """Units ``first`` to ``last`` of ``tile`` columns each, counted through the images from ``first_image`` on.

    A column runs along the scanned axis, of ``length`` voxels; the columns of an image form a plane of rows of
    ``width``. ``codes`` holds the images one after the other, each as ``length`` planes. ``mask_row`` and
    ``behind_row`` have room for a tile.
    """
    tiles = -(-columns // tile)
    mask, behind = address(mask_row, 0), address(behind_row, 0)
    for unit in range(first, last):
        image = first_image + unit // tiles
        index = image % classes
        start = image // classes * sample_stride + index * class_stride
        column = unit % tiles * tile
        count = min(tile, columns - column)
        target = address(codes, unit // tiles * length * columns + column)
        for p in range(length):
            done = 0
            while done < count:
                y, x = (column + done) // width, (column + done) % width
                run = min(width - x, count - done)
                source = address(data, start + p * line_stride + y * row_stride + x * column_stride)
                read_run(source, column_stride, run, rule, threshold, index, advance(mask, done))
                done += run
            now = advance(target, p * columns)
            if p == 0:
                for j in range(count):
                    behind[j] = code_outside(class_code(mask[j]), closed)
                _scan_row(behind, mask, count, now)
            else:
                _scan_row(advance(now, -columns), mask, count, now)
        final = advance(target, (length - 1) * columns)
        for j in range(count):
            behind[j] = code_outside(final[j] & np.uint16(0x8000), closed)
        for p in range(length - 1, -1, -1):
            _scan_row_back(behind, count, advance(target, p * columns))


@inner
def read_run(
    source: Pointer, stride: int, count: int, rule: int, threshold: float, index: int, mask: Pointer
) -> None:
    """Elements of the input as bytes."""
    if rule == ABOVE:
        for i in range(count):
            mask[i] = np.float64(source[i * stride]) > threshold
    elif rule == EQUALS_CLASS:
        for i in range(count):
            mask[i] = source[i * stride] == index + np.int64(threshold)
    else:
        for i in range(count):
            x = source[i * stride]
            mask[i] = (x != 0) & (x == x)


@inner
def _scan_row(before: Pointer, mask: Pointer, count: int, now: Pointer) -> None:
    for j in range(count):
        now[j] = next_code(before[j], class_code(mask[j]))


@inner
def _scan_row_back(behind: Pointer, count: int, now: Pointer) -> None:
    for j in range(count):
        code = next_code(behind[j], now[j])
        behind[j] = code
        now[j] = nearer_code(now[j], code)


# --- Slices ---


def _rows_of_scratch(height: int, width: int) -> tuple[int, int]:
    """Rows of LANES for one tile of lines, and rows between groups of lines in a slice.

    The latter are more than needed, since a power of two would map all groups to the same few sets of the cache.
    """
    rows = -(-max(height, width) // LANES) * LANES + BLOCK
    return rows, -(-width // LANES) * LANES + LANES


_rows = inner(_rows_of_scratch)


def slice_scratch(height: int, width: int, dims: int) -> tuple[Array, Array, Array]:
    """Memory for solve_units(), for one thread: vectors, landmarks, and a row of flags."""
    rows, turned_rows = _rows_of_scratch(height, width)
    groups = -(-height // LANES) if dims == 3 else 0
    # Lines of one tile before and after solving, a square, and the slice between y and x.
    room = np.empty((2 * rows + LANES + groups * turned_rows + 1) * LANES, np.uint32)
    aligned = room[-(room.ctypes.data // room.itemsize) % LANES :]
    marks = np.empty((KIND + 1, -(-max(height, width) // BLOCK) + 1), np.int64)
    return aligned, marks, np.empty(width, np.uint16)


@entry
def solve_units(
    codes: Array, out: Array, depth: int, height: int, width: int, dims: int,
    signed: bool, squared: bool, closed: bool, weight: Number,
    y_cost: Array, y_inverse: float, x_cost: Array, x_inverse: float, scale: Number,
    room: Array, marks: Array, seen: Array, first: int, last: int,
) -> None:  # fmt: skip
    """Units ``first`` to ``last`` of images that lie one after the other in ``codes`` and ``out``.

    A unit is a slice where the scanned axis was z (``dims`` 3), LANES rows of a two-dimensional image, or a line.
    ``out`` is the result as uint32; ``weight`` is that of the scanned axis, ``scale`` that of the final distance;
    ``room``, ``marks`` and ``seen`` come from slice_scratch().
    """
    rows, turned_rows = _rows(height, width)
    source, target = address(room, 0), address(room, rows * LANES)
    square, turned = address(room, 2 * rows * LANES), address(room, (2 * rows + LANES) * LANES)
    y_table, x_table = address(y_cost, y_cost.size // 2), address(x_cost, x_cost.size // 2)

    units = depth if dims == 3 else -(-height // LANES)
    for unit in range(first, last):
        image = unit // units
        y0 = 0 if dims == 3 else unit % units * LANES
        y1 = height if dims == 3 else min(y0 + LANES, height)
        offset = image * depth * height * width + (unit % units * height * width if dims == 3 else 0)
        slice_codes, slice_out = address(codes, offset), address(out, offset)
        if dims == 1:
            for x in range(0, width, LANES):
                v = decoded(slice_codes, x, x_table, weight, signed)
                set_row(square, 0, distance(v, x_table, squared, scale))
                for i in range(min(LANES, width - x)):
                    slice_out[x + i] = square[i]
            continue
        x0, x1 = 0, width
        if not signed:
            y0, y1, x0, x1 = _crop(slice_codes, slice_out, width, y0, y1, seen)
        if dims == 3:
            for x in range(x0, x1, LANES):
                for y in range(y0, y1):
                    v = decoded(slice_codes, y * width + x, y_table, weight, signed)
                    set_row(source, y - y0, v)
                solve(source, target, y1 - y0, y_table, y_inverse, marks)
                if closed:
                    _close_border(target, y1 - y0, y0, height, y_table, signed)
                final = row(target, y1 - y0 - 1)
                for y in range(y1 - y0, -(-(y1 - y0) // LANES) * LANES):
                    set_row(target, y, final)
                for y in range(0, y1 - y0, LANES):
                    lines = advance(turned, (y // LANES * turned_rows + x - x0) * LANES)
                    transpose(advance(target, y * LANES), LANES, lines, LANES)
        for y in range(y0, y1, LANES):
            lines = source
            count = min(LANES, y1 - y)
            if dims == 3:
                lines = advance(turned, (y - y0) // LANES * turned_rows * LANES)
            else:
                for x in range(x0, x1, LANES):
                    for i in range(LANES):  # missing rows repeat the last
                        at = (y + min(i, count - 1)) * width + x
                        set_row(square, i, decoded(slice_codes, at, x_table, weight, signed))
                    transpose(square, LANES, advance(source, (x - x0) * LANES), LANES)
            solve(lines, target, x1 - x0, x_table, x_inverse, marks)
            if closed:
                _close_border(target, x1 - x0, x0, width, x_table, signed)
            corner = advance(slice_out, y * width + x0)
            _write(target, x1 - x0, count, x_table, squared, scale, square, corner, width)


@inner
def _crop(codes: Pointer, out: Pointer, width: int, y0: int, y1: int, seen: Array) -> tuple[int, int, int, int]:
    """Unsigned transforms: zeros outside the box of the foreground and one voxel around it, which is what remains.

    No nearest background voxel of this slice lies further out, because every run of foreground along x or y ends
    at most one voxel outside the box.
    """
    for x in range(width):
        seen[x] = 0
    low, high = y1, y0
    for y in range(y0, y1):
        line = advance(codes, y * width)
        some = np.uint16(0)
        for x in range(width):
            some |= line[x]
            seen[x] |= line[x]
        if some >> 15:
            low, high = min(low, y), y + 1
    x0, x1 = 0, width
    if low < high:
        low, high = max(low - 1, y0), min(high + 1, y1)
        while not seen[x0] >> 15:
            x0 += 1
        while not seen[x1 - 1] >> 15:
            x1 -= 1
        x0 = max(x0 - 1, 0) // LANES * LANES
        x1 = min(-(-(x1 + 1) // LANES) * LANES, width)
    else:
        low = high = y0
    for j in range(y0 * width, low * width):
        out[j] = 0
    for j in range(high * width, y1 * width):
        out[j] = 0
    if x0 > 0 or x1 < width:
        for y in range(low, high):
            for x in range(x0):
                out[y * width + x] = 0
            for x in range(x1, width):
                out[y * width + x] = 0
    return low, high, x0, x1


@inner
def _close_border(lines: Pointer, n: int, first: int, length: int, cost: Pointer, signed: bool) -> None:
    """Background lies one step beyond either end of the axis, for foreground only; row 0 is at ``first``."""
    for i in range(n):
        p = first + i
        set_row(lines, i, bounded(row(lines, i), cost, min(p + 1, length - p), signed))


@inner
def _write(
    lines: Pointer, n: int, count: int, cost: Pointer, squared: bool, scale: Number,
    square: Pointer, out: Pointer, width: int,
) -> None:  # fmt: skip
    """n rows of squared distances, lanes along y, to ``count`` rows of the output."""
    for x in range(n):
        set_row(lines, x, distance(row(lines, x), cost, squared, scale))
    for x in range(0, n, LANES):
        if count == LANES and x + LANES <= n:
            transpose(advance(lines, x * LANES), LANES, advance(out, x), width)
        else:
            transpose(advance(lines, x * LANES), LANES, square, LANES)
            for i in range(count):
                for j in range(min(LANES, n - x)):
                    out[i * width + x + j] = square[i * LANES + j]
