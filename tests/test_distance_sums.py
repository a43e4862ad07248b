"""``boundary_sums`` and ``hausdorff_sums`` of every backend: against brute force in float64, and against the same
sums made of whole maps by torch operators."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from conftest import EVERY_INSTRUCTION_SET, Backend, numpy, with_instruction_set
from numpy.typing import NDArray

import dtkernels as dtk
from dtkernels import distance_sums
from dtkernels.losses import BoundaryLoss, HausdorffDTLoss

dtk_ops = torch.ops.dtk
SHAPES = [(1, 1, 1), (2, 3, 9), (2, 2, 1, 1), (2, 3, 13, 9), (1, 2, 8, 1, 5), (2, 2, 9, 10, 7)]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "boundary": ("boundary_sums", {}),
    "boundary, shift": ("boundary_sums", {"shift": True}),
    **{
        f"{variant}, {alpha}": ("hausdorff_sums", {"variant": variant, "alpha": alpha})
        for variant, alpha in itertools.product(distance_sums.MEASURES, (1, 2))
    },
}
EVERY = pytest.mark.parametrize("call", CALLS)


def make_case(
    shape: tuple[int, ...], kind: str, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, NDArray[Any], int | None]:
    """Prediction, target, the target's g (B, C, *spatial) and the first label.

    Where there is room, a class is absent and one is everywhere, in the target and in the prediction.
    """
    rng = np.random.default_rng(seed)
    p = rng.random(shape, np.float32)
    if shape[0] > 1:
        p[0, 0] *= 0.49
        p[1, -1] = 0.5 + p[1, -1] / 2
    if kind == "labels":
        values = rng.integers(3, 4 + shape[1], (shape[0], 1, *shape[2:])).astype(np.int16)
        values[-1] = 3  # its class is full, the others are empty
        g = values == np.arange(3, 3 + shape[1]).reshape(-1, *(1,) * (len(shape) - 2))
        return torch.from_numpy(p), torch.from_numpy(values), g.astype(np.float64), 3
    g = rng.random(shape) if kind.startswith("float") else rng.random(shape) < 0.4
    g[-1, 0] = 1
    g[0, -1] = 0
    g = g.astype(kind)
    return torch.from_numpy(p), torch.from_numpy(g), g.astype(np.float64), None


def expected(
    call: str, p: NDArray[Any], g: NDArray[Any], spacing: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sums and gradient in float64."""
    _, options = CALLS[call]

    def signed(mask: NDArray[Any]) -> NDArray[Any]:
        images = [
            oracle.squared_sdf(mask[b, c], None if spacing is None else spacing[b])
            for b, c in np.ndindex(*mask.shape[:2])
        ]
        return np.stack(images).reshape(mask.shape)

    def weight(mask: NDArray[Any]) -> NDArray[Any]:
        square = signed(mask)
        if options["variant"] == "ma2020":
            square = np.minimum(square, 0)
        return np.where(np.isinf(square), 0, np.abs(square) ** (options["alpha"] / 2))

    p = p.astype(np.float64)
    if call.startswith("boundary"):
        phi = oracle.root(signed(g > 0.5))
        phi = np.where(np.isinf(phi), 0, phi + (phi < 0) * options.get("shift", False))
        sums, gradient = p * phi, phi
    else:
        w = weight(g > 0.5)
        if options["variant"] != "one_sided":
            w += weight(p > 0.5)
        sums, gradient = (p - g) ** 2 * w, 2 * (p - g) * w
    return sums.reshape(*p.shape[:2], -1).sum(-1), gradient


