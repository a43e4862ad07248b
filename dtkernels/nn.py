"""Network parts of the papers on distance maps: a layer, heads, a branch, and a network that is itself a loss.

They are small, for 2-D and 3-D, and know nothing of the network that they are put beside.

=============================  ==================================================================================
:class:`SmoothHeaviside`       from a signed distance map to probabilities
:class:`DistanceHead`          a distance map beside the segmentation, from the same features (multi-head)
:class:`ReconstructionBranch`  a distance map by a decoder of its own
:class:`LRNet`                 a tiny network from probabilities to a distance map, pre-trained and then frozen
:func:`pretrain`               the recipe for that
=============================  ==================================================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import maps
from .arguments import SpacingLike


class SmoothHeaviside(torch.nn.Module):
    r"""Probabilities of the object that a signed distance map stands for.

    .. math:: p = \frac{1}{1 + e^{k z}}

    for a map z that is negative inside, as :func:`dtkernels.sdf` is: 1 inside, 0 outside, 0.5 where z is 0.

    Eq. 3 of the paper prints :math:`1 / (1 + e^{-z k})` and takes the map negative inside, which makes the object
    0 and the background 1; and with maps in [-1, 1] only a large k gives a mask: the authors' code has 1500.

    Shapes and dtypes are those of the input. Differentiable, though with k = 1500 the gradient is zero in float32
    beyond :math:`|z| > 0.07`: it moves the boundary and nothing else.

    References:
        Xue et al., Shape-aware organ segmentation by predicting signed distance maps, AAAI 2020, arXiv:1912.03849.

    >>> import torch
    >>> from dtkernels.nn import SmoothHeaviside
    >>> SmoothHeaviside()(torch.tensor([-0.5, 0.0, 0.5]))
    tensor([1.0000, 0.5000, 0.0000])
    """

    def __init__(self, k: float = 1500.0) -> None:
        """Choose the slope.

        Args:
            k: slope, in one over the unit of the map.
        """
        super().__init__()
        self.k = float(k)

    def forward(self, z: Tensor) -> Tensor:
        """The probabilities of a map of any shape."""
        return torch.sigmoid(-self.k * z)

    def extra_repr(self) -> str:
        """The slope, for ``print``."""
        return f"k={self.k:g}"


class DistanceHead(torch.nn.Module):
    """Segmentation and distance map from the same features: two convolutions of one voxel (multi-head).

    ``forward`` takes features ``(B, F, *spatial)`` and returns ``(logits, maps)``, both ``(B, C, *spatial)``.
    Train the maps with :class:`~dtkernels.losses.SignedDistanceRegressionLoss` or
    :class:`~dtkernels.losses.SDFProductLoss`; both heads send their gradients into the features.

    References:
        Ma et al., How distance transform maps boost segmentation CNNs: an empirical study, MIDL 2020 (tanh for
        signed maps in [-1, 1], no activation for ``"ma_dtm"``).

    >>> import torch
    >>> from dtkernels.nn import DistanceHead
    >>> logits, maps = DistanceHead(16, 3)(torch.zeros(2, 16, 8, 8, 8))
    >>> logits.shape, maps.shape
    (torch.Size([2, 3, 8, 8, 8]), torch.Size([2, 3, 8, 8, 8]))
    """

    def __init__(
        self,
        features: int,
        classes: int,
        spatial_dims: int = 3,
        activation: Callable[[Tensor], Tensor] | None = torch.tanh,
    ) -> None:
        """Choose sizes.

        Args:
            features: channels of the features.
            classes: channels of both results.
            spatial_dims: 2 or 3.
            activation: of the maps; None for maps that are not in [-1, 1].
        """
        super().__init__()
        self.segmentation = _convolution(spatial_dims)(features, classes, 1)
        self.distance = _convolution(spatial_dims)(features, classes, 1)
        self.activation = activation

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps.

        Args:
            features: ``(B, F, *spatial)``.
        """
        maps_ = self.distance(features)
        return self.segmentation(features), maps_ if self.activation is None else self.activation(maps_)


