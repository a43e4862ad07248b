"""The compiled CUDA backend: the kernels of csrc/dtk built ahead of time, launched as dtkernels/plans says."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..plans.launch import DeviceProperties, Launch
from ..problem import (
    ContourProblem,
    EnvelopeProblem,
    FacesProblem,
    LabelProblem,
    NearestProblem,
    Problem,
    RemapProblem,
    SumsProblem,
)
from .cpu import _C
from .gpu import Gpu

NAME = "cuda"
DEVICES = ("cuda",)
CONVERTS = EXTREMA = MAPS = True


def unavailable() -> str | None:
    """A reason where the build has no CUDA part or the machine no usable GPU."""
    if _C is None or not _C.built_with_cuda:
        return "this build of dtkernels has no CUDA kernels; reinstall it where nvcc is on the PATH"
    info = _device_info()
    if info["count"] == 0:
        return f"no usable GPU ({info['error_name']}: {info['error_string']})"
    return None


@functools.cache
def _device_info() -> dict[str, Any]:
    return dict(_C.cuda_device_info())


@functools.cache
def _properties(device: int) -> DeviceProperties:
    return DeviceProperties(*_C.cuda_device_properties(device))


@functools.cache
def _kernel_indices() -> dict[str, int]:
    return {name: index for index, (name, _) in enumerate(_C.cuda_kernels())}


def _gpu(device: torch.device) -> Gpu:
    indices = _kernel_indices()

    def launch(step: Launch, stream: int) -> None:
        _C.cuda_launch(indices[step.kernel], step.grid, step.block, step.shared, step.params, stream, device.index)

    return Gpu(device, _properties(device.index), launch)


def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
    """Launch the plan on torch's current stream."""
    _gpu(source.device).run(problem)


def nearest(
    problem: NearestProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    distance: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """The same for a feature transform."""
    _gpu(source.device).nearest(problem)


def label(problem: LabelProblem, source: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> None:
    """The same for a labelling."""
    _gpu(source.device).label(problem)


def envelope(
    problem: EnvelopeProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    values: torch.Tensor,
    index: torch.Tensor | None,
) -> None:
    """A pass per axis."""
    _gpu(source.device).envelope(problem)


def remap(
    problem: RemapProblem, source: torch.Tensor, rows: torch.Tensor | None, extrema: torch.Tensor | None
) -> None:
    """A pass in place."""
    _gpu(source.device).remap(problem, extrema)


def contour(problem: ContourProblem, source: torch.Tensor) -> None:
    """A pass over the mask."""
    _gpu(source.device).contour(problem)


def faces(problem: FacesProblem, source: torch.Tensor, rows: torch.Tensor | None) -> None:
    """The passes of a feature transform, for either side."""
    _gpu(source.device).faces(problem)


def weigh(
    problem: SumsProblem,
    sources: tuple[torch.Tensor, torch.Tensor],
    rows: torch.Tensor | None,
    sums: torch.Tensor,
    gradient: torch.Tensor,
) -> None:
    """One or two transforms, the last of which ends in sums and gradient."""
    _gpu(gradient.device).weigh(problem, rows, sums)


def scatter(
    grad: torch.Tensor, index: torch.Tensor, shape: tuple[int, int, int, int, int], sums: torch.Tensor
) -> None:
    """A pass per axis, the same in every run."""
    _gpu(grad.device).scatter(grad, index, shape, sums)
