"""The envelope forward and backward, beside min-plus in torch and SciPy's grey erosion."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

import dtkernels as dtk
from dtkernels.soft import exact_signed_distance

from ..entries import Entry
from .job import Job, Run, array, difference


def _function(kind: str, n: int) -> torch.Tensor:
    """From the easiest windows to the longest."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, n)
    r = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(0).sqrt()
    noise = torch.randn(n, n, n, generator=generator)
    coarse = torch.randn(1, 1, 8, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(n, n, n), mode="trilinear")[0, 0]
    return {
        "noise": noise,
        "soft ball": 100 * torch.sigmoid(20 * (r - 0.5)),
        "smooth": (3000 * smooth).contiguous(),
        "steep noise": 1000 * noise,
        "ball": torch.where(r < 0.5, 0.0, torch.inf),
        "seeds": torch.where(torch.rand(n, n, n, generator=generator) < 1e-3, 0.0, torch.inf),
    }[kind]


def _min_plus(f: torch.Tensor) -> torch.Tensor:
    """All candidates along each axis, slab by slab."""
    for axis in (2, 1, 0):
        k = torch.arange(f.shape[axis], dtype=f.dtype, device=f.device)
        cost = (k[:, None] - k).square()
        lines = f.movedim(axis, -1)
        f = torch.stack([(slab[:, None, :] + cost).amin(-1) for slab in lines]).movedim(-1, axis)
    return f


def _grey_erosion(f: np.ndarray[Any, Any]) -> Run:
    """SciPy, by a parabola as long as the axis."""
    from scipy import ndimage

    def run() -> Any:
        g = f
        for axis in (2, 1, 0):
            k = np.arange(1 - g.shape[axis], g.shape[axis], dtype=g.dtype)
            shape = [1, 1, 1]
            shape[axis] = len(k)
            g = ndimage.grey_erosion(g, structure=-(k**2).reshape(shape), mode="constant", cval=np.inf)
        return g

    return run


def values(entry: Entry) -> Job:
    """Values of the envelope of a function; with positions and in float64 as peers."""
    f = _function(entry.mask, entry.shape[0]).to(entry.device, getattr(torch, entry.dtype))
    wide = f.double()

    exact = cache(lambda: array(_min_plus(wide)))

    def error(name: str, result: Any) -> float:
        return difference(result[0] if isinstance(result, tuple) else result, exact())

    return Job(
        lambda: dtk.envelope(f),
        {
            "with index": lambda: lambda: dtk.envelope(f, return_index=True),
            "float64": lambda: lambda: dtk.envelope(wide),
            "torch min-plus": lambda: lambda: _min_plus(f),
            "SciPy grey erosion": lambda: _grey_erosion(f.cpu().numpy()),
        },
        f.numel(),
        4 * f.element_size(),  # rows and columns of a slice in cache, then the other axis: in and out, twice
        error,
    )


def backward(entry: Entry) -> Job:
    """The gradient of the values, which goes to their positions."""
    f = _function(entry.mask, entry.shape[0]).to(entry.device, getattr(torch, entry.dtype))
    _, index = dtk.envelope(f, return_index=True)
    grad = torch.ones_like(f)

    def index_add(dtype: torch.dtype = f.dtype) -> Any:
        sums = torch.zeros(f.numel(), dtype=dtype, device=f.device)
        return sums.index_add_(0, index.flatten(), grad.to(dtype).flatten())

    return Job(
        lambda: torch.ops.dtk.envelope_backward(grad, index),
        {"index_add": lambda: index_add},
        f.numel(),
        error=lambda name, result: difference(result, array(index_add(torch.float64)).reshape(f.shape)),
    )


def layer(entry: Entry) -> Job:
    """The soft layer, forward and backward, beside the signed distance alone."""
    n = entry.shape[0]
    p = torch.sigmoid(-0.2 * _function("soft ball", n) + 10).to(entry.device).requires_grad_()
    grad = torch.ones_like(p)
    return Job(
        lambda: torch.autograd.grad(exact_signed_distance(p), p, grad),
        {"sdf": lambda: lambda: dtk.sdf(p.detach(), threshold=0.5)},
        p.numel(),
    )
