"""Network parts of the papers on distance maps: a layer, heads, a branch, and a network that is itself a loss.

They are small, for 2-D and 3-D, and know nothing of the network that they are put beside.

============================  ====================================================================================
:class:`SmoothHeaviside`      from a signed distance map to probabilities
:class:`DistanceHead`         a distance map beside the segmentation, from the same features (multi-head)
:class:`ReconstructionBranch` a distance map by a decoder of its own
:class:`LRNet`                a tiny network from probabilities to a distance map, pre-trained and then frozen
============================  ====================================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor


class SmoothHeaviside(torch.nn.Module):
    r"""Probabilities of the object that a signed distance map stands for.

    .. math:: p = \frac{1}{1 + e^{k z}}

    for a map z that is negative inside, as all maps of this library are: 1 inside, 0 outside, 0.5 where z is 0.

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
