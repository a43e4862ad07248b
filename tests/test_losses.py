"""Losses against their formulas in float64 with SciPy, against MONAI where it is right, and against misuse."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MASK_DTYPES, Backend, numpy
from numpy.typing import NDArray
from scipy import ndimage
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from dtkernels.losses import BoundaryLoss, HausdorffDTLoss, LogHausdorffDTLoss
from dtkernels.losses.segmentation import SegmentationLoss

Array = NDArray[Any]
LOSSES = [HausdorffDTLoss, LogHausdorffDTLoss, BoundaryLoss]
TWO_D, THREE_D = (17, 13), (9, 7, 8)
MEMORY_SLACK = 0.08  # of a map: small tensors, and the masks of one image that the reference backend makes


@pytest.fixture
def device(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> str:
    """Losses take no ``backend``: the test runs with each as the chosen one."""
    monkeypatch.setenv("DTK_BACKEND", backend.name)
    return backend.device


# ---- data ---------------------------------------------------------------------------------------------------


def smooth_noise(shape: Sequence[int], seed: int) -> Array:
    """(B, C, *spatial) noise with blobs a few voxels wide, standard deviation about 1."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(noise, (0, 0, *(1.5,) * (len(shape) - 2)))
    return smooth / smooth.std()


def make_case(
    spatial: Sequence[int] = THREE_D, batch: int = 2, classes: int = 3, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C, *spatial) and labels (B, 1, *spatial) int64 that agree in part."""
    truth = smooth_noise((batch, classes, *spatial), seed)
    logits = 2 * truth + smooth_noise(truth.shape, seed + 1)
    labels = truth.argmax(1, keepdims=True)
    assert all((labels == c).any() for c in range(classes))
    return torch.from_numpy(logits).float(), torch.from_numpy(labels)


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.cat([labels == c for c in range(classes)], 1)


def spacings(kind: str, batch: int, dims: int) -> tuple[Any, list[tuple[float, ...]]]:
    """What a loss is given, and the spacing of each sample."""
    if kind == "unit":
        return None, [(1.0,) * dims] * batch
    if kind == "number":
        return 0.7, [(0.7,) * dims] * batch
    axes = (3.0, 0.7, 1.1)[:dims]
    if kind == "axes":
        return axes, [axes] * batch
    rows = np.random.default_rng(5).uniform(0.4, 3.0, (batch, dims)).astype(np.float32)
    return torch.from_numpy(rows), [tuple(row.tolist()) for row in rows]


# ---- the formulas, in float64, image by image ---------------------------------------------------------------


def side_distances(mask: Array, spacing: Sequence[float]) -> tuple[Array, Array]:
    """d_out and d_in of one mask, 0 where there is no boundary."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape), np.zeros(mask.shape)
    return (
        ndimage.distance_transform_edt(~mask, sampling=spacing),
        ndimage.distance_transform_edt(mask, sampling=spacing),
    )


def per_class(
    cost: Any, p: Array, g: Array, rows: Sequence[Sequence[float]], ignored: Array | None = None
) -> Array:
    """(B, C) means over the counted voxels of ``cost(p, g, masks of p and g, spacing)``."""
    p, g = p.astype(np.float64), g.astype(np.float64)
    result = np.zeros(p.shape[:2])
    for b, c in np.ndindex(result.shape):
        seen = np.ones(p.shape[2:], bool) if ignored is None else ~ignored[b, 0]
        masks = (p[b, c] > 0.5) & seen, (g[b, c] > 0.5) & seen
        if seen.any():
            result[b, c] = cost(p[b, c], g[b, c], *masks, rows[b])[seen].mean()
    return result


def hausdorff_cost(variant: str, alpha: float) -> Any:
    def weight(mask: Array, spacing: Sequence[float]) -> Array:
        d_out, d_in = side_distances(mask, spacing)
        return (d_in if variant == "ma2020" else d_in + d_out) ** alpha

    def cost(p: Array, g: Array, p_mask: Array, g_mask: Array, spacing: Sequence[float]) -> Array:
        total = weight(g_mask, spacing)
        if variant != "one_sided":
            total = total + weight(p_mask, spacing)
        return (p - g) ** 2 * total

    return cost


def boundary_cost(convention: str) -> Any:
    def cost(p: Array, g: Array, p_mask: Array, g_mask: Array, spacing: Sequence[float]) -> Array:
        d_out, d_in = side_distances(g_mask, spacing)
        shift = np.where(d_in > 0, {"kervadec": 1, "edt_diff": 0}[convention], 0)
        return p * (d_out - d_in + shift)

    return cost


