"""The distance maps of the literature on chunked masks: those that look at a voxel, its faces and whole images.

A map is a formula of the signed distance (:mod:`dtkernels.formula`). Where it divides by the largest distance of
an image, the last pass runs twice, once for that number: so no distances wait for it in memory.
"""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np
import torch
from dask.graph_manipulation import clone

from .. import arguments, arrays, backends, remap
from ..arguments import SpacingLike
from ..formula import Formula, Options, Side, Vector, check, formula
from ..maps import resolve
from ..problem import Inside, RemapProblem, Spacing
from . import transforms


def distance_map(
    mask: da.Array,
    convention: str | None = None,
    spacing: SpacingLike = None,
    *,
    boundary: str | None = None,
    inside: str | None = None,
    outside: str | None = None,
    normalize: str | None = None,
    profile: str | None = None,
    scope: str | None = None,
    connectivity: int | None = None,
    truncate: float | None = None,
    on_empty: str | float | None = None,
    on_full: str | float | None = None,
    border: str | None = None,
    weight: float | None = None,
    amplitude: float | None = None,
    sigma: float | None = None,
    threshold: float | None = None,
    spatial_dims: int | None = None,
    scratch: str | None = None,
    block_bytes: int | str = "64 MiB",
    backend: str | None = None,
) -> da.Array:
    """A distance map by name or by options: :func:`dtkernels.distance_map` of a dask array.

    Not here: maxima of connected components (``normalize="component_..."``), ``boundary="half"`` at unequal
    spacing, which needs the nearest voxels, and ``on_empty="error"``, since nothing is computed yet.

    Args:
        mask: as in :func:`edt`. Of a label map take ``labels == c``.
        convention: a name of :func:`dtkernels.conventions`; None is ``"edt_diff"``.
        spacing: as in :func:`edt`.
        boundary: this and the options below as in :func:`dtkernels.distance_map`.
        inside: sign of the foreground.
        outside: sign of the background.
        normalize: what distances are divided by.
        profile: what becomes of a distance.
        scope: over what the largest is taken.
        connectivity: of the inner contour.
        truncate: clip to this absolute value.
        on_empty: the map of an image without foreground.
        on_full: the map of an image without background.
        border: as in :func:`edt`.
        weight: of ``profile="gaussian"``.
        amplitude: of ``profile="gaussian"``.
        sigma: of ``profile="gaussian"``.
        threshold: as in :func:`edt`.
        spatial_dims: as in :func:`edt`.
        scratch: as in :func:`edt`.
        block_bytes: as in :func:`edt`.
        backend: as in :func:`edt`.

    Returns:
        dask array as of :func:`edt`.

    Raises:
        TypeError, ValueError: as :func:`edt` and :func:`dtkernels.distance_map`, or a map that is not here.

    >>> import dask.array as da, dtkernels.dask
    >>> mask = da.from_array([0, 1, 1, 1, 1, 0, 0], chunks=3)
    >>> dtkernels.dask.distance_map(mask, "kervadec").compute()
    array([ 1.,  0., -1., -1.,  0.,  1.,  2.], dtype=float32)
    """
    changes = {
        "boundary": boundary, "inside": inside, "outside": outside, "normalize": normalize, "profile": profile,
        "scope": scope, "connectivity": connectivity, "truncate": truncate, "on_empty": on_empty,
        "on_full": on_full, "border": border, "weight": weight, "amplitude": amplitude, "sigma": sigma,
    }  # fmt: skip
    options = resolve(convention, **{name: value for name, value in changes.items() if value is not None})
    arguments.check_options(threshold=threshold, backend=backend)
    given = transforms.image(mask, spacing, spatial_dims, threshold)
    o = check(options, given.dims)
    _refuse(o, given)
    passes = transforms.passes(scratch, block_bytes, backend)
    f = _without_diagonal(
        formula(o), math.hypot(*(n * s for n, s in zip(given.sides, given.spacing, strict=True)))
    )

    phi = _signed(given, o, passes, copy=0)
    if 0 in phi.shape or (f.is_identity and o.boundary not in ("inner_zero", "inner_contour")):
        return phi
    axes = tuple(given.axes)
    lead = phi.ndim - given.dims
    tops = [da.zeros(phi.shape[:lead] + (1,) * given.dims, np.float32, chunks=1)] * 2
    if f.uses_maxima:
        tops = [
            phi.map_blocks(_distances, sign, dtype=np.float32, meta=phi._meta).max(axis=axes, keepdims=True)
            for sign in (-1.0, 1.0)
        ]
        over = {"sample-and-class": (), "sample": tuple(range(1, lead)), "batch": tuple(range(lead))}[o.scope]
        if over:
            tops = [da.broadcast_to(t.max(axis=over, keepdims=True), t.shape) for t in tops]
        phi = _signed(given, o, passes, copy=1)
    tops = [t.rechunk(phi.chunks[:lead] + (1,) * given.dims) for t in tops]
    depth = dict.fromkeys(axes, 1 if o.boundary == "inner_zero" else 0)
    none = dict.fromkeys(axes, 0)
    return da.map_overlap(
        _block, phi, *tops, f=f, o=o, spacing=given.spacing, backend=backend,
        depth=[depth, none, none], boundary="none", align_arrays=False, dtype=np.float32, meta=phi._meta,
    )  # fmt: skip


