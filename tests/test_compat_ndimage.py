"""``compat.ndimage`` against SciPy: its cases, every rank and kind of array, and what must be refused."""

from __future__ import annotations

import inspect
import multiprocessing
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage as scipy_ndimage

from bench import masks
from dtkernels import arrays
from dtkernels.compat import ndimage

Array = NDArray[Any]
edt = ndimage.distance_transform_edt
scipy_edt = scipy_ndimage.distance_transform_edt

DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
    "float64", "complex64", ">i4", "object",
]  # fmt: skip


def distance_to(indices: Array, sampling: Any = None) -> Array:
    """What the indices say: the distance of every element to the element they name."""
    steps = (indices - np.indices(indices.shape[1:])).astype(np.float64)
    scale = np.broadcast_to(1.0 if sampling is None else sampling, len(steps))
    return np.sqrt(sum((step * s) ** 2 for step, s in zip(steps, scale, strict=True)))


def disc() -> Array:
    """The figure of SciPy's own tests: an octagon in 9 x 9."""
    y, x = np.indices((9, 9)) - 4
    return ((abs(y) <= 2) & (abs(x) <= 2) & (abs(y) + abs(x) <= 3)).astype(int)


# ---- SciPy's cases


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sampling", [None, 2, [2, 2], [2, 1], np.array([0.5, 3])], ids=str)
def test_scipy_values_of_every_dtype(dtype: str, sampling: Any) -> None:
    mask = disc().astype(dtype)
    expected = scipy_ndimage.distance_transform_bf(disc(), "euclidean", sampling=sampling)
    distances, indices = edt(mask, sampling, return_indices=True)
    assert (distances.dtype, indices.dtype, indices.shape) == (np.float64, np.int32, (2, 9, 9))
    np.testing.assert_allclose(distances, expected, rtol=1e-15)
    np.testing.assert_allclose(distance_to(indices, sampling), expected, rtol=1e-15)
    np.testing.assert_array_equal(distances, scipy_edt(disc(), sampling))
    np.testing.assert_array_equal(edt(mask, sampling), distances)
    assert not mask[tuple(indices)].any()


def test_scipy_preallocated_results() -> None:
    """Every combination returns what was not preallocated, and fills what was."""
    mask = disc()
    wanted = scipy_edt(mask)
    for with_distances in (False, True):
        for with_indices in (False, True):
            distances = np.full((9, 9), -1.0) if with_distances else None
            indices = np.full((2, 9, 9), -7, np.int32) if with_indices else None
            result = edt(mask, return_indices=True, distances=distances, indices=indices)
            returned = () if result is None else result if isinstance(result, tuple) else (result,)
            assert len(returned) == 2 - with_distances - with_indices
            got = list(returned)
            np.testing.assert_array_equal(distances if with_distances else got.pop(0), wanted)
            np.testing.assert_array_equal(distance_to(indices if with_indices else got.pop(0)), wanted)
    assert edt(mask, distances=distances) is None
    assert edt(mask, return_distances=0, return_indices=1).dtype == np.int32
    assert edt(mask, return_distances=False, return_indices=True, indices=indices) is None


def test_scipy_scalars() -> None:
    assert edt(False).tolist() == [0.0]
    assert edt(np.float32(0), return_indices=True)[1].tolist() == [[0]]
    assert edt(True).tolist() == [np.inf]
    assert edt(torch.tensor(0)).tolist() == [0.0]


@pytest.mark.parametrize(
    "change",
    [
        {"return_distances": False},
        {"return_distances": False, "return_indices": True, "distances": np.zeros((9, 9))},
        {"indices": np.zeros((2, 9, 9), np.int32)},
        {"distances": np.zeros((9, 8))},
        {"distances": np.zeros((9, 9), np.float32)},
        {"return_indices": True, "indices": np.zeros((9, 9), np.int32)},
        {"return_indices": True, "indices": np.zeros((2, 9, 9), np.int64)},
        {"sampling": [1, 2, 3]},
    ],
    ids=lambda change: " ".join(change),
)
def test_scipy_errors(change: dict[str, Any]) -> None:
    for function in (scipy_edt, edt):
        with pytest.raises(RuntimeError):
            function(disc(), **change)
    assert not any(np.any(value) for value in change.values() if isinstance(value, np.ndarray))


def test_scipy_signature() -> None:
    ours, theirs = (inspect.signature(f).parameters for f in (edt, scipy_edt))
    for mine, name in zip(list(ours)[: len(theirs)], theirs, strict=True):
        assert mine == name
        assert ours[mine].default == theirs[name].default
    assert {ours[name].kind for name in ("block_params", "float64_distances")} == {inspect.Parameter.KEYWORD_ONLY}
    assert edt(disc(), block_params=(1, 1, 2)).shape == (9, 9)


