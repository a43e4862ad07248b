"""Moments on a CPU: within the box around both masks, surface elements gathered and sorted.

Reading a size back is free here, so the work is confined to where there is surface. Each box is copied once
into a flat buffer whose rows, planes and volume end in zeros. Then a neighbour in any direction is a constant
offset, the border of the image and of the box is background by construction, and both kinds of surface are a
few bitwise operations over contiguous bytes. Boxes of one shape follow each other in the buffer: small images
are measured many at a time, large ones one by one, each in its own box.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import masks, surfels
from .definitions import TIE, Definition
from .distances import Distance, neighbours
from .masks import Pair
from .moments import Moments

Array = NDArray[Any]

_BLOCK = 1 << 16  # bytes: fits the caches, and makes a call worth its while

# Images up to so many voxels are measured together, in stacks of up to so many: a call of NumPy costs as much as
# its work on a few thousand bytes, and a pair takes about 50 calls.
_SMALL, _STACK = 1 << 15, 1 << 18


class Sizes(NamedTuple):
    """Sizes of the surface elements of a code, by rank: a byte stands for a size and sorts like it."""

    ordered: Array  # float64, ascending
    ranks: Array  # uint8 by code


class Elements(NamedTuple):
    """Surfaces one after the other, of the first mask of each pair and of its second."""

    squares: Array  # float32: squared distances to the other surface of the pair
    starts: Array  # int64 (surfaces + 1): where each begins
    ranks: Array | None = None  # which size each element has; None: all 1
    ordered: Array | None = None  # the sizes

    def weights(self) -> Array | None:
        """Sizes of the elements."""
        return None if self.ranks is None or self.ordered is None else self.ordered[self.ranks]

    def sums(self, values: Array) -> Array:
        """Values of the elements summed up, (2, pairs); no surface may be empty."""
        by_surface: Array = np.add.reduceat(values, self.starts[:-1], dtype=np.float64)
        return by_surface.reshape(-1, 2).T

    def part(self, first: int, last: int) -> Elements:
        """The surfaces from ``first`` up to ``last`` as one."""
        a, b = int(self.starts[first]), int(self.starts[last])
        ranks = None if self.ranks is None else self.ranks[a:b]
        return Elements(self.squares[a:b], np.array([0, b - a]), ranks, self.ordered)

    def in_order(self) -> tuple[Array, Array]:
        """Squared distances and sizes, float64, sorted by distance, then by size, whatever the surface.

        surface-distance's order: where a share of the area meets a percentage exactly, as halves do in symmetric
        masks, its answer hangs on the rounding of a sum in this very order. Both fit one integer, since the
        pattern of a float that is not negative is ordered like the float.
        """
        if self.ranks is None or self.ordered is None:
            return np.sort(self.squares).astype(np.float64), np.ones(len(self.squares))
        keys = self.squares.view(np.int32).astype(np.int64) << 8 | self.ranks
        keys.sort()
        return (keys >> 8).astype(np.int32).view(np.float32).astype(np.float64), self.ordered[keys & 255]


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

    Given a ``limit``, nothing but ``total`` and ``within`` is asked, for tolerances up to it and the Euclidean
    distance.
    """
    samples, classes = images.pred.shape[:2]
    shape = (2, samples, classes)
    total, first, second, maximum = (np.zeros(shape) for _ in range(4))
    within = np.zeros((len(tolerances), *shape))
    ranked = np.zeros((len(percentiles), 1 if pooled else 2, samples, classes))
    for row, of_row in _by_spacing(spacing, samples):
        sizes = element_sizes(row, images.dims) if definition.subvoxel else None
        for b, k, inside in _stacks(images, of_row):
            present = np.stack([mask.reshape(len(mask), -1).any(1) for mask in inside])
            total[:, b, k] = present
            both = present.all(0)
            if not both.all():
                b, k, inside = b[both], k[both], [mask[both] for mask in inside]
            if not len(b):
                continue
            found = _elements(inside, row, definition, sizes, distance, limit)
            total[:, b, k], within[:, :, b, k] = shares(found, tolerances)
            if limit is None:
                first[:, b, k], second[:, b, k], maximum[:, b, k] = sums(found)
                ranked[:, :, b, k] = ranks(found, pooled, percentiles)
    return Moments(*map(torch.from_numpy, (total, first, second, maximum, within, ranked)))


