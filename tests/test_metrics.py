"""Surface metrics: against the three libraries, against brute force, and where masks are empty."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import PAIRS
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode

from dtkernels import metrics
from dtkernels.metrics import dense, distances, masks, packed, surface, surface_metrics, surfels
from dtkernels.metrics.definitions import DEFINITIONS
from dtkernels.metrics.surface import shares_within

PERCENTILES = (95, 52, 99.5)
TOLERANCES = (1.0, 0.0, 2.6)
Array = np.ndarray[Any, Any]


# ---- masks ------------------------------------------------------------------------------------------


def blob(shape: tuple[int, ...], seed: int) -> Array:
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 2.0) > 0.03


def block(shape: tuple[int, ...], *bounds: tuple[int, int]) -> Array:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*b) for b in bounds)] = True
    return mask


def cases() -> dict[str, tuple[Array, Array]]:
    result = {}
    for dims, shape in ((2, (26, 31)), (3, (17, 22, 19))):
        one = [block(shape, *[(k, k + 1)] * dims) for k in (2, 11)]
        corner = block(shape, *[(0, 1)] * dims)
        whole = np.ones(shape, bool)
        low = block(shape, *[(0, 7)] * dims)  # touches one edge of each axis
        high = block(shape, *[(5, None)] * dims)
        plates = [block(shape, (k, k + 1), *[(None, None)] * (dims - 1)) for k in (3, 8)]
        holes = blob(shape, 5) & ~blob(shape, 6)
        for name, pair in {
            "blobs": (blob(shape, 1), blob(shape, 2)),
            "shifted": (np.roll(blob(shape, 3), 1, -1), blob(shape, 3)),
            "holes": (holes, blob(shape, 5)),
            "noise": tuple(np.random.default_rng(k).random(shape) < 0.3 for k in (1, 2)),
            "single voxels": tuple(one),
            "voxel in a corner, full": (corner, whole),
            "edges": (low, high),
            "plates": tuple(plates),
            "plate, blob": (plates[0], blob(shape, 4)),
            "nested": (block(shape, *[(4, 12)] * dims), block(shape, *[(6, 9)] * dims)),
            "equal": (blob(shape, 1), blob(shape, 1)),
            "full, full": (whole, whole),
        }.items():
            result[f"{dims}-D {name}"] = pair
    return result


CASES = cases()
SPACINGS = {"unit": (1.0, 1.0, 1.0), "anisotropic": (2.5, 0.7, 1.1)}


def measured(pred: Array, target: Array, spacing: Any, definition: str, **options: Any) -> dict[str, float]:
    p, t = torch.from_numpy(pred), torch.from_numpy(target)
    result = surface_metrics(
        p, t, spacing, definition=definition, percentiles=PERCENTILES, tolerances=TOLERANCES, **options
    )
    return {key: value.item() for key, value in result.items()}


def assert_equal(actual: dict[str, float], expected: dict[str, float]) -> None:
    assert {k: actual[k] for k in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True)


# ---- the libraries ----------------------------------------------------------------------------------


def by_medpy(pred: Array, target: Array, spacing: Any, directed: bool) -> dict[str, float]:
    binary = pytest.importorskip("medpy.metric.binary")
    there = binary.__dict__["__surface_distances"](pred, target, spacing)
    if directed:
        hausdorff = {f"hd{q:g}": np.percentile(there, q) for q in PERCENTILES} | {"hd": there.max()}
    else:
        back = binary.__dict__["__surface_distances"](target, pred, spacing)
        hausdorff = {f"hd{q:g}": np.percentile(np.hstack((there, back)), q) for q in PERCENTILES}
        hausdorff |= {"hd": binary.hd(pred, target, spacing), "hd95": binary.hd95(pred, target, spacing)}
    return hausdorff | {
        "asd": binary.asd(pred, target, spacing),
        "assd": binary.assd(pred, target, spacing),
        "msd": binary.hd(pred, target, spacing),
    }


def by_monai(pred: Array, target: Array, spacing: Any, directed: bool) -> dict[str, float]:
    monai = pytest.importorskip("monai.metrics")
    p, t = (torch.from_numpy(x)[None, None].float() for x in (pred, target))
    options = {"include_background": True, "spacing": spacing}

    def hausdorff(percentile: float | None, directed: bool) -> float:
        return monai.compute_hausdorff_distance(p, t, percentile=percentile, directed=directed, **options).item()

    result = {"hd": hausdorff(None, directed), "msd": hausdorff(None, False)}
    result |= {f"hd{q:g}": hausdorff(q, directed) for q in PERCENTILES}
    for key, symmetric in (("asd", False), ("assd", True)):
        result[key] = monai.compute_average_surface_distance(p, t, symmetric=symmetric, **options).item()
    if not directed:
        for tau in TOLERANCES:
            result[f"nsd@{tau:g}"] = monai.compute_surface_dice(p, t, class_thresholds=[tau], **options).item()
    return result


@pytest.fixture(autouse=True)
def _names_that_numpy_2_lacks(monkeypatch):
    """surface-distance 0.1 asks for np.Inf and np.NaN where a mask is empty."""
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    monkeypatch.setattr(np, "NaN", np.nan, raising=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def by_deepmind(pred: Array, target: Array, spacing: Any, directed: bool) -> dict[str, float]:
    library = pytest.importorskip("surface_distance.metrics")
    found = library.compute_surface_distances(target, pred, spacing)
    back, there = library.compute_average_surface_distance(found)
    result = {"asd": there, "assd": (there + back) / 2, "msd": library.compute_robust_hausdorff(found, 100)}
    if directed:  # only the prediction's surface
        found |= {"distances_gt_to_pred": np.array([0.0]), "surfel_areas_gt": np.array([1.0])}
    result["hd"] = library.compute_robust_hausdorff(found, 100)
    for q in PERCENTILES:
        result[f"hd{q:g}"] = library.compute_robust_hausdorff(found, q)
    for tau in TOLERANCES:
        both = library.compute_surface_dice_at_tolerance(found, tau)
        result[f"nsd@{tau:g}"] = library.compute_surface_overlap_at_tolerance(found, tau)[1] if directed else both
    return result


LIBRARIES: dict[str, Callable[..., dict[str, float]]] = {
    "medpy": by_medpy,
    "monai": by_monai,
    "deepmind": by_deepmind,
}


@pytest.fixture(params=["packed", "one by one", "dense"])
def path(request, monkeypatch):
    """The ways of CPUs, for small and for large images, and that of other devices, which a CPU can go as well."""
    if request.param == "dense":
        monkeypatch.setattr(packed, "measure", dense.measure)
    if request.param == "one by one":
        monkeypatch.setattr(packed, "_SMALL", 0)
    return request.param


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("directed", [False, True], ids=["symmetric", "directed"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("definition", LIBRARIES)
def test_libraries(definition, case, spacing, directed, path):
    pred, target = CASES[case]
    numbers = list(SPACINGS[spacing][: pred.ndim])
    expected = LIBRARIES[definition](pred, target, numbers, directed)
    assert_equal(measured(pred, target, numbers, definition, directed=directed), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("definition", LIBRARIES)
@pytest.mark.parametrize("subset", ["hippocampus", "kits19"])
def test_libraries_on_real_labels(definition, subset):
    folder = Path(os.environ.get("DTK_DATA", "")) / ("hippocampus/labelsTr" if subset == "hippocampus" else subset)
    if not os.environ.get("DTK_DATA") or not folder.is_dir():
        pytest.skip(f"DTK_DATA names no folder with {subset}")
    nibabel = pytest.importorskip("nibabel")
    # KiTS19 at a lower resolution, for the libraries' sake
    names = ("hippocampus_001", "hippocampus_004") if subset == "hippocampus" else ("case_00004",)
    for name in names:
        image = nibabel.load(folder / f"{name}.nii.gz")
        labels = np.asarray(image.dataobj).astype(np.uint8)
        spacing = [float(x) for x in image.header.get_zooms()]
        if subset == "kits19":
            labels, spacing = labels[:, ::3, ::3], [spacing[0], 3 * spacing[1], 3 * spacing[2]]
            labels = np.pad(labels[ndimage.find_objects((labels > 0).astype(int))[0]], 2)
        for label in (1, 2):
            target = labels == label
            pred = np.roll(ndimage.binary_opening(target), (0, 1, 2), (0, 1, 2))
            expected = LIBRARIES[definition](pred, target, spacing, False)
            assert_equal(measured(pred, target, spacing, definition), expected)


# ---- brute force ------------------------------------------------------------------------------------


def surface_by_hand(mask: Array, spacing: tuple[float, ...], subvoxel: bool) -> tuple[Array, Array]:
    """Positions and sizes of the surface, by looking at every voxel or corner."""
    padded = np.pad(mask, 1)
    points, sizes = [], []
    areas = surfels.measures(torch.tensor(spacing, dtype=torch.float64)).numpy() if subvoxel else None
    for at in np.ndindex(*(n + 1 for n in mask.shape)):
        if areas is not None:
            cell = padded[tuple(slice(i, i + 2) for i in at)].ravel()
            code = int("".join("1" if x else "0" for x in cell), 2)
            if 0 < code < len(areas) - 1:
                points.append(at)
                sizes.append(areas[code])
        elif all(i < n for i, n in zip(at, mask.shape, strict=True)) and mask[at]:
            steps = np.eye(mask.ndim, dtype=int)
            around = [padded[tuple(np.array(at) + 1 + s)] for k in range(mask.ndim) for s in (steps[k], -steps[k])]
            if not all(around):
                points.append(at)
                sizes.append(1.0)
    return np.array(points, float).reshape(-1, mask.ndim) * spacing, np.array(sizes)


def nearest(points: Array, others: Array) -> Array:
    result = np.empty(len(points))
    rows = max(1, PAIRS // len(others))
    for i in range(0, len(points), rows):
        square = ((points[i : i + rows, None] - others[None]) ** 2).sum(-1)
        result[i : i + rows] = np.sqrt(square.min(1))
    return result


def by_hand(pred: Array, target: Array, spacing: tuple[float, ...], definition: str) -> dict[str, float]:
    rule = DEFINITIONS[definition]
    (p, wp), (t, wt) = (surface_by_hand(m, spacing, rule.subvoxel) for m in (pred, target))
    there, back = nearest(p, t), nearest(t, p)
    d, w = np.concatenate([there, back]), np.concatenate([wp, wt])

    def percentile(d: Array, w: Array, q: float) -> float:
        if not rule.subvoxel:
            return float(np.percentile(d, q))
        order = np.argsort(d)
        share = np.cumsum(w[order]) / w.sum()
        return float(d[order][min(np.searchsorted(share, q / 100), len(d) - 1)])

    result = {"hd": d.max(), "msd": d.max(), "asd": np.average(there, weights=wp)}
    result["assd"] = (
        np.average(d, weights=w) if rule.pooled_mean else (result["asd"] + np.average(back, weights=wt)) / 2
    )
    result["rmsd"] = math.sqrt(np.average(d**2, weights=w))
    for q in PERCENTILES:
        pooled = percentile(d, w, q)
        result[f"hd{q:g}"] = (
            pooled if rule.pooled_percentile else max(percentile(there, wp, q), percentile(back, wt, q))
        )
    for tau in TOLERANCES:
        result[f"nsd@{tau:g}"] = w[d <= tau + 1e-9].sum() / w.sum()
    return result


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("shape", [(13, 17), (7, 9, 8)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("seed", range(3))
def test_brute_force(definition, shape, seed, path):
    rng = np.random.default_rng(seed)
    spacing = tuple(rng.uniform(0.4, 3.0, len(shape)))
    pred, target = (rng.random(shape) < p for p in (0.2, 0.5))
    expected = by_hand(pred, target, spacing, definition)
    assert_equal(measured(pred, target, spacing, definition), expected)


def test_one_dimension(path):
    pred, target = np.array([0, 1, 1, 1, 0, 0, 1, 0], bool), np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    for definition in ("medpy", "monai"):
        expected = by_hand(pred, target, (0.5,), definition)
        assert_equal(measured(pred, target, 0.5, definition), expected)


def test_surface_includes_the_image_edge(path):
    """A 3 x 6 block at the edge of a 6 x 6 image has 14 surface pixels, 6 with an open border."""
    mask = block((6, 6), (0, 3), (0, 6))
    images = masks.pair(torch.from_numpy(mask), torch.from_numpy(mask), 2, None, True)
    sums = packed.measure(images, None, DEFINITIONS["monai"], False, (), (), distances.by_name("euclidean", None))
    assert sums.total.flatten().tolist() == [14, 14]


def test_surface_elements_are_sized_by_spacing(path):
    """A plate across an axis counts by its area: two faces, and rims half a voxel high."""
    mask = block((5, 8, 8), (2, 3), (0, 8), (0, 8))
    images = masks.pair(torch.from_numpy(mask), torch.from_numpy(mask), 3, None, True)
    spacing = [2.0, 1.0, 1.0]
    total = packed.measure(
        images, spacing, DEFINITIONS["deepmind"], False, (), (), distances.by_name("euclidean", None)
    ).total[0, 0, 0]
    rims = 8 * 7 * math.hypot(1.0, 0.5) + 8 * math.hypot(2.0, 2.0, 1.0) / 8
    assert total.item() == pytest.approx(2 * 7 * 7 + rims, rel=1e-9)


# ---- percentiles ------------------------------------------------------------------------------------


def one_surface(squares: Array) -> packed.Elements:
    return packed.Elements(squares, np.array([0, len(squares)]))


def test_percentiles_beyond_the_limit_of_torch_quantile():
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 5000, 17_000_000).astype(np.float32)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(torch.from_numpy(squares), 0.95)
    expected = math.sqrt(np.partition(squares, 16_150_000)[16_150_000])  # 0.95 * 17,000,000, and its like around
    assert packed._ranked(one_surface(squares), False, (95.0,))[0] == pytest.approx([expected], rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("q", [0.0, 5.0, 50.0, 95.0, 100.0])
def test_percentiles_are_numpys(count, q):
    rng = np.random.default_rng(count)
    squares = rng.integers(0, 30, count).astype(np.float32)
    expected = np.percentile(np.sqrt(squares.astype(np.float64)), q)
    assert packed._ranked(one_surface(squares), False, (q,))[0] == pytest.approx([expected], rel=1e-12)
    keys = torch.full((1, count + 7), dense._BEYOND, dtype=torch.int32)
    keys[0, 3 : 3 + count] = torch.from_numpy(squares).view(torch.int32)
    assert dense._linear(keys, q / 100).tolist() == pytest.approx([expected], rel=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 1.1), (0.3, 0.3, 0.9)])
def test_halves_of_symmetric_masks_are_rounded_as_in_the_library(spacing):
    """Four of eight equal areas: the percentile of 50 hangs on the last bit of a sum."""
    library = pytest.importorskip("surface_distance.metrics")
    for name in ("3-D single voxels", "3-D plates", "3-D nested"):
        pred, target = CASES[name]
        found = library.compute_surface_distances(target, pred, spacing)
        options = {"definition": "deepmind", "percentiles": (25, 50, 75)}
        result = surface_metrics(torch.from_numpy(pred), torch.from_numpy(target), spacing, **options)
        expected = [library.compute_robust_hausdorff(found, q) for q in (25, 50, 75)]
        assert result.hd_percentiles.tolist() == pytest.approx(expected, rel=1e-6)


def test_ties_at_the_tolerance_count():
    """0.1 * 3 > 0.3 in float64; a distance of three voxels of 0.1 mm is within 0.3 mm all the same."""
    pred, target = block((1, 9), (0, 1), (1, 2)), block((1, 9), (0, 1), (4, 5))
    for n in range(1, 60):
        spacing = n / 10
        result = surface_metrics(
            torch.from_numpy(pred), torch.from_numpy(target), spacing, tolerances=(n * 3 / 10, n * 3 / 10 * 0.999)
        )
        assert result.nsd.tolist() == [1, 0]


# ---- batches, forms of input ------------------------------------------------------------------------


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """(3, 4, ...) with an empty prediction, an empty target, both empty, a full mask."""
    shape = (10, 12, 11)
    pred = torch.from_numpy(np.stack([blob(shape, k) for k in range(12)])).reshape(3, 4, *shape)
    target = torch.from_numpy(np.stack([blob(shape, k) for k in range(20, 32)])).reshape(3, 4, *shape)
    pred[0, 1] = False
    target[1, 2] = False
    pred[2, 3] = target[2, 3] = False
    target[1, 0] = True
    return pred, target


def assert_same(a: metrics.SurfaceMetrics, b: metrics.SurfaceMetrics) -> None:
    assert list(a) == list(b)
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-6, atol=0, equal_nan=True)
    assert torch.equal(a.pred_empty, b.pred_empty)
    assert torch.equal(a.target_empty, b.target_empty)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_batch_is_its_images(definition, path):
    pred, target = batch()
    spacing = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.5, 1.0], [0.9, 0.9, 3.0]])
    result = surface_metrics(pred, target, spacing, definition=definition, percentiles=(95, 20), tolerances=(1, 2))
    assert result.hd.shape == (3, 4)
    assert result.hd_percentiles.shape == result.nsd.shape == (2, 3, 4)
    assert result["hd20"].shape == (3, 4)
    assert {v.dtype for v in result.values()} == {torch.float32}
    for b in range(3):
        for c in range(4):
            single = surface_metrics(
                pred[b, c], target[b, c], spacing[b].tolist(), definition=definition,
                percentiles=(95, 20), tolerances=(1, 2),
            )  # fmt: skip
            for key in result:
                torch.testing.assert_close(result[key][b, c], single[key], rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_both_ways_agree(definition, directed, per_sample, monkeypatch):
    pred, target = batch()
    spacing = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)) + 0.5 if per_sample else None
    options = {"definition": definition, "directed": directed, "on_empty": "diagonal"}
    expected = surface_metrics(pred, target, spacing, percentiles=PERCENTILES, **options)
    monkeypatch.setattr(packed, "_SMALL", 0)
    assert_same(surface_metrics(pred, target, spacing, percentiles=PERCENTILES, **options), expected)
    monkeypatch.setattr(packed, "measure", dense.measure)
    assert_same(surface_metrics(pred, target, spacing, percentiles=PERCENTILES, **options), expected)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
@pytest.mark.parametrize("distance", distances.NAMES)
def test_both_ways_agree_on_distances_and_connectivity(distance, connectivity, monkeypatch):
    pred, target = batch()
    options = {"distance": distance, "connectivity": connectivity, "percentiles": PERCENTILES}
    expected = surface_metrics(pred, target, **options)
    plain = surface_metrics(pred, target, percentiles=PERCENTILES)
    assert (distance == "euclidean" and connectivity == 1) == all(
        torch.equal(expected[key].nan_to_num(), plain[key].nan_to_num()) for key in plain
    )
    monkeypatch.setattr(packed, "measure", dense.measure)
    assert_same(surface_metrics(pred, target, **options), expected)


@pytest.mark.parametrize("name", ["chessboard", "taxicab"])
@pytest.mark.parametrize("shape", [(1,), (37,), (1, 9), (23, 18), (8, 1, 11), (9, 13, 16)])
def test_distances_in_steps_are_scipys(name, shape):
    rng = np.random.default_rng(sum(shape))
    masks_ = np.stack([rng.random(shape) < p for p in (0.2, 0.9, 0.99)])
    masks_.reshape(3, -1)[:, 0] = False
    found = distances.by_name(name, None)(torch.from_numpy(masks_), None, len(shape)).sqrt()
    for one, mask in zip(found, masks_, strict=True):
        np.testing.assert_array_equal(one.numpy(), ndimage.distance_transform_cdt(mask, metric=name))
    full = distances.by_name(name, None)(torch.ones(shape, dtype=torch.bool), None, len(shape))
    assert full.isinf().all()


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
     torch.float32, torch.float64],
)  # fmt: skip
def test_dtypes(dtype, path):
    pred, target = batch()
    expected = surface_metrics(pred, target)
    assert_same(surface_metrics(pred.to(dtype), target.to(dtype)), expected)
    if dtype == torch.uint8:  # masks of 0 and 255 are masks
        assert_same(surface_metrics(pred.to(dtype) * 255, target.to(dtype)), expected)
        numbered = pred * torch.arange(1, 5, dtype=dtype).reshape(4, 1, 1, 1)  # each class has its number
        assert_same(surface_metrics(numbered, target.to(dtype)), expected)
        assert torch.equal(metrics.dice(numbered, target).nan_to_num(), metrics.dice(pred, target).nan_to_num())
    if dtype.is_floating_point:  # NaN is background
        other = torch.where(pred, 1.0, math.nan).to(dtype)
        assert_same(surface_metrics(other, target), expected)


def test_layouts():
    pred, target = batch()
    expected = surface_metrics(pred, target)
    last = pred.float().contiguous(memory_format=torch.channels_last_3d)
    assert_same(surface_metrics(last, target), expected)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (pred, target)]
    assert_same(surface_metrics(*turned), expected)
    flipped = surface_metrics(pred.flip(-1), target.flip(-1))
    for key in expected:
        torch.testing.assert_close(flipped[key], expected[key], equal_nan=True)
    before = pred.clone()
    surface_metrics(pred, target, definition="deepmind")
    assert torch.equal(pred, before)


def test_tensors_of_other_kinds():
    pred, target = batch()
    expected = surface_metrics(pred, target)
    with torch.no_grad():
        assert_same(surface_metrics(pred.float().requires_grad_(), target), expected)
    with torch.inference_mode():
        assert_same(surface_metrics(pred.float(), target), expected)
    monai = pytest.importorskip("monai.data")
    meta = surface_metrics(monai.MetaTensor(pred.float()), monai.MetaTensor(target.float()))
    assert type(meta.hd) is torch.Tensor
    assert_same(meta, expected)


def test_leading_dimensions(path):
    pred, target = batch()
    expected = surface_metrics(pred, target)
    grid = surface_metrics(
        pred.reshape(3, 2, 2, *pred.shape[2:]), target.reshape(3, 2, 2, *pred.shape[2:]), spatial_dims=3
    )
    torch.testing.assert_close(grid.assd, expected.assd.reshape(3, 2, 2), equal_nan=True)
    row = surface_metrics(pred[0], target[0], spatial_dims=3)
    torch.testing.assert_close(row.assd, expected.assd[0], equal_nan=True)
    slices = surface_metrics(pred[:, 0], target[:, 0], spatial_dims=2)
    assert slices.hd.shape == (3, 10)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_zero_sizes(shape, definition, path):
    x = torch.zeros(shape)
    result = surface_metrics(x, x, definition=definition)
    assert result.hd.shape == shape[:2]
    assert result["hd95"].isnan().all()
    assert metrics.overlap_metrics(x, x).dice.shape == shape[:2]


def test_label_maps(path):
    rng = np.random.default_rng(0)
    pred, target = (torch.from_numpy(rng.integers(0, 4, (2, 9, 8, 7))) for _ in range(2))
    onehot = [torch.stack([x == c for c in range(4)], 1) for x in (pred, target)]
    for definition in DEFINITIONS:
        expected = surface_metrics(*onehot, definition=definition)
        result = surface_metrics(pred, target, definition=definition, num_classes=4, spatial_dims=3)
        assert_same(result, expected)
    channel = surface_metrics(pred[:, None].byte(), target[:, None].byte(), num_classes=4)
    assert channel.hd.shape == (2, 4)
    single = surface_metrics(pred[0], target[0], num_classes=4)
    assert single.hd.shape == (4,)
    without = surface_metrics(pred, target, num_classes=4, spatial_dims=3, include_background=False)
    torch.testing.assert_close(without.assd, channel.assd[:, 1:])


def test_background():
    pred, target = batch()
    expected = surface_metrics(pred, target)
    without = surface_metrics(pred, target, include_background=False)
    torch.testing.assert_close(without.rmsd, expected.rmsd[:, 1:], equal_nan=True)


def test_nothing_asked():
    pred, target = batch()
    result = surface_metrics(pred, target, percentiles=(), tolerances=())
    assert list(result) == ["hd", "asd", "assd", "msd", "rmsd"]
    assert len(result) == 5
    assert result.hd_percentiles.shape == result.nsd.shape == (0, 3, 4)


def test_single_functions():
    pred, target = batch()
    spacing = (2.0, 1.0, 0.5)
    for definition in DEFINITIONS:
        result = surface_metrics(
            pred, target, spacing, definition=definition, percentiles=(90,), tolerances=(1.5,), on_empty=7
        )
        given = {"spacing": spacing, "definition": definition}
        for key, value in {
            "hd": metrics.hausdorff_distance(pred, target, **given, on_empty=7),
            "hd90": metrics.hausdorff_percentile(pred, target, **given, percentile=90, on_empty=7),
            "asd": metrics.average_surface_distance(pred, target, **given, on_empty=7),
            "assd": metrics.average_symmetric_surface_distance(pred, target, **given, on_empty=7),
            "msd": metrics.maximum_symmetric_surface_distance(pred, target, **given, on_empty=7),
            "rmsd": metrics.root_mean_square_surface_distance(pred, target, **given, on_empty=7),
            "nsd@1.5": metrics.normalized_surface_dice(pred, target, **given, tolerance=1.5),
        }.items():
            torch.testing.assert_close(value, result[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("spacing", [None, (2.3, 0.7, 1.1)], ids=["unit", "anisotropic"])
@pytest.mark.parametrize("tolerance", [0, 0.5, 1, 2, 3.5, 50])
def test_shares_alone_are_those_of_all_metrics(definition, spacing, tolerance, path):
    """Voxels that look around themselves find what a transform does; the largest tolerance is for a transform."""
    pred, target = batch()
    for directed in (False, True):
        given = {"spacing": spacing, "definition": definition, "directed": directed}
        alone = metrics.normalized_surface_dice(pred, target, tolerance=tolerance, **given)
        expected = surface_metrics(pred, target, tolerances=tolerance, **given)
        torch.testing.assert_close(alone, expected.nsd[0], rtol=1e-6, atol=0, equal_nan=True)
        several = shares_within(pred, target, tolerances=(tolerance, 1.3, 0.8), **given)
        expected = surface_metrics(pred, target, tolerances=(tolerance, 1.3, 0.8), **given)
        torch.testing.assert_close(several.nsd, expected.nsd, rtol=1e-6, atol=0, equal_nan=True)
        assert torch.equal(several.pred_empty, expected.pred_empty)
        assert torch.equal(several.target_empty, expected.target_empty)


def test_shares_alone_need_no_transform(monkeypatch):
    """As long as looking around is less work: for few steps, or for surfaces that are close."""
    transforms = []
    by_name = distances.by_name

    def counted(name, backend):
        found = by_name(name, backend)
        return lambda *given: transforms.append(1) or found(*given)

    monkeypatch.setattr("dtkernels.metrics.surface.distances.by_name", counted)
    target = torch.from_numpy(block((40, 40, 40), (5, 35), (5, 35), (5, 35)))
    near, far = target.roll(1, 0), torch.from_numpy(block((40, 40, 40), (0, 3), (0, 3), (0, 3)))
    noise = torch.rand(40, 40, 40, generator=torch.Generator().manual_seed(0)) > 0.5
    for pred, tolerance, expected in ((near, 1, 0), (near, 4, 0), (near, 30, 1), (far, 1, 0), (far, 4, 1),
                                      (noise, 0.5, 0), (noise, 3, 1)):  # fmt: skip
        metrics.normalized_surface_dice(pred, target, tolerance=tolerance)
        assert len(transforms) == expected, tolerance
        metrics.normalized_surface_dice(pred, target, tolerance=tolerance, backend="cpu")
        assert len(transforms) == expected + 1
        transforms.clear()


# ---- empty masks ------------------------------------------------------------------------------------


def empties() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples: found, prediction empty, target empty, both empty."""
    target = torch.zeros(4, 1, 6, 8)
    target[:2, :, 1:4, 2:5] = 1
    pred = target.clone()
    pred[1] = 0
    pred[2, :, 3:5, 3:5] = 1
    return pred, target


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize(
    ("on_empty", "missing"), [("inf", math.inf), ("nan", math.nan), ("diagonal", 13.0), (374.0, 374.0)]
)
def test_empty_masks(definition, directed, on_empty, missing, path):
    pred, target = empties()
    spacing = (2.0, 0.625)  # the diagonal of 6 x 8 is hypot(12, 5)
    result = surface_metrics(pred, target, spacing, definition=definition, directed=directed, on_empty=on_empty)
    for key in ("hd", "hd95", "asd", "assd", "msd", "rmsd"):
        assert result[key].flatten().tolist() == pytest.approx([0, missing, missing, math.nan], nan_ok=True)
    assert result["nsd@1"].flatten().tolist() == pytest.approx([1, 0, 0, math.nan], nan_ok=True)
    assert result.pred_empty.flatten().tolist() == [False, True, False, True]
    assert result.target_empty.flatten().tolist() == [False, False, True, True]
    perfect = surface_metrics(pred, target, definition=definition, directed=directed, on_both_empty="perfect")
    assert perfect["hd95"][3].item() == 0
    assert perfect["nsd@1"][3].item() == 1