def _refuse(o: Options, given: transforms.Image) -> None:
    if o.normalize.startswith("component"):
        raise ValueError(f"normalize: expected no maxima of components of a dask array, got {o.normalize!r}")
    if o.boundary == "half" and not given.equal:
        raise ValueError(
            f"boundary: expected another than 'half' for a dask array at unequal spacing {given.spacing}"
        )
    for name in ("on_empty", "on_full"):
        if getattr(o, name) == "error":
            raise ValueError(
                f"{name}: expected a value for a dask array, whose voxels are not known yet, got 'error'"
            )


def _without_diagonal(f: Formula, diagonal: float) -> Formula:
    """The same numbers with the length of the whole image's diagonal put in, which a block does not know."""

    def fold(v: Vector) -> Vector:
        return v[0] + v[3] * diagonal, v[1], v[2], 0.0

    def side(s: Side) -> Side:
        return s._replace(offset=fold(s.offset), divisor=fold(s.divisor))

    empty, full = ((c + m * diagonal if m else c, 0.0) for c, m in (f.empty, f.full))
    return f._replace(inside=side(f.inside), outside=side(f.outside), empty=empty, full=full)


def _signed(given: transforms.Image, o: Options, passes: transforms.Passes, copy: int) -> da.Array:
    """Distances to the boundary with the sign of the side, on the contour -0.0."""
    closed = o.border == "closed"
    if o.boundary != "inner_contour" or 0 in given.mask.shape:
        return transforms.transform(given, passes, signed=True, squared=False, closed=closed, copy=copy)
    off = da.map_overlap(
        _off_contour, given.mask, o=o, dims=given.dims,
        depth=dict.fromkeys(given.axes, 1), boundary="none", dtype=bool, meta=given.mask._meta,
    )  # fmt: skip
    there = given._replace(mask=off)
    d = transforms.transform(there, passes, signed=False, squared=False, closed=False, copy=copy)
    return da.map_blocks(_with_sign, d, clone(given.mask).rechunk(d.chunks), dtype=np.float32, meta=d._meta)


# ---- on one block ------------------------------------------------------------------------------------


def _off_contour(block: Any, o: Options, dims: int) -> Any:
    source = arrays.read("mask", block)
    return source.wrap(~remap.inner_contour(_five(source.tensor, dims), o, dims).view(source.tensor.shape))


def _with_sign(d: Any, inside: Any) -> Any:
    return np.copysign(d, np.where(inside, np.float32(-1.0), np.float32(1.0)))


def _distances(phi: Any, sign: float) -> Any:
    """Finite distances on one side, 0 elsewhere."""
    return np.where(np.isinf(phi), np.float32(0.0), (phi * np.float32(sign)).clip(0.0, None))


def _block(phi: Any, top_in: Any, top_out: Any, f: Formula, o: Options, spacing: Any, backend: str | None) -> Any:
    dims = len(spacing)
    inside = arrays.read("mask", np.signbit(phi))
    source = arrays.read("phi", phi.copy(), floats=True)
    maps = _five(source.tensor.contiguous(), dims)
    layout = arguments.mask_layout(_five(inside.tensor.contiguous(), dims), 3, None)
    tops = [_five(arrays.read("M", t, floats=True).tensor, dims) for t in (top_in, top_out)]
    extrema = torch.stack(tops, -1).square().reshape(*maps.shape[:2], 2).contiguous()
    whole: Any = (1.0,) * (3 - dims) + tuple(spacing)
    chosen = backends.choose(maps.device, backend)
    if hasattr(chosen, "remap"):
        problem = RemapProblem(
            maps.data_ptr(),
            layout.image,
            dims,
            Spacing(whole),
            Inside.MASK,
            o.boundary == "inner_zero",
            o.border == "closed",
            tuple(f.floats()),
            extrema.data_ptr() if f.uses_maxima else 0,
            0,
            0,
        )
        chosen.remap(problem, layout.source, None, extrema)
    else:
        remap.evaluate(maps, f, o, layout, dims, Inside.MASK, whole, extrema if f.uses_maxima else None, None)
    return source.wrap(maps.view(source.tensor.shape))


def _five(x: torch.Tensor, dims: int) -> torch.Tensor:
    """As (sample, class, z, y, x)."""
    lead = x.ndim - dims
    first = x.shape[0] if lead else 1
    return x.reshape(first, math.prod(x.shape[1:lead]), *(1,) * (3 - dims), *x.shape[lead:])
