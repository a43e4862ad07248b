"""Overlap of volumes: counts of voxels, so spacing cancels out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from torch import Tensor

from . import masks, readers
from .surface import BOTH_EMPTY


@dataclass(frozen=True, eq=False)
class OverlapMetrics(Mapping[str, Tensor]):
    """Float32 tensors of the batch's shape, (B, C) for (B, C, \\*spatial) masks; as a mapping, by field name."""

    dice: Tensor  #: 0 .. 1
    jaccard: Tensor  #: 0 .. 1
    voe: Tensor  #: volumetric overlap error, 1 - Jaccard
    rvd: Tensor  #: relative volume difference, positive for too much
    global_dice: Tensor  #: Dice over all samples together (DG), of shape (C,)

    def __getitem__(self, key: str) -> Tensor:
        """One metric by name."""
        if key not in set(self):
            raise KeyError(key)
        value: Tensor = getattr(self, key)
        return value

    def __iter__(self) -> Iterator[str]:
        """Names of the metrics."""
        return (f.name for f in fields(self))

    def __len__(self) -> int:
        """How many metrics."""
        return len(fields(self))


def overlap_metrics(
    pred: Tensor,
    target: Tensor,
    *,
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
) -> OverlapMetrics:
    r"""Dice per case and over all cases, Jaccard, VOE and RVD of all samples and classes.

    .. math::

        \mathrm{Dice} = \frac{2 |P \cap T|}{|P| + |T|} \qquad
        \mathrm{Jaccard} = \frac{|P \cap T|}{|P \cup T|} \qquad
        \mathrm{VOE} = 1 - \mathrm{Jaccard} \qquad
        \mathrm{RVD} = \frac{|P| - |T|}{|T|}

    Global Dice takes the sums over the samples first, so that large objects count for more and a small one
    that is missed costs little.

    Args:
        pred: as in :func:`.surface_metrics`.
        target: as in :func:`.surface_metrics`.
        on_both_empty: where neither mask has a voxel, ``"nan"`` (0/0; surface-distance's and, for an empty
            target, MONAI's choice) or ``"perfect"``: Dice and Jaccard 1, VOE and RVD 0 (MedPy's choice).
            With one mask empty Dice and Jaccard are 0 and VOE is 1; RVD is -1 for an empty prediction and
            +inf for an empty target (MedPy raises).
        include_background: whether class 0 is measured.
        num_classes: given, ``pred`` and ``target`` are integer label maps.
        spatial_dims: as in :func:`.surface_metrics`.

    Returns:
        :class:`OverlapMetrics`. Counts are exact integers. Nothing is read back to the host.

    Raises:
        TypeError, ValueError: as :func:`.surface_metrics`.

    References:
        Heimann et al., Comparison and Evaluation of Methods for Liver Segmentation from CT Datasets, IEEE TMI
        28, 2009.

    >>> import torch
    >>> pred, target = torch.tensor([[[1, 1, 0]], [[0, 0, 0]]]), torch.tensor([[[0, 1, 1]], [[0, 1, 0]]])
    >>> result = overlap_metrics(pred, target, spatial_dims=1)
    >>> result.dice, result.global_dice
    (tensor([[0.5000],
            [0.0000]]), tensor([0.4000]))
    """
    masks.choice("on_both_empty", on_both_empty, BOTH_EMPTY)
    images = masks.pair(pred, target, spatial_dims, num_classes, include_background)
    p, t = (m.all().flatten(2) for m in (images.pred, images.target))
    both, in_pred, in_target = (x.sum(-1).reshape(images.lead) for x in (p & t, p, t))

    total = in_pred + in_target

    def ratio(part: Tensor, whole: Tensor, empty: float) -> Tensor:
        value = part.double() / whole
        return value if on_both_empty == "nan" else value.masked_fill(total == 0, empty)

    jaccard = ratio(both, total - both, 1.0)
    samples = 0 if images.lead else ()
    shared, whole = both.sum(samples), total.sum(samples)
    nothing = 1.0 if on_both_empty == "perfect" else math.nan
    return OverlapMetrics(
        dice=ratio(2 * both, total, 1.0).float(),
        jaccard=jaccard.float(),
        voe=(1 - jaccard).float(),
        rvd=ratio(in_pred - in_target, in_target, 0.0).float(),
        global_dice=(2 * shared.double() / whole).masked_fill(whole == 0, nothing).float(),
    )


@readers.of(overlap_metrics)
def dice(result: OverlapMetrics) -> Tensor:
    """Dice coefficient per case; takes what :func:`overlap_metrics` takes."""
    return result.dice


@readers.of(overlap_metrics)
def global_dice(result: OverlapMetrics) -> Tensor:
    """Dice coefficient of all samples together (DG); takes what :func:`overlap_metrics` takes."""
    return result.global_dice


@readers.of(overlap_metrics)
def jaccard(result: OverlapMetrics) -> Tensor:
    """Jaccard coefficient per case; takes what :func:`overlap_metrics` takes."""
    return result.jaccard


@readers.of(overlap_metrics)
def volumetric_overlap_error(result: OverlapMetrics) -> Tensor:
    """VOE, 1 - Jaccard, per case; takes what :func:`overlap_metrics` takes."""
    return result.voe


@readers.of(overlap_metrics)
def relative_volume_difference(result: OverlapMetrics) -> Tensor:
    """RVD, positive where the prediction is too large, per case; takes what :func:`overlap_metrics` takes."""
    return result.rvd
