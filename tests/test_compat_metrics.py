"""Drop-ins for other libraries' metrics: the same calls on both sides, the same numbers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from dtkernels.compat import medpy as our_medpy
from dtkernels.compat import surface_distance as ours_deepmind
from dtkernels.compat.monai import metrics as our_monai
from dtkernels.compat.monai.cumulative import REDUCTIONS, reduce

ROOT = Path(__file__).resolve().parent.parent
Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def blob(shape: tuple[int, ...], seed: int) -> Array:
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 2.0) > 0.03


def batch(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, 4, *shape) masks with every kind of emptiness in class 3."""
    pred, target = (
        torch.from_numpy(np.stack([[blob(shape, first + 10 * b + c) for c in range(4)] for b in range(3)]))
        for first in (0, 100)
    )
    pred[0, 3], target[1, 3] = False, False  # one empty
    pred[2, 3], target[2, 3] = False, False  # both empty
    target[0, 2] = True  # full
    return pred.to(dtype), target.to(dtype)


# ---- MONAI ------------------------------------------------------------------------------------------

SHAPES = {"2-D": (24, 31), "3-D": (13, 17, 12)}
SPACINGS: dict[str, Any] = {
    "none": None,
    "number": 0.8,
    "one": (2.0, 0.7, 1.1),
    "rows": [[2.0, 0.7, 1.1], [1.0, 1.0, 1.0], [0.5, 3.0, 0.8]],
}


def spacing_of(name: str, dims: int) -> Any:
    value = SPACINGS[name]
    if value is None or isinstance(value, float):
        return value
    return value[:dims] if name == "one" else [row[:dims] for row in value]


def same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("include_background", [True, False])
def test_monai_functions(dims, spacing, include_background):
    monai = pytest.importorskip("monai.metrics")
    pred, target = batch(SHAPES[dims])
    options = {"include_background": include_background, "spacing": spacing_of(spacing, len(SHAPES[dims]))}
    for percentile in (None, 95, 50, 100):
        for directed in (False, True):
            given = {**options, "percentile": percentile, "directed": directed}
            same(
                our_monai.compute_hausdorff_distance(pred, target, **given),
                monai.compute_hausdorff_distance(pred, target, **given),
            )
    for symmetric in (False, True):
        given = {**options, "symmetric": symmetric}
        same(
            our_monai.compute_average_surface_distance(pred, target, **given),
            monai.compute_average_surface_distance(pred, target, **given),
        )
    thresholds = [0.3, 1.7, 2.2, 1.3][: 4 if include_background else 3]
    for use_subvoxels in (False, True):
        if use_subvoxels and isinstance(options["spacing"], float):
            continue  # MONAI: object of type 'float' has no len()
        given = {**options, "class_thresholds": thresholds, "use_subvoxels": use_subvoxels}
        same(
            our_monai.compute_surface_dice(pred, target, **given),
            monai.compute_surface_dice(pred, target, **given),
        )


@pytest.mark.parametrize("distance_metric", ["chessboard", "taxicab"])
@pytest.mark.parametrize("dims", SHAPES)
def test_monai_distances_in_steps(dims, distance_metric):
    monai = pytest.importorskip("monai.metrics")
    pred, target = batch(SHAPES[dims])
    options = {"distance_metric": distance_metric, "include_background": True, "spacing": 2.0}
    for percentile in (None, 95):
        given = {**options, "percentile": percentile}
        same(
            our_monai.compute_hausdorff_distance(pred, target, **given),
            monai.compute_hausdorff_distance(pred, target, **given),
        )
    same(
        our_monai.compute_average_surface_distance(pred, target, symmetric=True, **options),
        monai.compute_average_surface_distance(pred, target, symmetric=True, **options),
    )
    same(
        our_monai.compute_surface_dice(pred, target, [1, 2, 1, 3], **options),
        monai.compute_surface_dice(pred, target, [1, 2, 1, 3], **options),
    )


