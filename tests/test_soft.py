"""The signed distance layer of soft masks: exact forward, the derivative of the moving surface backward."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

import dtkernels as dtk
from dtkernels.soft import ExactSignedDistance, exact_signed_distance


def ball(shape: tuple[int, ...], radius: float, width: float, spacing: Any = 1.0) -> torch.Tensor:
    """p = 1/2 at the radius around a point off the grid, falling linearly over ``width``: the surface is known."""
    s = torch.as_tensor(np.broadcast_to(spacing, len(shape)).copy())
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2 - 0.13) * s[k] for k, n in enumerate(shape)]
    r = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    return (0.5 + (radius - r) / width).clamp(0, 1), r


def crossings(p: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Every point of the level set 1/2 on an edge between neighbours: an independent picture of the surface."""
    points = []
    for axis in range(p.ndim):
        for place in itertools.product(*(range(n - (k == axis)) for k, n in enumerate(p.shape))):
            other = tuple(i + (k == axis) for k, i in enumerate(place))
            a, b = p[place], p[other]
            if (a > 0.5) != (b > 0.5):
                point = np.array(place, np.float64)
                point[axis] += (a - 0.5) / (a - b)
                points.append(point * spacing)
    return np.array(points)


@pytest.mark.parametrize("spacing", [None, 0.5, (1.0, 0.5), "rows"])
def test_forward_is_the_signed_distance(spacing: Any) -> None:
    p = torch.rand(2, 3, 12, 13, generator=torch.Generator().manual_seed(0))
    if spacing == "rows":
        spacing = torch.tensor([[1.0, 2.0], [0.3, 0.7]])
    expected = dtk.sdf(p, spacing, threshold=0.5)
    assert torch.equal(ExactSignedDistance()(p, spacing), expected)
    assert torch.equal(ExactSignedDistance()(p.requires_grad_(), spacing), expected)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((30,), 1.0), ((34, 31), (1.0, 1.5)), ((18, 19, 17), (1.0, 0.8, 1.2))]
)
def test_surface_between_voxels(shape: tuple[int, ...], spacing: Any) -> None:
    """The distance that is differentiated is nearer to that of the true surface than the one between voxels."""
    radius = 6.3
    p, r = ball(shape, radius, 4.0, spacing)
    given = None if spacing == 1.0 else spacing
    surface = exact_signed_distance(p, given, subvoxel=True)
    assert surface.dtype == torch.float64
    voxels = dtk.sdf(p, given, threshold=0.5)
    error, coarse = (surface - (r - radius)).abs(), (voxels - (r - radius)).abs()
    assert error[voxels.abs() > 3].max() < 0.75 * coarse.max()
    assert error.mean() < 0.4 * coarse.mean()
    assert ((surface < 0) == (p > 0.5)).all()


@pytest.mark.parametrize(
    ("shape", "spacing"), [((30,), 1.0), ((34, 31), (1.0, 1.5)), ((18, 19, 17), (1.0, 0.8, 1.2))]
)
def test_a_growing_ball(shape: tuple[int, ...], spacing: Any) -> None:
    """d phi / d radius is -1 everywhere: the gradient has the right sign and size at every voxel."""
    radius, width = 6.3, 4.0
    p, _ = ball(shape, radius, width, spacing)
    p = p.requires_grad_()
    velocity = torch.where((p > 0) & (p < 1), 1 / width, 0.0)
    for subvoxel in (False, True):
        phi = exact_signed_distance(p, None if spacing == 1.0 else spacing, subvoxel=subvoxel)
        # A product of the Jacobian with the velocity, by two products of its transpose.
        probe = torch.zeros_like(phi, requires_grad=True)
        (transposed,) = torch.autograd.grad(phi, p, probe, create_graph=True)
        (rate,) = torch.autograd.grad(transposed, probe, velocity)
        far = phi.abs() > 3
        assert rate.mean().item() == pytest.approx(-1, abs=0.1)
        assert rate.max() < -0.9
        assert rate[far].min() > -1.3


def test_against_differences_of_the_level_set() -> None:
    """A crossing of a soft disc seen from afar: differences of the distance to the crossings of all edges."""
    spacing = np.array([1.0, 1.5])
    p, _ = ball((31, 31), 8.4, 5.0, spacing)
    x = p.clone().requires_grad_()
    phi = exact_signed_distance(x, tuple(spacing), subvoxel=True)
    for far in ((15, 30), (15, 0), (0, 15), (30, 15)):
        (gradient,) = torch.autograd.grad(phi[far], x, retain_graph=True)
        total, differences = gradient.sum().item(), 0.0
        for place in torch.nonzero(gradient).tolist():
            values = []
            for step in (1e-6, -1e-6):
                moved = p.clone()
                moved[tuple(place)] += step
                points = crossings(moved.numpy(), spacing)
                values.append(np.sqrt(((points - np.array(far) * spacing) ** 2).sum(1)).min())
            difference = (values[0] - values[1]) / 2e-6
            assert gradient[tuple(place)].item() < 0
            differences += difference
        assert total == pytest.approx(differences, rel=0.15)


