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

from ..distance_sums import error, over_space


def spatial_axes(x: Tensor) -> tuple[int, ...]:
    """All axes of ``x`` but sample and class."""
    return tuple(range(2, x.ndim))


def _times_(a: Tensor, b: Tensor) -> Tensor:
    """``a b``, in place of a unless a second derivative, which would read it, is asked for."""
    return a * b if torch.is_grad_enabled() else a.mul_(b)


class GivenSlope(torch.autograd.Function):
    """Sums that were computed beforehand, with their derivative by each voxel of ``x``."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, sums: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return sums.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * over_space(grad, slope), None, None


class WeightedSquaredError(torch.autograd.Function):
    """Sums of ``w (p - g)^2``, for a constant w.

    g is ``values``, or for an int ``first`` whether the label ``values`` is ``first``, ``first + 1``, ...
    The gradient of g, where one is asked for, is minus that of p.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, p: Tensor, weight: Tensor, values: Tensor, first: int | None) -> Tensor:
        ctx.save_for_backward(p, weight, values)
        ctx.first = first  # type: ignore[attr-defined]
        return error(p, values, first).square_().mul_(weight).sum(spatial_axes(p))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, weight, values = ctx.saved_tensors
        result = error(p, values, ctx.first).mul_(weight).mul_(over_space(-2 * grad, p))
        of_values = result.neg().to(values.dtype) if ctx.needs_input_grad[2] else None
        return result if ctx.needs_input_grad[0] else None, None, of_values, None


class OppositeSquaredError(torch.autograd.Function):
    """Sums of ``|z| (p - (1 - g))^2``, for a constant z that is negative where g is 1: ``1 - g`` is its sign."""

    @staticmethod
    def forward(ctx: FunctionCtx, p: Tensor, z: Tensor) -> Tensor:
        ctx.save_for_backward(p, z)
        e = torch.sign(z).to(p.dtype).add_(1).mul_(0.5).sub_(p)
        return e.square_().mul_(z).abs_().sum(spatial_axes(p))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # With s the sign of z, 1 - g is (1 + s) / 2, and 2 |z| (p - (1 + s) / 2) is -z (1 + s (1 - 2 p)).
        p, z = ctx.saved_tensors
        sign = torch.sign(z).to(p.dtype)
        twice = sign.addcmul(sign, p, value=-2) if torch.is_grad_enabled() else sign.addcmul_(sign, p, value=-2)
        return _times_(twice.add_(1), z).mul_(over_space(-grad, p)), None


EPSILON = 1e-8  # in the root, whose derivative at 0 would be infinite


