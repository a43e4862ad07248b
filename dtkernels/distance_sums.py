r"""The operators ``boundary_sums`` and ``hausdorff_sums`` on tensors: sums over space, and their gradients.

With the probabilities p of a class, its target g and the signed distances of the masks :math:`p > 0.5` and
:math:`g > 0.5`,

.. math:: S = \sum_v p\, \varphi_G, \qquad S = \sum_v (p - g)^2 (D_P + D_G)

where the map :math:`\varphi` and the weights :math:`D` (:mod:`~dtkernels.boundary_distances`) are 0 for a mask
without a boundary. The distances are constants of p, so the gradients :math:`\varphi_G` and
:math:`2 (p - g) (D_P + D_G)` are known where the sums are made: they are the operators' second result, and what
autograd keeps. A backend that has ``weigh`` needs no map but that one in memory; without it, torch operators do
the same here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import arguments, backends, memory, remap, transform
from .boundary_distances import inside_, to_boundary_
from .problem import Measure, SumsProblem
from .transform import OpSpacing

MEASURES = {"two_sided": Measure.TWO_SIDED, "ma2020": Measure.INSIDE, "one_sided": Measure.ONE_SIDED}
THRESHOLD = 0.5  # of both masks


def boundary_sums(
    prediction: Tensor,
    target: Tensor,
    spacing: OpSpacing = None,
    *,
    first_label: int | None = None,
    shift: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The boundary loss's sum over space, and its gradient: ``torch.ops.dtk.boundary_sums``.

    Args:
        prediction: probabilities p, ``(B, C, *spatial)`` with 1 to 3 spatial dimensions, float32 or float64.
        target: masks of the same shape, any dtype, foreground above 0.5; with ``first_label`` a label map
            ``(B, 1, *spatial)`` or ``(B, *spatial)``. A constant: one that needs a gradient is refused.
        spacing: None (1), a number, one number per spatial dimension in array order, or (the overload
            ``per_sample``) a tensor with one row per sample.
        first_label: the label of the prediction's first class; its others follow.
        shift: the map is ``d_out`` outside and ``1 - d_in`` inside (``"kervadec"``), else ``-d_in`` inside
            (``"edt_diff"``), in the unit of ``spacing``.
        backend: a backend by name, see :func:`dtkernels.backends.available`.

    Returns:
        ``(sums, phi)`` of the prediction's dtype, (B, C) and ``(B, C, *spatial)``: phi is the derivative of the
        sums by the prediction. 0 for a class that is empty or full in the target. The sums are differentiable in
        the prediction, as often as one likes; phi is a constant.

    Raises:
        TypeError: a dtype that is not served, or no tensor.
        ValueError: wrong rank, shape, device or spacing, or a target or spacing that needs a gradient.
        RuntimeError: the backend named cannot run here.

    References:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019, arXiv:1812.07032.

    >>> import torch, dtkernels
    >>> p = torch.full((1, 1, 4), 0.5, requires_grad=True)
    >>> sums, phi = torch.ops.dtk.boundary_sums(p, torch.tensor([[[0, 1, 1, 0]]]))
    >>> sums.item(), phi.tolist()
    (0.0, [[[1.0, -1.0, -1.0, 1.0]]])
    """
    return _sums(prediction, target, spacing, first_label, Choice(Measure.BOUNDARY, 1, shift), backend)


