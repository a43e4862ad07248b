"""The operators on tensors: arguments in, one problem out to a backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import arguments, backends, memory
from .problem import LabelProblem, Mapping, NearestProblem, Problem, Spacing

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
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Distance of each foreground voxel to the nearest background voxel."""
    return _of_mask(mask, spacing, False, spatial_dims, squared, border, backend, threshold, out, out_dtype)


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
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Signed distance, positive outside."""
    return _of_mask(mask, spacing, True, spatial_dims, squared, border, backend, threshold, out, out_dtype)


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
    out_dtype: torch.dtype | None = None,
    first_label: int = 0,
) -> torch.Tensor:
    """Signed distance of every class of a label map."""
    arguments.check_tensor("labels", labels)
    dims = arguments.resolve_spatial_dims(labels.ndim, spatial_dims, "labels")
    shape = arguments.labels_shape(labels, num_classes, dims)
    layout = arguments.labels_layout(labels, num_classes, dims, first_label)
    return run(
        layout,
        shape,
        dims,
        spacing,
        signed=True,
        squared=squared,
        border=border,
        backend=backend,
        out=out,
        out_dtype=out_dtype,
    )


def sdf_extrema(
    mask: torch.Tensor,
    spacing: OpSpacing = None,
    *,
    num_classes: int | None = None,
    signed: bool = True,
    spatial_dims: int | None = None,
    squared: bool = False,
    border: str = "open",
    backend: str | None = None,
    threshold: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Signed (or unsigned) distance of a mask or of every class of a label map, and its extrema.

    The second result is ``(*batch, 2)``: the largest finite squared distance of the foreground voxels of each
    image, and of its background voxels (0 if unsigned), after spacing; 0 where there is none.
    """
    arguments.check_tensor("mask", mask)
    arguments.check_no_gradient("mask", mask)
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    layout, shape = layout_of(mask, dims, threshold, num_classes)
    extrema = torch.zeros((*shape[: len(shape) - dims], 2), dtype=torch.float32, device=mask.device)
    out = run(
        layout,
        shape,
        dims,
        spacing,
        signed=signed,
        squared=squared,
        border=border,
        backend=backend,
        extrema=extrema,
    )
    return out, extrema


def nearest(
    mask: torch.Tensor,
    spacing: OpSpacing = None,
    *,
    spatial_dims: int | None = None,
    threshold: float | None = None,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance to the nearest background voxel, and which one that is."""
    arguments.check_tensor("mask", mask)
    arguments.check_no_gradient("mask", mask)
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    image, source = arguments.mask_layout(mask, dims, threshold)
    values, rows = spacing_of(spacing, dims, source, image.shape[0])
    arguments.check_squares_fit(mask.shape[mask.ndim - dims :], lengths(values, rows, dims))
    chosen = backends.choose(source.device, backend, "nearest")
    distance = memory.empty(mask.shape, torch.float32, source.device)
    index = memory.empty(mask.shape, torch.int64, source.device)
    if index.numel():
        problem = NearestProblem(image, dims, values, distance.data_ptr(), index.data_ptr())
        chosen.nearest(problem, source, rows, distance, index)
    return distance, index


def label(
    mask: torch.Tensor,
    *,
    connectivity: int | None = None,
    spatial_dims: int | None = None,
    threshold: float | None = None,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Connected components of the foreground, and how many there are."""
    arguments.check_tensor("mask", mask)
    arguments.check_no_gradient("mask", mask)
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    neighbours = arguments.check_connectivity(connectivity, dims)
    image, source = arguments.mask_layout(mask, dims, threshold)
    chosen = backends.choose(source.device, backend, "label")
    labels = memory.empty(mask.shape, torch.int32, source.device)
    count = memory.empty(mask.shape[: mask.ndim - dims], torch.int32, source.device)
    if labels.numel():
        problem = LabelProblem(image, neighbours, labels.data_ptr(), count.data_ptr())
        chosen.label(problem, source, labels, count)
    else:
        count.zero_()
    return labels, count


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
    out_dtype: torch.dtype | None,
) -> torch.Tensor:
    arguments.check_tensor("mask", mask)
    arguments.check_no_gradient("mask", mask)
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    layout = arguments.mask_layout(mask, dims, threshold)
    return run(
        layout,
        mask.shape,
        dims,
        spacing,
        signed=signed,
        squared=squared,
        border=border,
        backend=backend,
        out=out,
        out_dtype=out_dtype,
    )


