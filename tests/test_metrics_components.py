"""Lesion-wise metrics: against MONAI's CC-Dice and panoptica, and against definitions written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode

from dtkernels import metrics
from dtkernels.metrics import components, dense, lesion_metrics, packed

Array = np.ndarray[Any, Any]


def lesions(shape: tuple[int, ...], seed: int, shift: int = 1) -> tuple[Array, Array]:
    """A target of several blobs, and a prediction that moves them, misses some and invents others."""
    rng = np.random.default_rng(seed)
    target = ndimage.gaussian_filter(rng.normal(size=shape), 1.6) > 0.16
    labels, count = ndimage.label(target, np.ones((3,) * target.ndim))
    pred = np.roll(target & ~np.isin(labels, rng.permutation(count)[: count // 4] + 1), shift, -1)
    invented = ndimage.gaussian_filter(rng.normal(size=shape), 1.2) > 0.32
    return pred | invented, target


def ours(pred: Array, target: Array, **options: Any) -> Any:
    return lesion_metrics(torch.from_numpy(pred), torch.from_numpy(target), spatial_dims=pred.ndim, **options)


def cells_by_hand(target: Array, spacing: tuple[float, ...]) -> tuple[Array, int]:
    """Nearest component of every voxel by brute force in float64; the first voxel in raster order wins ties."""
    labels, count = ndimage.label(target, np.ones((3,) * target.ndim))
    sites = np.argwhere(target)
    result = np.zeros(target.shape, int)
    for at in np.ndindex(target.shape):
        square = (((sites - at) * np.array(spacing)) ** 2).sum(1)
        nearest = sites[np.flatnonzero(square <= square.min() * (1 + 1e-9))[0]]
        result[at] = labels[tuple(nearest)]
    return result, count


@pytest.mark.parametrize("definition", ["monai", "medpy", "deepmind"])
@pytest.mark.parametrize(("shape", "spacing"), [((26, 30), (1.0, 1.0)), ((9, 14, 12), (2.3, 0.7, 1.1))])
def test_voronoi_by_hand(shape, spacing, definition):
    pred, target = lesions(shape, 3)
    cells, count = cells_by_hand(target, spacing)
    labels, _ = ndimage.label(target, np.ones((3,) * target.ndim))
    assert count > 2
    result = ours(pred, target, spacing=spacing, definition=definition)
    assert [lesion.label for lesion in result.lesions] == list(range(1, count + 1))
    rows = []
    for lesion in result.lesions:
        p, t = (torch.from_numpy(x) for x in (pred & (cells == lesion.label), labels == lesion.label))
        expected = dict(metrics.surface_metrics(p, t, spacing, definition=definition))
        expected |= {"dice": metrics.dice(p, t), "iou": metrics.jaccard(p, t)}
        expected = {k: v.item() for k, v in expected.items()}
        assert lesion.values == pytest.approx(expected, rel=1e-6)
        assert lesion.matched == bool((p & t).any())
        assert lesion.voxels == int(t.sum())
        rows.append(expected)
    for name in rows[0]:
        assert result[name].item() == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-6)
    predicted, n = ndimage.label(pred, np.ones((3,) * pred.ndim))
    assert result.spurious.item() == n - len(set(predicted[target & pred]))
    assert result.found.item() + result.missed.item() == count


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("shape", [(40, 50), (14, 22, 18)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("seed", range(3))
def test_voronoi_is_cc_dice_of_monai(shape, seed):
    """Where a predicted voxel is as near to two lesions, MONAI takes SciPy's choice: such voxels are left out."""
    monai = pytest.importorskip("monai.metrics")
    pred, target = lesions(shape, seed)
    labels, count = ndimage.label(target, np.ones((3,) * target.ndim))
    far = np.stack([ndimage.distance_transform_edt(labels != n + 1) for n in range(count)])
    pred &= (far == far.min(0)).sum(0) == 1
    p, t = (
        torch.nn.functional.one_hot(torch.from_numpy(x).long(), 2).movedim(-1, 0)[None] for x in (pred, target)
    )
    expected = monai.DiceMetric(per_component=True, reduction="none", ignore_empty=False)(p, t)
    assert ours(pred, target)["dice"].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.0])
