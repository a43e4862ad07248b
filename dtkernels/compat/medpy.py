"""The functions of ``medpy.metric.binary`` (MedPy 0.5), with its words and its numbers.

>>> import numpy as np
>>> from dtkernels.compat import medpy as binary  # was: from medpy.metric import binary
>>> result, reference = np.zeros((2, 12, 12), bool)
>>> result[2:5, 2:5] = reference[2:5, 3:6] = True
>>> binary.hd95(result, reference, voxelspacing=(1.0, 0.5))
0.5

Arrays are binarised as there: 0 is background, everything else an object. Differences, on purpose:

* distances of one pair come from one transform of both surfaces, within the box around both masks; squared
  distances are float32 on the way (relative error below 1e-6), exact at integer spacing;
* arrays of one to three dimensions where distances or objects count (MedPy: any number);
* numbers are plain Python floats; 0/0 is what MedPy documents (Dice 1, precision 0, ...), while MedPy on NumPy 2.4
  gives nan, where a count of NumPy's no longer raises when it is divided by zero;
* where several objects of the one image lie on one of the other, MedPy pairs "an arbitrary" of those that are
  left: here that is the first in raster order;
* ``assd`` is the mean over both surfaces together, as in MedPy 0.5; up to 0.4 it was the mean of the two means,
  which is ``definition="deepmind"``'s rule, not this one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .. import arguments, functional
from ..metrics import packed
from ..metrics.definitions import DEFINITIONS
from ..metrics.distances import by_name
from ..optional import require

__all__ = [
    "asd",
    "assd",
    "dc",
    "hd",
    "hd95",
    "jc",
    "obj_asd",
    "obj_assd",
    "obj_fpr",
    "obj_tpr",
    "positive_predictive_value",
    "precision",
    "ravd",
    "recall",
    "sensitivity",
    "specificity",
    "true_negative_rate",
    "true_positive_rate",
    "volume_change_correlation",
    "volume_correlation",
]

Array = NDArray[Any]
Spacing = float | Sequence[float] | None


# ---- overlap ----------------------------------------------------------------------------------------


def dc(result: ArrayLike, reference: ArrayLike) -> float:
    """Dice coefficient ``2 |A n B| / (|A| + |B|)``; 1 where both are empty.

    >>> dc([1, 1, 0], [0, 1, 1])
    0.5
    """
    tp, fp, fn, _ = _confusion(result, reference)
    return _ratio(2 * tp, 2 * tp + fp + fn, 1.0)


def jc(result: ArrayLike, reference: ArrayLike) -> float:
    """Jaccard coefficient ``|A n B| / |A u B|``; 1 where both are empty."""
    tp, fp, fn, _ = _confusion(result, reference)
    return _ratio(tp, tp + fp + fn, 1.0)


def precision(result: ArrayLike, reference: ArrayLike) -> float:
    """Share of the result that is in the reference; 0 for an empty result."""
    tp, fp, _, _ = _confusion(result, reference)
    return _ratio(tp, tp + fp, 0.0)


def recall(result: ArrayLike, reference: ArrayLike) -> float:
    """Share of the reference that is in the result; 0 for an empty reference."""
    tp, _, fn, _ = _confusion(result, reference)
    return _ratio(tp, tp + fn, 0.0)


def specificity(result: ArrayLike, reference: ArrayLike) -> float:
    """Share of the reference's background that is background in the result; 0 for a full reference."""
    _, fp, _, tn = _confusion(result, reference)
    return _ratio(tn, tn + fp, 0.0)


sensitivity = true_positive_rate = recall
true_negative_rate = specificity
positive_predictive_value = precision


def ravd(result: ArrayLike, reference: ArrayLike) -> float:
    """Relative volume difference ``(|A| - |B|) / |B|``: negative where the result is too small.

    Raises:
        RuntimeError: the reference is empty.
    """
    a, b = np.count_nonzero(_mask(result)), np.count_nonzero(_mask(reference))
    if not b:
        raise RuntimeError("reference: expected an array with an object, got an empty one")
    return float((a - b) / b)


