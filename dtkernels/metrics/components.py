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

All images and lesions are measured at once, on the device where they are. The voxels of a lesion and of its
partner go into a box of their own; boxes are rounded up to a few shapes, and those of one shape are one batch for
:func:`.surface_metrics`. What lesions there are depends on the data, so a GPU is waited for: for the number of
components, for their voxels, for what overlaps, for the boxes and for the list of lesions, as often for one lesion
as for a thousand of its size.

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
from . import masks, packed
from .masks import Pair
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
        pred: as in :func:`.surface_metrics`.
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
        :class:`LesionMetrics`. A target without a lesion has nan means (MONAI after 1.6: distances of 0 where
        nothing is predicted either). An infinite distance makes its image's mean infinite; ``lesions`` has every
        value. Not differentiable.

    Raises:
        TypeError, ValueError: as :func:`.surface_metrics`; ``threshold`` is not from 0 to 1.
        RuntimeError: no backend numbers components on the device of the masks.

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
    dims = images.dims
    rows = masks.host_or_rows(spacing, images)
    connectivity = arguments.check_connectivity(dims if connectivity is None else connectivity, dims)
    names = _names(definition, percentiles, tolerances, on_empty, dims)
    samples, classes = images.pred.shape[:2]
    if isinstance(rows, Tensor):
        rows = rows.repeat_interleave(classes, 0)  # one per image
    number = samples * classes

    found = _paired(*_foreground(images), matching, rows, connectivity, threshold)
    values = found.overlap.new_full((len(names), len(found.image)), math.nan)
    values[:2] = found.overlap
    for some, p, t in _crops(found, dims):
        at = found.image[some]
        measured = surface_metrics(
            p, t, rows[at] if isinstance(rows, Tensor) else rows, definition=definition, percentiles=percentiles,
            tolerances=tolerances, spatial_dims=dims,
        )  # fmt: skip
        values[2:, some] = torch.stack([measured[name] for name in names[2:]]).double()
    lengths = slice(2, sum(not name.startswith("nsd") for name in names))  # after Dice and IoU
    missing = _missing(found, on_empty, images, rows)
    values[lengths] = torch.where(found.alone, missing, values[lengths])

    def total(x: Tensor, of: Tensor) -> Tensor:
        """Sums over the lesions of each image."""
        return _sums(x, torch.where(of, found.image, -1), number)

    every = torch.ones_like(found.matched)
    each = found.measured.double()
    means = total(values.T, found.measured) / total(each, every)[:, None]
    hits, lesions = total(found.matched.double(), every), total(each.new_ones(len(each)), every)
    spurious = found.spurious
    quality = hits / (hits + (lesions - hits) / 2 + spurious / 2)
    segmentation = total(values[1], found.matched) / hits
    product = torch.where(hits > 0, quality * segmentation, 0 * quality)
    table = torch.cat([means.T, torch.stack([quality, segmentation, product])]).float()
    counts = [x.long().reshape(images.lead) for x in (hits, lesions - hits, spurious)]
    return LesionMetrics(
        {n: m.reshape(images.lead) for n, m in zip((*names, "rq", "sq", "pq"), table, strict=True)},
        counts[0], counts[1], counts[2], _listed(found, values, names, images.lead),
    )  # fmt: skip


class _Components(NamedTuple):
    """Connected components of a batch of images, numbered from 0 through all of them."""

    labels: Tensor  # int32, of the flattened batch: as :func:`dtkernels.label` counts, image by image
    first: Tensor  # int64 (images): number of the first component of each
    image: Tensor  # int64 (components)
    voxels: Tensor  # int64 (voxels, 1 + dims): image and place of the foreground
    at: Tensor  # int64 (voxels): the same as positions in the flattened batch

    def there(self, at: Tensor, image: Tensor) -> Tensor:
        """Which component has the voxels at these positions of these images; -1: none."""
        label = self.labels[at].long()
        return torch.where(label > 0, label - 1 + self.first[image], -1)


