"""Connected components of chunked masks: blocks by themselves, then a union of what meets at their seams.

A component of a block is known by the raster position of its first voxel in the whole array. That name is unique
without any block knowing of the others, and of the components that seams unite, the smallest name is the position
of the first voxel of all of them: its rank among such is the number that :func:`dtkernels.label` gives.

Labels of a block are cheaper to find again than to keep, so nothing as large as the volume is kept: the mask is
read twice, for the seams and for the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask.graph_manipulation import clone
from numpy.typing import NDArray

from .. import arguments, arrays, functional
from ..problem import MAX_SIDE
from . import plan
from .transforms import image, passes

_LABEL = 24  # bytes per voxel of a block that a task holds
Integers = NDArray[np.int64]


def label(
    mask: da.Array,
    *,
    connectivity: int | None = None,
    spatial_dims: int | None = None,
    threshold: float | None = None,
    block_bytes: int | str = "64 MiB",
    backend: str | None = None,
) -> tuple[da.Array, da.Array]:
    """Connected components of the foreground: :func:`dtkernels.label` of a dask array, number for number.

    The mask is computed twice rather than kept, so it should come from a store: ``persist`` what is costly to
    make. What lies on the faces of blocks stays in memory. One task holds 32 bytes for each component that a block
    has for itself, those of all blocks.

    Args:
        mask: as in :func:`edt`.
        connectivity: as in :func:`dtkernels.label`: 1 (the default) to the number of spatial dimensions.
        spatial_dims: as in :func:`edt`.
        threshold: as in :func:`edt`.
        block_bytes: as in :func:`edt`.
        backend: as in :func:`edt`.

    Returns:
        ``(labels, count)``: dask arrays of the mask's shape, and of the batch's shape. int32, or int64 where an
        image has 2^32 voxels or more.

    Raises:
        TypeError: as :func:`edt`, or ``connectivity`` is no int.
        ValueError: as :func:`edt`, or ``connectivity`` out of range.

    >>> import dask.array as da, dtkernels.dask
    >>> labels, count = dtkernels.dask.label(da.from_array([[1, 0, 1], [0, 1, 0]], chunks=1))
    >>> labels.compute(), int(count)
    (array([[1, 0, 2],
           [0, 3, 0]], dtype=int32), 3)
    """
    arguments.check_options(threshold=threshold, backend=backend)
    given = image(mask, None, spatial_dims, threshold)
    degree = arguments.check_connectivity(connectivity, given.dims)
    how = passes(None, block_bytes, backend)
    return components(given.mask, given.dims, degree, how.limit, backend)


def components(
    mask: da.Array, dims: int, connectivity: int, limit: int, backend: str | None
) -> tuple[da.Array, da.Array]:
    """Labels and counts of a bool mask."""
    lead = mask.ndim - dims
    number = np.dtype(np.int32 if math.prod(mask.shape[lead:]) < 1 << 32 else np.int64)
    if 0 in mask.shape:
        return da.zeros(mask.shape, number, chunks=mask.chunks), da.zeros(mask.shape[:lead], number)
    grain = [max(c) for c in mask.chunks]
    chunks = plan.blocks(mask.shape, (), [1] * lead + grain[lead:], limit // _LABEL)
    chunks = tuple(
        plan.cut(n, 1 if axis < lead else min(c[0], MAX_SIDE))
        for axis, (n, c) in enumerate(zip(mask.shape, chunks, strict=True))
    )
    blocks = mask.rechunk(chunks)

    starts = [plan.starts(c) for c in chunks]
    parts = blocks.to_delayed(optimize_graph=False)
    seams = np.empty(parts.shape, object)
    for at in np.ndindex(parts.shape):
        place = _Place(tuple(s[i] for s, i in zip(starts, at, strict=True)), mask.shape, dims)
        seams[at] = dask.delayed(_seams)(parts[at], place, connectivity, backend)
    unions = []
    for at in np.ndindex(parts.shape):
        for axis in range(lead, mask.ndim):
            if at[axis] + 1 == parts.shape[axis]:
                continue
            others = [a for a in range(lead, mask.ndim) if a != axis]
            beyond = {}
            for step in itertools.product((-1, 0, 1), repeat=dims - 1):
                to = list(at)
                to[axis] += 1
                for a, s in zip(others, step, strict=True):
                    to[a] += s
                inside = all(0 <= i < n for i, n in zip(to, parts.shape, strict=True))
                if inside and np.count_nonzero(step) < connectivity:
                    beyond[step] = seams[tuple(to)]
            steps = list(beyond)
            unions.append(
                dask.delayed(_unions)(seams[at], steps, list(beyond.values()), axis - lead, connectivity)
            )
    numbering = dask.delayed(_numbering)(list(seams.flat), unions, mask.shape, dims)

    labels = clone(blocks).map_blocks(
        _numbered, numbering, mask.shape, dims, connectivity, number, backend,
        dtype=number, meta=mask._meta.astype(number),
    )  # fmt: skip
    count = da.from_delayed(dask.delayed(_counts)(numbering, number), mask.shape[:lead], number)
    return labels, count


class _Place(NamedTuple):
    """Where a block begins in the whole array."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    dims: int


