"""``HausdorffDTLoss``, ``LogHausdorffDTLoss`` and ``BoundaryLoss`` as in ``monai.losses`` (1.6).

>>> import torch
>>> from dtkernels.compat.monai.losses import HausdorffDTLoss
>>> labels = torch.zeros(1, 1, 8, 8)
>>> labels[..., 2:5, 2:5] = 1
>>> HausdorffDTLoss(softmax=True, to_onehot_y=True)(torch.zeros(1, 2, 8, 8), labels)
tensor(1.2344)

Constructors, attributes, values, shapes, gradients (also that of a target that requires one), warnings and errors
with their texts are MONAI's, and the classes are :class:`torch.nn.modules.loss._Loss` as there. For spacing, other
maps and voxels to ignore take the losses of :mod:`dtkernels.losses`, whose constructors begin with the same words.

Differences from MONAI, on purpose:

* all samples and classes in one transform each, on the device of the tensors; nothing goes through SciPy or cuCIM;
* the distances are float32 whatever the dtypes are. MONAI's take the dtype of the target: an integer target cuts
  them off (and lowers the loss), a bool one raises, a float16 one overflows beyond 256 voxels;
* half-precision inputs are computed in float32;
* labels that name no channel belong to no class, where MONAI's one-hot raises an index error;
* ``distance_field`` and ``compute_distance_map`` are there to be called. The losses do not call them, so a
  subclass that overrides one is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from ... import boundary_distances, functional, losses, maps
from ...losses.segmentation import REDUCTIONS, SegmentationLoss


class _Mirrored:
    """What MONAI's losses check, in its words."""

    refuses_target_gradient = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("distance_field", "compute_distance_map"):
            if name in vars(cls) and not cls.__module__.startswith("dtkernels."):
                raise TypeError(
                    f"{cls.__name__}.{name}: expected a subclass that leaves it alone, since this loss does not "
                    "call it; take MONAI's class for distances of your own"
                )

    @staticmethod
    def _check_options(sigmoid: bool, softmax: bool, other_act: Any, reduction: Any) -> str:
        if str(reduction) not in REDUCTIONS:
            raise ValueError(f"{reduction!r} is not a valid LossReduction")
        if other_act is not None and not callable(other_act):
            raise TypeError(f"other_act must be None or callable but is {type(other_act).__name__}.")
        if int(sigmoid) + int(softmax) + int(other_act is not None) > 1:
            raise ValueError(
                "Incompatible values: more than 1 of [sigmoid=True, softmax=True, other_act is not None]."
            )
        return str(reduction)


def _check_labels(target: Tensor) -> None:
    if target.ndim > 1 and target.shape[1] != 1:
        raise AssertionError("labels should have a channel with length equal to one.")


def _one_hot_shape(loss: SegmentationLoss, input: Tensor, target: Tensor) -> torch.Size:
    """The shape that the target has when its classes are channels."""
    if loss.to_onehot_y and input.shape[1] > 1:
        return torch.Size((*target.shape[:1], input.shape[1], *target.shape[2:]))
    return target.shape


class HausdorffDTLoss(_Mirrored, losses.HausdorffDTLoss, _Loss):
    """:class:`dtkernels.losses.HausdorffDTLoss`, behaving as :class:`monai.losses.HausdorffDTLoss`."""

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
    ) -> None:
        """As MONAI's.

        Args:
            alpha: exponent of the distances.
            include_background: whether channel 0 is scored.
            to_onehot_y: whether the target is a label map ``(B, 1, *spatial)``.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input.
            reduction: ``"mean"``, ``"sum"`` or ``"none"``.
            batch: average over the voxels of all samples together.
        """
        reduction = self._check_options(sigmoid, softmax, other_act, reduction)
        super().__init__(alpha, include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, batch)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        """The loss of a prediction ``(B, C, *spatial)`` and its target.

        Args:
            input: probabilities, or logits with an activation.
            target: of the input's shape, or a label map with ``to_onehot_y``.
        """
        if input.ndim not in (4, 5):
            raise ValueError("Only 2D (NCHW) and 3D (NCHWD) supported")
        if self.to_onehot_y and input.shape[1] > 1:
            _check_labels(target)
        shape, wanted = _one_hot_shape(self, input, target), input.shape
        if shape != wanted:
            if not self.include_background and input.shape[1] > 1 and len(shape) > 1:
                shape, wanted = (torch.Size((s[0], max(s[1] - 1, 0), *s[2:])) for s in (shape, wanted))
            raise AssertionError(f"ground truth has different shape ({shape}) from input ({wanted})")
        return super().forward(input, target)

    @torch.no_grad()
    def distance_field(self, img: Tensor) -> Tensor:
        """Distances to the boundary on both sides of it, of ``img > 0.5``.

        Args:
            img: ``(B, C, *spatial)``.
        """
        return boundary_distances.to_boundary_(functional.sdf(img, threshold=0.5, spatial_dims=img.ndim - 2))


class LogHausdorffDTLoss(HausdorffDTLoss):
    """log(1 + the same), as :class:`monai.losses.LogHausdorffDTLoss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        """As :meth:`HausdorffDTLoss.forward`."""
        return torch.log1p(super().forward(input, target))


class BoundaryLoss(_Mirrored, losses.BoundaryLoss, _Loss):
    """:class:`dtkernels.losses.BoundaryLoss`, behaving as :class:`monai.losses.BoundaryLoss`."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: str = "mean",
        batch: bool = False,
    ) -> None:
        """As MONAI's.

        Args:
            include_background: whether channel 0 is scored.
            to_onehot_y: whether the target is a label map ``(B, 1, *spatial)`` or ``(B, *spatial)``.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input.
            reduction: ``"mean"``, ``"sum"`` or ``"none"``.
            batch: average over the voxels of all samples together.
        """
        reduction = self._check_options(sigmoid, softmax, other_act, reduction)
        super().__init__(include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, batch)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        """The loss of a prediction ``(B, C, *spatial)`` and its target.

        Args:
            input: probabilities, or logits with an activation.
            target: of the input's shape, or a label map with ``to_onehot_y``.
        """
        if input.ndim not in (4, 5):
            raise ValueError("Only 2D (BNHW) and 3D (BNHWD) supported")
        if self.to_onehot_y and input.shape[1] > 1:
            target = target.unsqueeze(1) if target.ndim == input.ndim - 1 else target
            _check_labels(target)
        shape = _one_hot_shape(self, input, target)
        if shape != input.shape:
            raise AssertionError(f"input and target shapes do not match: {input.shape} vs {shape}")
        return super().forward(input, target)

    @torch.no_grad()
    def compute_distance_map(self, target: Tensor) -> Tensor:
        """``d_out`` outside and ``-(d_in - 1)`` inside of ``target > 0.5``.

        Args:
            target: ``(B, C, *spatial)``.
        """
        if target.ndim not in (4, 5):
            raise ValueError("Only 2D (BNHW) and 3D (BNHWD) supported")
        return maps.distance_map(target, "kervadec", threshold=0.5, spatial_dims=target.ndim - 2)
