"""The numbers that the maps of the literature must give, and what published code gives where it is wrong."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import maps_oracle
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

import dtkernels as dtk

DATA = Path(os.environ.get("DTK_DATA", "/nonexistent"))


def ball(radius: float, side: int = 24) -> torch.Tensor:
    grid = np.indices((side,) * 3) - side // 2
    return torch.from_numpy((grid**2).sum(0) <= radius**2)


def layers(values: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """The distinct values inside, from the boundary inwards."""
    return sorted(set(np.round(values[mask].double().numpy(), 4).tolist()), reverse=True)[:4]


ROOT_2, ROOT_3 = 1.4142, 1.7321


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("edt_diff", [-1, -ROOT_2, -ROOT_3]),
        ("ma_sdf", [0, -ROOT_2, -ROOT_3, -2]),
        ("kervadec", [0, -0.4142, -0.7321, -1]),
        ("itk_maurer", [0, -1, -ROOT_2, -ROOT_3]),
        ("half", [-0.5, -0.9142, -1.2321, -1.5]),
    ],
)
def test_layers_of_a_ball_of_radius_6(name: str, first: list[float]) -> None:
    mask = ball(6)
    assert layers(dtk.distance_map(mask, name), mask)[: len(first)] == pytest.approx(first)


def test_rectified_weights() -> None:
    mask = torch.stack((ball(6), torch.zeros(24, 24, 24, dtype=torch.bool))).unsqueeze(0)
    rrw = dtk.distance_map(mask, "rrw")[0]
    assert (rrw[1] == 1).all()
    inside = dtk.edt(mask[0, 0])
    assert rrw[0, 12, 12, 12] == rrw[0].min() == -1
    boundary = rrw[0][mask[0, 0]].max().item()
    assert boundary == pytest.approx(-1 / inside.max().item())


def test_li_nidm_spans() -> None:
    voxel = torch.zeros(7, 7, 7)
    voxel[3, 3, 3] = 1
    assert dtk.distance_map(voxel, "li_nidm")[3, 3, 3] == 1
    for radius, low in ((5, 0.196), (9, 0.110)):
        mask = ball(radius)
        values = dtk.distance_map(mask, "li_nidm")[mask]
        assert values.max() == 1
        assert values.min().item() == pytest.approx(low, abs=5e-4)


def test_inner_boundary_at_the_edge_of_an_image() -> None:
    """An open border has 6 boundary pixels where MedPy's and MONAI's mask XOR erosion has 14."""
    mask = np.zeros((6, 6), bool)
    mask[:3] = True
    zeros = ((dtk.distance_map(torch.from_numpy(mask), "ma_sdf") == 0).numpy() & mask).sum()
    closed = ((dtk.distance_map(torch.from_numpy(mask), "ma_sdf", border="closed") == 0).numpy() & mask).sum()
    assert (zeros, closed) == (6, 14)
    assert (mask ^ ndimage.binary_erosion(mask)).sum() == 14


def test_thin_objects_have_no_inside_under_ma_sdf11() -> None:
    mask = torch.zeros(9, 9)
    mask[4, 2:7] = 1
    assert (dtk.distance_map(mask, "ma_sdf11")[mask > 0] == 0).all()


# ---- defects of published code: ours, and theirs -----------------------------------------------------------


def test_inverted_bytes_are_no_background() -> None:
    """~ of a uint8 mask is 254 and 255, never 0, and SciPy measures to a place outside the image."""
    mask = np.ones((30, 28), np.uint8)
    mask[:, 13:] = 0
    theirs = ndimage.distance_transform_edt(~mask)
    ours = dtk.distance_map(torch.from_numpy(mask), "edt_sdf", inside="negative").clamp(min=0)
    assert ours.max() == 15
    assert theirs.max() == pytest.approx(40.4, abs=0.05)


def test_integer_targets_truncate_kervadecs_map() -> None:
    """Kervadec's loader writes the map into an array of the one-hot target's integer type."""
    mask = ball(6).numpy()
    d_in, d_out = maps_oracle.distances(mask, (1.0,) * 3)
    theirs = np.zeros(mask.shape, np.int64)
    theirs[...] = d_out * ~mask - (d_in - 1) * mask
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float32):
        ours = dtk.distance_map(torch.from_numpy(mask).to(dtype), "kervadec")
        np.testing.assert_allclose(ours.numpy(), maps_oracle.MAPS["kervadec"](mask, (1.0,) * 3), atol=1e-5)
    assert np.abs(theirs - ours.numpy()).max() > 0.9


def test_kervadecs_one_is_a_millimetre() -> None:
    """At other spacings the zero level is off; that of "half" is between voxels at any."""
    mask = ball(6)

    def at_boundary(name: str, spacing: object) -> set[float]:
        values = dtk.distance_map(mask, name, spacing)
        edge = dtk.distance_map(mask, "ma_sdf") == 0
        return set(np.round(values[edge & mask].double().numpy(), 4).tolist())

    assert at_boundary("kervadec", None) == {0}
    assert at_boundary("kervadec", (1, 1, 0.5)) == {0, 0.5}
    assert at_boundary("kervadec", 5.0) == {-4}
    assert {0.7, 0.4} <= set(np.round(dtk.distance_map(mask, "kervadec", 0.3)[mask].double().numpy(), 1).tolist())
    # -0.75: two voxels along the last axis are as near as one along another, and come first.
    assert at_boundary("half", (1, 1, 0.5)) == {-0.75, -0.5, -0.25}
    assert at_boundary("half", (1, 1, 0.7)) == {-0.5, -0.35}
    assert at_boundary("half", 5.0) == {-2.5}
    assert at_boundary("half", 0.3) == {-0.15}


def test_every_class_has_a_map_of_its_own() -> None:
    """Valverde's code keeps the previous class's map where a class is absent."""
    masks = torch.stack((ball(6), torch.zeros(24, 24, 24, dtype=torch.bool), ball(3))).unsqueeze(0)
    theirs, kept = [], None
    for mask in masks[0].numpy():
        if mask.any():  # as published: else the variable still holds the last map
            kept = maps_oracle.MAPS["edt_diff"](mask, (1.0,) * 3)
        theirs.append(kept)
    ours = dtk.distance_map(masks, "edt_diff")[0]
    assert (ours[1] == torch.inf).all()
    assert np.isfinite(theirs[1]).all()
    np.testing.assert_allclose(ours[2].numpy(), theirs[2], atol=1e-5)


def test_half_precision_does_not_overflow() -> None:
    """257 squared is beyond float16, where MONAI computes in the input's dtype."""
    mask = torch.ones(2, 300, dtype=torch.float16)
    mask[:, 0] = 0
    ours = dtk.distance_map(mask, "edt")
    assert ours.dtype == torch.float32
    assert ours[0, 299] == 299
    assert (torch.tensor(299.0, dtype=torch.float16) ** 2).isinf()


