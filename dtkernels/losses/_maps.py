"""The distance maps that the losses weigh with, each made in place of a signed distance map.

A signed map of :func:`dtkernels.sdf` holds +inf throughout for an empty class and -inf for a full one; all maps
here are finite there, so that a class without a boundary neither adds to a loss nor makes it infinite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
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


def _peaks(sdf: Tensor) -> tuple[Tensor, Tensor]:
    axes = tuple(range(2, sdf.ndim))
    low, high = sdf.amin(axes, keepdim=True), sdf.amax(axes, keepdim=True)
    return -low.clamp(max=0), high.clamp(min=0)


def rrw_(sdf: Tensor) -> Tensor:
    inside = edt_diff_(sdf) < 0
    m_in, _ = _peaks(sdf)
    return sdf.div_(m_in.clamp(min=1e-20)).masked_fill_(~inside, 1.0)


def ac_(sdf: Tensor) -> Tensor:
    return sdf.gt_(0)


def dpce_(sdf: Tensor) -> Tensor:
    empty = sdf.isinf()
    inside = sdf < 0
    m_in, m_out = _peaks(edt_diff_(sdf))
    peak = torch.where(inside, m_in, m_out)
    w = 1 + torch.where(peak > 1, (peak - sdf.abs()) / (peak - 1), 1.0)
    return sdf.copy_(torch.where(empty, 1.0, w))


def unet_w_(sdf: Tensor) -> Tensor:
    return sdf.abs_().div_(5.0).square_().mul_(-0.5).exp_().mul_(10.0).add_(1.0)


def xue_sdm_(sdf: Tensor) -> Tensor:
    outside = sdf > 0
    edge = torch.zeros_like(outside)
    for axis in range(2, sdf.ndim):
        n = sdf.shape[axis] - 1
        a, b = outside.narrow(axis, 0, n), outside.narrow(axis, 1, n)
        edge.narrow(axis, 0, n).logical_or_(b)
        edge.narrow(axis, 1, n).logical_or_(a)
    m_in, m_out = _peaks(edt_diff_(sdf))
    sdf.div_(torch.where(outside, m_out, m_in).clamp(min=1e-20))
    return sdf.masked_fill_(edge & ~outside, 0.0)


def li_nidm_(sdf: Tensor) -> Tensor:
    from .. import functional

    d = inside_(sdf)
    labels, _ = functional.label(d, connectivity=d.ndim - 2, spatial_dims=d.ndim - 2)
    flat = labels.flatten(2).long()
    peaks = torch.zeros(*flat.shape[:2], int(flat.max()) + 1).scatter_reduce_(2, flat, d.flatten(2), "amax")
    m = peaks.gather(2, flat).view(d.shape)
    return d.copy_(torch.where(d > 0, (m + 1 - d) / m, 0.0))


CONVENTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "kervadec": kervadec_,
    "edt_diff": edt_diff_,
    "rrw": rrw_,
    "ac": ac_,
    "dpce": dpce_,
    "unet_w": unet_w_,
    "xue_sdm": xue_sdm_,
    "li_nidm": li_nidm_,
}
