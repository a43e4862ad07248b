"""Moments on a CPU: pair by pair, within the box around both masks, surface elements gathered and sorted.

Reading a size back is free here, so the work is confined to where there is surface. Each box is copied once
into a flat buffer whose rows, planes and volume end in one zero. Then a neighbour in any direction is a
constant offset, the border of the image and of the box is background by construction, and both kinds of
surface are a few bitwise operations over contiguous bytes.
"""

from __future__ import annotations

import math
import operator
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


class _Sizes(NamedTuple):
    """Sizes of the surface elements of a code, by rank: a byte stands for a size and sorts like it."""

    ordered: Array  # float64, ascending
    ranks: Array  # uint8 by code


class Elements(NamedTuple):
    """One surface: squared distances to the other, float32, and which size each element has (None: all 1)."""

    squares: Array
    ranks: Array | None
    ordered: Array | None

    def weights(self) -> Array | None:
        """Sizes of the elements."""
        return None if self.ranks is None or self.ordered is None else self.ordered[self.ranks]

    def in_order(self) -> tuple[Array, Array]:
        """Squared distances and sizes, float64, sorted by distance, then by size.

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
) -> Moments:
    """Moments of every pair; ``pooled`` percentiles take both directions together."""
    samples, classes = images.pred.shape[:2]
    shape = (2, samples, classes)
    total, first, second, maximum = (np.zeros(shape) for _ in range(4))
    within = np.zeros((len(tolerances), *shape))
    ranked = np.zeros((len(percentiles), 1 if pooled else 2, samples, classes))
    for b in range(samples):
        row = spacing[b].tolist() if isinstance(spacing, Tensor) else spacing
        sizes = _sizes(row, images.dims) if definition.subvoxel else None
        for k in range(classes):
            inside = cropped([(m.name, m.stored(b, k)) for m in (images.pred, images.target)])
            if not all(mask.any() for mask in inside):
                total[:, b, k] = [mask.any() for mask in inside]
                continue
            found = _elements(inside, row, definition, sizes, distance)
            for i, part in enumerate(found):
                d2, w = part.squares.astype(np.float64), part.weights()
                d = np.sqrt(d2)
                maximum[i, b, k] = d.max()
                total[i, b, k] = len(d) if w is None else w.sum()
                first[i, b, k] = d.sum() if w is None else (d * w).sum()
                second[i, b, k] = d2.sum() if w is None else (d2 * w).sum()
                for n, tolerance in enumerate(tolerances):
                    close = d2 <= tolerance**2 * TIE
                    within[n, i, b, k] = np.count_nonzero(close) if w is None else w[close].sum()
            if percentiles:
                for i, part in enumerate([_pool(found)] if pooled else found):
                    ranked[:, i, b, k] = _ranked(part, percentiles)
    return Moments(*map(torch.from_numpy, (total, first, second, maximum, within, ranked)))


def surfaces(
    masks: list[Array], spacing: list[float] | None, definition: Definition, distance: Distance
) -> list[Elements]:
    """The surfaces of two bool arrays, each with its distances to the other: inf to one that has none."""
    inside = cropped([("", torch.from_numpy(mask)) for mask in masks])
    sizes = _sizes(spacing, masks[0].ndim) if definition.subvoxel else None
    return _elements(inside, spacing, definition, sizes, distance)


def cropped(stored: list[tuple[str, Tensor]]) -> list[Array]:
    """Two masks by name, as bool within the box around both, which is of no voxel where they are empty.

    The box is found in the memory as it is, read once: only what is in it is looked at as numbers.
    """
    boxes = [_box(_bits(mask)) for _, mask in stored]
    found = [box for box in boxes if box is not None]
    hull = tuple(
        slice(min(box[k][0] for box in found), max(box[k][1] for box in found)) if found else slice(0, 0)
        for k in range(stored[0][1].ndim)
    )
    return [masks.binary(name, mask[hull]).numpy() for name, mask in stored]


def _bits(mask: Tensor) -> Array:
    """The memory of a tensor as integers of the same size."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits: Array = mask.view(sizes[mask.element_size()]).numpy()
    return bits


