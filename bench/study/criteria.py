"""From an experiment to its loss: which losses there are, how two of them share a training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from monai.losses import (
    DiceCELoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    TverskyLoss,
)
from torch import Tensor, nn

import dtkernels as dtk
from dtkernels import losses, schedules
from dtkernels.arguments import SpacingLike
from dtkernels.nn import LRNet, pretrain
from dtkernels.soft import ExactSignedDistance

from .experiments import Experiment
from .networks import Prediction

ON_LOGITS: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
FOREGROUND: dict[str, Any] = {**ON_LOGITS, "include_background": False}


class CrossEntropy(nn.Module):
    """torch's, of a label map with a channel."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over voxels."""
        return nn.functional.cross_entropy(logits, labels[:, 0].long())


REGIONS: dict[str, Callable[[], nn.Module]] = {
    "dice": lambda: DiceLoss(**FOREGROUND),
    "dice_ce": lambda: DiceCELoss(**FOREGROUND),
    "ce": CrossEntropy,
    "focal": lambda: FocalLoss(to_onehot_y=True, use_softmax=True),
    "generalized_dice": lambda: GeneralizedDiceLoss(**FOREGROUND),
    "tversky": lambda: TverskyLoss(**FOREGROUND),
    "dice_focal": lambda: DiceFocalLoss(**FOREGROUND),
    "map_dice": lambda: losses.MapDiceLoss(**FOREGROUND),
}

SCHEDULES: dict[str, Callable[[], schedules.Schedule]] = {
    "alone": lambda: schedules.ConstantSchedule(0.0, 1.0),
    "constant": schedules.ConstantSchedule,
    "linear": lambda: schedules.LinearSchedule(change=0.01),
    "linear_slow": lambda: schedules.LinearSchedule(change=0.001),
    "rebalance": schedules.RebalanceSchedule,
    "increase": schedules.IncreaseSchedule,
    "ratio": schedules.RatioSchedule,
}

# Of logits, of maps; the rest of the words are the experiment's.
_OF_LOGITS: dict[str, Callable[..., nn.Module]] = {
    "boundary": lambda **words: losses.BoundaryLoss(**FOREGROUND, **words),
    "hausdorff": lambda **words: losses.HausdorffDTLoss(**FOREGROUND, **words),
    "log_hausdorff": lambda **words: losses.LogHausdorffDTLoss(**FOREGROUND, **words),
    "region_wise": lambda **words: losses.RegionWiseLoss(**ON_LOGITS, **words),
    "dpce": lambda **words: losses.DistancePenalizedCELoss(**ON_LOGITS, **words),
    "border_ce": lambda **words: losses.BorderWeightedCELoss(**ON_LOGITS, **words),
    "map_dice": lambda **words: losses.MapDiceLoss(**FOREGROUND, **words),
    "surface": lambda **words: losses.GeneralizedSurfaceLoss(**ON_LOGITS, **words),
    "lr_net": lambda **words: LRNetLoss(**words),
    "exact_layer": lambda **words: ExactLayerLoss(**words),
}
_OF_MAPS: dict[str, Callable[..., nn.Module]] = {
    "regression": lambda **words: regression(**words),
    "product": lambda **words: losses.SDFProductLoss(to_onehot_y=True, **words),
    "product_l1": lambda **words: Sum(
        losses.SDFProductLoss(to_onehot_y=True, **words),
        losses.SignedDistanceRegressionLoss(to_onehot_y=True, **words),
    ),
    "shape_aware": lambda **words: losses.ShapeAwareLoss(to_onehot_y=True, **words),
}