def test_full_masks_are_not_measured_to_a_place_outside() -> None:
    """SciPy's transform of ones(3, 3) begins with 1, sqrt 2, sqrt 5."""
    theirs = ndimage.distance_transform_edt(np.ones((3, 3)))
    np.testing.assert_allclose(theirs[0], np.sqrt([1, 2, 5]))
    assert (dtk.distance_map(torch.ones(3, 3), "edt") == torch.inf).all()
    assert (dtk.distance_map(torch.ones(3, 3), "ma_dtm") == 0).all()


def test_images_of_no_voxels_have_maps_of_no_voxels() -> None:
    """SimpleITK's Danielsson filters write beyond such an image and end the process."""
    if importlib.util.find_spec("SimpleITK") is None:
        pytest.skip("SimpleITK is not installed")
    shape = (0, 64, 64)
    code = (
        f"import numpy, SimpleITK as s; s.DanielssonDistanceMap(s.GetImageFromArray(numpy.zeros({shape}, 'u1')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode < 0
    for name in ("edt", "edt_diff", "itk_maurer"):
        assert dtk.distance_map(torch.zeros(shape, dtype=torch.uint8), name).shape == shape


def test_monai_keeps_integer_targets_and_full_masks_wrong() -> None:
    """As MONAI 1.4 to 1.6 has them, beside ours on the same arrays."""
    if importlib.util.find_spec("monai") is None:
        pytest.skip("MONAI is not installed")
    from monai.transforms.utils import distance_transform_edt

    full = torch.ones(1, 3, 3)
    assert torch.isfinite(torch.as_tensor(distance_transform_edt(full))).all()
    mask = ball(6)[None]
    theirs = torch.as_tensor(distance_transform_edt(mask.int()))
    ours = dtk.distance_map(mask[0].int(), "edt")
    np.testing.assert_allclose(ours.numpy(), maps_oracle.MAPS["edt"](mask[0].numpy(), (1.0,) * 3), atol=1e-5)
    np.testing.assert_allclose(theirs[0].double().numpy(), ours.double().numpy(), atol=1e-4)


def test_foreground_only_maps_do_not_see_where_a_false_positive_lies() -> None:
    """With an island 2 or 30 voxels away the foreground-only map weighs it alike, the two-sided not."""
    target = torch.zeros(1, 60)
    target[0, 5:15] = 1
    weights = {}
    for name in ("ma_dtm", "hd_two"):
        of_target = dtk.distance_map(target, name).square()
        for gap in (2, 30):
            island = torch.zeros(1, 60)
            island[0, 15 + gap] = 1
            of_both = dtk.distance_map(torch.maximum(target, island), name).square() + of_target
            weights[name, gap] = (of_both * island).sum().item()
    assert weights["ma_dtm", 2] == weights["ma_dtm", 30]
    assert weights["hd_two", 30] > 60 * weights["hd_two", 2]


# ---- the documentation ---------------------------------------------------------------------------------------


def test_the_page_says_what_missing_classes_give() -> None:
    page = (Path(dtk.__file__).parent / "docs" / "maps.md").read_text()
    table = page.split("| map | without foreground | without background |\n")[1].split("\n\n")[0].splitlines()[1:]
    said = set()
    for line in table:
        names, *values = (cell.strip() for cell in line.strip("|").split("|"))
        for pattern in re.findall(r"`(.*?)`", names):
            for name in fnmatch.filter(dtk.conventions(), pattern):
                said.add(name)
                for mask, value in zip((torch.zeros(4, 5), torch.ones(4, 5)), values, strict=True):
                    assert (dtk.distance_map(mask, name) == float(value)).all(), name
    assert said == set(dtk.conventions())


# ---- real labels --------------------------------------------------------------------------------------------


def volumes(folder: str, count: int) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    paths = sorted((DATA / folder).glob("*.nii.gz"))[:count]
    if not paths:
        pytest.skip(f"DTK_DATA does not name a folder with {folder}")
    images = [nibabel.load(path) for path in paths]
    return [(np.asarray(i.dataobj).astype(np.uint8), tuple(map(float, i.header.get_zooms()[:3]))) for i in images]


NAMES = [name for name in maps_oracle.MAPS if name != "half"]  # its oracle compares all pairs


def compare(labels: np.ndarray, classes: int, spacing: tuple[float, ...]) -> None:
    for name in NAMES:
        actual = dtk.distance_map(torch.from_numpy(labels), name, spacing, num_classes=classes).numpy()
        for c in range(classes):
            want = maps_oracle.expected(name, labels == c, spacing)
            if name == "dpce":
                top = [d.max() for d in maps_oracle.distances(labels == c, spacing)]
                if min(top) < 1.5:
                    continue  # divided by a small difference, whose rounding shows
            finite = np.isfinite(want)
            scale = np.abs(want[finite]).max(initial=1)
            np.testing.assert_allclose(actual[c][finite], want[finite], rtol=3e-6, atol=3e-6 * scale, err_msg=name)
            np.testing.assert_array_equal(actual[c][~finite], want[~finite])


def test_hippocampus_labels() -> None:
    for labels, spacing in volumes("hippocampus/labelsTr", 2):
        compare(labels, 3, spacing)
        compare(labels, 3, (1.5, 0.8, 1.0))


def half_spacings(inside: np.ndarray, spacing: tuple[float, ...]) -> list[set[float]]:
    """For every voxel the s of its nearest voxels of the other side, by their displacements in float64."""
    s = np.asarray(spacing)
    faces = ndimage.generate_binary_structure(inside.ndim, 1)
    result: list[set[float]] = [set() for _ in range(inside.size)]
    for side in (inside, ~inside):
        # A nearest voxel has a face neighbour on this side: else the one before it on the way were as good.
        sites = np.argwhere(ndimage.binary_dilation(side, faces) & ~side)
        own = np.argwhere(side)
        distance, index = cKDTree(sites * s).query(own * s, k=min(24, len(sites)))
        steps = np.abs(sites[index] - own[:, None])
        across = np.where(steps == steps.max(-1, keepdims=True), s, np.inf).min(-1)
        near = distance <= distance[:, :1] * (1 + 1e-6)
        for at, values in zip(np.flatnonzero(side), np.where(near, across, np.nan), strict=True):
            result[at] = {round(float(v), 6) for v in values if np.isfinite(v)}
    return result


def compare_half(labels: np.ndarray, spacing: tuple[float, ...]) -> None:
    """d less half the spacing of a face that the way from a nearest voxel crosses; of equally near ones any."""
    for c in (1, 2):
        mask = labels == c
        if not mask.any():
            continue
        values = dtk.distance_map(torch.from_numpy(mask), "half", spacing).double().numpy()
        d_in, d_out = maps_oracle.distances(mask, spacing)
        taken = 2 * (d_in + d_out - np.abs(values)).ravel()
        assert ((values < 0) == mask).all()
        allowed, slack = half_spacings(mask, spacing), 1e-5 * max(1.0, d_out.max())
        wrong = [i for i, s in enumerate(taken) if min(abs(s - v) for v in allowed[i]) > slack]
        assert not wrong, (spacing, len(wrong))
        assert len({round(float(s), 3) for s in taken}) > 1  # of several axes


def test_half_of_real_labels() -> None:
    for folder in ("hippocampus/labelsTr", "kits19"):
        labels, spacing = volumes(folder, 1)[0]
        middle = np.argwhere(labels == labels.max()).mean(0).astype(int)
        box = np.ascontiguousarray(labels[tuple(slice(max(0, m - 14), m + 14) for m in middle)])
        for given in ((3.0, 0.8, 0.8), (0.7, 1.9, 1.1), spacing):
            if len(set(given)) > 1:
                compare_half(box, given)


def test_kits19_labels() -> None:
    """A box around the organs, so that every map of the suite takes a second."""
    for labels, spacing in volumes("kits19", 2):
        places = np.argwhere(labels == labels.max())
        middle = places[len(places) // 2]
        box = tuple(slice(max(0, m - 24), m + 24) for m in middle)
        compare(np.ascontiguousarray(labels[box]), 3, spacing)
