"""The generalized surface loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..arguments import SpacingLike
from ._sums import OppositeSquaredError, spatial_axes
from .segmentation import MapLoss, Truth, check_choice


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

    The paper and the code published with it weigh the classes' sums before they divide them, which is
    ``class_weights``: one value per sample,

    .. math:: L = 1 - \frac{\sum_c w_c \sum_v D_c^2 (1 - g_c - p_c)^2}{\sum_c w_c \sum_v D_c^2}

    Where every sum of squares is 0 it is 0; the published code adds 1e-6 to each class's part of the denominator.
    The authors' later code takes the mean of the classes' ratios, the default here.

    References:
        Celaya, Riviere & Fuentes, A generalized surface loss for reducing the Hausdorff distance in medical
        imaging segmentation, arXiv:2302.03868.

    See Also:
        :doc:`/losses/GeneralizedSurfaceLoss`: when to use it, its defaults and why, its gradient on a real slice.

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
        class_weights: str | Sequence[float] | Tensor | None = None,
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
            reduction: ``"mean"``, ``"sum"``, or ``"none"``: (B, C), or (B,) with ``class_weights``.
            batch: take the sums over the voxels of all samples together.
            class_weights: None: the ratio of each class by itself. ``"inverse_square"``: one ratio, in which a
                class of n voxels weighs :math:`1 / (n^2 + 1)`, the published code's default. Numbers, or a tensor
                of them: one ratio with a weight for each class that is scored, not negative. They are a buffer,
                which ``.to(device)`` moves with the loss.
            convention: the map D by name; its sign does not matter.
            ignore_index: label of the voxels to leave out.

        Raises:
            TypeError, ValueError: as :class:`~dtkernels.losses.BoundaryLoss`, or ``class_weights`` are not one
                number per scored class on the input's device.
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
        self.weighting: str | None = None
        if isinstance(class_weights, str):
            self.weighting = check_choice("class_weights", class_weights, ("inverse_square",))
        elif class_weights is not None:
            weights = torch.as_tensor(class_weights, dtype=torch.float32)
            if weights.ndim != 1:
                raise ValueError(
                    f"class_weights: expected one number per scored class, got shape {tuple(weights.shape)}"
                )
            self.register_buffer("class_weights", weights, persistent=False)
            self.weighting = "given"

    def _per_class(self, input: Tensor, truth: Truth, spacing: SpacingLike) -> Tensor:
        squares = self._map(truth, spacing)
        squares = squares.square_() if truth.given is None else squares.square()
        total = self._pooled(squares.sum(spatial_axes(squares)))
        weights = self._weights(truth, total)
        # One map for D^2 and g: D^2 with a sign, negative inside.
        inside = truth.mask()
        squares.mul_(torch.ones_like(squares).masked_fill_(inside, -1.0))
        del inside
        p = self._probabilities(input, truth)
        right = self._pooled(OppositeSquaredError.apply(p, squares))  # type: ignore[no-untyped-call]
        if weights is not None:
            right, total = ((weights * x).sum(1, keepdim=True) for x in (right, total))
        # Where there are no distances the quotient is 0, and so is its slope, whatever the loss is scaled by.
        return (total - right) / torch.where(total > 0, total, 1.0)

    def _weights(self, truth: Truth, total: Tensor) -> Tensor | None:
        """The weight of each class, (C,), (B, C), or (1, C) with ``batch``."""
        if self.weighting is None:
            return None
        if self.weighting == "inverse_square":
            mask = truth.hide_(truth.mask())
            return 1 / (self._pooled(mask.sum(spatial_axes(mask), dtype=total.dtype)).square() + 1)
        weights: Tensor = self.get_buffer("class_weights")
        if weights.shape[0] != truth.classes or weights.device != total.device:
            raise ValueError(
                f"class_weights: expected {truth.classes} numbers, one per scored class, on {total.device}, got "
                f"{weights.shape[0]} on {weights.device}"
            )
        return weights

    def _unreduced(self, per_class: Tensor, truth: Truth) -> Tensor:
        return super()._unreduced(per_class if self.weighting is None else per_class.squeeze(1), truth)