def hausdorff_sums(
    prediction: Tensor,
    target: Tensor,
    spacing: OpSpacing = None,
    *,
    first_label: int | None = None,
    alpha: int = 2,
    variant: str = "two_sided",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The Hausdorff loss's sum over space, and its gradient: ``torch.ops.dtk.hausdorff_sums``.

    The sums are of ``(p - g)^2 (D_P + D_G)``, the gradient is ``2 (p - g) (D_P + D_G)``, where D is the distance
    to the boundary of p > 0.5 or g > 0.5 to the power ``alpha``.

    Args:
        prediction: as in :func:`boundary_sums`.
        target: as in :func:`boundary_sums`; numbers other than 0 and 1 are the g of the error as they are.
        spacing: as in :func:`boundary_sums`.
        first_label: as in :func:`boundary_sums`.
        alpha: 1 or 2.
        variant: ``"two_sided"``: D on both sides of a boundary; ``"ma2020"``: D is 0 outside of the mask;
            ``"one_sided"``: D_G alone.
        backend: as in :func:`boundary_sums`.

    Returns:
        ``(sums, gradient)`` of the prediction's dtype, (B, C) and ``(B, C, *spatial)``. The D of an empty or full
        mask is 0. The sums are differentiable in the prediction, once: its distances count as constants.

    Raises:
        TypeError, RuntimeError: as :func:`boundary_sums`.
        ValueError: as :func:`boundary_sums`, or another ``alpha`` or ``variant``.

    References:
        Karimi & Salcudean, Reducing the Hausdorff Distance in Medical Image Segmentation with Convolutional Neural
        Networks, IEEE TMI 39, 2020, arXiv:1904.10030. ``"ma2020"``: Ma et al., MIDL 2020.

    >>> import torch, dtkernels
    >>> p = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> sums, gradient = torch.ops.dtk.hausdorff_sums(p, torch.tensor([[[0, 1, 1, 0]]]), alpha=1)
    >>> sums.item(), gradient.tolist()
    (2.0, [[[0.0, -4.0, 0.0, 0.0]]])
    """
    return _sums(prediction, target, spacing, first_label, hausdorff_choice(alpha, variant), backend)


class Choice(NamedTuple):
    """Which sum."""

    measure: Measure
    alpha: int
    shift: bool


def hausdorff_choice(alpha: int, variant: str) -> Choice:
    """Checked options of :func:`hausdorff_sums`."""
    if alpha not in (1, 2):
        raise ValueError(f"alpha: expected 1 or 2, got {alpha}")
    if variant not in MEASURES:
        raise ValueError(f"variant: expected one of {sorted(MEASURES)}, got {variant!r}")
    return Choice(MEASURES[variant], alpha, False)


def check(prediction: Tensor, target: Tensor, first_label: int | None) -> int:
    """What can be said before there is data; the number of spatial dimensions."""
    arguments.check_tensor("prediction", prediction)
    arguments.check_tensor("target", target)
    if prediction.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"prediction: expected float32 or float64, got {prediction.dtype}")
    if not 3 <= prediction.ndim <= 5:
        raise ValueError(f"prediction: expected (B, C, *spatial), got shape {tuple(prediction.shape)}")
    arguments.check_device("target", target, prediction)
    samples, _, *spatial = prediction.shape
    if first_label is not None:
        if target.shape not in ((samples, 1, *spatial), (samples, *spatial)):
            raise ValueError(
                f"target: expected labels of shape {(samples, 1, *spatial)} for a prediction of shape "
                f"{tuple(prediction.shape)}, got {tuple(target.shape)}"
            )
    elif target.shape != prediction.shape:
        raise ValueError(
            f"target: expected the prediction's shape {tuple(prediction.shape)}, got {tuple(target.shape)}"
        )
    return prediction.ndim - 2


def _sums(
    prediction: Tensor,
    target: Tensor,
    spacing: OpSpacing,
    first_label: int | None,
    choice: Choice,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    dims = check(prediction, target, first_label)
    chosen = backends.choose(prediction.device, backend)
    if not hasattr(chosen, "weigh") or prediction.dtype != torch.float32 or not prediction.numel():
        return _composed(prediction, target, spacing, dims, first_label, choice, backend)
    prediction = _in_rows(prediction)
    soft = first_label is None and target.dtype != torch.bool and choice.measure != Measure.BOUNDARY
    if first_label is None:
        of_target = arguments.mask_layout(_in_rows(target) if soft else target, dims, THRESHOLD, "target")
    else:
        of_target = arguments.labels_layout(target, prediction.shape[1], dims, first_label)
    of_prediction = arguments.mask_layout(prediction, dims, THRESHOLD, "prediction")
    given, rows = transform.spacing_of(spacing, dims, prediction, prediction.shape[0])
    arguments.check_squares_fit(prediction.shape[2:], transform.lengths(given, rows, dims))
    sums = memory.empty(prediction.shape[:2], torch.float32, prediction.device)
    gradient = memory.empty(prediction.shape, torch.float32, prediction.device)
    problem = SumsProblem(
        of_prediction.image, of_target.image, dims, given, *choice, soft, sums.data_ptr(), gradient.data_ptr()
    )
    chosen.weigh(problem, (of_prediction.source, of_target.source), rows, sums, gradient)
    return sums, gradient


def _in_rows(x: Tensor) -> Tensor:
    """``x`` with the voxels of an image one behind the other, and images anywhere."""
    return x if x[:1, :1].is_contiguous() else x.contiguous()


def _composed(
    p: Tensor,
    target: Tensor,
    spacing: OpSpacing,
    dims: int,
    first_label: int | None,
    choice: Choice,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """The sums and the gradient by the transforms of ``backend``, in three maps of the prediction's size."""
    space = tuple(range(2, p.ndim))
    options: dict[str, Any] = {"spatial_dims": dims, "backend": backend}
    if choice.measure == Measure.BOUNDARY:
        options |= {"boundary": "shift" if choice.shift else "none", "on_empty": "zeros", "on_full": "zeros"}
        if first_label is None:
            phi = remap.distance_map(target, spacing, threshold=THRESHOLD, **options)
        else:
            phi = remap.distance_map(target, spacing, num_classes=p.shape[1], first_label=first_label, **options)
        phi = phi.to(p.dtype)
        return (p * phi).sum(space), phi
    options["squared"] = choice.alpha == 2
    if first_label is None:
        weight = transform.sdf(target, spacing, threshold=THRESHOLD, **options)
    else:
        weight = transform.labels_sdf(target, p.shape[1], spacing, first_label=first_label, **options)
        target = target.reshape(p.shape[0], 1, *p.shape[2:])
    distance_ = inside_ if choice.measure == Measure.INSIDE else to_boundary_
    weight = distance_(weight)
    if choice.measure != Measure.ONE_SIDED:
        weight.add_(distance_(transform.sdf(p, spacing, threshold=THRESHOLD, **options)))
    weight = weight.to(p.dtype)
    e = error(p, target, first_label)
    weight.mul_(e)
    sums = e.mul_(weight).sum(space)
    return sums, weight.mul_(-2)


def over_space(per_class: Tensor, like: Tensor) -> Tensor:
    """(B, C) with an axis of length 1 for each spatial one, to multiply maps with."""
    return per_class[(..., *(None,) * (like.ndim - 2))]


def error(p: Tensor, values: Tensor, first: int | None) -> Tensor:
    """``g - p`` in a single new tensor.

    g is ``values``, or for an int ``first`` whether the label ``values`` is ``first``, ``first + 1``, ...
    """
    if first is None:
        return values.to(p.dtype, copy=True).sub_(p)
    return named(p, values, first).sub_(p)


def names(like: Tensor, first: int) -> Tensor:
    """The labels ``first``, ``first + 1``, ... of the classes of ``like``."""
    return over_space(torch.arange(first, first + like.shape[1], device=like.device), like)


def named(like: Tensor, labels: Tensor, first: int) -> Tensor:
    """1 where ``labels`` is that of the class, else 0, in a single new tensor ``like`` another."""
    classes = names(like, first)
    if abs(first) + like.shape[1] > 1 << 24:  # a label may be rounded onto that of a class
        return (labels == classes).to(like.dtype)
    # Torch would compare numbers of two dtypes in copies of one.
    result = torch.empty_like(like, memory_format=torch.contiguous_format).copy_(labels)
    return result.eq_(classes.to(like.dtype))


# ---- gradients ---------------------------------------------------------------------------------------


def setup(ctx: Any, inputs: Any, keyword_only_inputs: dict[str, Any], output: tuple[Tensor, Tensor]) -> None:
    """Of both operators, which have their gradient as second result."""
    with torch.enable_grad():  # as outside of the operator
        for name, given in zip(("target", "spacing"), inputs[1:], strict=False):
            if isinstance(given, Tensor):
                arguments.check_no_gradient(name, given)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or a map of zeros would come for the second result
    ctx.save_for_backward(output[1])


def backward_boundary(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, None, None]:
    """The map, which is a constant, so that this can be differentiated again."""
    if grad is None:
        return None, None, None
    (gradient,) = ctx.saved_tensors
    return gradient * over_space(grad, gradient), None, None


def backward_hausdorff(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, None, None]:
    """What was saved depends on the prediction, in a way that is forgotten."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "hausdorff_sums: expected backward without create_graph, since it has no second derivative; "
            "HausdorffDTLoss has one"
        )
    return backward_boundary(ctx, grad, _)
