"""Cross-entropy, weighted by distance maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import SpacingLike
from ._sums import BinaryCrossEntropy, WeightedLogarithm, spatial_axes
from .segmentation import MapLoss, Truth

SMALLEST = 1e-7  # of probabilities: 1 - SMALLEST is still below 1 in float32


class DistancePenalizedCELoss(MapLoss):
    r"""Cross-entropy, in which voxels near the target's boundary count more.

    .. math:: L = -\frac{1}{N} \sum_v \sum_c w_c\, g_c \log p_c

    with the map w of each class's mask: with ``"dpce"`` 2 on its boundary, falling to 1 in its core, so that a
    voxel counts by its distance to the boundary of the class it belongs to. With ``sigmoid=True``, or a single
    channel, each channel is a binary problem, whose background counts by its own distances:

    .. math:: L = -\frac{1}{N} \sum_v w \left( g \log p + (1 - g) \log (1 - p) \right)

    The authors' public code computes these weights and then returns the unweighted mean; here they count.

    With several exclusive classes the losses of the classes are parts of one sum: ``"mean"`` is the mean over
    samples of their sum over classes, as in :class:`torch.nn.CrossEntropyLoss`. Channels of their own
    (``sigmoid``) are averaged as in the other losses.

    The result is float32 (float64 for a float64 input), also under autocast, and finite: the logarithms are taken
    with the softmax or sigmoid; without an activation of this loss's own, probabilities below 1e-7 count as that.
    Beside input and target at most three float32 maps of the input's size are held at a time.

    References:
        Ma et al., Loss odyssey in medical image segmentation, Medical Image Analysis 71, 2021, eq. 6. Caliva et
        al., Distance map loss penalty term for semantic segmentation, arXiv:1908.03679.

    See Also:
        :doc:`/losses/DistancePenalizedCELoss`: when to use it, defaults and why, gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import DistancePenalizedCELoss
    >>> labels = torch.tensor([[[[0, 0, 0, 1, 1, 1]]]])
    >>> logits = torch.zeros(1, 2, 1, 6)
    >>> loss = DistancePenalizedCELoss(softmax=True, to_onehot_y=True)
    >>> loss(logits, labels) / torch.tensor(2.0).log()  # 1, 1.5, 2, 2, 1.5, 1
    tensor(1.5000)
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
        convention: str = "dpce",
        ignore_index: int | None = None,
    ) -> None:
        """Choose what is compared and how it is averaged.

        Args:
            include_background: as in :class:`~dtkernels.losses.BoundaryLoss`, and so are all others.
            to_onehot_y: the target is a label map.
            sigmoid: each channel is a binary problem; the input are its logits.
            softmax: the channels exclude each other; the input are logits.
            other_act: apply this function to the input instead; it returns probabilities.
            reduction: ``"mean"``, ``"sum"``, or ``"none"``: (B, C), the parts of the sum over classes.
            batch: average over the voxels of all samples together, before ``reduction``.
            convention: the map of the weights by name; not negative.
            ignore_index: label of the voxels to leave out.

        Raises:
            TypeError, ValueError: as :class:`~dtkernels.losses.BoundaryLoss`.
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

    def _per_class(self, input: Tensor, truth: Truth, spacing: SpacingLike) -> Tensor:
        weight = self._map(truth, spacing)
        inside = truth.mask()
        if self._is_binary(input):
            # One map for both: the weight with the sign of the slope, negative where p should be 1.
            signed = torch.ones_like(weight).masked_fill_(inside, -1.0).mul_(weight)
            del weight, inside
            sums: Tensor = BinaryCrossEntropy.apply(self._logits(input, truth), signed)  # type: ignore[no-untyped-call]
        else:
            outside = inside.logical_not_()
            weight = weight.masked_fill_(outside, 0.0) if truth.given is None else weight.masked_fill(outside, 0.0)
            del inside, outside
            if self.softmax:
                logp = self._log_softmax(input, truth)
                sums = (logp * weight).sum(spatial_axes(logp)).neg()
            else:
                p = self._probabilities(input, truth)
                sums = WeightedLogarithm.apply(p, weight, SMALLEST).neg()  # type: ignore[no-untyped-call]
        return self._mean(sums, truth)

    def _is_binary(self, input: Tensor) -> bool:
        return self.sigmoid or input.shape[1] == 1

    def _logits(self, input: Tensor, truth: Truth) -> Tensor:
        first = input.shape[1] - truth.classes
        if self.sigmoid:
            return input[:, first:].to(torch.promote_types(input.dtype, torch.float32))
        return torch.logit(self._probabilities(input, truth), eps=SMALLEST)

    def _log_softmax(self, input: Tensor, truth: Truth) -> Tensor:
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        return torch.log_softmax(x, 1)[:, input.shape[1] - truth.classes :]

    def _reduce(self, per_class: Tensor, truth: Truth) -> Tensor:
        if self.reduction == "mean" and not self.sigmoid:
            return per_class.sum(1).mean()
        return super()._reduce(per_class, truth)


class BorderWeightedCELoss(DistancePenalizedCELoss):
    r"""Cross-entropy with the border weights of the U-Net.

    :class:`DistancePenalizedCELoss` with the map ``"unet_w"``,
    :math:`w = 1 + 10 \exp(-d^2 / (2 \cdot 5^2))`: voxels within a few units of spacing of the boundary count up to
    eleven times. The U-Net paper takes the distances to the *two* nearest cells, which needs instances; with one
    distance it is the form of a semantic target.

    References:
        Ronneberger, Fischer & Brox, U-Net: Convolutional networks for biomedical image segmentation, MICCAI 2015.

    See Also:
        :doc:`/losses/BorderWeightedCELoss`: when to use it, its defaults and why, its gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import BorderWeightedCELoss
    >>> labels = torch.tensor([[[[0, 0, 0, 1, 1, 1]]]])
    >>> loss = BorderWeightedCELoss(softmax=True, to_onehot_y=True)
    >>> loss(torch.zeros(1, 2, 1, 6), labels)
    tensor(7.0206)
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
        convention: str = "unet_w",
        ignore_index: int | None = None,
    ) -> None:
        """As :class:`DistancePenalizedCELoss`, with another map.

        Args:
            include_background: as there, and so are all others.
            to_onehot_y: the target is a label map.
            sigmoid: each channel is a binary problem; the input are its logits.
            softmax: the channels exclude each other; the input are logits.
            other_act: apply this function to the input instead; it returns probabilities.
            reduction: ``"mean"``, ``"sum"``, or ``"none"``: (B, C).
            batch: average over the voxels of all samples together, before ``reduction``.
            convention: the map of the weights by name; not negative.
            ignore_index: label of the voxels to leave out.
        """
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, batch,
            convention=convention, ignore_index=ignore_index,
        )  # fmt: skip
