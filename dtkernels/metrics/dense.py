"""Moments on any other device: all pairs at once, in masked reductions of fixed shape.

Gathering the surface would need its size on the host, which is a synchronisation. So nothing is gathered:
sums run over whole images with zero weight off the surface, and a percentile is found by bisection on the bit
pattern of the squared distance. Patterns of floats that are not negative are ordered like the floats; one
pass over the data halves the 2^31 patterns that are left, so 31 counting passes give the exact order
statistic of every pair, whatever the number of voxels, with no sort and no buffer beyond the images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..erosion import eroded
from . import surfels
from .definitions import TIE, Definition
from .distances import Distance
from .masks import Pair
from .moments import Moments

_BEYOND = 2**31 - 1  # above the pattern of +inf


def measure(
    images: Pair,
    spacing: list[float] | Tensor | None,
    definition: Definition,
    pooled: bool,
    percentiles: tuple[float, ...],
    tolerances: tuple[float, ...],
    distance: Distance,
    limit: float | None = None,
) -> Moments:
    """Moments of every pair; ``pooled`` percentiles take both directions together.

    Given a ``limit``, nothing but ``total`` and ``within`` is asked.
    """
    dims = images.dims
    masks = torch.stack([images.pred.all(), images.target.all()], 2)  # (B, K, 2, *spatial)
    if 0 in masks.shape:
        masks = masks.new_zeros(*masks.shape[:3], *[1] * dims)  # no voxels: no surface either
    if definition.subvoxel:
        codes = corner_codes(masks, dims)
        sizes = _measures(spacing, masks)
        surface = (codes != 0) & (codes != sizes.shape[1] - 1)
        rows = torch.arange(len(sizes), device=masks.device, dtype=torch.int32) * sizes.shape[1]
        at = codes.int() + rows.reshape(-1, *[1] * (codes.ndim - 1))
        weights = sizes.flatten().index_select(0, at.flatten()).reshape(codes.shape).flatten(3)
    else:
        surface = masks & ~eroded(masks, dims, definition.connectivity)
        weights = None
    # Flipped, so that each surface finds its distances to the other.
    squares = distance(~surface, spacing, dims).flatten(3).flip(2)
    surface = surface.flatten(3)
    keys = squares.view(torch.int32).masked_fill(~surface, _BEYOND)
    squares = squares.masked_fill(~surface, 0)
    close = [surface & (squares <= tolerance**2 * TIE) for tolerance in tolerances]
    total = _sum(weights, surface)
    within = [_sum(weights, c) for c in close]
    first = second = maximum = torch.zeros_like(total)
    if limit is None:
        distances = squares.sqrt()
        first, second = _sum(weights, distances), _sum(weights, squares)
        maximum = distances.amax(-1).double()
    if pooled:
        keys = keys.flatten(2)[:, :, None]
        weights = None if weights is None else weights.flatten(2)[:, :, None]
    ranked = [
        _linear(keys, q / 100) if weights is None else _weighted(keys, weights, q / 100) for q in percentiles
    ]
    none = total.new_zeros(0, *total.shape)
    return Moments(
        total.movedim(2, 0),
        first.movedim(2, 0),
        second.movedim(2, 0),
        maximum.movedim(2, 0),
        (torch.stack(within) if within else none).movedim(3, 1),
        (torch.stack(ranked) if ranked else none).movedim(3, 1),
    )


def _sum(weights: Tensor | None, values: Tensor) -> Tensor:
    """Sum over the voxels in float64."""
    return values.sum(-1, dtype=torch.float64) if weights is None else (weights * values).sum(-1)


def corner_codes(masks: Tensor, dims: int) -> Tensor:
    """Codes of :mod:`.surfels` at the corners of all voxels: bits doubled up axis by axis."""
    codes = pad(masks.to(torch.uint8), (1, 1) * dims)
    for level in range(dims):
        axis = codes.ndim - 1 - level
        side = codes.shape[axis] - 1
        codes = codes.narrow(axis, 1, side) | (codes.narrow(axis, 0, side) << (1 << level))
    return codes


def _measures(spacing: list[float] | Tensor | None, masks: Tensor) -> Tensor:
    """Sizes of the surface elements by code, one row for the batch or one per sample."""
    if isinstance(spacing, Tensor):
        return surfels.measures(spacing)
    dims = masks.ndim - 3
    row = torch.tensor([spacing or [1.0] * dims], dtype=torch.float64, device="cpu")
    return surfels.measures(row).to(masks.device, non_blocking=True)


def _smallest(keys: Tensor, enough: Callable[[Tensor], Tensor]) -> Tensor:
    """The smallest pattern in each row for which ``enough(keys <= pattern)``, at most the row's largest."""
    high = keys.masked_fill(keys == _BEYOND, 0).amax(-1)
    low = torch.zeros_like(high)
    for _ in range(31):
        middle = low + (high - low) // 2
        reached = enough(keys <= middle[..., None])
        high = torch.where(reached, middle, high)
        low = torch.where(reached, low, torch.minimum(middle + 1, high))
    return high


def _linear(keys: Tensor, q: float) -> Tensor:
    """Percentile as numpy.percentile: linear between order statistics."""
    rank = q * ((keys != _BEYOND).sum(-1) - 1).clamp(min=0).double()
    below = rank.floor()
    low = _smallest(keys, lambda close: close.sum(-1) > below)
    shared = (keys <= low[..., None]).sum(-1) > below + 1  # the next order statistic is the same
    above = keys.masked_fill(keys <= low[..., None], _BEYOND).amin(-1)
    high = torch.where(shared | (above == _BEYOND), low, above)
    a, b = _distance(low), _distance(high)
    return a + (b - a) * (rank - below)


def _weighted(keys: Tensor, weights: Tensor, q: float) -> Tensor:
    """The smallest distance at which the weight up to it reaches the share ``q``.

    The sums are not in the order of :mod:`.packed`: a share that equals ``q`` in exact arithmetic may round to
    either side of it, in each of the two.
    """
    total = weights.sum(-1)
    return _distance(_smallest(keys, lambda close: (weights * close).sum(-1) / total >= q))


def _distance(keys: Tensor) -> Tensor:
    return keys.contiguous().view(torch.float32).double().sqrt()