class Length(torch.autograd.Function):
    r"""Sums of :math:`\sqrt{|\nabla p|^2 + \epsilon} - \sqrt\epsilon`, by forward differences.

    One over the spacing is either ``inverse``, a number for each axis, or ``rows``, (B, n). Nothing changes beyond
    the image, nor between two voxels of which one is ignored.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, p: Tensor, inverse: tuple[float, ...], rows: Tensor | None, ignored: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(p, rows, ignored)  # type: ignore[arg-type]
        ctx.inverse = inverse  # type: ignore[attr-defined]
        return _root_of_squares(p, inverse, rows, ignored).sub_(EPSILON**0.5).sum(spatial_axes(p))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, rows, ignored = ctx.saved_tensors
        share = _root_of_squares(p, ctx.inverse, rows, ignored).reciprocal_().mul_(over_space(grad, p))
        result = torch.zeros_like(p)
        for axis in spatial_axes(p):
            n = p.shape[axis] - 1
            step = _step(p, axis, ctx.inverse, rows, ignored).mul_(_per_unit(axis, ctx.inverse, rows, p))
            step.mul_(share.narrow(axis, 0, n))
            result.narrow(axis, 1, n).add_(step)
            result.narrow(axis, 0, n).sub_(step)
        return result, None, None, None


def _root_of_squares(p: Tensor, inverse: tuple[float, ...], rows: Tensor | None, ignored: Tensor | None) -> Tensor:
    squares = torch.full_like(p, EPSILON)
    for axis in spatial_axes(p):
        squares.narrow(axis, 0, p.shape[axis] - 1).add_(_step(p, axis, inverse, rows, ignored).square_())
    return squares.sqrt_()


def _step(p: Tensor, axis: int, inverse: tuple[float, ...], rows: Tensor | None, ignored: Tensor | None) -> Tensor:
    """By how much p changes to the next voxel, per unit of spacing."""
    n = p.shape[axis] - 1
    step = (p.narrow(axis, 1, n) - p.narrow(axis, 0, n)).mul_(_per_unit(axis, inverse, rows, p))
    if ignored is None:
        return step
    return step.masked_fill_(ignored.narrow(axis, 0, n) | ignored.narrow(axis, 1, n), 0.0)


def _per_unit(axis: int, inverse: tuple[float, ...], rows: Tensor | None, like: Tensor) -> float | Tensor:
    return inverse[axis - 2] if rows is None else over_space(rows[:, axis - 2 : axis - 1], like).to(like.dtype)


class Masses(torch.autograd.Function):
    """Sums of ``y p`` and of ``p``, for a constant y that is 0 at ignored voxels."""

    @staticmethod
    def forward(ctx: FunctionCtx, p: Tensor, y: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(y, ignored)  # type: ignore[arg-type]
        axes = spatial_axes(p)
        of_p = (p if ignored is None else p.masked_fill(ignored, 0.0)).sum(axes)
        return (p * y).sum(axes), of_p

    @staticmethod
    def backward(ctx: Any, of_product: Tensor, of_p: Tensor) -> tuple[Tensor | None, ...]:
        y, ignored = ctx.saved_tensors
        return _hide_((y * over_space(of_product, y)).add_(over_space(of_p, y)), ignored), None, None


class WeightedMasses(torch.autograd.Function):
    """Sums of ``|z| p`` where the constant z is positive, and everywhere."""

    @staticmethod
    def forward(ctx: FunctionCtx, p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(z)
        axes = spatial_axes(p)
        z = z.to(p.dtype)
        return z.clamp(min=0).mul_(p).sum(axes), z.abs().mul_(p).sum(axes)

    @staticmethod
    def backward(ctx: Any, of_inside: Tensor, of_all: Tensor) -> tuple[Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        z = z.to(of_all.dtype)  # |z| is 2 max(z, 0) - z
        return z.clamp(min=0).mul_(over_space(of_inside + 2 * of_all, z)).addcmul_(z, over_space(-of_all, z)), None


class HeavisideMasses(torch.autograd.Function):
    """Sums of ``p g`` and of p for ``p = 1 / (1 + exp(k q))``, with g as in :class:`WeightedSquaredError`."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: Tensor, k: float, values: Tensor, first: int | None, ignored: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, values, ignored)  # type: ignore[arg-type]
        ctx.k, ctx.first = k, first  # type: ignore[attr-defined]
        p = _hide_((q * -k).sigmoid_(), ignored)
        of_p = p.sum(spatial_axes(q))
        return p.masked_fill_(_outside(values, first, q), 0.0).sum(spatial_axes(q)), of_p

    @staticmethod
    def backward(ctx: Any, of_common: Tensor, of_p: Tensor) -> tuple[Tensor | None, ...]:
        q, values, ignored = ctx.saved_tensors
        k = ctx.k
        of_p = over_space(-k * of_p, q)
        result = torch.where(_outside(values, ctx.first, q), of_p, of_p + over_space(-k * of_common, q))
        if torch.is_grad_enabled():
            p = torch.sigmoid(-k * q)
            result = result * p * (1 - p)
        else:  # times p and times 1 - p, sigmoids of -k q and k q, each in place: softplus has this derivative
            for slope in (-k, k):
                softplus_backward(result, q, slope, 40.0, grad_input=result)
        return _hide_(result, ignored), None, None, None, None


softplus_backward = torch.ops.aten.softplus_backward.grad_input


def _outside(values: Tensor, first: int | None, like: Tensor) -> Tensor:
    """(B, C, *spatial) bool: where each class is not."""
    if first is None:
        return (values > 0.5).logical_not_()
    return values != over_space(torch.arange(first, first + like.shape[1], device=like.device), like)