@pytest.mark.parametrize("shape", [(60, 70), (16, 22, 18)], ids=["2-D", "3-D"])
def test_iou_is_panoptica(shape, threshold):
    try:
        import panoptica
        from panoptica.instance_matcher import NaiveThresholdMatching as matcher
        from panoptica.metrics import Metric
    except (ImportError, NameError) as error:  # no test dependency: it pins numpy < 2.3, pandas < 3
        pytest.skip(f"panoptica cannot be imported (test_iou_by_its_definition stands for it): {error}")
    pred, target = lesions(shape, 5)
    (labels, n), (predicted, m) = (ndimage.label(x, np.ones((3,) * x.ndim)) for x in (target, pred))
    pair = panoptica.UnmatchedInstancePair(
        prediction_arr=predicted.astype(np.uint32), reference_arr=labels.astype(np.uint32)
    )
    matched = matcher(matching_threshold=max(threshold, 1e-9)).match_instances(pair)
    result = ours(pred, target, matching="iou", threshold=threshold, definition="medpy")
    tp = len(matched.matched_instances)
    assert tp > 1
    assert (result.found.item(), result.missed.item(), result.spurious.item()) == (tp, n - tp, m - tp)
    assert result["rq"].item() == pytest.approx(tp / (tp + (n - tp) / 2 + (m - tp) / 2))
    arguments = [(matched.reference_arr, matched.prediction_arr, k, k) for k in matched.matched_instances]
    for name, metric in (("iou", "IOU"), ("dice", "DSC"), ("hd", "HD"), ("hd95", "HD95")):
        expected = np.mean([Metric[metric](*a) for a in arguments])
        assert result[name].item() == pytest.approx(expected, rel=1e-6), name
    assert result["sq"].item() == result["iou"].item()
    assert result["pq"].item() == pytest.approx(result["sq"].item() * result["rq"].item(), rel=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 0.2])
@pytest.mark.parametrize("shape", [(60, 70), (16, 22, 18)], ids=["2-D", "3-D"])
def test_iou_by_its_definition(shape, threshold):
    """The same without panoptica: every pair of components compared, the best left taken again and again."""
    pred, target = lesions(shape, 5)
    (labels, n), (predicted, m) = (ndimage.label(x, np.ones((3,) * x.ndim)) for x in (target, pred))
    iou = np.zeros((n, m))
    for i, j in np.ndindex(n, m):
        a, b = labels == i + 1, predicted == j + 1
        iou[i, j] = (a & b).sum() / (a | b).sum()
    pairs = []
    while iou.max() >= threshold:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        pairs.append((i + 1, j + 1, iou[i, j]))
        iou[i], iou[:, j] = -1, -1
    result = ours(pred, target, matching="iou", threshold=threshold, definition="medpy")
    tp = len(pairs)
    assert tp > 1
    assert (result.found.item(), result.missed.item(), result.spurious.item()) == (tp, n - tp, m - tp)
    assert {x.label for x in result.lesions if x.matched} == {i for i, _, _ in pairs}
    assert result["sq"].item() == pytest.approx(np.mean([score for _, _, score in pairs]), rel=1e-6)
    surfaces = [
        metrics.surface_metrics(
            torch.from_numpy(predicted == j), torch.from_numpy(labels == i), definition="medpy"
        )
        for i, j, _ in pairs
    ]
    for name in ("hd95", "nsd@1", "assd"):
        expected = np.mean([found[name].item() for found in surfaces])
        assert result[name].item() == pytest.approx(expected, rel=1e-6), name


