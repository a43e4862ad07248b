"""A region loss and a distance loss on nnU-Net's logits and targets, at any scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import SpacingLike
from ..schedules import CompoundLoss, Schedule


def reading_options(channels: int, *, has_regions: bool, ignore_label: int | None = None) -> dict[str, Any]:
    """Options with which a loss of :mod:`dtkernels.losses` reads nnU-Net's targets.

    Labels ``(B, 1, *spatial)``: softmax, the background is not scored, voxels of the ignore label are left out.
    Regions ``(B, C, *spatial)``: a sigmoid each; with an ignore label the target has one channel more, the last,
    which is set where nothing is known.

    Args:
        channels: of the logits: ``label_manager.num_segmentation_heads``.
        has_regions: the targets have a channel per region, which may overlap.
        ignore_label: the value in the labels, or None.

    >>> from dtkernels.nnunet import reading_options
    >>> reading_options(3, has_regions=True, ignore_label=7)
    {'sigmoid': True, 'include_background': True, 'ignore_index': 3}
    """
    if has_regions:
        ignore_index = None if ignore_label is None else channels
        return {"sigmoid": True, "include_background": True, "ignore_index": ignore_index}
    return {"softmax": True, "to_onehot_y": True, "include_background": False, "ignore_index": ignore_label}


class DeepSupervisionSafeLoss(CompoundLoss):
    r"""nnU-Net's region loss and a distance loss under a schedule, with the spacing that a scale has.

    nnU-Net's ``DeepSupervisionWrapper`` calls one loss for all scales, with logits and target alone. A patch
    covers the same millimetres at each of them, so along each axis

    .. math:: s = s_{full} \, n_{full} / n

    for the spacing :math:`s_{full}` and length :math:`n_{full}` of the full patch and the length :math:`n` of the
    logits: a stride of 2 doubles the spacing. Distances are in millimetres at every scale.

    nnU-Net's Dice loss is minus the score, so that its sum with a cross-entropy passes through 0 in the course of
    a training, where a schedule that divides by it (:class:`~dtkernels.schedules.RatioSchedule`) has no meaning. 1
    is added to the region loss: it is not negative, and 0 for a perfect prediction, as in the papers. Its gradient
    stays.

    The distance loss is float32 under autocast and for half-precision logits; neither it nor the sum reads
    anything back to the host. Which voxels are ignored is the two losses' matter, see :func:`reading_options`.

    References:
        Isensee et al., nnU-Net, Nature Methods 18, 2021. Ma et al., Loss odyssey in medical image segmentation,
        Medical Image Analysis 71, 2021.

    >>> import torch
    >>> from dtkernels.losses import BoundaryLoss
    >>> from dtkernels.nnunet import DeepSupervisionSafeLoss, reading_options
    >>> from dtkernels.schedules import ConstantSchedule
    >>> class MinusDice(torch.nn.Module):  # in place of nnU-Net's
    ...     def forward(self, logits, target):
    ...         p, g = logits.softmax(1)[:, 1:], target == 1
    ...         return -2 * (p * g).sum() / (p.sum() + g.sum())
    >>> boundary = BoundaryLoss(convention="edt_diff", **reading_options(2, has_regions=False))
    >>> loss = DeepSupervisionSafeLoss(
    ...     MinusDice(), boundary, ConstantSchedule(), spacing=(3.0, 0.5), patch_size=(8, 16)
    ... )
    >>> loss.spacing_at((4, 4))
    (6.0, 2.0)
    >>> labels = torch.zeros(1, 1, 4, 4)
    >>> labels[..., 2:] = 1
    >>> print(f"{loss(torch.zeros(1, 2, 4, 4), labels):.4f}")
    0.5000
    """

    def __init__(
        self,
        region: torch.nn.Module,
        distance: torch.nn.Module,
        schedule: Schedule | None = None,
        *,
        spacing: Sequence[float],
        patch_size: Sequence[int],
    ) -> None:
        """Join two losses of logits and nnU-Net's target.

        Args:
            region: nnU-Net's, of (logits, target), at least -1.
            distance: a loss of :mod:`dtkernels.losses` with :func:`reading_options`.
            schedule: default: :class:`~dtkernels.schedules.LinearSchedule`.
            spacing: of a voxel at full resolution, in array order: ``configuration_manager.spacing``.
            patch_size: spatial shape at full resolution: ``configuration_manager.patch_size``.

        Raises:
            ValueError: ``spacing`` and ``patch_size`` differ in length.
        """
        super().__init__(region, distance, schedule)
        self.spacing = tuple(float(s) for s in spacing)
        self.patch_size = tuple(int(n) for n in patch_size)
        if len(self.spacing) != len(self.patch_size):
            raise ValueError(
                f"spacing: expected one number for each axis of patch_size {self.patch_size}, got {self.spacing}"
            )

    def spacing_at(self, shape: Sequence[int]) -> tuple[float, ...]:
        """The spacing of a scale.

        Args:
            shape: spatial shape of the logits.

        Raises:
            ValueError: another number of axes than the patch has.
        """
        if len(shape) != len(self.patch_size):
            raise ValueError(f"input: expected {len(self.patch_size)} spatial dimensions, got {tuple(shape)}")
        return tuple(s * full / n for s, full, n in zip(self.spacing, self.patch_size, shape, strict=True))

    def terms(self, input: Tensor, target: Tensor, spacing: SpacingLike = None) -> tuple[Tensor, Tensor]:
        """Region loss plus 1 and distance loss, without their weights.

        Args:
            input: logits ``(B, C, *spatial)``.
            target: labels ``(B, 1, *spatial)``, or regions ``(B, C, *spatial)``, or ``(B, C + 1, *spatial)`` with
                the ignored voxels last.
            spacing: default: that of the input's scale.
        """
        region, distance = super().terms(
            input, target, self.spacing_at(input.shape[2:]) if spacing is None else spacing
        )
        return region + 1.0, distance

    def extra_repr(self) -> str:
        """Schedule and geometry, for ``print(loss)``."""
        return f"schedule={self.schedule!r}, spacing={self.spacing}, patch_size={self.patch_size}"
