"""The feature transform: which background voxel is nearest, the lowest index among equals, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MASK_DTYPES, Backend, layouts, numpy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import dtkernels as dtk
from bench import masks

Array = NDArray[Any]
Call = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def nearest(backend: Backend) -> Call:
    """dtk.nearest of anything, by the backend under test."""
    if "nearest" not in dtk.backends.available()[backend.name].operators:
        pytest.skip(f"backend {backend.name} has no 'nearest' operator")

    def call(mask: Any, spacing: Any = None, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return dtk.nearest(backend.put(mask), spacing, backend=backend.name, **options)

    return call


def brute_force(mask: Array, spacing: Any = None) -> tuple[Array, Array]:
    """Squared distance and lowest index of the nearest zero, from all pairs, in integers or float64.

    argmin takes the first of equals, and sites come in raster order. With spacings that are small multiples of
    a power of two all squares are exact.
    """
    mask = np.asarray(mask) != 0
    sites = np.argwhere(~mask)
    if len(sites) == 0:
        return np.full(mask.shape, np.inf), np.full(mask.shape, -1)
    scale = np.ones(mask.ndim, np.int64) if spacing is None else np.asarray(spacing, np.float64)
    square, index = np.empty(mask.size), np.empty(mask.size, np.int64)
    voxels, flat = np.argwhere(np.ones_like(mask)), np.flatnonzero(~mask)
    rows = max(1, (1 << 20) // len(sites))
    for i in range(0, len(voxels), rows):
        pairs = sum(
            np.subtract.outer(p * s, q * s) ** 2
            for p, q, s in zip(voxels[i : i + rows].T, sites.T, scale, strict=True)
        )
        best = pairs.argmin(axis=1)
        square[i : i + rows] = pairs[np.arange(len(best)), best]
        index[i : i + rows] = flat[best]
    return square.reshape(mask.shape), index.reshape(mask.shape)


def check(nearest: Call, mask: Array, spacing: Any = None) -> None:
    distance, index = nearest(mask, spacing)
    square, expected = brute_force(mask, spacing)
    assert (distance.dtype, index.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(numpy(index), expected, err_msg=f"shape {mask.shape}, spacing {spacing}")
    np.testing.assert_allclose(numpy(distance), np.sqrt(square), rtol=2e-7)


# ---- against brute force, at unit spacing: ties above all


def lattice(shape: tuple[int, ...], pitch: int, offset: int = 0) -> Array:
    """Background voxels at the points of a grid: every cell's middle has many nearest."""
    mask = np.ones(shape, bool)
    mask[tuple(slice(min(offset, side - 1), None, pitch) for side in shape)] = False
    return mask


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_all_sizes_with_ties(nearest: Call, ndim: int) -> None:
    """Sides 1 .. 20 in each place, on masks where almost every voxel has several nearest."""
    rng = np.random.default_rng(ndim)
    for side in range(1, 21):
        for axis in range(ndim):
            shape = [int(rng.integers(1, (20, 20, 9)[ndim - 1])) for _ in range(ndim)]
            shape[axis] = side
            for mask in (
                lattice(tuple(shape), int(rng.integers(2, 7)), int(rng.integers(0, 4))),
                masks.make("checkerboard", tuple(shape)),
                rng.random(shape) < rng.choice([0.3, 0.9, 0.99]),
            ):
                check(nearest, mask)


@pytest.mark.parametrize("shape", [(97,), (33, 47), (11, 12, 35)], ids=str)
@pytest.mark.parametrize("kind", [k for k in masks.KINDS if k != "seeds"])
def test_shared_masks(nearest: Call, kind: str, shape: tuple[int, ...]) -> None:
    mask = masks.make(kind, shape)
    check(nearest, mask)
    check(nearest, 1 - mask)


@pytest.mark.parametrize("pitch", [2, 3, 4, 5, 8])
def test_lattices(nearest: Call, pitch: int) -> None:
    for shape in ((100,), (30, 40), (12, 13, 34)):
        check(nearest, lattice(shape, pitch, 1))


