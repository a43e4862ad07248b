"""Every loss as a function: input, target and spacing, then the options of the class.

``boundary_loss(logits, labels, spacing, softmax=True, to_onehot_y=True)`` is
``BoundaryLoss(softmax=True, to_onehot_y=True)(logits, labels, spacing)``: the same checks, values and gradients.

>>> import torch
>>> from dtkernels.losses.functional import boundary_loss
>>> labels = torch.tensor([[[[0, 0, 1, 1, 1, 0]]]])
>>> p = torch.tensor([[[[1.0, 1.0, 0.5, 0.0, 0.0, 1.0]], [[0.0, 0.0, 0.5, 1.0, 1.0, 0.0]]]])
>>> boundary_loss(p, labels, to_onehot_y=True, reduction="none")
tensor([[-0.0833, -0.1667]])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Generic, ParamSpec

from torch import Tensor

from .. import losses
from ..arguments import SpacingLike
from .segmentation import SegmentationLoss

Options = ParamSpec("Options")


class LossFunction(Generic[Options]):
    """A loss that is made anew in every call: there is nothing in it to keep."""

    def __init__(self, loss: Callable[Options, SegmentationLoss], name: str) -> None:
        """Take the class.

        Args:
            loss: the class.
            name: of the function.
        """
        self.loss = loss
        self.__name__ = self.__qualname__ = name
        self.__doc__ = inspect.getdoc(loss)
        own = list(inspect.signature(SegmentationLoss.forward).parameters.values())[1:]
        options = inspect.signature(loss).parameters.values()
        keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options]
        self.__signature__ = inspect.Signature([*own, *keywords], return_annotation="Tensor")

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        spacing: SpacingLike = None,
        maps: Tensor | None = None,
        *args: Options.args,
        **options: Options.kwargs,
    ) -> Tensor:
        """The loss of a prediction, see :meth:`~dtkernels.losses.BoundaryLoss.forward`; options by name."""
        result: Tensor = self.loss(*args, **options)(input, target, spacing, maps=maps)
        return result

    def __repr__(self) -> str:
        return f"<function {__name__}.{self.__name__}{self.__signature__}>"


boundary_loss = LossFunction(losses.BoundaryLoss, "boundary_loss")
border_weighted_ce_loss = LossFunction(losses.BorderWeightedCELoss, "border_weighted_ce_loss")
distance_penalized_ce_loss = LossFunction(losses.DistancePenalizedCELoss, "distance_penalized_ce_loss")
generalized_surface_loss = LossFunction(losses.GeneralizedSurfaceLoss, "generalized_surface_loss")
hausdorff_dt_loss = LossFunction(losses.HausdorffDTLoss, "hausdorff_dt_loss")
log_hausdorff_dt_loss = LossFunction(losses.LogHausdorffDTLoss, "log_hausdorff_dt_loss")
map_dice_loss = LossFunction(losses.MapDiceLoss, "map_dice_loss")
region_wise_loss = LossFunction(losses.RegionWiseLoss, "region_wise_loss")
sdf_product_loss = LossFunction(losses.SDFProductLoss, "sdf_product_loss")
shape_aware_loss = LossFunction(losses.ShapeAwareLoss, "shape_aware_loss")
signed_distance_regression_loss = LossFunction(
    losses.SignedDistanceRegressionLoss, "signed_distance_regression_loss"
)

__all__ = [name for name, value in list(globals().items()) if isinstance(value, LossFunction)]