def metrics_of(library: Any) -> list[Any]:
    return [
        library.HausdorffDistanceMetric(percentile=95, get_not_nans=True),
        library.HausdorffDistanceMetric(include_background=True, directed=True, get_not_nans=True),
        library.SurfaceDistanceMetric(symmetric=True, get_not_nans=True),
        library.SurfaceDiceMetric([1.0, 2.0, 1.5], get_not_nans=True),
    ]


def test_monai_classes_over_an_epoch():
    monai = pytest.importorskip("monai.metrics")
    pred, target = batch(SHAPES["3-D"])
    for ours, theirs in zip(metrics_of(our_monai), metrics_of(monai), strict=True):
        assert str(ours) == str(theirs)
        for epoch in range(2):
            for step in (slice(0, 2), slice(2, 3)):
                same(ours(pred[step], target[step]), theirs(y_pred=pred[step], y=target[step]))
            images = list(pred), list(target)  # channel-first images, too
            same(ours(*images, spacing=(2.0, 1.0, 0.5)), theirs(*images, spacing=(2.0, 1.0, 0.5)))
            assert len(ours) == len(theirs) == 6
            same(ours.get_buffer(), theirs.get_buffer())
            for reduction in REDUCTIONS:
                for a, b in zip(ours.aggregate(reduction), theirs.aggregate(reduction), strict=True):
                    same(a, b)
            same(ours.aggregate()[0], theirs.aggregate()[0])
            ours.reset()
            theirs.reset()
            assert len(ours) == len(theirs) == 0, epoch


def test_monai_reduction_words_and_enumeration():
    utils = pytest.importorskip("monai.utils")
    values = torch.tensor([[1.0, math.nan], [math.nan, math.nan], [2.0, math.inf]])
    same(reduce(values, utils.MetricReduction.MEAN_BATCH), reduce(values, "mean_batch"))
    assert reduce(values, "mean_batch")[1].tolist() == [2, 1]
    assert values.isnan().sum() == 3  # MONAI's writes zeros into its argument
    with pytest.raises(ValueError, match=r"reduction: expected one of 'none', .*, got 'median'"):
        reduce(values, "median")


@pytest.mark.parametrize("ignore_index", [0, 2, -1, 9])
def test_monai_ignore_index(ignore_index):
    monai = pytest.importorskip("monai.metrics")
    if "ignore_index" not in monai.SurfaceDistanceMetric.__init__.__annotations__:
        pytest.skip("this MONAI has no ignore_index")
    rng = np.random.default_rng(3)
    labels = [
        torch.from_numpy(ndimage.gaussian_filter(rng.normal(size=(4, 2, 20, 23)), (0, 0, 2, 2)).argmax(0))
        for _ in range(2)
    ]
    pred, target = (torch.nn.functional.one_hot(x, 4).movedim(-1, 1).float() for x in labels)
    target[:, :, :5] = 0  # voxels of no class
    for name, options in {
        "HausdorffDistanceMetric": {"include_background": True},
        "SurfaceDistanceMetric": {"include_background": True},
        "SurfaceDiceMetric": {"class_thresholds": [1.0, 1.0, 1.0, 1.0], "include_background": True},
    }.items():
        options["ignore_index"] = ignore_index
        same(getattr(our_monai, name)(**options)(pred, target), getattr(monai, name)(**options)(pred, target))


def test_monai_trap_and_the_way_out():
    """Misses count for nothing where MONAI's numbers are asked for, and cost where on_empty is given."""
    target = torch.zeros(2, 1, 12, 12)
    target[:, :, 2:5, 2:5] = 1
    pred = target.roll(3, dims=-1)
    pred[1] = 0

    def mean(**options: Any) -> float:
        metric = our_monai.HausdorffDistanceMetric(include_background=True, percentile=95, **options)
        metric(pred, target)
        return metric.aggregate().item()

    assert mean() == 3.0
    assert mean(on_empty="inf") == math.inf
    assert mean(on_empty="diagonal") == pytest.approx((3 + math.hypot(12, 12)) / 2)
    assert mean(on_empty=20.0) == 11.5
    average = our_monai.SurfaceDistanceMetric(include_background=True, on_empty=20.0)
    assert average(pred, target)[1].item() == 20.0