class _Seams(NamedTuple):
    """What a block has to say to its neighbours, and for the numbering."""

    names: Integers  # of its components, ascending
    faces: list[tuple[Any, Any]]  # labels at the low and the high end of each axis, int32

    def named(self, axis: int, end: int) -> Integers:
        """A face: names + 1, and 0 in the background."""
        result: Integers = np.concatenate([[0], self.names + 1])[self.faces[axis][end]]
        return np.asarray(result)


class _Numbering(NamedTuple):
    names: Integers  # of the components of all blocks, ascending
    numbers: Integers  # theirs within their image
    counts: Integers  # per image


def _local(block: Any, place: _Place, connectivity: int, backend: str | None) -> tuple[Any, Integers]:
    """Labels of a block and the names of its components.

    Labels count in raster order, so a component begins where a label exceeds all before it.
    """
    source = arrays.read("mask", block.reshape(block.shape[-place.dims :]))
    tensor, _ = functional.label(
        source.tensor, connectivity=connectivity, spatial_dims=place.dims, backend=backend
    )
    labels = tensor.cpu().numpy()
    highest = np.maximum.accumulate(labels.reshape(-1))
    first = np.flatnonzero(np.diff(highest, prepend=0))
    lead = len(place.shape) - place.dims
    inside = np.unravel_index(first, labels.shape)
    within = [np.zeros(len(first), np.int64)] * lead + list(inside)
    names: Integers = np.zeros(len(first), np.int64)
    for i, start, n in zip(within, place.start, place.shape, strict=True):
        names = names * n + (i + start)
    return labels, names


def _seams(block: Any, place: _Place, connectivity: int, backend: str | None) -> _Seams:
    labels, names = _local(block, place, connectivity, backend)
    faces = [(labels.take(0, axis), labels.take(-1, axis)) for axis in range(place.dims)]
    return _Seams(names, faces)


def _unions(
    here: _Seams, steps: Sequence[tuple[int, ...]], beyond: Sequence[_Seams], axis: int, connectivity: int
) -> Integers:
    """Pairs of names that meet across the high end of a block, beyond which lie blocks up to one step aside."""
    plane = here.named(axis, 1)
    padded = np.zeros([n + 2 for n in plane.shape], np.int64)
    for step, other in zip(steps, beyond, strict=True):
        face = other.named(axis, 0)
        target = tuple({-1: slice(0, 1), 0: slice(1, -1), 1: slice(-1, None)}[s] for s in step)
        source = tuple({-1: slice(-1, None), 0: slice(None), 1: slice(0, 1)}[s] for s in step)
        padded[target] = face[source]
    pairs = []
    for step in itertools.product((-1, 0, 1), repeat=plane.ndim):
        if np.count_nonzero(step) >= connectivity:
            continue
        window = tuple(slice(1 + s, 1 + s + n) for s, n in zip(step, plane.shape, strict=True))
        shifted = padded[window] if step else padded
        both = (plane > 0) & (shifted > 0)
        pairs.append(np.stack([plane[both], shifted[both]], axis=-1))
    return np.unique(np.concatenate(pairs), axis=0) - 1


def _numbering(
    seams: Iterable[_Seams], unions: Sequence[Integers], shape: tuple[int, ...], dims: int
) -> _Numbering:
    names = np.sort(np.concatenate([s.names for s in seams]))
    pairs = np.searchsorted(names, np.concatenate([np.empty((0, 2), np.int64), *unions]))
    roots = _roots(len(names), pairs[:, 0], pairs[:, 1])
    is_root = roots == np.arange(len(names))
    batch, spatial = shape[: len(shape) - dims], shape[len(shape) - dims :]
    of = names // math.prod(spatial)  # which image
    counts = np.bincount(of[is_root], minlength=math.prod(batch))
    before = np.cumsum(counts) - counts  # components of the images before
    return _Numbering(names, np.cumsum(is_root)[roots] - before[of], counts.reshape(batch))


def _roots(n: int, a: Integers, b: Integers) -> Integers:
    """The smallest member of each of n things' set, where a[i] and b[i] are of one set.

    All roots that have a smaller neighbour hang on it at once; then paths are halved until all are of one step.
    """
    parent = np.arange(n)
    while True:
        p, q = parent[a], parent[b]
        apart = p != q
        if not apart.any():
            return parent
        a, b, p, q = a[apart], b[apart], p[apart], q[apart]
        np.minimum.at(parent, np.maximum(p, q), np.minimum(p, q))
        while True:
            above = parent[parent]
            if (above == parent).all():
                break
            parent = above


def _numbered(
    block: Any,
    numbering: _Numbering,
    shape: tuple[int, ...],
    dims: int,
    connectivity: int,
    number: np.dtype[Any],
    backend: str | None,
    block_info: dict[Any, Any] | None = None,
) -> Any:
    assert block_info is not None
    place = _Place(tuple(int(a) for a, _ in block_info[0]["array-location"]), shape, dims)
    labels, names = _local(block, place, connectivity, backend)
    numbers = numbering.numbers[np.searchsorted(numbering.names, names)]
    table = np.concatenate([[0], numbers]).astype(number)
    return np.asanyarray(table[labels].reshape(block.shape), like=block)


def _counts(numbering: _Numbering, number: np.dtype[Any]) -> Any:
    return numbering.counts.astype(number)