def test_ring_of_equally_far_voxels(nearest: Call) -> None:
    """From the centre, all twelve points at squared distance 25: the topmost wins, then the leftmost."""
    mask = np.ones((15, 15), bool)
    for y, x in [(5, 0), (4, 3), (3, 4), (0, 5)]:
        for sy, sx in [(1, 1), (1, -1), (-1, 1), (-1, -1)]:
            mask[7 + sy * y, 7 + sx * x] = False
    distance, index = nearest(mask)
    assert (distance[7, 7].item(), index[7, 7].item()) == (5.0, 2 * 15 + 7)
    check(nearest, mask)


def test_axes_have_an_order(nearest: Call) -> None:
    """Six neighbours equally far: z decides before y, and y before x."""
    mask = np.ones((9, 9, 9), bool)
    faces = [(0, 4, 4), (4, 0, 4), (4, 4, 0), (4, 4, 8), (4, 8, 4), (8, 4, 4)]
    for k, first in enumerate(faces):
        now = mask.copy()
        for site in faces[k:]:
            now[site] = False
        assert nearest(now)[1][4, 4, 4].item() == int(np.ravel_multi_index(first, now.shape))


@given(st.integers(0, 2**32 - 1))
def test_random_images(seed: int) -> None:
    """Without the fixture of the other tests, which hypothesis would not reset: on all backends that can."""
    rng = np.random.default_rng(seed)
    ndim = int(rng.integers(1, 4))
    mask = rng.random(rng.integers(1, (70, 24, 11)[ndim - 1], ndim)) < rng.choice([0.2, 0.6, 0.95, 0.995])
    for name, state in dtk.backends.available().items():
        if state.available and "cpu" in state.devices and "nearest" in state.operators:
            check(lambda m, s, n=name: dtk.nearest(torch.from_numpy(m), s, backend=n), mask)


def test_without_background_and_without_foreground(nearest: Call) -> None:
    for shape in ((1,), (5,), (1, 1), (16, 17), (3, 1, 20), (4, 5, 33)):
        distance, index = nearest(np.ones(shape))
        assert (numpy(distance) == np.inf).all()
        assert (numpy(index) == -1).all()
        distance, index = nearest(np.zeros(shape))
        assert not numpy(distance).any()
        np.testing.assert_array_equal(numpy(index), np.arange(np.prod(shape)).reshape(shape))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4), (0, 2, 3, 4), (2, 1, 0, 4)], ids=str)
def test_nothing_in_nothing_out(nearest: Call, shape: tuple[int, ...]) -> None:
    distance, index = nearest(np.ones(shape))
    assert distance.shape == index.shape == shape


# ---- larger images: the solvers' far paths


@pytest.mark.large
@pytest.mark.parametrize("shape", [(3000, 40), (1030, 1100), (2500, 5, 9), (4, 3, 5000), (900, 60, 19)], ids=str)
def test_few_sites_in_large_images(nearest: Call, shape: tuple[int, ...]) -> None:
    """Squares too large to share a word with their position, and long ones that are not; with ties by symmetry."""
    rng = np.random.default_rng(0)
    for sites in (1, 2, 9):
        mask = np.ones(shape, bool)
        mask.flat[rng.integers(0, mask.size, sites)] = False
        symmetric = mask & mask[::-1] & mask[..., ::-1]
        check(nearest, symmetric)


@pytest.mark.large
@pytest.mark.parametrize("kind", masks.KINDS)
@pytest.mark.parametrize("shape", [(700, 900), (1100, 1050), (70, 80, 90), (140, 33, 65)], ids=str)
def test_index_and_distance_agree(nearest: Call, shape: tuple[int, ...], kind: str) -> None:
    mask = masks.make(kind, shape)
    distance, index = nearest(mask)
    assert torch.equal(distance.cpu(), dtk.edt(torch.from_numpy(mask)))
    index = numpy(index)
    assert not mask.flat[index].any(), "the nearest background voxel is foreground"
    offsets = np.stack(np.unravel_index(index, shape)) - np.indices(shape)
    np.testing.assert_array_equal(np.sqrt((offsets**2).sum(axis=0).astype(np.float32)), numpy(distance))


