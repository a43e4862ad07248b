"""Named distance maps beside the plain transform, and the recipe of each map's paper by SciPy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

import dtkernels as dtk

from .. import inputs
from ..entries import Entry
from .job import Job, difference
from .transform import tensor

sys.path.append(str(Path(__file__).parents[2] / "tests"))

import maps_oracle


def _half(mask: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """What SciPy's users would write; the oracle of the tests compares all pairs of voxels."""
    result = np.empty(mask.shape)
    for side, sign in ((mask, -1.0), (~mask, 1.0)):
        d, nearest = ndimage.distance_transform_edt(side, sampling=spacing, return_indices=True)
        steps = np.abs(nearest - np.indices(mask.shape))
        widths = np.where(steps == steps.max(0), np.reshape(spacing, (-1, 1, 1, 1)), np.inf).min(0)
        result[side] = sign * (d - widths / 2)[side]
    return result


def _recipe(name: str, equal: bool) -> Callable[..., Any]:
    """What the code of the paper does, SciPy's transform and NumPy on its result."""
    if name == "half" and not equal:
        return _half
    if name == "half":  # a constant shift
        return lambda m, s: (lambda d: d - np.sign(d) / 2)(maps_oracle.MAPS["edt_diff"](m, s))
    recipe: Callable[..., Any] = maps_oracle.MAPS[name]
    return recipe


def distance_map(entry: Entry) -> Job:
    """``dtk.distance_map`` by the name that the variant has."""
    data = inputs.load(entry)
    x = tensor(data.images, entry)
    out = torch.empty(x.shape, device=x.device)
    mask, recipe = data.images.astype(bool), _recipe(entry.variant, not data.spacing)

    exact = cache(lambda: recipe(mask, data.sampling))

    def error(name: str, result: Any) -> float | None:
        tied = data.spacing and entry.variant == "half"  # of equally near voxels SciPy takes others
        return None if tied or name == "plain sdf" else difference(result, exact())

    return Job(
        lambda: dtk.distance_map(x, entry.variant, data.spacing, out=out),
        {
            "plain sdf": lambda: lambda: dtk.sdf(x, data.spacing, out=out),
            "SciPy": lambda: lambda: recipe(mask, data.sampling),
        },
        x.numel(),
        error=error,
    )