# ---- every rank


@pytest.mark.parametrize(
    "shape", [(1,), (70,), (9, 40), (7, 9, 13), (1, 5, 1, 6), (3, 4, 5, 6), (2, 3, 4, 3, 5)], ids=str
)
@pytest.mark.parametrize("sampling", [None, 0.7, "per axis"])
@pytest.mark.parametrize("density", [0.1, 0.6, 0.98])
def test_ranks(shape: tuple[int, ...], sampling: Any, density: float) -> None:
    mask = np.random.default_rng(len(shape)).random(shape) < density
    mask.flat[-1] = False
    if sampling == "per axis":
        sampling = np.array([0.7, 1.3, 0.9, 2.0, 0.4])[: len(shape)]
    expected, theirs = scipy_edt(mask, sampling, return_indices=True)
    distances, indices = edt(mask, sampling, return_indices=True)
    for result in (distances, edt(mask, sampling), distance_to(indices, sampling)):
        np.testing.assert_allclose(result, expected, rtol=0 if sampling is None else 4e-16)
    assert (indices.dtype, indices.shape) == (theirs.dtype, theirs.shape)
    assert not mask[tuple(indices)].any()
    np.testing.assert_array_equal(edt(mask, sampling, return_distances=False, return_indices=True), indices)
    single, again = edt(mask, sampling, return_indices=True, float64_distances=False)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(again, indices)
    np.testing.assert_allclose(single, expected, rtol=4e-7)
    np.testing.assert_allclose(edt(mask, sampling, float64_distances=False), expected, rtol=4e-7)


@pytest.mark.parametrize("shape", [(12,), (4, 5), (3, 4, 5), (3, 2, 4, 5), (2, 2, 2, 3, 3)], ids=str)
def test_ties_go_to_the_first(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.9
    mask.flat[0] = False
    zeros = np.argwhere(~mask)
    pairs = np.abs(np.argwhere(np.ones(shape))[:, None] - zeros[None]) ** 2
    first = zeros[pairs.sum(-1).argmin(1)].T.reshape(len(shape), *shape)
    np.testing.assert_array_equal(edt(mask, return_distances=False, return_indices=True), first)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (2, 3, 2, 2), (2, 1, 2, 2, 3)], ids=str)
def test_without_background_and_without_foreground(shape: tuple[int, ...]) -> None:
    for sampling in (None, np.arange(1.0, len(shape) + 1)):
        distances, indices = edt(np.ones(shape), sampling, return_indices=True)
        assert (distances == np.inf).all()
        assert (indices == -1).all()
        assert (edt(np.ones(shape), sampling) == np.inf).all()
        assert (edt(np.ones(shape), sampling, float64_distances=False) == np.inf).all()
        distances, indices = edt(np.zeros(shape), sampling, return_indices=True)
        assert not distances.any()
        np.testing.assert_array_equal(indices, np.indices(shape))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2), (2, 0, 3, 4)], ids=str)
def test_no_elements(shape: tuple[int, ...]) -> None:
    distances, indices = edt(np.ones(shape), return_indices=True)
    assert (distances.shape, distances.dtype) == (shape, np.float64)
    assert (indices.shape, indices.dtype) == ((len(shape), *shape), np.int32)


@pytest.mark.parametrize("shape", [(5000, 60), (2900, 2950)], ids=str)
def test_squares_beyond_float32(shape: tuple[int, ...]) -> None:
    """Squared distances above 2^24 and 2^22: float64 all the way, the same bits as SciPy."""
    mask = np.ones(shape, bool)
    mask[0, 0] = mask[1, -1] = False
    expected = scipy_edt(mask)
    distances, indices = edt(mask, return_indices=True)
    np.testing.assert_array_equal(distances, expected)
    np.testing.assert_array_equal(distance_to(indices), expected)
    np.testing.assert_array_equal(edt(mask), expected)


@pytest.mark.parametrize("kind", ["organ", "noise", "spheres", "one_hole"])
def test_a_volume(kind: str) -> None:
    mask = masks.make(kind, (48, 50, 52)).astype(bool)
    np.testing.assert_array_equal(edt(mask), scipy_edt(mask))
    sampling = (2.5, 0.68, 0.69)
    expected = scipy_edt(mask, sampling)
    distances, indices = edt(mask, sampling, return_indices=True)
    np.testing.assert_allclose(distances, expected, rtol=1e-6)  # what is promised
    assert np.mean(np.abs(distances - expected) > 1e-14 * expected) < 1e-3  # what it is but for near ties
    np.testing.assert_allclose(distance_to(indices, sampling), distances, rtol=4e-16)