@pytest.mark.large
@pytest.mark.parametrize("shape", [(300, 400), (40, 50, 60)], ids=str)
@pytest.mark.parametrize("spacing", [None, (1.0, 2.5), (0.7, 0.3)], ids=str)
def test_equals_the_reference(nearest: Call, shape: tuple[int, ...], spacing: Any) -> None:
    spacing = spacing and (1.3, *spacing)[-len(shape) :]
    for kind in ("organ", "seeds", "spheres", "one_hole", "noise"):
        mask = masks.make(kind, shape)
        expected = dtk.nearest(torch.from_numpy(mask), spacing, backend="reference")[1]
        assert torch.equal(nearest(mask, spacing)[1].cpu(), expected), kind


# ---- spacing


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 2.0, 0.5), (3.0, 1.0, 1.0), (1.0, 1.0, 2.0)], ids=str)
def test_exact_spacing(nearest: Call, spacing: tuple[float, ...]) -> None:
    """Multiples of a half: float32 squares are exact, and ties are those of the real numbers."""
    rng = np.random.default_rng(0)
    for shape in ((60,), (25, 30), (9, 10, 19)):
        for mask in (lattice(shape, 4), rng.random(shape) < 0.9, rng.random(shape) < 0.99):
            check(nearest, mask, spacing[-len(shape) :])


@pytest.mark.parametrize("spacing", [(0.7, 1.3, 0.9), (0.3, 0.7, 0.7), (1e-3, 1.0, 1e3), (5.0, 0.1, 0.1)], ids=str)
def test_rounded_spacing(backend: Backend, nearest: Call, spacing: tuple[float, ...]) -> None:
    """The same bits as edt; a voxel as near as the distance says; the same one as on the reference."""
    rng = np.random.default_rng(0)
    for shape in ((70,), (25, 41), (9, 12, 18), (64, 3, 17)):
        for mask in (lattice(shape, 4), rng.random(shape) < 0.9, rng.random(shape) < 0.995):
            s = spacing[-len(shape) :]
            distance, index = nearest(mask, s)
            assert torch.equal(distance, dtk.edt(backend.put(mask), s, backend=backend.name))
            index = numpy(index)
            if (index < 0).any():
                assert mask.all()
                continue
            assert not mask.flat[index].any()
            offsets = np.stack(np.unravel_index(index, shape)) - np.indices(shape)
            length = np.sqrt(sum((o * w) ** 2 for o, w in zip(offsets, s, strict=True)))
            np.testing.assert_allclose(length, numpy(distance), rtol=1e-6)
            expected = dtk.nearest(torch.from_numpy(mask), s, backend="reference")[1]
            np.testing.assert_array_equal(index, expected.numpy())


def test_equal_spacing_of_any_value_is_exact(backend: Backend, nearest: Call) -> None:
    mask = lattice((19, 23), 4)
    expected = nearest(mask)
    for s in (0.7, 1e-9, 3.3):
        distance, index = nearest(mask, s)
        assert torch.equal(index, expected[1])
        assert torch.equal(distance, dtk.edt(backend.put(mask), s, backend=backend.name))


def test_spacing_per_sample(backend: Backend, nearest: Call) -> None:
    mask = np.random.default_rng(0).random((3, 2, 9, 14)) < 0.9
    rows = torch.tensor([[1.0, 2.0], [0.7, 0.7], [0.1, 5.0]], device=backend.device)
    distance, index = nearest(mask, rows)
    assert torch.equal(distance, dtk.edt(backend.put(mask), rows, backend=backend.name))
    for b in range(3):
        each = nearest(mask[b : b + 1], rows[b].tolist())
        # On a GPU no host reads the rows, so that the distances of equal spacing are rounded, too.
        torch.testing.assert_close(distance[b : b + 1], each[0], rtol=1e-6, atol=0)
        assert torch.equal(index[b : b + 1], each[1])


