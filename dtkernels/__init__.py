"""Exact Euclidean distance transforms where the tensor already is, and the losses built on them.

>>> import torch, dtkernels as dtk
>>> mask = torch.zeros(2, 1, 8, 8, 8)
>>> mask[:, :, 2:5, 2:5, 2:5] = 1
>>> dtk.sdf(mask).shape
torch.Size([2, 1, 8, 8, 8])
>>> bool((torch.ops.dtk.sdf(mask) == dtk.sdf(mask)).all())
True
"""

from importlib.metadata import version as _version

from . import backends, losses, metrics, ops
from .functional import edt, envelope, label, labels_sdf, nearest, sdf
from .maps import conventions, distance_map

__version__ = _version("dtkernels")

__all__ = [
    "__version__",
    "backends",
    "conventions",
    "distance_map",
    "edt",
    "envelope",
    "label",
    "labels_sdf",
    "losses",
    "metrics",
    "nearest",
    "ops",
    "sdf",
]