class _Paired(NamedTuple):
    """All lesions of a batch and what was found of them; voxels as (which lesion, where)."""

    image: Tensor  # int64 (lesions): image in the batch
    label: Tensor  # int64: number of the lesion in its image
    size: Tensor  # int64: voxels
    matched: Tensor  # bool
    measured: Tensor  # bool: what has values
    alone: Tensor  # bool: measured, and nothing was predicted there
    overlap: Tensor  # float64 (2, lesions): Dice and IoU
    spurious: Tensor  # int64 (images): predicted components that are no lesion
    target: tuple[Tensor, Tensor]  # int64 (voxels), (voxels, dims)
    pred: tuple[Tensor, Tensor]  # those of a lesion's partner; -1 belongs to nobody


def _foreground(images: Pair) -> tuple[Tensor, Tensor]:
    """Both masks, bool ``(images, *spatial)``; on a CPU within the box around everything."""
    pred, target = (m.all().flatten(0, 1) for m in (images.pred, images.target))
    if pred.device.type == "cpu" and pred.numel():
        box = packed.box((pred | target).any(0).numpy())
        within = (slice(None), *(slice(*side) for side in box or [(0, 1)] * images.dims))
        pred, target = pred[within], target[within]
    return pred, target


def _components(mask: Tensor, connectivity: int) -> _Components:
    images, dims = mask.shape[0], mask.ndim - 1
    labels, count = functional.label(mask, connectivity=connectivity, spatial_dims=dims)
    count = count.long()
    image = torch.arange(images, device=mask.device).repeat_interleave(count)
    voxels = mask.nonzero()
    at = voxels[:, 0]
    for axis, side in enumerate(mask.shape[1:], 1):
        at = at * side + voxels[:, axis]
    return _Components(labels.flatten(), count.cumsum(0) - count, image, voxels, at)


def _paired(
    pred: Tensor,
    target: Tensor,
    matching: str,
    spacing: list[float] | Tensor | None,
    connectivity: int,
    threshold: float,
) -> _Paired:
    lesions, others = _components(target, connectivity), _components(pred, connectivity)
    number = len(lesions.image)
    of_target, of_pred = (x.there(x.at, x.voxels[:, 0]) for x in (lesions, others))
    here = lesions.there(others.at, others.voxels[:, 0])  # the lesion under each predicted voxel
    size = _sums(torch.ones_like(of_target), of_target, number)
    if matching == "voronoi":
        owner = _nearest_lesion(lesions, target, spacing, others)
        touches = _sums((here >= 0).long(), of_pred, len(others.image)) > 0
    else:
        partner = _one_to_one(here, of_pred, size, len(others.image), threshold)
        owner, touches = partner[of_pred], partner >= 0
    both = _sums((owner == here).long(), owner, number)
    predicted = _sums(torch.ones_like(owner), owner, number)
    union = size + predicted - both
    matched = both > 0
    measured = torch.ones_like(matched) if matching == "voronoi" else matched
    spurious = _sums((~touches).long(), others.image, len(pred))
    return _Paired(
        image=lesions.image,
        label=torch.arange(number, device=size.device) - lesions.first[lesions.image] + 1,
        size=size,
        matched=matched,
        measured=measured,
        alone=measured & (predicted == 0),
        overlap=torch.stack([2 * both.double() / (union + both), both.double() / union]),
        spurious=spurious,
        target=(of_target, lesions.voxels[:, 1:]),
        pred=(owner, others.voxels[:, 1:]),
    )


def _nearest_lesion(
    lesions: _Components, target: Tensor, spacing: list[float] | Tensor | None, others: _Components
) -> Tensor:
    """Everything predicted belongs to the lesion that is nearest; -1 where the image has none."""
    if not len(others.at):
        return others.at
    _, index = functional.nearest(~target, spacing, spatial_dims=target.ndim - 1)
    site, image = index.flatten()[others.at], others.voxels[:, 0]
    return torch.where(site < 0, -1, lesions.there(image * target[0].numel() + site.clamp(min=0), image))


