"""The compiled CPU backend: SIMD over lines, own thread pool, every axis in one call."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ..problem import Problem

_C: Any
try:
    _C = importlib.import_module("dtkernels._C")
except ImportError as error:  # a broken or missing build: other backends still work
    _C = None
    _IMPORT_ERROR = str(error)

NAME = "cpu"
DEVICES = ("cpu",)


def unavailable() -> str | None:
    """None: the CPU kernels are part of every build."""
    return (
        None if _C is not None else f"the compiled module is missing ({_IMPORT_ERROR}); reinstall dtkernels"
    )


def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
    """Every axis of every image, in one call that releases the GIL."""
    image, spacing = problem.image, problem.spacing
    if spacing.values is None:
        table, count = spacing.data, spacing.rows
    elif spacing.values == (1.0, 1.0, 1.0):
        table, count = 0, 1
    else:
        rows = torch.tensor(spacing.values, dtype=torch.float64)
        table, count = rows.data_ptr(), 1
    _C.cpu_transform(
        image.data,
        image.dtype,
        image.shape,
        image.stride,
        image.rule,
        image.threshold,
        problem.spatial_dims,
        table,
        count,
        problem.signed,
        problem.squared,
        problem.closed,
        problem.out,
        torch.get_num_threads(),
    )
