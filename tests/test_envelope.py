"""Lower envelopes of functions: values, minimisers, gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EVERY_INSTRUCTION_SET, Backend, numpy, with_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import dtkernels as dtk

Array = NDArray[Any]
Call = Callable[..., tuple[torch.Tensor, torch.Tensor]]
INF = float("inf")


@pytest.fixture(autouse=True)
def _able(request: pytest.FixtureRequest) -> None:
    if "backend" in request.fixturenames:
        name = request.getfixturevalue("backend").name
        if "envelope" not in dtk.backends.available()[name].operators:
            pytest.skip(f"backend {name} has no 'envelope' operator")


@pytest.fixture
def envelope(backend: Backend) -> Call:
    """dtk.envelope with its minimisers, of anything, by the backend under test."""

    def call(f: Any, spacing: Any = None, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return dtk.envelope(backend.put(f), spacing, return_index=True, backend=backend.name, **options)

    return call


def all_pairs(f: Array, spacing: Any = None) -> tuple[Array, Array]:
    """Envelope and lowest minimiser from all pairs, in float64; argmin takes the first of equals."""
    f = np.asarray(f, np.float64)
    scale = np.ones(f.ndim) if spacing is None else np.broadcast_to(spacing, f.ndim)
    places = np.argwhere(np.ones(f.shape, bool))
    squares = sum((np.subtract.outer(p, p) * s) ** 2.0 for p, s in zip(places.T, scale, strict=True))
    sums = np.where(np.isnan(f), np.inf, f).ravel() + squares
    best = sums.argmin(axis=1)
    least = sums[np.arange(len(best)), best]
    return least.reshape(f.shape), np.where(least == np.inf, -1, best).reshape(f.shape)


def functions(shape: tuple[int, ...], seed: int) -> dict[str, Array]:
    """Kinds of functions that take the solver down different paths."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    bowl = (grid**2).sum(0)
    return {
        "noise": noise,
        "steep noise": 300 * noise,
        "smooth": 500 * np.cos(3 * bowl + 1),
        "hill": -200 * bowl,
        "indicator": np.where(rng.random(shape) < 0.1, 0.0, np.inf),
        "sparse": np.where(rng.random(shape) < 0.2, 40 * noise, np.inf),
        "one": np.where(np.arange(noise.size).reshape(shape) == rng.integers(noise.size), -7.0, np.inf),
        "steps": np.round(3 * noise),
        "constant": np.full(shape, -2.5),
        "none": np.full(shape, np.inf),
        "bottomless": np.where(rng.random(shape) < 0.05, -np.inf, noise),
        "not a number": np.where(rng.random(shape) < 0.3, np.nan, noise),
        "wide": np.exp(20 * noise),
    }


