"""Sums over space with their gradients in closed form.

Autograd's own formulas keep a map for every step of an expression. Each function here holds, beside its inputs,
one map at a time, and makes it again for the gradient instead of keeping it. Only the first argument is
differentiated, except where a function says otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def spatial_axes(x: Tensor) -> tuple[int, ...]:
    """All axes of ``x`` but sample and class."""
    return tuple(range(2, x.ndim))


def over_space(per_class: Tensor, like: Tensor) -> Tensor:
    """(B, C) with an axis of length 1 for each spatial one, to multiply maps with."""
    return per_class[(..., *(None,) * (like.ndim - 2))]


class WeightedSquaredError(torch.autograd.Function):
    """Sums of ``w (p - g)^2``, for a constant w; ``opposite``: of ``w (p - (1 - g))^2``.

    g is ``values``, or for an int ``first`` whether the label ``values`` is ``first``, ``first + 1``, ...
    The gradient of g, where one is asked for, is minus that of p.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, p: Tensor, weight: Tensor, values: Tensor, first: int | None, opposite: bool = False
    ) -> Tensor:
        ctx.save_for_backward(p, weight, values)
        ctx.first, ctx.opposite = first, opposite  # type: ignore[attr-defined]
        return _error(p, values, first, opposite).square_().mul_(weight).sum(spatial_axes(p))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, weight, values = ctx.saved_tensors
        result = _error(p, values, ctx.first, ctx.opposite).mul_(weight).mul_(over_space(-2 * grad, p))
        of_values = None
        if ctx.needs_input_grad[2]:
            of_values = result.to(values.dtype) if ctx.opposite else result.neg().to(values.dtype)
        return result if ctx.needs_input_grad[0] else None, None, of_values, None, None


def _error(p: Tensor, values: Tensor, first: int | None, opposite: bool) -> Tensor:
    """``g - p`` in a single new tensor."""
    if first is None:
        g = values.to(p.dtype, copy=True)
        return (g.neg_().add_(1) if opposite else g).sub_(p)
    names = over_space(torch.arange(first, first + p.shape[1], device=p.device), p)
    named = torch.empty_like(p, memory_format=torch.contiguous_format).copy_(names)
    return (named.ne_(values) if opposite else named.eq_(values)).sub_(p)


class ScoredSoftmax(torch.autograd.Function):
    """Channels ``first`` and up of the softmax over all.

    Autograd's gradient of the slice is a map of its own, filled with zeros, copied to, and read again. Here
    ``p_k (g_k - sum_l g_l p_l)`` takes its sum over the scored channels alone.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, first: int) -> Tensor:
        p = torch.softmax(x, 1)
        ctx.save_for_backward(x, p)
        ctx.first = first  # type: ignore[attr-defined]
        return p[:, first:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, p = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for: p has to know its own
            p = torch.softmax(x, 1)
        scored = p[:, ctx.first :]
        result = p * (grad * scored).sum(1, keepdim=True).neg_()
        result[:, ctx.first :].addcmul_(grad, scored)
        return result, None


class Products(torch.autograd.Function):
    """Sums of ``y q`` and of ``q^2``, for a constant y that is 0 at ignored voxels."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, y: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, y, ignored)  # type: ignore[arg-type]
        axes = spatial_axes(q)
        cross = (q * y).sum(axes)
        return cross, _hide_(q * q, ignored).sum(axes)

    @staticmethod
    def backward(ctx: Any, of_cross: Tensor, of_square: Tensor) -> tuple[Tensor | None, ...]:
        q, y, ignored = ctx.saved_tensors
        result = q * over_space(2 * of_square, q)
        return _hide_(result.addcmul_(y.to(q.dtype), over_space(of_cross, q)), ignored), None, None


class Ratios(torch.autograd.Function):
    """Sums of ``y q / (y q + q^2 + y^2)``, 0 / 0 being 0, for a constant y and a q that is 0 at ignored voxels."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(q, y)
        return _reciprocal(q, y).mul_(y).mul_(q).sum(spatial_axes(q))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # d/dq [y q / D] = (y D - y q (y + 2 q)) / D^2 = y (y - q) (y + q) / D^2
        q, y = ctx.saved_tensors
        return _reciprocal(q, y).square_().mul_(y - q).mul_(y + q).mul_(y).mul_(over_space(grad, q)), None


def _reciprocal(q: Tensor, y: Tensor) -> Tensor:
    """1 / D. D is at least (q^2 + y^2) / 2; below 1e-18, where its square would leave float32, both count as 0."""
    return (q * q).addcmul_(q, y).addcmul_(y, y).clamp_(min=1e-18).reciprocal_()


class AbsoluteError(torch.autograd.Function):
    """Sums of ``|q - y|``, of ``(q - y)^2``, or of their smooth join, for a constant y.

    ``beta`` 0: the absolute value. Positive: ``e^2 / (2 beta)`` where ``|e| < beta``, else ``|e| - beta / 2``.
    Infinite: ``e^2``.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, y: Tensor, ignored: Tensor | None, beta: float) -> Tensor:
        ctx.save_for_backward(q, y, ignored)  # type: ignore[arg-type]
        ctx.beta = beta  # type: ignore[attr-defined]
        y = y.to(q.dtype)
        if beta == 0:
            cost = (q - y).abs_()
        elif beta == float("inf"):
            cost = (q - y).square_()
        else:
            cost = torch.nn.functional.smooth_l1_loss(q, y, reduction="none", beta=beta)
        return _hide_(cost, ignored).sum(spatial_axes(q))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, y, ignored = ctx.saved_tensors
        slope = q - y
        if ctx.beta == 0:
            slope.sign_()
        elif ctx.beta == float("inf"):
            slope.mul_(2)
        else:
            slope.div_(ctx.beta).clamp_(-1, 1)
        return _hide_(slope.mul_(over_space(grad, q)), ignored), None, None, None


class BinaryCrossEntropy(torch.autograd.Function):
    """Sums of ``|z| log(1 + exp(sign(z) x))``: weight ``|z|``, logit ``x``, target 1 where z is negative."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, z: Tensor) -> Tensor:
        ctx.save_for_backward(x, z)
        cost = torch.sign(z).to(x.dtype).mul_(x)
        return torch.logaddexp(cost, cost.new_zeros(()), out=cost).mul_(z.abs()).sum(spatial_axes(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, z = ctx.saved_tensors
        return (torch.sign(z).to(x.dtype).mul_(x).sigmoid() * z).mul_(over_space(grad, x)), None


def _hide_(x: Tensor, ignored: Tensor | None) -> Tensor:
    return x if ignored is None else x.masked_fill_(ignored, 0.0)
