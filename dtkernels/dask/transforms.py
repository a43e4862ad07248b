r"""Exact transforms of chunked arrays, as passes over whole lines.

The squared distance is a sum over axes, so its minimum can be taken axis by axis:

.. math:: D(p) = \min_{x, y} s_y^2 (p_y - y)^2 + s_x^2 (p_x - x)^2 + g(x, y)

where :math:`g(x, y)` is the squared distance along the first axis from the line's voxel in p's plane to the
nearest voxel of the other class. The first pass finds g by scanning lines of the first axis, and leaves it as a
whole number with the class for a sign: two bytes a voxel. The second takes the lower envelopes, plane by plane;
where not even one plane fits a task, each further axis is a pass of its own.

What is exact does not depend on the chunks: below 2^24 every squared number of voxels is a float32, and where
the image's diagonal is longer, envelopes are taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from .. import arguments, arrays, backends, functional
from ..arguments import SpacingLike
from . import plan

_PIECE = 1 << 18  # voxels that a CPU works on at a time: they and their working copies stay in its caches
_EXACT = 1 << 24  # whole numbers up to here are float32
_NONE = {2: (1 << 15) - 1, 4: 1 << 30}  # "no such voxel on the line", by the size of a code
# Bytes per voxel of a block that a task holds, its source and its result included.
_SCAN, _ENVELOPE = 8, 12


def edt(
    mask: da.Array,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    squared: bool = False,
    threshold: float | None = None,
    border: str = "open",
    scratch: str | None = None,
    block_bytes: int | str = "64 MiB",
    backend: str | None = None,
) -> da.Array:
    """Distance of each foreground voxel to the nearest background voxel: :func:`dtkernels.edt` of a dask array.

    At equal spacing the values are those of :func:`dtkernels.edt` bit for bit, for any chunks. At unequal spacing
    each squared distance is within a few units of 2^-24 of the true one, and may differ from its by as much.

    Args:
        mask: dask array ``(*batch, *spatial)`` of real numbers, with NumPy or CuPy chunks of known size.
            Foreground is non-zero (NaN is background).
        spacing: voxel spacing: None (1), a number, or one number per spatial dimension in array order.
        spatial_dims: as in :func:`dtkernels.edt`: how many trailing dimensions are spatial. Default: 5-D is
            (B, C, D, H, W), 4-D is (B, C, H, W), up to 3-D is all spatial.
        squared: return the squared distance.
        threshold: foreground is ``mask > threshold`` instead.
        border: ``"open"``: the image edge is no boundary. ``"closed"``: background surrounds the image.
        scratch: a directory that all workers see, for what lies between two passes: 2 bytes a voxel where a plane
            fits ``block_bytes``, 6 or 10 where it does not. It must outlive the computation; files in it are left
            to its owner, as a ``tempfile.TemporaryDirectory`` does it. None: dask keeps that in its memory.
        block_bytes: how much of the volume a task may hold, with what it makes of it; a line of voxels must fit.
        backend: a backend by name, see :func:`dtkernels.backends.available`.

    Returns:
        dask array of the mask's shape, float32, in the chunks of the last pass: whole planes, or whole lines of
        the last axis. 0 in the background; 0 everywhere for an empty mask; +inf everywhere for a full mask with
        an open border.

    Raises:
        TypeError: ``mask`` is no dask array or not of real numbers, or ``spacing`` no numbers.
        ValueError: wrong rank, chunks of unknown size, spacing of the wrong length or not positive and finite, an
            unknown border or backend, a side above 32,768, ``block_bytes`` that is no number of bytes.

    >>> import dask.array as da, dtkernels.dask
    >>> mask = da.from_array([[0, 1, 1, 1, 0]], chunks=2)
    >>> dtkernels.dask.edt(mask, spacing=(1.0, 0.5)).compute()
    array([[0. , 0.5, 1. , 0.5, 0. ]], dtype=float32)
    """
    return _of_mask(False, mask, spacing, spatial_dims, squared, threshold, border, scratch, block_bytes, backend)


def sdf(
    mask: da.Array,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    squared: bool = False,
    threshold: float | None = None,
    border: str = "open",
    scratch: str | None = None,
    block_bytes: int | str = "64 MiB",
    backend: str | None = None,
) -> da.Array:
    """Signed distance, positive outside and negative inside: :func:`dtkernels.sdf` of a dask array.

    Args:
        mask: as in :func:`edt`.
        spacing: as in :func:`edt`.
        spatial_dims: as in :func:`edt`.
        squared: return ``sign(d) d^2``.
        threshold: as in :func:`edt`.
        border: as in :func:`edt`; ``"closed"`` bounds the distances of foreground voxels only.
        scratch: as in :func:`edt`.
        block_bytes: as in :func:`edt`.
        backend: as in :func:`edt`.

    Returns:
        dask array as of :func:`edt`: +inf everywhere for an empty mask, -inf everywhere for a full mask with an
        open border.

    Raises:
        TypeError, ValueError: as :func:`edt`.

    >>> import dask.array as da, dtkernels.dask
    >>> dtkernels.dask.sdf(da.from_array([0, 0, 1, 1, 1, 0], chunks=1)).compute()
    array([ 2.,  1., -1., -2., -1.,  1.], dtype=float32)
    """
    return _of_mask(True, mask, spacing, spatial_dims, squared, threshold, border, scratch, block_bytes, backend)


def _of_mask(
    signed: bool,
    mask: da.Array,
    spacing: SpacingLike,
    spatial_dims: int | None,
    squared: bool,
    threshold: float | None,
    border: str,
    scratch: str | None,
    block_bytes: int | str,
    backend: str | None,
) -> da.Array:
    arguments.check_options(squared=squared, border=border, threshold=threshold, backend=backend)
    how = passes(scratch, block_bytes, backend)
    given = image(mask, spacing, spatial_dims, threshold)
    return transform(given, how, signed=signed, squared=squared, closed=arguments.check_border(border))


class Image(NamedTuple):
    """A chunked mask and what the passes need to know of it."""

    mask: da.Array  # bool
    dims: int
    spacing: tuple[float, ...]  # per spatial axis

    @property
    def axes(self) -> range:
        """The spatial axes."""
        return range(self.mask.ndim - self.dims, self.mask.ndim)

    @property
    def sides(self) -> tuple[int, ...]:
        """Lengths of the spatial axes."""
        return tuple(self.mask.shape[axis] for axis in self.axes)

    @property
    def equal(self) -> bool:
        """Whether voxels are counted: distances are scaled at the end."""
        return len(set(self.spacing)) == 1


class Passes(NamedTuple):
    """How the passes run."""

    scratch: str | None
    limit: int  # bytes that a task may hold
    backend: str | None


def passes(scratch: str | None, block_bytes: int | str, backend: str | None) -> Passes:
    """Check the arguments; whether the backend can run is for the workers to say."""
    if backend is not None:
        backends.named(backend)
    return Passes(plan.directory(scratch), plan.bytes_of(block_bytes), backend)


def image(mask: Any, spacing: Any, spatial_dims: int | None, threshold: float | None, name: str = "mask") -> Image:
    """Check the arguments; the mask becomes bool, chunk by chunk."""
    check_array(name, mask)
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    if threshold is not None and math.isnan(threshold):
        raise ValueError("threshold: expected a number, got nan")
    given = arguments.operator_spacing(spacing, dims)
    if given is not None and not isinstance(given, list):
        raise TypeError(f"spacing: expected None, a number or {dims} numbers, got a tensor")
    values = arguments.host_spacing(given, dims)[3 - dims :]
    if mask.dtype != np.bool_:
        mask = mask.map_blocks(_foreground, threshold, dtype=bool, meta=mask._meta.astype(bool))
    return Image(mask, dims, values)


def check_array(name: str, x: Any) -> None:
    """A dask array of real numbers whose chunks are known."""
    if not isinstance(x, da.Array):
        raise TypeError(f"{name}: expected a dask.array.Array, got {type(x).__module__}.{type(x).__qualname__}")
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected a real dtype, got {x.dtype}")
    if any(math.isnan(n) for n in x.shape):
        raise ValueError(
            f"{name}: expected chunks of known size, got shape {x.shape}; compute_chunk_sizes() helps"
        )


def _foreground(block: Any, threshold: float | None) -> Any:
    if threshold is not None:
        return block > threshold
    return (block != 0) & (block == block)  # NaN is background


def transform(given: Image, how: Passes, *, signed: bool, squared: bool, closed: bool, copy: int = 0) -> da.Array:
    """Squared or plain distances, signed or of the foreground alone; see :func:`.plan.exchange` on ``copy``."""
    scratch, limit, backend = how
    arguments.check_sides("mask", given.mask.shape, given.dims)
    arguments.check_squares_fit(given.sides, given.spacing)
    mask, axes, sides = given.mask, given.axes, given.sides
    meta = mask._meta.astype(np.float32)
    if 0 in mask.shape:
        return da.empty(mask.shape, chunks=mask.chunks, dtype=np.float32, meta=meta)
    grain = tuple(max(c) for c in mask.chunks)
    if given.dims == 1 or math.prod(sides) * _SCAN <= limit:  # small enough to be whole
        chunks = plan.blocks(mask.shape, axes, grain, limit // _SCAN)
        options = {"squared": squared, "border": "closed" if closed else "open", "backend": backend}
        whole = plan.exchange(mask, chunks, scratch)
        return whole.map_blocks(_whole, signed, given.spacing, options, dtype=np.float32, meta=meta)

    # Voxels are counted where all axes are alike, and scaled at the end.
    steps = (1.0,) * given.dims if given.equal else given.spacing
    wide = given.equal and sum((n - 1) ** 2 for n in sides) >= _EXACT
    real = np.dtype(np.float64 if wide else np.float32)
    first, rest = axes[0], axes[1:]
    plane = math.prod(sides[1:]) * _ENVELOPE * real.itemsize // 4
    groups = [tuple(rest)] if plane <= limit else [(axis,) for axis in rest]

    code = np.dtype(np.int16 if sides[0] < 1 << 15 else np.int32)
    chunks = plan.blocks(mask.shape, (first,), grain, limit // _SCAN)
    column = math.prod(grain) // grain[first] * sides[0]  # of the chunks that come in
    lines = plan.exchange(mask, chunks, scratch if column > limit else None)
    field = lines.map_blocks(_scan, first, signed, code, backend, dtype=code, meta=mask._meta.astype(code))
    voxels = limit // (_ENVELOPE * real.itemsize // 4)
    for group in groups:
        field = plan.exchange(
            field, plan.blocks(mask.shape, group, grain, voxels), scratch, copy if group is groups[-1] else 0
        )
        along = tuple(steps[axis - first] for axis in group)
        field = field.map_blocks(
            _envelopes, group, along, steps[0], signed, real, backend, dtype=real, meta=mask._meta.astype(real)
        )
    scale = given.spacing[0] if given.equal else 1.0
    return field.map_blocks(_finish, sides, steps, signed, closed, scale, squared, dtype=np.float32, meta=meta)


# ---- on one block ------------------------------------------------------------------------------------


def _whole(block: Any, signed: bool, spacing: tuple[float, ...], options: dict[str, Any]) -> Any:
    source = arrays.read("mask", block)
    function = functional.sdf if signed else functional.edt
    return source.wrap(function(source.tensor, spacing, spatial_dims=len(spacing), **options))


def _scan(block: Any, axis: int, signed: bool, code: np.dtype[Any], backend: str | None) -> Any:
    """Distances along ``axis`` in voxels, negative inside if signed."""
    limit = _NONE[code.itemsize]
    result = np.empty_like(block, dtype=code)
    function = functional.sdf if signed else functional.edt
    for piece in _pieces(block, (axis,)):
        source = arrays.read("mask", block[piece])
        lines = source.tensor.movedim(axis, -1)
        distance = function(lines, spatial_dims=1, backend=backend).movedim(-1, axis)
        result[piece] = source.wrap(distance).clip(-limit, limit)
    return result


def _envelopes(
    block: Any,
    axes: tuple[int, ...],
    along: tuple[float, ...],
    step: float,
    signed: bool,
    real: np.dtype[Any],
    backend: str | None,
) -> Any:
    """Squared distances after further axes; the block holds codes of the first pass, or what this has returned.

    A voxel of the other class is itself a site, so the distances of a class are the envelope of what its own
    voxels have, over 0 elsewhere; it is 0 elsewhere, too, so that the two classes add up.
    """
    result = np.empty_like(block, dtype=real)
    for piece in _pieces(block, axes):
        field = block[piece]
        field = _squares(field, step, real) if field.dtype.kind == "i" else field
        if not signed:
            result[piece] = _envelope(field, axes, along, backend)
            continue
        outside = _envelope(field.clip(0, None), axes, along, backend)
        outside -= _envelope((-field).clip(0, None), axes, along, backend)
        result[piece] = outside
    return result


def _squares(codes: Any, step: float, real: np.dtype[Any]) -> Any:
    """``sign(c) (step c)^2`` of the codes of the first pass."""
    c = codes.astype(real)
    infinite = abs(c) == _NONE[codes.dtype.itemsize]
    c *= abs(c)
    c *= real.type(step * step)
    c[infinite] *= np.inf
    return c


def _envelope(f: Any, axes: tuple[int, ...], along: tuple[float, ...], backend: str | None) -> Any:
    source = arrays.read("f", f, floats=True)
    last = tuple(range(-len(axes), 0))
    lines = source.tensor.movedim(axes, last)
    return source.wrap(
        functional.envelope(lines, along, spatial_dims=len(axes), backend=backend).movedim(last, axes)
    )


def _finish(
    block: Any,
    sides: tuple[int, ...],
    steps: tuple[float, ...],
    signed: bool,
    closed: bool,
    scale: float,
    squared: bool,
    block_info: dict[Any, Any] | None = None,
) -> Any:
    """From squared distances in ``steps`` to what was asked for.

    Background beyond a closed border is nearest straight across a face of the image.
    """
    assert block_info is not None
    first = block.ndim - len(sides)
    if closed:
        for axis, (n, step) in enumerate(zip(sides, steps, strict=True), first):
            start, stop = block_info[0]["array-location"][axis]
            p = np.arange(start, stop)
            bound = np.square(np.minimum(p + 1, n - p)).astype(block.dtype) * block.dtype.type(step * step)
            bound = np.asanyarray(bound.reshape((-1,) + (1,) * (block.ndim - 1 - axis)), like=block)
            block = np.maximum(block, -bound) if signed else np.minimum(block, bound)
    result = block.astype(np.float32)
    if squared:
        result *= np.float32(scale * scale)
        return result
    np.abs(result, out=result)
    np.sqrt(result, out=result)
    result *= np.float32(scale)
    return np.copysign(result, block, out=result)


def _pieces(block: Any, whole: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Parts that span some axes; a GPU takes all at once."""
    if not isinstance(block, np.ndarray):
        yield (slice(None),) * block.ndim
        return
    grain = [min(n, 64) for n in block.shape]
    chunks = plan.blocks(block.shape, whole, grain, _PIECE)
    starts = [plan.starts(c) for c in chunks]
    for index in np.ndindex(*(len(c) for c in chunks)):
        yield tuple(slice(s[i], s[i + 1]) for s, i in zip(starts, index, strict=True))