# ---- dtypes, layouts, batches, threads


@pytest.mark.parametrize("dtype", MASK_DTYPES, ids=str)
def test_dtypes_and_layouts(backend: Backend, nearest: Call, dtype: torch.dtype) -> None:
    mask = np.random.default_rng(0).random((2, 3, 7, 70)) < 0.8
    expected = nearest(mask)
    x = backend.put(mask).to(dtype) * torch.tensor(3, dtype=dtype)
    for strided in layouts(x):
        for result, wanted in zip(nearest(strided), expected, strict=True):
            assert torch.equal(result, wanted)
            assert result.is_contiguous()


def test_threshold(backend: Backend, nearest: Call) -> None:
    x = backend.put(np.random.default_rng(0).normal(size=(20, 70)).astype(np.float32))
    for threshold in (-0.5, 0.0, 1.0, np.inf):
        for result, wanted in zip(nearest(x, threshold=threshold), nearest(x > threshold), strict=True):
            assert torch.equal(result, wanted)
    x[3, 4] = torch.nan
    assert nearest(x)[1][3, 4].item() == 3 * 70 + 4  # NaN is background


def test_batches_and_spatial_dims(nearest: Call) -> None:
    mask = np.random.default_rng(0).random((2, 3, 4, 5, 19)) < 0.9
    for dims in (1, 2, 3):
        distance, index = nearest(mask, spatial_dims=dims)
        for at in np.ndindex(mask.shape[: 5 - dims]):
            alone = nearest(mask[at])
            assert torch.equal(distance[at], alone[0])
            assert torch.equal(index[at], alone[1])
    assert torch.equal(nearest(mask)[1], nearest(mask, spatial_dims=3)[1])


@pytest.mark.large
@pytest.mark.parametrize("shape", [(1, 1, 64, 70, 80), (1, 1, 3, 200, 190), (1, 1, 700, 500), (40, 1, 20, 40, 30)])
@pytest.mark.parametrize("spacing", [None, 1.5, "per axis"], ids=str)
def test_threads_change_nothing(nearest: Call, shape: tuple[int, ...], spacing: Any) -> None:
    spacing = (1.5, 1.0, 1.0)[-(len(shape) - 2) :] if spacing == "per axis" else spacing
    mask = np.stack([masks.make("spheres", shape[2:])] * shape[0])[:, None]
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(nearest(mask, spacing))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert torch.equal(result[0], results[0][0])
        assert torch.equal(result[1], results[0][1])


def test_values_can_be_gathered(nearest: Call) -> None:
    """What it is for: every voxel takes the value of its nearest background voxel."""
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    values = torch.tensor([[5, 0, 0, 0], [0, 0, 0, 7]])
    index = nearest(mask)[1].cpu()
    assert values.flatten().take(index).tolist() == [[5, 5, 7, 7], [5, 5, 7, 7]]


# ---- inside torch


@pytest.mark.parametrize(
    ("shape", "spacing", "options"),
    [
        ((9,), None, {}),
        ((2, 1, 4, 5, 6), [1.0, 2.0, 0.5], {"threshold": 0.5}),
        ((3, 2, 5, 8), "rows", {}),
        ((0, 1, 5, 8), None, {"spatial_dims": 2}),
    ],
    ids=str,
)
def test_opcheck(backend: Backend, nearest: Call, shape: tuple[int, ...], spacing: Any, options: Any) -> None:
    x = backend.put((np.random.default_rng(0).random(shape) < 0.8).astype(np.float32))
    op = torch.ops.dtk.nearest.default
    given = [] if spacing is None else [spacing]
    if spacing == "rows":
        op, given = torch.ops.dtk.nearest.per_sample, [torch.rand(shape[0], 2, device=backend.device) + 0.5]
    torch.library.opcheck(op, (x, *given), {"backend": backend.name, **options})