def test_along_an_axis_it_is_exact() -> None:
    """A plane across an axis: the derivative of s t, t = (p_a - 1/2) / (p_a - p_b)."""
    p = (
        torch.tensor([1.0, 1.0, 0.8, 0.3, 0.0, 0.0, 0.0], dtype=torch.float64)
        .expand(5, 7)
        .clone()
        .requires_grad_()
    )
    phi = exact_signed_distance(p, (1.0, 2.0))
    (gradient,) = torch.autograd.grad(phi[2, 6], p)
    expected = torch.zeros(5, 7, dtype=torch.float64)
    expected[2, 2] = -2 * 0.2 / 0.25
    expected[2, 3] = -2 * 0.3 / 0.25
    torch.testing.assert_close(gradient, expected)
    (gradient,) = torch.autograd.grad(exact_signed_distance(p, (1.0, 2.0))[2, 0], p)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("shape", [(13,), (6, 7), (4, 5, 4), (2, 2, 5, 6)])
def test_gradcheck(shape: tuple[int, ...]) -> None:
    """Values away from the threshold, so that differences keep every voxel's class."""
    g = torch.Generator().manual_seed(1)
    p = torch.rand(shape, generator=g, dtype=torch.float64)
    p = (
        0.5 + (p - 0.5).sign() * (0.1 + 0.4 * torch.rand(shape, generator=g, dtype=torch.float64))
    ).requires_grad_()
    dims = min(len(shape), 3) if len(shape) < 4 else 2
    spacing = (1.0, 0.7, 1.3)[:dims]
    assert torch.autograd.gradcheck(
        lambda x: exact_signed_distance(x, spacing, spatial_dims=dims, subvoxel=True), (p,)
    )


def test_straight_through_has_the_gradient_of_the_surface() -> None:
    p = torch.rand(2, 1, 9, 10, requires_grad=True)
    grad = torch.randn(2, 1, 9, 10)
    got = torch.autograd.grad(exact_signed_distance(p), p, grad)[0]
    torch.testing.assert_close(got, torch.autograd.grad(exact_signed_distance(p, subvoxel=True), p, grad)[0])


def test_never_positive_and_bounded() -> None:
    p = (0.5 + 1e-4 * torch.randn(1, 1, 20, 20)).requires_grad_()
    phi = exact_signed_distance(p, (0.5, 2.0), min_contrast=0.2)
    for place in ((0, 0), (7, 9), (19, 3)):
        (gradient,) = torch.autograd.grad(phi[0, 0][place], p, retain_graph=True)
        assert (gradient <= 1e-6).all()
        assert gradient.abs().max() <= 2.0 / 0.2 * 1.001


def test_missing_class_and_empty() -> None:
    p = torch.stack([torch.zeros(1, 5, 6), torch.ones(1, 5, 6), torch.rand(1, 5, 6)]).requires_grad_()
    phi = exact_signed_distance(p)
    assert (phi[0] == torch.inf).all()
    assert (phi[1] == -torch.inf).all()
    torch.where(phi.isinf(), 0.0, phi).sum().backward()
    assert p.grad is not None
    assert torch.isfinite(p.grad).all()
    assert (p.grad[:2] == 0).all()
    assert exact_signed_distance(torch.zeros(0, 1, 4, 4, requires_grad=True)).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype: torch.dtype) -> None:
    p = torch.rand(1, 1, 8, 9).to(dtype).requires_grad_()
    phi = exact_signed_distance(p)
    assert phi.dtype == torch.float32
    phi.sum().backward()
    assert p.grad is not None
    assert p.grad.dtype == dtype


def test_compile() -> None:
    torch.compiler.reset()
    layer = ExactSignedDistance()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (7, 10):
        p = torch.rand(2, 1, n, n + 1, requires_grad=True)
        a, b = layer(p, (1.0, 2.0)), compiled(p, (1.0, 2.0))
        assert torch.equal(a, b)
        torch.testing.assert_close(*(torch.autograd.grad(y.clamp(-3, 3).sum(), p)[0] for y in (a, b)))


def test_training_moves_a_surface() -> None:
    """From one disc to another by the signed distance alone: voxels far from both pull, too."""
    target = dtk.sdf(ball((32, 32), 9.0, 3.0)[0], threshold=0.5)
    logits = (4 * (ball((32, 32), 4.0, 6.0)[0] - 0.5)).float().requires_grad_()
    layer = ExactSignedDistance()
    optimiser = torch.optim.Adam([logits], lr=0.2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (layer(torch.sigmoid(logits)) - target).abs().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_arguments_are_checked() -> None:
    p = torch.rand(4, 4)
    with pytest.raises(TypeError, match="p: expected"):
        exact_signed_distance(p > 0.5)
    for bad in (0, 1.5, True, "1"):
        with pytest.raises(ValueError, match=r"min_contrast: expected a number in \(0, 1\]"):
            exact_signed_distance(p, min_contrast=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold: expected a finite number"):
        exact_signed_distance(p, threshold=float("inf"))
    assert "threshold=0.5" in repr(ExactSignedDistance())


def test_the_forward_value_is_exact_whatever_p_holds() -> None:
    p = torch.tensor([math.nan, 0.2, math.inf, 0.9, -math.inf, 0.1])
    want = dtk.sdf(p, threshold=0.5)
    assert torch.equal(exact_signed_distance(p), want)
    assert torch.equal(exact_signed_distance(p.requires_grad_()).detach(), want)


def test_forward_mode_is_refused_where_it_would_be_zero() -> None:
    p = torch.rand(4, 5)
    with pytest.raises(NotImplementedError, match="p: expected a tensor without a tangent"):
        torch.func.jvp(exact_signed_distance, (p,), (torch.ones_like(p),))