def test_iou_by_hand():
    """Two candidates for one lesion: the greater IoU takes it; and one prediction for two lesions."""
    target = np.zeros((8, 20), int)
    pred = np.zeros_like(target)
    target[1:5, 1:9] = 1  # 32 voxels
    pred[1:5, 1:6] = 1  # 20 of them: 20 / 32
    pred[1:5, 7:9] = 1  # 8 of them: 8 / 32
    target[6, 12:15] = target[6, 16:18] = 1
    pred[6, 12:18] = 1  # 3 / 6 and 2 / 6
    result = ours(pred, target, matching="iou", threshold=0.25)
    assert (result.found.item(), result.missed.item(), result.spurious.item()) == (2, 1, 1)
    assert [lesion.values.get("iou") for lesion in result.lesions] == [
        pytest.approx(20 / 32),
        pytest.approx(0.5),
        None,
    ]
    assert result["rq"].item() == pytest.approx(2 / 3)
    assert result["sq"].item() == pytest.approx((20 / 32 + 0.5) / 2)
    strict = ours(pred, target, matching="iou", threshold=0.6)
    assert (strict.found.item(), strict.missed.item(), strict.spurious.item()) == (1, 2, 2)


@pytest.mark.parametrize("matching", ["voronoi", "iou"])
def test_batches_are_their_images(matching):
    shape = (12, 15, 10)
    pairs = [lesions(shape, seed) for seed in range(6)]
    pred, target = (torch.from_numpy(np.stack(x)).reshape(2, 3, *shape) for x in zip(*pairs, strict=True))
    spacing = torch.tensor([[1.0, 2.0, 0.5], [1.0, 1.0, 1.0]])
    result = lesion_metrics(pred, target, spacing, matching=matching)
    assert result.found.shape == (2, 3)
    for b in range(2):
        for c in range(3):
            alone = lesion_metrics(pred[b, c], target[b, c], spacing[b].tolist(), matching=matching)
            for name in result:
                torch.testing.assert_close(result[name][b, c], alone[name], equal_nan=True)
            assert result.missed[b, c] == alone.missed
            assert [x.values for x in result.lesions if x.image == (b, c)] == [x.values for x in alone.lesions]