COSTS = {
    HausdorffDTLoss: hausdorff_cost("two_sided", 2),
    LogHausdorffDTLoss: hausdorff_cost("two_sided", 2),
    BoundaryLoss: boundary_cost("kervadec"),
}


def close(actual: torch.Tensor, expected: Array | float, rtol: float = 2e-6) -> None:
    """Within float32 of an expected value; sums of both signs are compared with their largest."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        numpy(actual).reshape(expected.shape), expected, rtol=rtol, atol=rtol * np.abs(expected).max(initial=0)
    )


@pytest.mark.parametrize("kind", ["unit", "number", "axes", "rows"])
@pytest.mark.parametrize("spatial", [TWO_D, THREE_D], ids=["2d", "3d"])
@pytest.mark.parametrize("alpha", [1, 1.5, 2])
@pytest.mark.parametrize("variant", ["two_sided", "ma2020", "one_sided"])
def test_hausdorff_formula(device: str, variant: str, alpha: float, spatial: tuple[int, ...], kind: str) -> None:
    logits, labels = make_case(spatial)
    g = one_hot(labels, 3).float()
    spacing, rows = spacings(kind, 2, len(spatial))
    p = logits.softmax(1)
    loss = HausdorffDTLoss(alpha, True, variant=variant, reduction="none")
    if isinstance(spacing, torch.Tensor):
        spacing = spacing.to(device)
    actual = loss(p.to(device), g.to(device), spacing)
    assert actual.shape == (2, 3, *(1,) * len(spatial))
    close(actual, per_class(hausdorff_cost(variant, alpha), p.numpy(), g.numpy(), rows))


@pytest.mark.parametrize("variant", ["two_sided", "ma2020", "one_sided"])
def test_hausdorff_with_exponent_zero(device: str, variant: str) -> None:
    """Every distance weighs 1, but a distance of 0 weighs 0: the limit of small exponents, not 0 ** 0."""
    logits, labels = make_case(THREE_D)
    g = one_hot(labels, 3).float()
    g[0, 1] = 0
    p = logits.softmax(1)
    p[0, 1] = 0.3
    p, g = p.to(device), g.to(device)
    loss = HausdorffDTLoss(0, True, variant=variant, reduction="none")(p, g)
    assert loss[0, 1].item() == 0  # absent from both, so there is no boundary to be far from
    assert (loss[1] > 0).all()
    close(loss, numpy(HausdorffDTLoss(1e-9, True, variant=variant, reduction="none")(p, g)))


@pytest.mark.parametrize("kind", ["unit", "number", "axes", "rows"])
@pytest.mark.parametrize("spatial", [TWO_D, THREE_D], ids=["2d", "3d"])
@pytest.mark.parametrize("convention", ["kervadec", "edt_diff"])
def test_boundary_formula(device: str, convention: str, spatial: tuple[int, ...], kind: str) -> None:
    logits, labels = make_case(spatial)
    g = one_hot(labels, 3).float()
    spacing, rows = spacings(kind, 2, len(spatial))
    p = logits.softmax(1)
    if isinstance(spacing, torch.Tensor):
        spacing = spacing.to(device)
    loss = BoundaryLoss(convention=convention, reduction="none")
    actual = loss(p.to(device), g.to(device), spacing)
    assert actual.shape == (2, 3)
    close(actual, per_class(boundary_cost(convention), p.numpy(), g.numpy(), rows))


def test_log_is_of_the_reduced_loss() -> None:
    logits, labels = make_case()
    for reduction in ("mean", "sum", "none"):
        options = {"softmax": True, "to_onehot_y": True, "reduction": reduction}
        plain = HausdorffDTLoss(**options)(logits, labels)
        assert torch.equal(LogHausdorffDTLoss(**options)(logits, labels), torch.log1p(plain))


# ---- MONAI --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monai() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("monai.losses", exc_type=ImportError)


ACTIVATIONS: dict[str, dict[str, Any]] = {
    "softmax": {"softmax": True},
    "sigmoid": {"sigmoid": True},
    "other": {"other_act": lambda x: torch.softmax(2 * x, 1)},
    "none": {},
}


@pytest.mark.parametrize("name", ["HausdorffDTLoss", "LogHausdorffDTLoss", "BoundaryLoss"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch", [False, True], ids=["", "batch"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_monai_gives_the_same(monai: Any, name: str, activation: str, batch: bool, reduction: str) -> None:
    """Both kinds of target, with and without background, in 2-D and 3-D: value, shape, dtype and gradient."""
    ours_type = {loss.__name__: loss for loss in LOSSES}[name]
    if not hasattr(monai, name):
        pytest.skip(f"this MONAI has no {name}")
    for spatial, background, labelled in itertools.product(((9, 8), (5, 6, 7)), (True, False), (True, False)):
        logits, labels = make_case(spatial)
        x = logits.sigmoid() if activation == "none" else logits
        target = labels if labelled else one_hot(labels, 3).float()
        options = {
            "include_background": background, "to_onehot_y": labelled, "reduction": reduction, "batch": batch
        } | ACTIVATIONS[activation]  # fmt: skip
        values, gradients = [], []
        for loss in (ours_type(**options), getattr(monai, name)(**options)):
            leaf = x.clone().requires_grad_()
            values.append(loss(leaf, target))
            gradients.append(torch.autograd.grad(values[-1].sum(), leaf)[0])
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["HausdorffDTLoss", "BoundaryLoss"])
def test_monai_gives_the_same_without_a_boundary(monai: Any, name: str) -> None:
    """Empty and full masks of prediction and target, in all pairs: both libraries count them as distance 0."""
    if not hasattr(monai, name):
        pytest.skip(f"this MONAI has no {name}")
    block = torch.zeros(8, 8)
    block[2:5, 3:7] = 1
    masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8), block])
    p = (0.1 + 0.8 * masks)[:, None].expand(3, 3, 8, 8)
    g = masks[None].expand(3, 3, 8, 8)
    options = {"include_background": True, "reduction": "none"}
    expected = getattr(monai, name)(**options)(p, g)
    assert expected.ne(0).any()
    assert expected.isfinite().all()
    ours = {"HausdorffDTLoss": HausdorffDTLoss, "BoundaryLoss": BoundaryLoss}[name](**options)
    torch.testing.assert_close(ours(p, g), expected, rtol=1e-5, atol=1e-6)


def test_integer_target_does_not_truncate_the_map(monai: Any) -> None:
    """MONAI's distances take the target's dtype, and a bool target raises."""
    _, labels = make_case((24, 24), batch=1, classes=2)
    g = labels.float()
    p = torch.where(torch.roll(g, (3, 2), (2, 3)) > 0, 0.9, 0.1)
    theirs, ours = monai.HausdorffDTLoss(include_background=True), HausdorffDTLoss(include_background=True)
    right = theirs(p, g).item()
    assert theirs(p, labels).item() < 0.99 * right
    with pytest.raises(RuntimeError):
        theirs(p, labels.bool())
    for target in (g, labels, labels.bool(), labels.to(torch.uint8), g.half()):
        assert ours(p, target).item() == pytest.approx(right, rel=1e-6)


# ---- dtypes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", MASK_DTYPES, ids=str)
def test_target_dtype_makes_no_difference(kind: type[SegmentationLoss], dtype: torch.dtype) -> None:
    logits, labels = make_case(TWO_D)
    hot = one_hot(labels, 3)
    for background in (True, False):
        plain = kind(include_background=background, softmax=True)
        expected = plain(logits, hot.float())
        assert torch.equal(plain(logits, hot.to(dtype)), expected)
        if dtype == torch.bool:
            labels, logits = labels.clamp(max=1), logits[:, :2]
            expected = plain(logits, one_hot(labels, 2).float())
            hot = one_hot(labels, 2)
        named = kind(include_background=background, softmax=True, to_onehot_y=True)
        for target in (labels.to(dtype), labels.to(dtype)[:, 0]):
            assert torch.equal(named(logits, target), expected)


@pytest.mark.parametrize("kind", LOSSES)
def test_half_inputs_are_computed_in_float32(kind: type[SegmentationLoss]) -> None:
    """Squared distances across 600 pixels are beyond float16, and 8 bits would not hold a distance."""
    p = torch.full((1, 1, 2, 600), 0.25)
    p[..., :100] = 0.75
    g = torch.zeros(1, 1, 2, 600)
    g[..., 500:] = 1
    loss = kind(include_background=True)
    expected = loss(p, g)
    close(
        torch.expm1(expected) if kind is LogHausdorffDTLoss else expected,
        per_class(COSTS[kind], p.numpy(), g.numpy(), [(1, 1)])[0, 0],
    )
    for dtype in (torch.float16, torch.bfloat16):
        x = p.to(dtype).requires_grad_()
        value = loss(x, g.to(dtype))
        assert value.dtype == torch.float32
        assert torch.equal(value, expected)
        assert torch.autograd.grad(value, x)[0].dtype == dtype
    assert loss(p.double(), g).dtype == torch.float64
    assert torch.equal(loss(g.int(), g), loss(g, g))  # a hard prediction


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(kind: type[SegmentationLoss], dtype: torch.dtype) -> None:
    logits, labels = make_case(TWO_D)

    def mix(x: torch.Tensor) -> torch.Tensor:
        """An activation that autocast would compute in half precision."""
        mixed = torch.einsum("dc,bchw->bdhw", torch.eye(3) + 0.1, x)
        assert mixed.dtype == torch.float32
        return mixed.softmax(1)

    for options in ({"softmax": True}, {"other_act": mix}):
        loss = kind(to_onehot_y=True, **options)
        expected = loss(logits, labels)
        with torch.autocast("cpu", dtype=dtype):
            actual = loss(logits, labels)
        assert actual.dtype == torch.float32
        assert torch.equal(actual, expected)


def test_labels_outside_the_classes_are_no_class() -> None:
    logits, labels = make_case(TWO_D)
    labels[:, :, 4:8, 3:9] = 7
    labels[:, :, 10:12, 3:9] = -128
    for kind in LOSSES:
        for background in (True, False):
            options: dict[str, Any] = {"include_background": background, "softmax": True}
            expected = kind(**options)(logits, one_hot(labels, 3))
            assert torch.equal(kind(**options, to_onehot_y=True)(logits, labels.to(torch.int8)), expected)


@pytest.mark.parametrize("ignore_index", [None, 300])
def test_more_classes_than_the_labels_dtype_holds(ignore_index: int | None) -> None:
    """Without class 0 the labels are renumbered: a uint8 0 must not become the last of 258 classes."""
    labels = torch.zeros(1, 1, 3, 4, dtype=torch.uint8)
    labels[..., 2:] = 3
    logits = torch.zeros(1, 258, 3, 4)
    options = {"include_background": False, "reduction": "none", "ignore_index": ignore_index}
    value = BoundaryLoss(**options, to_onehot_y=True)(logits + 1, labels)
    assert value.shape == (1, 257)
    assert value[0, 2] == 6 / 12  # 2 + 1 + 0 - 1 in each of three rows
    assert value.count_nonzero() == 1


# ---- what a boundary far away costs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "near", "far"),
    [("two_sided", 1 + 2**2, 1 + 30**2), ("ma2020", 1, 1), ("one_sided", 2**2, 30**2)],
)
def test_false_positive_island(variant: str, near: float, far: float) -> None:
    """A false-positive pixel, 2 or 30 away from the object."""
    target = torch.zeros(1, 1, 16, 64)
    target[..., 4:12, 4:12] = 1
    loss = HausdorffDTLoss(include_background=True, variant=variant)
    for distance, expected in ((2, near), (30, far)):
        p = target.clone()
        p[0, 0, 7, 11 + distance] = 1
        assert loss(p, target).item() * target.numel() == pytest.approx(expected)


def test_kervadec_zero_level_is_a_voxel_of_unit_spacing() -> None:
    """Which of the two conventions to take at other spacings."""
    target = torch.zeros(1, 1, 4, 6)
    target[..., 3:] = 1
    for spacing, boundary in ((1.0, 0.0), (5.0, -4.0), (0.3, 0.7)):
        first_inside = torch.zeros_like(target)
        first_inside[..., 3] = 1
        assert BoundaryLoss()(first_inside, target, spacing).item() * 24 / 4 == pytest.approx(boundary)
        raw = BoundaryLoss(convention="edt_diff")(first_inside, target, spacing)
        assert raw.item() * 24 / 4 == pytest.approx(-spacing)


@pytest.mark.parametrize("kind", LOSSES)
def test_each_sample_has_its_own_spacing(kind: type[SegmentationLoss]) -> None:
    logits, labels = make_case(batch=3)
    rows = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.5, 0.5], [0.2, 2.0, 1.0]])
    loss = kind(softmax=True, to_onehot_y=True, reduction="none")
    together = loss(logits, labels, rows)
    for b in range(3):
        alone = loss(logits[b : b + 1], labels[b : b + 1], tuple(rows[b].tolist()))
        torch.testing.assert_close(together[b : b + 1], alone)
    assert not torch.allclose(together, loss(logits, labels))


# ---- classes without a boundary -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("options", [{}, {"alpha": 1}, {"alpha": 0.5}, {"variant": "ma2020"}], ids=str)
def test_empty_and_full_classes_are_finite(kind: type[SegmentationLoss], options: dict[str, Any]) -> None:
    if kind is BoundaryLoss:
        options = {"convention": "edt_diff"} if options else {}
    values = torch.tensor([-9.0, 0.0, 9.0]).view(3, 1, 1, 1)
    for label in (0, 1, 2):
        labels = torch.full((3, 1, 6, 5), label)
        for target, named in ((labels, True), (one_hot(labels, 3), False)):
            x = (values * torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1)).expand(3, 3, 6, 5)
            x = x.clone().requires_grad_()
            loss = kind(include_background=True, softmax=True, to_onehot_y=named, **options)
            value = loss(x, target)
            value.backward()
            assert value.item() == 0  # neither mask has a boundary
            assert x.grad is not None
            assert x.grad.eq(0).all()


def test_missed_and_invented_classes_cost_the_other_masks_distances() -> None:
    block = torch.zeros(1, 1, 9, 9)
    block[..., 3:6, 3:6] = 1
    d_out, d_in = side_distances(numpy(block)[0, 0] > 0, (1, 1))
    weight = (d_out + d_in) ** 2
    loss = HausdorffDTLoss(include_background=True)
    for p, g in ((block, torch.zeros_like(block)), (torch.zeros_like(block), block)):
        close(loss(p, g), (numpy(block)[0, 0] * weight).mean())


# ---- ignored voxels -----------------------------------------------------------------------------------------


def ignoring(kind: str) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, bool]:
    """ignore_index, logits, target, the target's channels, the ignored voxels, and to_onehot_y."""
    logits, labels = make_case(TWO_D, seed=3)
    ignored = torch.zeros_like(labels, dtype=torch.bool)
    ignored[0, :, 3:9, 2:7] = True
    ignored[1, :, :, 10:] = True
    if kind == "label inside":  # class 1 itself
        return 1, logits, labels, one_hot(labels, 3), labels == 1, True
    if kind == "channel inside":
        return 1, logits, one_hot(labels, 3), one_hot(labels, 3), labels == 1, False
    g = one_hot(labels.masked_fill(ignored, -1), 3)
    if kind == "label outside":
        return 255, logits, labels.masked_fill(ignored, 255).to(torch.uint8), g, ignored, True
    if kind == "label negative":
        return -1, logits, labels.masked_fill(ignored, -1).float(), g, ignored, True
    if kind == "one channel more":  # nnU-Net's regions, whose own channels may be anything there
        return 3, logits, torch.cat([one_hot(labels, 3), ignored], 1).float(), g, ignored, False
    if kind == "no channel":
        return -1, logits, g.to(torch.int16), g, ignored, False
    assert kind == "single channel"
    foreground = (labels == 1).long()
    target = foreground.masked_fill(ignored, 9)
    return 9, logits[:, :1], target, foreground.bool(), ignored, False