def run(call: str, backend: Backend, *tensors: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    name, more = CALLS[call]
    result: tuple[torch.Tensor, torch.Tensor] = getattr(dtk_ops, name)(
        *tensors, **more, **options, backend=backend.name
    )
    return result


@EVERY
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", ["labels", "bool", "float32", "uint8"])
def test_against_brute_force(backend: Backend, call: str, shape: tuple[int, ...], kind: str) -> None:
    p, target, g, first = make_case(shape, kind)
    dims = len(shape) - 2
    rows = np.random.default_rng(1).uniform(0.5, 2.0, (shape[0], dims)).astype(np.float32)
    for spacing in (None, rows[0].tolist(), torch.from_numpy(rows)):
        if isinstance(spacing, torch.Tensor):
            each: Any = rows.astype(np.float64)
            given: Any = backend.put(spacing)
        else:
            each, given = None if spacing is None else np.array([spacing] * shape[0]), spacing
        sums, gradient = run(call, backend, backend.put(p), backend.put(target), given, first_label=first)
        want_sums, want_gradient = expected(call, p.numpy(), g, each)
        assert sums.dtype == gradient.dtype == torch.float32
        scale = np.abs(want_gradient).max() + 1
        np.testing.assert_allclose(numpy(gradient), want_gradient, rtol=2e-6, atol=2e-6 * scale)
        np.testing.assert_allclose(numpy(sums), want_sums, rtol=1e-5, atol=1e-5 * scale)


def composed(call: str, backend: Backend, *tensors: Any, first_label: int | None = None) -> tuple[Any, Any]:
    """The same by whole maps."""
    name, options = CALLS[call]
    choice = (
        distance_sums.Choice(dtk.problem.Measure.BOUNDARY, 1, options.get("shift", False))
        if name == "boundary_sums"
        else distance_sums.hausdorff_choice(**options)
    )
    p, target, spacing = tensors
    return distance_sums._composed(p, target, spacing, p.ndim - 2, first_label, choice, backend.name)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last_3d),
    "a slice of channels": lambda x: torch.cat((x[:, :1], x), 1)[:, 1:],
    "transposed": lambda x: x.transpose(2, 4).contiguous().transpose(2, 4),
}


@EVERY
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 2, 17, 19, 12), (1, 3, 40, 6, 9)], ids=["many", "tall"])
def test_gradient_is_that_of_whole_maps(backend: Backend, call: str, layout: str, shape: tuple[int, ...]) -> None:
    """Bit for bit, the sums but for their order, and the same bits again in another run."""
    for kind in ("labels", "float32", "bool"):
        p, target, _, first = make_case(shape, kind, 2)
        p, target = LAYOUTS[layout](backend.put(p)), LAYOUTS[layout](backend.put(target))
        for spacing in (None, [2.0, 2.0, 2.0], [3.0, 0.7, 1.1]):
            sums, gradient = run(call, backend, p, target, spacing, first_label=first)
            want_sums, want_gradient = composed(call, backend, p, target, spacing, first_label=first)
            assert gradient.is_contiguous()
            assert torch.equal(gradient, want_gradient)
            torch.testing.assert_close(sums, want_sums, rtol=2e-6, atol=2e-6 * float(want_gradient.abs().max()))
            for again in range(2):
                other = run(call, backend, p, target, spacing, first_label=first)
                assert torch.equal(other[0], sums), again
                assert torch.equal(other[1], gradient)


@EVERY
@pytest.mark.parametrize("kind", ["labels", "bool", "float32"])
def test_opcheck(backend: Backend, call: str, kind: str) -> None:
    name, options = CALLS[call]
    operator = getattr(dtk_ops, name)
    for shape, spacing in (((2, 3, 6, 5), [1.0, 2.0]), ((2, 2, 4, 5, 3), torch.rand(2, 3) + 0.5)):
        p, target, _, first = make_case(shape, kind)
        tensors: tuple[Any, ...] = (backend.put(p).requires_grad_(), backend.put(target), spacing)
        overload = operator.default
        if isinstance(spacing, torch.Tensor):
            tensors, overload = (*tensors[:2], backend.put(spacing)), operator.per_sample
        torch.library.opcheck(overload, tensors, {**options, "first_label": first, "backend": backend.name})


@EVERY
def test_gradcheck(backend: Backend, call: str) -> None:
    p, target, _, first = make_case((2, 3, 4, 5), "labels", 3)
    x = backend.put(p.double()).requires_grad_()
    assert (x - 0.5).abs().min() > 1e-4  # no mask changes
    assert torch.autograd.gradcheck(
        lambda x: run(call, backend, x, backend.put(target), [1.0, 2.0], first_label=first)[0], (x,)
    )


