"""Surface metrics of chunked masks: surfaces block by block, distances chunked, and few numbers in one place.

Whether a voxel is on a surface takes a look at its neighbours, so blocks borrow one voxel from each other. The
distances to a surface are a chunked transform. Only what is on a surface leaves its block: n^2 numbers of n^3
voxels, which one task sorts and sums, so that percentiles are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import torch
from dask.graph_manipulation import clone

from .. import arguments, arrays
from ..arguments import SpacingLike
from ..erosion import eroded
from ..metrics import dense, packed, surface
from ..metrics.definitions import Definition
from ..metrics.moments import Moments
from . import plan, transforms


def surface_metrics(
    pred: da.Array,
    target: da.Array,
    spacing: SpacingLike = None,
    *,
    definition: str = "monai",
    percentiles: float | Sequence[float] = (95,),
    tolerances: float | Sequence[float] = (1.0,),
    directed: bool = False,
    connectivity: int = 1,
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    threshold: float | None = None,
    spatial_dims: int | None = None,
    scratch: str | None = None,
    block_bytes: int | str = "64 MiB",
    backend: str | None = None,
) -> Any:
    """Every surface metric of all images: :func:`dtkernels.metrics.surface_metrics` of dask arrays.

    The masks are computed twice rather than kept, so they should come from a store. One task holds some 40 bytes
    for each element of both surfaces, which it sorts.

    Args:
        pred: masks as in :func:`edt`.
        target: masks of the same shape.
        spacing: as in :func:`edt`.
        definition: this and the options below as in :func:`dtkernels.metrics.surface_metrics`.
        percentiles: in 0 .. 100.
        tolerances: for ``nsd``, in the unit of ``spacing``.
        directed: HD, its percentiles and NSD look from the prediction's surface only.
        connectivity: of the surface.
        on_empty: what distances are where one of the two masks is empty.
        on_both_empty: what metrics are where both are.
        threshold: as in :func:`edt`, of both.
        spatial_dims: as in :func:`edt`.
        scratch: as in :func:`edt`.
        block_bytes: as in :func:`edt`.
        backend: as in :func:`edt`.

    Returns:
        a dask ``Delayed``: ``.compute()`` gives the :class:`~dtkernels.metrics.SurfaceMetrics`, tensors of the
        batch's shape on the CPU.

    Raises:
        TypeError, ValueError: as :func:`edt` and :func:`dtkernels.metrics.surface_metrics`.

    >>> import dask.array as da, dtkernels.dask
    >>> target = da.from_array([0, 1, 1, 0, 0, 0], chunks=2)
    >>> dtkernels.dask.surface_metrics(da.roll(target, 2), target).compute()["hd"]
    tensor(2.)
    """
    arguments.check_options(threshold=threshold, backend=backend)
    pair = [
        transforms.image(x, spacing, spatial_dims, threshold, name)
        for name, x in (("pred", pred), ("target", target))
    ]
    dims, lead = pair[0].dims, pred.shape[: pred.ndim - pair[0].dims]
    if target.shape != pred.shape:
        raise ValueError(f"target: expected the shape of pred, {pred.shape}, got {target.shape}")
    wanted = surface.asked(dims, definition, percentiles, tolerances, connectivity, on_empty, on_both_empty)
    rule = wanted.rule
    passes = transforms.passes(scratch, block_bytes, backend)
    sizes = packed.element_sizes(list(pair[0].spacing), dims) if rule.subvoxel else None

    found = []
    if 0 not in pred.shape:
        surfaces = [_surface(m.mask, dims, rule) for m in pair]
        for here, there in ((0, 1), (1, 0)):
            sites = pair[there]._replace(mask=surfaces[there].map_blocks(_nowhere, dtype=bool))
            squares = transforms.transform(sites, passes, signed=False, squared=True, closed=False)
            found.append(_on_surface(clone(surfaces[here]), squares, dims))
    diagonal = math.hypot(*(n * s for n, s in zip(pair[0].sides, pair[0].spacing, strict=True)))
    report = dask.delayed(_report)
    return report(found, sizes, wanted, tuple(lead), directed, diagonal)


def _surface(mask: da.Array, dims: int, rule: Definition) -> da.Array:
    """uint8, not 0 on the surface: 1, or the code of the element at a voxel's lower corner.

    There are elements at the upper corners of the last voxels, too: so such an image is longer by one.
    """
    axes = range(mask.ndim - dims, mask.ndim)
    if rule.subvoxel:
        mask = da.pad(mask, [(0, 1 if axis in axes else 0) for axis in range(mask.ndim)])
    around = da.overlap.overlap(mask, dict.fromkeys(axes, 1), dict.fromkeys(axes, 0))
    return around.map_blocks(
        _surface_of, dims, rule, chunks=mask.chunks, dtype=np.uint8, meta=mask._meta.astype(np.uint8)
    )


def _surface_of(around: Any, dims: int, rule: Definition) -> Any:
    source = arrays.read("mask", around)
    x = source.tensor
    if rule.subvoxel:
        codes = dense.corner_codes(x, dims)
        for axis in range(-dims, 0):
            codes = codes.narrow(axis, 1, x.shape[axis] - 2)
        return source.wrap(codes.masked_fill(codes == (1 << (1 << dims)) - 1, 0).contiguous())
    edge = (x & ~eroded(x, dims, rule.connectivity)).to(torch.uint8)
    for axis in range(-dims, 0):
        edge = edge.narrow(axis, 1, x.shape[axis] - 2)
    return source.wrap(edge.contiguous())


def _nowhere(surface: Any) -> Any:
    return surface == 0


def _on_surface(surface: da.Array, squares: da.Array, dims: int) -> list[Any]:
    """Per block: which image its elements are of, their squared distances, and their codes."""
    parts = squares.to_delayed(optimize_graph=False)
    codes = surface.rechunk(squares.chunks).to_delayed(optimize_graph=False)
    starts = [plan.starts(c) for c in squares.chunks]
    batch = squares.shape[: squares.ndim - dims]
    take = dask.delayed(_take)
    return [
        take(codes[at], parts[at], tuple(s[i] for s, i in zip(starts, at, strict=False))[: len(batch)], batch)
        for at in np.ndindex(parts.shape)
    ]


def _take(codes: Any, squares: Any, start: tuple[int, ...], batch: tuple[int, ...]) -> tuple[Any, Any, Any]:
    on = codes != 0
    image = np.zeros(codes.shape[: len(batch)] + (1,) * (codes.ndim - len(batch)), np.int64)
    for axis, (first, n) in enumerate(zip(start, batch, strict=True)):
        own = np.arange(first, first + codes.shape[axis]).reshape((-1,) + (1,) * (codes.ndim - 1 - axis))
        image = image * n + own
    of = np.broadcast_to(image, codes.shape)
    host = [x if isinstance(x, np.ndarray) else x.get() for x in (on, squares[on], codes[on])]
    return of[host[0]], host[1], host[2]


def _report(
    found: list[list[tuple[Any, Any, Any]]],
    sizes: Any,
    wanted: surface.Asked,
    lead: tuple[int, ...],
    directed: bool,
    diagonal: float,
) -> surface.SurfaceMetrics:
    images = math.prod(lead)
    q, tau = wanted.percentiles, wanted.tolerances
    pooled = wanted.rule.pooled_percentile and not directed
    total, first, second, maximum = (np.zeros((2, 1, images)) for _ in range(4))
    within = np.zeros((len(tau), 2, 1, images))
    ranked = np.zeros((len(q), 1 if pooled else 2, 1, images))
    for k in range(images if found else 0):
        sides = [[(d[of == k], c[of == k]) for of, d, c in blocks] for blocks in found]
        squares = [np.concatenate([d for d, _ in side]) for side in sides]
        total[:, 0, k] = [len(d) > 0 for d in squares]
        if not total[:, 0, k].all():
            continue
        codes = None if sizes is None else np.concatenate([c for side in sides for _, c in side])
        elements = packed.Elements(
            np.concatenate(squares),
            np.cumsum([0, *map(len, squares)]),
            None if codes is None else sizes.ranks[codes],
            None if sizes is None else sizes.ordered,
        )
        each = (slice(None), 0, [k])
        total[each], within[:, :, 0, [k]] = packed.shares(elements, tau)
        first[each], second[each], maximum[each] = packed.sums(elements)
        ranked[:, :, 0, [k]] = packed.ranks(elements, pooled, q)
    sums = Moments(*map(torch.from_numpy, (total, first, second, maximum, within, ranked)))
    return surface.of_measured(surface.measured(sums, wanted, lead, diagonal), directed)
