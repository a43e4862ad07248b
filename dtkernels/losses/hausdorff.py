"""The Hausdorff loss by distance transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import SpacingLike
from ..batching import is_transformed
from ..boundary_distances import inside_, to_boundary_
from ..distance_sums import over_space
from ._sums import HausdorffSums, WeightedSquaredError
from .segmentation import SegmentationLoss, Truth, check_choice, check_number


class Variant(NamedTuple):
    """What weighs the error."""

    to_distance_: Callable[[Tensor], Tensor]
    of_prediction: bool  # the prediction's distances are added to the target's


VARIANTS = {
    "two_sided": Variant(to_boundary_, of_prediction=True),
    "ma2020": Variant(inside_, of_prediction=True),
    "one_sided": Variant(to_boundary_, of_prediction=False),
}


class HausdorffDTLoss(SegmentationLoss):
    r"""Squared error, weighted by how far a voxel is from the boundaries of prediction and target.

    .. math:: L = \frac{1}{N} \sum_v (p_v - g_v)^2 \left( d_P(v)^\alpha + d_G(v)^\alpha \right)

    per sample and class, with the probabilities :math:`p`, the target :math:`g`, and the distances :math:`d_P`,
    :math:`d_G` to the boundaries of the masks :math:`p > 0.5` and :math:`g > 0.5`: on both sides of a boundary
    the distance to the nearest voxel centre of the other side, in the unit of ``spacing``.

    The result is float32 (float64 for a float64 input) whatever the other dtypes are and also under autocast; not
    negative; and finite: a mask that is empty or full has no boundary, its distances are 0. A class that is
    absent from both costs 0, one that is missed entirely costs what the other mask's distances give.

    The distances are constants of the prediction: the gradient is :math:`2 (p - g) (d_P^\alpha + d_G^\alpha) / N`,
    with respect to ``input`` alone, and there is a second one. Nothing is read back to the host,
    ``torch.compile(fullgraph=True)`` traces the loss, and ``torch.func`` differentiates and maps it. Beside input
    and target it needs at most three float32 maps of the input's size at a time, one of which is the activation's
    result, and keeps that one and one more for the gradient. A bool map of that size is added with
    ``ignore_index``.

    With one channel, ``softmax``, ``to_onehot_y`` and ``include_background=False`` are ignored with a warning.

    References:
        Karimi & Salcudean, Reducing the Hausdorff distance in medical image segmentation with convolutional neural
        networks, IEEE TMI 39(2), 2020, arXiv:1904.10030. Ma et al., How distance transform maps boost segmentation
        CNNs: an empirical study, MIDL 2020.

    See Also:
        :doc:`/losses/HausdorffDTLoss`: when to use it, its defaults and why, its gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import HausdorffDTLoss
    >>> logits = torch.zeros(2, 3, 8, 8, 8, requires_grad=True)
    >>> labels = torch.zeros(2, 1, 8, 8, 8, dtype=torch.uint8)
    >>> labels[:, :, 2:5, 2:5, 2:5] = 1
    >>> labels[:, :, 5:7, 5:7, 5:7] = 2
    >>> loss = HausdorffDTLoss(softmax=True, to_onehot_y=True)
    >>> value = loss(logits, labels, spacing=(2.0, 0.5, 0.5))
    >>> value.backward()
    >>> print(f"{value.item():.4f}")
    2.3485
    """

    def __init__(
        self,
        alpha: float = 2.0,
        include_background: bool = False,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: str = "mean",
        batch: bool = False,
        *,
        variant: str = "two_sided",
        ignore_index: int | None = None,
    ) -> None:
        r"""Choose what is compared and how it is averaged; the first arguments are MONAI's.

        Args:
            alpha: exponent of the distances, not negative. 2 and 1 are fastest. With 0 every distance weighs 1 but
                a distance of 0, which weighs 0 as with any other exponent.
            include_background: if False (the default), channel 0 is not scored, and no map of it is computed.
            to_onehot_y: ``target`` is a label map; its distance maps are made without a one-hot tensor, and labels
                that name no channel belong to no class.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input (in float32 or float64) instead.
            reduction: ``"mean"`` or ``"sum"`` over samples and classes, or ``"none"``: (B, C, 1, 1[, 1]).
            batch: average over the voxels of all samples together, before ``reduction``; ``"none"`` then gives
                (1, C, 1, 1[, 1]).
            variant: ``"two_sided"``: as above, Karimi & Salcudean's and MONAI's. ``"ma2020"``: :math:`d` is 0
                outside of the masks, as in Ma et al.'s code; a false-positive island then costs the same wherever
                it lies. ``"one_sided"``: :math:`d_G` alone, with distances on both sides; one transform less.
            ignore_index: voxels that neither cost anything nor count in the mean, and that the masks of prediction
                and target leave outside of every class. Of a label map, and of a target with a single channel: the
                voxels with this value. Of a target with a channel per class: those where channel ``ignore_index``
                is set (it may be one channel more than the input has, as nnU-Net's targets carry it), or, where
                there is no such channel, those where no channel is set. A sample that is ignored entirely costs 0.

        Raises:
            TypeError: ``other_act`` is not callable, ``alpha`` or ``ignore_index`` no number, an unsupported
                dtype.
            ValueError: more than one activation, an unknown word, ``alpha`` negative; when called, an input
                without 2 or 3 spatial dimensions, a target of another shape or that requires a gradient, an unfit
                spacing.
        """
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, batch, ignore_index
        )
        self.alpha = check_number("alpha", alpha)
        self.variant = check_choice("variant", variant, VARIANTS)

    def _per_class(self, input: Tensor, truth: Truth, spacing: SpacingLike) -> Tensor:
        if self.alpha in (1, 2) and truth.is_summed(input):
            p = self._probabilities(input, truth)
            sums = truth.sums(HausdorffSums, p, spacing, int(self.alpha), self.variant)
            return self._mean(sums, truth)
        squared = self.alpha == 2
        if truth.given is not None:
            weight = truth.given.pow(self.alpha) if self.alpha else truth.given.sign()
        else:
            weight = self._powers_(truth.sdf(spacing, squared=squared))
        p = self._probabilities(input, truth)
        if VARIANTS[self.variant].of_prediction:
            of_prediction = self._powers_(truth.sdf_of(p, spacing, squared=squared))
            weight = weight + of_prediction if is_transformed() else weight.add_(of_prediction)
            del of_prediction
        truth.hide_(weight)
        sums = WeightedSquaredError.apply(p, weight, truth.values, truth.first)  # type: ignore[no-untyped-call]
        return self._mean(sums, truth)

    def _powers_(self, sdf: Tensor) -> Tensor:
        distance = VARIANTS[self.variant].to_distance_(sdf)
        if self.alpha == 0:
            return distance.sign_()
        return distance if self.alpha in (1, 2) else distance.pow_(self.alpha)  # 2: it is squared already

    def _unreduced(self, per_class: Tensor, truth: Truth) -> Tensor:
        return over_space(per_class, truth.values)


class LogHausdorffDTLoss(HausdorffDTLoss):
    r"""Logarithm of the Hausdorff loss, :math:`\log(1 + L)`, after the reduction.

    It flattens the squared distances: the gradient of a prediction with errors far from the boundary is divided
    by :math:`1 + L`. Arguments, results and errors are those of :class:`HausdorffDTLoss`; with
    ``reduction="none"`` the logarithm is taken per sample and class.

    See Also:
        :doc:`/losses/LogHausdorffDTLoss`: when to use it, its defaults and why, its gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import LogHausdorffDTLoss
    >>> target = torch.zeros(1, 1, 16, 16)
    >>> target[..., 4:12, 4:12] = 1
    >>> loss = LogHausdorffDTLoss(include_background=True)
    >>> print(f"{loss(torch.full_like(target, 0.6), target).item():.4f}")
    1.3545
    """

    def forward(
        self, input: Tensor, target: Tensor, spacing: SpacingLike = None, *, maps: Tensor | None = None
    ) -> Tensor:
        """As :meth:`HausdorffDTLoss.forward`."""
        return torch.log1p(super().forward(input, target, spacing, maps=maps))
