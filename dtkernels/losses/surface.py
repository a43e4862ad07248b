"""The generalized surface loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import SpacingLike
from ._sums import WeightedSquaredError, spatial_axes
from .segmentation import MapLoss, Truth


class GeneralizedSurfaceLoss(MapLoss):
    r"""Which share of the squared distances a prediction gets wrong.

    .. math:: L = 1 - \frac{\sum_v D^2 (1 - g - p)^2}{\sum_v D^2}

    per sample and class, with the target's mask g and its signed distance map D: 0 at p = g, 1 at p = 1 - g, in
    the same range as Dice's loss whatever the size of image and object, unlike the boundary loss. A voxel counts
    by the square of its distance to the target's boundary on either side.

    The result is float32 (float64 for a float64 input), also under autocast, and finite: a class that is absent
    from the target, or all of it, has no distances and costs 0. The map is a constant: the gradient,
    :math:`2 D^2 (1 - g - p) / \sum D^2`, is with respect to ``input`` alone and in closed form; three float32 maps
    of the input's size at most are held at a time beside input and target.

    The paper weighs the classes' sums before it divides them; the authors' current code takes the mean of the
    classes' ratios, as is done here.

    References:
        Celaya, Riviere & Fuentes, A generalized surface loss for reducing the Hausdorff distance in medical
        imaging segmentation, arXiv:2302.03868.

    >>> import torch
    >>> from dtkernels.losses import GeneralizedSurfaceLoss
    >>> mask = torch.zeros(1, 1, 8, 8)
    >>> mask[..., 2:6, 2:6] = 1
    >>> loss = GeneralizedSurfaceLoss()
    >>> loss(mask, mask), loss(1 - mask, mask)
    (tensor(0.), tensor(1.))
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
        convention: str = "edt_diff",
        ignore_index: int | None = None,
    ) -> None:
        """Choose what is compared and how it is averaged.

        Args:
            include_background: as in :class:`~dtkernels.losses.BoundaryLoss`, and so are all others.
            to_onehot_y: the target is a label map.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input instead.
            reduction: ``"mean"``, ``"sum"``, or ``"none"``: (B, C).
            batch: take the sums over the voxels of all samples together.
            convention: the map D by name; its sign does not matter.
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
        squares = self._map(truth, spacing)
        squares = squares.square_() if truth.given is None else squares.square()
        p = self._probabilities(input, truth)
        right = WeightedSquaredError.apply(p, squares, truth.values, truth.first, True)  # type: ignore[no-untyped-call]
        right, total = self._pooled(right), self._pooled(squares.sum(spatial_axes(squares)))
        return (total - right) / total.clamp(min=torch.finfo(total.dtype).tiny)
