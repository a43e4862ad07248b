"""Every loss but the Hausdorff and boundary losses, which test_losses.py has, against its formula in float64.

The maps of the formulas are made here, with SciPy, class by class.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import Backend, numpy
from numpy.typing import NDArray
from scipy import ndimage
from test_losses import (
    MEMORY_SLACK,
    THREE_D,
    TWO_D,
    Calls,
    close,
    ignoring,
    make_case,
    one_hot,
    peak_memory,
    spacings,
)

from dtkernels import losses
from dtkernels.losses import functional
from dtkernels.losses.segmentation import MapLoss, SegmentationLoss

Array = NDArray[Any]


@pytest.fixture
def device(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DTK_BACKEND", backend.name)
    return backend.device


# ---- maps, image by image, in float64 -----------------------------------------------------------------------


def sides(mask: Array, spacing: Any) -> tuple[Array, Array]:
    """d_in and d_out, 0 where there is no boundary."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape), np.zeros(mask.shape)
    return (
        ndimage.distance_transform_edt(mask, sampling=spacing),
        ndimage.distance_transform_edt(~mask, sampling=spacing),
    )


def ratio(a: Array, peak: float) -> Array:
    return a / peak if peak > 0 else np.zeros_like(a)


def inner_boundary(mask: Array) -> Array:
    """Foreground voxels with a face neighbour in the background; the image edge is open."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def edt_diff(mask: Array, spacing: Any) -> Array:
    d_in, d_out = sides(mask, spacing)
    return d_out - d_in


def xue_sdm(mask: Array, spacing: Any) -> Array:
    d_in, d_out = sides(mask, spacing)
    return np.where(inner_boundary(mask), 0, ratio(d_out, d_out.max()) - ratio(d_in, d_in.max()))


def rrw(mask: Array, spacing: Any) -> Array:
    d_in, _ = sides(mask, spacing)
    return np.where(d_in > 0, -ratio(d_in, d_in.max()), 1)


def ac(mask: Array, spacing: Any) -> Array:
    return 1.0 - mask


def dpce(mask: Array, spacing: Any) -> Array:
    if mask.all() or not mask.any():
        return np.ones(mask.shape)
    result = np.zeros(mask.shape)
    for side, d in zip((mask, ~mask), sides(mask, spacing), strict=True):
        peak = d.max()
        w = 1 + (peak - d) / (peak - 1) if peak != 1 else np.full(mask.shape, 2.0)
        result[side] = w[side]
    return result


def unet_w(mask: Array, spacing: Any) -> Array:
    if mask.all() or not mask.any():
        return np.ones(mask.shape)
    d = np.maximum(*sides(mask, spacing))
    return 1 + 10 * np.exp(-(d**2) / 50)


def li_nidm(mask: Array, spacing: Any) -> Array:
    d_in, _ = sides(mask, spacing)
    result = np.zeros(mask.shape)
    labels, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    for n in range(1, count + 1):
        peak = d_in[labels == n].max()
        if peak > 0:
            result[labels == n] = (peak + 1 - d_in[labels == n]) / peak
    return result


MAPS = {f.__name__: f for f in (edt_diff, xue_sdm, rrw, ac, dpce, unet_w, li_nidm)}


# ---- formulas: what one class of one sample costs, of p, g and its map z at the voxels that count -----------


def product(q: Array, g: Array, y: Array) -> float:
    below = (y * q).sum() + (q * q).sum() + (y * y).sum()
    return -(y * q).sum() / below if below else 0.0


def pointwise(q: Array, g: Array, y: Array) -> float:
    below = y * q + q * q + y * y
    return -np.divide(y * q, below, out=np.zeros_like(q), where=below > 0).mean()


def dice(p: Array, g: Array) -> float:
    return 1 - (2 * (p * g).sum() + 1e-5) / (p.sum() + g.sum() + 1e-5)


def shape_aware(q: Array, g: Array, y: Array) -> float:
    with np.errstate(over="ignore"):
        p = 1 / (1 + np.exp(1500 * q))
    return dice(p, g) + 10 * (product(q, g, y) + np.abs(q - y).mean())


def pointwise_shape_aware(q: Array, g: Array, y: Array) -> float:
    return shape_aware(q, g, y) + 10 * (pointwise(q, g, y) - product(q, g, y))


def printed(p: Array, g: Array, z: Array) -> float:
    return 1 - (2 * (p * z).sum() + 1e-5) / (p.sum() + z.sum() + 1e-5)


def weighted(p: Array, g: Array, z: Array) -> float:
    w = np.where(g > 0, z, 1)
    return 1 - (2 * (w * p * g).sum() + 1e-5) / ((w * p).sum() + (w * g).sum() + 1e-5)


def surface(p: Array, g: Array, z: Array) -> float:
    total = (z**2).sum()
    return 1 - (z**2 * (1 - g - p) ** 2).sum() / total if total else 0.0


def categorical(p: Array, g: Array, z: Array) -> float:
    return (z * g * -np.log(p)).mean()


def binary(p: Array, g: Array, z: Array) -> float:
    return (z * -np.where(g > 0, np.log(p), np.log1p(-p))).mean()


def smooth_l1(q: Array, g: Array, y: Array) -> float:
    e = np.abs(q - y)
    return np.where(e < 0.3, e**2 / 0.6, e - 0.15).mean()


class Row(NamedTuple):
    """A loss, its options, the activation it is tested with, its map and its formula."""

    kind: type[MapLoss]
    options: dict[str, Any]
    activation: str
    map: str
    cost: Callable[[Array, Array, Array], float]

    def make(self, **options: Any) -> MapLoss:
        act = {"softmax": {"softmax": True}, "sigmoid": {"sigmoid": True}, "tanh": {"other_act": torch.tanh}}
        return self.kind(**{"include_background": True, **act[self.activation], **self.options, **options})

    def activate(self, x: torch.Tensor) -> torch.Tensor:
        return {"softmax": lambda: x.softmax(1), "sigmoid": x.sigmoid, "tanh": x.tanh}[self.activation]()


ROWS = {
    "region-wise": Row(
        losses.RegionWiseLoss, {}, "softmax", "rrw", lambda p, g, z: (p * z).mean()
    ),
    "rw-boundary": Row(
        losses.RegionWiseLoss, {"convention": "edt_diff"}, "sigmoid", "edt_diff", lambda p, g, z: (p * z).mean()
    ),
    "active contour": Row(
        losses.RegionWiseLoss, {"convention": "ac"}, "softmax", "ac", lambda p, g, z: (p * z).mean()
    ),
    "product": Row(losses.SDFProductLoss, {}, "tanh", "xue_sdm", product),
    "product of raw maps": Row(losses.SDFProductLoss, {"convention": "edt_diff"}, "tanh", "edt_diff", product),
    "pointwise product": Row(losses.SDFProductLoss, {"form": "pointwise"}, "tanh", "xue_sdm", pointwise),
    "shape-aware": Row(losses.ShapeAwareLoss, {}, "tanh", "xue_sdm", shape_aware),
    "pointwise shape-aware": Row(
        losses.ShapeAwareLoss, {"form": "pointwise"}, "tanh", "xue_sdm", pointwise_shape_aware
    ),
    "dpce": Row(losses.DistancePenalizedCELoss, {}, "softmax", "dpce", categorical),
    "binary dpce": Row(losses.DistancePenalizedCELoss, {}, "sigmoid", "dpce", binary),
    "u-net": Row(losses.BorderWeightedCELoss, {}, "softmax", "unet_w", categorical),
    "binary u-net": Row(losses.BorderWeightedCELoss, {}, "sigmoid", "unet_w", binary),
    "map dice": Row(losses.MapDiceLoss, {}, "softmax", "li_nidm", weighted),
    "map dice as printed": Row(losses.MapDiceLoss, {"form": "printed"}, "softmax", "li_nidm", printed),
    "surface": Row(losses.GeneralizedSurfaceLoss, {}, "softmax", "edt_diff", surface),
    "l1": Row(
        losses.SignedDistanceRegressionLoss, {}, "tanh", "xue_sdm", lambda q, g, y: np.abs(q - y).mean()
    ),
    "l2": Row(
        losses.SignedDistanceRegressionLoss, {"form": "l2", "convention": "edt_diff"}, "tanh", "edt_diff",
        lambda q, g, y: ((q - y) ** 2).mean(),
    ),
    "smooth l1": Row(
        losses.SignedDistanceRegressionLoss, {"form": "smooth_l1", "beta": 0.3}, "tanh", "xue_sdm", smooth_l1
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", ROWS)


def expected(row: Row, logits: torch.Tensor, g: torch.Tensor, rows: Any, ignored: Any = None) -> Array:
    """(B, C) costs of logits and channels g at the voxels that are not ignored."""
    p, g = row.activate(logits.double()).numpy(), g.numpy().astype(np.float64)
    result = np.zeros(p.shape[:2])
    for b, c in np.ndindex(result.shape):
        seen = np.ones(p.shape[2:], bool) if ignored is None else ~ignored[b, 0].numpy()
        mask = (g[b, c] > 0.5) & seen
        if seen.any():
            z = MAPS[row.map](mask, rows[b])
            result[b, c] = row.cost(p[b, c][seen], mask[seen].astype(float), z[seen])
    return result


def reduced(row: Row, costs: Array) -> float:
    """Classes that exclude each other are parts of one cross-entropy."""
    return costs.sum(1).mean() if row.cost is categorical else costs.mean()


@EVERY
@pytest.mark.parametrize("kind", ["unit", "axes", "rows"])
@pytest.mark.parametrize("spatial", [TWO_D, THREE_D], ids=["2d", "3d"])
def test_formula(device: str, name: str, spatial: tuple[int, ...], kind: str) -> None:
    row = ROWS[name]
    logits, labels = make_case(spatial)
    spacing, rows = spacings(kind, 2, len(spatial))
    if isinstance(spacing, torch.Tensor):
        spacing = spacing.to(device)
    costs = expected(row, logits, one_hot(labels, 3), rows)
    x, labels = logits.to(device), labels.to(device)
    for named, background in itertools.product((True, False), (True, False)):
        target = labels if named else one_hot(labels, 3)
        first = 0 if background else 1
        options = {"include_background": background, "to_onehot_y": named}
        close(row.make(**options, reduction="none")(x, target, spacing), costs[:, first:], 2e-5)
        close(row.make(**options)(x, target, spacing), reduced(row, costs[:, first:]), 2e-5)
        total = row.make(**options, reduction="sum")(x, target, spacing)
        close(total, costs[:, first:].sum(), 2e-5)


@EVERY
def test_batch_pools_the_voxels_of_all_samples(name: str) -> None:
    """Two samples next to each other are one image to every sum; the maps are those of the samples."""
    row = ROWS[name]
    logits, labels = make_case(TWO_D)
    g = one_hot(labels, 3)
    p = row.activate(logits.double()).numpy()
    maps = np.stack([[MAPS[row.map](m, (1, 1)) for m in sample] for sample in g.numpy()])
    costs = [row.cost(*(a[:, c].astype(np.float64) for a in (p, g.numpy(), maps))) for c in range(3)]
    value = row.make(batch=True, reduction="none")(logits, g)
    assert value.shape == (3,)
    close(value, np.array(costs), 2e-5)


@EVERY
@pytest.mark.parametrize("kind", ["label inside", "label outside", "one channel more", "no channel"])
def test_ignored_voxels_neither_cost_nor_count(name: str, kind: str) -> None:
    row = ROWS[name]
    index, logits, target, channels, ignored, named = ignoring(kind)
    for background in (True, False):
        first = 0 if background else 1
        loss = row.make(include_background=background, to_onehot_y=named, reduction="none", ignore_index=index)
        x = logits.clone().requires_grad_()
        value = loss(x, target)
        costs = expected(row, logits, channels, [(1.0, 1.0)] * 2, ignored)
        close(value, costs[:, first:], 2e-5)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert gradient[ignored.expand_as(logits)].eq(0).all()
        assert gradient.ne(0).any()


@EVERY
def test_maps_of_the_caller_are_the_same_maps(name: str) -> None:
    row = ROWS[name]
    logits, labels = make_case()
    g = one_hot(labels, 3)
    maps = np.stack([[MAPS[row.map](m, (1, 1, 1)) for m in sample] for sample in g.numpy()])
    given = torch.from_numpy(maps).float()
    kept = given.clone()
    for background, index in itertools.product((True, False), (None, 1)):
        loss = row.make(include_background=background, to_onehot_y=True, ignore_index=index)
        mask = given if index is None else None
        if mask is None:  # ignored voxels are outside of every class
            seen = g & ~(labels == 1)
            fresh = np.stack([[MAPS[row.map](m, (1, 1, 1)) for m in sample] for sample in seen.numpy()])
            mask = torch.from_numpy(fresh).float()
        wanted = loss(logits, labels)
        for maps_of in (mask, mask.double(), mask[:, 0 if background else 1 :]):
            torch.testing.assert_close(loss(logits, labels, maps=maps_of), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(given, kept)


def test_hausdorff_takes_the_distances_of_the_target() -> None:
    logits, labels = make_case()
    g = one_hot(labels, 3)
    distances = torch.stack([torch.stack([torch.from_numpy(sum(sides(m, None))) for m in s]) for s in g.numpy()])
    for alpha in (1, 1.5, 2):
        loss = losses.HausdorffDTLoss(alpha, softmax=True, to_onehot_y=True)
        torch.testing.assert_close(loss(logits, labels, maps=distances.float()), loss(logits, labels))


def test_bad_maps() -> None:
    p = torch.rand(1, 3, 4, 4)
    g = (p > 0.5).float()
    loss = losses.BoundaryLoss(include_background=False)
    with pytest.raises(ValueError, match=r"maps: expected a map for each channel.*or for each of the 2 that"):
        loss(p, g, maps=p[:, :1])
    with pytest.raises(ValueError, match="maps: expected a tensor that needs no gradient"):
        loss(p, g, maps=p.clone().requires_grad_())
    with pytest.raises(TypeError, match=r"maps: expected a torch\.Tensor, got numpy"):
        loss(p, g, maps=p.numpy())
    with pytest.raises(ValueError, match="maps: expected a tensor on cpu like the input, got meta"):
        loss(p, g, maps=torch.empty(1, 3, 4, 4, device="meta"))


# ---- the weighted sum over classes, and the length of contours ----------------------------------------------


def surface_sums(p: Array, g: Array, maps: Array) -> tuple[Array, Array]:
    """(B, C): numerator and denominator of the generalized surface loss."""
    axes = tuple(range(2, p.ndim))
    return (maps**2 * (1 - g - p) ** 2).sum(axes), (maps**2).sum(axes)


@pytest.mark.parametrize("spatial", [TWO_D, THREE_D], ids=["2d", "3d"])
@pytest.mark.parametrize("batch", [False, True])
def test_surface_loss_weighs_the_sums_of_the_classes(device: str, spatial: tuple[int, ...], batch: bool) -> None:
    """As in the code that was published with the paper, in which a class of n voxels weighs 1 / (n^2 + 1)."""
    logits, labels = make_case(spatial)
    labels[0][labels[0] == 2] = 0  # a class that is absent weighs most, and has no distances
    g = one_hot(labels, 3).numpy().astype(float)
    p = logits.double().softmax(1).numpy()
    maps = np.stack([[edt_diff(m > 0, (1.0,) * len(spatial)) for m in sample] for sample in g])
    wrong, total = surface_sums(p, g, maps)
    n = g.sum(tuple(range(2, g.ndim)))
    given = np.array([0.2, 3.0, 0.7])
    x, target = logits.to(device), labels.to(device)
    for background, (option, weights) in itertools.product(
        (True, False), (("inverse_square", None), (given, given), (torch.from_numpy(given).to(device), given))
    ):
        first = 0 if background else 1
        counted = [a[:, first:].sum(0, keepdims=True) if batch else a[:, first:] for a in (wrong, total, n)]
        w = 1 / (counted[2] ** 2 + 1) if weights is None else weights[first:]
        ratio_of_sums = (w * counted[0]).sum(1) / (w * counted[1]).sum(1)
        if weights is not None:
            option = option[first:]
        loss = losses.GeneralizedSurfaceLoss(
            background, True, softmax=True, batch=batch, class_weights=option, reduction="none"
        ).to(device)
        value = loss(x, target)
        assert value.shape == (() if batch else (2,))
        close(value, (1 - ratio_of_sums)[0] if batch else 1 - ratio_of_sums, 1e-5)


def test_surface_loss_with_weights_is_finite_differentiable_and_checked() -> None:
    logits, labels = make_case((3, 4), batch=2, seed=1)
    x = logits.double().requires_grad_()
    for option in ("inverse_square", (1.0, 2.0, 0.5)):
        loss = losses.GeneralizedSurfaceLoss(softmax=True, to_onehot_y=True, class_weights=option, ignore_index=1)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, labels), (x,))
        assert torch.autograd.gradgradcheck(lambda x, loss=loss: loss(x, labels), (x,))
        assert loss(logits, torch.zeros_like(labels)) == 0
        assert torch.equal(copy.deepcopy(loss)(logits, labels), loss(logits, labels))
        assert "class_weights" not in loss.state_dict()
    with pytest.raises(
        ValueError, match=r"class_weights: expected 3 numbers, one per scored class, on cpu, got 2"
    ):
        losses.GeneralizedSurfaceLoss(softmax=True, to_onehot_y=True, class_weights=(1, 2))(logits, labels)
    with pytest.raises(
        ValueError, match=r"class_weights: expected one number per scored class, got shape \(1, 2\)"
    ):
        losses.GeneralizedSurfaceLoss(class_weights=[[1.0, 2.0]])
    with pytest.raises(ValueError, match="class_weights: expected one of inverse_square, got 'inverse'"):
        losses.GeneralizedSurfaceLoss(class_weights="inverse")


def contour_length(p: Array, spacing: Any, seen: Array) -> Array:
    """Per voxel, in float64: the root of the squares of the differences to the next voxel of each axis."""
    squares = np.zeros(p.shape)
    for axis, s in enumerate(spacing):
        low = tuple(slice(0, -1) if a == axis else slice(None) for a in range(p.ndim))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(p.ndim))
        squares[low] += np.where(seen[low] & seen[high], (p[high] - p[low]) / s, 0) ** 2
    return np.sqrt(squares + 1e-8) - 1e-4


@pytest.mark.parametrize("kind", ["unit", "axes", "rows"])
@pytest.mark.parametrize("spatial", [TWO_D, THREE_D], ids=["2d", "3d"])
def test_length_of_contours(device: str, spatial: tuple[int, ...], kind: str) -> None:
    logits, labels = make_case(spatial)
    spacing, rows = spacings(kind, 2, len(spatial))
    if isinstance(spacing, torch.Tensor):
        spacing = spacing.to(device)
    p = logits.double().softmax(1).numpy()
    for index, background in itertools.product((None, 1), (True, False)):
        seen = np.ones(labels.shape, bool) if index is None else (labels != index).numpy()
        wanted = np.zeros((2, 3))
        for b, c in np.ndindex(wanted.shape):
            z = ac((labels[b, 0].numpy() == c) & seen[b, 0], rows[b])
            cost = p[b, c] * z + 0.3 * contour_length(p[b, c], rows[b], seen[b, 0])
            wanted[b, c] = cost[seen[b, 0]].mean()
        loss = losses.RegionWiseLoss(
            background, True, softmax=True, convention="ac", length=0.3, ignore_index=index, reduction="none"
        )
        value = loss(logits.to(device), labels.to(device), spacing)
        close(value, wanted[:, 0 if background else 1 :], 2e-5)


def test_length_has_a_gradient_and_nothing_else_does_where_all_is_flat() -> None:
    logits, labels = make_case((3, 4, 3), batch=2, seed=1)
    x = logits.double().requires_grad_()
    rows = torch.tensor([[1.0, 2.0, 0.5], [0.4, 1.0, 1.0]])
    for options in ({}, {"ignore_index": 1, "reduction": "none", "batch": True}):
        loss = losses.RegionWiseLoss(softmax=True, to_onehot_y=True, convention="ac", length=2.0, **options)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, labels, rows), (x,))
        assert torch.autograd.gradgradcheck(lambda x, loss=loss: loss(x, labels, rows), (x,))
        if options:
            (gradient,) = torch.autograd.grad(loss(x, labels, rows).sum(), x)
            assert gradient[(labels == 1).expand_as(x)].eq(0).all()
    flat = torch.full((1, 1, 6, 7), 0.3, requires_grad=True)
    loss = losses.RegionWiseLoss(length=1.0)
    value = loss(flat, torch.zeros(1, 1, 6, 7), maps=torch.zeros(1, 1, 6, 7))
    value.backward()
    assert value.abs() < 1e-9
    assert flat.grad is not None
    assert flat.grad.eq(0).all()
    step = (torch.arange(7) > 2).float().expand(1, 1, 6, 7)  # a straight contour of six units
    assert 42 * loss(step, step, maps=torch.zeros_like(step)).item() == pytest.approx(6, rel=1e-3)
    with pytest.raises(ValueError, match="length: expected a finite number that is not negative, got -1"):
        losses.RegionWiseLoss(length=-1)
    with pytest.raises(ValueError, match=r"spacing: expected shape \(1, 2\), got \(1, 3\)"):
        loss(step, step, torch.ones(1, 3), maps=torch.zeros_like(step))


# ---- classes without a boundary, dtypes ---------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("label", [0, 1, 2])
def test_empty_and_full_classes_are_finite(name: str, label: int) -> None:
    row = ROWS[name]
    x = (torch.tensor([-9.0, 0.0, 9.0]).view(3, 1, 1, 1) * torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1)).expand(
        3, 3, 6, 5
    )
    labels = torch.full((3, 1, 6, 5), label)
    values, gradients = [], []
    for named in (True, False):
        leaf = x.clone().requires_grad_()
        value = row.make(to_onehot_y=named, reduction="none")(leaf, labels if named else one_hot(labels, 3))
        values.append(value)
        gradients.append(torch.autograd.grad(value.sum(), leaf)[0])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    assert values[0].isfinite().all()
    assert gradients[0].isfinite().all()


DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float64,
]


@EVERY
def test_target_dtype_makes_no_difference(name: str) -> None:
    """Integer one-hot targets cut the distances of published code off."""
    row = ROWS[name]
    logits, labels = make_case(TWO_D, classes=2)
    hot = one_hot(labels, 2)
    wanted = row.make()(logits, hot.float())
    for dtype in DTYPES:
        assert torch.equal(row.make()(logits, hot.to(dtype)), wanted)
        torch.testing.assert_close(row.make(to_onehot_y=True)(logits, labels.to(dtype)), wanted)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_inputs_and_autocast_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    """Squared distances across 600 pixels are beyond float16."""
    row = ROWS[name]
    x = torch.linspace(-2, 2, 2400).view(1, 2, 2, 600).to(dtype)
    g = torch.zeros(1, 2, 2, 600)
    g[:, 0, :, :40] = 1
    g[:, 1, :, 40:] = 1
    leaf = x.clone().requires_grad_()
    wanted = row.make()(x.float(), g)
    assert wanted.isfinite()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = row.make()(leaf, g.to(dtype))
    assert value.dtype == torch.float32
    assert torch.equal(value, wanted)
    assert torch.autograd.grad(value, leaf)[0].dtype == dtype
    assert row.make()(x.double(), g).dtype == torch.float64


def test_cross_entropy_of_probabilities() -> None:
    """Without an activation, and for the single channel of a binary problem."""
    logits, labels = make_case(TWO_D)
    plain, soft = losses.DistancePenalizedCELoss(), losses.DistancePenalizedCELoss(softmax=True)
    g = one_hot(labels, 3)
    torch.testing.assert_close(plain(logits.softmax(1), g), soft(logits, g), rtol=1e-5, atol=1e-6)
    assert plain(g.float(), g) == 0
    assert plain(1 - g.float(), g).isfinite()
    one, mask = logits[:, :1], g[:, :1]
    torch.testing.assert_close(
        plain(one.sigmoid(), mask), losses.DistancePenalizedCELoss(sigmoid=True)(one, mask), rtol=1e-5, atol=1e-6
    )
    assert plain(mask.float(), mask) < 1e-5
    assert plain(1 - mask.float(), mask).isfinite()


# ---- gradients ----------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("named", [True, False], ids=["labels", "channels"])
def test_gradients(name: str, named: bool) -> None:
    """First and second derivatives against differences; k = 1500 is too steep for them."""
    row = ROWS[name]
    logits, labels = make_case((3, 4), batch=2, seed=1)
    x = logits.double().requires_grad_()
    target = labels if named else one_hot(labels, 3)
    steep = {"k": 3.0} if row.kind is losses.ShapeAwareLoss else {}
    for options in ({}, {"ignore_index": 1, "reduction": "none", "batch": True}):
        loss = row.make(to_onehot_y=named, **steep, **options)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, target, (2.0, 0.5)), (x,))
    loss = row.make(to_onehot_y=named, **steep)
    if row.options.get("form") == "pointwise":
        (slope,) = torch.autograd.grad(loss(x, target), x, create_graph=True)
        with pytest.raises(RuntimeError, match='form="pointwise": expected no second derivative'):
            torch.autograd.grad(slope.sum(), x)
    else:
        assert torch.autograd.gradgradcheck(lambda x: loss(x, target), (x,))


def test_region_wise_gradient_is_the_closed_form() -> None:
    """Worked by hand; the loss has the 1/K, the gradient is given without."""
    for p, z, value, gradient in (
        ((0.25,) * 4, (0, 0, 0, -0.6), -0.0375, (0.0375, 0.0375, 0.0375, -0.1125)),
        ((0.25,) * 4, (1, 1, 1, -0.6), 0.15, (0.1, 0.1, 0.1, -0.3)),
        ((0.2, 0.5, 0.3), (12, 4, -3), None, (1.7, 0.25, -1.95)),
        ((0.2, 0.5, 0.3), (10, 10, -3), None, (0.78, 1.95, -2.73)),
    ):
        k = len(p)
        x = torch.tensor(p, dtype=torch.float64).log().view(1, k, 1, 1).requires_grad_()
        maps = torch.tensor(z, dtype=torch.float64).view(1, k, 1, 1)
        loss = losses.RegionWiseLoss(softmax=True)(x, torch.zeros(1, k, 1, 1), maps=maps)
        loss.backward()
        assert value is None or loss.item() == pytest.approx(value)
        assert x.grad is not None
        assert (k * x.grad).flatten().tolist() == pytest.approx(gradient)
        form = [pk * sum(pl * (zk - zl) for pl, zl in zip(p, z, strict=True)) for pk, zk in zip(p, z, strict=True)]
        assert form == pytest.approx(gradient)


# ---- what the papers' formulas and codes get wrong ----------------------------------------------------------


def test_penalised_cross_entropy_is_penalised() -> None:
    """The public code computes the weights and returns the plain mean."""
    logits, labels = make_case(TWO_D)
    plain = torch.nn.functional.cross_entropy(logits, labels[:, 0])
    ones = torch.ones_like(logits)
    loss = losses.DistancePenalizedCELoss(softmax=True, to_onehot_y=True)
    torch.testing.assert_close(loss(logits, labels, maps=ones), plain)
    assert plain * 1.2 < loss(logits, labels) < plain * 2
    # An error on the boundary costs up to twice as much as one in the core.
    labels = torch.zeros(1, 1, 1, 21, dtype=torch.long)
    labels[..., 8:] = 1
    costs = []
    for at in (8, 20):
        x = 4 * (one_hot(labels, 2).double() - 0.5)
        x[..., at].neg_()
        costs.append(loss(x, labels) - loss(4 * (one_hot(labels, 2).double() - 0.5), labels))
    assert costs[0] == pytest.approx(2 * costs[1])


def test_the_heaviside_function_is_one_inside() -> None:
    """As eq. 3 of the paper is printed, sign and k are wrong."""
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., 3:9, 3:9] = 1
    y = torch.from_numpy(xue_sdm(numpy(mask)[0, 0] > 0, None))[None, None]
    loss = losses.ShapeAwareLoss(weight=0.0)
    p = loss.heaviside(y)
    assert torch.equal(p >= 0.5, mask > 0)
    boundary = torch.from_numpy(inner_boundary(numpy(mask)[0, 0] > 0))
    assert p[0, 0][boundary].eq(0.5).all()
    right, wrong = loss(y, mask, maps=y), loss(-y, mask, maps=y)
    assert right < 0.4 < wrong  # the boundary's half voxels keep Dice from 0
    as_printed = torch.sigmoid(y)  # 1 / (1 + exp(-z)), negative inside
    assert as_printed[0, 0, 5, 5] < 0.5 < as_printed[0, 0, 0, 0]


def ball(radius: int) -> Array:
    grid = np.indices((2 * radius + 3,) * 3) - radius - 1
    return (grid**2).sum(0) <= radius**2


def test_map_dice_is_best_hollow_as_printed_and_whole_when_weighted() -> None:
    """The formula as printed scores a hollow ball above the ball itself."""
    mask = ball(25)
    phi = torch.from_numpy(li_nidm(mask, None)).float()[None, None]
    g = torch.from_numpy(mask).float()[None, None]
    printed_loss = losses.MapDiceLoss(True, form="printed", smooth=0)
    weighted_loss = losses.MapDiceLoss(True, smooth=0)
    scores = []
    for level in np.unique(phi[phi > 0]):
        hollow = (phi >= level.item()).float()
        scores.append(1 - printed_loss(hollow, g, maps=phi).item())
        assert weighted_loss(hollow, g, maps=phi) >= 0
    assert 1 - printed_loss(g, g, maps=phi).item() == pytest.approx(0.8771, abs=1e-4)
    assert max(scores) == pytest.approx(0.8846, abs=1e-4)
    assert weighted_loss(g, g, maps=phi).item() == pytest.approx(0, abs=1e-6)
    flipped = g.clone()
    flipped[0, 0, 0, 0, 0] = 1  # a false positive where the map is 0 is not free
    assert weighted_loss(flipped, g, maps=phi) > 1e-6


def test_raw_maps_push_true_logits_down_rectified_ones_never() -> None:
    """RW-Boundary with four classes and random probabilities."""
    torch.manual_seed(0)
    labels = torch.from_numpy(make_case((64, 64), batch=1, classes=4, seed=2)[1].numpy())
    share = {}
    for convention in ("edt_diff", "rrw"):
        x = torch.randn(1, 4, 64, 64).mul(2).requires_grad_()
        losses.RegionWiseLoss(softmax=True, to_onehot_y=True, convention=convention)(x, labels).backward()
        assert x.grad is not None
        g = one_hot(labels, 4)
        wrong = (x.grad > 0) & g | (x.grad < 0) & ~g
        share[convention] = wrong.any(1).float().mean().item()
    assert share["rrw"] == 0
    assert 0.25 < share["edt_diff"] < 0.75


@pytest.mark.parametrize(
    "options", [{"softmax": True, "to_onehot_y": True}, {"sigmoid": True, "to_onehot_y": True}]
)
def test_a_class_that_fills_a_patch_is_raised_by_rectified_maps(options: dict[str, bool]) -> None:
    """With the convention's own value of 1 softmax would have no gradient, and a sigmoid the wrong one."""
    labels = torch.zeros(2, 1, 5, 6, dtype=torch.long)
    labels[0, 0, 1:3, 2:4] = 1
    x = torch.randn(2, 3, 5, 6, requires_grad=True)
    losses.RegionWiseLoss(**options)(x, labels).backward()
    assert x.grad is not None
    assert (x.grad[1, 0] < 0).all()
    assert (x.grad[1, 1:] > 0).all()
    soft = losses.RegionWiseLoss(sigmoid=True)
    y = torch.zeros(1, 1, 4, 4, requires_grad=True)
    for target, slope in ((torch.ones(1, 1, 4, 4), -1), (torch.zeros(1, 1, 4, 4), 1)):
        (gradient,) = torch.autograd.grad(soft(y, target), y)
        assert (gradient.sign() == slope).all()


