"""Metrics for torchmetrics (1.4 or newer), whose states are sums, so that any number of processes adds up.

>>> import torch
>>> from dtkernels.compat.torchmetrics import SurfaceMetric
>>> metric = SurfaceMetric(num_classes=3, input_format="index", tolerances=(1.0,))
>>> target = torch.zeros(2, 12, 12, dtype=torch.long)
>>> target[:, 2:5, 2:5] = 1
>>> target[:, 8:10] = 2
>>> pred = target.roll(3, dims=-1)
>>> pred[1][pred[1] == 1] = 0  # missed
>>> metric.update(pred, target)
>>> result = metric.compute()
>>> result["hd95"], result["hd95_infinite"]
(tensor([3., 0.]), tensor([1, 0]))

:class:`SurfaceMetric` measures everything of :func:`dtkernels.metrics.surface_metrics` at once, and says how many
cases its means leave out. :class:`HausdorffDistance` and :func:`hausdorff_distance` stand in for those of
``torchmetrics.segmentation`` and ``torchmetrics.functional.segmentation``, with their constructors and input
formats. Differences, on purpose:

* torchmetrics 1.9 is wrong on 2-D images that are not square and raises on 3-D ones; here both are right;
* a class that neither mask has raises there (a maximum of nothing); here it is nan, and left out of the mean;
* all samples and classes in one pass, not one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..arguments import SpacingLike
from ..metrics import surface_metrics
from ..metrics.masks import choice
from ..optional import require

__all__ = ["HausdorffDistance", "SurfaceMetric", "hausdorff_distance"]

# No "from __future__ import annotations" here: people script their metrics, and TorchScript wants types.

Metric: Any = require("torchmetrics", "dtkernels.compat.torchmetrics", extra="torchmetrics").Metric

FORMATS = ("one-hot", "index", "mixed")


def hausdorff_distance(
    preds: Tensor,
    target: Tensor,
    num_classes: int,
    include_background: bool = False,
    distance_metric: str = "euclidean",
    spacing: SpacingLike = None,
    directed: bool = False,
    input_format: str = "one-hot",
) -> Tensor:
    """Hausdorff distance (N, C) of every sample and class: inf where one mask is empty, nan where both are.

    Args:
        preds: (N, C, \\*spatial) one-hot (floating point: logits, whose largest counts) or (N, \\*spatial) labels.
        target: as ``preds``, as ``input_format`` says.
        num_classes: the background included.
        include_background: whether class 0 is measured.
        distance_metric: ``"euclidean"``, ``"chessboard"`` or ``"taxicab"``; the last two take no spacing.
        spacing: as in :func:`dtkernels.edt`.
        directed: from ``preds`` to ``target`` only.
        input_format: ``"one-hot"``, ``"index"``, or ``"mixed"`` for one of each.

    Raises:
        ValueError: unknown words, a number of classes below 1, shapes that do not fit.

    >>> import torch
    >>> labels = torch.tensor([[[0, 1, 1, 0], [0, 0, 1, 0], [2, 0, 0, 0]]])
    >>> hausdorff_distance(labels, labels.roll(1, -1), num_classes=3, input_format="index")
    tensor([[1., 1.]])
    """
    _check(num_classes, include_background, input_format)
    masks = _masks(preds, target, num_classes, include_background, input_format)
    return surface_metrics(
        *masks, _given(spacing, distance_metric), percentiles=(), tolerances=(), directed=directed,
        distance=distance_metric, spatial_dims=masks[0].ndim - 2,
    ).hd  # fmt: skip


class HausdorffDistance(Metric):  # type: ignore[misc]
    """Mean over all samples and classes in which a mask has anything of :func:`hausdorff_distance`.

    A single missed class makes it inf, as in torchmetrics; :class:`SurfaceMetric` counts misses apart.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound: float = 0.0

    score: Tensor
    total: Tensor

    def __init__(
        self,
        num_classes: int,
        include_background: bool = False,
        distance_metric: str = "euclidean",
        spacing: SpacingLike = None,
        directed: bool = False,
        input_format: str = "one-hot",
        **kwargs: Any,
    ) -> None:
        """See the class."""
        super().__init__(**kwargs)
        _check(num_classes, include_background, input_format)
        self.num_classes = num_classes
        self.include_background = include_background
        self.distance_metric = distance_metric
        self.spacing = spacing
        self.directed = directed
        self.input_format = input_format
        self.add_state("score", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch."""
        values = hausdorff_distance(
            preds, target, self.num_classes, self.include_background, self.distance_metric, self.spacing,
            self.directed, self.input_format,
        )  # fmt: skip
        known = ~values.isnan()
        self.score += values.masked_fill(~known, 0).sum()
        self.total += known.sum()

    def compute(self) -> Tensor:
        """The mean; nan without any case."""
        return self.score / self.total

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """A figure of one or several values."""
        return self._plot(val, ax)


class SurfaceMetric(Metric):  # type: ignore[misc]
    """Every surface metric per class over all batches and processes, with counts of what the means leave out.

    :meth:`compute` returns a dict: for each name of :class:`dtkernels.metrics.SurfaceMetrics` (``"hd"``,
    ``"hd95"``, ``"asd"``, ``"assd"``, ``"msd"``, ``"rmsd"``, ``"nsd@1"``, ...) the mean over finite values, and
    under ``name + "_infinite"`` and ``name + "_undefined"`` how many values were inf (missed objects) or nan
    (classes that neither mask has). Each is of shape (classes,), or a scalar over all with ``per_class=False``;
    torchmetrics turns a single class into a scalar, too. A mean of nothing is nan, never 0.

    Args:
        num_classes: the background included.
        include_background: whether class 0 is measured.
        input_format: ``"one-hot"``, ``"index"`` or ``"mixed"``, as :func:`hausdorff_distance`.
        spacing: of all batches; :meth:`update` takes one for its batch instead.
        definition: as :func:`dtkernels.metrics.surface_metrics`, like the following.
        percentiles: one or several.
        tolerances: one or several.
        directed: from ``preds`` to ``target`` only.
        on_empty: value where one mask is empty; inf is counted apart, ``"diagonal"`` or a number enters the mean.
        per_class: whether there is a value for each class.
        kwargs: torchmetrics' own, such as ``sync_on_compute``.
    """

    is_differentiable = False
    full_state_update = False

    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        num_classes: int,
        include_background: bool = False,
        input_format: str = "one-hot",
        spacing: SpacingLike = None,
        definition: str = "monai",
        percentiles: float | Sequence[float] = (95,),
        tolerances: float | Sequence[float] = (1.0,),
        directed: bool = False,
        on_empty: str | float = "inf",
        per_class: bool = True,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        super().__init__(**kwargs)
        _check(num_classes, include_background, input_format)
        self.num_classes = num_classes
        self.include_background = include_background
        self.input_format = input_format
        self.spacing = spacing
        self.per_class = per_class
        self.options: dict[str, Any] = {
            "definition": definition, "percentiles": percentiles, "tolerances": tolerances, "directed": directed,
            "on_empty": on_empty,
        }  # fmt: skip
        nothing = torch.zeros(1, 1, 2, 2)
        self.names = tuple(surface_metrics(nothing, nothing, **{**self.options, "on_empty": "inf"}))
        classes = num_classes if include_background or num_classes == 1 else num_classes - 1
        shape = (len(self.names), classes)
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(3, *shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, spacing: SpacingLike = None) -> None:
        """Add a batch; ``spacing`` may have a row per sample."""
        masks = _masks(preds, target, self.num_classes, self.include_background, self.input_format)
        measured = surface_metrics(
            *masks, self.spacing if spacing is None else spacing, spatial_dims=masks[0].ndim - 2, **self.options
        )
        values = torch.stack([measured[name] for name in self.names])  # (metrics, samples, classes)
        finite = values.isfinite()
        self.sums += values.masked_fill(~finite, 0).sum(1, dtype=self.sums.dtype)
        self.counts += torch.stack([finite.sum(1), values.isinf().sum(1), values.isnan().sum(1)])

    def compute(self) -> dict[str, Tensor]:
        """Means and counts by name."""
        sums, counts = (x if self.per_class else x.sum(-1) for x in (self.sums, self.counts))
        means = (sums / counts[0]).float()
        result = dict(zip(self.names, means, strict=True))
        for kind, numbers in (("infinite", counts[1]), ("undefined", counts[2])):
            result |= {f"{name}_{kind}": n for name, n in zip(self.names, numbers, strict=True)}
        return result


def _check(num_classes: int, include_background: bool, input_format: str) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes: expected a positive int, got {num_classes!r}")
    if not isinstance(include_background, bool):
        raise ValueError(f"include_background: expected a bool, got {include_background!r}")
    choice("input_format", input_format, FORMATS)


def _given(spacing: SpacingLike, distance_metric: str) -> SpacingLike:
    """Spacing has a part in Euclidean distances only. A 1-D tensor, as torchmetrics takes it, is a list here."""
    if distance_metric != "euclidean":
        return None
    return spacing.tolist() if isinstance(spacing, Tensor) and spacing.ndim < 2 else spacing


def _masks(
    preds: Tensor, target: Tensor, num_classes: int, include_background: bool, input_format: str
) -> tuple[Tensor, Tensor]:
    """One-hot masks (N, C, \\*spatial) of the measured classes."""
    difference = preds.ndim - target.ndim
    if (input_format == "mixed") != (difference != 0) or abs(difference) > 1:
        raise ValueError(
            f"preds, target: expected {'ranks one apart' if input_format == 'mixed' else 'one rank'} with "
            f"input_format={input_format!r}, got shapes {tuple(preds.shape)} and {tuple(target.shape)}"
        )
    labels = {"one-hot": (False, False), "index": (True, True), "mixed": (difference < 0, difference > 0)}
    p, t = (
        _one_hot(x, num_classes, is_labels)
        for x, is_labels in zip((preds, target), labels[input_format], strict=True)
    )
    first = 0 if include_background or p.shape[1] == 1 else 1
    return p[:, first:], t[:, first:]


def _one_hot(x: Tensor, num_classes: int, labels: bool) -> Tensor:
    if not labels and x.is_floating_point():
        x, labels = x.argmax(1), True
    return one_hot(x.long(), num_classes).movedim(-1, 1).bool() if labels else x
