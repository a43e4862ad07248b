"""Losses on distance maps, with the constructor words of MONAI's losses.

The maps are computed in ``forward``, on the device of the tensors, without a host synchronisation and without a
loop over samples or classes; every loss is float32 under autocast and finite for absent classes. ``torch.compile``
traces every loss, and ``torch.func.grad`` and ``vmap`` take it, one in the other and ``grad`` compiled, too. Maps
of the target that were computed beforehand are taken as ``maps=``. :mod:`dtkernels.losses.functional` has each
loss as a function.

On probabilities:

================================  =========================================================================
:class:`BoundaryLoss`             mean of the target's signed distance times the probability
:class:`RegionWiseLoss`           the same with a rectified map, or any other
:class:`HausdorffDTLoss`          mean of the squared error times the distances to both boundaries
:class:`LogHausdorffDTLoss`       log(1 + the same)
:class:`GeneralizedSurfaceLoss`   share of the target's squared distances that the prediction gets wrong
:class:`DistancePenalizedCELoss`  cross-entropy, weighted by the distance to the boundary
:class:`BorderWeightedCELoss`     cross-entropy with the border weights of the U-Net
:class:`MapDiceLoss`              overlap with a map
================================  =========================================================================

On predicted maps:

=====================================  ====================================================================
:class:`SDFProductLoss`                agreement of two signed distance maps in sign and size
:class:`ShapeAwareLoss`                Dice of the map's mask, its product loss and its absolute error
:class:`SignedDistanceRegressionLoss`  absolute, squared or smooth error of a map
=====================================  ====================================================================
"""

from .boundary import BoundaryLoss
from .cross_entropy import BorderWeightedCELoss, DistancePenalizedCELoss
from .hausdorff import HausdorffDTLoss, LogHausdorffDTLoss
from .map_dice import MapDiceLoss
from .region_wise import RegionWiseLoss
from .regression import SignedDistanceRegressionLoss
from .sdf_product import SDFProductLoss, ShapeAwareLoss
from .surface import GeneralizedSurfaceLoss

__all__ = [
    "BorderWeightedCELoss",
    "BoundaryLoss",
    "DistancePenalizedCELoss",
    "GeneralizedSurfaceLoss",
    "HausdorffDTLoss",
    "LogHausdorffDTLoss",
    "MapDiceLoss",
    "RegionWiseLoss",
    "SDFProductLoss",
    "ShapeAwareLoss",
    "SignedDistanceRegressionLoss",
]
