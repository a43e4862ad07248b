"""The reference backend: SciPy in float64, image by image; the slowest, the plainest, the oracle of tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..problem import EnvelopeProblem, Image, LabelProblem, NearestProblem, Problem, Rule, Spacing

NAME = "reference"
DEVICES = ("cpu",)


def unavailable() -> str | None:
    """A reason where SciPy is not installed."""
    if importlib.util.find_spec("scipy") is None:
        return "SciPy is not installed; pip install 'dtkernels[scipy]'"
    return None


def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
    """One SciPy transform per image and sign."""
    result = out.reshape(problem.image.shape).numpy()
    for at, mask in _masks(problem.image, source, problem.spatial_dims):
        spacing = _spacing(problem.spacing, rows, at[0], problem.spatial_dims)
        result[at] = _transform(mask, spacing, problem).reshape(result[at].shape)


def nearest(
    problem: NearestProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    distance: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """SciPy's distance; the voxel by a search of its own, since SciPy promises no order among equals."""
    distances = distance.reshape(problem.image.shape).numpy()
    indices = index.reshape(problem.image.shape).numpy()
    for at, mask in _masks(problem.image, source, problem.spatial_dims):
        spacing = _spacing(problem.spacing, rows, at[0], problem.spatial_dims)
        distances[at] = _to_background(mask, spacing).reshape(distances[at].shape)
        indices[at] = _nearest_index(mask, spacing).reshape(indices[at].shape)


def label(problem: LabelProblem, source: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> None:
    """SciPy's components, numbered by their first voxels."""
    from scipy import ndimage

    image = problem.image
    result = labels.reshape(image.shape).numpy()
    counts = count.reshape(image.shape[:2]).numpy()
    neighbours = ndimage.generate_binary_structure(3, problem.connectivity)
    for at, mask in _masks(image, source, 3):
        components, counts[at] = ndimage.label(mask, neighbours)
        values, first = np.unique(components[mask], return_index=True)
        rank = np.zeros(counts[at] + 1, np.int32)
        rank[values[np.argsort(first)]] = np.arange(1, counts[at] + 1)
        result[at] = rank[components]


def envelope(
    problem: EnvelopeProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    values: torch.Tensor,
    index: torch.Tensor | None,
) -> None:
    """All candidates, axis by axis, the last first: the sums of the definition in the dtype of ``f``."""
    image = problem.image
    functions = source.detach().as_strided(image.shape, image.stride).numpy()
    result = values.reshape(image.shape).numpy()
    chosen = None if index is None else index.reshape(image.shape).numpy()
    for at in np.ndindex(image.shape[:2]):
        spacing = _spacing(problem.spacing, rows, at[0], 3)
        f = functions[at]
        square = np.where(np.isnan(f), np.inf, f)
        place = np.arange(f.size).reshape(f.shape)
        for axis in reversed(range(3)):
            square, place = _least_sums(
                square, place, axis, f.dtype.type(spacing[axis] ** 2), f.dtype.type(np.inf)
            )
        result[at] = square
        if chosen is not None:
            chosen[at] = place


def scatter(
    grad: torch.Tensor, index: torch.Tensor, shape: tuple[int, int, int, int, int], sums: torch.Tensor
) -> None:
    """NumPy's unbuffered addition, in the order of the senders."""
    result = sums.view(shape[0] * shape[1], -1).numpy()
    result[:] = 0
    sent, places = grad.reshape(result.shape).numpy(), index.reshape(result.shape).numpy()
    for row, values, at in zip(result, sent, places, strict=True):
        np.add.at(row, at[at >= 0], values[at >= 0])


def _masks(
    image: Image, source: torch.Tensor, dims: int
) -> Iterator[tuple[tuple[int, int], np.ndarray[Any, np.dtype[np.bool_]]]]:
    """The foreground of every image with its place in the batch."""
    values = source.detach().as_strided(image.shape, image.stride)
    for b, c in np.ndindex(image.shape[:2]):
        mask = _foreground(values[b, c], image.rule, image.threshold, c)
        yield (b, c), mask.reshape(mask.shape[3 - dims :])


def _spacing(spacing: Spacing, rows: torch.Tensor | None, sample: int, dims: int) -> tuple[float, ...]:
    full = spacing.values or tuple(rows[sample].tolist())  # type: ignore[index]
    return full[3 - dims :]


def _foreground(x: torch.Tensor, rule: Rule, threshold: float, index: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    # In NumPy: torch's own threads do not survive a fork, and data loaders fork.
    if x.dtype == torch.bfloat16:  # unknown to NumPy: the upper half of a float32
        values = (x.view(torch.int16).numpy().astype(np.uint32) << 16).view(np.float32)
    else:
        values = x.numpy()
    if rule == Rule.ABOVE:
        return np.asarray(values.astype(np.float64) > threshold)
    if rule == Rule.EQUALS_CLASS:
        return np.asarray(values == int(threshold) + index)
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


def _nearest_index(
    mask: np.ndarray[Any, np.dtype[np.bool_]], spacing: tuple[float, ...]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Position of the lowest of the nearest background voxels, -1 without any: all candidates, axis by axis.

    The last axis comes first, and the lowest position wins on each, so that the winner is the first in raster
    order. Squares are integers at equal spacing, else float32 sums of the float32 terms s^2 k^2.
    """
    equal = len(set(spacing)) == 1
    dtype, none = (np.int64, 1 << 40) if equal else (np.float32, np.inf)
    square = np.where(mask, none, 0).astype(dtype)
    place = np.arange(mask.size).reshape(mask.shape)
    for axis in reversed(range(mask.ndim)):
        square, place = _least_sums(square, place, axis, 1 if equal else np.float32(spacing[axis] ** 2), none)
    return place


def _least_sums(
    value: np.ndarray[Any, Any], place: np.ndarray[Any, Any], axis: int, weight: Any, none: Any
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Along an axis, the least ``value(j) + weight (p - j)^2`` below ``none``; ``place(j)`` of the lowest j."""
    steps = np.arange(value.shape[axis])
    along = [1] * value.ndim
    along[axis] = -1
    least, chosen = np.full_like(value, none), np.full_like(place, -1)
    with np.errstate(over="ignore"):  # to infinity, which is no candidate
        squares = weight * (steps**2).astype(value.dtype)
        for j in steps:
            candidate = value.take([j], axis) + squares[np.abs(steps - j)].reshape(along)
            less = candidate < least
            least = np.where(less, candidate, least)
            chosen = np.where(less, place.take([j], axis), chosen)
    return least, chosen