def volume_correlation(results: ArrayLike, references: ArrayLike) -> Any:
    """Pearson's r, and its two-sided p, between the volumes of successive images; needs SciPy."""
    return _pearson(_volumes(results), _volumes(references))


def volume_change_correlation(results: ArrayLike, references: ArrayLike) -> Any:
    """Pearson's r, and its two-sided p, between the changes of volume from image to image; needs SciPy."""
    return _pearson(np.diff(_volumes(results)), np.diff(_volumes(references)))


# ---- distances --------------------------------------------------------------------------------------


def hd(result: ArrayLike, reference: ArrayLike, voxelspacing: Spacing = None, connectivity: int = 1) -> float:
    """Hausdorff distance between the surfaces of two objects, in the unit of ``voxelspacing``.

    Args:
        result: array of 1 to 3 dimensions.
        reference: array of the same shape.
        voxelspacing: one number, or one per axis; None is 1.
        connectivity: the surface is the voxels with a neighbour that is none, neighbours as in
            ``scipy.ndimage.generate_binary_structure``; the image's edge is surface.

    Raises:
        RuntimeError: an array without an object.

    >>> hd([0, 1, 1, 0, 0], [0, 1, 1, 1, 1], voxelspacing=0.5)
    1.0
    """
    return max(float(d.max()) for d in _distances(result, reference, voxelspacing, connectivity))


def hd95(result: ArrayLike, reference: ArrayLike, voxelspacing: Spacing = None, connectivity: int = 1) -> float:
    """95th percentile of the distances in both directions together; arguments and errors as :func:`hd`."""
    return float(np.percentile(np.concatenate(_distances(result, reference, voxelspacing, connectivity)), 95))


def asd(result: ArrayLike, reference: ArrayLike, voxelspacing: Spacing = None, connectivity: int = 1) -> float:
    """Mean distance from the result's surface to the reference's; arguments and errors as :func:`hd`."""
    return float(_distances(result, reference, voxelspacing, connectivity)[0].mean())


def assd(result: ArrayLike, reference: ArrayLike, voxelspacing: Spacing = None, connectivity: int = 1) -> float:
    """Mean distance over both surfaces together; arguments and errors as :func:`hd`."""
    return float(np.concatenate(_distances(result, reference, voxelspacing, connectivity)).mean())


# ---- objects ----------------------------------------------------------------------------------------


def obj_asd(result: ArrayLike, reference: ArrayLike, voxelspacing: Spacing = None, connectivity: int = 1) -> float:
    """:func:`asd` over the surfaces of the objects of both images that were paired; nan where none was.

    Components by ``connectivity`` that share a voxel are partners, each of at most one other. As in MedPy the
    distances are those of the reference's objects to the result's.
    """
    return _mean(_object_distances(result, reference, voxelspacing, connectivity))


def obj_assd(
    result: ArrayLike, reference: ArrayLike, voxelspacing: Spacing = None, connectivity: int = 1
) -> float:
    """The mean over the distances of :func:`obj_asd` in both directions together; nan where none was paired."""
    return _mean(
        _object_distances(result, reference, voxelspacing, connectivity)
        + _object_distances(reference, result, voxelspacing, connectivity)
    )


def obj_fpr(result: ArrayLike, reference: ArrayLike, connectivity: int = 1) -> float:
    """Share of the reference's objects without a partner in the result (by name a false positive rate, as there).

    Raises:
        ZeroDivisionError: no object to count.
    """
    found = _correspondences(reference, result, connectivity)
    return (found.first_count - len(found.partners)) / found.first_count


def obj_tpr(result: ArrayLike, reference: ArrayLike, connectivity: int = 1) -> float:
    """Number of pairs over the number of the result's objects.

    Raises:
        ZeroDivisionError: no object to count.
    """
    found = _correspondences(reference, result, connectivity)
    return len(found.partners) / found.second_count


class _Correspondences(NamedTuple):
    first: Array  # label maps
    second: Array
    first_count: int
    second_count: int
    partners: dict[int, int]  # label in first -> label in second


