"""Sums over space with their gradients in closed form.

Autograd's own formulas keep a map for every step of an expression. Each function here holds, beside its inputs,
one map at a time, and makes it again for the gradient instead of keeping it. Only the first argument is
differentiated, except where a function says otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import distance_sums
from ..arguments import has_tangent, needs_gradient
from ..batching import SampleFunction, is_batched, is_transformed
from ..distance_sums import over_space

Grads = tuple[Tensor | None, ...]
Host = tuple[float, ...] | None  # a number for each spatial axis, where rows are not given, a tensor (B, n)


def spatial_axes(x: Tensor) -> tuple[int, ...]:
    """All axes of ``x`` but sample and class."""
    return tuple(range(2, x.ndim))


def _times_(a: Tensor, *factors: Tensor | float) -> Tensor:
    """Their product, in place of a where that may be (:class:`~dtkernels.batching.SampleFunction`)."""
    for b in factors:
        a = a * b if torch.is_grad_enabled() or is_batched(b) else a.mul_(b)
    return a


def _plus_(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a + b c``, likewise."""
    return a + b * c if torch.is_grad_enabled() or is_batched(c) else a.addcmul_(b, c)


def _hide_(x: Tensor, ignored: Tensor | None) -> Tensor:
    """0 at ignored voxels, likewise."""
    if ignored is None:
        return x
    return x.masked_fill(ignored, 0.0) if torch.is_grad_enabled() else x.masked_fill_(ignored, 0.0)


def _inside(values: Tensor, first: int | None, like: Tensor) -> Tensor:
    """Where each class is, in a single new map of 0 and 1; the arguments are as in :func:`_error`."""
    if first is not None:
        if torch.is_grad_enabled():
            return (values == distance_sums.names(like, first)).to(like.dtype)
        return distance_sums.named(like, values, first)
    if torch.is_grad_enabled() or values.dtype == torch.float64:  # which rounds to 0.5
        return (values > 0.5).to(like.dtype)
    return torch.empty_like(like, memory_format=torch.contiguous_format).copy_(values).gt_(0.5)


def _error(p: Tensor, values: Tensor, first: int | None) -> Tensor:
    """``g - p`` in a new tensor, see :func:`dtkernels.distance_sums.error`."""
    if not torch.is_grad_enabled():
        return distance_sums.error(p, values, first)
    return (values if first is None else values == distance_sums.names(p, first)).to(p.dtype) - p


# ---- of distances that an operator makes --------------------------------------------------------------------


def _operator(name: str, p: Tensor, target: Tensor, host: Host, rows: Tensor | None, **options: Any) -> Any:
    form = getattr(torch.ops.dtk, name)
    return (
        form.default(p, target, host, **options) if rows is None else form.per_sample(p, target, rows, **options)
    )