def test_compile_with_dynamic_shapes(backend: Backend, nearest: Call) -> None:
    torch._dynamo.reset()

    def work(x: torch.Tensor) -> torch.Tensor:
        distance, index = dtk.nearest(x, (1.0, 2.0), backend=backend.name)
        return distance * 2 + index

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(work, fullgraph=True, dynamic=True, backend=counter)
    for shape in ((4, 3, 8, 9), (3, 5, 10, 7), (2, 3, 33, 5)):
        x = backend.put(np.random.default_rng(0).random(shape) < 0.9)
        assert torch.equal(compiled(x), work(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("in_dim", [0, 1, -1])
def test_vmap(backend: Backend, nearest: Call, in_dim: int) -> None:
    x = backend.put(np.random.default_rng(0).random((4, 6, 7)) < 0.8)
    mapped = torch.vmap(lambda image: dtk.nearest(image, backend=backend.name), in_dims=in_dim)(x)
    each = [nearest(image) for image in x.unbind(in_dim)]
    for k in range(2):
        assert torch.equal(mapped[k], torch.stack([result[k] for result in each]))


def test_vmap_with_spacing_per_sample(backend: Backend, nearest: Call) -> None:
    x = backend.put(np.random.default_rng(0).random((3, 2, 1, 6, 7)) < 0.8)
    rows = torch.rand(3, 2, 2, device=backend.device) + 0.5
    mapped = torch.vmap(lambda image, row: dtk.nearest(image, row, backend=backend.name))(x, rows)
    for i in range(3):
        for result, wanted in zip(mapped, nearest(x[i], rows[i]), strict=True):
            assert torch.equal(result[i], wanted)


def test_fake_tensors(backend: Backend, nearest: Call) -> None:
    with FakeTensorMode() as mode:
        x = mode.from_tensor(backend.put(np.ones((2, 1, 5, 6))).transpose(2, 3))
        distance, index = dtk.nearest(x, backend=backend.name)
        with pytest.raises(ValueError, match="spacing"):
            dtk.nearest(x, (1.0, 2.0, 3.0), backend=backend.name)
    assert (distance.shape, distance.dtype) == ((2, 1, 6, 5), torch.float32)
    assert (index.shape, index.dtype) == ((2, 1, 6, 5), torch.int64)
    assert index.is_contiguous()


def test_no_gradient(backend: Backend, nearest: Call) -> None:
    x = backend.put(np.ones((5, 6), np.float32)).requires_grad_()
    with pytest.raises(ValueError, match=r"mask: .*gradient.*detach"):
        nearest(x)
    with pytest.raises(ValueError, match=r"mask: .*gradient"):
        torch.ops.dtk.nearest(x, backend=backend.name)
    with torch.no_grad():
        assert not nearest(x)[0].requires_grad


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"mask": [[0, 1]]}, TypeError, "mask: expected a torch.Tensor"),
        ({"mask": torch.ones(3, dtype=torch.complex64)}, TypeError, "mask: expected dtype"),
        ({"mask": torch.ones(())}, ValueError, "mask: expected at least 1 dimension"),
        ({"spacing": (1.0, 2.0, 3.0)}, ValueError, "spacing: expected 2 numbers"),
        ({"spacing": (1.0, 0.0)}, ValueError, "spacing: expected positive"),
        ({"spacing": "wide"}, TypeError, "spacing: expected"),
        ({"spatial_dims": 4}, ValueError, "spatial_dims: expected 1, 2 or 3"),
        ({"threshold": float("nan")}, ValueError, "threshold"),
        ({"backend": "gpu"}, ValueError, "backend: expected one of"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_bad_input(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        dtk.nearest(**{"mask": torch.ones(4, 5), **change})