def test_product_is_least_at_equality() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 2:7, 3:8] = 1
    y = torch.from_numpy(edt_diff(numpy(mask)[0, 0] > 0, None))[None, None]
    for form in ("ratio", "pointwise"):
        loss = losses.SDFProductLoss(form=form)
        assert loss(y, mask, maps=y).item() == pytest.approx(-1 / 3)
        assert loss(-y, mask, maps=y).item() == pytest.approx(1)
        assert loss(torch.zeros_like(y), mask, maps=y).item() == 0
        for _ in range(20):
            assert -1 / 3 < loss(y + torch.randn_like(y), mask, maps=y).item() < 1


@EVERY
def test_descent_reaches_the_target(name: str) -> None:
    row = ROWS[name]
    if row.options.get("form") == "printed":
        pytest.skip("its optimum is hollow")
    _, labels = make_case((12, 12), batch=1)
    x = torch.zeros(1, 3, 12, 12, requires_grad=True)
    loss = row.make(to_onehot_y=True, **({"k": 10.0} if row.kind is losses.ShapeAwareLoss else {}))
    optimiser = torch.optim.Adam([x], lr=0.2)
    with torch.no_grad():
        x += 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for _ in range(40):
        optimiser.zero_grad()
        loss(x, labels).backward()
        optimiser.step()
    found = (x if row.activation != "tanh" else -x).argmax(1, keepdim=True)
    assert (found == labels).float().mean() > 0.9


