"""Dice with a distance map."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..arguments import SpacingLike
from ._sums import Masses, WeightedMasses, spatial_axes
from .sdf_product import overlap_loss
from .segmentation import MapLoss, Truth, check_choice, check_number

FORMS = ("printed", "weighted")


class MapDiceLoss(MapLoss):
    r"""Overlap of a prediction with a distance map of the target.

    .. math:: L = 1 - \frac{2 \sum_v p \varphi + \epsilon}{\sum_v p + \sum_v \varphi + \epsilon}

    per sample and class: with the map ``"li_nidm"``, 1 on the boundary of each component of the target and falling
    towards its core, an overlap that counts thin and small objects more. As printed (``form="printed"``) its best
    prediction is **not** the target: for a ball of radius 25 the target scores 0.877 and a hollow ball 0.885,
    because a probability of 1 is too much for a voxel of the core, where :math:`\varphi` is small. The repair,
    ``form="weighted"``, the default, weighs both sides with the map instead,

    .. math:: L = 1 - \frac{2 \sum_v w p g + \epsilon}{\sum_v w p + \sum_v w g + \epsilon},
        \qquad w = \varphi \text{ inside, } 1 \text{ outside of the target,}

    and is 0 at p = g alone; it is for maps that are not negative inside (what is, counts as 0).

    The result is float32 (float64 for a float64 input), also under autocast, and finite: a class that is absent
    from target and prediction costs 0, one that is absent from the target 1 as in Dice. The map is a constant: the
    gradient is with respect to ``input`` alone. Three float32 maps of the input's size at most are held at a time
    beside input and target.

    References:
        Li et al., Deep distance map regression network with shape-aware loss for imbalanced medical image
        segmentation, MLMI 2020, eq. 2.

    See Also:
        :doc:`/losses/MapDiceLoss`: when to use it, its defaults and why, its gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import MapDiceLoss
    >>> mask = torch.zeros(1, 1, 9, 9)
    >>> mask[..., 2:7, 2:7] = 1
    >>> [round(MapDiceLoss(True, form=form)(mask, mask).item(), 3) for form in ("weighted", "printed")]
    [0.0, 0.071]
    """

    def __init__(
        self,
        include_background: bool = False,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: str = "mean",
        batch: bool = False,
        *,
        form: str = "weighted",
        smooth: float = 1e-5,
        convention: str = "li_nidm",
        ignore_index: int | None = None,
    ) -> None:
        r"""Choose what is compared and how it is averaged.

        Args:
            include_background: as in :class:`~dtkernels.losses.HausdorffDTLoss`, and so are all others.
            to_onehot_y: the target is a label map.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input instead.
            reduction: ``"mean"``, ``"sum"``, or ``"none"``: (B, C).
            batch: take the sums over the voxels of all samples together.
            form: ``"weighted"`` or ``"printed"``, as above.
            smooth: :math:`\epsilon`.
            convention: the target's map by name; it should be positive inside.
            ignore_index: label of the voxels to leave out.

        Raises:
            TypeError, ValueError: as :class:`~dtkernels.losses.BoundaryLoss`, or ``smooth`` is no number or
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
        self.form = check_choice("form", form, FORMS)
        self.smooth = check_number("smooth", smooth)

    def _per_class(self, input: Tensor, truth: Truth, spacing: SpacingLike) -> Tensor:
        phi = self._map(truth, spacing)
        if self.form == "printed":
            of_g = phi.sum(spatial_axes(phi))
            sums = Masses.apply(self._probabilities(input, truth), phi, truth.ignored)  # type: ignore[no-untyped-call]
        else:
            # One map for w and g: w with a sign, negative outside of the target.
            phi = phi.clamp_(min=0) if truth.given is None else phi.clamp(min=0)
            truth.hide_(phi.masked_fill_(truth.mask().logical_not_(), -1.0))
            of_g = phi.clamp(min=0).sum(spatial_axes(phi))
            sums = WeightedMasses.apply(self._probabilities(input, truth), phi)  # type: ignore[no-untyped-call]
        common, of_p = map(self._pooled, sums)
        return overlap_loss(common, of_p, self._pooled(of_g), self.smooth)
