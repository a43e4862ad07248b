"""Lesion by lesion: every connected component of the target weighs the same, however small it is.

==================  ================================================  ==========================================
``matching=``       ``"voronoi"``                                     ``"iou"``
==================  ================================================  ==========================================
as in               MONAI's CC-Dice, CC-Metrics                       panoptica
partner             all that is predicted nearer to this lesion       the predicted component that overlaps most,
                    than to any other                                 each with one at most, from ``threshold``
mean over           all lesions of the target                         the pairs
``missed``          lesions that the prediction touches nowhere       lesions without a partner
``spurious``        predicted components that touch no lesion         predicted components without a partner
==================  ================================================  ==========================================

The Voronoi cells are those of :func:`dtkernels.nearest`; a voxel as near to two lesions belongs to the one whose
nearest voxel comes first in raster order (MONAI leaves that to SciPy). MONAI connects voxels across corners,
panoptica across faces or corners as the backend that it chooses by size does; here ``connectivity`` says.
panoptica's HD and HD95 are those of ``definition="medpy"``; its NSD averages the two surfaces' shares, which no
definition here does.

References:
    Jaus et al., Every Component Counts: Rethinking the Measure of Success for Medical Semantic Segmentation in
    Multi-Instance Segmentation Tasks, AAAI 2025 (arXiv:2410.18684).
    Kofler et al., Panoptica: instance-wise evaluation of 3D semantic and instance segmentation maps,
    arXiv:2312.02608, 2023.
    Kirillov et al., Panoptic Segmentation, CVPR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import arguments, functional
from ..arguments import SpacingLike
from . import masks
from .packed import cropped
from .surface import surface_metrics

Array = NDArray[Any]

MATCHINGS = ("voronoi", "iou")


class Lesion(NamedTuple):
    """One component of a target, in ``LesionMetrics.lesions``."""

    image: tuple[int, ...]  # position in the batch
    label: int  # number of the component, as :func:`dtkernels.label` counts
    voxels: int
    matched: bool
    values: dict[str, float]  # by name; of lesions without a partner only with matching="voronoi"


@dataclass(frozen=True, eq=False)
class LesionMetrics(Mapping[str, Tensor]):
    """Float32 tensors of the batch's shape, nan where there is no lesion (no pair) to average over.

    As a mapping: ``"dice"``, ``"iou"`` and the names of :class:`.SurfaceMetrics`, means over lesions or pairs, and
    ``"rq"``, ``"sq"``, ``"pq"``.
    """

    means: dict[str, Tensor]
    found: Tensor  #: int64: lesions that were found (pairs)
    missed: Tensor  #: int64: lesions that were not
    spurious: Tensor  #: int64: predicted components that are no lesion
    lesions: list[Lesion]  #: every lesion with its own values

    def __getitem__(self, key: str) -> Tensor:
        """One metric by name."""
        return self.means[key]

    def __iter__(self) -> Iterator[str]:
        """Names of the metrics."""
        return iter(self.means)

    def __len__(self) -> int:
        """How many metrics."""
        return len(self.means)


def lesion_metrics(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    matching: str = "voronoi",
    threshold: float = 0.5,
    connectivity: int | None = None,
    definition: str = "monai",
    percentiles: float | Sequence[float] = (95,),
    tolerances: float | Sequence[float] = (1.0,),
    on_empty: str | float = "inf",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
) -> LesionMetrics:
    r"""Dice, IoU, HD, its percentiles, ASSD and NSD of every lesion with its partner, and their means.

    With pairs matched by IoU, TP pairs, FP and FN components left over:

    .. math::

        \mathrm{RQ} = \frac{TP}{TP + FP/2 + FN/2} \qquad \mathrm{SQ} = \frac{1}{TP} \sum \mathrm{IoU} \qquad
        \mathrm{PQ} = \mathrm{RQ} \cdot \mathrm{SQ}

    With Voronoi cells the same formulas count lesions that are touched, missed and spurious components.

    Args:
        pred: as in :func:`.surface_metrics`, on a CPU.
        target: as in :func:`.surface_metrics`.
        spacing: as in :func:`.surface_metrics`; also of the Voronoi cells (MONAI: 1).
        matching: ``"voronoi"`` or ``"iou"``, see the table of this module.
        threshold: the least IoU of a pair, for ``"iou"``. Pairs are taken from the greatest IoU down.
        connectivity: of components, 1 (faces) to the number of spatial dimensions (default).
        definition: of the distances, as in :func:`.surface_metrics`.
        percentiles: as in :func:`.surface_metrics`.
        tolerances: as in :func:`.surface_metrics`.
        on_empty: as in :func:`.surface_metrics`: distances of a lesion in whose cell nothing is predicted;
            ``"diagonal"`` is the image's. Its Dice, IoU and NSD are 0.
        include_background: whether class 0 is measured.
        num_classes: given, ``pred`` and ``target`` are integer label maps.
        spatial_dims: as in :func:`.surface_metrics`.

    Returns:
        :class:`LesionMetrics`. A target without a lesion has nan means. An infinite distance makes its image's
        mean infinite; ``lesions`` has every value. Not differentiable.

    Raises:
        TypeError, ValueError: as :func:`.surface_metrics`; ``threshold`` is not from 0 to 1.
        NotImplementedError: tensors that are not on a CPU, where components cannot be numbered yet.

    >>> import torch
    >>> target = torch.zeros(1, 1, 12, 12)
    >>> target[..., 1:7, 1:7] = 1
    >>> target[..., 10, 10] = 1  # small, and missed
    >>> pred = torch.zeros_like(target)
    >>> pred[..., 1:7, 2:7] = 1
    >>> result = lesion_metrics(pred, target)
    >>> result["dice"], result.missed, lesion_metrics(pred, target, matching="iou")["rq"]
    (tensor([[0.4545]]), tensor([[1]]), tensor([[0.6667]]))
    """
    masks.choice("matching", matching, MATCHINGS)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a number from 0 to 1, got {threshold!r}")
    images = masks.pair(pred, target, spatial_dims, num_classes, include_background)
    if pred.device.type != "cpu":
        raise NotImplementedError(f"pred: expected a tensor on a CPU to number its components, got {pred.device}")
    dims = images.dims
    rows = masks.host_or_rows(spacing, images)
    connectivity = arguments.check_connectivity(dims if connectivity is None else connectivity, dims)
    options: dict[str, Any] = {
        "definition": definition, "percentiles": percentiles, "tolerances": tolerances, "spatial_dims": dims,
        "on_empty": on_empty,
    }  # fmt: skip
    names = _names(options)
    samples, classes = images.pred.shape[:2]
    counts = torch.zeros(3, samples, classes, dtype=torch.int64)
    means = torch.full((len(names) + 3, samples, classes), math.nan, dtype=torch.float64)
    lesions: list[Lesion] = []
    for b in range(samples):
        row = rows[b].tolist() if isinstance(rows, Tensor) else rows
        if on_empty == "diagonal":
            sides = zip(images.spatial, row or [1.0] * dims, strict=True)
            options["on_empty"] = math.hypot(*(n * s for n, s in sides))
        for k in range(classes):
            # nothing outside the box around both has a part in cells or components
            p, t = map(torch.from_numpy, cropped([(m.name, m.stored(b, k)) for m in (images.pred, images.target)]))
            parts = (_cells if matching == "voronoi" else _overlapping)(p, t, row, connectivity, threshold)
            values = _measure(parts, row, names, options)
            at = np.unravel_index(b * classes + k, images.lead) if images.lead else ()
            for label, (size, matched) in enumerate(zip(parts.sizes, parts.matched, strict=True), 1):
                lesions.append(Lesion(tuple(map(int, at)), label, size, matched, values.get(label, {})))
            found, spurious = sum(parts.matched), parts.spurious
            missed = len(parts.matched) - found
            counts[:, b, k] = torch.tensor([found, missed, spurious])
            if values:
                every = torch.tensor([list(v.values()) for v in values.values()], dtype=torch.float64)
                means[: len(names), b, k] = every.mean(0)
            if found + missed + spurious:
                quality = found / (found + missed / 2 + spurious / 2)
                iou = [values[label]["iou"] for label, m in enumerate(parts.matched, 1) if m]
                segmentation = sum(iou) / len(iou) if iou else math.nan
                means[len(names) :, b, k] = torch.tensor(
                    [quality, segmentation, quality * segmentation if iou else 0.0], dtype=torch.float64
                )
    found_, missed_, spurious_ = (c.reshape(images.lead) for c in counts)
    return LesionMetrics(
        {name: m.float().reshape(images.lead) for name, m in zip((*names, "rq", "sq", "pq"), means, strict=True)},
        found_, missed_, spurious_, lesions,
    )  # fmt: skip


class _Parts(NamedTuple):
    """Label maps in which a lesion and its partner have one number."""

    pred: Array  # 0 where nothing is anybody's partner
    target: Array
    sizes: list[int]  # voxels of each lesion
    matched: list[bool]
    measured: list[int]  # lesions that have values
    spurious: int


def _cells(
    pred: Tensor, target: Tensor, spacing: list[float] | None, connectivity: int, threshold: float
) -> _Parts:
    """Everything predicted belongs to the lesion that is nearest."""
    del threshold
    dims = target.ndim
    labels, number = functional.label(target, connectivity=connectivity, spatial_dims=dims)
    count = int(number)
    predicted, number = functional.label(pred, connectivity=connectivity, spatial_dims=dims)
    touching = torch.unique(predicted[target & pred])
    spurious = int(number) - len(touching)
    owned = torch.zeros_like(labels)
    if count:
        _, index = functional.nearest(~target, spacing, spatial_dims=dims)
        owned = torch.where(pred, labels.flatten()[index.flatten()].reshape(labels.shape), 0)
    hit = np.bincount(labels[target & pred].numpy(), minlength=count + 1)[1:] > 0
    sizes = np.bincount(labels.numpy().ravel(), minlength=count + 1)[1:]
    return _Parts(owned.numpy(), labels.numpy(), sizes.tolist(), hit.tolist(), list(range(1, count + 1)), spurious)


def _overlapping(
    pred: Tensor, target: Tensor, spacing: list[float] | None, connectivity: int, threshold: float
) -> _Parts:
    """One predicted component at most for a lesion, the greatest IoU first."""
    del spacing
    found = [functional.label(x, connectivity=connectivity, spatial_dims=x.ndim) for x in (target, pred)]
    (labels, n), (predicted, m) = ((x.numpy(), int(count)) for x, count in found)
    sizes, others = (np.bincount(x.ravel(), minlength=c + 1) for x, c in ((labels, n), (predicted, m)))
    both = (labels > 0) & (predicted > 0)
    pairs, shared = np.unique(labels[both].astype(np.int64) * (m + 1) + predicted[both], return_counts=True)
    lesion, other = np.divmod(pairs, m + 1)
    iou = shared / (sizes[lesion] + others[other] - shared)
    partner = np.zeros(n + 1, np.int64)  # lesion -> predicted component
    number = np.zeros(m + 1, np.int32)  # and back
    for k in np.argsort(-iou, kind="stable"):
        if iou[k] >= threshold and not partner[lesion[k]] and not number[other[k]]:
            partner[lesion[k]], number[other[k]] = other[k], lesion[k]
    matched = (partner[1:] > 0).tolist()
    pairs_of = [label for label, has in enumerate(matched, 1) if has]
    return _Parts(number[predicted], labels, sizes[1:].tolist(), matched, pairs_of, m - len(pairs_of))


def _measure(
    parts: _Parts, spacing: list[float] | None, names: tuple[str, ...], options: dict[str, Any]
) -> dict[int, dict[str, float]]:
    """Values of each lesion, within the box around it and its partner."""
    boxes = _boxes([parts.pred, parts.target], len(parts.sizes))
    result = {}
    for label in parts.measured:
        p, t = (x[boxes[label]] == label for x in (parts.pred, parts.target))
        surface = surface_metrics(torch.from_numpy(p), torch.from_numpy(t), spacing, **options)
        both, size = np.count_nonzero(p & t), np.count_nonzero(p) + np.count_nonzero(t)
        overlap = {"dice": 2 * both / size, "iou": both / (size - both)}
        result[label] = {name: float(overlap[name] if name in overlap else surface[name]) for name in names}
    return result


def _boxes(maps: list[Array], count: int) -> list[tuple[slice, ...]]:
    """By label, the box around it in all of the maps."""
    dims = maps[0].ndim
    low, high = np.full((dims, count + 1), np.iinfo(np.int64).max), np.zeros((dims, count + 1), np.int64)
    for x in maps:
        where = x.nonzero()
        labels = x[where]
        for k, at in enumerate(where):
            np.minimum.at(low[k], labels, at)
            np.maximum.at(high[k], labels, at + 1)
    return [
        tuple(slice(int(a), int(b)) for a, b in zip(low[:, n], high[:, n], strict=True)) for n in range(count + 1)
    ]


def _names(options: dict[str, Any]) -> tuple[str, ...]:
    """What is measured of a lesion; refuses options that cannot be right before any work."""
    nothing = torch.zeros((2,) * options["spatial_dims"])
    lenient = {**options, "on_empty": "inf"} if options["on_empty"] == "error" else options
    return ("dice", "iou", *surface_metrics(nothing, nothing, **lenient))
