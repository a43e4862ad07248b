"""MONAI's U-Net and V-Net with the papers' heads.

The body ends in features; a head makes of them logits and, where a loss reads them, distance maps.

==========  =====================================================================================
``plain``   logits
``multi``   logits and maps from the same features (:class:`dtkernels.nn.DistanceHead`)
``branch``  logits, and maps by a decoder of their own (:class:`dtkernels.nn.ReconstructionBranch`)
``map``     maps alone; the class whose map is lowest wins, so minus the maps stand for logits
==========  =====================================================================================
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from monai.networks.nets import UNet, VNet
from torch import Tensor, nn

from dtkernels.nn import DistanceHead, ReconstructionBranch

from .experiments import Experiment
from .settings import Settings

FEATURES = 16
MULTIPLE = {"unet": 8, "vnet": 16}  # of which the sides of what a network reads are


class Prediction(NamedTuple):
    """What a network returns."""

    logits: Tensor  # (B, C, *spatial)
    maps: Tensor | None = None  # (B, C, *spatial)


class Network(nn.Module):
    """A body and a head."""

    def __init__(self, experiment: Experiment, classes: int, settings: Settings) -> None:
        super().__init__()
        self.kind = experiment.head
        channels = settings.channels
        # The body first: with one seed it begins the same whatever the head.
        if experiment.network == "vnet":
            self.body: nn.Module = VNet(spatial_dims=3, in_channels=1, out_channels=FEATURES)
        else:
            self.body = UNet(3, 1, FEATURES, channels, (2,) * (len(channels) - 1), num_res_units=1)
        # Maps in [-1, 1] are a tanh's, others have no bounds.
        bounded = experiment.convention in (None, "ma_sdf11", "xue_sdm")
        activation = torch.tanh if bounded else None
        self.head: nn.Module = nn.Conv3d(FEATURES, classes, 1)
        if self.kind == "multi":
            self.head = DistanceHead(FEATURES, classes, activation=activation)
        elif self.kind == "branch":
            self.taps = Taps(self.body)
            self.branch = ReconstructionBranch(channels[::-1], classes, activation=activation)

    def forward(self, image: Tensor) -> Prediction:
        """Logits and maps of a batch (B, 1, *spatial)."""
        features = self.body(image)
        if self.kind == "multi":
            return Prediction(*self.head(features))
        result = self.head(features)
        if self.kind == "map":
            maps = torch.tanh(result)
            return Prediction(-maps, maps)
        if self.kind == "branch":
            maps = self.branch(self.taps.take())
            # The U-Net's encoder begins at half the resolution.
            maps = nn.functional.interpolate(maps, size=image.shape[2:], mode="trilinear", align_corners=False)
            return Prediction(result, maps)
        return Prediction(result)


class Taps:
    """What the levels of a MONAI U-Net's encoder give."""

    def __init__(self, body: nn.Module) -> None:
        if not isinstance(body, UNet):
            raise ValueError(f"head: expected 'plain', 'multi' or 'map' for a {type(body).__name__}, got 'branch'")
        self.features: list[Tensor] = []
        level = body.model
        while isinstance(level, nn.Sequential):  # encoder, SkipConnection of what is below, decoder
            level[0].register_forward_hook(self._keep)
            level = level[1].submodule
        level.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.features.append(output)

    def take(self) -> list[Tensor]:
        """The features of the last call, coarsest first."""
        features, self.features = self.features[::-1], []
        return features
