"""The envelope on one CPU thread, forward and backward, beside min-plus in torch and SciPy's grey erosion.

``python -m bench.envelope --save bench/results/envelope.json``; ``--quick`` leaves out the slow peers at
128 x 128 x 128.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dtkernels as dtk
from dtkernels.soft import exact_signed_distance

from . import measure


def functions(n: int) -> dict[str, torch.Tensor]:
    """Kinds of functions, from the easiest windows to the longest."""
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
    }


def min_plus(f: torch.Tensor) -> torch.Tensor:
    """All candidates along each axis, slab by slab."""
    for axis in (2, 1, 0):
        k = torch.arange(f.shape[axis], dtype=f.dtype)
        cost = (k[:, None] - k).square()
        lines = f.movedim(axis, -1)
        f = torch.stack([(slab[:, None, :] + cost).amin(-1) for slab in lines]).movedim(-1, axis)
    return f


def grey_erosion(f: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """SciPy, by a parabola as long as the axis."""
    from scipy import ndimage

    for axis in (2, 1, 0):
        k = np.arange(1 - f.shape[axis], f.shape[axis], dtype=f.dtype)
        shape = [1, 1, 1]
        shape[axis] = len(k)
        f = ndimage.grey_erosion(f, structure=-(k**2).reshape(shape), mode="constant", cval=np.inf)
    return f


def row(name: str, f: torch.Tensor, peers: bool) -> dict[str, Any]:
    """One function: nanoseconds per voxel of ours, and how many times as long the peers take."""
    _, index = dtk.envelope(f, return_index=True)
    grad = torch.ones_like(f)
    wide = f.double()
    contenders: dict[str, Callable[[], Any]] = {
        "values": lambda: dtk.envelope(f),
        "with index": lambda: dtk.envelope(f, return_index=True),
        "backward": lambda: torch.ops.dtk.envelope_backward(grad, index),
        "float64": lambda: dtk.envelope(wide),
        "index_add": lambda: torch.zeros(f.numel()).index_add_(0, index.flatten(), grad.flatten()),
    }
    samples = measure.side_by_side(contenders, rounds=5)
    if peers:
        values = dtk.envelope(f)
        assert torch.equal(min_plus(f), values)
        slow = measure.side_by_side({"values": contenders["values"], "torch": lambda: min_plus(f)}, rounds=3)
        samples["torch"] = slow["torch"]
        if f.shape[0] <= 64 and bool(torch.isfinite(f).all()):
            array = f.numpy()
            np.testing.assert_allclose(grey_erosion(array), values.numpy(), rtol=1e-5, atol=1e-3)
            samples["scipy"] = measure.side_by_side({"scipy": lambda: grey_erosion(array)}, rounds=3)["scipy"]
    voxels = f.numel()
    record = {
        "function": name,
        "side": f.shape[0],
        "ns_per_voxel": {k: round(s.median / voxels * 1e9, 2) for k, s in samples.items()},
    }
    print(record, flush=True)
    return record


def layer(n: int) -> dict[str, Any]:
    """The soft layer, forward and backward, beside the signed distance alone."""
    p = torch.sigmoid(-0.2 * functions(n)["soft ball"] + 10).requires_grad_()
    grad = torch.ones_like(p)
    samples = measure.side_by_side(
        {
            "sdf": lambda: dtk.sdf(p.detach(), threshold=0.5),
            "layer": lambda: torch.autograd.grad(exact_signed_distance(p), p, grad),
        },
        rounds=5,
    )
    record = {"side": n, "ns_per_voxel": {k: round(s.median / n**3 * 1e9, 2) for k, s in samples.items()}}
    print(record, flush=True)
    return record


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for n in (64, 128):
        for name, f in functions(n).items():
            rows.append(row(name, f, peers=n == 64 or (name == "noise" and not options.quick)))
    payload = {"threads": 1, "rows": rows, "layer": layer(96)}
    if options.save:
        measure.save(options.save, payload)


if __name__ == "__main__":
    main()