# ---- every layout


def test_layouts() -> None:
    mask = np.random.default_rng(0).random((12, 14, 16)) < 0.9
    for view in (
        mask[::2, 1:, ::3], mask[::-1], mask.T, np.asfortranarray(mask), np.broadcast_to(mask[0], mask.shape),
        np.rec.fromarrays([mask, mask.astype(int)], names="a,b").a, np.ma.masked_array(mask), mask.tolist(),
        np.where(mask, np.nan, 0.0), np.where(mask, "x", "") != "",
    ):  # fmt: skip
        expected = scipy_edt(view)
        np.testing.assert_array_equal(edt(view), expected)
        distances = np.zeros((*expected.shape[::-1], 2)).T[1]
        indices = np.zeros((*expected.shape, 3), np.int32).transpose(3, 0, 1, 2)
        assert edt(view, return_indices=True, distances=distances, indices=indices) is None
        np.testing.assert_array_equal(distances, expected)
        np.testing.assert_array_equal(distance_to(indices), expected)


@pytest.mark.filterwarnings("error")
def test_a_read_only_input() -> None:
    mask = disc()
    mask.flags.writeable = False
    np.testing.assert_array_equal(edt(mask), scipy_edt(mask))


def test_distances_may_be_the_input() -> None:
    mask = disc().astype(np.float64)
    expected = scipy_edt(mask)
    assert edt(mask, distances=mask) is None
    np.testing.assert_array_equal(mask, expected)


def in_child(queue: multiprocessing.Queue) -> None:
    mask = masks.make("organ", (40, 80, 80))
    queue.put([float(np.sum(x)) for x in (*edt(mask, (1.0, 2.0, 3.0), return_indices=True), edt(mask))])


def test_a_forked_child_computes_on_its_own_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        in_child(queue)
        expected = queue.get(timeout=60)
        child = context.Process(target=in_child, args=(queue,))
        child.start()
        assert queue.get(timeout=60) == expected
        child.join(timeout=60)
    finally:
        torch.set_num_threads(threads)


# ---- every library


