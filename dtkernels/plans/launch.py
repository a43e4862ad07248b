"""What launch plans are made of: devices, launches without and with their pointers, parameters as bytes.

A module of this package makes a :class:`Plan` from shapes, strides and flags alone, so that it can be cached;
:meth:`Plan.bind` puts the pointers of a call in front of parameter bytes that were made once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from ..problem import MAX_SIDE, Image, Spacing

STATIC_SHARED = 1024  # what kernels declare statically, rounded up; as in csrc/cuda/launch.cu
MAX_GRID = 2**31 - 1
ALIGNMENT = 256

# The pointers lead every parameter struct (csrc/dtk/operands.cuh): source, spacing, target, second target,
# scratch, image. The image's other fields come next.
POINTERS = struct.Struct("<6Q")
IMAGE = struct.Struct("<10qd2i")


class DeviceProperties(NamedTuple):
    """What a plan depends on."""

    multiprocessors: int
    shared_per_block_optin: int
    major: int
    minor: int


class Launch(NamedTuple):
    """One kernel launch, ready for ``cuda_launch`` or a driver API."""

    kernel: str
    grid: tuple[int, int, int]
    block: int
    shared: int
    params: bytes


NOWHERE, OUT, SECOND, SCRATCH = range(4)  # what the addresses of a step are relative to
Address = tuple[int, int]  # one of these, and bytes from its beginning


class Step(NamedTuple):
    """A launch without its pointers."""

    kernel: str
    grid: tuple[int, int, int]
    block: int
    shared: int
    source: Address
    target: Address
    scratch: Address
    constant: bytes  # the parameters after their pointers
    second: Address = (NOWHERE, 0)


class Plan(NamedTuple):
    """The launches of one operator, for any pointers."""

    scratch_bytes: int
    reads_spacing: bool
    steps: tuple[Step, ...]
    pieces: int = 0  # of an image, each with a sum of its own, where the last step is weighed

    def bind(
        self, image: int, spacing: int, out: int, scratch: int, second: int = 0, tail: bytes = b""
    ) -> list[Launch]:
        """Launches in order, all on one stream; ``scratch`` is aligned to 256 bytes.

        ``tail`` goes behind the last step's parameters.
        """
        base = (0, out, second, scratch)
        rows = spacing if self.reads_spacing else 0
        pack = POINTERS.pack
        return [
            Launch(
                kernel,
                grid,
                block,
                shared,
                pack(
                    base[source[0]] + source[1],
                    rows,
                    base[target[0]] + target[1],
                    base[also[0]] + also[1],
                    base[tiles[0]] + tiles[1],
                    image,
                )
                + constant
                + (tail if number == len(self.steps) else b""),
            )
            for number, (kernel, grid, block, shared, source, target, tiles, constant, also) in enumerate(
                self.steps, 1
            )
        ]


def kept_axes(shape: Sequence[int], spatial_dims: int) -> list[int]:
    """Columns of (z, y, x) that are longer than 1; the last one where none is."""
    existing = range(3 - spatial_dims, 3)
    if any(shape[2 + k] != 1 for k in range(3) if k not in existing):
        raise ValueError(f"image: expected {spatial_dims} spatial axes, got sides {tuple(shape[2:])}")
    return [k for k in existing if shape[2 + k] > 1] or [2]


def image_bytes(image: Image, axes: Sequence[int]) -> bytes:
    """The image after its pointer, axes of length 1 dropped: (batch, class, slow, mid, fast).

    With one axis left it is the last of the five, with two they are the third and the fifth.
    """
    kept: list[int | None] = [*axes[:-1], *[None] * (3 - len(axes)), axes[-1]]
    lengths = [1 if k is None else image.shape[2 + k] for k in kept]
    strides = [0 if k is None else image.stride[2 + k] for k in kept]
    return IMAGE.pack(
        *image.shape[:2], *lengths, *image.stride[:2], *strides, image.threshold, image.dtype, image.rule
    )


def check_options(image: Image, spacing: Spacing, max_blocks: int | None) -> None:
    """What no plan can be made for."""
    if max_blocks is not None and max_blocks < 1:
        raise ValueError(f"max_blocks: expected at least 1, got {max_blocks}")
    if spacing.rows not in (1, image.shape[0]):
        raise ValueError(f"spacing: expected 1 or {image.shape[0]} rows, one per sample, got {spacing.rows}")
    if max(image.shape[2:]) > MAX_SIDE:
        raise ValueError(f"image: expected sides of at most {MAX_SIDE}, got {image.shape[2:]}")


def best_lanes(sizes: dict[int, int], lines: int, groups: int, limit: int, device: DeviceProperties) -> int | None:
    """How many whole lines a tile should have, of those in ``sizes`` (lanes to bytes); None where none fits.

    As many as coalesced access likes, but two tiles must share a multiprocessor, so that one loads while the
    other computes, and there should be a tile for every multiprocessor; below 8 lanes (a sector of 32 bytes) only
    where nothing else fits.
    """
    fitting = [lanes for lanes in sorted(sizes, reverse=True) if sizes[lanes] <= limit]
    if not fitting:
        return None
    wide = [lanes for lanes in fitting if lanes >= min(8, max(sizes))] or fitting[:1]
    paired = [lanes for lanes in wide if 2 * sizes[lanes] <= device.shared_per_block_optin] or wide[-1:]
    enough = [lanes for lanes in paired if groups * (lines // lanes) >= device.multiprocessors]
    return enough[0] if enough else paired[-1]


def align(size: int, to: int = ALIGNMENT) -> int:
    """The next multiple."""
    return -(-size // to) * to


def float32(x: float) -> float:
    """What ``struct`` can pack as float32: infinity where that is the correctly rounded value."""
    try:
        struct.pack("<f", x)
    except OverflowError:
        return float("inf")
    return x
