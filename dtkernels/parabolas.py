"""The operator ``envelope`` on tensors, and its gradient.

The minimum is attained at one q per p, and moves with it: near almost every f, E(p) = f(q) + sum s^2 (p - q)^2
with q fixed. So

    dE(p) / df(q)  = 1 at the minimiser q of p, else 0
    dE(p) / ds_a   = 2 s_a (p_a - q_a)^2

Where several q attain the minimum E, which is concave in f, has a kink; the lowest q takes it all, one of the
supergradients there.
The gradient is linear in what comes from above and constant in f, so that its own derivatives follow: nothing of
second order in f, and 2 (p_a - q_a)^2 in s_a.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import arguments, backends, memory
from .problem import EnvelopeProblem
from .transform import OpSpacing, spacing_of


def values_dtype(f: Tensor) -> torch.dtype:
    """What the envelope of ``f`` is computed in."""
    return torch.float64 if f.dtype == torch.float64 else torch.float32


def envelope(
    f: Tensor, spacing: OpSpacing = None, *, spatial_dims: int | None = None, backend: str | None = None
) -> Tensor:
    """The envelope alone."""
    return _run(f, spacing, spatial_dims, backend, with_index=False)[0]


def envelope_index(
    f: Tensor, spacing: OpSpacing = None, *, spatial_dims: int | None = None, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """The envelope and where it is attained."""
    values, index = _run(f, spacing, spatial_dims, backend, with_index=True)
    assert index is not None
    return values, index


def _run(
    f: Tensor, spacing: OpSpacing, spatial_dims: int | None, backend: str | None, with_index: bool
) -> tuple[Tensor, Tensor | None]:
    arguments.check_function("f", f)
    dims = arguments.resolve_spatial_dims(f.ndim, spatial_dims, "f")
    image, source = arguments.mask_layout(f.to(values_dtype(f)), dims, name="f")
    given, rows = spacing_of(spacing, dims, source, image.shape[0])
    chosen = backends.choose(source.device, backend, "envelope")
    values = memory.empty(f.shape, source.dtype, source.device)
    index = memory.empty(f.shape, torch.int64, source.device) if with_index else None
    if values.numel():
        problem = EnvelopeProblem(image, dims, given, values.data_ptr(), 0 if index is None else index.data_ptr())
        chosen.envelope(problem, source, rows, values, index)
    return values, index


def envelope_backward(
    grad: Tensor, index: Tensor, *, spatial_dims: int | None = None, backend: str | None = None
) -> Tensor:
    """Sum of ``grad`` over the voxels whose minimiser is q, for every q."""
    dims = arguments.resolve_spatial_dims(grad.ndim, spatial_dims, "grad")
    arguments.check_device("index", index, grad)
    grad, index = grad.contiguous(), index.contiguous()
    chosen = backends.choose(grad.device, backend, "envelope")
    sums = torch.empty_like(grad)
    if sums.numel():
        chosen.scatter(grad, index, arguments.mask_layout(grad, dims, name="grad").image.shape, sums)
    return sums


# ---- gradients ---------------------------------------------------------------------------------------


def setup_values(ctx: Any, inputs: Any, keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    """Of ``envelope``, which keeps no minimisers: the gradient finds them again."""
    _setup(ctx, inputs, keyword_only_inputs)
    ctx.save_for_backward(inputs[0], *_tensors(inputs[1:]))


def backward_values(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients in f and spacing."""
    f, *rows = ctx.saved_tensors
    spacing = rows[0] if rows else ctx.spacing
    with torch.no_grad():
        _, index = torch.ops.dtk.envelope_index(f, spacing, spatial_dims=ctx.dims, backend=ctx.backend)
    return _gradients(ctx, grad, index, rows)


def setup_index(ctx: Any, inputs: Any, keyword_only_inputs: dict[str, Any], output: tuple[Tensor, Tensor]) -> None:
    """Of ``envelope_index``."""
    _setup(ctx, inputs, keyword_only_inputs)
    ctx.save_for_backward(output[1], *_tensors(inputs[1:]))


def backward_index(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None]:
    """Gradients in f and spacing; positions have none."""
    index, *rows = ctx.saved_tensors
    return _gradients(ctx, grad, index, rows)


def setup_backward(ctx: Any, inputs: Any, keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    """Of ``envelope_backward``."""
    ctx.dims = arguments.resolve_spatial_dims(inputs[0].ndim, keyword_only_inputs["spatial_dims"], "grad")
    ctx.save_for_backward(inputs[1])


def backward_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    """The transpose of a sum over senders: each reads what its place has."""
    (index,) = ctx.saved_tensors
    lead = grad.ndim - ctx.dims
    at = index.flatten(lead)
    read = grad.flatten(lead).gather(-1, at.clamp(min=0))
    return torch.where(at < 0, 0.0, read).reshape(grad.shape), None


def _setup(ctx: Any, inputs: Any, options: dict[str, Any]) -> None:
    f, spacing = inputs
    ctx.dims = arguments.resolve_spatial_dims(f.ndim, options["spatial_dims"], "f")
    ctx.backend = options["backend"]
    ctx.dtype = f.dtype
    ctx.spacing = None if isinstance(spacing, Tensor) else spacing


def _tensors(inputs: Any) -> list[Tensor]:
    return [x for x in inputs if isinstance(x, Tensor)]


def _gradients(ctx: Any, grad: Tensor, index: Tensor, rows: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    of_f = of_spacing = None
    if ctx.needs_input_grad[0]:
        sums = torch.ops.dtk.envelope_backward(grad, index, spatial_dims=ctx.dims, backend=ctx.backend)
        of_f = sums.to(ctx.dtype)
    if rows and ctx.needs_input_grad[1]:
        of_spacing = spacing_gradient(grad, index, rows[0], ctx.dims)
    return of_f, of_spacing


def spacing_gradient(grad: Tensor, index: Tensor, spacing: Tensor, dims: int) -> Tensor:
    """``2 s_a sum_p grad(p) (p_a - q_a)^2`` per sample and axis; a voxel without a minimiser counts nothing."""
    lead = grad.ndim - dims
    weighted = torch.where(index < 0, 0.0, grad)
    rest = index
    sums = []
    for axis in reversed(range(lead, grad.ndim)):
        n = grad.shape[axis]
        along = [1] * grad.ndim
        along[axis] = n
        steps = torch.arange(n, device=grad.device).reshape(along) - rest % n
        rest = rest.div(n, rounding_mode="floor")
        terms = weighted * steps.square().to(grad.dtype)
        sums.append(terms.sum().reshape(1) if lead == 0 else terms.flatten(1).sum(1))
    return (2 * spacing * torch.stack(sums[::-1], 1)).to(spacing.dtype)