def shares(found: Elements, tolerances: tuple[float, ...]) -> tuple[Array, Array]:
    """Sizes of the surfaces, (2, pairs), and of what is within each tolerance, (tolerances, 2, pairs)."""
    weights = found.weights()
    total = np.diff(found.starts).reshape(-1, 2).T if weights is None else found.sums(weights)
    d2 = found.squares.astype(np.float64)
    within = np.empty((len(tolerances), *total.shape))
    for n, tolerance in enumerate(tolerances):
        close = d2 <= tolerance**2 * TIE
        within[n] = found.sums(close if weights is None else close * weights)
    return total, within


def sums(found: Elements) -> tuple[Array, Array, Array]:
    """Sums of distances and of their squares, and the largest distances, each (2, pairs)."""
    weights = found.weights()
    d2 = found.squares.astype(np.float64)
    d = np.sqrt(d2)
    maximum = np.maximum.reduceat(d, found.starts[:-1]).reshape(-1, 2).T
    first, second = (found.sums(x if weights is None else x * weights) for x in (d, d2))
    return first, second, maximum


def ranks(found: Elements, pooled: bool, percentiles: tuple[float, ...]) -> Array:
    """Percentiles of the surfaces, (percentiles, 1 if pooled else 2, pairs)."""
    pairs = len(found.starts) // 2
    if not percentiles:
        return np.empty((0, 1 if pooled else 2, pairs))
    values = _ranked(found, pooled, percentiles)
    result: Array = values.reshape(len(percentiles), pairs, -1).swapaxes(1, 2)
    return result


def _by_spacing(spacing: list[float] | Tensor | None, samples: int) -> Iterator[tuple[list[float] | None, Array]]:
    """Each different spacing, and the samples that have it."""
    if not isinstance(spacing, Tensor):
        yield spacing, np.arange(samples)
        return
    rows, row_of = np.unique(spacing.numpy(), axis=0, return_inverse=True)
    for n, row in enumerate(rows):
        yield row.tolist(), np.flatnonzero(row_of.reshape(-1) == n)


