"""The reference backend: SciPy in float64, image by image; the slowest, the plainest, the oracle of tests."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch

from ..problem import Problem, Rule

NAME = "reference"
DEVICES = ("cpu",)


def unavailable() -> str | None:
    """A reason where SciPy is not installed."""
    if importlib.util.find_spec("scipy") is None:
        return "SciPy is not installed; pip install 'dtkernels[scipy]'"
    return None


def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
    """One SciPy transform per image and sign."""
    image, dims = problem.image, problem.spatial_dims
    samples, classes = image.shape[:2]
    values = source.detach().as_strided(image.shape, image.stride)
    result = out.reshape(image.shape).numpy()
    for b in range(samples):
        spacing = problem.spacing.values or tuple(rows[b].tolist())  # type: ignore[index]
        for c in range(classes):
            mask = _foreground(values[b, c], image.rule, image.threshold, c)
            mask = mask.reshape(mask.shape[3 - dims :])
            result[b, c] = _transform(mask, spacing[3 - dims :], problem).reshape(result[b, c].shape)


def _foreground(
    x: torch.Tensor, rule: Rule, threshold: float, index: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    # In NumPy: torch's own threads do not survive a fork, and data loaders fork.
    if x.dtype == torch.bfloat16:  # unknown to NumPy: the upper half of a float32
        values = (x.view(torch.int16).numpy().astype(np.uint32) << 16).view(np.float32)
    else:
        values = x.numpy()
    if rule == Rule.ABOVE:
        return np.asarray(values.astype(np.float64) > threshold)
    if rule == Rule.EQUALS_CLASS:
        return np.asarray(values == index)
    return np.asarray((values != 0) & (values == values))


def _transform(
    mask: np.ndarray[Any, np.dtype[np.bool_]], spacing: tuple[float, ...], problem: Problem
) -> np.ndarray[Any, np.dtype[np.float64]]:
    inside = _to_background(np.pad(mask, 1) if problem.closed else mask, spacing)
    if problem.closed:
        inside = inside[(slice(1, -1),) * mask.ndim]
    distance = _to_background(~mask, spacing) - inside if problem.signed else inside
    return np.copysign(distance**2, distance) if problem.squared else distance


def _to_background(
    mask: np.ndarray[Any, np.dtype[np.bool_]], spacing: tuple[float, ...]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Distance to the nearest background voxel; SciPy itself answers garbage where there is none."""
    from scipy import ndimage

    if mask.all():
        return np.full(mask.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing))