# ---- how it runs --------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("named", [True, False], ids=["labels", "channels"])
def test_no_synchronisation_and_no_loop(device: str, name: str, named: bool) -> None:
    row = ROWS[name]
    if row.map == "li_nidm" and device != "cpu":
        pytest.skip("components are labelled on CPUs only")
    calls = []
    for batch, classes in ((1, 2), (3, 5)):
        logits, labels = make_case(TWO_D, batch, classes=classes)
        x, labels = logits.to(device).requires_grad_(), labels.to(device)
        target = labels if named else one_hot(labels, classes)
        loss = row.make(to_onehot_y=named, ignore_index=1)
        loss(x, target).backward()
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            with Calls() as watched:
                loss(x, target).backward()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        calls.append([name for name, _ in watched.maps])
    assert calls[0] == calls[1]


COMPILED = [
    "region-wise", "product", "pointwise product", "shape-aware", "dpce", "binary dpce", "map dice", "surface",
    "smooth l1",
]  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
def test_compiles_in_one_graph(name: str) -> None:
    row = ROWS[name]
    torch._dynamo.reset()
    loss = row.make(to_onehot_y=True, ignore_index=1)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits, labels = make_case((5, 6))
    x = logits.requires_grad_()
    rows = torch.full((2, 2), 0.5)
    wanted, actual = loss(x, labels, rows), compiled(x, labels, rows)
    torch.testing.assert_close(actual, wanted)
    gradients = [torch.autograd.grad(v, x)[0] for v in (actual, wanted)]
    torch.testing.assert_close(*gradients)