def _stacks(images: Pair, samples: Array) -> Iterator[tuple[Array, Array, list[Array]]]:
    """All pairs of some samples: their samples, their classes, and both masks, bool ``(n, *box)``.

    Large images come one by one, each in the box around it: all calls of Python and NumPy take 0.2 ms a pair (that
    is what masks of 4^3 voxels take), 4 % of the time for (4, 3, 128^3). In stacks they take 0.01 ms.
    """
    classes = images.pred.shape[1]
    b, k = (x.reshape(-1) for x in np.meshgrid(samples, np.arange(classes), indexing="ij"))
    voxels = math.prod(images.spatial)
    if voxels > _SMALL:
        for n in range(len(b)):
            pair = [(m.name, m.stored(int(b[n]), int(k[n]))) for m in (images.pred, images.target)]
            yield b[n : n + 1], k[n : n + 1], [mask[None] for mask in cropped(pair)]
    elif voxels and len(b):
        masks = [m.all().flatten(0, 1).numpy() for m in (images.pred, images.target)]
        step = max(1, _STACK // voxels)
        for n in range(0, len(b), step):
            some = slice(n, n + step)
            yield b[some], k[some], [mask[b[some] * classes + k[some]] for mask in masks]


def surfaces(
    masks: list[Array], spacing: list[float] | None, definition: Definition, distance: Distance
) -> list[Elements]:
    """The surfaces of two bool arrays, each with its distances to the other: inf to one that has none."""
    inside = [mask[None] for mask in cropped([("", torch.from_numpy(mask)) for mask in masks])]
    sizes = element_sizes(spacing, masks[0].ndim) if definition.subvoxel else None
    both = _elements(inside, spacing, definition, sizes, distance)
    return [both.part(i, i + 1) for i in range(2)]


def cropped(stored: list[tuple[str, Tensor]]) -> list[Array]:
    """Two masks by name, as bool within the box around both, which is of no voxel where they are empty.

    The box is found in the memory as it is, read once: only what is in it is looked at as numbers.
    """
    boxes = [box(_bits(mask)) for _, mask in stored]
    found = [b for b in boxes if b is not None]
    hull = tuple(
        slice(min(b[k][0] for b in found), max(b[k][1] for b in found)) if found else slice(0, 0)
        for k in range(stored[0][1].ndim)
    )
    return [masks.binary(name, mask[hull]).numpy() for name, mask in stored]


def _bits(mask: Tensor) -> Array:
    """The memory of a tensor as integers of the same size."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits: Array = mask.view(sizes[mask.element_size()]).numpy()
    return bits


def box(bits: Array) -> list[tuple[int, int]] | None:
    """First and one past the last index of what is not 0 along each axis; None where all is."""
    sides: list[tuple[int, int]] = []
    while True:
        first = _first(bits)
        if first is None:
            return None
        sides.append((first, len(bits) - (_first(bits[::-1]) or 0)))
        if bits.ndim == 1:
            return sides
        bits = np.bitwise_or.reduce(bits[slice(*sides[-1])], axis=0)


def _first(bits: Array) -> int | None:
    """Index of the first row that is not 0, reading no further than some rows beyond it."""
    if 0 in bits.shape:
        return None
    rows = -(-_BLOCK // bits[0].nbytes)
    for start in range(0, len(bits), rows):
        block = bits[start : start + rows]
        hit = np.flatnonzero(np.bitwise_or.reduce(block.reshape(len(block), -1), axis=1))
        if len(hit):
            return start + int(hit[0])
    return None


def _elements(
    inside: list[Array],
    spacing: list[float] | None,
    definition: Definition,
    sizes: Sizes | None,
    distance: Distance,
    limit: float | None = None,
) -> Elements:
    """Both surfaces of every pair, each with its distances to the other, if need be up to a limit only."""
    pairs, *sides = inside[0].shape
    steps = _ball(limit, tuple(spacing or [1.0] * len(sides))) if limit is not None else None
    # zeros at the end of each axis: as many as a step is long, after the corners of the last voxels
    reach = [1] * len(sides) if steps is None else [max(1, int(n)) for n in steps.at.max(0)]
    corners = int(sizes is not None and steps is not None)
    shape = tuple(n + zeros + corners for n, zeros in zip(sides, reach, strict=True))
    strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    count, margin = math.prod(shape), sum(strides)
    total = 2 * pairs * count
    padded = np.zeros(margin + total + margin, np.uint8)
    for i, mask in enumerate(inside):
        into = padded[margin : margin + total].reshape(pairs, 2, *shape)[:, i]
        into[(slice(None), *(slice(n) for n in sides))] = mask
    elsewhere: Array = np.empty(total, np.bool_)
    if sizes is None:
        around = [sum(map(operator.mul, s, strides)) for s in neighbours(len(shape), definition.connectivity)]
        _not_surface_voxels(padded, margin, around, elsewhere)
        found = np.flatnonzero(~elsewhere)
        ranks = ordered = None
    else:
        codes = _codes(padded[: margin + total], strides)
        # 0 and the full code become the two largest numbers
        np.greater_equal(codes - np.uint8(1), len(sizes.ordered) - 2, out=elsewhere)
        found = np.flatnonzero(~elsewhere)
        ranks, ordered = sizes.ranks[codes[found]], sizes.ordered
    starts = np.searchsorted(found, np.arange(2 * pairs + 1) * count)
    # the same places in the other mask of the pair
    across = found + np.repeat(np.tile([count, -count], pairs), np.diff(starts))
    squares = None if steps is None else _probed(elsewhere, across, steps, strides)
    if squares is None:
        maps = distance(torch.from_numpy(elsewhere).reshape(pairs, 2, *shape), spacing, len(shape))
        squares = maps.reshape(total).numpy()[across]
    return Elements(squares, starts, ranks, ordered)


class _Steps(NamedTuple):
    """From a voxel to all that are near it, the nearest first."""

    at: Array  # int64 (steps, dims)
    squares: Array  # float64, squared length of each


@functools.lru_cache(maxsize=32)
def _ball(limit: float, spacing: tuple[float, ...]) -> _Steps | None:
    """All steps up to a limit; None where they are too many to be worth a try."""
    reach = [math.floor(limit * math.sqrt(TIE) / s) for s in spacing]
    if math.prod(2 * n + 1 for n in reach) > 1000:
        return None
    at = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, len(reach))
    squares = np.square(at * np.array(spacing)).sum(1)
    order = np.argsort(squares, kind="stable")
    order = order[squares[order] <= limit**2 * TIE]
    return _Steps(at[order], squares[order])


def _probed(elsewhere: Array, start: Array, steps: _Steps, strides: list[int]) -> Array | None:
    """Squared distances from voxels to the surface, inf beyond the longest step; None if a transform is faster.

    A transform finds the distance of every voxel, whether on a surface or not, however far. Most voxels of a
    surface find the other within a few steps, and the others are looked after while they are few: a look costs
    about a third of what the transform spends on a voxel.
    """
    squares = np.full(len(start), np.inf, np.float32)
    left, at = np.arange(len(start)), start
    offsets = steps.at @ np.array(strides)
    budget = len(elsewhere)
    shells = np.flatnonzero(np.diff(steps.squares, prepend=-1.0)).tolist()
    for first, last in zip(shells, [*shells[1:], len(offsets)], strict=True):
        budget -= (last - first) * len(at)
        if budget < 0:
            return None
        # before the first voxel lies the last of the buffer, which is as empty as all ends of rows
        miss = elsewhere[at + offsets[first:last, None]].all(0)
        squares[left[~miss]] = steps.squares[first]
        left, at = left[miss], at[miss]
        if not len(at):
            break
    return squares


def _not_surface_voxels(padded: Array, margin: int, steps: list[int], out: Array) -> None:
    """False on foreground voxels with a neighbour that is not, beyond the image included."""
    count = len(out)
    mask = padded[margin : margin + count]
    core = mask.copy()
    for step in steps:
        core &= padded[margin + step : margin + step + count]
    np.equal(mask, core, out=out)


def _codes(padded: Array, strides: list[int]) -> Array:
    """Codes of :mod:`.surfels` at every corner of the padded grid: bits doubled up axis by axis."""
    codes = padded
    for level, stride in enumerate(reversed(strides)):
        codes = codes[stride:] | (codes[:-stride] << np.uint8(1 << level))
    return codes


def element_sizes(spacing: list[float] | None, dims: int) -> Sizes:
    """What each code of :mod:`.surfels` measures at a spacing."""
    sizes = surfels.measures(torch.tensor(spacing or [1.0] * dims, dtype=torch.float64, device="cpu")).numpy()
    order = np.argsort(sizes, kind="stable")
    ranks = np.empty(len(sizes), np.uint8)
    ranks[order] = np.arange(len(sizes))
    return Sizes(sizes[order], ranks)


def _ranked(found: Elements, pooled: bool, percentiles: tuple[float, ...]) -> Array:
    """Percentiles of the distances, (percentiles, surfaces), or of both surfaces of each pair together.

    Without weights as numpy.percentile: linear between order statistics. With weights the smallest distance
    at which the weight up to it reaches the percentage.
    """
    each = 2 if pooled else 1
    bounds = found.starts[::each]
    if found.ranks is None:
        ordered = found.squares.copy()
        for a, b in itertools.pairwise(bounds):
            ordered[a:b].sort()
        last = np.diff(bounds) - 1
        rank = np.array(percentiles)[:, None] / 100 * last
        below = rank.astype(np.int64)
        low, high = (
            np.sqrt(ordered[bounds[:-1] + at].astype(np.float64)) for at in (below, np.minimum(below + 1, last))
        )
        between: Array = low + (high - low) * (rank - below)
        return between
    result = np.empty((len(percentiles), len(bounds) - 1))
    for n in range(len(bounds) - 1):
        squares, weights = found.part(each * n, each * (n + 1)).in_order()
        share = np.cumsum(weights) / weights.sum()
        at = np.minimum(np.searchsorted(share, [q / 100 for q in percentiles]), len(squares) - 1)
        result[:, n] = np.sqrt(squares[at])
    return result
