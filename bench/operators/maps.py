"""Named distance maps beside the plain transform, and the recipe of each map's paper by SciPy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dtkernels as dtk

from .. import inputs
from ..entries import Entry
from .job import Job, difference
from .transform import tensor


def _recipe(name: str) -> Callable[..., Any]:
    """What the code of the paper does, SciPy's transform and NumPy on its result."""
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    import maps_oracle

    if name == "half":
        # The oracle compares all pairs of voxels; at equal spacing the map is a constant shift, by any recipe.
        return lambda m, s: (lambda d: d - np.sign(d) / 2)(maps_oracle.MAPS["edt_diff"](m, s))
    recipe: Callable[..., Any] = maps_oracle.MAPS[name]
    return recipe


def distance_map(entry: Entry) -> Job:
    """``dtk.distance_map`` by the name that the variant has."""
    data = inputs.load(entry)
    x = tensor(data.images, entry)
    out = torch.empty(x.shape, device=x.device)
    mask, recipe = data.images.astype(bool), _recipe(entry.variant)

    exact = cache(lambda: recipe(mask, data.sampling))

    def error(name: str, result: Any) -> float | None:
        all_pairs = data.spacing and entry.variant == "half"
        return None if all_pairs or name == "plain sdf" else difference(result, exact())

    return Job(
        lambda: dtk.distance_map(x, entry.variant, data.spacing, out=out),
        {
            "plain sdf": lambda: lambda: dtk.sdf(x, data.spacing, out=out),
            "SciPy": lambda: lambda: recipe(mask, data.sampling),
        },
        x.numel(),
        error=error,
    )