def _one_to_one(here: Tensor, of_pred: Tensor, size: Tensor, others: int, threshold: float) -> Tensor:
    """The lesion of each predicted component, one component at most for a lesion, the greatest IoU first.

    A pair that is the best of those left for its lesion and for its component is one that goes through the pairs
    from the greatest IoU down would take as well, so all such pairs are taken at a time. They are few, and
    settled on the host.
    """
    both = here >= 0
    pairs, shared = torch.unique(here[both] * others + of_pred[both], return_counts=True)
    lesion, other = pairs // max(others, 1), pairs % max(others, 1)
    sizes = _sums(torch.ones_like(of_pred), of_pred, others)
    iou = shared / (size[lesion] + sizes[other] - shared).double()
    order = iou.argsort(descending=True, stable=True)
    of, to, score = (x[order].cpu().numpy() for x in (lesion, other, iou))
    of, to = of[score >= threshold], to[score >= threshold]
    partner = np.full(others, -1)
    while len(of):
        firsts = [np.isin(np.arange(len(x)), np.unique(x, return_index=True)[1]) for x in (of, to)]
        taken = firsts[0] & firsts[1]
        partner[to[taken]] = of[taken]
        left = ~(np.isin(of, of[taken]) | np.isin(to, to[taken]))
        of, to = of[left], to[left]
    return torch.from_numpy(partner).to(here.device)


# Boxes hold so many voxels at a time, a box that is larger on its own.
_VOXELS = 1 << 24