def test_diagonal_per_sample(path):
    pred, target = empties()
    spacing = torch.tensor([[1.0, 1.0], [0.5, 0.5], [2.0, 0.625], [1.0, 1.0]])
    result = surface_metrics(pred, target, spacing, on_empty="diagonal")
    assert result["hd95"].flatten().tolist() == pytest.approx([0, 5, 13, math.nan], nan_ok=True)


def test_empty_masks_as_an_error(path):
    pred, target = empties()
    with pytest.raises(
        ValueError,
        match=r"on_empty: .*got none in pred at \[1, 0\]; target at \[2, 0\]; pred and target at \[3, 0\]",
    ):
        surface_metrics(pred, target, on_empty="error")
    assert surface_metrics(pred[:1], target[:1], on_empty="error").hd.item() == 0


@pytest.mark.filterwarnings("ignore")
def test_what_the_libraries_do_with_empty_masks():
    """The table of dtkernels.metrics.surface, so that it stays true."""
    pred, target = (x[:, 0].bool().numpy() for x in empties())
    nan, inf = math.nan, math.inf
    for n in (1, 2, 3):
        with pytest.raises(RuntimeError, match="does not contain any binary object"):
            by_medpy(pred[n], target[n], None, False)
    for n, expected in {
        1: {"hd": inf, "hd95": nan, "asd": inf, "assd": inf, "nsd@1": 0},
        2: {"hd": inf, "hd95": nan, "asd": inf, "assd": inf, "nsd@1": 0},
        3: {"hd": nan, "hd95": nan, "asd": nan, "assd": nan, "nsd@1": nan},
    }.items():
        assert_equal(by_monai(pred[n], target[n], None, False), expected)
    for n, expected in {
        1: {"hd": inf, "hd95": inf, "asd": nan, "nsd@1": 0},
        2: {"hd": inf, "hd95": inf, "asd": inf, "nsd@1": 0},
        3: {"hd": inf, "hd95": inf, "asd": nan, "nsd@1": nan},
    }.items():
        assert_equal(by_deepmind(pred[n], target[n], [1, 1], False), expected)


