"""The functions of google-deepmind's ``surface_distance`` (0.1), with its words and its numbers.

>>> import numpy as np
>>> from dtkernels.compat import surface_distance
>>> mask_gt, mask_pred = np.zeros((2, 128, 128), bool)
>>> mask_gt[50, 70] = mask_pred[50, 72] = True
>>> distances = surface_distance.compute_surface_distances(mask_gt, mask_pred, spacing_mm=(2, 1))
>>> distances["distances_gt_to_pred"]
array([1., 1., 2., 2.])
>>> float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm=1))
0.5

The arrays are sorted by distance, then by size, as there, so that a percentage that falls between two elements
falls between the same two.

Differences, on purpose:

* one distance transform of both masks at once instead of two by SciPy; squared distances are float32 on the way
  (relative error below 1e-6), exact at integer spacing;
* it runs on NumPy 2 where a mask is empty (0.1 asks for ``np.Inf``), and on SciPy 2, since it needs none;
* 0/0 (overlap with an empty mask) is nan without a warning;
* the tables of ``lookup_tables`` are not here: sizes come from geometry, see :mod:`dtkernels.metrics.surfels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics import packed
from ..metrics.definitions import DEFINITIONS
from ..metrics.distances import by_name

__all__ = [
    "compute_average_surface_distance",
    "compute_dice_coefficient",
    "compute_robust_hausdorff",
    "compute_surface_dice_at_tolerance",
    "compute_surface_distances",
    "compute_surface_overlap_at_tolerance",
]

Array = NDArray[Any]
Distances = dict[str, Array]


def compute_surface_distances(mask_gt: Array, mask_pred: Array, spacing_mm: Sequence[float]) -> Distances:
    """Distances of all surface elements to the other surface, and their sizes.

    Args:
        mask_gt: bool array of 2 or 3 dimensions.
        mask_pred: bool array of the same shape.
        spacing_mm: mm per voxel along each axis.

    Returns:
        float64 arrays ``distances_gt_to_pred`` and ``surfel_areas_gt`` (mm in 2-D, mm^2 in 3-D), and
        ``distances_pred_to_gt`` and ``surfel_areas_pred``, each pair sorted by distance, then by size. An empty
        mask has empty arrays and the distances to it are inf.

    Raises:
        ValueError: masks that are no bool arrays, or shapes and spacing that do not fit or have other ranks.

    >>> import numpy as np
    >>> mask = np.eye(3, dtype=bool)
    >>> compute_surface_distances(mask, ~mask, (1.0, 1.0))["distances_gt_to_pred"].max()
    np.float64(1.0)
    """
    for name, mask in (("mask_gt", mask_gt), ("mask_pred", mask_pred)):
        if not isinstance(mask, np.ndarray):
            raise ValueError(f"The argument {name!r} should be a numpy array, not a {type(mask)}")
        if mask.dtype != np.bool_:
            raise ValueError(f"The argument {name!r} should be a numpy array of type bool, not {mask.dtype}")
    if not mask_gt.ndim == mask_pred.ndim == len(spacing_mm) or mask_gt.shape != mask_pred.shape:
        raise ValueError(
            f"The arguments must be of compatible shape. Got mask_gt with {mask_gt.ndim} dimensions "
            f"({mask_gt.shape}) and mask_pred with {mask_pred.ndim} dimensions ({mask_pred.shape}), while the "
            f"spacing_mm was {len(spacing_mm)} elements."
        )
    if mask_gt.ndim not in (2, 3):
        raise ValueError(f"Only 2D and 3D masks are supported, not {mask_gt.ndim}D.")
    both = packed.surfaces(
        [mask_gt, mask_pred], [float(s) for s in spacing_mm], DEFINITIONS["deepmind"], by_name("euclidean", None)
    )
    (gt, areas_gt), (pred, areas_pred) = (elements.in_order() for elements in both)
    return {
        "distances_gt_to_pred": np.sqrt(gt),
        "distances_pred_to_gt": np.sqrt(pred),
        "surfel_areas_gt": areas_gt,
        "surfel_areas_pred": areas_pred,
    }


def compute_average_surface_distance(surface_distances: Distances) -> tuple[float, float]:
    """Mean distance, weighted by size, from the ground truth to the prediction and back; nan from an empty mask.

    >>> import numpy as np
    >>> mask = np.eye(3, dtype=bool)
    >>> compute_average_surface_distance(compute_surface_distances(mask, mask, (1, 1)))
    (0.0, 0.0)
    """
    there, back = (_ratio((d * w).sum(), w.sum()) for d, w in _directions(surface_distances))
    return there, back


def compute_robust_hausdorff(surface_distances: Distances, percent: float) -> float:
    """The larger of the distances within which ``percent`` of each surface lie; inf where a mask is empty.

    >>> import numpy as np
    >>> mask = np.eye(3, dtype=bool)
    >>> compute_robust_hausdorff(compute_surface_distances(mask, mask, (1, 1)), 100)
    0.0
    """
    result = []
    for distances, sizes in _directions(surface_distances):
        if not len(distances):
            return math.inf
        at = int(np.searchsorted(np.cumsum(sizes) / np.sum(sizes), percent / 100.0))
        result.append(float(distances[min(at, len(distances) - 1)]))
    return max(result)


def compute_surface_overlap_at_tolerance(surface_distances: Distances, tolerance_mm: float) -> tuple[float, float]:
    """Share of the ground truth's surface within the tolerance of the prediction's, and back; nan if empty.

    >>> import numpy as np
    >>> mask = np.eye(3, dtype=bool)
    >>> compute_surface_overlap_at_tolerance(compute_surface_distances(mask, mask, (1, 1)), 0.5)
    (1.0, 1.0)
    """
    there, back = (_ratio(w[d <= tolerance_mm].sum(), w.sum()) for d, w in _directions(surface_distances))
    return there, back


def compute_surface_dice_at_tolerance(surface_distances: Distances, tolerance_mm: float) -> float:
    """Share of both surfaces within the tolerance; 0 where one mask is empty, nan where both are.

    >>> import numpy as np
    >>> mask = np.eye(3, dtype=bool)
    >>> compute_surface_dice_at_tolerance(compute_surface_distances(mask, mask, (1, 1)), 0.5)
    1.0
    """
    parts = _directions(surface_distances)
    return _ratio(sum(w[d <= tolerance_mm].sum() for d, w in parts), sum(w.sum() for _, w in parts))


def compute_dice_coefficient(mask_gt: Array, mask_pred: Array) -> float:
    """Dice coefficient of two bool arrays; nan where both are empty.

    >>> import numpy as np
    >>> compute_dice_coefficient(np.array([True, True]), np.array([True, False]))
    0.6666666666666666
    """
    both, gt, pred = (int(np.count_nonzero(x)) for x in (mask_gt & mask_pred, mask_gt, mask_pred))
    return _ratio(2 * both, gt + pred)


def _directions(found: Distances) -> list[tuple[Array, Array]]:
    """(distances, sizes) from the ground truth and from the prediction."""
    return [
        (found["distances_gt_to_pred"], found["surfel_areas_gt"]),
        (found["distances_pred_to_gt"], found["surfel_areas_pred"]),
    ]


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