class ReconstructionBranch(torch.nn.Module):
    """A distance map by a decoder of its own, from the features of an encoder.

    ``forward`` takes the encoder's features, coarsest first, and returns maps ``(B, C, *spatial)`` of the finest
    ones' size. Each level is brought to the size of the next by linear interpolation, joined with it, and
    convolved. It is thrown away after training: its task is to teach the encoder the shape.

    References:
        Ma et al., How distance transform maps boost segmentation CNNs: an empirical study, MIDL 2020 (as an
        alternative to the multi-head: "Rec-Branch").

    >>> import torch
    >>> from dtkernels.nn import ReconstructionBranch
    >>> branch = ReconstructionBranch([32, 16, 8], 2, spatial_dims=2)
    >>> features = [torch.zeros(1, 32, 5, 4), torch.zeros(1, 16, 10, 9), torch.zeros(1, 8, 20, 18)]
    >>> branch(features).shape
    torch.Size([1, 2, 20, 18])
    """

    def __init__(
        self,
        features: Sequence[int],
        classes: int,
        spatial_dims: int = 3,
        activation: Callable[[Tensor], Tensor] | None = torch.tanh,
    ) -> None:
        """Choose sizes.

        Args:
            features: channels of each level, coarsest first.
            classes: channels of the maps.
            spatial_dims: 2 or 3.
            activation: of the maps; None for maps that are not in [-1, 1].
        """
        super().__init__()
        self.levels = torch.nn.ModuleList(_block(a + b, b, spatial_dims) for a, b in itertools.pairwise(features))
        self.head = _convolution(spatial_dims)(features[-1], classes, 1)
        self.activation = activation

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The maps.

        Args:
            features: of each level, coarsest first.
        """
        x = features[0]
        for level, finer in zip(self.levels, features[1:], strict=True):
            x = level(torch.cat([_resized(x, finer), finer], 1))
        x = self.head(x)
        return x if self.activation is None else self.activation(x)


class LRNet(torch.nn.Module):
    r"""From probabilities to a distance map: a two-level U-Net of 2, 4 and 8 channels with a ReLU at its end.

    A distance transform has no derivative with respect to a prediction; this network stands in for it. Pre-train
    it once on ground-truth masks with :func:`pretrain`, which freezes it; then the error of its map of the
    prediction against the target's true map is a loss that the segmentation network can follow.

    ``forward`` takes probabilities ``(B, C, *spatial)`` and returns maps of the same shape, not negative. Each
    class is an image of its own, so that one network serves any number of classes.

    References:
        Li et al., Deep distance map regression network with shape-aware loss for imbalanced medical image
        segmentation, MLMI 2020.

    >>> import torch
    >>> from dtkernels.nn import LRNet
    >>> LRNet(spatial_dims=2)(torch.rand(2, 3, 20, 18)).shape
    torch.Size([2, 3, 20, 18])
    """

    def __init__(self, spatial_dims: int = 3, channels: Sequence[int] = (2, 4, 8)) -> None:
        """Choose sizes.

        Args:
            spatial_dims: 2 or 3.
            channels: of the three resolutions.
        """
        super().__init__()
        top, middle, bottom = channels
        self.down = torch.nn.ModuleList(
            [
                _block(1, top, spatial_dims, norm=False),
                _block(top, middle, spatial_dims, norm=False),
                _block(middle, bottom, spatial_dims, norm=False),
            ]
        )
        self.up = torch.nn.ModuleList(
            [
                _block(bottom + middle, middle, spatial_dims, norm=False),
                _block(middle + top, top, spatial_dims, norm=False),
            ]
        )
        self.head = _convolution(spatial_dims)(top, 1, 1)
        self.pool = {2: torch.nn.functional.max_pool2d, 3: torch.nn.functional.max_pool3d}[spatial_dims]

    def forward(self, probabilities: Tensor) -> Tensor:
        """The maps.

        Args:
            probabilities: ``(B, C, *spatial)``.
        """
        x0 = self.down[0](probabilities.flatten(0, 1).unsqueeze(1))
        x1 = self.down[1](self.pool(x0, 2, ceil_mode=True))
        x = self.down[2](self.pool(x1, 2, ceil_mode=True))
        x = self.up[0](torch.cat([_resized(x, x1), x1], 1))
        x = self.up[1](torch.cat([_resized(x, x0), x0], 1))
        # While it learns, the ReLU leaks: pushed below 0 by the background in a first step, it would stay there.
        slope = 0.01 if self.training else 0.0
        return torch.nn.functional.leaky_relu(self.head(x), slope).reshape(probabilities.shape)


def pretrain(
    net: torch.nn.Module,
    masks: Iterable[Tensor],
    convention: str = "li_nidm",
    spacing: SpacingLike = None,
    *,
    learning_rate: float = 1e-2,
) -> list[Tensor]:
    """Teach a network the distance maps of ground-truth masks, then freeze it.

    One step of Adam on the mean squared error for each batch of masks; as many as there are. The network is left
    in evaluation mode with parameters that need no gradient: gradients go through it, not into it.

    Args:
        net: an :class:`LRNet`, or any that maps ``(B, C, *spatial)`` to the same shape.
        masks: batches of masks ``(B, C, *spatial)``, any dtype, on the network's device.
        convention: of the maps, by name; not negative for an :class:`LRNet`.
        spacing: as in :func:`dtkernels.edt`.
        learning_rate: of Adam.

    Returns:
        The losses of the steps, on the device: nothing is read back.

    >>> import torch
    >>> from dtkernels.nn import LRNet, pretrain
    >>> mask = torch.zeros(1, 1, 16, 16)
    >>> mask[..., 4:12, 4:12] = 1
    >>> net = LRNet(spatial_dims=2)
    >>> losses = pretrain(net, [mask] * 20)
    >>> len(losses), any(p.requires_grad for p in net.parameters())
    (20, False)
    """
    net.requires_grad_(True).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate)
    losses = []
    for mask in masks:
        target = maps.distance_map(mask, convention, spacing, spatial_dims=mask.ndim - 2)
        loss = torch.nn.functional.mse_loss(net(mask.to(torch.float32)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    net.requires_grad_(False).eval()
    return losses


def _convolution(spatial_dims: int) -> Any:
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims: expected 2 or 3, got {spatial_dims!r}")
    return torch.nn.Conv2d if spatial_dims == 2 else torch.nn.Conv3d


def _block(before: int, after: int, spatial_dims: int, *, norm: bool = True) -> torch.nn.Sequential:
    """A convolution of three voxels and its activation."""
    convolution = _convolution(spatial_dims)(before, after, 3, padding=1)
    # Instance normalisation would divide the size of an object out of its distances.
    layers = [convolution, torch.nn.GroupNorm(1, after)] if norm else [convolution]
    return torch.nn.Sequential(*layers, torch.nn.LeakyReLU(0.01))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return torch.nn.functional.interpolate(x, size=like.shape[2:], mode=mode, align_corners=False)