class BoundarySums(SampleFunction):
    """The sums of ``torch.ops.dtk.boundary_sums``, and their gradient, a constant."""

    @staticmethod
    def forward(
        p: Tensor, target: Tensor, host: Host, rows: Tensor | None, first: int | None, shift: bool
    ) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _operator(
            "boundary_sums", p, target, host, rows, first_label=first, shift=shift
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # or a map of zeros would come for it
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> Grads:
        (phi,) = ctx.saved_tensors
        return None if grad is None else phi * over_space(grad, phi), None, None, None, None, None


class HausdorffSums(SampleFunction):
    """The sums of ``torch.ops.dtk.hausdorff_sums``, and their gradient, :class:`HausdorffSlope` of p."""

    @staticmethod
    def forward(
        p: Tensor,
        target: Tensor,
        host: Host,
        rows: Tensor | None,
        first: int | None,
        alpha: int,
        variant: str,
    ) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _operator(
            "hausdorff_sums", p, target, host, rows, first_label=first, alpha=alpha, variant=variant
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        p, target, ctx.host, rows, *ctx.options = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], p, target, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> Grads:
        slope, p, target, rows = ctx.saved_tensors
        if grad is None:
            return (None,) * 7
        if torch.is_grad_enabled():
            slope = HausdorffSlope.apply(p, slope, target, ctx.host, rows, *ctx.options)  # type: ignore[no-untyped-call]
        return slope * over_space(grad, slope), None, None, None, None, None, None


class HausdorffSlope(SampleFunction):
    """``slope``, which is ``2 w (p - g)`` for weights w that are constants of p.

    Who asks for its derivative, ``2 w``, gets it from what the slope is at another p with the same mask, one
    farther from 0.5: the difference of the two.
    """

    @staticmethod
    def forward(p: Tensor, slope: Tensor, *options: Any) -> Tensor:
        return slope.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        p, slope, target, ctx.host, rows, *ctx.options = inputs
        ctx.save_for_backward(p, slope, target, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        p, slope, target, rows = ctx.saved_tensors
        p = p.detach()
        farther = torch.where(p > distance_sums.THRESHOLD, p + 1, p - 1)
        there = HausdorffSums.apply(farther, target, ctx.host, rows, *ctx.options)[1]  # type: ignore[no-untyped-call]
        return (there - slope.detach()).abs() * grad, *(None,) * 7


# ---- of maps ------------------------------------------------------------------------------------------------


class GivenSlope(SampleFunction):
    """Sums that were computed beforehand, with their derivative by each voxel of ``x``; there is no second one."""

    @staticmethod
    def forward(x: Tensor, sums: Tensor, slope: Tensor) -> Tensor:
        return sums.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, slope = inputs
        ctx.save_for_backward(x, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        x, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            slope = OpaqueSlope.apply(x, slope)  # type: ignore[no-untyped-call]
        return slope * over_space(grad, slope), None, None


class OpaqueSlope(SampleFunction):
    """``slope``, which depends on x in a way that is forgotten."""

    @staticmethod
    def forward(x: Tensor, slope: Tensor) -> Tensor:
        return slope.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        raise RuntimeError('form="pointwise": expected no second derivative to be asked for, since there is none')


class WeightedSquaredError(SampleFunction):
    """Sums of ``w (p - g)^2``, for a constant w.

    g is ``values``, or for an int ``first`` whether the label ``values`` is ``first``, ``first + 1``, ...
    The gradient of g, where one is asked for, is minus that of p.
    """

    @staticmethod
    def forward(p: Tensor, weight: Tensor, values: Tensor, first: int | None) -> Tensor:
        return _error(p, values, first).square_().mul_(weight).sum(spatial_axes(p))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        p, weight, values, ctx.first = inputs
        ctx.save_for_backward(p, weight, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        p, weight, values = ctx.saved_tensors
        result = _times_(_error(p, values, ctx.first), weight, over_space(-2 * grad, p))
        of_values = result.neg().to(values.dtype) if ctx.needs_input_grad[2] else None
        return result if ctx.needs_input_grad[0] else None, None, of_values, None


class OppositeSquaredError(SampleFunction):
    """Sums of ``|z| (p - (1 - g))^2``, for a constant z that is negative where g is 1: ``1 - g`` is its sign."""

    @staticmethod
    def forward(p: Tensor, z: Tensor) -> Tensor:
        e = torch.sign(z).to(p.dtype).add_(1).mul_(0.5).sub_(p)
        return e.square_().mul_(z).abs_().sum(spatial_axes(p))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        # With s the sign of z, 1 - g is (1 + s) / 2, and 2 |z| (p - (1 + s) / 2) is -z (1 + s (1 - 2 p)).
        p, z = ctx.saved_tensors
        sign = torch.sign(z).to(p.dtype)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():  # torch traces no addcmul under torch.func
            twice = sign * (1 - 2 * p)
        else:
            twice = sign.addcmul_(sign, p, value=-2)
        return _times_(twice.add_(1), z, over_space(-grad, p)), None


EPSILON = 1e-8  # in the root, whose derivative at 0 would be infinite


class Length(SampleFunction):
    r"""Sums of :math:`\sqrt{|\nabla p|^2 + \epsilon} - \sqrt\epsilon`, by forward differences.

    One over the spacing is either ``inverse`` or ``rows``. Nothing changes beyond the image, nor between two
    voxels of which one is ignored.
    """

    @staticmethod
    def forward(p: Tensor, inverse: Host, rows: Tensor | None, ignored: Tensor | None) -> Tensor:
        return _root_of_squares(p, inverse, rows, ignored).sub_(EPSILON**0.5).sum(spatial_axes(p))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        p, ctx.inverse, rows, ignored = inputs
        ctx.save_for_backward(p, rows, ignored)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        p, rows, ignored = ctx.saved_tensors
        root = _root_of_squares(p, ctx.inverse, rows, ignored)
        share = _times_(root.reciprocal() if torch.is_grad_enabled() else root.reciprocal_(), over_space(grad, p))
        result = torch.zeros_like(share)
        for axis in spatial_axes(p):
            n = p.shape[axis] - 1
            step = _step(p, axis, ctx.inverse, rows, ignored)
            step = _times_(step, _per_unit(axis, ctx.inverse, rows, p), share.narrow(axis, 0, n))
            result.narrow(axis, 1, n).add_(step)
            result.narrow(axis, 0, n).sub_(step)
        return result, None, None, None


def _root_of_squares(p: Tensor, inverse: Host, rows: Tensor | None, ignored: Tensor | None) -> Tensor:
    squares = torch.full_like(p, EPSILON)
    for axis in spatial_axes(p):
        squares.narrow(axis, 0, p.shape[axis] - 1).add_(_step(p, axis, inverse, rows, ignored).square_())
    return squares.sqrt_()


def _step(p: Tensor, axis: int, inverse: Host, rows: Tensor | None, ignored: Tensor | None) -> Tensor:
    """By how much p changes to the next voxel, per unit of spacing."""
    n = p.shape[axis] - 1
    step = (p.narrow(axis, 1, n) - p.narrow(axis, 0, n)).mul_(_per_unit(axis, inverse, rows, p))
    if ignored is None:
        return step
    return step.masked_fill_(ignored.narrow(axis, 0, n) | ignored.narrow(axis, 1, n), 0.0)


def _per_unit(axis: int, inverse: Host, rows: Tensor | None, like: Tensor) -> float | Tensor:
    if inverse is not None:
        return inverse[axis - 2]
    assert rows is not None
    return over_space(rows[:, axis - 2 : axis - 1], like).to(like.dtype)


class Masses(SampleFunction):
    """Sums of ``y p`` and of ``p``, for a constant y that is 0 at ignored voxels."""

    @staticmethod
    def forward(p: Tensor, y: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
        axes = spatial_axes(p)
        of_p = (p if ignored is None else p.masked_fill(ignored, 0.0)).sum(axes)
        return (p * y).sum(axes), of_p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, y, ignored = inputs
        ctx.save_for_backward(y, ignored)

    @staticmethod
    def backward(ctx: Any, of_product: Tensor, of_p: Tensor) -> Grads:
        y, ignored = ctx.saved_tensors
        return _hide_((y * over_space(of_product, y)).add_(over_space(of_p, y)), ignored), None, None


class WeightedMasses(SampleFunction):
    """Sums of ``|z| p`` where the constant z is positive, and everywhere."""

    @staticmethod
    def forward(p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        axes = spatial_axes(p)
        z = z.to(p.dtype)
        return z.clamp(min=0).mul_(p).sum(axes), z.abs().mul_(p).sum(axes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, of_inside: Tensor, of_all: Tensor) -> Grads:
        (z,) = ctx.saved_tensors
        z = z.to(of_all.dtype)  # |z| is 2 max(z, 0) - z
        inside = _times_(z.clamp(min=0), over_space(of_inside + 2 * of_all, z))
        return _plus_(inside, z, over_space(-of_all, z)), None


class HeavisideMasses(SampleFunction):
    """Sums of ``p g`` and of p for ``p = 1 / (1 + exp(k q))``, with g as in :class:`WeightedSquaredError`."""

    @staticmethod
    def forward(
        q: Tensor, k: float, values: Tensor, first: int | None, ignored: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        p = _hide_((q * -k).sigmoid_(), ignored)
        of_p = p.sum(spatial_axes(q))
        return p.mul_(_inside(values, first, q)).sum(spatial_axes(q)), of_p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        q, ctx.k, values, ctx.first, ignored = inputs
        ctx.save_for_backward(q, values, ignored)

    @staticmethod
    def backward(ctx: Any, of_common: Tensor, of_p: Tensor) -> Grads:
        q, values, ignored = ctx.saved_tensors
        k = ctx.k
        result = _times_(_inside(values, ctx.first, q), over_space(-k * of_common, q))
        result = result.add_(over_space(-k * of_p, q))
        if torch.is_grad_enabled() or is_batched(result):
            p = torch.sigmoid(-k * q)
            result = result * p * (1 - p)
        else:  # times p and times 1 - p, sigmoids of -k q and k q, each in place: softplus has this derivative
            for slope in (-k, k):
                softplus_backward(result, q, slope, 40.0, grad_input=result)
        return _hide_(result, ignored), None, None, None, None


softplus_backward = torch.ops.aten.softplus_backward.grad_input


class SecondOfTwo(SampleFunction):
    """The second channel of a softmax over two: the sigmoid of their difference, of which there is one map."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (x[:, 1:] - x[:, :1]).sigmoid_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        share = torch.ops.aten.sigmoid_backward(grad, p)
        return torch.cat([share.neg(), share], 1)


class ScoredSoftmax(SampleFunction):
    """Channels ``first`` and up of the softmax over all, and all of it, a constant.

    Autograd's gradient of the slice is a map of its own, filled with zeros, copied to, and read again. Here
    ``p_k (g_k - sum_l g_l p_l)`` takes its sum over the scored channels alone.
    """

    @staticmethod
    def forward(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
        p = torch.softmax(x, 1)
        return p[:, first:], p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.first = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> Grads:
        x, p = ctx.saved_tensors
        if grad is None:
            return None, None
        if torch.is_grad_enabled():  # a second derivative may be asked for: p has to know its own
            p = torch.softmax(x, 1)
        scored = p[:, ctx.first :]
        result = p * (grad * scored).sum(1, keepdim=True).neg_()
        of_scored = result[:, ctx.first :]
        if torch.is_grad_enabled():
            of_scored.add_(grad * scored)
        else:
            of_scored.addcmul_(grad, scored)
        return result, None


class Products(SampleFunction):
    """Sums of ``y q``, of ``q^2``, and on demand of ``|q - y|``, for a constant y that is 0 at ignored voxels."""

    @staticmethod
    def forward(q: Tensor, y: Tensor, ignored: Tensor | None, error: bool = False) -> tuple[Tensor, ...]:
        axes = spatial_axes(q)
        sums = (q * y).sum(axes), _hide_(q * q, ignored).sum(axes)
        return (*sums, _hide_((q - y).abs_(), ignored).sum(axes)) if error else sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, of_cross: Tensor, of_square: Tensor, of_error: Tensor | None = None) -> Grads:
        q, y, ignored = ctx.saved_tensors
        of_square = over_space(2 * of_square, q)
        if of_error is None:
            result = q * of_square
        else:
            result = _plus_(_times_((q - y).sign_(), over_space(of_error, q)), q, of_square)
        return _hide_(_plus_(result, y.to(q.dtype), over_space(of_cross, q)), ignored), None, None, None


def ratios(q: Tensor, y: Tensor, ignored: Tensor | None = None, *, error: bool = False) -> Tensor:
    """Sums of ``-y q / (y q + q^2 + y^2)``, 0 / 0 being 0, for a constant y, which is overwritten.

    On demand plus ``|q - y|`` at voxels that are not ignored; at those that are, y is 0.
    """
    asked = needs_gradient(q) or is_transformed() or has_tangent(q)
    with torch.no_grad():
        sums, slope = _ratios(q.detach(), y.to(q.dtype), ignored, error, asked)
    return sums if slope is None else GivenSlope.apply(q, sums, slope)  # type: ignore[no-untyped-call]


def _ratios(
    q: Tensor, y: Tensor, ignored: Tensor | None, error: bool, asked: bool
) -> tuple[Tensor, Tensor | None]:
    if is_transformed():  # each may be mapped where the other is not
        q, y = q + torch.zeros_like(y), y + torch.zeros_like(q)
    sums = _reciprocal(q, y).mul_(y).mul_(q).sum(spatial_axes(q)).neg_()
    if error:
        sums.add_(_hide_((q - y).abs_(), ignored).sum(spatial_axes(q)))
    if not asked:
        return sums, None
    # d/dq [-y q / D] = (y q (y + 2 q) - y D) / D^2 = y (q - y) (q + y) / D^2
    slope = _reciprocal(q, y).square_().mul_(y)
    slope.mul_(y.neg_().add_(q)).mul_(y.sub_(q, alpha=2).neg_())
    if error:  # y, now q + y, becomes q - y again, of the same sign, or 0 where rounding has lost it
        slope.add_(_hide_(y.neg_().add_(q, alpha=2).sign_(), ignored))
    return sums, slope


def _reciprocal(q: Tensor, y: Tensor) -> Tensor:
    """1 / D. D is at least (q^2 + y^2) / 2; below 1e-18, where its square would leave float32, both count as 0."""
    return (q * q).addcmul_(q, y).addcmul_(y, y).clamp_(min=1e-18).reciprocal_()


class AbsoluteError(SampleFunction):
    """Sums of ``|q - y|``, of ``(q - y)^2``, or of their smooth join, for a constant y.

    ``beta`` 0: the absolute value. Positive: ``e^2 / (2 beta)`` where ``|e| < beta``, else ``|e| - beta / 2``.
    Infinite: ``e^2``.
    """

    @staticmethod
    def forward(q: Tensor, y: Tensor, ignored: Tensor | None, beta: float) -> Tensor:
        y = y.to(q.dtype)
        if beta == 0:
            cost = (q - y).abs_()
        elif beta == float("inf"):
            cost = (q - y).square_()
        else:
            cost = torch.nn.functional.smooth_l1_loss(q, y, reduction="none", beta=beta)
        return _hide_(cost, ignored).sum(spatial_axes(q))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.beta = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        q, y, ignored = ctx.saved_tensors
        slope = q - y
        if ctx.beta == 0:
            slope.sign_()
        elif ctx.beta == float("inf"):
            slope.mul_(2)
        elif torch.is_grad_enabled():
            slope = (slope / ctx.beta).clamp(-1, 1)
        else:
            slope.div_(ctx.beta).clamp_(-1, 1)
        return _hide_(_times_(slope, over_space(grad, q)), ignored), None, None, None


class BinaryCrossEntropy(SampleFunction):
    """Sums of ``|z| log(1 + exp(sign(z) x))``: weight ``|z|``, logit ``x``, target 1 where z is negative."""

    @staticmethod
    def forward(x: Tensor, z: Tensor) -> Tensor:
        cost = torch.sign(z).to(x.dtype).mul_(x)
        return torch.logaddexp(cost, cost.new_zeros(()), out=cost).mul_(z).abs_().sum(spatial_axes(x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        x, z = ctx.saved_tensors
        share = _times_(torch.sign(z).to(x.dtype), x).sigmoid_()
        return _times_(share, z, over_space(grad, x)), None


class WeightedLogarithm(SampleFunction):
    """Sums of ``w log(max(p, least))``, for a constant w."""

    @staticmethod
    def forward(p: Tensor, weight: Tensor, least: float) -> Tensor:
        return p.clamp(min=least).log_().mul_(weight).sum(spatial_axes(p))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        p, weight, ctx.least = inputs
        ctx.save_for_backward(p, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Grads:
        p, weight = ctx.saved_tensors
        share = torch.nn.functional.threshold(p, ctx.least, float("inf")).reciprocal_()
        return _times_(share, weight, over_space(grad, p)), None, None
