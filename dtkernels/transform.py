"""The transform of tensors: arguments in, one problem out to a backend. The operators are these functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import arguments, backends
from .problem import Problem, Spacing

OpSpacing = Sequence[float] | torch.Tensor | None


def edt(
    mask: torch.Tensor,
    spacing: OpSpacing = None,
    *,
    spatial_dims: int | None = None,
    squared: bool = False,
    border: str = "open",
    backend: str | None = None,
    threshold: float | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Distance of each foreground voxel to the nearest background voxel."""
    return _of_mask(mask, spacing, False, spatial_dims, squared, border, backend, threshold, out)


def sdf(
    mask: torch.Tensor,
    spacing: OpSpacing = None,
    *,
    spatial_dims: int | None = None,
    squared: bool = False,
    border: str = "open",
    backend: str | None = None,
    threshold: float | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Signed distance, positive outside."""
    return _of_mask(mask, spacing, True, spatial_dims, squared, border, backend, threshold, out)


def labels_sdf(
    labels: torch.Tensor,
    num_classes: int,
    spacing: OpSpacing = None,
    *,
    spatial_dims: int | None = None,
    squared: bool = False,
    border: str = "open",
    backend: str | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Signed distance of every class of a label map."""
    arguments.check_tensor("labels", labels)
    dims = arguments.resolve_spatial_dims(labels.ndim, spatial_dims, "labels")
    shape = arguments.labels_shape(labels, num_classes, dims)
    layout = arguments.labels_layout(labels, num_classes, dims)
    return _run(layout, shape, dims, spacing, True, squared, border, backend, out)


def _of_mask(
    mask: torch.Tensor,
    spacing: OpSpacing,
    signed: bool,
    spatial_dims: int | None,
    squared: bool,
    border: str,
    backend: str | None,
    threshold: float | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    arguments.check_tensor("mask", mask)
    arguments.check_no_gradient("mask", mask)
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    layout = arguments.mask_layout(mask, dims, threshold)
    return _run(layout, mask.shape, dims, spacing, signed, squared, border, backend, out)


def _run(
    layout: arguments.Layout,
    shape: Sequence[int],
    dims: int,
    spacing: OpSpacing,
    signed: bool,
    squared: bool,
    border: str,
    backend: str | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    source = layout.source
    closed = arguments.check_border(border)
    if isinstance(spacing, torch.Tensor):
        rows = arguments.sample_spacing(spacing, dims, source, layout.image.shape[0])
        values = Spacing(None, rows.data_ptr(), layout.image.shape[0])
    else:
        rows = None
        values = Spacing(arguments.host_spacing(spacing, dims))
    chosen = backends.choose(source.device, backend)
    if out is None:
        out = torch.empty(shape, dtype=torch.float32, device=source.device)
    else:
        arguments.check_out(out, shape, source, spacing if isinstance(spacing, torch.Tensor) else None)
    if out.numel():
        problem = Problem(layout.image, dims, values, signed, squared, closed, out.data_ptr())
        chosen.run(problem, source, rows, out)
    return out
