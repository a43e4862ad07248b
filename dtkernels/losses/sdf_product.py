"""Losses on predicted signed distance maps: the product loss, and the shape-aware total that is built on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import SpacingLike
from ..nn import SmoothHeaviside
from ._sums import HeavisideMasses, Products, ratios, spatial_axes
from .segmentation import MapLoss, Truth, check_choice, check_number

FORMS = ("ratio", "pointwise")
EMPTY = 1e-18  # sums up to this count as 0: their squares would leave float32


class SDFProductLoss(MapLoss):
    r"""How far a predicted signed distance map q is from agreeing with the target's map y in sign and size.

    .. math:: L = -\frac{\sum_v y q}{\sum_v y q + \sum_v q^2 + \sum_v y^2}

    per sample and class, between -1/3, its minimum at q = y, and 1 at q = -y. Where both maps are 0 it is 0. The
    input is a *map*, positive outside: that of a regression head with ``other_act=torch.tanh`` for the default
    map, whose values lie in [-1, 1].

    The result is float32 (float64 for a float64 input), also under autocast, and finite. The gradient is taken in
    closed form: beside input and target at most three float32 maps of the input's size are held at a time, one of
    them the activation's result, and two are kept for the gradient. With ``form="pointwise"`` there is no second
    derivative. A class that is absent from the target has the map 0 and costs nothing.

    References:
        Xue et al., Shape-aware organ segmentation by predicting signed distance maps, AAAI 2020, arXiv:1912.03849,
        eq. 4. Ma et al., How distance transform maps boost segmentation CNNs, MIDL 2020, eq. 5.

    See Also:
        :doc:`/losses/SDFProductLoss`: when to use it, its defaults and why, its gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import SDFProductLoss
    >>> mask = torch.zeros(1, 1, 8, 8)
    >>> mask[..., 2:7, 2:7] = 1
    >>> y = torch.full_like(mask, 0.5).where(mask == 0, -0.5)
    >>> SDFProductLoss()(y, mask, maps=y)
    tensor(-0.3333)
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
        form: str = "ratio",
        convention: str = "xue_sdm",
        ignore_index: int | None = None,
    ) -> None:
        r"""Choose what is compared and how it is averaged.

        Args:
            include_background: as in :class:`~dtkernels.losses.BoundaryLoss`, and so are all others.
            to_onehot_y: the target is a label map.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input instead, :func:`torch.tanh` for maps in [-1, 1].
            reduction: ``"mean"``, ``"sum"``, or ``"none"``: (B, C).
            batch: take the sums over the voxels of all samples together.
            form: ``"ratio"``: of the sums, as above. ``"pointwise"``: the mean of the ratios
                :math:`-y q / (y q + q^2 + y^2)` of each voxel, which counts a voxel near the boundary as much as
                one far from it; as eq. 5 of Ma et al. may be read.
            convention: the target's map by name.
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
        self.form = check_choice("form", form, FORMS)

    def _per_class(self, input: Tensor, truth: Truth, spacing: SpacingLike) -> Tensor:
        y = self._map(truth, spacing)
        q = self._probabilities(input, truth)
        return self._product(q, y, truth)

    def _product(self, q: Tensor, y: Tensor, truth: Truth) -> Tensor:
        if self.form == "pointwise":
            return self._mean(ratios(q, y if truth.given is None else y.clone()), truth)
        cross, of_q = Products.apply(q, y, truth.ignored)  # type: ignore[no-untyped-call]
        return self._ratio(cross, of_q, y)

    def _ratio(self, cross: Tensor, of_q: Tensor, y: Tensor) -> Tensor:
        of_y = (y * y).sum(spatial_axes(y))
        cross, of_q, of_y = self._pooled(cross), self._pooled(of_q), self._pooled(of_y)
        # At least half of the sum of the squares, so not 0 unless both maps are. There the quotient is 0.
        below = cross + of_q + of_y
        return -cross / torch.where(below > EMPTY, below, 1.0)


class ShapeAwareLoss(SDFProductLoss):
    r"""Dice of the mask that a predicted signed distance map stands for, plus two distances between the maps.

    .. math:: L = 1 - \frac{2 \sum_v p g + \epsilon}{\sum_v p + \sum_v g + \epsilon}
        + \lambda \left( L_{product} + \frac{1}{N} \sum_v |q - y| \right),
        \qquad p = \frac{1}{1 + e^{k q}}

    per sample and class, with the predicted map q, the target's map y and its mask g. For networks that predict a
    signed distance map alone: the smooth Heaviside function turns it into a segmentation. Its default slope ``k =
    1500`` suits maps in [-1, 1] (``other_act=torch.tanh``); a voxel of the target's boundary, whose map is 0, gets
    exactly 0.5, so threshold p with ``>=``.

    As printed, eq. 3 of the paper has neither the sign nor the k of its code: the map is negative inside, where
    :math:`1 / (1 + e^{-k q})` would be 0. Here p is 1 inside.

    Results are as of :class:`SDFProductLoss`; at most three float32 maps of the input's size are held at a time.

    References:
        Xue et al., Shape-aware organ segmentation by predicting signed distance maps, AAAI 2020, arXiv:1912.03849.

    See Also:
        :doc:`/losses/ShapeAwareLoss`: when to use it, its defaults and why, its gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import ShapeAwareLoss
    >>> mask = torch.zeros(1, 1, 9, 9)
    >>> mask[..., 2:7, 2:7] = 1
    >>> q = torch.zeros_like(mask, requires_grad=True)
    >>> loss = ShapeAwareLoss(other_act=torch.tanh)
    >>> loss(q, mask).backward()
    >>> bool(q.grad[0, 0, 4, 4] > 0 > q.grad[0, 0, 0, 0])  # descent makes the map negative inside
    True
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
        weight: float = 10.0,
        k: float = 1500.0,
        smooth: float = 1e-5,
        form: str = "ratio",
        convention: str = "xue_sdm",
        ignore_index: int | None = None,
    ) -> None:
        r"""Choose what is compared and how it is averaged.

        Args:
            include_background: as in :class:`SDFProductLoss`, and so are all others.
            to_onehot_y: the target is a label map.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input instead, :func:`torch.tanh` for maps in [-1, 1].
            reduction: ``"mean"``, ``"sum"``, or ``"none"``: (B, C).
            batch: take the sums over the voxels of all samples together.
            weight: :math:`\lambda`.
            k: slope of the Heaviside function.
            smooth: :math:`\epsilon`.
            form: as in :class:`SDFProductLoss`.
            convention: the target's map by name.
            ignore_index: label of the voxels to leave out.

        Raises:
            TypeError, ValueError: as :class:`SDFProductLoss`, or ``weight``, ``k`` or ``smooth`` is no number or
                negative.
        """
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, batch,
            form=form, convention=convention, ignore_index=ignore_index,
        )  # fmt: skip
        self.weight = check_number("weight", weight)
        self.smooth = check_number("smooth", smooth)
        self.heaviside = SmoothHeaviside(check_number("k", k))

    def _per_class(self, input: Tensor, truth: Truth, spacing: SpacingLike) -> Tensor:
        q = self._probabilities(input, truth)
        # The overlap first: the maps that it takes are gone before there is a map of the target.
        overlap = self._overlap(q, truth)
        y = self._map(truth, spacing)
        if self.form == "pointwise":
            both = ratios(q, y if truth.given is None else y.clone(), truth.ignored, error=True)
            return overlap + self.weight * self._mean(both, truth)
        cross, of_q, error = Products.apply(q, y, truth.ignored, True)  # type: ignore[no-untyped-call]
        return overlap + self.weight * (self._ratio(cross, of_q, y) + self._mean(error, truth))

    def _overlap(self, q: Tensor, truth: Truth) -> Tensor:
        common, of_p = HeavisideMasses.apply(q, self.heaviside.k, truth.values, truth.first, truth.ignored)  # type: ignore[no-untyped-call]
        of_g = truth.hide_(truth.mask()).sum(spatial_axes(q), dtype=q.dtype)
        return overlap_loss(self._pooled(common), self._pooled(of_p), self._pooled(of_g), self.smooth)


def overlap_loss(common: Tensor, of_p: Tensor, of_g: Tensor, smooth: float) -> Tensor:
    """One minus Dice's coefficient of sums; 0 for two empty ones, which without ``smooth`` have no slope."""
    above, below = 2 * common + smooth, of_p + of_g + smooth
    if smooth:
        return 1 - above / below
    empty = below.abs() <= EMPTY
    return 1 - torch.where(empty, 1.0, above / torch.where(empty, 1.0, below))
