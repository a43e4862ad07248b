"""What an entry runs: ours, its peers by name, and how far a result is from the truth. One file per family.

A peer is prepared by its factory, outside the time that is measured; a factory raises ImportError where its
library is not installed, which the result file then names.
"""

from __future__ import annotations

from collections.abc import Callable

from ..entries import Entry
from . import envelope, losses, maps, metrics, transform
from .job import Job

OPERATORS: dict[str, Callable[[Entry], Job]] = {
    "edt": transform.distances,
    "sdf": transform.distances,
    "labels_sdf": transform.labels_sdf,
    "nearest": transform.nearest,
    "copy": transform.copy,
    "label": transform.label,
    "distance_map": maps.distance_map,
    "loss": losses.loss,
    "surface_metrics": metrics.surface_metrics,
    "nsd": metrics.nsd,
    "lesions": metrics.lesions,
    "hd": metrics.hausdorff,
    "envelope": envelope.values,
    "envelope_backward": envelope.backward,
    "exact_signed_distance": envelope.layer,
}
