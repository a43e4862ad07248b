"""Overlap of volumes and averages that count what they leave out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dtkernels import metrics

RNG = np.random.default_rng(7)


def random_masks(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(RNG.random(shape) < 0.4) for _ in range(2))


def test_against_medpy():
    binary = pytest.importorskip("medpy.metric.binary")
    pred, target = random_masks(3, 2, 6, 7, 5)
    result = metrics.overlap_metrics(pred, target)
    for b in range(3):
        for c in range(2):
            p, t = pred[b, c].numpy(), target[b, c].numpy()
            assert result.dice[b, c].item() == pytest.approx(binary.dc(p, t), rel=1e-6)
            assert result.jaccard[b, c].item() == pytest.approx(binary.jc(p, t), rel=1e-6)
            assert result.voe[b, c].item() == pytest.approx(1 - binary.jc(p, t), rel=1e-6)
            assert result.rvd[b, c].item() == pytest.approx(binary.ravd(p, t), rel=1e-6)


def test_against_monai():
    monai = pytest.importorskip("monai.metrics")
    pred, target = random_masks(3, 2, 6, 7, 5)
    pred[1, 1], target[2, 0] = False, False
    expected = monai.DiceMetric(include_background=True, reduction="none", ignore_empty=False)(
        pred.float(), target.float()
    )
    torch.testing.assert_close(metrics.dice(pred, target, on_both_empty="perfect"), expected)


def test_global_dice_pools_the_samples():
    pred, target = random_masks(4, 2, 9, 8)
    expected = [2 * (pred[:, c] & target[:, c]).sum() / (pred[:, c].sum() + target[:, c].sum()) for c in range(2)]
    torch.testing.assert_close(metrics.global_dice(pred, target), torch.stack(expected))


@pytest.mark.parametrize(
    ("pred", "target", "expected"),
    [
        ([1, 1, 0, 0], [0, 1, 1, 1], {"dice": 0.4, "jaccard": 0.25, "voe": 0.75, "rvd": -1 / 3}),
        ([0, 0, 0, 0], [0, 1, 1, 1], {"dice": 0, "jaccard": 0, "voe": 1, "rvd": -1}),
        ([1, 1, 0, 0], [0, 0, 0, 0], {"dice": 0, "jaccard": 0, "voe": 1, "rvd": math.inf}),
        ([0, 0, 0, 0], [0, 0, 0, 0], dict.fromkeys(("dice", "jaccard", "voe", "rvd"), math.nan)),
    ],
)
def test_numbers_and_empty_masks(pred, target, expected):
    result = metrics.overlap_metrics(torch.tensor(pred), torch.tensor(target))
    assert {k: v.item() for k, v in result.items() if k != "global_dice"} == pytest.approx(
        expected, rel=1e-6, nan_ok=True
    )
    assert result["global_dice"].item() == pytest.approx(expected["dice"], rel=1e-6, nan_ok=True)


def test_both_empty_as_perfect():
    nothing = torch.zeros(2, 3, 4, 4)
    result = metrics.overlap_metrics(nothing, nothing, on_both_empty="perfect")
    assert {k: v.unique().tolist() for k, v in result.items()} == {
        "dice": [1], "jaccard": [1], "voe": [0], "rvd": [0], "global_dice": [1],
    }  # fmt: skip


def test_label_maps_and_background():
    pred, target = (torch.from_numpy(RNG.integers(0, 3, (2, 5, 6, 4))) for _ in range(2))
    onehot = [torch.stack([x == c for c in range(3)], 1).float() for x in (pred, target)]
    expected = metrics.overlap_metrics(*onehot)
    result = metrics.overlap_metrics(pred, target, num_classes=3, spatial_dims=3)
    for key in expected:
        torch.testing.assert_close(result[key], expected[key])
    without = metrics.overlap_metrics(pred, target, num_classes=3, spatial_dims=3, include_background=False)
    torch.testing.assert_close(without.dice, expected.dice[:, 1:])
    torch.testing.assert_close(without.global_dice, expected.global_dice[1:])


def test_single_functions():
    pred, target = random_masks(2, 3, 5, 5)
    result = metrics.overlap_metrics(pred, target)
    for key, function in {
        "dice": metrics.dice,
        "jaccard": metrics.jaccard,
        "voe": metrics.volumetric_overlap_error,
        "rvd": metrics.relative_volume_difference,
        "global_dice": metrics.global_dice,
    }.items():
        assert torch.equal(function(pred, target), result[key])
    with pytest.raises(KeyError):
        result["hd"]
    assert len(result) == 5


# ---- averages ---------------------------------------------------------------------------------------


def test_monai_rewards_misses():
    """Its average drops the nan of a missed organ; ours says so, and inf does not vanish."""
    monai = pytest.importorskip("monai.metrics")
    target = torch.zeros(2, 1, 12, 12)
    target[:, :, 2:5, 2:5] = 1
    pred = target.roll(3, dims=-1)
    pred[1] = 0

    def monai_mean(p: torch.Tensor, t: torch.Tensor) -> float:
        metric = monai.HausdorffDistanceMetric(include_background=True, percentile=95)
        metric(p, t)
        return metric.aggregate().item()

    assert monai_mean(pred, target) == 3.0
    assert monai_mean(pred[1:], target[1:]) == 0.0  # everything missed: a perfect score

    values = metrics.surface_metrics(pred, target)["hd95"]
    ours = metrics.aggregate(values)
    assert (ours.mean.item(), ours.used.item(), ours.infinite.item(), ours.undefined.item()) == (3.0, 1, 1, 0)
    assert str(ours) == "3 over 1 of 2 cases (1 infinite left out)"
    missed = metrics.aggregate(values[1:])
    assert math.isnan(missed.mean.item())
    assert missed.used.item() == 0
    diagonal = metrics.surface_metrics(pred, target, on_empty="diagonal")["hd95"]
    assert metrics.aggregate(diagonal).mean.item() == pytest.approx((3 + math.hypot(12, 12)) / 2)


def test_a_mean_above_its_percentile_is_a_swapped_column():
    """Ma et al. 2020 print ASD under 95HD and 95HD under ASD (appendix, tables 3 to 8 and 10)."""
    target = torch.zeros(1, 1, 12, 12)
    target[:, :, 2:5, 2:5] = 1
    result = metrics.surface_metrics(target.roll(3, dims=-1), target)
    ours = {name: result[name].item() for name in ("asd", "hd95")}
    assert ours == {"asd": 2.0, "hd95": 3.0}  # of the 8 voxels of the surface 3 are 1 away, 2 are 2, 3 are 3
    printed = {"asd": ours["hd95"], "hd95": ours["asd"]}
    assert printed["asd"] > printed["hd95"]


def test_aggregate_over_dimensions():
    values = torch.tensor([[1.0, math.inf, math.nan], [3.0, 5.0, math.nan]])
    result = metrics.aggregate(values, dim=0)
    torch.testing.assert_close(result.mean, torch.tensor([2.0, 5.0, math.nan]), equal_nan=True)
    assert result.used.tolist() == [2, 1, 0]
    assert result.infinite.tolist() == [0, 1, 0]
    assert result.undefined.tolist() == [0, 0, 2]
    assert str(result).split(" | ")[2] == "nan over 0 of 2 cases (2 undefined left out)"
    assert metrics.aggregate(values, dim=(0, 1)).used.item() == 3
    assert metrics.aggregate(torch.tensor(2.0)).mean.item() == 2.0
    assert math.isnan(metrics.aggregate(torch.zeros(0)).mean.item())
    with pytest.raises(TypeError, match=r"values: expected a floating-point torch\.Tensor, got torch\.int64"):
        metrics.aggregate(torch.tensor([1]))
