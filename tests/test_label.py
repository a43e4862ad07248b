"""Connected components: SciPy's labels for every connectivity, numbered in raster order, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MASK_DTYPES, Backend, layouts, numpy
from numpy.typing import NDArray
from scipy import ndimage
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import dtkernels as dtk
from bench import masks

Array = NDArray[Any]
Call = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def label(backend: Backend) -> Call:
    """dtk.label of anything, by the backend under test."""
    if "label" not in dtk.backends.available()[backend.name].operators:
        pytest.skip(f"backend {backend.name} has no 'label' operator")

    def call(mask: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return dtk.label(backend.put(mask), backend=backend.name, **options)

    return call


def expected_labels(mask: Array, connectivity: int) -> tuple[Array, int]:
    """SciPy's components, numbered by their first voxels in raster order."""
    structure = ndimage.generate_binary_structure(mask.ndim, connectivity)
    components, count = ndimage.label(mask, structure)
    first = np.full(count + 1, mask.size)
    np.minimum.at(first, components.ravel(), np.arange(mask.size))
    rank = np.zeros(count + 1, np.int32)
    rank[1 + np.argsort(first[1:])] = np.arange(1, count + 1)
    return rank[components], count


def check(label: Call, mask: Array, connectivity: int) -> None:
    labels, count = label(mask, connectivity=connectivity, spatial_dims=mask.ndim)
    expected, number = expected_labels(np.asarray(mask) != 0, connectivity)
    assert (labels.dtype, count.dtype) == (torch.int32, torch.int32)
    assert count.shape == ()
    assert count.item() == number, f"shape {mask.shape}, connectivity {connectivity}"
    np.testing.assert_array_equal(numpy(labels), expected, err_msg=f"{mask.shape}, {connectivity}")


CASES = [(ndim, connectivity) for ndim in (1, 2, 3) for connectivity in range(1, ndim + 1)]


@pytest.mark.parametrize(("ndim", "connectivity"), CASES)
@pytest.mark.parametrize("density", [0.05, 0.2, 0.35, 0.5, 0.65, 0.9, 0.99])
def test_noise(label: Call, density: float, ndim: int, connectivity: int) -> None:
    """Around the percolation thresholds, components are as tangled as they get."""
    rng = np.random.default_rng(int(100 * density))
    for shape in ((300,), (40, 200), (17, 13, 70)), ((63,), (64, 64), (5, 9, 128)), ((65,), (2, 129), (1, 7, 1)):
        check(label, rng.random(shape[ndim - 1]) < density, connectivity)


@pytest.mark.parametrize(("ndim", "connectivity"), CASES)
def test_all_sizes(label: Call, ndim: int, connectivity: int) -> None:
    rng = np.random.default_rng(0)
    for side in (*range(1, 21), 63, 64, 65, 127, 128, 129):
        for axis in range(ndim):
            shape = [int(rng.integers(1, 12)) for _ in range(ndim)]
            shape[axis] = side
            check(label, rng.random(shape) < rng.choice([0.3, 0.5, 0.7]), connectivity)


@pytest.mark.parametrize(("ndim", "connectivity"), CASES)
@pytest.mark.parametrize("kind", masks.KINDS)
def test_shared_masks(label: Call, kind: str, ndim: int, connectivity: int) -> None:
    mask = masks.make(kind, ((500,), (90, 70), (30, 24, 40))[ndim - 1])
    check(label, mask, connectivity)
    check(label, 1 - mask, connectivity)