def test_monai_warns_of_empty_masks_by_class():
    pred, target = batch((9, 9))
    metric = our_monai.SurfaceDistanceMetric()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metric(pred, target)
    assert sorted(str(w.message) for w in caught) == [
        f"the {what} of class 3 is all 0, this may result in nan/inf distance."
        for what in ("ground truth", "prediction")
    ]


def test_monai_inputs():
    monai = pytest.importorskip("monai.metrics")
    pred, target = batch(SHAPES["2-D"])
    expected = monai.compute_hausdorff_distance(pred, target)
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64):
        same(our_monai.compute_hausdorff_distance(pred.to(dtype), target.to(dtype)), expected)
    same(our_monai.compute_hausdorff_distance(pred.numpy(), target.numpy()), expected)
    meta = pytest.importorskip("monai.data").MetaTensor
    result = our_monai.HausdorffDistanceMetric()(meta(pred).requires_grad_(), meta(target))
    assert type(result) is torch.Tensor
    same(result, expected)
    single = our_monai.compute_hausdorff_distance(pred[:, :1], target[:, :1])  # a single class stays
    same(single, monai.compute_hausdorff_distance(pred[:, :1], target[:, :1]))
    rows = torch.tensor([[1.0, 2.0], [1.0, 1.0], [0.5, 0.7]])
    same(
        our_monai.compute_hausdorff_distance(pred, target, spacing=rows),
        our_monai.compute_hausdorff_distance(pred, target, spacing=rows.tolist()),
    )
    metric = our_monai.HausdorffDistanceMetric()  # a spacing for each image of a list
    same(metric(list(pred), list(target), spacing=rows.tolist()), metric(pred, target, spacing=rows.tolist()))


ONE = torch.zeros(2, 2, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: our_monai.compute_hausdorff_distance(ONE, ONE[:1]), "y_pred and y should have same shapes"),
        (lambda: our_monai.compute_hausdorff_distance(ONE, ONE, percentile=101), "percentiles: expected"),
        (
            lambda: our_monai.compute_hausdorff_distance(ONE, ONE, distance_metric="l2"),
            "distance: expected one of",
        ),
        (lambda: our_monai.compute_hausdorff_distance(ONE, ONE, spacing=(1, 2, 3)), "spacing: expected a number"),
        (lambda: our_monai.compute_hausdorff_distance(ONE, ONE, spacing=[[1, 2]]), "for each of 2 samples"),
        (lambda: our_monai.compute_hausdorff_distance(ONE, ONE, spacing="1"), "spacing: expected a number"),
        (lambda: our_monai.HausdorffDistanceMetric()(ONE[0, 0], ONE[0, 0]), "at least three dimensions"),
        (lambda: our_monai.HausdorffDistanceMetric()(ONE), "y: expected a tensor"),
        (lambda: our_monai.HausdorffDistanceMetric()("masks"), "must be a list/tuple of `channel-first` Tensors"),
        (lambda: our_monai.HausdorffDistanceMetric().aggregate(), "the data to aggregate must be PyTorch Tensor"),
        (lambda: our_monai.compute_surface_dice(ONE, ONE, [1.0, 1.0]), "number of classes \\(1\\)"),
        (lambda: our_monai.compute_surface_dice(ONE, ONE, [-1.0]), "need to be >= 0"),
        (lambda: our_monai.compute_surface_dice(ONE, ONE, [math.nan]), "need to be finite"),
        (lambda: our_monai.compute_surface_dice(ONE[0], ONE[0], [1.0]), "should be one-hot encoded"),
    ],
)
def test_monai_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- several processes ------------------------------------------------------------------------------

