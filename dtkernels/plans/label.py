"""Connected components: the five kernels of ``csrc/dtk/label.cuh``, all with the same parameters.

Axes of length 1 are dropped, so that rows are as long as they can be: a row takes whole words of 32 bits.
"""

from __future__ import annotations

import functools
import struct

from ..problem import Image, LabelProblem, Spacing
from .launch import (
    MAX_GRID,
    NOWHERE,
    OUT,
    SCRATCH,
    SECOND,
    DeviceProperties,
    Plan,
    Step,
    align,
    check_options,
    image_bytes,
    kept_axes,
)

CHUNK = 256  # words; kChunkLog2 of csrc/dtk/label.cuh
_WARPS = 8  # of a block whose warps take rows
_LABEL = struct.Struct("<6q5i4x")


def plan(problem: LabelProblem, device: DeviceProperties, max_blocks: int | None = None) -> Plan:
    """Plan of ``problem`` on a device of these properties; ``max_blocks`` limits every grid."""
    return _plan(problem.image._replace(data=0), problem.connectivity, max_blocks)


@functools.lru_cache(maxsize=1024)
def _plan(image: Image, connectivity: int, max_blocks: int | None) -> Plan:
    check_options(image, Spacing(), max_blocks)
    if min(image.shape) == 0:
        return Plan(0, False, ())
    axes = kept_axes(image.shape, 3)
    *outer, width = (image.shape[2 + k] for k in axes)
    height = outer[1] if len(outer) == 2 else 1
    rows = (outer[0] if outer else 1) * height
    images = image.shape[0] * image.shape[1]
    # Positions are unsigned and numbers signed words. Which masks would fit beyond cannot be known without a look.
    if rows * -(-width // 2) >= 2**31:
        raise ValueError(
            f"mask: expected images of fewer than 2^32 voxels for labels on a GPU, got sides {image.shape[2:]}"
        )
    words = -(-width // 32)
    chunks = -(-rows * words // CHUNK)
    lanes = min(32, 1 << (words - 1).bit_length())
    roots_offset = align(4 * images * rows * words)
    before_offset = 2 * roots_offset
    chunks_offset = before_offset + align(2 * images * rows * words)
    constant = image_bytes(image, axes) + _LABEL.pack(
        images,
        rows,
        roots_offset,
        before_offset,
        chunks_offset,
        chunks,
        height,
        width,
        words,
        lanes.bit_length() - 1,
        connectivity,
    )

    def step(kernel: str, blocks: int, threads: int) -> Step:
        grid = (min(blocks, MAX_GRID, max_blocks or MAX_GRID), 1, 1)
        return Step(
            f"dtk::label_{kernel}<uint32_t>",
            grid,
            threads,
            0,
            (NOWHERE, 0),
            (OUT, 0),
            (SCRATCH, 0),
            constant,
            (SECOND, 0),
        )

    by_row = -(-images * rows // _WARPS)
    steps = [step("rows", by_row, 32 * _WARPS)]
    if rows > 1:
        steps.append(step("unite", -(-images * rows // (_WARPS * (32 // lanes))), 32 * _WARPS))
    steps.append(step("roots", images * chunks, CHUNK))
    steps.append(step("count", images, min(1024, 32 * -(-chunks // 32))))
    steps.append(step("write", by_row, 32 * _WARPS))
    return Plan(chunks_offset + 4 * images * chunks, False, tuple(steps))