IGNORING = [
    "label inside", "label outside", "label negative", "channel inside", "one channel more", "no channel",
    "single channel",
]  # fmt: skip


@pytest.mark.parametrize("loss_type", [HausdorffDTLoss, BoundaryLoss])
@pytest.mark.parametrize(
    ("kind", "background"),
    [(kind, b) for kind in IGNORING for b in (True, False) if b or kind != "single channel"],
)
def test_ignored_voxels_neither_cost_nor_count(
    device: str, loss_type: type[SegmentationLoss], kind: str, background: bool
) -> None:
    index, logits, target, channels, ignored, named = ignoring(kind)
    first = 0 if background else 1
    loss = loss_type(
        include_background=background, sigmoid=True, to_onehot_y=named, reduction="none", ignore_index=index
    )
    x = logits.clone().to(device).requires_grad_()
    value = loss(x, target.to(device))
    p = logits.sigmoid()
    unit = [(1.0, 1.0)] * 2
    close(
        value,
        per_class(COSTS[loss_type], p[:, first:].numpy(), channels[:, first:].numpy(), unit, ignored.numpy()),
    )
    (gradient,) = torch.autograd.grad(value.sum(), x)
    hidden = ignored.expand_as(logits).to(device)
    assert gradient[hidden].eq(0).all()
    assert gradient.ne(0).any()
    changed = torch.where(hidden, -x, x)
    assert torch.equal(loss(changed, target.to(device)), value)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_batch_mean_counts_voxels_and_a_hidden_sample_costs_nothing(loss_type: type[SegmentationLoss]) -> None:
    logits, labels = make_case(TWO_D)
    labels[1] = 255
    labels[0, :, 5:9] = 255
    options: dict[str, Any] = {"softmax": True, "to_onehot_y": True, "ignore_index": 255}
    each = loss_type(**options, reduction="none")(logits, labels)
    assert each.isfinite().all()
    assert each[1].eq(0).all()
    assert each[0].ne(0).all()
    pooled = loss_type(**options, reduction="none", batch=True)(logits, labels)
    torch.testing.assert_close(pooled.flatten(), each[0].flatten())