@EVERY
@pytest.mark.parametrize("kind", ["labels", "bool", "float32"])
def test_memory(name: str, kind: str) -> None:
    """Three float32 maps of the input's size at a time, forward and backward."""
    row = ROWS[name]
    logits, labels = make_case((16, 20, 18), batch=8, classes=4)
    hot = one_hot(labels, 4)
    target = {"labels": labels, "bool": hot, "float32": hot.float()}[kind]
    x = logits.requires_grad_()
    for background, index in itertools.product((True, False), (None, 1)):
        loss = row.make(to_onehot_y=kind == "labels", include_background=background, ignore_index=index)

        def step(loss: MapLoss = loss) -> torch.Tensor:
            value = loss(x, target)
            value.backward()
            return value

        step()
        maps = peak_memory(step) / (4 * x.numel())
        ignored = 0 if index is None else 0.0625  # a bool channel
        assert 1.6 < maps <= 3 + ignored + MEMORY_SLACK


@pytest.mark.parametrize("channels", [1, 4])
def test_memory_of_cross_entropy_of_probabilities(channels: int) -> None:
    logits, labels = make_case((16, 20, 18), batch=8, classes=4)
    p = logits.sigmoid()[:, :channels].contiguous().requires_grad_()
    target = one_hot(labels, 4)[:, :channels].contiguous()
    loss = losses.DistancePenalizedCELoss()

    def step() -> torch.Tensor:
        value = loss(p, target)
        value.backward()
        return value

    step()
    assert 1.6 < peak_memory(step) / (4 * p.numel()) <= 3 + MEMORY_SLACK


