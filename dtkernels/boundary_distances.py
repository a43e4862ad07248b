"""The distances of the Hausdorff losses, each made in place of a (squared) signed distance map.

A signed map of :func:`dtkernels.sdf` holds +inf throughout for an empty class and -inf for a full one; all maps
here are 0 there, so that a class without a boundary neither adds to a loss nor makes it infinite.
"""

from __future__ import annotations

from torch import Tensor


def finite_(sdf: Tensor) -> Tensor:
    """``d_out - d_in``, 0 where there is no boundary."""
    return sdf.nan_to_num_(posinf=0.0, neginf=0.0)


def to_boundary_(sdf: Tensor) -> Tensor:
    """``d_in + d_out``: the unsigned distance to the boundary on both sides of it."""
    return finite_(sdf).abs_()


def inside_(sdf: Tensor) -> Tensor:
    """``d_in``: 0 outside."""
    return finite_(sdf).neg_().clamp_(min=0)
