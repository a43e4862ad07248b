"""The region-wise loss: probability times a map of the target, whichever it is."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..arguments import SpacingLike, host_spacing, operator_spacing
from ._sums import BoundarySums, Length, spatial_axes
from .segmentation import MapLoss, Truth, check_number

# Maps that an operator makes and sums in one: whether distances inside are shorter by 1.
SHIFTS = {"edt_diff": False, "kervadec": True}


class RegionWiseLoss(MapLoss):
    r"""Mean of probability times a map of the target.

    .. math:: L = \frac{1}{N} \sum_v p_v\, Z_v

    per sample and class. With the rectified map Z (``"rrw"``, the default) a voxel's probability costs 1 outside
    of its class and earns up to 1 inside, the more the deeper it lies. With softmax the gradient is

    .. math:: \frac{\partial L}{\partial x_k} \propto p_k \sum_l p_l (Z_k - Z_l)

    so what counts is the difference between the maps of two classes. Where Z of the true class is below all
    others, as it is in a rectified map, the true logit is always pushed up. In ``"edt_diff"`` (the paper's
    "RW-Boundary") a voxel far from *every* object is dominated by the differences of large distances among the
    wrong classes: with four classes about half of the voxels with random probabilities get a gradient of the wrong
    sign in some channel. Prefer ``"rrw"`` for more than two classes.

    ``convention="ac"`` is the region term of active contours without edges, where every class has a channel;
    ``length`` adds their length term, the area of each class's surface per unit of volume,

    .. math:: + \; \frac{\lambda}{N} \sum_v \left( \sqrt{|\nabla p_v|^2 + \epsilon} - \sqrt\epsilon \right),
        \qquad \epsilon = 10^{-8},

    with forward differences of p in the unit of ``spacing``, none across the edge of the image or at an ignored
    voxel. (The public code of Chen et al. joins the differences of two diagonal neighbours under one root; here
    they are one voxel's.)

    Results, memory and devices are as of :class:`~dtkernels.losses.BoundaryLoss`; ``length`` takes two more maps.
    A class absent from the target has the map 1 throughout (``"rrw"``, ``"ac"``): its probability costs; it has 0
    with the signed maps. A class that fills its sample has the map -1 with ``"rrw"``, otherwise 0. (The convention
    itself gives 1 there, with which the one class of a patch would be pushed away.)

    References:
        Valverde & Tohka, Region-wise loss for biomedical image segmentation, Pattern Recognition 136, 2023,
        arXiv:2108.01405. Chen et al., Learning active contour models for medical image segmentation, CVPR 2019.

    See Also:
        :doc:`/losses/RegionWiseLoss`: when to use it, its defaults and why, its gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import RegionWiseLoss
    >>> labels = torch.tensor([[[[0, 0, 1, 1, 1, 0]]]])
    >>> logits = torch.zeros(1, 2, 1, 6)
    >>> RegionWiseLoss(softmax=True, to_onehot_y=True, reduction="none")(logits, labels)
    tensor([[0.0833, 0.0833]])
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: str = "mean",
        batch: bool = False,
        *,
        length: float = 0.0,
        convention: str = "rrw",
        ignore_index: int | None = None,
    ) -> None:
        r"""Choose what is compared and how it is averaged.

        Args:
            include_background: as in :class:`~dtkernels.losses.BoundaryLoss`, and so are all others.
            to_onehot_y: the target is a label map.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input instead.
            reduction: ``"mean"``, ``"sum"``, or ``"none"``: (B, C).
            batch: average over the voxels of all samples together, before ``reduction``.
            length: weight of the length term, :math:`\lambda`.
            convention: the map by name: ``"rrw"`` rectified, ``"edt_diff"`` RW-Boundary, ``"ac"`` active contour
                (1 outside, 0 inside), or any other.
            ignore_index: label of the voxels to leave out.

        Raises:
            TypeError, ValueError: as :class:`~dtkernels.losses.BoundaryLoss`, or ``length`` is no number or
                negative.
        """
        super().__init__(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            batch,
            ignore_index,
            convention,
        )
        self.length = check_number("length", length)

    def _full_class(self) -> float | None:
        return -1.0 if self.convention == "rrw" else None

    def _per_class(self, input: Tensor, truth: Truth, spacing: SpacingLike) -> Tensor:
        if self.length:
            p = self._probabilities(input, truth)
            of_length = Length.apply(p, *_inverse(spacing, p), truth.ignored)  # type: ignore[no-untyped-call]
            sums = (p * self._map(truth, spacing)).sum(spatial_axes(p)) + self.length * of_length
        elif self.convention in SHIFTS and truth.is_summed(input):
            p = self._probabilities(input, truth)
            sums = truth.sums(BoundarySums, p, spacing, SHIFTS[self.convention])
        else:
            # The map first: it is made in two tensors, and the activation's result is not there yet.
            z = self._map(truth, spacing)
            p = self._probabilities(input, truth)
            sums = (p * z).sum(spatial_axes(p))
        return self._mean(sums, truth)


def _inverse(spacing: SpacingLike, p: Tensor) -> tuple[tuple[float, ...] | None, Tensor | None]:
    """One over the spacing: a number for each spatial axis, or (B, n)."""
    dims = p.ndim - 2
    given = operator_spacing(spacing, dims)
    if not isinstance(given, Tensor):
        return tuple(1 / s for s in host_spacing(given, dims)[3 - dims :]), None
    if given.shape != (p.shape[0], dims):
        raise ValueError(f"spacing: expected shape {(p.shape[0], dims)}, got {tuple(given.shape)}")
    return None, given.reciprocal()
