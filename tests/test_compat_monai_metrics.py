"""The metric classes on the cases that MONAI's own tests hold them to, and where they differ on purpose.

Masks and expected numbers are those of tests/metrics/test_{hausdorff_distance,surface_distance,surface_dice}.py of
MONAI, written out here, so that they hold without MONAI.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from dtkernels.compat.monai import metrics as compat
from dtkernels.metrics import lesion_metrics

SPACING = (0.85, 1.2, 0.9)
SIDE = 99
INF = math.inf

pytestmark = pytest.mark.filterwarnings("ignore:the .* of class .* is all 0:UserWarning")


def ball(
    radius: float, centre: tuple[int, int, int], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> torch.Tensor:
    axes = [torch.arange(SIDE, dtype=torch.float64) * s - c for s, c in zip(spacing, centre, strict=True)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return z * z + y * y + x * x <= radius * radius


def one_hot(mask: torch.Tensor) -> torch.Tensor:
    """(2, 2, D, H, W), the background left out of the measures."""
    return mask[None, None].repeat(2, 2, *[1] * mask.ndim).to(torch.int32)


MIDDLE = ball(20, (49, 49, 49))
SMALL, LARGE = ball(20, (20, 33, 22)), ball(40, (20, 33, 22))
NOTHING = torch.zeros(SIDE, SIDE, SIDE)
# prediction, target, spacing, percentile, and the Hausdorff distance: Euclidean, chessboard, taxicab, each of them
# directed and not
HAUSDORFF: dict[str, Any] = {
    "same": (MIDDLE, MIDDLE, None, None, (0, 0, 0, 0, 0, 0)),
    "moved along the diagonal": (
        ball(20, (20, 20, 20)), ball(20, (19, 19, 19)), None, None, (math.sqrt(3), math.sqrt(3), 1, 1, 3, 3)
    ),
    "moved along an axis": (ball(33, (19, 33, 22)), ball(33, (20, 33, 22)), None, None, (1, 1, 1, 1, 1, 1)),
    "one in the other": (SMALL, LARGE, None, None, (20.09975124224178, 20.223748416156685, 15, 20, 24, 35)),
    "no prediction": (NOTHING, LARGE, None, None, (INF,) * 6),
    "no target": (MIDDLE, NOTHING, None, None, (INF,) * 6),
    "percentile": (SMALL, LARGE, None, 95, (19.924858845171276, 20.09975124224178, 14, 18, 22, 33)),
    "spacing, moved": (
        ball(20, (20, 20, 20), SPACING), ball(20, (19, 19, 19), SPACING), SPACING, None,
        (2.0808651447296143, 2.2671568, 2, 2, 3, 4),
    ),
    "spacing, one in the other": (
        ball(15, (20, 33, 22), SPACING), ball(30, (20, 33, 22), SPACING), SPACING, None,
        (15.439640998840332, 15.62594, 11, 17, 20, 28),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HAUSDORFF)
@pytest.mark.parametrize("distance", ["euclidean", "chessboard", "taxicab"])
def test_hausdorff_distances_of_balls(case, distance):
    pred, target, spacing, percentile, values = HAUSDORFF[case]
    at = 2 * ["euclidean", "chessboard", "taxicab"].index(distance)
    for directed, expected in zip((True, False), values[at : at + 2], strict=True):
        metric = compat.HausdorffDistanceMetric(distance_metric=distance, percentile=percentile, directed=directed)
        metric(one_hot(pred), one_hot(target), spacing=spacing)
        assert metric.aggregate(reduction="mean").item() == pytest.approx(expected, rel=1e-6)


# prediction, target, distance, spacing, and the average distance: of both surfaces, of the prediction's
AVERAGE: dict[str, Any] = {
    "same": (MIDDLE, MIDDLE, "euclidean", None, (0, 0)),
    "moved along the diagonal": (
        ball(20, (20, 20, 20)), ball(20, (19, 19, 19)), "taxicab", None, (1.0380029806259314, 1.0380029806259314)
    ),
    "moved along an axis": (
        ball(33, (19, 33, 22)), ball(33, (20, 33, 22)), "euclidean", None, (0.350217, 0.3483278807706289)
    ),
    "one in the other": (SMALL, LARGE, "euclidean", None, (15.117741, 12.040033513150455)),
    "one in the other, chessboard": (SMALL, LARGE, "chessboard", None, (11.492719, 9.605067064083457)),
    "one in the other, taxicab": (SMALL, LARGE, "taxicab", None, (20.214613, 12.432687531048186)),
    "no prediction": (NOTHING, LARGE, "euclidean", None, (INF, INF)),
    "no target": (MIDDLE, NOTHING, "taxicab", None, (INF, INF)),
    "spacing": (
        ball(33, (42, 45, 52), SPACING), ball(33, (43, 45, 52), SPACING), "euclidean", SPACING, (0.4951, 0.4951)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AVERAGE)
def test_average_distances_of_balls(case):
    pred, target, distance, spacing, values = AVERAGE[case]
    for symmetric, expected in zip((True, False), values, strict=True):
        metric = compat.SurfaceDistanceMetric(symmetric=symmetric, distance_metric=distance)
        metric(one_hot(pred), one_hot(target), spacing=spacing)
        assert metric.aggregate().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("spacing", [None, SPACING])
@pytest.mark.parametrize("name", ["HausdorffDistanceMetric", "SurfaceDistanceMetric"])
def test_nothing_in_both(name, spacing):
    """The mean of nothing is 0, and says so by a count of 0."""
    metric = getattr(compat, name)(get_not_nans=True)
    metric([NOTHING[None]], [NOTHING[None]], spacing=spacing)
    assert [x.item() for x in metric.aggregate()] == [0, 0]


@pytest.mark.parametrize("shape", [(480, 640), (200, 110, 80)], ids=["2-D", "3-D"])
def test_surface_dice_of_half_spaces_ten_voxels_apart(shape):
    pred, target = torch.zeros(2, 2, 2, *shape, dtype=torch.int64)
    begin = 50 if len(shape) == 2 else 20
    pred[0, 1, ..., begin:] = target[0, 1, ..., begin + 10 :] = 1
    pred[:, 0], target[:, 0] = 1 - pred[:, 1], 1 - target[:, 1]

    def measured(threshold: float, spacing: Any = None) -> torch.Tensor:
        return compat.SurfaceDiceMetric([threshold] * 2, include_background=True)(pred, target, spacing=spacing)

    exact = measured(0)
    if len(shape) == 2:
        apart = 478 + 480 + 9 * 2
        outer, inner = 480 * 4 + 48 * 2 + 58 * 2, 480 * 4 + 588 * 2 + 578 * 2
    else:
        apart = 200 * 110 + 198 * 108 + 9 * 200 * 2 + 9 * 108 * 2
        outer, inner = (200 * 110 * 4 + n * 200 * 2 + n * 108 * 2 for n in (28 + 18, 58 + 48))
    assert exact[0].tolist() == pytest.approx([1 - apart / outer, 1 - apart / inner])
    assert exact[1, 0] == 1
    assert exact[1, 1].isnan()
    rising = [exact, *(measured(t) for t in (1, 9, 10))]
    assert all((a[0] < b[0]).all() for a, b in itertools.pairwise(rising))
    torch.testing.assert_close(rising[-1], measured(11), equal_nan=True)
    if len(shape) == 2:  # ten columns of 1.2
        spaced = [measured(t, (0.85, 1.2)) for t in (0, 1, 9, 10, 11, 12)]
        assert all((a[0] <= b[0]).all() for a, b in itertools.pairwise(spaced))
        torch.testing.assert_close(spaced[-1], measured(13, (0.85, 1.2)), equal_nan=True)
    metric = compat.SurfaceDiceMetric([0, 0], include_background=True, get_not_nans=True)
    metric(pred, target)
    mean, count = metric.aggregate()
    assert mean.item() == pytest.approx((exact[0].mean().item() + 1) / 2)
    assert count.item() == 2


# distance, thresholds of background and object, pixels of the background's surfaces beyond, share of the object's
@pytest.mark.parametrize(
    ("distance", "thresholds", "beyond", "share"),
    [
        ("euclidean", (0, 0), 12, 0), ("euclidean", (2.8, 5.5), 3, 2 / 6), ("euclidean", (3, 6), 1, 4 / 6),
        ("chessboard", (0, 0), 12, 0), ("chessboard", (1, 4.999), 9, 0), ("chessboard", (2, 5), 3, 1),
        ("taxicab", (0, 0), 12, 0), ("taxicab", (1, 7), 9, 2 / 6), ("taxicab", (3, 9), 1, 1),
    ],
)  # fmt: skip
def test_surface_dice_of_two_bars(distance, thresholds, beyond, share):
    pred, target = torch.zeros(2, 1, 2, 10, 10)
    pred[0, 1, 1:4, 1] = target[0, 1, 5:8, 6] = 1
    pred[:, 0], target[:, 0] = 1 - pred[:, 1], 1 - target[:, 1]
    metric = compat.SurfaceDiceMetric(thresholds, include_background=True, distance_metric=distance)
    assert metric(pred, target)[0].tolist() == pytest.approx([1 - beyond / 84, share], rel=1e-6)


def cubes(dims: int, *corners: tuple[int, ...]) -> torch.Tensor:
    mask = torch.zeros((32,) * dims)
    for corner in corners:
        mask[tuple(slice(c, c + 5) for c in corner)] = 1
    return mask


@pytest.mark.parametrize(
    ("name", "pred", "target", "expected"),
    [
        ("hd", cubes(3, (10, 10, 10)), cubes(3, (10, 10, 10)), 0.0),
        ("hd", cubes(3, (11, 10, 10), (21, 19, 20)), cubes(3, (10, 10, 10), (20, 20, 20)), 1.2071),
        ("hd", cubes(2, (10, 10), (21, 19)), cubes(2, (10, 10), (20, 20)), 0.7071),
        ("asd", cubes(3, (10, 10, 10)), cubes(3, (10, 10, 10)), 0.0),
        ("asd", cubes(3, (10, 10, 10), (20, 20, 20)), cubes(3, (11, 10, 10), (11, 19, 20)), 3.6829),
        ("asd", cubes(2, (10, 10), (20, 20)), cubes(2, (10, 10), (21, 19)), 0.4504),
    ],
)
def test_distances_per_component(name, pred, target, expected):
    """MONAI after 1.6 measures distances in Voronoi cells, too: per_component=True."""
    assert lesion_metrics(pred, target)[name].item() == pytest.approx(expected, abs=1e-4)


# ---- differences on purpose, beyond those of test_compat_metrics --------------------------------------


def test_a_threshold_is_reached_within_a_relative_millionth():
    """MONAI compares float32 numbers, in which rounding decides."""
    pred, target = torch.zeros(2, 1, 1, 8, 8)
    pred[..., 2, 2] = target[..., 2, 5] = 1
    given = {"class_thresholds": [3 * (1 - 4e-7)], "include_background": True}
    assert compat.compute_surface_dice(pred, target, **given).item() == 1
    monai = pytest.importorskip("monai.metrics")
    assert monai.compute_surface_dice(pred, target, **given).item() == 0
    given["class_thresholds"] = [2.999]
    assert compat.compute_surface_dice(pred, target, **given).item() == 0


def test_warnings_name_the_class_and_the_trap_is_the_default():
    target = torch.ones(1, 2, 6, 6)
    pred = target.clone()
    pred[:, 1] = 0
    with pytest.warns(UserWarning, match="the prediction of class 1 is all 0"):
        values = compat.HausdorffDistanceMetric(percentile=95)(pred, target)
    assert values.isnan().all()
    assert compat.HausdorffDistanceMetric(percentile=95, on_empty="inf")(pred, target).item() == INF
    assert compat.HausdorffDistanceMetric()(pred, target).item() == INF
    assert compat.SurfaceDiceMetric([1.0])(pred, target).item() == 0


def test_classes_stand_on_their_own():
    """They inherit from nothing of MONAI's, which need not be installed."""
    for name in compat.__all__:
        parents = getattr(getattr(compat, name), "__mro__", ())
        assert not any(parent.__module__.startswith("monai") for parent in parents)
