"""Every loss under the transforms of ``torch.func``, on tensors without data, and its second derivative."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from test_losses import make_case
from test_losses_steps import EVERY, LOSSES, Network
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, grad_and_value, vmap

from dtkernels import losses

Tensor = torch.Tensor
SPATIAL = (4, 5, 6)


def backward(loss: Any, x: Tensor, *others: Any) -> Tensor:
    """The gradient by ``.backward()``."""
    leaf = x.clone().requires_grad_()
    loss(leaf, *others).backward()
    assert leaf.grad is not None
    return leaf.grad


def cases() -> tuple[Tensor, Tensor]:
    """Logits of three models, and a target for each."""
    pairs = [make_case(SPATIAL, seed=3 * i) for i in range(3)]
    logits, labels = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
    labels[1, 0] = 2  # classes without a boundary
    return logits, labels


@EVERY
def test_grad_and_vmap_are_those_of_backward(name: str) -> None:
    """Grad, vmap and one in the other; outputs, targets and spacings mapped together and alone."""
    loss = LOSSES[name]()
    logits, labels = cases()
    x, target = logits[0], labels[0]
    rows = torch.tensor([[1.0, 0.5, 2.0], [0.7, 0.7, 0.7]])
    torch.testing.assert_close(grad(loss)(x, target, rows), backward(loss, x, target, rows))
    slopes, value = grad_and_value(loss)(x, target)
    torch.testing.assert_close(value, loss(x, target))
    torch.testing.assert_close(slopes, backward(loss, x, target))
    torch.testing.assert_close(
        vmap(loss, (0, None))(logits, target), torch.stack([loss(m, target) for m in logits])
    )
    for dims in ((0, None), (None, 0), (0, 0)):
        each = [
            (logits[i] if dims[0] == 0 else x, labels[i] if dims[1] == 0 else target) for i in range(len(logits))
        ]
        given = (logits if dims[0] == 0 else x, labels if dims[1] == 0 else target)
        wanted = torch.stack([backward(loss, *pair) for pair in each])
        torch.testing.assert_close(vmap(grad(loss), dims)(*given), wanted)
    wanted = torch.stack([backward(loss, m, target) for m in logits])
    total = grad(lambda m: vmap(loss, (0, None))(m, target).sum())
    torch.testing.assert_close(total(logits), wanted)
    several = torch.stack([rows, rows.flip(0), rows + 1])
    wanted = torch.stack([backward(loss, *row) for row in zip(logits, labels, several, strict=True)])
    torch.testing.assert_close(vmap(grad(loss))(logits, labels, several), wanted)


@EVERY
def test_batched_gradients(name: str) -> None:
    """Of ``torch.autograd``, where a backward gets many gradients at once, and of the gradient itself."""
    loss = LOSSES[name]()
    loss.reduction = "none"
    x, labels = (t[0, :, :, :2, :3, :2] for t in cases())
    if isinstance(loss, losses.ShapeAwareLoss):
        loss.heaviside.k = 3.0
    jacobian = torch.autograd.functional.jacobian

    def value(x: Tensor) -> Tensor:
        result: Tensor = loss(x, labels)
        return result

    torch.testing.assert_close(jacobian(value, x, vectorize=True), jacobian(value, x))
    if getattr(loss, "form", None) == "pointwise":
        return  # no second derivative
    hessian = torch.autograd.functional.hessian
    square = [hessian(lambda x: value(x).sum(), x, vectorize=way) for way in (True, False)]
    torch.testing.assert_close(*square, rtol=1e-4, atol=1e-5)


@EVERY
def test_grad_of_a_functional_model(name: str) -> None:
    loss, network = LOSSES[name](), Network()
    image, labels = (x[0] for x in cases())
    image = image[:, :1]

    def value(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        result: Tensor = loss(functional_call(network, weights, (image,)), labels)
        return result

    slopes = grad(value)(dict(network.named_parameters()), image)
    loss(network(image), labels).backward()
    for key, weight in network.named_parameters():
        torch.testing.assert_close(slopes[key], weight.grad)
    ensemble = {key: torch.stack([w, w + 0.1]).detach() for key, w in network.named_parameters()}
    each = vmap(grad(value), (0, None))(ensemble, image)
    for i in range(2):
        alone = grad(value)({key: w[i] for key, w in ensemble.items()}, image)
        for key, slope in alone.items():
            torch.testing.assert_close(each[key][i], slope)


@EVERY
def test_grad_compiles_in_one_graph(name: str) -> None:
    torch._dynamo.reset()
    loss = LOSSES[name]()
    logits, labels = cases()
    compiled = torch.compile(grad(loss), fullgraph=True, backend="aot_eager")
    for x, target in zip(logits[:2], labels, strict=False):
        torch.testing.assert_close(compiled(x, target), backward(loss, x, target))


@EVERY
def test_second_derivative_of_float32(name: str) -> None:
    """By differences of the gradient in float64, where no mask changes and no error changes its sign."""
    loss = LOSSES[name]()
    if isinstance(loss, losses.ShapeAwareLoss):
        loss.heaviside.k = 3.0  # differences cannot follow 1500
    logits, labels = (x[0] for x in cases())
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    x = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(x, labels), x, create_graph=True)
    if getattr(loss, "form", None) == "pointwise":
        with pytest.raises(RuntimeError, match='form="pointwise": expected no second derivative'):
            torch.autograd.grad(slope, x, direction)
        with pytest.raises(RuntimeError, match='form="pointwise": expected no second derivative'):
            grad(lambda x: (grad(loss)(x, labels) * direction).sum())(logits)
        return
    (curve,) = torch.autograd.grad(slope, x, direction)
    step = 1e-6 * direction.double()
    ends = [backward(loss, logits.double() + s, labels) for s in (step, -step)]
    wanted = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(curve.double(), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    func = grad(lambda x: (grad(loss)(x, labels) * direction).sum())(logits)
    torch.testing.assert_close(func, curve)


@EVERY
def test_slopes_of_a_scaled_loss_where_classes_are_missing(name: str) -> None:
    """As by ``torch.amp.GradScaler``: a quotient of nothing must not be infinite on the way back."""
    loss = LOSSES[name]()
    logits, labels = (x[0] for x in cases())
    for label in (0, 2, 255):
        labels[0] = label
        x = logits.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(x, labels), x)
        (scaled,) = torch.autograd.grad(2.0**24 * loss(x, labels), x)
        assert slope.isfinite().all()
        torch.testing.assert_close(scaled, 2.0**24 * slope)


@pytest.mark.parametrize("name", ["MapDiceLoss", "ShapeAwareLoss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dice_of_nothing_without_smooth_has_no_slope(name: str, dtype: torch.dtype) -> None:
    words = {"weight": 0.0} if name == "ShapeAwareLoss" else {}
    loss = getattr(losses, name)(True, smooth=0.0, **words)
    target = torch.zeros(1, 2, 4, 4)
    target[0, 1] = 1
    x = torch.full((1, 2, 4, 4), 1.0 if words else 0.0, dtype=dtype, requires_grad=True)  # 1: outside
    value = loss(x, target, maps=torch.zeros_like(target) if not words else None)
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    assert value.item() == (0.5 if words else 0)  # the other class is there, and missed
    assert slope.isfinite().all()
    assert not slope[0, 0].any()
    (curve,) = torch.autograd.grad(slope.sum(), x)
    assert curve.isfinite().all()


@EVERY
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_without_data(name: str, kind: str, autocast: bool) -> None:
    loss = LOSSES[name]()
    x, labels = (t[0] for t in cases())
    mode = FakeTensorMode()
    if kind == "meta":
        loss = loss.to("meta")
    elif hasattr(loss, "class_weights"):
        loss.class_weights = mode.from_tensor(loss.class_weights)
    rows = torch.ones(2, 3)
    for dtype, result in ((torch.float32, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2):
        tensors = [t.to("meta") if kind == "meta" else mode.from_tensor(t) for t in (x.to(dtype), labels, rows)]
        leaf = tensors[0].requires_grad_()
        fake = mode if kind == "fake" else contextlib.nullcontext()
        with fake, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(leaf, *tensors[1:])
            assert (value.device, value.dtype, value.shape) == (leaf.device, result, ())
            value.backward()
        assert leaf.grad is not None
        assert (leaf.grad.device, leaf.grad.dtype, leaf.grad.shape) == (leaf.device, dtype, x.shape)


def test_what_has_no_gradient_is_refused() -> None:
    """Target, maps and spacing, whichever transform asks."""
    logits, labels = cases()
    maps = torch.rand_like(logits)
    rows = torch.ones(3, 2, 3)
    target = labels.float()
    for make in LOSSES.values():
        loss = make()
        with pytest.raises(ValueError, match="target: expected a tensor that needs no gradient"):
            grad(loss, argnums=1)(logits[0], target[0])
        with pytest.raises(ValueError, match="target: expected a tensor that needs no gradient"):
            grad(lambda t, loss=loss: vmap(loss)(logits, t).sum())(target)
        with pytest.raises(ValueError, match="maps: expected a tensor that needs no gradient"):
            grad(lambda m, loss=loss: loss(logits[0], labels[0], maps=m))(maps[0])
        with pytest.raises(ValueError, match="spacing: expected a tensor that needs no gradient"):
            vmap(grad(loss, argnums=2))(logits, labels, rows)


FORWARD = {
    "region-wise",
    "rw-boundary",
    "active contour",
    "dpce",
    "u-net",
    "boundary",
    "boundary with half a voxel",
}


@EVERY
def test_forward_mode_is_refused_or_right(name: str) -> None:
    """The losses that torch's own operators make have it; the others say that they do not."""
    loss = LOSSES[name]()
    logits, labels = cases()
    x, target, tangent = logits[0], labels[0], logits[1]
    for value in (lambda x: loss(x, target), lambda x: vmap(loss, (0, None))(x[None], target).sum()):
        if name not in FORWARD:
            with pytest.raises(NotImplementedError, match="must implement the jvp function"):
                torch.func.jvp(value, (x,), (tangent,))
            continue
        _, slope = torch.func.jvp(value, (x,), (tangent,))
        wanted = (backward(loss, x, target) * tangent).sum()
        torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-5)
