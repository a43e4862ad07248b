"""Expected values: distances by brute force over all pairs, in integers or float64, and what float32 may lose.

Nothing here shares a thought with the kernels: no envelopes, no passes, no axes taken one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

U = 2.0**-24  # half the distance between neighbours of float32 just above 1: one rounding loses at most this
PAIRS = 1 << 21  # (voxel, site) pairs held at a time

Array = NDArray[np.float64]


def squared_edt(mask: ArrayLike, spacing: Sequence[float] | None = None, *, closed: bool = False) -> Array:
    """Squared distance to the nearest zero of one image: O(N^2), +inf where there is none.

    Without ``spacing`` all sums are integers, so every value is exact.
    """
    inside = np.asarray(mask) != 0
    if closed:  # background surrounds the image: make it so
        padded = squared_edt(np.pad(inside, 1), spacing)
        return padded[(slice(1, -1),) * inside.ndim]
    result = np.zeros(inside.shape)
    voxels, sites = np.argwhere(inside), np.argwhere(~inside)
    if len(sites) == 0:
        result[inside] = np.inf
        return result
    scale = np.ones(inside.ndim, np.int64) if spacing is None else np.asarray(spacing, np.float64)
    voxels, sites = voxels * scale, sites * scale
    nearest = np.empty(len(voxels))
    rows = max(1, PAIRS // len(sites))
    for i in range(0, len(voxels), rows):
        square = np.zeros((len(voxels[i : i + rows]), len(sites)), scale.dtype)
        for p, q in zip(voxels[i : i + rows].T, sites.T, strict=True):
            difference = np.subtract.outer(p, q)
            square += difference * difference
        nearest[i : i + rows] = square.min(axis=1)
    result[inside] = nearest
    return result


def squared_sdf(mask: ArrayLike, spacing: Sequence[float] | None = None, *, closed: bool = False) -> Array:
    """Squared distance to the other class with the sign of the signed distance; -inf and +inf without one."""
    inside = np.asarray(mask) != 0
    return np.where(inside, -squared_edt(inside, spacing, closed=closed), squared_edt(~inside, spacing))


def squared(op: str, mask: ArrayLike, spacing: Sequence[float] | None = None, *, closed: bool = False) -> Array:
    """:func:`squared_edt` or :func:`squared_sdf` by the name of the operator."""
    return {"edt": squared_edt, "sdf": squared_sdf}[op](mask, spacing, closed=closed)


def scipy_squared(op: str, mask: ArrayLike) -> Array:
    """Exact squared distances of a larger image, from the integer indices of SciPy's nearest voxels."""
    inside = np.asarray(mask) != 0
    if op == "sdf":
        return np.where(inside, -scipy_squared("edt", inside), scipy_squared("edt", ~inside))
    if inside.all():  # SciPy has no value for this
        return np.full(inside.shape, np.inf)
    nearest = ndimage.distance_transform_edt(inside, return_distances=False, return_indices=True)
    offsets = nearest - np.indices(inside.shape)
    return (offsets.astype(np.int64) ** 2).sum(axis=0).astype(np.float64)


def nearest_index(mask: ArrayLike, spacing: Sequence[float] | None = None) -> NDArray[np.int64]:
    """Position of the nearest zero of each voxel, the lowest of several, -1 without any: O(N^2), from all pairs.

    Without ``spacing`` in integers. Otherwise in float64, which must hold every square exactly.
    """
    inside = np.asarray(mask) != 0
    sites, flat = np.argwhere(~inside), np.flatnonzero(~inside)  # in raster order; argmin takes the first
    result = np.full(inside.size, -1)
    if len(sites) == 0:
        return result.reshape(inside.shape)
    scale = np.ones(inside.ndim, np.int64) if spacing is None else np.asarray(spacing, np.float64)
    voxels, sites = np.argwhere(np.ones_like(inside)) * scale, sites * scale
    rows = max(1, PAIRS // len(sites))
    for i in range(0, len(voxels), rows):
        square = np.zeros((len(voxels[i : i + rows]), len(sites)), scale.dtype)
        for p, q in zip(voxels[i : i + rows].T, sites.T, strict=True):
            difference = np.subtract.outer(p, q)
            square += difference * difference
        result[i : i + rows] = flat[square.argmin(axis=1)]
    return result.reshape(inside.shape)


def root(square: Array) -> Array:
    """Signed square root."""
    return np.copysign(np.sqrt(np.abs(square)), square)


def exact(square: Array, *, is_squared: bool) -> NDArray[np.float32]:
    """The only float32 result allowed at unit spacing, bit for bit.

    Squares are integers: below 2^24 float32 holds them, above it is their correct rounding. The root of a
    float32 integer is correctly rounded too, and taking it in float64 first changes nothing (53 >= 2 * 24 + 2
    bits, Figueroa's condition for harmless double rounding).
    """
    return (square if is_squared else root(square)).astype(np.float32) + np.float32(0)  # no -0.0


def tolerance(ndim: int, *, is_squared: bool) -> float:
    """Largest relative error of a result at any other spacing, in the terms of the documentation: derived here.

    In units of U, to first order:
      spacing in float32: 1, twice in its square                       2
      w = fl(s^2): rounding of the square                              1
      w * k^2: rounding of the product (k^2 <= 2^24 is exact)          1
      one sum for each further axis, of positive terms          ndim - 1
    So any candidate's squared distance is within (ndim + 3) U of the truth, and so is their smallest. Finding
    the smallest takes a comparison per axis, of integers on the first and of values rounded like these on the
    others, where a candidate may pass that is worse by one rounding of each side: 2 (ndim - 1). In all 3 ndim + 1.
    The root halves that and adds its own rounding, 1.
    """
    units = 3 * ndim + 1
    return (units if is_squared else units / 2 + 1) * U


def assert_exact(actual: NDArray, square: Array, *, is_squared: bool, message: str = "") -> None:
    """Check a result at unit spacing bit for bit: 0 is not -0.0."""
    expected = exact(square, is_squared=is_squared)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected, err_msg=message)
    assert not np.signbit(actual[actual == 0]).any(), f"-0.0 {message}"


def assert_close(actual: NDArray, square: Array, *, is_squared: bool) -> None:
    """Check a float32 result against exact float64 squares within :func:`tolerance`."""
    expected = square if is_squared else root(square)
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    error = np.abs(actual[finite] - expected[finite])
    bound = tolerance(square.ndim, is_squared=is_squared) * np.abs(expected[finite])
    worst = int((error - bound).argmax()) if error.size else None
    assert worst is None or error[worst] <= bound[worst], (
        f"{actual[finite][worst]!r} for {expected[finite][worst]!r}: "
        f"{error[worst] / abs(expected[finite][worst] or 1) / U:.2f} units of 2^-24"
    )