def _box(bits: Array) -> list[tuple[int, int]] | None:
    """First and one past the last index of what is not 0 along each axis; None where all is."""
    box: list[tuple[int, int]] = []
    while True:
        first = _first(bits)
        if first is None:
            return None
        box.append((first, len(bits) - (_first(bits[::-1]) or 0)))
        if bits.ndim == 1:
            return box
        bits = np.bitwise_or.reduce(bits[slice(*box[-1])], axis=0)


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
    sizes: _Sizes | None,
    distance: Distance,
) -> list[Elements]:
    """Both surfaces, each with its distances to the other."""
    shape = tuple(side + 1 for side in inside[0].shape)
    strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    count, margin = math.prod(shape), sum(strides)
    steps = [sum(map(operator.mul, step, strides)) for step in neighbours(len(shape), definition.connectivity)]
    elsewhere: Array = np.empty((2, count), np.bool_)
    found: list[Array] = []
    ranks: list[Array | None] = []
    for i, mask in enumerate(inside):
        padded = np.zeros(margin + count + margin, np.uint8)
        padded[margin : margin + count].reshape(shape)[tuple(slice(n - 1) for n in shape)] = mask
        if sizes is None:
            _not_surface_voxels(padded, margin, steps, elsewhere[i])
            found.append(np.flatnonzero(~elsewhere[i]))
            ranks.append(None)
        else:
            codes = _codes(padded[: margin + count], strides)
            # 0 and the full code become the two largest numbers
            np.greater_equal(codes - np.uint8(1), len(sizes.ordered) - 2, out=elsewhere[i])
            found.append(np.flatnonzero(~elsewhere[i]))
            ranks.append(sizes.ranks[codes[found[i]]])
    maps = distance(torch.from_numpy(elsewhere).reshape(2, *shape), spacing, len(shape))
    flat = maps.reshape(2, count).numpy()
    ordered = None if sizes is None else sizes.ordered
    return [Elements(flat[1 - i][found[i]], ranks[i], ordered) for i in range(2)]


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


def _sizes(spacing: list[float] | None, dims: int) -> _Sizes:
    sizes = surfels.measures(torch.tensor(spacing or [1.0] * dims, dtype=torch.float64)).numpy()
    order = np.argsort(sizes, kind="stable")
    ranks = np.empty(len(sizes), np.uint8)
    ranks[order] = np.arange(len(sizes))
    return _Sizes(sizes[order], ranks)


def _pool(parts: list[Elements]) -> Elements:
    ranks = None if parts[0].ranks is None else np.concatenate([p.ranks for p in parts if p.ranks is not None])
    return Elements(np.concatenate([p.squares for p in parts]), ranks, parts[0].ordered)


def _ranked(part: Elements, percentiles: tuple[float, ...]) -> list[float]:
    """Percentiles of the distances.

    Without weights as numpy.percentile: linear between order statistics. With weights the smallest distance
    at which the weight up to it reaches the percentage.
    """
    if part.ranks is None or part.ordered is None:
        ordered = np.sort(part.squares)
        result = []
        for q in percentiles:
            rank = q / 100 * (len(ordered) - 1)
            below = math.floor(rank)
            low = math.sqrt(ordered[below])
            high = math.sqrt(ordered[min(below + 1, len(ordered) - 1)])
            result.append(low + (high - low) * (rank - below))
        return result
    squares, weights = part.in_order()
    share = np.cumsum(weights) / weights.sum()
    at = np.minimum(np.searchsorted(share, [q / 100 for q in percentiles]), len(squares) - 1)
    return np.sqrt(squares[at]).tolist()  # type: ignore[no-any-return]