def test_a_thousand_steps_take_no_more_memory_than_ten() -> None:
    """Nothing is kept between steps: neither tensors nor, in the process, anything beneath them."""
    import gc
    import resource

    def alive() -> int:
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    logits, labels = make_case((12, 14), batch=2)
    x = logits.requires_grad_()
    every = [row.make(to_onehot_y=True) for row in ROWS.values()]
    every += [kind(softmax=True, to_onehot_y=True) for kind in (losses.HausdorffDTLoss, losses.BoundaryLoss)]

    def train(steps: int) -> None:
        for i in range(steps):
            x.grad = None
            every[i % len(every)](x, labels).backward()

    train(200)
    tensors, kilobytes = alive(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(1000)
    assert alive() <= tensors
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - kilobytes < 4096


# ---- options ------------------------------------------------------------------------------------------------


def test_bad_options() -> None:
    for kind in {row.kind for row in ROWS.values()}:
        with pytest.raises(ValueError, match=r"convention: expected one of.*; did you mean 'edt_diff'"):
            kind(convention="edtdiff")
        with pytest.raises(ValueError, match="at most one activation"):
            kind(softmax=True, sigmoid=True)
    for kind in (losses.SDFProductLoss, losses.MapDiceLoss, losses.SignedDistanceRegressionLoss):
        with pytest.raises(ValueError, match=r"form: expected one of.*got 'no'"):
            kind(form="no")
    for kind, name in (
        (losses.MapDiceLoss, "smooth"),
        (losses.ShapeAwareLoss, "k"),
        (losses.ShapeAwareLoss, "weight"),
        (losses.SignedDistanceRegressionLoss, "beta"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected a finite number that is not negative, got -1"):
            kind(**{name: -1})
        with pytest.raises(TypeError, match=f"{name}: expected a number, got '1'"):
            kind(**{name: "1"})


def functions() -> Iterator[tuple[str, type[SegmentationLoss]]]:
    for name in functional.__all__:
        yield name, getattr(functional, name).loss


def test_every_loss_is_a_function() -> None:
    assert {kind.__name__ for _, kind in functions()} == set(losses.__all__)
    logits, labels = make_case(TWO_D)
    for name, kind in functions():
        function = getattr(functional, name)
        options = {"other_act": torch.tanh, "to_onehot_y": True, "reduction": "none", "ignore_index": 1}
        wanted = kind(**options)(logits, labels, (2.0, 0.5))
        assert torch.equal(function(logits, labels, (2.0, 0.5), **options), wanted)
        assert torch.equal(function(logits, labels, spacing=(2.0, 0.5), **options), wanted)
        parameters = inspect.signature(function).parameters
        assert list(parameters)[:4] == ["input", "target", "spacing", "maps"]
        assert parameters["reduction"].default == "mean"
        assert function.__name__ == name
        assert inspect.getdoc(function) == inspect.getdoc(kind)
