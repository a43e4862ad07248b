"""The distance maps that the losses weigh with, each made in place of a signed distance map.

A signed map of :func:`dtkernels.sdf` holds +inf throughout for an empty class and -inf for a full one; all maps
here are 0 there, so that a class without a boundary neither adds to a loss nor makes it infinite.
"""

from __future__ import annotations

from torch import Tensor


def edt_diff_(sdf: Tensor) -> Tensor:
    """``d_out - d_in``: -s next to +s, without a zero level."""
    return sdf.nan_to_num_(posinf=0.0, neginf=0.0)


def kervadec_(sdf: Tensor) -> Tensor:
    """``d_out`` outside, ``-(d_in - 1)`` inside: Kervadec et al.'s code and MONAI's BoundaryLoss."""
    phi = edt_diff_(sdf)
    return phi.add_(phi < 0)


def to_boundary_(sdf: Tensor) -> Tensor:
    """``d_in + d_out``: the unsigned distance to the boundary on both sides of it."""
    return edt_diff_(sdf).abs_()


def inside_(sdf: Tensor) -> Tensor:
    """``d_in``: 0 outside."""
    return edt_diff_(sdf).neg_().clamp_(min=0)