def test_ignore_index_beyond_the_labels_dtype_ignores_nothing() -> None:
    """To torch, the uint8 255 equals -1."""
    logits, labels = make_case(TWO_D)
    target = labels.masked_fill(labels == 2, 255).to(torch.uint8)
    loss = HausdorffDTLoss(softmax=True, to_onehot_y=True)
    expected = loss(logits, target)
    for index in (-1, 256, 70000):
        loss.ignore_index = index
        assert torch.equal(loss(logits, target), expected)
    loss.ignore_index = 255
    assert loss(logits, target) != expected


# ---- gradients ----------------------------------------------------------------------------------------------

VARIED = [
    (HausdorffDTLoss, {}),
    (HausdorffDTLoss, {"variant": "ma2020", "alpha": 1.5, "reduction": "none"}),
    (HausdorffDTLoss, {"variant": "one_sided", "ignore_index": 1, "batch": True}),
    (LogHausdorffDTLoss, {"include_background": True}),
    (BoundaryLoss, {}),
    (BoundaryLoss, {"convention": "edt_diff", "ignore_index": 1, "reduction": "none"}),
]


@pytest.mark.parametrize(("kind", "options"), VARIED)
@pytest.mark.parametrize("named", [True, False], ids=["labels", "channels"])
def test_gradients(kind: type[SegmentationLoss], options: dict[str, Any], named: bool) -> None:
    logits, labels = make_case((3, 4), batch=1, seed=1)
    x = (3 * logits.double()).requires_grad_()
    assert (x.softmax(1) - 0.5).abs().min() > 1e-4  # the masks of the prediction do not change
    target = labels if named else one_hot(labels, 3)
    loss = kind(softmax=True, to_onehot_y=named, **options)

    def value(x: torch.Tensor) -> torch.Tensor:
        result = loss(x, target, (2.0, 0.5))
        assert result.dtype == torch.float64
        return result

    assert torch.autograd.gradcheck(value, (x,))
    assert torch.autograd.gradgradcheck(value, (x,))