# ---- no synchronisation -----------------------------------------------------------------------------


class NoReadBack(TorchDispatchMode):
    """Fails on operators that would make the host wait for a GPU."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} reads back"
        if name == "index":
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "a mask as an index reads back"
        if name == "where":
            assert all(x.ndim for x in args[1:]), "a number in where is copied to the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("on_empty", ["inf", "nan", "diagonal", 3.0])
def test_nothing_is_read_back(definition, on_empty, monkeypatch):
    monkeypatch.setattr(packed, "measure", dense.measure)
    pred, target = batch()
    labels = pred.long().sum(1)
    with NoReadBack():
        result = surface_metrics(pred, target, (1.0, 2.0, 1.0), definition=definition, on_empty=on_empty)
        surface_metrics(labels, labels, definition=definition, num_classes=3, spatial_dims=3)
        for distance in ("chessboard", "taxicab"):
            surface_metrics(pred, target, distance=distance, connectivity=2, on_empty=on_empty)
        metrics.normalized_surface_dice(pred, target, definition=definition, tolerance=2)
        metrics.overlap_metrics(pred, target, on_both_empty="perfect")
        metrics.aggregate(result["hd95"])
    with pytest.raises(AssertionError, match="reads back"), NoReadBack():
        surface_metrics(pred, target, on_empty="error")


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_whatever_device_is_the_default(definition):
    """Constants are made where they are used, not where tensors come to lie that ask for no device."""
    pred, target = batch()
    spacing = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    for given in (None, [2.0, 0.5, 1.0], spacing):
        options = {"definition": definition, "percentiles": PERCENTILES, "on_empty": "diagonal"}
        expected = surface_metrics(pred, target, given, **options)
        with torch.device("meta"):
            result = surface_metrics(pred, target, given, **options)
            metrics.overlap_metrics(pred, target)
        for key in expected:
            assert torch.equal(result[key].nan_to_num(-1.0), expected[key].nan_to_num(-1.0)), key


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_on_a_gpu(definition):
    pred, target = batch()
    spacing = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    device = [x.cuda() for x in (pred, target, spacing)]
    surface_metrics(*device, definition=definition)  # constants are copied once
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = surface_metrics(*device, definition=definition, percentiles=PERCENTILES, on_empty="diagonal")
        overlap = metrics.overlap_metrics(*device[:2])
        metrics.aggregate(overlap.dice)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    expected = surface_metrics(
        pred, target, spacing, definition=definition, percentiles=PERCENTILES, on_empty="diagonal"
    )
    for key in expected:
        torch.testing.assert_close(result[key].cpu(), expected[key], rtol=1e-6, atol=0, equal_nan=True)


# ---- bad input --------------------------------------------------------------------------------------

M = torch.zeros(2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([0, 1], M), {}, TypeError, r"pred: expected a torch\.Tensor, got builtins\.list"),
        ((M, M.numpy()), {}, TypeError, r"target: expected a torch\.Tensor, got numpy\.ndarray"),
        ((M.cfloat(), M.cfloat()), {}, TypeError, "pred: expected dtype in .*, got complex64"),
        ((M.clone().requires_grad_(), M), {}, ValueError, "pred: expected a tensor that needs no gradient"),
        ((M, M[:1]), {}, ValueError, r"target: expected the shape of pred, \(2, 3, .*got \(1, 3, "),
        ((M, M[:, :1]), {}, ValueError, "one-hot encode the label map"),
        ((M.to("meta"), M), {}, ValueError, "target: expected a tensor on meta like pred, got cpu"),
        ((M[None], M[None]), {}, ValueError, "pred: expected at most 5 dimensions"),
        ((M, M, (1, 2)), {}, ValueError, "spacing: expected 3 numbers"),
        ((M, M, (1, 2, -1)), {}, ValueError, "spacing: expected positive finite numbers"),
        ((M, M, torch.ones(3, 3)), {}, ValueError, r"spacing: expected shape \(2, 3\)"),
        ((M, M), {"definition": "monnai"}, ValueError, "definition: .*got 'monnai'; did you mean 'monai'"),
        ((M, M), {"on_empty": "infinite"}, ValueError, "on_empty: .*got 'infinite'; did you mean 'inf'"),
        ((M, M), {"on_both_empty": 0}, ValueError, "on_both_empty: expected one of 'nan', 'perfect', got 0"),
        ((M, M), {"distance": "euclid"}, ValueError, "distance: .*got 'euclid'; did you mean 'euclidean'"),
        ((M, M, 2.0), {"distance": "taxicab"}, ValueError, "spacing: expected None with distance='taxicab'"),
        ((M, M), {"connectivity": 4}, ValueError, "connectivity: expected 1..3"),
        (
            (M, M),
            {"connectivity": 2, "definition": "deepmind"},
            ValueError,
            "connectivity: expected 1 with definition",
        ),
        ((M, M), {"percentiles": 101}, ValueError, "percentiles: expected numbers from 0 to 100, got 101"),
        ((M, M), {"percentiles": "95"}, TypeError, "percentiles: expected a number or a sequence"),
        ((M, M), {"percentiles": ("x",)}, TypeError, "percentiles: expected a number or a sequence"),
        ((M, M), {"tolerances": (-1.0,)}, ValueError, "tolerances: expected numbers that are finite"),
        ((M, M), {"tolerances": None}, TypeError, "tolerances: expected a number or a sequence"),
        ((M, M + 0.3), {}, ValueError, r"target: expected a mask .*got float32 .*target > 0\.5"),
        ((M.int() + torch.arange(6), M), {}, ValueError, "pred: expected a mask .*from 0 to 5; pass num_classes"),
        ((M, M), {"num_classes": 3}, TypeError, "pred: expected integer labels with num_classes=3, got float32"),
        ((M.int(), M.int()), {"num_classes": 3}, ValueError, "pred: expected label maps"),
        ((M[:, :1].int(),) * 2, {"num_classes": 1, "include_background": False}, ValueError, "include_background"),
        ((M[:, :1], M[:, :1]), {"include_background": False}, ValueError, "include_background: expected True"),
        ((M, M), {"spatial_dims": 4}, ValueError, "spatial_dims: expected 1, 2 or 3, got 4"),
        ((M, M), {"backend": "gpu"}, ValueError, "backend: expected one of"),
    ],
)
def test_bad_input(arguments, options, error, message):
    if "backend" in options:  # asked for where there is something to transform
        arguments = tuple(torch.ones_like(x) for x in arguments)
    with pytest.raises(error, match=message):
        surface.surface_metrics(*arguments, **options)