class Waits(TorchDispatchMode):
    """Counts the operators that would make the host wait for a GPU."""

    NAMES = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "repeat_interleave")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        bools = name in ("index", "index_put_", "_index_put_impl_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        self.count += name in self.NAMES or bools
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("matching", ["voronoi", "iou"])
@pytest.mark.parametrize("definition", ["monai", "medpy", "deepmind"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_way_of_gpus(matching, definition, per_sample, monkeypatch):
    """Every step but the surface metrics is the same code there; those are the dense ones."""
    pairs = [lesions((14, 18, 12), seed) for seed in range(4)]
    pred, target = (torch.from_numpy(np.stack(x)).reshape(2, 2, 14, 18, 12) for x in zip(*pairs, strict=True))
    pred[1, 1] = False
    spacing = torch.tensor([[1.0, 2.0, 0.5], [1.0, 0.7, 1.0]]) if per_sample else (1.0, 2.0, 0.5)
    options = {"matching": matching, "definition": definition, "on_empty": "diagonal", "threshold": 0.3}
    expected = lesion_metrics(pred, target, spacing, **options)
    monkeypatch.setattr(packed, "measure", dense.measure)
    result = lesion_metrics(pred, target, spacing, **options)
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], rtol=1e-6, atol=0, equal_nan=True)
    for a, b in zip(result.lesions, expected.lesions, strict=True):
        assert a[:4] == b[:4]
        assert a.values == pytest.approx(b.values, rel=1e-6)


@pytest.mark.parametrize("matching", ["voronoi", "iou"])
def test_a_gpu_is_waited_for_as_often_for_many_lesions_as_for_one(matching, monkeypatch):
    monkeypatch.setattr(packed, "measure", dense.measure)
    counts = []
    for images, lesions_of_each in ((1, 1), (6, 9)):
        target = torch.zeros(images, 1, 48, 48, dtype=torch.bool)
        for n in range(lesions_of_each):
            target[..., 16 * (n // 3) + 4 : 16 * (n // 3) + 9, 16 * (n % 3) + 4 : 16 * (n % 3) + 9] = True
        with Waits() as waits:
            result = lesion_metrics(target.roll(1, -1), target, matching=matching)
        assert result.found.tolist() == [[lesions_of_each]] * images
        counts.append(waits.count)
    assert 0 < counts[0] == counts[1] < 20


def test_lesions_are_measured_in_parts_where_they_are_many(monkeypatch):
    pred, target = lesions((40, 50), 4)
    expected = ours(pred, target)
    monkeypatch.setattr(components, "_VOXELS", 300)
    result = ours(pred, target)
    assert [x.values for x in result.lesions] == [x.values for x in expected.lesions]


def test_missed_lesions_as_an_error():
    target = torch.zeros(1, 2, 9, 9)
    target[0, 1, 1:3, 1:3] = target[0, 1, 5:8, 5:8] = target[0, 0, 2, 2] = 1
    pred = target.clone()
    assert lesion_metrics(pred, target, on_empty="error")["dice"].tolist() == [[1, 1]]
    pred[0, 1, 5:8, 5:8] = 0
    with pytest.raises(ValueError, match=r"on_empty: .* got none for lesion 2 of image \(0, 1\)"):
        lesion_metrics(pred, target, on_empty="error")


@pytest.mark.parametrize("matching", ["voronoi", "iou"])
def test_empty_masks(matching):
    nothing, one = np.zeros((2, 9, 9), bool)
    one[2:5, 2:5] = True
    missed = ours(nothing, one, matching=matching)
    assert (missed.found.item(), missed.missed.item(), missed.spurious.item()) == (0, 1, 0)
    assert missed["rq"].item() == missed["pq"].item() == 0
    if matching == "voronoi":
        assert missed["dice"].item() == missed["nsd@1"].item() == 0
        assert missed["hd95"].item() == math.inf
        there = ours(nothing, one, matching=matching, on_empty="diagonal", spacing=(2.0, 1.0))
        assert there["hd95"].item() == pytest.approx(math.hypot(18, 9))
    else:
        assert math.isnan(missed["dice"].item())
    invented = ours(one, nothing, matching=matching)
    assert (invented.found.item(), invented.missed.item(), invented.spurious.item()) == (0, 0, 1)
    assert math.isnan(invented["dice"].item())
    both = ours(nothing, nothing, matching=matching)
    assert all(math.isnan(value.item()) for value in both.values())
    full = ours(np.ones((9, 9)), np.ones((9, 9)), matching=matching)
    assert (full["dice"].item(), full["hd95"].item(), full["pq"].item()) == (1, 0, 1)
    empty = lesion_metrics(torch.zeros(0, 2, 4, 4), torch.zeros(0, 2, 4, 4), matching=matching)
    assert empty["dice"].shape == (0, 2)


def test_connectivity_and_label_maps():
    target = np.zeros((10, 10), np.int64)
    target[2:4, 2:4], target[4:6, 4:6] = 2, 2  # they touch at a corner
    assert len(ours(target, target, num_classes=3, include_background=False).lesions) == 1
    faces = ours(target, target, num_classes=3, connectivity=1)
    assert [(x.image, x.label) for x in faces.lesions] == [((0,), 1), ((2,), 1), ((2,), 2)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"matching": "voronoy"}, ValueError, "matching: .*did you mean 'voronoi'"),
        ({"threshold": 1.5}, ValueError, "threshold: expected a number from 0 to 1, got 1.5"),
        ({"connectivity": 3}, ValueError, "connectivity: expected"),
        ({"definition": "monay"}, ValueError, "definition: "),
        ({"percentiles": 101}, ValueError, "percentiles: "),
        ({"spacing": (1, 2, 3)}, ValueError, "spacing: expected 2 numbers"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        lesion_metrics(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), **options)