class Criterion(nn.Module):
    """The loss of an experiment, of a network's prediction."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        words = dict(experiment.options)
        if experiment.convention is not None:
            words["convention"] = experiment.convention
        self.schedule = SCHEDULES[experiment.schedule]()
        self.region = REGIONS[experiment.region]() if experiment.region else None
        self.distance: nn.Module | None = None
        self.of_maps = experiment.distance in _OF_MAPS
        if experiment.distance:
            kinds = _OF_MAPS if self.of_maps else _OF_LOGITS
            self.distance = kinds[experiment.distance](**words)
        self.register_buffer("weights", torch.tensor(self.schedule.weights(0)))
        self.spaced = _takes_spacing(self.region), _takes_spacing(self.distance)

    def forward(self, prediction: Prediction, labels: Tensor, spacing: SpacingLike) -> Tensor:
        """The total under the schedule."""
        read = prediction.maps if self.of_maps else prediction.logits
        parts = []
        for loss, of, spaced in zip(
            (self.region, self.distance), (prediction.logits, read), self.spaced, strict=True
        ):
            if loss is not None:
                parts.append(loss(of, labels, spacing) if spaced else loss(of, labels))
        return parts[0] if len(parts) == 1 else self.schedule.combine(parts[0], parts[1], self.weights)

    def epoch(self) -> None:
        """One epoch of the schedule is over."""
        self.schedule.step()
        self.weights.copy_(torch.tensor(self.schedule.weights(self.schedule.count)))

    def prepare(self, masks: Iterable[Tensor]) -> None:
        """What a loss learns before the training: batches of one-hot foreground (B, C - 1, *spatial)."""
        if isinstance(self.distance, LRNetLoss):
            self.distance.prepare(masks)


class Sum(nn.Module):
    """Losses of the same arguments, added."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, input: Tensor, target: Tensor, spacing: SpacingLike = None) -> Tensor:
        """Their sum."""
        return torch.stack([part(input, target, spacing) for part in self.parts]).sum()


def regression(form: str = "l1", **words: Any) -> nn.Module:
    """L1, L2 or both of a predicted map."""
    forms = ("l1", "l2") if form == "both" else (form,)
    parts = [losses.SignedDistanceRegressionLoss(to_onehot_y=True, form=f, **words) for f in forms]
    return Sum(*parts) if len(parts) > 1 else parts[0]


class LRNetLoss(nn.Module):
    """Smooth L1 between LR-Net's map of the prediction and the target's own."""

    def __init__(self, convention: str, *, pretrained: bool = True, frozen: bool = True) -> None:
        super().__init__()
        self.net = LRNet()
        self.convention, self.pretrained, self.frozen = convention, pretrained, frozen
        self.error = losses.SignedDistanceRegressionLoss(form="smooth_l1", convention=convention)

    def prepare(self, masks: Iterable[Tensor]) -> None:
        """Learn from ground truth where the experiment says so."""
        if self.pretrained:
            pretrain(self.net, masks, self.convention)
        self.net.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> LRNetLoss:
        """A frozen network stays in evaluation mode."""
        super().train(mode)
        self.net.train(mode and not self.frozen)
        return self

    def forward(self, logits: Tensor, labels: Tensor, spacing: SpacingLike = None) -> Tensor:
        """Of the foreground classes."""
        p = torch.softmax(logits, 1)[:, 1:]
        return self.error(self.net(p), one_hot(labels, logits.shape[1]), spacing)


class ExactLayerLoss(nn.Module):
    """L1 between the exact, differentiable distance of the prediction and the target's, both cut at 10 mm."""

    REACH = 10.0

    def __init__(self, convention: str) -> None:
        super().__init__()
        self.layer, self.convention = ExactSignedDistance(3, subvoxel=False), convention

    def forward(self, logits: Tensor, labels: Tensor, spacing: SpacingLike = None) -> Tensor:
        """Of the foreground classes, over the reach."""
        p = torch.softmax(logits, 1)[:, 1:]
        reach = self.REACH
        target = dtk.distance_map(one_hot(labels, logits.shape[1]), self.convention, spacing, spatial_dims=3)
        distance = self.layer(p, spacing).clamp(-reach, reach)
        return (distance - target.clamp(-reach, reach)).abs().mean() / reach


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B, C - 1, *spatial) uint8 of a label map (B, 1, *spatial), without the background."""
    names = torch.arange(1, classes, device=labels.device).view(1, -1, 1, 1, 1)
    return (labels == names).to(torch.uint8)


def _takes_spacing(loss: nn.Module | None) -> bool:
    return loss is not None and "spacing" in inspect.signature(loss.forward).parameters