def _crops(found: _Paired, dims: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Lesions by number, and the boxes around each and its partner, bool ``(n, *box)`` of both masks."""
    number, device = len(found.image), found.image.device
    low = torch.full((number + 1, dims), 1 << 62, device=device)
    high = torch.full((number + 1, dims), -1, device=device)
    masks = [(torch.where(of < 0, number, of), at) for of, at in (found.pred, found.target)]
    for of, at in masks:
        rows = of[:, None].expand(-1, dims)
        low.scatter_reduce_(0, rows, at, "amin")
        high.scatter_reduce_(0, rows, at, "amax")
    asked = found.measured.nonzero().squeeze(1)
    sides: Array = (high[asked] + 1 - low[asked]).cpu().numpy()
    for batch in _batches(_rounded(sides)):
        # where the box of each lesion begins in one buffer, and how far its rows and planes are apart
        begin, strides = np.full(len(sides), -1), np.zeros((len(sides), dims), np.int64)
        end = 0
        for members, shape in batch:
            voxels = math.prod(shape)
            begin[members] = end + voxels * np.arange(len(members))
            strides[members] = [math.prod(shape[k + 1 :]) for k in range(dims)]
            end += voxels * len(members)
        begins = torch.full((number + 1,), -1, device=device)
        steps = torch.zeros((number + 1, dims), dtype=torch.int64, device=device)
        begins[asked], steps[asked] = torch.from_numpy(begin).to(device), torch.from_numpy(strides).to(device)
        boxes = torch.zeros(2, end + 1, dtype=torch.bool, device=device)  # the last is for all other voxels
        for box, (of, at) in zip(boxes, masks, strict=True):
            start = begins[of]
            position = start + ((at - low[of]) * steps[of]).sum(1)
            box[torch.where(start < 0, end, position)] = True
        for members, shape in batch:
            some = slice(int(begin[members[0]]), int(begin[members[-1]]) + math.prod(shape))
            p, t = (box[some].reshape(len(members), *shape) for box in boxes)
            yield asked[torch.from_numpy(members).to(device)], p, t


def _batches(shapes: Array) -> Iterator[list[tuple[Array, tuple[int, ...]]]]:
    """Lesions of one shape together, as many as there is room for."""
    kinds, kind_of = np.unique(shapes, axis=0, return_inverse=True)
    batch: list[tuple[Array, tuple[int, ...]]] = []
    room = _VOXELS
    for k, shape in enumerate(kinds.tolist()):
        members = np.flatnonzero(kind_of.reshape(-1) == k)
        step = max(1, _VOXELS // math.prod(shape))
        for some in (members[n : n + step] for n in range(0, len(members), step)):
            if batch and len(some) * math.prod(shape) > room:
                yield batch
                batch, room = [], _VOXELS
            batch.append((some, tuple(shape)))
            room -= len(some) * math.prod(shape)
    if batch:
        yield batch


def _rounded(sides: Array) -> Array:
    """Two sizes per octave from 8 on, multiples of 4 below: few shapes, and boxes little larger than need be.

    >>> _rounded(np.array([1, 4, 5, 9, 13, 17, 25, 40, 64])).tolist()
    [4, 4, 8, 12, 16, 24, 32, 48, 64]
    """
    step = 2 ** np.maximum(2, np.ceil(np.log2(sides)).astype(np.int64) - 2)
    rounded: Array = -(-sides // step) * step
    return rounded


def _missing(found: _Paired, on_empty: str | float, images: Pair, spacing: list[float] | Tensor | None) -> Tensor:
    """Distances of lesions in whose cell nothing is predicted."""
    if on_empty == "error":
        lost = found.alone.nonzero().flatten().tolist()
        if lost:
            raise ValueError(
                "on_empty: expected a prediction for every lesion with on_empty='error', got none for lesion "
                f"{int(found.label[lost[0]])} of image {_position(int(found.image[lost[0]]), images.lead)}"
                + (f" and {len(lost) - 1} more" if len(lost) > 1 else "")
            )
    if on_empty != "diagonal":
        number = math.inf if on_empty == "error" else float(on_empty)
        return torch.full((), number, dtype=torch.float64, device=found.image.device)
    sides = torch.tensor(images.spatial, dtype=torch.float64, device="cpu")
    if isinstance(spacing, Tensor):
        diagonals: Tensor = (spacing * sides.to(spacing.device)).norm(dim=1)
        return diagonals[found.image]
    diagonal: Tensor = (sides * torch.tensor(spacing or 1.0, device="cpu")).norm()
    return diagonal.to(found.image.device)


def _listed(found: _Paired, values: Tensor, names: tuple[str, ...], lead: tuple[int, ...]) -> list[Lesion]:
    """Lesions as records on the host."""
    numbers = torch.stack([found.image, found.label, found.size, found.matched, found.measured]).T.tolist()
    return [
        Lesion(
            _position(image, lead), label, size, bool(matched),
            dict(zip(names, row, strict=True)) if measured else {},
        )
        for (image, label, size, matched, measured), row in zip(numbers, values.T.tolist(), strict=True)
    ]  # fmt: skip


def _position(image: int, lead: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(image, lead))) if lead else ()


def _sums(values: Tensor, at: Tensor, number: int) -> Tensor:
    """Sums of the rows of ``values`` by what they belong to, ``number`` of them; -1 belongs to nobody."""
    result = values.new_zeros(number + 1, *values.shape[1:])
    return result.index_add_(0, torch.where(at < 0, number, at), values)[:-1]


def _names(
    definition: str,
    percentiles: float | Sequence[float],
    tolerances: float | Sequence[float],
    on_empty: str | float,
    dims: int,
) -> tuple[str, ...]:
    """What is measured of a lesion; refuses options that cannot be right before any work."""
    nothing = torch.zeros((2,) * dims, device="cpu")
    lenient = "inf" if on_empty == "error" else on_empty
    found = surface_metrics(
        nothing, nothing, definition=definition, percentiles=percentiles, tolerances=tolerances,
        on_empty=lenient, spatial_dims=dims,
    )  # fmt: skip
    return ("dice", "iou", *found)