WORKER = """
    import os, sys, torch
    import torch.distributed as dist
    from dtkernels.compat.monai.metrics import HausdorffDistanceMetric
    from dtkernels.compat.torchmetrics import HausdorffDistance, SurfaceMetric

    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    pred, target = torch.load(f"{folder}/masks.pt")
    mine = [slice(0, 2), slice(2, 3)][rank]  # uneven
    monai = HausdorffDistanceMetric(include_background=True, get_not_nans=True)
    surface = SurfaceMetric(num_classes=4)
    hausdorff = HausdorffDistance(num_classes=3, include_background=True)
    monai(pred[mine], target[mine])
    surface.update(pred[mine].int(), target[mine].int())
    if rank == 0:  # and one has nothing
        hausdorff.update(pred[:, :3].int(), target[:, :3].int())
    result = {"monai": monai.aggregate("none"), "mean": monai.aggregate()[0], "len": len(monai),
              "surface": surface.compute(), "hausdorff": hausdorff.compute()}
    monai.reset()
    result["nothing"] = monai.get_buffer()
    if rank == 1:
        monai(pred[mine], target[mine])
    result["one rank"] = monai.aggregate("none")
    torch.save(result, f"{folder}/result{rank}.pt")
    dist.destroy_process_group()
"""


def test_processes_add_up(tmp_path):
    torchmetrics = pytest.importorskip("dtkernels.compat.torchmetrics", exc_type=ImportError)
    pred, target = batch((12, 14))
    torch.save((pred, target), tmp_path / "masks.pt")
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(ROOT)) if p)
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(WORKER), str(rank), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [w.wait(120) for w in workers] == [0, 0]
    alone = our_monai.HausdorffDistanceMetric(include_background=True, get_not_nans=True)
    alone(pred, target)
    surface = torchmetrics.SurfaceMetric(num_classes=4)
    surface.update(pred.int(), target.int())
    hausdorff = torchmetrics.HausdorffDistance(num_classes=3, include_background=True)
    hausdorff.update(pred[:, :3].int(), target[:, :3].int())
    for rank in range(2):
        found = torch.load(tmp_path / f"result{rank}.pt")
        same(found["monai"], alone.aggregate("none"))
        same(found["mean"], alone.aggregate()[0])
        assert found["nothing"] is None
        same(found["one rank"], tuple(x[2:] for x in alone.aggregate("none")))
        assert found["len"] == 3
        same(found["surface"], surface.compute())
        same(found["hausdorff"], hausdorff.compute())


# ---- torchmetrics -----------------------------------------------------------------------------------


@pytest.fixture
def tm():
    return pytest.importorskip("dtkernels.compat.torchmetrics", exc_type=ImportError)


@pytest.mark.parametrize("distance_metric", ["euclidean", "chessboard", "taxicab"])
@pytest.mark.parametrize("input_format", ["one-hot", "index", "mixed"])
def test_torchmetrics_hausdorff(tm, input_format, distance_metric):
    """On square 2-D images, where torchmetrics is right."""
    theirs = pytest.importorskip("torchmetrics.segmentation")
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(3, 3, 16, 16, generator=generator), torch.rand(3, 3, 16, 16, generator=generator)
    labels = [x.argmax(1) for x in masks]
    onehot = [torch.nn.functional.one_hot(x, 3).movedim(-1, 1) for x in labels]
    pred, target = {"one-hot": onehot, "index": labels, "mixed": (masks[0], labels[1])}[input_format]
    for directed in (False, True):
        options = {"num_classes": 3, "distance_metric": distance_metric, "directed": directed,
                   "input_format": input_format}  # fmt: skip
        if distance_metric == "euclidean":
            options["spacing"] = [2.0, 0.5]
        ours, other = tm.HausdorffDistance(**options), theirs.HausdorffDistance(**options)
        for metric in (ours, other):
            metric.update(pred[:2], target[:2])
            metric.update(pred[2:], target[2:])
        same(ours.compute(), other.compute())


