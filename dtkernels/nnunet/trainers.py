"""nnU-Net v2's trainer with a distance loss beside its region loss.

=====================================  ===========================================================
:class:`nnUNetTrainerDiceBoundary`     Dice + boundary loss, whose weight grows from 0 to 1
:class:`nnUNetTrainerDiceHausdorff`    Dice, scaled to the Hausdorff loss's size, + Hausdorff loss
:class:`nnUNetTrainerDiceCEBoundary`   the first with nnU-Net's cross-entropy
:class:`nnUNetTrainerDiceCEHausdorff`  the second with nnU-Net's cross-entropy
=====================================  ===========================================================

The region part, its weights per scale and its compilation are those of the installed nnU-Net; any other loss or
schedule is a subclass of :class:`DistanceLossMixin`, and of any other trainer behind it::

    class nnUNetTrainerLogHausdorff(DistanceLossMixin, nnUNetTrainerNoMirroring):
        def build_distance_loss(self, **reading):
            return LogHausdorffDTLoss(**reading)
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ..losses import BoundaryLoss, HausdorffDTLoss
from ..optional import MissingDependencyError
from ..schedules import CompoundLoss, IncreaseSchedule, RatioSchedule, Schedule
from .loss import DeepSupervisionSafeLoss, reading_options

try:
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
except ImportError as error:
    raise MissingDependencyError(
        f"dtkernels.nnunet.trainers needs nnunetv2, which cannot be imported here ({error}): pip install nnunetv2"
    ) from error


class DistanceLossMixin(nnUNetTrainer):  # type: ignore[misc]
    """A distance loss beside the region loss of nnU-Net's trainer, or of one named behind it among the bases.

    The schedule follows the epoch, as the learning rate does: the trainer's checkpoint has the epoch, so a
    training that is continued has its weights.
    """

    # Weight of the region loss's cross-entropy; None: the trainer's own.
    weight_ce: ClassVar[float | None] = None

    def build_distance_loss(self, **reading: Any) -> torch.nn.Module:
        """The distance loss.

        Args:
            reading: how it has to read the dataset's targets, see :func:`dtkernels.nnunet.reading_options`.
        """
        raise NotImplementedError

    def build_schedule(self) -> Schedule:
        """By epoch; default: region 1, distance from 0 to 1 over the training."""
        return IncreaseSchedule(distance=0.0, change=1.0 / self.num_epochs, ceiling=1.0)

    def _build_loss(self) -> torch.nn.Module:
        loss = super()._build_loss()
        if isinstance(loss, DeepSupervisionWrapper):
            loss.loss = self._join(loss.loss)
        else:
            loss = self._join(loss)
        return loss  # type: ignore[no-any-return]

    def _join(self, region: Any) -> torch.nn.Module:
        if self.weight_ce is not None:
            if not hasattr(region, "weight_ce"):
                raise TypeError(
                    f"weight_ce: expected None for a region loss without cross-entropy ({type(region).__name__}), "
                    f"got {self.weight_ce}"
                )
            region.weight_ce = self.weight_ce
        reading = reading_options(
            self.label_manager.num_segmentation_heads,
            has_regions=self.label_manager.has_regions,
            ignore_label=self.label_manager.ignore_label,
        )
        return DeepSupervisionSafeLoss(
            region, self.build_distance_loss(**reading), self.build_schedule(),
            spacing=self.configuration_manager.spacing, patch_size=self.configuration_manager.patch_size,
        ).to(self.device)  # fmt: skip

    def on_train_epoch_start(self) -> None:
        """Take the weights of this epoch."""
        super().on_train_epoch_start()
        for part in self.loss.modules():
            if isinstance(part, CompoundLoss):
                part.step(self.current_epoch)


class nnUNetTrainerDiceCEBoundary(DistanceLossMixin):
    """nnU-Net's Dice and cross-entropy, and the boundary loss (Kervadec et al. 2019, 2021: "increase")."""

    def build_distance_loss(self, **reading: Any) -> torch.nn.Module:
        """In millimetres: the map ``d_out - d_in`` has its zero on the boundary at every spacing."""
        return BoundaryLoss(convention="edt_diff", **reading)


class nnUNetTrainerDiceCEHausdorff(DistanceLossMixin):
    """nnU-Net's Dice and cross-entropy, and the Hausdorff loss (Karimi & Salcudean 2019, Ma et al. 2020)."""

    def build_distance_loss(self, **reading: Any) -> torch.nn.Module:
        """In square millimetres."""
        return HausdorffDTLoss(**reading)

    def build_schedule(self) -> Schedule:
        """Both parts of the same size, at every scale."""
        return RatioSchedule()


class nnUNetTrainerDiceBoundary(nnUNetTrainerDiceCEBoundary):
    """Dice and the boundary loss."""

    weight_ce = 0.0


class nnUNetTrainerDiceHausdorff(nnUNetTrainerDiceCEHausdorff):
    """Dice and the Hausdorff loss."""

    weight_ce = 0.0
