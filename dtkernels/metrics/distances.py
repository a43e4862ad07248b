"""How far voxels are from a set of sites: Euclidean, or in steps between voxels.

The taxicab distance counts steps across faces, the chessboard distance steps to any of the 3^n - 1 neighbours.
Both count voxels, so spacing has no part in them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import functional

# (mask, spacing, spatial dims) -> float32: squared distance of each voxel to the nearest voxel that is not in it
Distance = Callable[[Tensor, list[float] | Tensor | None, int], Tensor]

NAMES = ("euclidean", "chessboard", "taxicab")


def by_name(name: str, backend: str | None) -> Distance:
    """One of :data:`NAMES`; the backend has a say in the Euclidean one only."""

    def euclidean(mask: Tensor, spacing: list[float] | Tensor | None, dims: int) -> Tensor:
        return functional.edt(mask, spacing, spatial_dims=dims, squared=True, backend=backend)

    return {"euclidean": euclidean, "chessboard": _chessboard, "taxicab": _taxicab}[name]


@functools.lru_cache(maxsize=8)
def neighbours(dims: int, connectivity: int) -> list[tuple[int, ...]]:
    """Steps to the voxels that differ by 1 in at least one and at most ``connectivity`` coordinates.

    >>> neighbours(2, 1)
    [(-1, 0), (0, -1), (0, 1), (1, 0)]
    """
    steps = itertools.product((-1, 0, 1), repeat=dims)
    return [step for step in steps if 0 < sum(map(abs, step)) <= connectivity]


def _taxicab(mask: Tensor, spacing: list[float] | Tensor | None, dims: int) -> Tensor:
    """Axis by axis: ``min_q f(q) + |p - q|`` is a running minimum of ``f(q) - q`` and its mirror image."""
    del spacing
    distance = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_fill_(mask, torch.inf)
    for axis in range(-dims, 0):
        at = torch.arange(mask.shape[axis], device=mask.device).reshape(-1, *[1] * (-axis - 1))
        below = (distance - at).cummin(axis).values + at
        above = (distance + at).flip(axis).cummin(axis).values.flip(axis) - at
        distance = torch.minimum(below, above)
    return distance.square()


def _chessboard(mask: Tensor, spacing: list[float] | Tensor | None, dims: int) -> Tensor:
    """The largest box around a voxel that is free of sites, found by bisection in every voxel at once.

    A summed-area table tells the number of sites in a box from its 2^n corners.
    """
    del spacing
    lead = mask.ndim - dims
    sides = mask.shape[lead:]
    table = pad((~mask).int(), (1, 0) * dims)
    for axis in range(-dims, 0):
        table = table.cumsum(axis, dtype=torch.int32)
    table = table.flatten(lead)
    at = [torch.arange(n, device=mask.device).reshape(-1, *[1] * (dims - 1 - k)) for k, n in enumerate(sides)]
    low = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    high = torch.full_like(low, max(sides))  # from any voxel across the image: stands for infinity
    for _ in range(max(sides).bit_length()):
        middle = (low + high) // 2
        sites = torch.zeros_like(middle, dtype=torch.int32)
        for corner in itertools.product((0, 1), repeat=dims):
            position = torch.zeros_like(middle)
            for side, p, upper in zip(sides, at, corner, strict=True):
                edge = (p + middle + 1).clamp(max=side) if upper else (p - middle).clamp(min=0)
                position = position * (side + 1) + edge
            inside = table.gather(-1, position.flatten(lead)).reshape(mask.shape)
            sites = sites + (-1) ** (dims - sum(corner)) * inside
        low, high = torch.where(sites > 0, low, middle + 1), torch.where(sites > 0, middle, high)
    return high.float().masked_fill_(high == max(sides), torch.inf).square_()