def test_torchmetrics_is_wrong_off_the_square_and_in_3d(tm):
    """Ours agrees with MONAI there."""
    functional = pytest.importorskip("torchmetrics.functional.segmentation")
    monai = pytest.importorskip("monai.metrics")
    pred, target = (x[:1, :3].int() for x in batch((24, 31)))
    expected = monai.compute_hausdorff_distance(pred, target)
    same(tm.hausdorff_distance(pred, target, 3), expected)
    try:
        theirs = functional.hausdorff_distance(pred, target, 3)
    except (IndexError, RuntimeError, ValueError):
        theirs = torch.full_like(expected, math.nan)
    assert not torch.allclose(theirs, expected)
    pred, target = (x[:1, :3].int() for x in batch((13, 17, 12)))
    same(tm.hausdorff_distance(pred, target, 3), monai.compute_hausdorff_distance(pred, target))
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        functional.hausdorff_distance(pred, target, 3)


def test_torchmetrics_counts_what_means_leave_out(tm):
    from dtkernels.metrics import aggregate, surface_metrics

    pred, target = batch((12, 14, 10))
    metric = tm.SurfaceMetric(num_classes=4, include_background=True, percentiles=(95, 50), tolerances=(1, 2.5))
    spacing = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0.5, 0.5, 2.0]])
    metric.update(pred[:2].int(), target[:2].int(), spacing[:2])
    metric.update(pred[2:].int(), target[2:].int(), spacing[2:])
    found = metric.compute()
    expected = surface_metrics(pred, target, spacing, percentiles=(95, 50), tolerances=(1, 2.5))
    assert set(metric.names) == set(expected)
    for name, values in expected.items():
        mean, _, infinite, undefined = aggregate(values, 0)
        same(found[name], mean)
        assert found[f"{name}_infinite"].tolist() == infinite.tolist()
        assert found[f"{name}_undefined"].tolist() == undefined.tolist()
    assert found["hd95_infinite"].tolist() == [0, 0, 0, 2]
    assert found["hd95_undefined"].tolist() == [0, 0, 0, 1]
    assert math.isnan(found["hd95"][3])
    over_all = tm.SurfaceMetric(num_classes=4, include_background=True, per_class=False)
    over_all.update(pred.int(), target.int())
    assert over_all.compute()["hd95_infinite"].item() == 2
    metric.reset()
    assert metric.compute()["hd95_infinite"].sum().item() == 0