def _correspondences(first: ArrayLike, second: ArrayLike, connectivity: int) -> _Correspondences:
    """Pair the components of two images that share voxels, each with one at most.

    Those with a single candidate choose first, in order of their labels; then, again and again, the one with the
    fewest candidates left.
    """
    maps = []
    for x in (_mask(first), _mask(second)):
        labels, count = functional.label(
            torch.from_numpy(x), connectivity=min(connectivity, x.ndim), spatial_dims=x.ndim
        )
        maps.append((labels.numpy(), int(count)))
    (a, n), (b, m) = maps
    touching = (a > 0) & (b > 0)
    pairs = np.unique(np.stack([a[touching], b[touching]]), axis=1).T.tolist()
    candidates: dict[int, list[int]] = {}
    for i, j in pairs:
        candidates.setdefault(i, []).append(j)
    partners: dict[int, int] = {}
    used: set[int] = set()
    for i, options in candidates.items():
        if len(options) == 1 and options[0] not in used:
            partners[i] = options[0]
            used.add(options[0])
    waiting = {i: options for i, options in candidates.items() if len(options) > 1}
    while True:
        waiting = {i: free for i, options in waiting.items() if (free := [j for j in options if j not in used])}
        if not waiting:
            return _Correspondences(a, b, n, m, partners)
        i = min(waiting, key=lambda i: len(waiting[i]))
        partners[i] = waiting.pop(i)[0]
        used.add(partners[i])


def _object_distances(
    result: ArrayLike, reference: ArrayLike, voxelspacing: Spacing, connectivity: int
) -> list[Array]:
    found = _correspondences(result, reference, connectivity)
    return [
        _distances(found.second == j, found.first == i, voxelspacing, connectivity)[0]
        for i, j in found.partners.items()
    ]


# ---- what they share --------------------------------------------------------------------------------


def _distances(
    result: ArrayLike, reference: ArrayLike, voxelspacing: Spacing, connectivity: int
) -> tuple[Array, Array]:
    """Distances of all surface voxels, result to reference and back."""
    masks = [_mask(result), _mask(reference)]
    if masks[0].shape != masks[1].shape:
        raise ValueError(f"reference: expected the shape of result, {masks[0].shape}, got {masks[1].shape}")
    for name, mask in zip(("result", "reference"), masks, strict=True):
        if not mask.any():
            raise RuntimeError(f"{name}: expected an array with an object, got an empty one")
    dims = masks[0].ndim
    spacing = None if voxelspacing is None else np.broadcast_to(np.asarray(voxelspacing, float), (dims,)).tolist()
    connectivity = arguments.check_connectivity(min(connectivity, dims), dims)
    rule = DEFINITIONS["medpy"]._replace(connectivity=connectivity)
    there, back = packed.surfaces(masks, spacing, rule, by_name("euclidean", None))
    return np.sqrt(there.squares.astype(np.float64)), np.sqrt(back.squares.astype(np.float64))


def _mask(x: ArrayLike) -> Array:
    return np.ascontiguousarray(np.atleast_1d(np.asarray(x).astype(np.bool_)))


def _confusion(result: ArrayLike, reference: ArrayLike) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives."""
    a, b = _mask(result), _mask(reference)
    tp, fp, fn, tn = (int(np.count_nonzero(x)) for x in (a & b, a & ~b, ~a & b, ~(a | b)))
    return tp, fp, fn, tn


def _ratio(part: int, whole: int, empty: float) -> float:
    return part / whole if whole else empty


def _mean(parts: list[Array]) -> float:
    return float(np.concatenate(parts).mean()) if parts else float("nan")


def _volumes(images: ArrayLike) -> Array:
    stack = np.atleast_2d(np.asarray(images).astype(np.bool_))
    volumes: Array = stack.reshape(len(stack), -1).sum(axis=1)
    return volumes


def _pearson(a: Array, b: Array) -> Any:
    return require("scipy.stats", "the correlation of volumes", extra="scipy").pearsonr(a, b)
