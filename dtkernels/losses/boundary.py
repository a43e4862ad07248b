"""The boundary loss."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .region_wise import RegionWiseLoss


class BoundaryLoss(RegionWiseLoss):
    r"""Probability times the signed distance to the target's boundary.

    .. math:: L = \frac{1}{N} \sum_v \varphi_G(v)\, p_v

    per sample and class, with the probabilities :math:`p` and a map :math:`\varphi_G` of the target's mask
    :math:`g > 0.5` that is positive outside and negative inside: probability costs the more the farther outside it
    lies, and the loss is negative for a good prediction. It says little on its own while a prediction is poor:
    add it to a regional loss.

    The result is float32 (float64 for a float64 input) whatever the other dtypes are and also under autocast, and
    finite: a class that is absent from the target, or all of it, has no boundary and its map is 0, so it costs
    nothing and has no gradient.

    The map is a constant: the gradient is :math:`\varphi_G / N`, with respect to ``input`` alone. Nothing is read
    back to the host, ``torch.compile(fullgraph=True)`` traces the loss, and ``torch.func`` differentiates and maps
    it. Beside input and target it needs at most three float32 maps of the input's size at a time, one of which is
    the activation's result, and keeps that one and one more for the gradient.

    With one channel, ``softmax``, ``to_onehot_y`` and ``include_background=False`` are ignored with a warning.

    References:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019, arXiv:1812.07032.

    See Also:
        :doc:`/losses/BoundaryLoss`: when to use it, its defaults and why, its gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import BoundaryLoss
    >>> labels = torch.tensor([[[[0, 0, 1, 1, 1, 0]]]])
    >>> p = torch.tensor([[[[1.0, 1.0, 0.5, 0.0, 0.0, 1.0]], [[0.0, 0.0, 0.5, 1.0, 1.0, 0.0]]]])
    >>> BoundaryLoss(to_onehot_y=True, reduction="none")(p, labels)
    tensor([[-0.0833, -0.1667]])
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
        convention: str = "kervadec",
        ignore_index: int | None = None,
    ) -> None:
        r"""Choose what is compared and how it is averaged; the first arguments are MONAI's.

        Args:
            include_background: if False, channel 0 is not scored, and no map of it is computed.
            to_onehot_y: ``target`` is a label map; its distance maps are made without a one-hot tensor, and labels
                that name no channel belong to no class.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input (in float32 or float64) instead.
            reduction: ``"mean"`` or ``"sum"`` over samples and classes, or ``"none"``: (B, C).
            batch: average over the voxels of all samples together, before ``reduction``; ``"none"`` then gives
                (C,).
            convention: the map. With the distances :math:`d` to the nearest voxel centre of the other side,
                ``"kervadec"``: :math:`d_{out}` outside and :math:`-(d_{in} - 1)` inside, as in Kervadec et al.'s
                code and MONAI 1.6. The 1 is a voxel of unit spacing: at a spacing of 5 mm the map jumps from +5
                to -4, at 0.3 mm it is positive inside. ``"edt_diff"``: :math:`d_{out} - d_{in}`, right at every
                spacing.
            ignore_index: as in :class:`~dtkernels.losses.HausdorffDTLoss`.

        Raises:
            TypeError: ``other_act`` is not callable, ``ignore_index`` no int, an unsupported dtype.
            ValueError: more than one activation, an unknown word; when called, an input without 2 or 3 spatial
                dimensions, a target of another shape or that requires a gradient, an unfit spacing.
        """
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, batch,
            convention=convention, ignore_index=ignore_index,
        )  # fmt: skip
