"""The compiled CPU backend: SIMD over lines, own thread pool, every axis in one call."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ..problem import (
    ContourProblem,
    DType,
    EnvelopeProblem,
    LabelProblem,
    NearestProblem,
    Problem,
    RemapProblem,
    Spacing,
    SumsProblem,
)

_C: Any
try:
    _C = importlib.import_module("dtkernels._C")
except ImportError as error:  # a broken or missing build: other backends still work
    _C = None
    _IMPORT_ERROR = str(error)

NAME = "cpu"
DEVICES = ("cpu",)
EXTREMA = FACES = True


def unavailable() -> str | None:
    """None: the CPU kernels are part of every build."""
    return None if _C is not None else f"the compiled module is missing ({_IMPORT_ERROR}); reinstall dtkernels"


def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
    """Every axis of every image, in one call that releases the GIL."""
    spacing = _spacing_rows(problem.spacing, rows)
    _C.cpu_transform(
        *problem.image,
        problem.spatial_dims,
        0 if spacing is None else spacing.data_ptr(),
        problem.spacing.rows,
        problem.signed,
        problem.squared,
        problem.closed,
        problem.to_faces,
        problem.out,
        problem.extrema,
        torch.get_num_threads(),
    )


def nearest(
    problem: NearestProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    distance: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """Distances and positions of every image, in one call that releases the GIL."""
    spacing = _spacing_rows(problem.spacing, rows)
    _C.cpu_nearest(
        *problem.image,
        problem.spatial_dims,
        0 if spacing is None else spacing.data_ptr(),
        problem.spacing.rows,
        problem.distances,
        problem.indices,
        torch.get_num_threads(),
    )


def label(problem: LabelProblem, source: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> None:
    """Union-find over runs, every image in one call that releases the GIL."""
    _C.cpu_label(
        *problem.image,
        problem.connectivity,
        problem.labels,
        problem.counts,
        torch.get_num_threads(),
    )


def envelope(
    problem: EnvelopeProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    values: torch.Tensor,
    index: torch.Tensor | None,
) -> None:
    """Axis by axis, every image in one call that releases the GIL."""
    image = problem.image
    spacing = _spacing_rows(problem.spacing, rows)
    _C.cpu_envelope(
        image.data,
        image.dtype == DType.FLOAT64,
        image.shape,
        image.stride,
        0 if spacing is None else spacing.data_ptr(),
        problem.spacing.rows,
        problem.values,
        problem.indices,
        torch.get_num_threads(),
    )


def scatter(
    grad: torch.Tensor, index: torch.Tensor, shape: tuple[int, int, int, int, int], sums: torch.Tensor
) -> None:
    """In the order of the senders, whatever the threads."""
    wide = grad.dtype == torch.float64
    _C.cpu_scatter(
        grad.data_ptr(),
        wide,
        index.data_ptr(),
        shape[0] * shape[1],
        shape[2] * shape[3] * shape[4],
        sums.data_ptr(),
        torch.get_num_threads(),
    )


def remap(
    problem: RemapProblem, source: torch.Tensor, rows: torch.Tensor | None, extrema: torch.Tensor | None
) -> None:
    """A formula on every map, in one call that releases the GIL."""
    spacing = _spacing_rows(problem.spacing, rows)
    _C.cpu_remap(
        problem.maps,
        *problem.image,
        problem.spatial_dims,
        0 if spacing is None else spacing.data_ptr(),
        problem.spacing.rows,
        problem.inside,
        problem.inner_zero,
        problem.closed,
        problem.formula,
        problem.extrema,
        problem.labels,
        problem.counts,
        torch.get_num_threads(),
    )


def weigh(
    problem: SumsProblem,
    sources: tuple[torch.Tensor, torch.Tensor],
    rows: torch.Tensor | None,
    sums: torch.Tensor,
    gradient: torch.Tensor,
) -> None:
    """Slice by slice, every image in one call that releases the GIL; the same bits whatever the threads."""
    prediction, target = problem.prediction, problem.target
    spacing = _spacing_rows(problem.spacing, rows)
    _C.cpu_weigh(
        prediction.data,
        prediction.shape,
        prediction.stride,
        prediction.threshold,
        target.data,
        target.dtype,
        target.stride,
        target.rule,
        target.threshold,
        problem.spatial_dims,
        0 if spacing is None else spacing.data_ptr(),
        problem.spacing.rows,
        problem.measure,
        problem.alpha == 2,
        problem.shift,
        problem.soft,
        problem.sums,
        problem.gradient,
        torch.get_num_threads(),
    )


def contour(problem: ContourProblem, source: torch.Tensor) -> None:
    """64 voxels at a time, every image in one call that releases the GIL."""
    _C.cpu_contour(
        *problem.image,
        problem.spatial_dims,
        problem.connectivity,
        problem.closed,
        problem.out,
        torch.get_num_threads(),
    )


def _spacing_rows(spacing: Spacing, rows: torch.Tensor | None) -> torch.Tensor | None:
    """The spacing as float64 rows in memory; None for unit spacing."""
    if spacing.values is None:
        return rows
    return None if spacing.values == (1.0, 1.0, 1.0) else torch.tensor(spacing.values, dtype=torch.float64)