@pytest.fixture(params=["cpu", "as on a device"])
def torch_results(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors computed on as NumPy arrays, and as the tensors that a GPU has."""
    if request.param != "cpu":
        monkeypatch.setattr(arrays, "plain", lambda tensor: tensor)


@pytest.mark.parametrize("shape", [(70,), (20, 30), (7, 9, 13), (3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("sampling", [None, 0.5, "per axis"])
def test_tensors(torch_results: None, shape: tuple[int, ...], sampling: Any) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.9
    mask.flat[0] = False
    sampling = (0.7, 1.3, 0.9, 2.0)[: len(shape)] if sampling == "per axis" else sampling
    expected = scipy_edt(mask, sampling)
    x = torch.from_numpy(mask)
    for name, options in (("float32", {}), ("float64", {"float64_distances": True})):
        dtype = getattr(torch, name)
        distances, indices = edt(x, sampling, return_indices=True, **options)
        assert (distances.dtype, indices.dtype) == (dtype, torch.int32)
        for result in (distances, edt(x, sampling, **options)):
            np.testing.assert_allclose(result.numpy(), expected, rtol=4e-16 if options else 4e-7)
        np.testing.assert_allclose(distance_to(indices.numpy(), sampling), expected, rtol=4e-16)
        out, into = torch.zeros(shape, dtype=dtype), torch.zeros(len(shape), *shape, dtype=torch.int32)
        assert edt(x, sampling, return_indices=True, distances=out, indices=into, **options) is None
        assert torch.equal(out, distances)
        assert torch.equal(into, indices)
    full, none = edt(torch.ones(shape), sampling, return_indices=True)
    assert (full == torch.inf).all()
    assert (none == -1).all()


def test_tensors_of_every_dtype() -> None:
    expected = scipy_edt(disc())
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int64,
        torch.bfloat16,
        torch.float64,
        torch.complex64,
        torch.uint16,
    ):
        x = torch.from_numpy(disc()).to(dtype).T
        assert edt(x, float64_distances=True).tolist() == expected.tolist()


def test_arrays_of_another_library() -> None:
    xp = pytest.importorskip("array_api_strict")
    mask = xp.asarray(disc())
    distances, indices = edt(mask, return_indices=True)
    assert type(distances) is type(indices) is type(mask)
    assert (distances.dtype, indices.dtype) == (xp.float32, xp.int32)
    np.testing.assert_allclose(np.from_dlpack(distances), scipy_edt(disc()), rtol=1e-7)
    out = xp.zeros((9, 9), dtype=xp.float64)
    memory = out._array  # of NumPy
    memory.flags.writeable = False
    with pytest.raises(ValueError, match="distances: expected an array that can be written"):
        edt(mask, distances=out, float64_distances=True)
    assert not memory.any()
    memory.flags.writeable = True
    assert edt(mask, distances=out, float64_distances=True) is None
    np.testing.assert_array_equal(np.from_dlpack(out), scipy_edt(disc()))


class FakeCupy:
    """What this project needs of a cupy.ndarray, in host memory."""

    __module__ = "cupy"

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_cupy_arrays_get_float64_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in CuPy; without a CuPy that runs, its arrays are played by host memory."""
    cupy = types.ModuleType("cupy")
    cupy.from_dlpack = lambda tensor: FakeCupy(np.from_dlpack(tensor))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for options, dtype in (({}, np.float64), ({"float64_distances": False, "block_params": None}, np.float32)):
        distances = edt(FakeCupy(disc()), **options)
        assert isinstance(distances, FakeCupy)
        assert distances.array.dtype == dtype
        np.testing.assert_allclose(distances.array, scipy_edt(disc()), rtol=1e-7)
        into = FakeCupy(np.zeros((9, 9), dtype))
        assert edt(FakeCupy(disc()), distances=into, **options) is None
        np.testing.assert_array_equal(into.array, distances.array)


class Foreign:
    """An array whose module has no from_dlpack."""

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("memory of another planet")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_arrays_that_dlpack_cannot_export() -> None:
    with pytest.raises(
        TypeError, match=r"input: expected an array of a library with from_dlpack, got a .*Foreign"
    ):
        edt(Foreign())
    known = type("Known", (Foreign,), {"__array_namespace__": lambda self: np})
    with pytest.raises(TypeError, match=r"input: expected an array that exports DLPack .*another planet"):
        edt(known())
    with pytest.raises(TypeError, match=r"distances: expected a numpy.ndarray like the input"):
        edt(disc(), distances=known())


def test_backend_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTK_BACKEND", "reference")
    mask = np.random.default_rng(0).random((6, 7, 8)) < 0.9
    np.testing.assert_array_equal(edt(mask), scipy_edt(mask))
    np.testing.assert_array_equal(distance_to(edt(mask, return_indices=True)[1]), scipy_edt(mask))


# ---- refusals, with nothing written


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


shared = np.zeros(9 * 9 * 4)
tensor = torch.ones(9, 9)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"distances": read_only(np.zeros((9, 9)))}, ValueError, "distances: .*read-only"),
        ({"indices": read_only(np.zeros((2, 9, 9), np.int32))}, ValueError, "indices: .*read-only"),
        ({"distances": torch.zeros(9, 9)}, TypeError, r"distances: expected a numpy.ndarray .*torch\.Tensor"),
        ({"distances": np.zeros((9, 9)).tolist()}, TypeError, "distances: expected a numpy.ndarray .*list"),
        ({"input": tensor, "distances": np.zeros((9, 9), "f4")}, TypeError, "distances: expected a torch array"),
        ({"input": tensor, "distances": tensor.to("meta")}, ValueError, "distances: .*on device cpu like"),
        ({"input": tensor, "distances": torch.zeros(1, 9).expand(9, 9)}, ValueError, "broadcast"),
        ({"distances": shared[:81].reshape(9, 9), "indices": shared.view("i4")[100:262].reshape(2, 9, 9)},
         ValueError, "indices: expected memory apart from that of distances"),
        ({"input": torch.ones(9, 9, requires_grad=True)}, ValueError, "input: .*gradient"),
        ({"input": np.ones((2, 40000), bool)}, ValueError, "input: expected spatial sides up to 32768"),
        ({"sampling": 0}, ValueError, "sampling: expected positive"),
        ({"sampling": (1, np.nan)}, ValueError, "sampling: expected positive"),
        ({"sampling": "wide"}, TypeError, "sampling: expected None, a number or 2 numbers"),
        ({"sampling": [[1, 2]]}, RuntimeError, "sampling: expected 2 numbers"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, dict) else "",
)  # fmt: skip
def test_bad_input(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        edt(**{"input": disc(), "return_indices": True, **change})
    for name in ("distances", "indices"):
        if isinstance(change.get(name), np.ndarray):
            assert not change[name].any()
