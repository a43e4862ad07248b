"""``HausdorffDistanceMetric``, ``SurfaceDistanceMetric`` and ``SurfaceDiceMetric`` as in ``monai.metrics`` (1.6).

>>> import torch
>>> from dtkernels.compat.monai.metrics import HausdorffDistanceMetric
>>> metric = HausdorffDistanceMetric(include_background=True, percentile=95)
>>> target = torch.zeros(2, 1, 12, 12)
>>> target[:, :, 2:5, 2:5] = 1
>>> metric(target.roll(3, dims=-1), target, spacing=[0.5, 0.5])
tensor([[1.5000],
        [1.5000]])
>>> metric.aggregate()
tensor([1.5000])

Constructors, calls, reductions, buffers, shapes and numbers are MONAI's. Both masks are ``== 1``, as there.

**The trap that is kept.** Where one mask is empty MONAI's percentiles are nan, which its reductions leave out: the
HD95 of [3.0, missed] is 3.0, and of nothing but misses 0.0, a perfect score. By default this module answers the
same, since a drop-in shall not change published numbers. ``on_empty="inf"``, ``"diagonal"`` or a number makes a
missed object cost; :func:`dtkernels.metrics.aggregate` counts.

Differences from MONAI, on purpose:

* all samples and classes in one pass, on the device of the masks, exact float32 Euclidean distances; nothing goes
  through SciPy or cuCIM, nothing is read back from a GPU;
* ``on_empty``, a keyword of its own at the end of every constructor and function;
* the warning that a mask is empty names the class and comes on CPUs only (on GPUs it takes a synchronisation);
* ``class_thresholds`` within a relative 5e-7 of a distance count as reached: MONAI compares rounded numbers;
* a list of images may have a spacing per image;
* percentiles of more than 16 million distances work (torch.quantile refuses them);
* a process without any value takes part in gathering (MONAI's waits for ever); ignite's communicator is unknown;
* classes do not inherit from MONAI's, so MONAI need not be installed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import arguments
from ...metrics import surface_metrics
from ...metrics.surface import shares_within
from .cumulative import CumulativeIterationMetric

__all__ = [
    "HausdorffDistanceMetric",
    "SurfaceDiceMetric",
    "SurfaceDistanceMetric",
    "compute_average_surface_distance",
    "compute_hausdorff_distance",
    "compute_surface_dice",
]


class HausdorffDistanceMetric(CumulativeIterationMetric):
    """Hausdorff distance, or its percentile, of one-hot masks (B, C, \\*spatial); lower is better.

    Args:
        include_background: whether class 0 is measured; a single class always is.
        distance_metric: ``"euclidean"``, ``"chessboard"`` or ``"taxicab"``; the last two take no spacing.
        percentile: 0 .. 100; None or 0 for the maximum.
        directed: from the prediction to the target only.
        reduction: ``"none"``, ``"mean"``, ``"sum"``, ``"mean_batch"``, ``"sum_batch"``, ``"mean_channel"`` or
            ``"sum_channel"``, over values that are not nan.
        get_not_nans: whether :meth:`aggregate` returns the number of values that are not nan, too.
        ignore_index: voxels of this class, or of no class for an index that is none, count in neither mask.
        on_empty: value where one mask is empty; None is MONAI's, inf for the maximum and nan for a percentile.
    """

    def __init__(
        self,
        include_background: bool = False,
        distance_metric: str = "euclidean",
        percentile: float | None = None,
        directed: bool = False,
        reduction: Any = "mean",
        get_not_nans: bool = False,
        ignore_index: int | None = None,
        *,
        on_empty: str | float | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self.include_background = include_background
        self.distance_metric = distance_metric
        self.percentile = percentile
        self.directed = directed
        self.reduction = reduction
        self.get_not_nans = get_not_nans
        self.ignore_index = ignore_index
        self.on_empty = on_empty

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None, **kwargs: Any) -> Tensor:
        y_pred, y = _without_ignored(y_pred, _ranked(y_pred, y), self.ignore_index)
        return compute_hausdorff_distance(
            y_pred, y, self.include_background, self.distance_metric, self.percentile, self.directed,
            kwargs.get("spacing"), self.ignore_index, on_empty=self.on_empty,
        )  # fmt: skip

    def aggregate(self, reduction: Any = None) -> Tensor | tuple[Tensor, Tensor]:
        """Reduced values of all batches and processes."""
        return self._aggregate(reduction or self.reduction, self.get_not_nans)


class SurfaceDistanceMetric(CumulativeIterationMetric):
    """Average surface distance of one-hot masks (B, C, \\*spatial); lower is better.

    Args:
        include_background: as :class:`HausdorffDistanceMetric`.
        symmetric: over both surfaces together, not from the prediction's only.
        distance_metric: as :class:`HausdorffDistanceMetric`.
        reduction: as :class:`HausdorffDistanceMetric`.
        get_not_nans: as :class:`HausdorffDistanceMetric`.
        ignore_index: as :class:`HausdorffDistanceMetric`.
        on_empty: value where one mask is empty; None is MONAI's, inf.
    """

    def __init__(
        self,
        include_background: bool = False,
        symmetric: bool = False,
        distance_metric: str = "euclidean",
        reduction: Any = "mean",
        get_not_nans: bool = False,
        ignore_index: int | None = None,
        *,
        on_empty: str | float | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self.include_background = include_background
        self.symmetric = symmetric
        self.distance_metric = distance_metric
        self.reduction = reduction
        self.get_not_nans = get_not_nans
        self.ignore_index = ignore_index
        self.on_empty = on_empty

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None, **kwargs: Any) -> Tensor:
        y_pred, y = _without_ignored(y_pred, _ranked(y_pred, y), self.ignore_index)
        return compute_average_surface_distance(
            y_pred, y, self.include_background, self.symmetric, self.distance_metric, kwargs.get("spacing"),
            self.ignore_index, on_empty=self.on_empty,
        )  # fmt: skip

    def aggregate(self, reduction: Any = None) -> Tensor | tuple[Tensor, Tensor]:
        """Reduced values of all batches and processes."""
        return self._aggregate(reduction or self.reduction, self.get_not_nans)


class SurfaceDiceMetric(CumulativeIterationMetric):
    """Normalised surface Dice of one-hot masks (B, C, H, W) or (B, C, D, H, W), 0 .. 1; higher is better.

    Args:
        class_thresholds: one per measured class, in the unit of ``spacing``.
        include_background: as :class:`HausdorffDistanceMetric`.
        distance_metric: as :class:`HausdorffDistanceMetric`.
        reduction: as :class:`HausdorffDistanceMetric`.
        get_not_nans: as :class:`HausdorffDistanceMetric`.
        use_subvoxels: surface elements of half a voxel, weighted by area, as DeepMind's surface-distance.
        ignore_index: as :class:`HausdorffDistanceMetric`.
    """

    def __init__(
        self,
        class_thresholds: Sequence[float],
        include_background: bool = False,
        distance_metric: str = "euclidean",
        reduction: Any = "mean",
        get_not_nans: bool = False,
        use_subvoxels: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self.class_thresholds = class_thresholds
        self.include_background = include_background
        self.distance_metric = distance_metric
        self.reduction = reduction
        self.get_not_nans = get_not_nans
        self.use_subvoxels = use_subvoxels
        self.ignore_index = ignore_index

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None, **kwargs: Any) -> Tensor:
        return compute_surface_dice(
            y_pred, y, self.class_thresholds, self.include_background, self.distance_metric,
            kwargs.get("spacing"), self.use_subvoxels, self.ignore_index,
        )  # fmt: skip

    def aggregate(self, reduction: Any = None) -> Tensor | tuple[Tensor, Tensor]:
        """Reduced values of all batches and processes."""
        return self._aggregate(reduction or self.reduction, self.get_not_nans)


def compute_hausdorff_distance(
    y_pred: Any,
    y: Any,
    include_background: bool = False,
    distance_metric: str = "euclidean",
    percentile: float | None = None,
    directed: bool = False,
    spacing: Any = None,
    ignore_index: int | None = None,
    *,
    on_empty: str | float | None = None,
) -> Tensor:
    """Hausdorff distances (B, C) float32 of one-hot masks; see :class:`HausdorffDistanceMetric`.

    Args:
        y_pred: (B, C, \\*spatial) of 1 to 3 spatial dimensions, tensor or array; foreground is what equals 1.
        y: the target, of the same shape.
        include_background: whether class 0 is measured; a single class always is.
        distance_metric: ``"euclidean"``, ``"chessboard"`` or ``"taxicab"``.
        percentile: None or 0 for the maximum.
        directed: from the prediction to the target only.
        spacing: None, a number, one per spatial dimension, or such a row per sample.
        ignore_index: the values of this class are nan.
        on_empty: value where one mask is empty; None is MONAI's.

    Returns:
        (B, C) float32 on the masks' device, in the unit of ``spacing``; nan where both masks are empty.

    Raises:
        ValueError: different shapes, percentile out of range, an unknown distance, a spacing that does not fit.

    >>> import torch
    >>> masks = torch.eye(4)[None, None]
    >>> compute_hausdorff_distance(masks, masks.roll(1, -1), include_background=True)
    tensor([[2.2361]])
    """
    q = () if not percentile else (percentile,)
    measured = _measure(
        y_pred, y, include_background, distance_metric, spacing, ignore_index,
        percentiles=q, tolerances=(), directed=directed, on_empty=_empty(on_empty, "nan" if q else "inf"),
    )  # fmt: skip
    values: Tensor = measured.hd_percentiles[0] if q else measured.hd
    if ignore_index is not None:
        channel = ignore_index - (np.shape(y_pred)[1] - values.shape[1])
        if 0 <= channel < values.shape[1]:
            values[:, channel] = math.nan
    return values


def compute_average_surface_distance(
    y_pred: Any,
    y: Any,
    include_background: bool = False,
    symmetric: bool = False,
    distance_metric: str = "euclidean",
    spacing: Any = None,
    ignore_index: int | None = None,
    *,
    on_empty: str | float | None = None,
) -> Tensor:
    """Average surface distances (B, C) float32 of one-hot masks; see :class:`SurfaceDistanceMetric`.

    Arguments as :func:`compute_hausdorff_distance`; ``ignore_index`` spares its class the warning.

    >>> import torch
    >>> masks = torch.eye(4)[None, None]
    >>> compute_average_surface_distance(masks, masks.roll(1, -1), include_background=True)
    tensor([[1.]])
    """
    measured = _measure(
        y_pred, y, include_background, distance_metric, spacing, ignore_index,
        percentiles=(), tolerances=(), on_empty=_empty(on_empty, "inf"),
    )  # fmt: skip
    average: Tensor = measured.assd if symmetric else measured.asd
    return average


def compute_surface_dice(
    y_pred: Any,
    y: Any,
    class_thresholds: Sequence[float],
    include_background: bool = False,
    distance_metric: str = "euclidean",
    spacing: Any = None,
    use_subvoxels: bool = False,
    ignore_index: int | None = None,
) -> Tensor:
    """Normalised surface Dice (B, C) float32 of one-hot masks; see :class:`SurfaceDiceMetric`.

    Arguments as :func:`compute_hausdorff_distance`; 0 where one mask is empty, nan where both are.

    Raises:
        ValueError: no tensors, not 4 or 5 dimensions, different shapes, thresholds that are not finite, negative
            or not one per class.

    >>> import torch
    >>> masks = torch.eye(4)[None, None]
    >>> compute_surface_dice(masks, masks.roll(1, -1), [0.5], include_background=True)
    tensor([[0.]])
    """
    if not isinstance(y_pred, Tensor) or not isinstance(y, Tensor):
        raise ValueError("y_pred and y must be PyTorch Tensor.")
    if y_pred.ndim not in (4, 5) or y.ndim not in (4, 5):
        raise ValueError("y_pred and y should be one-hot encoded: [B,C,H,W] or [B,C,H,W,D].")
    if y_pred.shape != y.shape:
        raise ValueError(
            "y_pred and y should have same shape, but instead, shapes are "
            f"{y_pred.shape} (y_pred) and {y.shape} (y)."
        )
    classes = y_pred.shape[1] if include_background or y_pred.shape[1] == 1 else y_pred.shape[1] - 1
    if classes != len(class_thresholds):
        raise ValueError(
            f"number of classes ({classes}) does not match number of class thresholds ({len(class_thresholds)})."
        )
    if not all(math.isfinite(t) for t in class_thresholds):
        raise ValueError("All class thresholds need to be finite.")
    if any(t < 0 for t in class_thresholds):
        raise ValueError("All class thresholds need to be >= 0.")
    y_pred, y = _without_ignored(y_pred, y, ignore_index)
    measured = _measure(
        y_pred, y, include_background, distance_metric, spacing, ignore_index,
        measure=shares_within, definition="deepmind" if use_subvoxels else "monai", tolerances=class_thresholds,
    )  # fmt: skip
    each: Tensor = measured.nsd.diagonal(dim1=0, dim2=2)  # the threshold of each class for that class
    return each


def _measure(
    y_pred: Any,
    y: Any,
    include_background: bool,
    distance_metric: str,
    spacing: Any,
    ignore_index: int | None,
    measure: Callable[..., Any] = surface_metrics,
    **options: Any,
) -> Any:
    """Binary masks of the measured classes through :func:`dtkernels.metrics.surface_metrics` or one like it."""
    pred, target = (torch.as_tensor(x) == 1 for x in (y_pred, y))
    if pred.shape != target.shape:
        raise ValueError(f"y_pred and y should have same shapes, got {pred.shape} and {target.shape}.")
    if pred.ndim < 3:
        raise ValueError(f"y_pred should have at least three dimensions, got shape {tuple(pred.shape)}.")
    first = 0 if include_background or pred.shape[1] == 1 else 1
    if distance_metric != "euclidean":
        spacing = None
    measured = measure(
        pred[:, first:], target[:, first:], _spacing(spacing, pred), distance=distance_metric,
        spatial_dims=pred.ndim - 2, **options,
    )  # fmt: skip
    if pred.device.type == "cpu":
        for what, empty in (("ground truth", measured.target_empty), ("prediction", measured.pred_empty)):
            for c in empty.any(0).nonzero().flatten().tolist():
                if c + first != ignore_index:
                    warnings.warn(
                        f"the {what} of class {c + first} is all 0, this may result in nan/inf distance.",
                        stacklevel=3,
                    )
    return measured


def _ranked(y_pred: Tensor, y: Tensor | None) -> Tensor:
    if y_pred.ndim < 3:
        raise ValueError("y_pred should have at least three dimensions.")
    if y is None:
        raise ValueError("y: expected a tensor or a list of them like y_pred, got None")
    return y


def _empty(on_empty: str | float | None, theirs: str) -> str | float:
    return theirs if on_empty is None else on_empty


def _without_ignored(y_pred: Tensor, y: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Masks without the voxels to ignore: of that class, or of no class where there is no such class."""
    if ignore_index is None:
        return y_pred, y
    if y.shape[1] == 1:
        ignored = arguments.where_equal(y, ignore_index)
        if ignored is None:
            return y_pred, y
        keep = ~ignored
    elif 0 <= ignore_index < y.shape[1]:
        keep = y[:, ignore_index : ignore_index + 1] != 1
    else:
        keep = (y != 0).any(1, keepdim=True)
    return (y_pred == 1) & keep, (y == 1) & keep


def _spacing(spacing: Any, masks: Tensor) -> Any:
    """What MONAI takes as spacing, in the form that :func:`dtkernels.metrics.surface_metrics` takes."""
    if spacing is None or isinstance(spacing, (int, float, Tensor)):
        return spacing
    dims = masks.ndim - 2
    try:
        rows = np.asarray(spacing, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"spacing: expected a number, {dims} numbers, or {dims} numbers for each of {masks.shape[0]} samples, "
            f"got {spacing!r}"
        ) from None
    if rows.ndim == 2 and rows.shape[1] == 1:
        rows = rows.repeat(dims, 1)
    if rows.shape == (masks.shape[0], dims):
        return torch.from_numpy(rows).to(masks.device, non_blocking=True)
    if rows.shape != (dims,):
        raise ValueError(
            f"spacing: expected a number, {dims} numbers, or {dims} numbers for each of {masks.shape[0]} samples, "
            f"got {spacing!r}"
        )
    return rows.tolist()