def test_gradient_pulls_the_prediction_to_the_target() -> None:
    _, labels = make_case((12, 12), batch=1)
    for kind in LOSSES:
        x = torch.zeros(1, 3, 12, 12, requires_grad=True)
        loss = kind(include_background=True, softmax=True, to_onehot_y=True)
        optimiser = torch.optim.Adam([x], lr=0.3)
        for _ in range(30):
            optimiser.zero_grad()
            loss(x, labels).backward()
            optimiser.step()
        agreement = (x.argmax(1, keepdim=True) == labels).float().mean()
        assert agreement > 0.95, kind


# ---- how it runs --------------------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """Every operator called, refusing those that wait for the device."""

    WAITING = ("_local_scalar_dense", "item", "nonzero", "equal", "masked_select", "unique_dim", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[tuple[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        assert name not in self.WAITING, name
        copies = name in ("_to_copy", "copy_") and (kwargs or {}).get("device") is not None
        assert not copies, f"{name} to {kwargs['device']}"
        if func.namespace == "dtk" and name.endswith("_sums"):
            self.maps.append((name, tuple(args[0].shape)))
        elif func.namespace == "dtk":
            classes = args[1] if name == "labels_sdf" else (kwargs or {}).get("num_classes")
            self.maps.append(("mask", tuple(args[0].shape)) if classes is None else ("labels", classes))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("index", [None, 1, 255])
def test_no_synchronisation_and_no_loop(device: str, batch: int, index: int | None) -> None:
    logits, labels = make_case(TWO_D, batch, classes=4)
    x, labels = logits.to(device).requires_grad_(), labels.to(device)
    hot = one_hot(labels, 4).to(torch.uint8)
    rows = torch.full((batch, 2), 0.5, device=device)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for kind, named, background in itertools.product(LOSSES, (True, False), (True, False)):
            loss = kind(include_background=background, softmax=True, to_onehot_y=named, ignore_index=index)
            with Calls() as calls:
                loss(x, labels if named else hot, rows).backward()
            shape = (batch, 4 if background else 3, *TWO_D)
            of_target = ("labels", shape[1]) if named else ("mask", shape)
            apart = [of_target] + [("mask", shape)] * (kind is not BoundaryLoss)
            at_once = [("boundary_sums" if kind is BoundaryLoss else "hausdorff_sums", shape)]
            assert calls.maps == (at_once if index is None else apart)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_the_watch_for_synchronisation_sees_one() -> None:
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Calls():
        torch.ones(3).sum().item()


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (HausdorffDTLoss, {}, True),
        (LogHausdorffDTLoss, {"ignore_index": 1, "alpha": 1}, False),
        (BoundaryLoss, {"ignore_index": 255}, True),
        (BoundaryLoss, {"reduction": "none"}, False),
    ],
)
def test_compiles_in_one_graph(kind: type[SegmentationLoss], options: dict[str, Any], named: bool) -> None:
    torch._dynamo.reset()
    loss = kind(softmax=True, to_onehot_y=named, **options)
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for spatial, batch, classes in (((5, 6), 2, 3), ((9, 4), 3, 4)):
        logits, labels = make_case(spatial, batch, classes)
        x = logits.requires_grad_()
        target = labels if named else one_hot(labels, classes)
        rows = torch.full((batch, 2), 0.5)
        expected, actual = loss(x, target, rows), compiled(x, target, rows)
        torch.testing.assert_close(actual, expected)
        gradients = [torch.autograd.grad(v.sum(), x)[0] for v in (actual, expected)]
        torch.testing.assert_close(*gradients)


def test_single_channel_compiles_without_its_warning() -> None:
    torch._dynamo.reset()
    loss = BoundaryLoss(softmax=True)
    p = torch.rand(1, 1, 4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = loss(p, p > 0.4)
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="eager")
    torch.testing.assert_close(compiled(p, p > 0.4), expected)


def peak_memory(run: Any) -> float:
    """The most bytes that torch's allocator for CPUs held at once during ``run``, temporaries of operators too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as result:
        keep = run()
    assert keep is not None
    events = [e for e in result.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    assert events
    return max(itertools.accumulate(e.nbytes() for e in events))


@pytest.mark.parametrize("kind", [HausdorffDTLoss, BoundaryLoss])
@pytest.mark.parametrize("target", ["labels", "bool", "float32"])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("ignore_index", [None, 1])
def test_memory(kind: type[SegmentationLoss], target: str, background: bool, ignore_index: int | None) -> None:
    """Three float32 maps of the input's size, forward and backward, and a bool map where voxels are ignored."""
    logits, labels = make_case((16, 20, 18), batch=8, classes=4)
    hot = one_hot(labels, 4)
    truth = {"labels": labels, "bool": hot, "float32": hot.float()}[target]
    loss = kind(
        include_background=background, softmax=True, to_onehot_y=target == "labels", ignore_index=ignore_index
    )
    x = logits.requires_grad_()

    def step() -> torch.Tensor:
        value = loss(x, truth)
        value.backward()
        return value

    step()  # x.grad is there from now on
    one_map = x.numel() * 4
    limit = 3 + MEMORY_SLACK
    if ignore_index is not None:
        limit += 0.0625  # a bool channel
        limit += 0.25 if background and kind is HausdorffDTLoss else 0  # the prediction's mask without them
    assert 2 < peak_memory(step) / one_map <= limit


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("named", [True, False], ids=["labels", "channels"])
def test_layout_makes_no_difference_and_nothing_is_changed(kind: type[SegmentationLoss], named: bool) -> None:
    logits, labels = make_case()
    target = labels if named else one_hot(labels, 3).float()
    loss = kind(include_background=True, sigmoid=True, to_onehot_y=named, ignore_index=2)
    before, target_before = logits.clone(), target.clone()
    expected = loss(logits, target)
    last = torch.channels_last_3d
    wide = torch.empty(2, 3, 9, 14, 8)[:, :, :, ::2].copy_(logits)
    for x, t in (
        (logits.contiguous(memory_format=last), target.contiguous(memory_format=last)),
        (wide, target.transpose(2, 4).contiguous().transpose(2, 4)),
    ):
        torch.testing.assert_close(loss(x, t), expected)
    assert torch.equal(logits, before)
    assert torch.equal(target, target_before)


def test_zero_samples() -> None:
    for kind in LOSSES:
        loss = kind(include_background=True, reduction="none")
        assert loss(torch.rand(0, 2, 4, 4), torch.rand(0, 2, 4, 4)).shape[:2] == (0, 2)


# ---- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
def test_bad_options(kind: type[SegmentationLoss]) -> None:
    for flags in ({"sigmoid": True, "softmax": True}, {"sigmoid": True, "other_act": torch.tanh}):
        with pytest.raises(ValueError, match=r"at most one activation.*sigmoid=True"):
            kind(**flags)
    with pytest.raises(TypeError, match="other_act: expected None or a callable, got str"):
        kind(other_act="tanh")
    with pytest.raises(ValueError, match=r"reduction: expected one of.*got 'means'; did you mean 'mean'"):
        kind(reduction="means")
    for index in (1.0, True, "1"):
        with pytest.raises(TypeError, match="ignore_index: expected None or an int, got"):
            kind(ignore_index=index)


def test_bad_options_of_one_loss() -> None:
    with pytest.raises(ValueError, match=r"variant: expected one of.*got 'two-sided'; did you mean 'two_sided'"):
        HausdorffDTLoss(variant="two-sided")
    with pytest.raises(ValueError, match=r"convention: expected one of.*got 'edtdiff'; did you mean 'edt_diff'"):
        BoundaryLoss(convention="edtdiff")
    for alpha in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="alpha: expected a finite number that is not negative, got"):
            HausdorffDTLoss(alpha)
    for value in ("2", None, True):
        with pytest.raises(TypeError, match="alpha: expected a number, got"):
            HausdorffDTLoss(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", LOSSES)
def test_bad_tensors(kind: type[SegmentationLoss]) -> None:
    loss = kind(include_background=True)
    p = torch.rand(2, 3, 4, 5)
    g = (p > 0.4).float()
    for shape in ((3, 4), (3, 4, 5), (1, 2, 3, 4, 5, 6)):
        with pytest.raises(ValueError, match=rf"input: expected \(B, C, H, W\).*got {len(shape)} dimensions"):
            loss(torch.rand(shape), torch.rand(shape))
    for target in (g[:1], g[:, :2], g[..., :2], g[0]):
        with pytest.raises(ValueError, match=r"target: expected the input's shape \(2, 3, 4, 5\), got"):
            loss(p, target)
    with pytest.raises(ValueError, match=r"got .*; pass to_onehot_y=True if it is a label map"):
        loss(p, g[:, :1])
    with pytest.raises(ValueError, match=r"target: expected labels of shape \(2, 1, 4, 5\)"):
        kind(to_onehot_y=True)(p, g)
    with pytest.raises(TypeError, match=r"target: expected a torch\.Tensor, got numpy"):
        loss(p, g.numpy())
    with pytest.raises(TypeError, match=r"input: expected dtype in .*, got complex64"):
        loss(p.to(torch.complex64), g)
    with pytest.raises(ValueError, match="target: expected a tensor that needs no gradient"):
        loss(p, g.requires_grad_())
    with pytest.raises(ValueError, match="target: expected a tensor on cpu like the input, got meta"):
        loss(p, torch.empty(2, 3, 4, 5, device="meta"))
    with pytest.raises(ValueError, match="other_act: expected a result of the input's shape"):
        kind(other_act=lambda x: x[:, :1])(p, g.detach())
    for spacing in ((1.0,), (1.0, -1.0), torch.ones(3, 2), float("nan")):
        with pytest.raises(ValueError, match="spacing: expected"):
            loss(p, g.detach(), spacing)


@pytest.mark.parametrize("kind", LOSSES)
def test_single_channel_warns_and_ignores(kind: type[SegmentationLoss]) -> None:
    logits, labels = make_case(TWO_D, classes=2)
    x, target = logits[:, :1], labels.float()
    expected = kind(include_background=True, other_act=None)(x, target)
    for option in ({"softmax": True}, {"to_onehot_y": True}, {"include_background": False}):
        with pytest.warns(UserWarning, match=f"single channel prediction, `{next(iter(option))}=") as caught:
            value = kind(**({"include_background": True} | option))(x, target)
        assert torch.equal(value, expected)
        assert len(caught) == 1
    loss = BoundaryLoss(include_background=False)
    with pytest.warns(UserWarning, match="include_background") as caught:
        loss(x, target)
    assert caught[0].filename == __file__


def test_positional_arguments_are_in_monais_order() -> None:
    act = torch.tanh
    loss = HausdorffDTLoss(1.5, True, True, False, False, act, "sum", True)
    assert (loss.alpha, loss.include_background, loss.to_onehot_y, loss.other_act) == (1.5, True, True, act)
    assert (loss.reduction, loss.batch, loss.variant, loss.ignore_index) == ("sum", True, "two_sided", None)
    boundary = BoundaryLoss(False, True, False, True, None, "none", True)
    assert (boundary.include_background, boundary.softmax, boundary.reduction) == (False, True, "none")
    assert (HausdorffDTLoss().include_background, BoundaryLoss().include_background) == (False, True)
    assert (HausdorffDTLoss().alpha, BoundaryLoss().convention) == (2.0, "kervadec")


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_can_be_copied_saved_and_moved(kind: type[SegmentationLoss]) -> None:
    logits, labels = make_case(TWO_D)
    loss = kind(softmax=True, to_onehot_y=True, reduction="sum", ignore_index=1)
    expected = loss(logits, labels)
    copies = (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss).to(torch.float64))
    for other in copies:
        assert torch.equal(other(logits, labels), expected)
    assert not loss.state_dict()
    assert "reduction='sum'" in repr(loss)
    assert "ignore_index=1" in repr(loss)
