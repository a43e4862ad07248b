"""How far a prediction is from its target: surface distances by three libraries' definitions, and overlap.

>>> import torch
>>> from dtkernels.metrics import aggregate, surface_metrics
>>> target = torch.zeros(2, 1, 16, 16, 16)
>>> target[:, :, 4:9, 4:9, 4:9] = 1
>>> pred = target.roll(1, dims=-1)
>>> pred[1] = 0  # missed
>>> result = surface_metrics(pred, target, spacing=(2.0, 1.0, 1.0))
>>> print(aggregate(result["hd95"]))
1 over 1 of 2 cases (1 infinite left out)
"""

from .aggregates import Aggregate, aggregate
from .components import Lesion, LesionMetrics, lesion_metrics
from .definitions import DEFINITIONS
from .overlap import (
    OverlapMetrics,
    dice,
    global_dice,
    jaccard,
    overlap_metrics,
    relative_volume_difference,
    volumetric_overlap_error,
)
from .single import (
    average_surface_distance,
    average_symmetric_surface_distance,
    hausdorff_distance,
    hausdorff_percentile,
    maximum_symmetric_surface_distance,
    normalized_surface_dice,
    root_mean_square_surface_distance,
)
from .surface import SurfaceMetrics, surface_metrics

__all__ = [
    "DEFINITIONS",
    "Aggregate",
    "Lesion",
    "LesionMetrics",
    "OverlapMetrics",
    "SurfaceMetrics",
    "aggregate",
    "average_surface_distance",
    "average_symmetric_surface_distance",
    "dice",
    "global_dice",
    "hausdorff_distance",
    "hausdorff_percentile",
    "jaccard",
    "lesion_metrics",
    "maximum_symmetric_surface_distance",
    "normalized_surface_dice",
    "overlap_metrics",
    "relative_volume_difference",
    "root_mean_square_surface_distance",
    "surface_metrics",
    "volumetric_overlap_error",
]
