"""``distance_transform_edt`` of ``scipy.ndimage`` and ``cupyx.scipy.ndimage``, for arrays of any library.

>>> import numpy as np
>>> from dtkernels.compat import ndimage
>>> ndimage.distance_transform_edt(np.array([[0, 1, 1, 1, 0]]))
array([[0., 1., 2., 1., 0.]])

Where it differs from SciPy on purpose:

- **A mask without background**: SciPy answers with distances to a point outside the array. Here every distance is
  +inf and every index -1.
- **Ties**: of several background elements equally near, ``indices`` names the first in raster order; SciPy any.
- **Rounding**: where ``sampling`` is one number, squared distances are integers until the root is taken: SciPy's
  results to the last bit at unit sampling, and to 1e-15 at others. At unequal sampling the nearest element is
  found in float32 and its distance computed in float64: SciPy's to 1e-15, but where a second element is farther by
  less than 1e-6 of the distance, it may be taken for the nearest.
- **Sampling** must be positive and finite.
- **Devices and kinds**: the result is of the input's library and on its device; nothing moves.
- **Preallocated arrays** that are read-only, of another library or device, or overlap each other are refused
  before anything is written. ``distances`` may be the input itself.
- **Sides** of the last three axes may have up to 32,768 elements. Only these are fast: further axes take time
  proportional to their length for every element.

NaN is foreground, as in NumPy; for the functions of ``dtkernels`` itself it is background.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from .. import arguments, arrays, functional, memory

_EXACT_SQUARES = 1 << 24  # up to here float32 holds every integer
_EXACT_ROOTS = 1 << 22  # up to here an integer is the rounded square of its float32 root
_PART = 1 << 13  # elements that stay in cache from step to step

# An array of NumPy, or a tensor on a device: the few operations below are spelled the same for both.
_Values = Any


def distance_transform_edt(
    input: Any,
    sampling: Any = None,
    return_distances: bool = True,
    return_indices: bool = False,
    distances: Any = None,
    indices: Any = None,
    *,
    block_params: Any = None,
    float64_distances: bool | None = None,
) -> Any:
    r"""Distance of every non-zero element to the nearest zero, and which zero that is.

    .. math:: d(p) = \min_{q:\,\mathrm{input}(q)=0} \sqrt{\textstyle\sum_k s_k^2 (p_k - q_k)^2}

    Args:
        input: array of NumPy, CuPy, torch or any library with DLPack, of any shape and dtype, or what NumPy makes
            an array of. Foreground is non-zero. A scalar counts as an array of one element.
        sampling: distance between elements: None (1), a number, or one per axis.
        return_distances: compute the distances.
        return_indices: compute the indices.
        distances: array of the input's shape to write the distances to, in place of returning them; of the dtype
            that would be returned.
        indices: int32 array of shape ``(input.ndim, *input.shape)`` to write the indices to, in place of returning
            them.
        block_params: accepted as in CuPy, and ignored: there is nothing to tune.
        float64_distances: dtype of the distances, float64 or float32. Default: float64 for NumPy and CuPy, as in
            SciPy and CuPy; float32 for torch and others.

    Returns:
        The distances, the int32 indices of the nearest zero along each axis, ``(distances, indices)``, or None:
        what was asked for and not preallocated, of the input's library and on its device. 0 and its own index for
        a zero; +inf and -1 everywhere if there is no zero.

    Raises:
        RuntimeError: nothing is asked for; ``distances`` or ``indices`` are given but not asked for, or of the
            wrong shape or dtype; ``sampling`` of the wrong length. As SciPy.
        TypeError: the input cannot be had through DLPack, or ``distances`` or ``indices`` are of another library.
        ValueError: ``sampling`` is not positive and finite; ``distances`` or ``indices`` are read-only, on another
            device, or overlap; a side is too long; the input needs a gradient.

    >>> import numpy as np
    >>> from dtkernels.compat import ndimage
    >>> distances, indices = ndimage.distance_transform_edt([0, 1, 1, 1, 0], sampling=0.5, return_indices=True)
    >>> distances
    array([0. , 0.5, 1. , 0.5, 0. ])
    >>> indices
    array([[0, 0, 0, 4, 4]], dtype=int32)
    >>> import torch
    >>> ndimage.distance_transform_edt(torch.tensor([0, 1, 1]))
    tensor([0., 1., 2.])
    """
    _check_requests(return_distances, return_indices, distances, indices)
    source = arrays.read("input", input)
    arguments.check_no_gradient("input", source.tensor)
    mask = torch.atleast_1d(arrays.nonzero(source))
    shape = tuple(mask.shape)
    scale = arrays.numbers_per_axis("sampling", sampling, len(shape), RuntimeError)
    dims = min(len(shape), 3)
    arguments.check_sides("input", shape, dims)
    if float64_distances is None:
        float64_distances = source.library in ("numpy", "cupy")

    results, returned = [], []
    for name, wanted, given, of_shape, dtype in (
        ("distances", return_distances, distances, shape, torch.float64 if float64_distances else torch.float32),
        ("indices", return_indices, indices, (len(shape), *shape), torch.int32),
    ):
        result = None
        if wanted and given is not None:
            result = arrays.write(name, given, source)
            _check_result(name, result, of_shape, dtype)
        elif wanted:
            returned.append(memory.empty(of_shape, dtype, mask.device))
            result = arrays.plain(returned[-1])
        results.append(result)
    if arrays.overlap(*results):
        raise ValueError("indices: expected memory apart from that of distances, got overlapping arrays")
    if mask.numel():
        _compute(mask, scale, *results)
    wrapped = tuple(source.wrap(tensor) for tensor in returned)
    return wrapped if len(wrapped) == 2 else wrapped[0] if wrapped else None


# ---- arguments


def _check_requests(return_distances: bool, return_indices: bool, distances: Any, indices: Any) -> None:
    problems = []
    if not return_distances and not return_indices:
        problems.append("at least one of return_distances/return_indices must be True")
    if distances is not None and not return_distances:
        problems.append("return_distances must be True if distances is supplied")
    if indices is not None and not return_indices:
        problems.append("return_indices must be True if indices is supplied")
    if problems:
        raise RuntimeError(", ".join(problems))


def _check_result(name: str, result: _Values, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(result.shape) != shape:
        raise RuntimeError(f"{name} array has wrong shape: expected {shape}, got {tuple(result.shape)}")
    expected = str(dtype).removeprefix("torch.")
    if str(result.dtype).removeprefix("torch.") != expected:
        raise RuntimeError(f"{name} array must be {expected}, got {result.dtype}")


# ---- the transform


def _compute(mask: torch.Tensor, scale: tuple[float, ...], distances: _Values, indices: _Values) -> None:
    """Fill what is not None. On CPUs all arithmetic is NumPy's: torch's threads do not survive a fork."""
    shape, dims = tuple(mask.shape), min(mask.ndim, 3)
    largest = sum((n - 1) ** 2 for n in shape)
    single = distances is not None and "float32" in str(distances.dtype)
    if indices is None and dims == mask.ndim:
        if single:
            _assign(distances, functional.edt(mask, scale, spatial_dims=dims))
            return
        if len(set(scale)) == 1 and largest < _EXACT_SQUARES:
            _write_roots(functional.edt(mask, spatial_dims=dims, squared=True), scale[0], distances)
            return
    rounded = len(set(scale)) > 1
    nearest, index = functional.nearest(mask, scale[-dims:] if rounded or single else None, spatial_dims=dims)
    positions = arrays.plain(index)
    if dims < mask.ndim:
        positions = _further_axes(positions, scale)
    elif single:
        _assign(distances, nearest)
        distances = None
    elif distances is not None and not rounded and largest < _EXACT_ROOTS:
        _write_roots(nearest, scale[0], distances, True)
        distances = None
    if distances is not None or indices is not None:
        _write_nearest(positions, scale, distances, indices)


def _further_axes(index: _Values, scale: tuple[float, ...]) -> _Values:
    """Positions in the whole array, from those within the last three axes: one axis after the other,

        D(p) = min over j of g(j) + (s (p - j))^2,

    of all j the lowest. It is exact because squared distances are sums over axes; each sum is in float64.
    """
    module, shape = _module(index), tuple(index.shape)
    square = _square(_places(index, shape[-3:]), index, scale[-3:])
    square = module.where(index < 0, math.inf, square)
    for axis in range(len(shape) - 4, -1, -1):
        n, stride = shape[axis], math.prod(shape[axis + 1 :])
        own = _along(index, axis)
        best, chosen = module.full_like(square, math.inf), module.full_like(index, -1)
        for j in range(n):
            site = (slice(None),) * axis + (slice(j, j + 1),)
            step = (own - j) * scale[axis]
            candidate = square[site] + step * step
            closer = candidate < best
            best = module.where(closer, candidate, best)
            chosen = module.where(closer, index[site] + j * stride, chosen)
        square, index = best, chosen
    return index


def _write_roots(source: torch.Tensor, scale: float, distances: _Values, are_roots: bool = False) -> None:
    """Roots in float64 of squared voxel counts, or of the float32 roots of such.

    A float32 root has a relative error of 2^-24, so its square is off by less than 2^-23 of itself and of a half.
    """
    values = arrays.plain(source)
    for part in _parts(values):
        target = distances[part]
        target[...] = values[part]
        if are_roots:
            target *= target
            _module(values).round(target, out=target)
        _module(values).sqrt(target, out=target)
        if scale != 1.0:
            target *= scale


def _write_nearest(index: _Values, scale: tuple[float, ...], distances: _Values, indices: _Values) -> None:
    """Indices from positions, and distances from indices."""
    module, shape = _module(index), tuple(index.shape)
    narrow = math.prod(shape) <= 1 << 31  # then a division takes half the time
    for part in _parts(index):
        positions = index[part]
        if narrow:
            positions = positions.astype(np.int32) if module is np else positions.int()
        missing = positions >> (31 if narrow else 63)  # -1 without background, else 0
        places = _places(positions, shape)
        if indices is not None:
            for axis, place in enumerate(places):
                indices[axis][part] = place | missing
        if distances is not None:
            root = module.sqrt(_square(places, index, scale, part))
            distances[part] = module.where(missing < 0, math.inf, root)


def _places(position: _Values, sides: tuple[int, ...]) -> list[_Values]:
    """The index along each axis of an array with these sides."""
    places = []
    for n in reversed(sides[1:]):
        quotient = position // n
        places.append(position - quotient * n)
        position = quotient
    return [position, *reversed(places)]


def _square(places: list[_Values], index: _Values, scale: tuple[float, ...], part: slice = slice(None)) -> _Values:
    """Squared distance, in float64, from the elements of ``part`` to these places along the last axes."""
    total: Any = None
    first = index.ndim - len(places)
    for axis, (place, s) in enumerate(zip(places, scale, strict=True), first):
        step = place - _along(index, axis, part if axis == 0 else slice(None))
        step *= s
        step *= step
        total = total + step if axis > first else step
    return total


def _along(values: _Values, axis: int, part: slice = slice(None)) -> _Values:
    """0, 1, 2, ... along an axis, in float64, that broadcast with ``values``."""
    n = values.shape[axis]
    steps = np.arange(n, dtype=np.float64) if isinstance(values, np.ndarray) else _arange(n, values)
    return steps[part].reshape((-1,) + (1,) * (values.ndim - 1 - axis))


def _arange(n: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(n, dtype=torch.float64, device=like.device)


def _parts(values: _Values) -> list[slice]:
    """Slabs along the first axis: few enough elements for the cache of a CPU; for a GPU, all at once."""
    n = values.shape[0]
    rows = max(1, _PART // math.prod(values.shape[1:])) if isinstance(values, np.ndarray) else n
    return [slice(first, min(first + rows, n)) for first in range(0, n, rows)]


def _module(values: _Values) -> Any:
    return np if isinstance(values, np.ndarray) else torch


def _assign(target: _Values, tensor: torch.Tensor) -> None:
    target[...] = arrays.plain(tensor)