def test_torchmetrics_forward_collection_and_device_moves(tm):
    torchmetrics = pytest.importorskip("torchmetrics")
    pred, target = (x[:, :3].int() for x in batch((12, 14)))
    collection = torchmetrics.MetricCollection(
        [tm.HausdorffDistance(num_classes=3), tm.SurfaceMetric(num_classes=3, definition="medpy")]
    )
    step = collection(pred, target)
    same(step["HausdorffDistance"], tm.hausdorff_distance(pred, target, 3).mean())
    clone = collection.clone().to("cpu").double()
    same(clone.compute(), collection.compute())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes: expected a positive int, got 0"),
        ({"num_classes": 3, "include_background": 1}, "include_background: expected a bool"),
        ({"num_classes": 3, "input_format": "onehot"}, "input_format: .*did you mean 'one-hot'"),
    ],
)
def test_torchmetrics_bad_arguments(tm, options, message):
    for metric in (tm.HausdorffDistance, tm.SurfaceMetric):
        with pytest.raises(ValueError, match=message):
            metric(**options)
    with pytest.raises(ValueError, match="preds, target: expected one rank"):
        tm.hausdorff_distance(torch.zeros(1, 4, 4), torch.zeros(1, 2, 4, 4), 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(tm):
    """The same numbers, and nothing is read back before somebody looks at the result."""
    pred, target = (x.cuda() for x in batch(SHAPES["3-D"]))
    spacing = torch.tensor([[2.0, 0.7, 1.1], [1.0, 1.0, 1.0], [0.5, 3.0, 0.8]])
    rows = spacing.cuda()
    surface = tm.SurfaceMetric(num_classes=4).to("cuda")
    given = metrics_of(our_monai)
    for watched in (False, True):  # constants are copied to the device once
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error" if watched else mode)
        try:
            for metric in given:
                metric.reset()
                metric(pred, target, spacing=rows)
            surface.update(pred.int(), target.int(), rows)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for metric, expected in zip(given, metrics_of(our_monai), strict=True):
        expected(pred.cpu(), target.cpu(), spacing=spacing)
        same(metric.get_buffer().cpu(), expected.get_buffer())


# ---- MedPy ------------------------------------------------------------------------------------------

PAIRS = {
    "1-D": (np.array([0, 1, 1, 1, 0, 0, 1, 0]), np.array([1, 1, 1, 0, 0, 0, 0, 0])),
    "2-D": (blob((30, 41), 1), blob((30, 41), 2)),
    "3-D": (blob((15, 21, 18), 1), blob((15, 21, 18), 2)),
    "edges": (np.pad(np.ones((4, 5)), ((0, 6), (0, 3))), np.pad(np.ones((4, 5)), ((6, 0), (3, 0)))),
    "lesions": (ndimage.label(blob((40, 40), 3))[0] % 3, np.roll(blob((40, 40), 3), 2, 0)),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("pair", PAIRS)
def test_medpy_overlap(pair):
    theirs = pytest.importorskip("medpy.metric.binary")
    masks = PAIRS[pair]
    nothing = np.zeros_like(masks[0])
    for result, reference in (masks, masks[::-1], (masks[0], nothing), (nothing, masks[0]), (nothing, nothing)):
        for name in ("dc", "jc", "precision", "recall", "sensitivity", "specificity", "true_negative_rate",
                     "true_positive_rate", "positive_predictive_value"):  # fmt: skip
            expected = float(getattr(theirs, name)(result, reference))
            if math.isnan(expected):  # NumPy 2.4's counts divide by zero without an error
                expected = 1.0 if name in ("dc", "jc") else 0.0  # as documented
            assert getattr(our_medpy, name)(result, reference) == pytest.approx(expected, rel=1e-12), name
    assert our_medpy.ravd(*masks) == pytest.approx(theirs.ravd(*masks), rel=1e-12)
    with pytest.raises(RuntimeError, match="reference: expected an array with an object"):
        our_medpy.ravd(masks[0], nothing)


@pytest.mark.parametrize("pair", PAIRS)
def test_medpy_distances(pair):
    theirs = pytest.importorskip("medpy.metric.binary")
    result, reference = PAIRS[pair]
    for connectivity in range(1, result.ndim + 1):
        for spacing in (None, 0.7, (2.0, 0.7, 1.1)[: result.ndim]):
            for name in ("hd", "hd95", "asd", "assd"):
                arguments = (result, reference, spacing, connectivity)
                expected = getattr(theirs, name)(*arguments)
                assert getattr(our_medpy, name)(*arguments) == pytest.approx(expected, rel=1e-6), name
    nothing = np.zeros_like(result)
    for arguments, name in (((nothing, result), "result"), ((result, nothing), "reference")):
        with pytest.raises(RuntimeError, match=f"{name}: expected an array with an object"):
            our_medpy.hd95(*arguments)
        with pytest.raises(RuntimeError):
            theirs.hd95(*arguments)


@pytest.mark.parametrize("seed", range(6))
def test_medpy_objects(seed):
    """Components that touch at most one other: where several do, MedPy's choice is "arbitrary"."""
    theirs = pytest.importorskip("medpy.metric.binary")
    rng = np.random.default_rng(seed)
    centres = rng.permutation(9)[:6]
    result, reference = np.zeros((2, 36, 36), bool)
    for k, centre in enumerate(centres):
        y, x = 12 * (centre // 3) + 3, 12 * (centre % 3) + 3
        shift = rng.integers(-2, 3, 2)
        if k != 1:
            result[y : y + rng.integers(3, 6), x : x + rng.integers(3, 6)] = True
        if k != 2:
            reference[y + shift[0] : y + shift[0] + 4, x + shift[1] : x + shift[1] + 4] = True
    for connectivity in (1, 2):
        for name in ("obj_asd", "obj_assd"):
            arguments = (result, reference, (2.0, 0.5), connectivity)
            expected = getattr(theirs, name)(*arguments)
            assert getattr(our_medpy, name)(*arguments) == pytest.approx(expected, rel=1e-6), name
        for name in ("obj_tpr", "obj_fpr"):
            for a, b in ((result, reference), (reference, result)):
                expected = getattr(theirs, name)(a, b, connectivity)
                assert getattr(our_medpy, name)(a, b, connectivity) == pytest.approx(expected), name


def test_medpy_objects_on_one_another():
    """Counts of pairs do not hang on which of several is taken first."""
    theirs = pytest.importorskip("medpy.metric.binary")
    for seed in range(4):
        result, reference = blob((40, 40), seed), np.roll(blob((40, 40), seed), 3, 1) & (np.arange(40) % 7 > 0)
        for name in ("obj_tpr", "obj_fpr"):
            expected = getattr(theirs, name)(result, reference)
            assert getattr(our_medpy, name)(result, reference) == pytest.approx(expected), (seed, name)


def test_medpy_objects_take_any_connectivity():
    """As SciPy's structuring elements: more than the rank is the rank."""
    x = blob((12, 12), 0)
    assert our_medpy.obj_tpr(x, x, connectivity=9) == our_medpy.obj_tpr(x, x, connectivity=2) == 1


def test_monai_ignores_nothing_that_the_dtype_cannot_hold():
    y = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    y[..., 2:5, 2:5] = 1
    from dtkernels.compat.monai.metrics import compute_hausdorff_distance

    pred = y.roll(1, -1)
    options = {"include_background": True}
    assert torch.equal(
        compute_hausdorff_distance(pred, y, ignore_index=-255, **options),
        compute_hausdorff_distance(pred, y, **options),
    )


def test_medpy_volume_correlations():
    theirs = pytest.importorskip("medpy.metric.binary")
    rng = np.random.default_rng(0)
    results = np.stack([rng.random((6, 7)) < p for p in (0.1, 0.5, 0.3, 0.9)])
    references = np.stack([rng.random((6, 7)) < p for p in (0.2, 0.4, 0.5, 0.8)])
    for name in ("volume_correlation", "volume_change_correlation"):
        expected = getattr(theirs, name)(results, references)
        np.testing.assert_allclose(getattr(our_medpy, name)(results, references), expected)


def test_medpy_has_all_functions():
    theirs = pytest.importorskip("medpy.metric.binary")
    there = {
        name for name, value in vars(theirs).items()
        if callable(value) and not name.startswith("_") and value.__module__ == theirs.__name__
    }  # fmt: skip
    assert there == set(our_medpy.__all__)


# ---- surface-distance -------------------------------------------------------------------------------


@pytest.fixture
def deepmind(monkeypatch):
    """surface-distance 0.1 asks for np.Inf and np.NaN where a mask is empty."""
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    monkeypatch.setattr(np, "NaN", np.nan, raising=False)
    return pytest.importorskip("surface_distance")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("pair", ["2-D", "3-D", "edges", "empty", "both empty", "single", "full"])
def test_surface_distance(deepmind, pair):
    a, b = (x.astype(bool) for x in PAIRS.get(pair, PAIRS["3-D"]))
    if "empty" in pair:
        b = np.zeros_like(b)
        a = a & ("both" not in pair)
    if pair == "single":
        a, b = np.zeros_like(a), np.zeros_like(b)
        a[3, 4, 5] = b[9, 2, 0] = True
    if pair == "full":
        a = np.ones_like(a)
    spacing = (2.0, 0.7, 1.1)[: a.ndim]
    for gt, pred in ((a, b), (b, a)):
        ours = ours_deepmind.compute_surface_distances(gt, pred, spacing)
        theirs = deepmind.compute_surface_distances(gt, pred, spacing)
        assert list(ours) == list(theirs)
        for key, expected in theirs.items():
            assert ours[key].dtype == np.float64
            np.testing.assert_allclose(np.sort(ours[key]), np.sort(expected), rtol=1e-6, err_msg=key)
        for name, arguments in {
            "compute_average_surface_distance": [()],
            "compute_robust_hausdorff": [(95,), (100,), (31.7,)],
            "compute_surface_overlap_at_tolerance": [(1.3,)],
            "compute_surface_dice_at_tolerance": [(1.3,), (0,)],
        }.items():
            for more in arguments:
                np.testing.assert_allclose(
                    getattr(ours_deepmind, name)(ours, *more), getattr(deepmind, name)(theirs, *more),
                    rtol=1e-6, err_msg=name,
                )  # fmt: skip
        np.testing.assert_allclose(
            ours_deepmind.compute_dice_coefficient(gt, pred), deepmind.compute_dice_coefficient(gt, pred)
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_surface_distance_arrays_are_the_library_s_at_whole_numbers(deepmind):
    """Integer spacing: the same arrays, element by element, in the same order."""
    a, b = PAIRS["3-D"]
    ours = ours_deepmind.compute_surface_distances(a, b, (3, 1, 2))
    theirs = deepmind.compute_surface_distances(a, b, (3, 1, 2))
    for key, expected in theirs.items():
        np.testing.assert_allclose(ours[key], expected, rtol=1e-14, err_msg=key)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_surface_distance_is_undone_by_numpy_2_where_a_mask_is_empty():
    """The library itself, without the names that the fixture lends it: it raises where ours answers."""
    deepmind = pytest.importorskip("surface_distance")
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:6] = True
    for gt, pred in ((mask, ~mask & mask), (~mask & mask, mask)):
        ours = ours_deepmind.compute_surface_distances(gt, pred, (1, 1))
        assert ours_deepmind.compute_robust_hausdorff(ours, 95) == np.inf
        if not hasattr(np, "Inf"):  # NumPy 2
            with pytest.raises(AttributeError, match=r"np\.Inf"):
                deepmind.compute_surface_distances(gt, pred, (1, 1))


def test_surface_distance_bad_input():
    good = np.zeros((3, 3), bool)
    for masks, spacing, message in (
        ((good.tolist(), good), (1, 1), "'mask_gt' should be a numpy array"),
        ((good, good.astype(int)), (1, 1), "'mask_pred' should be a numpy array of type bool"),
        ((good, good[None]), (1, 1), "compatible shape"),
        ((good, good[:2]), (1, 1), "compatible shape"),
        ((good[0], good[0]), (1,), "Only 2D and 3D masks are supported, not 1D"),
    ):
        with pytest.raises(ValueError, match=message):
            ours_deepmind.compute_surface_distances(*masks, spacing)


def test_surface_distance_has_all_functions(deepmind):
    there = {name for name in vars(deepmind) if name.startswith("compute_")}
    assert there == set(ours_deepmind.__all__)


# ---- all --------------------------------------------------------------------------------------------


def test_no_library_is_needed():
    """Everything but torchmetrics' own classes works where no other library can be imported."""
    code = """
        import sys
        for name in ("monai", "medpy", "surface_distance", "torchmetrics", "scipy"):
            sys.modules[name] = None
        import numpy as np, torch
        from dtkernels.compat import medpy, surface_distance
        from dtkernels.compat.monai.metrics import HausdorffDistanceMetric
        mask = np.eye(5, dtype=bool)
        assert medpy.hd95(mask, mask[::-1]) > 0
        assert len(surface_distance.compute_surface_distances(mask, mask, (1, 1))) == 4
        HausdorffDistanceMetric(include_background=True)(torch.eye(5)[None, None], torch.eye(5)[None, None])
        try:
            import dtkernels.compat.torchmetrics
        except ImportError as error:
            assert "pip install 'dtkernels[torchmetrics]'" in str(error), error
        else:
            raise AssertionError("no error")
    """
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(ROOT)) if p)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