@EVERY
def test_second_derivative(backend: Backend, call: str) -> None:
    """Right, or an error: never missing in silence."""
    p, target, _, first = make_case((1, 2, 5, 6), "labels")
    x = backend.put(p).requires_grad_()
    sums, gradient = run(call, backend, x, backend.put(target), first_label=first)
    assert not gradient.requires_grad
    if not call.startswith("boundary"):
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(sums.sum(), x, create_graph=True)
        return
    (slope,) = torch.autograd.grad(sums.square().sum() / 2, x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    each = gradient.sum((2, 3), keepdim=True)
    torch.testing.assert_close(curve, gradient * each)


def test_vmap(backend: Backend) -> None:
    p, target, _, first = make_case((6, 2, 7, 5), "labels")
    p, rows = backend.put(p).unflatten(0, (3, 2)), backend.put(torch.rand(3, 2, 2) + 0.5)
    labels = backend.put(target[:2])
    got = torch.vmap(lambda x, s: run("two_sided, 2", backend, x, labels, s, first_label=first))(p, rows)
    want = [run("two_sided, 2", backend, x, labels, s, first_label=first) for x, s in zip(p, rows, strict=True)]
    for mine, theirs in zip(got, zip(*want, strict=True), strict=True):
        assert torch.equal(mine, torch.stack(theirs))


def test_no_samples(backend: Backend) -> None:
    for call in CALLS:
        p = torch.rand(0, 2, 4, 5, device=backend.device)
        sums, gradient = run(call, backend, p, p)
        assert (sums.shape, gradient.shape) == ((0, 2), (0, 2, 4, 5))


@pytest.mark.parametrize("make", [HausdorffDTLoss, BoundaryLoss])
@pytest.mark.parametrize("named", [True, False], ids=["labels", "channels"])
@pytest.mark.parametrize("background", [True, False])
def test_losses_are_as_in_float64(make: Callable[..., torch.nn.Module], named: bool, background: bool) -> None:
    """float64 takes the way of whole maps."""
    x = torch.randn(2, 3, 9, 7, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 1, 9, 7, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    target = labels if named else (labels == torch.arange(3).view(3, 1, 1, 1)).float()
    loss = make(include_background=background, softmax=True, to_onehot_y=named)
    results = []
    for dtype in (torch.float32, torch.float64):
        y = x.to(dtype, copy=True).requires_grad_()
        value = loss(y, target, (1.0, 2.0, 0.5))
        value.backward()
        assert y.grad is not None
        results.append((value.double(), y.grad.double()))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("first", [-256, -3, 1, 120, 254, 65_536, 2**32])
def test_no_label_wraps_around(backend: Backend, dtype: torch.dtype, first: int) -> None:
    """Labels at both ends of their type, and 0, with classes that begin anywhere."""
    limits = torch.iinfo(dtype)
    labels = torch.tensor([[limits.min, 0, 0, limits.max, limits.max]], dtype=dtype)
    p = torch.rand(1, 5, 5)
    g = labels[:, None].to(torch.int64) == torch.arange(first, first + 5)[:, None]
    want = run("two_sided, 2", backend, backend.put(p), backend.put(g))
    got = run("two_sided, 2", backend, backend.put(p), backend.put(labels), first_label=first)
    for mine, theirs in zip(got, want, strict=True):
        assert torch.equal(mine, theirs)


def test_boundary_loss_per_sample() -> None:
    """torch.func.grad and vmap in both orders."""
    p, target, _, _ = make_case((3, 2, 7, 5), "bool")
    loss = BoundaryLoss(sigmoid=True, reduction="sum")
    each = torch.func.vmap(torch.func.grad(lambda x, g: loss(x[None], g[None])))(p, target)
    together = torch.func.grad(lambda x: torch.func.vmap(lambda y, g: loss(y[None], g[None]))(x, target).sum())(p)
    x = p.clone().requires_grad_()
    loss(x, target).backward()
    torch.testing.assert_close(each, x.grad)
    torch.testing.assert_close(together, x.grad)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, "prediction: expected float32 or float64", lambda p: dtk_ops.boundary_sums(p.half(), p)),
        (ValueError, "prediction: expected", lambda p: dtk_ops.boundary_sums(p[0, 0], p)),
        (ValueError, "target: expected the prediction's shape", lambda p: dtk_ops.boundary_sums(p, p[:, :1])),
        (ValueError, "target: expected labels of shape", lambda p: dtk_ops.boundary_sums(p, p, first_label=0)),
        (
            TypeError,
            "labels: expected an integer dtype",
            lambda p: dtk_ops.boundary_sums(p, p[:, 0], first_label=0),
        ),
        (ValueError, "alpha: expected 1 or 2, got 3", lambda p: dtk_ops.hausdorff_sums(p, p, alpha=3)),
        (ValueError, "variant: expected one of", lambda p: dtk_ops.hausdorff_sums(p, p, variant="both")),
        (ValueError, "spacing: expected", lambda p: dtk_ops.hausdorff_sums(p, p, [1.0, -1.0])),
        (
            ValueError,
            "spacing: expected distances below",
            lambda p: dtk_ops.hausdorff_sums(p.view(1, 1, 2, 60), p.view(1, 1, 2, 60), [1.0, 1e18]),
        ),
        (
            ValueError,
            "target: expected a tensor that needs no gradient",
            lambda p: dtk_ops.hausdorff_sums(p, p.clone().requires_grad_()),
        ),
    ],
)
def test_refusals(error: type[Exception], words: str, call: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises(error, match=words):
        call(torch.rand(2, 3, 4, 5))


# ---- the compiled CPU backend: who does what must not show --------------------------------------------------

SHARED = {  # how the threads share the work
    "images": (5, 2, 16, 32, 40),
    "slices": (1, 1, 40, 50, 61),
    "rows of a slice": (1, 1, 3, 530, 500),
    "rows of an image": (1, 2, 300, 401),
    "a line": (1, 1, 32_001),
    "wide rows": (1, 1, 20, 9001),
}


@pytest.mark.parametrize("shape", SHARED.values(), ids=list(SHARED))
def test_number_of_threads_does_not_matter(shape: tuple[int, ...]) -> None:
    backend = Backend("cpu", "cpu")
    before = torch.get_num_threads()
    p, target, _, first = make_case(shape, "labels", 4)
    try:
        for call in ("boundary, shift", "two_sided, 2", "ma2020, 1", "one_sided, 1"):
            want = composed(call, backend, p, target, None, first_label=first)
            sums = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                of_run, gradient = run(call, backend, p, target, None, first_label=first)
                assert torch.equal(gradient, want[1])
                sums.append(of_run)
            assert torch.equal(sums[0], sums[1])
            assert torch.equal(sums[0], sums[2])
            torch.testing.assert_close(sums[0], want[0], rtol=1e-5, atol=1e-5 * float(want[1].abs().max()))
    finally:
        torch.set_num_threads(before)


CHECK = """
import torch
from test_distance_sums import CALLS, Backend, composed, make_case, run
backend = Backend("cpu", "cpu")
for call in CALLS:
    for kind in ("labels", "bool", "float16", "float64", "int8"):
        p, target, _, first = make_case((2, 2, 9, 18, 35), kind, 7)
        for spacing in (None, [3.0, 0.7, 1.1]):
            got, want = (f(call, backend, p, target, spacing, first_label=first) for f in (run, composed))
            assert torch.equal(got[1], want[1]), (call, kind)
            torch.testing.assert_close(got[0], want[0], rtol=2e-6, atol=2e-6 * float(want[1].abs().max()))
"""


@EVERY_INSTRUCTION_SET
def test_every_instruction_set(isa: str) -> None:
    """Gradients of whole maps, bit for bit, from each."""
    with_instruction_set(isa, CHECK)