class ScoredSoftmax(torch.autograd.Function):
    """Channels ``first`` and up of the softmax over all.

    Autograd's gradient of the slice is a map of its own, filled with zeros, copied to, and read again. Here
    ``p_k (g_k - sum_l g_l p_l)`` takes its sum over the scored channels alone. The second of two channels is the
    sigmoid of their difference, of which there is one map alone.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, first: int) -> Tensor:
        if x.shape[1] == 2:
            p = (x[:, 1:] - x[:, :1]).sigmoid_()
            ctx.save_for_backward(x, p)
            return p
        p = torch.softmax(x, 1)
        ctx.save_for_backward(x, p)
        ctx.first = first  # type: ignore[attr-defined]
        return p[:, first:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, p = ctx.saved_tensors
        if x.shape[1] == 2:
            if torch.is_grad_enabled():
                p = torch.sigmoid(x[:, 1:] - x[:, :1])
            share = torch.ops.aten.sigmoid_backward(grad, p)
            return torch.cat([share.neg(), share], 1), None
        if torch.is_grad_enabled():  # a second derivative is asked for: p has to know its own
            p = torch.softmax(x, 1)
        scored = p[:, ctx.first :]
        result = p * (grad * scored).sum(1, keepdim=True).neg_()
        result[:, ctx.first :].addcmul_(grad, scored)
        return result, None


class Products(torch.autograd.Function):
    """Sums of ``y q``, of ``q^2``, and on demand of ``|q - y|``, for a constant y that is 0 at ignored voxels."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: Tensor, y: Tensor, ignored: Tensor | None, error: bool = False
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(q, y, ignored)  # type: ignore[arg-type]
        axes = spatial_axes(q)
        sums = (q * y).sum(axes), _hide_(q * q, ignored).sum(axes)
        return (*sums, _hide_((q - y).abs_(), ignored).sum(axes)) if error else sums

    @staticmethod
    def backward(
        ctx: Any, of_cross: Tensor, of_square: Tensor, of_error: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        q, y, ignored = ctx.saved_tensors
        of_square = over_space(2 * of_square, q)
        if of_error is None:
            result = q * of_square
        else:
            result = (q - y).sign_().mul_(over_space(of_error, q)).addcmul_(q, of_square)
        return _hide_(result.addcmul_(y.to(q.dtype), over_space(of_cross, q)), ignored), None, None, None


def ratios(q: Tensor, y: Tensor) -> Tensor:
    """Sums of ``y q / (y q + q^2 + y^2)``, 0 / 0 being 0, for a constant y, which is overwritten."""
    x, q, y = q, q.detach(), y.to(q.dtype)
    sums = _reciprocal(q, y).mul_(y).mul_(q).sum(spatial_axes(q))
    if not (x.requires_grad and torch.is_grad_enabled()):
        return sums
    # d/dq [y q / D] = (y D - y q (y + 2 q)) / D^2 = y (y - q) (y + q) / D^2
    slope = _reciprocal(q, y).square_().mul_(y)
    slope.mul_(y.sub_(q)).mul_(y.add_(q, alpha=2))
    return GivenSlope.apply(x, sums, slope)  # type: ignore[no-any-return, no-untyped-call]


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
        return torch.logaddexp(cost, cost.new_zeros(()), out=cost).mul_(z).abs_().sum(spatial_axes(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, z = ctx.saved_tensors
        share = torch.sign(z).to(x.dtype).mul_(x).sigmoid_()
        return _times_(share, z).mul_(over_space(grad, x)), None


class WeightedLogarithm(torch.autograd.Function):
    """Sums of ``w log(max(p, least))``, for a constant w."""

    @staticmethod
    def forward(ctx: FunctionCtx, p: Tensor, weight: Tensor, least: float) -> Tensor:
        ctx.save_for_backward(p, weight)
        ctx.least = least  # type: ignore[attr-defined]
        return p.clamp(min=least).log_().mul_(weight).sum(spatial_axes(p))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, weight = ctx.saved_tensors
        share = torch.nn.functional.threshold(p, ctx.least, float("inf")).reciprocal_()
        return _times_(share, weight).mul_(over_space(grad, p)), None, None


def _hide_(x: Tensor, ignored: Tensor | None) -> Tensor:
    return x if ignored is None else x.masked_fill_(ignored, 0.0)
