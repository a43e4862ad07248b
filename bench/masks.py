"""Deterministic masks that benchmarks and tests share.

The same kind, shape and seed give the same voxels on every machine with the same NumPy, so that a time or a
failure can be repeated from its name alone. Every kind exists in any number of dimensions and for any side,
0 included.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
Shape = tuple[int, ...]


def make(kind: str, shape: Shape, seed: int = 0) -> Mask:
    """The mask called ``kind`` (see :data:`KINDS`), uint8, 1 = inside."""
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    shape = tuple(shape)
    if 0 in shape:
        return np.zeros(shape, np.uint8)
    return np.ascontiguousarray(KINDS[kind](shape, np.random.default_rng(seed)), dtype=np.uint8)


def _grid(shape: Shape) -> list[NDArray[np.float32]]:
    """Coordinates of the voxel centres in -1 .. 1 along each axis, shaped to broadcast."""
    axes = [(2 * np.arange(side, dtype=np.float32) + 1) / side - 1 for side in shape]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _organ(shape: Shape, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One smooth body of about a tenth of the image: a ball bent by a few long waves."""
    grid = _grid(shape)
    field = np.zeros(shape, np.float32)
    for x in grid:
        field += x * x
    for _ in range(4):
        wave = np.float32(0.12)
        for x in grid:
            frequency, phase = rng.uniform(2, 5), rng.uniform(0, 2 * np.pi)
            wave = wave * np.cos(np.float32(frequency) * x + np.float32(phase))
        field += wave
    every = tuple(slice(None, None, max(1, side // 64)) for side in shape)  # a sample of the field is enough
    return field <= np.quantile(field[every], 0.1)


def _ellipsoids(shape: Shape, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Twenty small ellipsoids, about one voxel in a hundred: lesions."""
    mask = np.zeros(shape, bool)
    ball = {1: 2.0, 2: np.pi, 3: 4 / 3 * np.pi}.get(len(shape), 4.0)
    radius = max(0.6, (np.prod(shape, dtype=float) * 0.01 / 20 / ball) ** (1 / len(shape)))
    for _ in range(20):
        radii = radius * rng.uniform(0.6, 1.6, len(shape))
        centre = np.floor(rng.uniform(0, 1, len(shape)) * shape)
        low = np.maximum(0, np.ceil(centre - radii)).astype(int)
        high = np.minimum(shape, np.floor(centre + radii) + 1).astype(int)
        box = tuple(map(slice, low, high))
        offsets = np.meshgrid(*map(np.arange, low, high), indexing="ij", sparse=True)
        square = sum(((x - c) / r) ** 2 for x, c, r in zip(offsets, centre, radii, strict=True))
        mask[box] |= square <= 1
    return mask


def _noise(shape: Shape, rng: np.random.Generator) -> Mask:
    """Every voxel by itself, half of them inside: the most boundary there can be at random."""
    return rng.integers(0, 2, shape, dtype=np.uint8)


def _one_foreground(shape: Shape, rng: np.random.Generator) -> Mask:
    """One voxel inside, off the centre: the outer distances are the longest there can be."""
    del rng
    mask = np.zeros(shape, np.uint8)
    mask[tuple(int(0.31 * side) for side in shape)] = 1
    return mask


def _one_hole(shape: Shape, rng: np.random.Generator) -> Mask:
    """One voxel outside."""
    return 1 - _one_foreground(shape, rng)


def _spheres(shape: Shape, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A lattice of balls, inverted in every other cell: many equal distances, many ties."""
    del rng
    cell = 64 if len(shape) < 3 else 32
    cells = np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True)
    square = sum((x % cell - (cell - 1) / 2) ** 2 for x in cells)
    odd = sum(x // cell for x in cells) % 2 == 1
    return (square <= (0.42 * cell) ** 2) ^ odd


def _checkerboard(shape: Shape, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Every neighbour is of the other class: the most runs there can be."""
    del rng
    return sum(np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True)) % 2 == 1


def _seeds(shape: Shape, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One background voxel in 10,000 on average, at least one: long envelopes with many parabolas."""
    mask = np.ones(shape, bool)
    count = max(1, mask.size // 10_000)
    mask.flat[rng.integers(0, mask.size, count)] = False
    return mask


def _plates(shape: Shape, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Plates one voxel thick, 17 apart, across the first axis, each with a pinhole: flat sheets of ties."""
    mask = np.zeros(shape, bool)
    mask[8 % shape[0] :: 17] = True
    for i in range(8 % shape[0], shape[0], 17):
        mask[(i, *(int(rng.integers(0, side)) for side in shape[1:]))] = False
    return mask


KINDS: dict[str, Callable[[Shape, np.random.Generator], NDArray]] = {
    "organ": _organ,
    "ellipsoids": _ellipsoids,
    "noise": _noise,
    "one_foreground": _one_foreground,
    "one_hole": _one_hole,
    "spheres": _spheres,
    "checkerboard": _checkerboard,
    "seeds": _seeds,
    "plates": _plates,
}