def spiral(side: int) -> Array:
    """One path one voxel wide, its turns one voxel apart: unions in the worst order."""
    mask = np.zeros((side, side), bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = True
    for length in [side - 1, *(n for pair in range(side - 1, 0, -2) for n in (pair, pair))]:
        for _ in range(length):
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
    return mask


@pytest.mark.parametrize("side", [5, 16, 67, 130])
def test_spirals(label: Call, side: int) -> None:
    mask = spiral(side)
    assert label(mask)[1].item() == 1
    for view in (mask, mask[::-1].copy(), mask.T.copy(), ~mask):
        for connectivity in (1, 2):
            check(label, view, connectivity)


@pytest.mark.parametrize("ndim", [2, 3])
def test_thin_diagonals(label: Call, ndim: int) -> None:
    """Voxels that meet in `ndim` coordinates at once: one component at full connectivity, else one each."""
    side = 70
    line = np.arange(side)
    for flips in np.ndindex((2,) * (ndim - 1)):
        mask = np.zeros((side,) * ndim, bool)
        mask[(line, *(side - 1 - line if flip else line for flip in flips))] = True
        for connectivity in range(1, ndim + 1):
            count = label(mask, connectivity=connectivity)[1]
            assert count.item() == (1 if connectivity == ndim else side)
            check(label, mask, connectivity)


def test_edges_and_faces_in_three_dimensions(label: Call) -> None:
    """Each of the 13 neighbours that come before a voxel, alone: met exactly from its own connectivity on."""
    for step in np.ndindex(3, 3, 3):
        if step >= (1, 1, 1):
            continue
        mask = np.zeros((3, 3, 130), bool)
        for x in (1, 63, 64, 127):
            mask[:] = False
            mask[1, 1, x] = True
            mask[step[0], step[1], x + step[2] - 1] = True
            order = sum(s != 1 for s in step)
            for connectivity in (1, 2, 3):
                expected = 1 if connectivity >= order else 2
                assert label(mask, connectivity=connectivity)[1].item() == expected, f"step {step}, x {x}"


def test_combs_join_late(label: Call) -> None:
    """Teeth that meet in the last row, or in the first: the numbers must still be those of the first voxels."""
    mask = np.zeros((20, 131), bool)
    mask[:, ::2] = True
    mask[-1] = True
    for view in (mask, mask[::-1].copy()):
        assert label(view)[1].item() == 1
    both = np.concatenate([mask, np.zeros((1, 131), bool), mask[::-1]])
    both[-1, 65] = False
    check(label, both, 1)


def test_full_empty_and_single(label: Call) -> None:
    for shape in ((1,), (1, 1), (1, 1, 1), (64,), (65, 3), (3, 4, 129)):
        for connectivity in range(1, len(shape) + 1):
            labels, count = label(np.ones(shape), connectivity=connectivity)
            assert (numpy(labels) == 1).all()
            assert count.item() == 1
            labels, count = label(np.zeros(shape), connectivity=connectivity)
            assert not numpy(labels).any()
            assert count.item() == 0


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4), (0, 2, 3, 4), (2, 3, 0, 4)], ids=str)
def test_no_voxels(label: Call, shape: tuple[int, ...]) -> None:
    labels, count = label(np.ones(shape))
    assert labels.shape == shape
    assert count.shape == (shape[:2] if len(shape) == 4 else ())
    assert not numpy(count).any()


# ---- dtypes, layouts, batches, threads


@pytest.mark.parametrize("dtype", MASK_DTYPES, ids=str)
def test_dtypes_and_layouts(backend: Backend, label: Call, dtype: torch.dtype) -> None:
    mask = np.random.default_rng(0).random((2, 3, 7, 70)) < 0.5
    expected = label(mask)
    x = backend.put(mask).to(dtype) * torch.tensor(3, dtype=dtype)
    for strided in layouts(x):
        for result, wanted in zip(label(strided), expected, strict=True):
            assert torch.equal(result, wanted)
            assert result.is_contiguous()


def test_threshold(backend: Backend, label: Call) -> None:
    x = backend.put(np.random.default_rng(0).normal(size=(20, 70)).astype(np.float32))
    for threshold in (-0.5, 0.0, 1.0, np.inf):
        for result, wanted in zip(label(x, threshold=threshold), label(x > threshold), strict=True):
            assert torch.equal(result, wanted)


def test_every_non_zero_value_is_foreground(label: Call) -> None:
    """A label map's neighbouring labels are one component; NaN is background."""
    assert label(np.array([1, 2, -3, 0, 5]))[0].tolist() == [1, 1, 1, 0, 2]
    assert label(np.array([1.0, np.nan, 2.0]))[0].tolist() == [1, 0, 2]


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_batches_and_spatial_dims(label: Call, connectivity: int) -> None:
    mask = np.random.default_rng(0).random((2, 3, 4, 5, 19)) < 0.4
    for dims in range(connectivity, 4):
        labels, count = label(mask, spatial_dims=dims, connectivity=connectivity)
        assert count.shape == mask.shape[: 5 - dims]
        for at in np.ndindex(mask.shape[: 5 - dims]):
            expected, number = expected_labels(mask[at], connectivity)
            assert count[at].item() == number
            np.testing.assert_array_equal(numpy(labels[at]), expected)
    assert label(mask)[1].shape == (2, 3)


@pytest.mark.large
@pytest.mark.parametrize("shape", [(1, 1, 64, 70, 80), (1, 1, 3, 300, 290), (1, 1, 700, 500), (40, 1, 20, 40, 30)])
@pytest.mark.parametrize("kind", ["noise", "one_hole", "checkerboard", "sparse"])
def test_threads_change_nothing(label: Call, shape: tuple[int, ...], kind: str) -> None:
    """Slabs of rows are joined at their seams, wherever these fall."""
    rng = np.random.default_rng(0)
    image = rng.random(shape[2:]) < 0.35 if kind == "sparse" else masks.make(kind, shape[2:])
    mask = np.stack([image] * shape[0])[:, None]
    dims = len(shape) - 2
    threads = torch.get_num_threads()
    try:
        for connectivity in (1, dims):
            expected, number = expected_labels(image != 0, connectivity)
            for count in (1, 2, 3, 7):
                torch.set_num_threads(count)
                labels, components = label(mask, connectivity=connectivity)
                assert (numpy(components) == number).all()
                assert (numpy(labels) == expected).all()
    finally:
        torch.set_num_threads(threads)