def layout_of(
    x: torch.Tensor, dims: int, threshold: float | None, num_classes: int | None, first_label: int = 0
) -> tuple[arguments.Layout, Sequence[int]]:
    """A mask, or a label map where ``num_classes`` is given: how it lies in memory, and the shape of its maps."""
    if num_classes is None:
        return arguments.mask_layout(x, dims, threshold), x.shape
    shape = arguments.labels_shape(x, num_classes, dims)
    return arguments.labels_layout(x, num_classes, dims, first_label), shape


def run(
    layout: arguments.Layout,
    shape: Sequence[int],
    dims: int,
    spacing: OpSpacing,
    *,
    signed: bool,
    squared: bool = False,
    border: str = "open",
    backend: str | None = None,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    extrema: torch.Tensor | None = None,
    mapping: Mapping | None = None,
    to_faces: bool = False,
) -> torch.Tensor:
    """One transform of every image of a batch; ``mapping`` and ``to_faces`` are for backends that have them."""
    source = layout.source
    closed = arguments.check_border(border)
    values, rows = spacing_of(spacing, dims, source, layout.image.shape[0])
    chosen = backends.choose(source.device, backend)
    dtype = arguments.check_out_dtype(out_dtype, signed)
    steps = lengths(values, rows, dims)
    sides = shape[len(shape) - dims :]
    arguments.check_squares_fit(sides, steps)
    arguments.check_distances_fit(dtype, sides, steps, squared=squared, closed=closed)
    if out is None:
        out = memory.empty(shape, dtype, source.device)
    else:
        arguments.check_out(out, shape, source, spacing if isinstance(spacing, torch.Tensor) else None, dtype)
    if out.numel():
        fused = extrema is not None and getattr(chosen, "EXTREMA", False)
        pointer = extrema.data_ptr() if extrema is not None and fused else 0
        converts = dtype == torch.float32 or getattr(chosen, "CONVERTS", False)
        into = out if converts else memory.empty(shape, torch.float32, source.device)
        number = arguments.OUT_DTYPES[into.dtype]
        problem = Problem(
            image=layout.image,
            spatial_dims=dims,
            spacing=values,
            signed=signed,
            squared=squared,
            closed=closed,
            out=into.data_ptr(),
            extrema=pointer,
            out_dtype=number,
            mapping=mapping,
            to_faces=to_faces,
        )
        chosen.run(problem, source, rows, into)
        if extrema is not None and not fused:
            read_extrema(into, extrema, signed=signed, squared=squared)
        if not converts:
            out.copy_(into if dtype != torch.uint8 else into.round_().clamp_(max=255))  # infinity is 255
    return out


def read_extrema(out: torch.Tensor, extrema: torch.Tensor, *, signed: bool, squared: bool) -> None:
    """What a backend without ``EXTREMA`` leaves to do: one more pass over the map."""
    images = out.view(extrema.numel() // 2, -1)
    low, high = torch.where(images.isinf(), 0.0, images).aminmax(dim=1)
    pair = torch.stack((-low, high) if signed else (high, torch.zeros_like(high)), dim=1).clamp_(min=0.0)
    extrema.copy_((pair if squared else pair.square_()).view(extrema.shape))


def spacing_of(
    spacing: OpSpacing, dims: int, source: torch.Tensor, samples: int
) -> tuple[Spacing, torch.Tensor | None]:
    """The spacing of a problem, and the tensor that owns its rows."""
    if isinstance(spacing, torch.Tensor):
        rows = arguments.sample_spacing(spacing, dims, source, samples)
        return Spacing(None, rows.data_ptr(), samples), rows
    return Spacing(arguments.host_spacing(spacing, dims)), None


def lengths(spacing: Spacing, rows: torch.Tensor | None, dims: int) -> Sequence[float] | torch.Tensor:
    """The spacing along the spatial axes: one row on the host, or rows on the device."""
    return rows[:, 3 - dims :] if rows is not None else spacing.values[3 - dims :]  # type: ignore[index]