SHAPES = [
    (1,),
    (7,),
    (8,),
    (9,),
    (64,),
    (131,),
    (5, 1),
    (1, 5),
    (17, 33),
    (40, 9),
    (1, 1, 3),
    (6, 7, 17),
    (18, 4, 5),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_against_all_pairs(envelope: Call, shape: tuple[int, ...]) -> None:
    for name, f in functions(shape, seed=sum(shape)).items():
        for spacing in (None, (0.3, 2.0, 1.1)[: len(shape)]):
            values, index = envelope(f, spacing)
            expected, place = all_pairs(f, spacing)
            assert (values.dtype, index.dtype) == (torch.float64, torch.int64)
            np.testing.assert_allclose(numpy(values), expected, rtol=1e-15, atol=1e-12, err_msg=name)
            if name in ("steps", "constant", "indicator", "none", "one") and spacing is None:  # sums are exact
                np.testing.assert_array_equal(numpy(index), place, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_least_sums_bit_for_bit(envelope: Call, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Pruning loses nothing: the values and the lowest minimisers of a search over all candidates."""
    for name, f in functions(shape, seed=1 + sum(shape)).items():
        for offset, spacing in ((0.0, None), (1e6, (0.7, 1e-3, 300.0)[: len(shape)])):
            x = torch.from_numpy(f + offset).to(dtype)
            values, index = envelope(x, spacing)
            expected, place = dtk.envelope(x, spacing, return_index=True, backend="reference")
            assert torch.equal(values.cpu(), expected), name
            assert torch.equal(index.cpu(), place), name


@given(st.integers(0, 2**32 - 1))
def test_random_functions(seed: int) -> None:
    """On all backends that can; float32 where sums tie within rounding, too."""
    rng = np.random.default_rng(seed)
    ndim = int(rng.integers(1, 4))
    shape = tuple(int(n) for n in rng.integers(1, (300, 40, 14)[ndim - 1], ndim))
    f = rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 6) + rng.choice([0.0, 1e4, -1e7])
    f = np.where(rng.random(shape) < rng.choice([0.0, 0.5, 0.98]), np.inf, f)
    x = torch.from_numpy(f).to(torch.float32 if seed % 2 else torch.float64)
    spacing = tuple((10 ** rng.uniform(-2, 2, ndim)).tolist())
    expected = dtk.envelope(x, spacing, return_index=True, backend="reference")
    for name, state in dtk.backends.available().items():
        if state.available and "cpu" in state.devices and "envelope" in state.operators:
            values, index = dtk.envelope(x, spacing, return_index=True, backend=name)
            assert torch.equal(values, expected[0])
            assert torch.equal(index, expected[1])
            assert torch.equal(dtk.envelope(x, spacing, backend=name), values)


# ---- properties


def test_indicator_gives_squared_distances(backend: Backend, envelope: Call) -> None:
    mask = backend.put(torch.rand(2, 1, 20, 21, 22, generator=torch.Generator().manual_seed(0)) < 0.99)
    for spacing in (None, (2.0, 0.5, 1.25)):
        values, index = envelope(torch.where(mask, INF, 0.0), spacing)
        distance, nearest = dtk.nearest(mask.cpu(), spacing)
        torch.testing.assert_close(values.sqrt().cpu(), distance, rtol=3e-7, atol=0)
        if spacing is None:
            assert torch.equal(index.cpu(), nearest)


def test_below_f_and_1_lipschitz_to_the_minimiser(envelope: Call) -> None:
    f = torch.randn(3, 12, 13, 14, generator=torch.Generator().manual_seed(1)) * 50
    values, index = envelope(f, spatial_dims=3)
    assert (values.cpu() <= f).all()
    assert torch.equal(values.flatten(1).amin(1).cpu(), f.flatten(1).amin(1))
    q = f.flatten(1).gather(1, index.flatten(1).cpu()).view_as(f)
    assert (q <= values.cpu()).all()


def test_of_a_minimum_is_the_minimum_of_envelopes(envelope: Call) -> None:
    g = torch.Generator().manual_seed(2)
    a, b = 30 * torch.randn(2, 25, 30, generator=g, dtype=torch.float64)
    both = envelope(torch.minimum(a, b))[0]
    assert torch.equal(both, torch.minimum(envelope(a)[0], envelope(b)[0]))


def test_moves_with_f_and_adds_constants(envelope: Call) -> None:
    f = torch.full((30, 40), INF)
    f[10:14, 12:20] = torch.arange(32.0).view(4, 8)
    values, index = envelope(f)
    moved, moved_index = envelope(f.roll((3, 5), (0, 1)))
    assert torch.equal(moved[3:, 5:], values[:-3, :-5])
    assert torch.equal(moved_index[3:, 5:], index[:-3, :-5] + 3 * 40 + 5)
    assert torch.equal(envelope(f + 128)[0], values + 128)


def test_two_envelopes_make_one_of_twice_the_weight(envelope: Call) -> None:
    """Inf-convolution with x^2 twice is one with x^2 / 2, on a line where the middle is a voxel."""
    f = torch.full((41,), INF)
    f[20] = 0
    twice = envelope(envelope(f)[0])[0]
    k = torch.arange(41.0) - 20
    half = torch.div(k, 2, rounding_mode="floor")
    assert torch.equal(twice.cpu(), half**2 + (k - half) ** 2)


# ---- ties


def test_ties_go_to_the_first_in_raster_order(envelope: Call) -> None:
    f = torch.full((9, 9, 9), INF)
    faces = [(0, 4, 4), (4, 0, 4), (4, 4, 0), (4, 4, 8), (4, 8, 4), (8, 4, 4)]
    for k, first in enumerate(faces):
        now = f.clone()
        for site in faces[k:]:
            now[site] = -3.0
        values, index = envelope(now)
        assert values[4, 4, 4].item() == 13.0
        assert index[4, 4, 4].item() == int(np.ravel_multi_index(first, now.shape))


# ---- values that are none


def test_no_finite_value(envelope: Call) -> None:
    for nothing in (INF, float("nan")):
        values, index = envelope(torch.full((2, 1, 5, 6), nothing))
        assert (values == INF).all()
        assert (index == -1).all()


def test_images_without_sites_beside_others(envelope: Call) -> None:
    f = torch.full((3, 1, 20, 20), INF)
    f[1, 0, 3, 4] = 2.0
    values, index = envelope(f)
    assert torch.isinf(values[[0, 2]]).all()
    assert (index[1] == 3 * 20 + 4).all()
    assert values[1, 0, 19, 19].item() == 2 + 16**2 + 15**2


def test_minus_infinity_spreads(envelope: Call) -> None:
    f = torch.randn(2, 1, 20, 30)
    f[0, 0, 7, 8] = f[0, 0, 7, 20] = -INF
    values, index = envelope(f)
    assert (values[0] == -INF).all()
    assert (index[0] == 7 * 30 + 8).all()
    assert torch.isfinite(values[1]).all()


def test_ends_of_the_range(envelope: Call) -> None:
    """Sums that overflow are no candidates, and the search stays right where its bounds overflow."""
    big = torch.finfo(torch.float32).max
    f = torch.full((30,), INF)
    f[0] = 0
    values, index = envelope(f, 1e18)
    assert torch.equal(torch.isfinite(values).cpu(), torch.arange(30) <= 18)  # 19^2 10^36 > big
    assert torch.equal(index.cpu(), torch.where(torch.arange(30) <= 18, 0, -1))
    assert envelope(torch.tensor([big, INF, INF, -big]), 1e18)[1].tolist() == [3, 3, 3, 3]
    values, _ = envelope(torch.tensor([big, 0.0, big]), 1e-18)
    assert torch.equal(values.cpu(), torch.tensor([1.0, 0.0, 1.0]) * np.float32(1e-36))


# ---- dtypes, layouts, sizes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(backend: Backend, envelope: Call, dtype: torch.dtype) -> None:
    f = (torch.randn(2, 3, 11, 12, generator=torch.Generator().manual_seed(3)) * 10).to(dtype)
    values, index = envelope(f)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = envelope(f.to(values.dtype))
    assert torch.equal(values, expected[0])
    assert torch.equal(index, expected[1])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.complex64])
def test_other_dtypes_are_refused(backend: Backend, dtype: torch.dtype) -> None:
    f = torch.zeros(4, 4, dtype=dtype, device=backend.device)
    for call in (dtk.envelope, torch.ops.dtk.envelope, torch.ops.dtk.envelope_index):
        with pytest.raises(TypeError, match=r"f: expected"):
            call(f, backend=backend.name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layouts(backend: Backend, envelope: Call, dtype: torch.dtype) -> None:
    """Any strides are read where they lie, and f is left as it is."""
    base = 20 * torch.randn(6, 4, 34, 38, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    base = backend.put(base.to(dtype))
    for f in (
        base[0, 0].permute(2, 1, 0),
        base[::2, :2, 1:34:2, ::3],
        base.permute(0, 4, 3, 2, 1)[:2, :2],
        base[:1, :1].expand(3, 2, 34, 38, 5),
        base.permute(1, 0, 4, 2, 3)[:2, :3],
        base[:, 0, 3, :, 2],
        base.permute(3, 0, 1, 2, 4)[..., 0],
    ):
        before = f.clone()
        values, index = dtk.envelope(f, return_index=True, backend=backend.name)
        expected = envelope(f.contiguous())
        assert values.is_contiguous()
        assert index.is_contiguous()
        assert torch.equal(values, expected[0])
        assert torch.equal(index, expected[1])
        assert torch.equal(f, before)


def test_many_leading_dimensions(envelope: Call) -> None:
    f = torch.randn(2, 3, 2, 2, 7, 8)
    values, index = envelope(f, spatial_dims=2)
    flat = envelope(f.flatten(0, 3), spatial_dims=2)
    assert torch.equal(values.flatten(0, 3), flat[0])
    assert torch.equal(index.flatten(0, 3), flat[1])


def test_batches_of_lines(envelope: Call) -> None:
    """Lines of a batch share a vector; with a spacing per sample only those of a sample do."""
    f = 9 * torch.randn(5, 37, 23, dtype=torch.float64)
    rows = torch.rand(5, 1, dtype=torch.float64) + 0.5
    for spacing, one in ((None, [None] * 5), (0.75, [0.75] * 5), (rows, rows[:, 0].tolist())):
        given = spacing.to(envelope(f[0, 0])[0].device) if isinstance(spacing, torch.Tensor) else spacing
        values, index = envelope(f, given, spatial_dims=1)
        for b, c in itertools.product(range(5), (0, 17, 36)):
            alone = envelope(f[b, c], one[b])
            assert torch.equal(values[b, c], alone[0])
            assert torch.equal(index[b, c], alone[1])


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4, 5), (2, 1, 0, 5), (0, 1, 4, 5, 6)], ids=str)
def test_empty(envelope: Call, shape: tuple[int, ...]) -> None:
    values, index = envelope(torch.zeros(shape))
    assert values.shape == index.shape == shape
    f = torch.zeros(shape, requires_grad=True)
    dtk.envelope(f).sum().backward()
    assert f.grad is not None
    assert f.grad.shape == shape


def test_long_lines(envelope: Call) -> None:
    for n in (1000, 4099, 32768):
        f = torch.where(torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.003, 0.0, INF)
        values, index = envelope(f)
        site = torch.nonzero(f == 0).flatten()
        k = (torch.arange(n)[:, None] - site).abs()
        nearest = k.amin(1)
        assert torch.equal(values.cpu(), nearest.float() ** 2)
        assert torch.equal(index.cpu(), site[(k == nearest[:, None]).int().argmax(1)])
    with pytest.raises(ValueError, match=r"f: expected spatial sides up to 32768"):
        envelope(torch.zeros(1, 32769))


def test_spacing_forms(backend: Backend, envelope: Call) -> None:
    f = 5 * torch.randn(2, 3, 9, 10)
    expected = envelope(f, (2.0, 0.5))
    rows = torch.tensor([[2.0, 0.5], [2.0, 0.5]], device=backend.device)
    for spacing in ([2, 0.5], rows, rows.double(), rows.half()):
        assert torch.equal(envelope(f, spacing)[0], expected[0])
    assert torch.equal(envelope(f, 1.5)[0], envelope(f, (1.5, 1.5))[0])
    apart = envelope(f, torch.tensor([[2.0, 0.5], [0.25, 3.0]], device=backend.device))
    assert torch.equal(apart[0][0], expected[0][0])
    assert torch.equal(apart[0][1], envelope(f[1:], (0.25, 3.0))[0][0])


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads(threads: int) -> None:
    """The same bits from any number of threads, forward and backward, however the work is cut."""
    before = torch.get_num_threads()
    g = torch.Generator().manual_seed(5)
    try:
        for shape in ((70, 80, 90), (1, 1, 700, 800), (3, 1, 40, 50, 60), (1, 2, 4, 300, 301), (30, 2, 50, 50)):
            f = 100 * torch.randn(shape, generator=g)
            grad = torch.randn(shape, generator=g)
            results = []
            for n in (1, threads):
                torch.set_num_threads(n)
                values, index = dtk.envelope(f, return_index=True)
                dims = min(3, f.ndim - 2) if f.ndim > 3 else f.ndim
                sums = torch.ops.dtk.envelope_backward(grad, index, spatial_dims=dims)
                results.append((values, index, sums))
            for a, b in zip(*results, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


# ---- gradients


def leaf(*shape: int, seed: int = 0, scale: float = 10.0) -> torch.Tensor:
    f = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return f.requires_grad_()


GRADIENTS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "line": ((17,), None),
    "plane": ((5, 6), None),
    "volume": ((3, 4, 5), None),
    "batch": ((2, 2, 4, 5), None),
    "lines": ((2, 3, 9), 1),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradcheck(backend: Backend, case: str) -> None:
    """In f and spacing, first and second order, against differences in float64."""
    shape, dims = GRADIENTS[case]
    f = backend.put(leaf(*shape).detach()).requires_grad_()
    n = dims or (len(shape) if len(shape) < 4 else len(shape) - 2)
    rows = torch.rand(shape[0] if len(shape) > n else 1, n, dtype=torch.float64) + 0.7
    rows = backend.put(rows).requires_grad_()

    def call(x: torch.Tensor, s: Any = None) -> torch.Tensor:
        return dtk.envelope(x, s, spatial_dims=dims, backend=backend.name)

    def operator(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.ops.dtk.envelope(x, s, spatial_dims=dims, backend=backend.name)

    assert torch.autograd.gradcheck(call, (f,))
    assert torch.autograd.gradcheck(call, (f, rows))
    assert torch.autograd.gradcheck(operator, (f, rows))
    assert torch.autograd.gradgradcheck(call, (f, rows))


def test_gradient_goes_to_the_minimiser(backend: Backend) -> None:
    f = backend.put(30 * torch.randn(2, 3, 14, 15)).requires_grad_()
    values, index = dtk.envelope(f, return_index=True, backend=backend.name)
    assert not index.requires_grad
    grad = torch.randn(values.shape, device=backend.device)
    (got,) = torch.autograd.grad(values, f, grad)
    flat = torch.zeros(6, 14 * 15, dtype=torch.float64).scatter_add_(
        1, index.cpu().view(6, -1), grad.cpu().double().view(6, -1)
    )
    torch.testing.assert_close(got.cpu().double().view(6, -1), flat, rtol=1e-5, atol=1e-5)
    again = torch.autograd.grad(torch.ops.dtk.envelope(f, backend=backend.name), f, grad)[0]
    assert torch.equal(again, got)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradient_has_the_dtype_of_f(backend: Backend, dtype: torch.dtype) -> None:
    f = backend.put(torch.randn(9, 10)).to(dtype).requires_grad_()
    rows = torch.ones(1, 2, device=backend.device, requires_grad=True)
    dtk.envelope(f, rows, backend=backend.name).sum().backward()
    assert f.grad is not None
    assert f.grad.dtype == dtype
    assert f.grad.sum().item() == 90
    assert rows.grad is not None
    assert rows.grad.dtype == torch.float32


def test_gradient_where_there_is_no_minimiser(backend: Backend) -> None:
    f = torch.full((2, 1, 4, 5), INF)
    f[1] = 0
    f = backend.put(f).requires_grad_()
    rows = torch.ones(2, 2, device=backend.device, requires_grad=True)
    values = dtk.envelope(f, rows, backend=backend.name)
    values.backward(torch.ones_like(values))
    assert f.grad is not None
    assert rows.grad is not None
    assert torch.equal(f.grad.cpu(), torch.stack([torch.zeros(1, 4, 5), torch.ones(1, 4, 5)]))
    assert (rows.grad == 0).all()


def test_gradient_in_spacing_by_hand(backend: Backend) -> None:
    f = torch.full((1, 1, 3, 4), INF)
    f[0, 0, 0, 0] = 0
    rows = torch.tensor([[2.0, 0.5]], device=backend.device, requires_grad=True)
    dtk.envelope(backend.put(f), rows, backend=backend.name)[0, 0, 2, 3].backward()
    assert rows.grad is not None
    assert rows.grad.tolist() == [[2 * 2.0 * 4, 2 * 0.5 * 9]]


def test_training_lowers_a_loss(backend: Backend) -> None:
    """The gradient is of use: an envelope is fitted to a target by its f."""
    g = torch.Generator().manual_seed(6)
    target = dtk.envelope(backend.put(20 * torch.rand(1, 1, 16, 16, generator=g)), backend=backend.name)
    f = torch.full_like(target, 10.0).requires_grad_()
    optimiser = torch.optim.Adam([f], lr=0.5)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (dtk.envelope(f, backend=backend.name) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_forward_mode_is_refused() -> None:
    """torch would take the missing derivative for zero."""
    f = torch.randn(4, 5)
    with pytest.raises(NotImplementedError, match="f: expected a tensor without a tangent"):
        torch.func.jvp(dtk.envelope, (f,), (f,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.ones(1, 2), torch.ones(1, 2))
        with pytest.raises(NotImplementedError, match="spacing: expected a tensor without a tangent"):
            dtk.envelope(f, dual)
        assert torch.equal(dtk.envelope(f), dtk.envelope(f, 1.0))


# ---- torch


def test_opcheck(backend: Backend) -> None:
    f = backend.put(leaf(2, 2, 5, 6).detach()).requires_grad_()
    rows = torch.tensor([[1.0, 2.0], [0.5, 0.7]], device=backend.device, dtype=torch.float64, requires_grad=True)
    options = {"backend": backend.name}
    for op in (torch.ops.dtk.envelope, torch.ops.dtk.envelope_index):
        torch.library.opcheck(op.default, (f, [1.5, 0.5]), options)
        torch.library.opcheck(op.per_sample, (f, rows), options)
        torch.library.opcheck(op.default, (f.detach().float()[0, 0].T,), {**options, "spatial_dims": 1})
    index = dtk.envelope(f, return_index=True, backend=backend.name)[1]
    torch.library.opcheck(torch.ops.dtk.envelope_backward.default, (f, index), options)


def test_compile(backend: Backend) -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def step(f: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        values, index = dtk.envelope(f, rows, return_index=True, backend=backend.name)
        return (values * 2).sum() + dtk.envelope(values, backend=backend.name).mean() + index.float().mean()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=counter)
    for n in (6, 9, 13):
        f = backend.put(leaf(2, 1, n, n + 2).detach()).requires_grad_()
        rows = torch.full((2, 2), 1.5, dtype=torch.float64, device=backend.device, requires_grad=True)
        expected = torch.autograd.grad(step(f, rows), (f, rows))
        result = compiled(f, rows)
        torch.testing.assert_close(result, step(f, rows))
        for a, b in zip(torch.autograd.grad(result, (f, rows)), expected, strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


class Module(torch.nn.Module):
    def forward(self, f: torch.Tensor) -> torch.Tensor:
        return dtk.envelope(f, (1.0, 0.5)) + 1


def test_export() -> None:
    f = torch.randn(2, 1, 8, 9)
    n = torch.export.Dim("n", min=2, max=64)
    program = torch.export.export(Module(), (f,), dynamic_shapes=({2: n},))
    other = torch.randn(2, 1, 20, 9)
    assert torch.equal(program.module()(other), Module()(other))


@pytest.mark.parametrize("in_dim", [0, 1, 2])
def test_vmap(backend: Backend, in_dim: int) -> None:
    f = backend.put(leaf(4, 5, 6).detach())
    out = torch.vmap(lambda x: dtk.envelope(x, return_index=True, backend=backend.name), in_dims=in_dim)(f)
    moved = f.movedim(in_dim, 0)
    for k in range(len(moved)):
        alone = dtk.envelope(moved[k], return_index=True, backend=backend.name)
        assert torch.equal(out[0][k], alone[0])
        assert torch.equal(out[1][k], alone[1])


def test_vmap_over_spacing_and_gradients(backend: Backend) -> None:
    f = backend.put(leaf(2, 1, 5, 6).detach())
    rows = torch.rand(3, 2, 2, dtype=torch.float64, device=backend.device) + 0.5
    out = torch.vmap(lambda s: dtk.envelope(f, s, backend=backend.name))(rows)
    for k in range(3):
        assert torch.equal(out[k], dtk.envelope(f, rows[k], backend=backend.name))
    x = f.clone().requires_grad_()
    values = dtk.envelope(x, backend=backend.name)
    directions = torch.randn(3, *values.shape, dtype=torch.float64, device=backend.device)
    (batched,) = torch.autograd.grad(values, x, directions, retain_graph=True, is_grads_batched=True)
    for k in range(3):
        assert torch.equal(batched[k], torch.autograd.grad(values, x, directions[k], retain_graph=True)[0])


def test_autocast(backend: Backend) -> None:
    f = backend.put(torch.randn(1, 1, 8, 9)).requires_grad_()
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        values = dtk.envelope(f, backend=backend.name)
        half = dtk.envelope(f.bfloat16(), backend=backend.name)
    assert values.dtype == half.dtype == torch.float32
    assert torch.equal(values, dtk.envelope(f, backend=backend.name))


def test_fake_tensors() -> None:
    with FakeTensorMode():
        for dtype, result in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
            f = torch.empty(2, 1, 7, 8, dtype=dtype)
            values, index = dtk.envelope(f, return_index=True)
            assert (values.shape, values.dtype, index.dtype) == (f.shape, result, torch.int64)
        with pytest.raises(TypeError, match=r"f: expected"):
            torch.ops.dtk.envelope(torch.empty(3, 3, dtype=torch.int32))


def test_arguments_are_checked() -> None:
    f = torch.zeros(4, 5)
    with pytest.raises(TypeError, match=r"f: expected a torch\.Tensor"):
        dtk.envelope([1.0, 2.0])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"return_index: expected a bool, got 1"):
        dtk.envelope(f, return_index=1)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"spacing: expected 2 numbers"):
        dtk.envelope(f, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"spacing: expected positive finite"):
        dtk.envelope(f, 0.0)
    with pytest.raises(ValueError, match=r"spatial_dims: expected 1, 2 or 3"):
        dtk.envelope(f, spatial_dims=4)
    with pytest.raises(ValueError, match=r"backend: expected one of"):
        dtk.envelope(f, backend="nobody")


CHECK = """
import torch, dtkernels as dtk
from test_envelope import functions
for shape in ((131,), (40, 37), (18, 20, 35)):
    for name, f in functions(shape, 9).items():
        for dtype in (torch.float32, torch.float64):
            x = torch.from_numpy(f).to(dtype)
            a, b = (dtk.envelope(x, return_index=True, backend=n) for n in ("cpu", "reference"))
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]), (name, shape, dtype)
            assert torch.equal(dtk.envelope(x, backend="cpu"), a[0])
"""


@EVERY_INSTRUCTION_SET
def test_every_instruction_set(isa: str) -> None:
    """The same bits from each."""
    with_instruction_set(isa, CHECK)