# ---- inside torch


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((9,), {}),
        ((7, 9), {"connectivity": 2}),
        ((2, 1, 4, 5, 6), {"connectivity": 3, "threshold": 0.5}),
        ((3, 2, 5, 8), {"spatial_dims": 3}),
        ((0, 1, 5, 8), {}),
    ],
    ids=str,
)
def test_opcheck(backend: Backend, label: Call, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = backend.put((np.random.default_rng(0).random(shape) < 0.5).astype(np.float32))
    torch.library.opcheck(torch.ops.dtk.label.default, (x,), {"backend": backend.name, **options})


def test_compile_with_dynamic_shapes(backend: Backend, label: Call) -> None:
    torch._dynamo.reset()

    def work(x: torch.Tensor) -> torch.Tensor:
        labels, count = dtk.label(x, connectivity=2, backend=backend.name)
        return labels.float() / count.clamp(min=1)[..., None, None]

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(work, fullgraph=True, dynamic=True, backend=counter)
    for shape in ((4, 3, 8, 9), (3, 5, 10, 7), (2, 3, 33, 5)):
        x = backend.put(np.random.default_rng(0).random(shape) < 0.5)
        assert torch.equal(compiled(x), work(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("shape", [(4, 6, 7), (3, 2, 1, 6, 7), (3, 2, 1, 3, 6, 7)], ids=str)
def test_vmap(backend: Backend, label: Call, shape: tuple[int, ...]) -> None:
    x = backend.put(np.random.default_rng(0).random(shape) < 0.5)
    mapped = torch.vmap(lambda image: dtk.label(image, connectivity=2, backend=backend.name))(x)
    each = [label(image, connectivity=2) for image in x]
    for k in range(2):
        assert torch.equal(mapped[k], torch.stack([result[k] for result in each]))


def test_fake_tensors(backend: Backend, label: Call) -> None:
    with FakeTensorMode() as mode:
        x = mode.from_tensor(backend.put(np.ones((2, 3, 5, 6))).transpose(2, 3))
        labels, count = dtk.label(x, backend=backend.name)
        with pytest.raises(ValueError, match="connectivity"):
            dtk.label(x, connectivity=3, backend=backend.name)
    assert (labels.shape, labels.dtype, labels.is_contiguous()) == ((2, 3, 6, 5), torch.int32, True)
    assert (count.shape, count.dtype) == ((2, 3), torch.int32)


def test_no_gradient(backend: Backend, label: Call) -> None:
    x = backend.put(np.ones((5, 6), np.float32)).requires_grad_()
    with pytest.raises(ValueError, match=r"mask: .*gradient.*detach"):
        label(x)
    with torch.no_grad():
        assert label(x)[1].item() == 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"mask": [[0, 1]]}, TypeError, "mask: expected a torch.Tensor"),
        ({"mask": torch.ones(3, dtype=torch.complex64)}, TypeError, "mask: expected dtype"),
        ({"mask": torch.ones(())}, ValueError, "mask: expected at least 1 dimension"),
        ({"connectivity": 0}, ValueError, r"connectivity: expected 1\.\.2.*got 0"),
        ({"connectivity": 3}, ValueError, r"connectivity: expected 1\.\.2.*got 3"),
        ({"spatial_dims": 0}, ValueError, "spatial_dims: expected 1, 2 or 3"),
        ({"threshold": float("nan")}, ValueError, "threshold"),
        ({"backend": "gpu"}, ValueError, "backend: expected one of"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_bad_input(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        dtk.label(**{"mask": torch.ones(4, 5), **change})


# ---- a backend that lacks the operator


def test_operators_are_listed() -> None:
    states = dtk.backends.available()
    assert {"edt", "nearest", "label"} <= set(states["cpu"].operators)
    assert all("edt" in state.operators for state in states.values())


@pytest.mark.parametrize("by", ["argument", "variable"])
@pytest.mark.parametrize("operator", ["nearest", "label"])
def test_a_backend_without_the_operator_is_refused(
    operator: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(f"dtkernels.backends.cpu.{operator}")
    name = None
    if by == "variable":
        monkeypatch.setenv("DTK_BACKEND", "cpu")
    else:
        name = "cpu"
    with pytest.raises(RuntimeError, match=f"'cpu' has no '{operator}' operator; .*reference"):
        getattr(dtk, operator)(torch.ones(3), backend=name)
    assert operator not in dtk.backends.available()["cpu"].operators
    assert dtk.edt(torch.zeros(3), backend=name).tolist() == [0, 0, 0]


def test_the_ladder_passes_over_a_backend_without_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("dtkernels.backends.cpu.label")
    assert dtk.label(torch.ones(3))[1].item() == 1
    monkeypatch.delattr("dtkernels.backends.numba.label")
    monkeypatch.delattr("dtkernels.backends.reference.label")
    with pytest.raises(RuntimeError, match="no backend can run 'label' on cpu: cpu: has no 'label' operator"):
        dtk.label(torch.ones(3))
