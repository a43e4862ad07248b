"""Erosion of masks in torch operators: for the metrics on any device, and where a backend makes no contours."""

from __future__ import annotations

import itertools

from torch import Tensor


def eroded(mask: Tensor, dims: int, connectivity: int, *, closed: bool = True) -> Tensor:
    """Foreground voxels with no neighbour in the background, of bool masks whose last ``dims`` axes are spatial.

    Neighbours differ by at most 1 in each of at most ``connectivity`` coordinates. Beyond the image is background
    if it is ``closed``, else nothing.
    """
    axes = range(-dims, 0)
    result = mask.clone()
    if connectivity == dims:  # a box: axis by axis
        for axis in axes:
            _erode_by(result, result.clone(), axis, closed)
    elif connectivity == 1:
        for axis in axes:
            _erode_by(result, mask, axis, closed)
    else:
        for pair in itertools.combinations(axes, connectivity):
            plane = mask.clone()
            for axis in pair:
                _erode_by(plane, plane.clone(), axis, closed)
            result &= plane
    return result


def _erode_by(result: Tensor, mask: Tensor, axis: int, closed: bool) -> None:
    """Leave in ``result`` what has both of its neighbours along ``axis`` in ``mask``."""
    n = mask.shape[axis]
    if n == 0:
        return
    result.narrow(axis, 1, n - 1).logical_and_(mask.narrow(axis, 0, n - 1))
    result.narrow(axis, 0, n - 1).logical_and_(mask.narrow(axis, 1, n - 1))
    if closed:
        result.select(axis, 0).fill_(False)
        result.select(axis, n - 1).fill_(False)
