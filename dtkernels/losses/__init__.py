"""Losses on distance maps, with the constructor words of MONAI's losses.

The maps are computed in ``forward``, on the device of the tensors, without a host synchronisation and without
a loop over samples or classes; every loss is float32 under autocast and finite for absent classes.

===========================  ===========================================================================
:class:`BoundaryLoss`        mean of the target's signed distance times the probability
:class:`HausdorffDTLoss`     mean of the squared error times the distances to both boundaries
:class:`LogHausdorffDTLoss`  log(1 + the same)
===========================  ===========================================================================
"""

from .boundary import BoundaryLoss
from .hausdorff import HausdorffDTLoss, LogHausdorffDTLoss

__all__ = ["BoundaryLoss", "HausdorffDTLoss", "LogHausdorffDTLoss"]
