"""Chunked transforms: whatever the chunks and the scheduler, the result is that of the array in memory."""

from __future__ import annotations

import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

import dtkernels as dtk

pytest.importorskip("dask.array", reason="dtkernels.dask needs dask")
import dask
import dask.array as da

import dtkernels.dask
from dtkernels.dask import plan

FUNCTIONS = ("edt", "sdf")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def in_memory(op: str, mask: NDArray[Any], *args: Any, **options: Any) -> NDArray[np.float32]:
    return getattr(dtk, op)(torch.from_numpy(mask), *args, **options).numpy()


def chunked(op: str, mask: da.Array, *args: Any, **options: Any) -> da.Array:
    return getattr(dtkernels.dask, op)(mask, *args, **options)


def blobs(shape: Sequence[int], wavelength: float = 24.0) -> NDArray[np.bool_]:
    """A gyroid, thickened: near and far voxels on both sides."""
    x = [np.arange(n) * (2 * np.pi / wavelength) for n in shape]
    grid = np.meshgrid(*x, indexing="ij", sparse=True)
    level = sum(np.sin(a) * np.cos(b) for a, b in zip(grid, [*grid[1:], grid[0]], strict=True))
    return np.broadcast_to(level > 0.4, shape).copy()


@st.composite
def chunked_masks(draw: st.DrawFn, least: int = 1) -> tuple[NDArray[np.bool_], tuple[tuple[int, ...], ...]]:
    shape = draw(st.lists(st.integers(1, 12), min_size=least, max_size=3))
    share = draw(st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]))
    mask = np.random.default_rng(draw(st.integers(0, 2**31))).random(shape) < share
    cuts = [draw(st.sets(st.integers(1, n - 1))) if n > 1 else set() for n in shape]
    ends = [[0, *sorted(c), n] for c, n in zip(cuts, shape, strict=True)]
    return mask, tuple(tuple(np.diff(e).tolist()) for e in ends)


@given(
    chunked_masks(),
    st.sampled_from(FUNCTIONS),
    st.sampled_from([1, 300, 2000, "64 MiB"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["open", "closed"]),
    st.sampled_from([None, 0.3]),
)
def test_any_chunks(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[NDArray[np.bool_], tuple[tuple[int, ...], ...]],
    op: str,
    block_bytes: int | str,
    through_files: bool,
    squared: bool,
    border: str,
    spacing: float | None,
) -> None:
    mask, chunks = case
    scratch = str(tmp_path_factory.mktemp("scratch")) if through_files else None
    options: dict[str, Any] = {"squared": squared, "border": border}
    result = chunked(op, da.from_array(mask, chunks), spacing, scratch=scratch, block_bytes=block_bytes, **options)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result.compute(), in_memory(op, mask, spacing, **options), strict=True)


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("shape", [(40,), (9, 31), (7, 12, 10)])
@pytest.mark.parametrize("border", ["open", "closed"])
def test_oracle_at_any_spacing(op: str, shape: tuple[int, ...], border: str) -> None:
    mask = blobs(shape, 9.0)
    spacing = (0.7, 2.0, 1.3)[: len(shape)]
    square = oracle.squared(op, mask, spacing, closed=border == "closed")
    for limit in (1, 3000, "64 MiB"):
        for is_squared in (True, False):
            result = chunked(
                op, da.from_array(mask, 5), spacing, squared=is_squared, border=border, block_bytes=limit
            )
            expected = square if is_squared else oracle.root(square)
            error = oracle.tolerance(len(shape), is_squared=is_squared)
            np.testing.assert_allclose(result.compute(), expected, rtol=error)


@pytest.mark.parametrize("shape", [(2, 3, 5000), (5000, 4), (4, 32768), (32768, 3)])
@pytest.mark.parametrize("op", FUNCTIONS)
def test_long_lines(op: str, shape: tuple[int, ...]) -> None:
    """Squares beyond 2^24, which float32 does not hold, and codes beyond 16 bits."""
    mask = np.zeros(shape, bool)
    mask[tuple(n - 1 for n in shape)] = True
    for m in (mask, ~mask):
        for squared in (True, False):
            result = chunked(op, da.from_array(m, 4000), squared=squared, block_bytes=1 << 17)
            np.testing.assert_array_equal(result.compute(), in_memory(op, m, squared=squared), strict=True)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int64", "uint64", "float16", "float32", "float64", ">i4", ">f8"]
)
def test_dtypes(dtype: str) -> None:
    mask = blobs((6, 7, 8), 7.0)
    x = mask.astype(dtype) * np.array(2, dtype)
    if x.dtype.kind == "f":
        x[~mask] = np.nan
    for limit in (1, "64 MiB"):
        result = chunked("sdf", da.from_array(x, 3), block_bytes=limit)
        np.testing.assert_array_equal(result.compute(), in_memory("sdf", mask), strict=True)


def test_threshold_and_batch() -> None:
    x = np.random.default_rng(0).random((2, 3, 6, 7, 8), np.float32)
    for limit in (1, 4000):
        result = chunked("sdf", da.from_array(x, 3), threshold=0.3, block_bytes=limit)
        np.testing.assert_array_equal(result.compute(), in_memory("sdf", x, threshold=0.3), strict=True)
        result = chunked("edt", da.from_array(x, 3), threshold=0.3, spatial_dims=2, block_bytes=limit)
        np.testing.assert_array_equal(
            result.compute(), in_memory("edt", x, threshold=0.3, spatial_dims=2), strict=True
        )


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4, 5), (2, 0, 4, 4)])
def test_no_voxels(shape: tuple[int, ...]) -> None:
    result = chunked("sdf", da.zeros(shape, dtype=bool)).compute()
    assert result.shape == shape
    assert result.dtype == np.float32


# ---- components


@settings(max_examples=25)
@given(chunked_masks(), st.integers(1, 3), st.sampled_from([24 * 15, 24 * 60, "64 MiB"]))
def test_label_any_chunks(
    case: tuple[NDArray[np.bool_], tuple[tuple[int, ...], ...]], connectivity: int, block_bytes: int | str
) -> None:
    mask, chunks = case
    connectivity = min(connectivity, mask.ndim)
    x = da.from_array(mask, chunks)
    labels, count = dtkernels.dask.label(x, connectivity=connectivity, block_bytes=block_bytes)
    expected = dtk.label(torch.from_numpy(mask), connectivity=connectivity)
    np.testing.assert_array_equal(labels.compute(), expected[0].numpy(), strict=True)
    np.testing.assert_array_equal(count.compute(), expected[1].numpy(), strict=True)


def test_label_of_a_batch() -> None:
    mask = np.random.default_rng(0).random((2, 3, 9, 10)) < 0.5
    for connectivity in (1, 2):
        found = dtkernels.dask.label(
            da.from_array(mask, 4), connectivity=connectivity, spatial_dims=2, block_bytes=24 * 12
        )
        expected = dtk.label(torch.from_numpy(mask), connectivity=connectivity, spatial_dims=2)
        for x, y in zip(dask.compute(*found), expected, strict=True):
            np.testing.assert_array_equal(x, y.numpy(), strict=True)


def test_label_of_a_snake_through_every_block() -> None:
    mask = np.zeros((41, 40), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    labels, count = dtkernels.dask.label(da.from_array(mask, 3))
    assert count.compute() == 1
    np.testing.assert_array_equal(labels.compute(), mask)


def test_label_keeps_no_volume() -> None:
    """The mask is read for the seams, and again for the result."""
    source = Counted(blobs((40, 30, 30), 9.0))
    x = da.from_array(source, 10, asarray=False, inline_array=True)
    labels, _ = dtkernels.dask.label(x, block_bytes=24 * 1000)
    assert labels.numblocks == (4, 3, 3)
    expected = dtk.label(torch.from_numpy(source.array))[0].numpy()
    np.testing.assert_array_equal(labels.compute(), expected, strict=True)
    assert (source.reads == 2).all()


# ---- chunks of another library


class FakeCupy(np.lib.mixins.NDArrayOperatorsMixin):
    """CuPy's manners in host memory: NumPy's functions take it, and nothing makes an array of NumPy of it."""

    __module__ = "fakecupy"  # CuPy's own name has dask import it

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "values":
            raise AttributeError(name)
        value = getattr(self.values, name)
        return (
            (lambda *args, **kwargs: rewrap(value(*unwrap(args), **unwrap(kwargs)))) if callable(value) else value
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, function: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return rewrap(getattr(function, method)(*unwrap(args), **unwrap(kwargs)))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        kwargs = {name: value for name, value in kwargs.items() if name != "like"}
        return rewrap(function(*unwrap(args), **unwrap(kwargs)))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> Any:
        return rewrap(self.values[unwrap(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        assert isinstance(value, (FakeCupy, int, float))
        self.values[unwrap(key)] = unwrap(value)

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()

    def get(self) -> NDArray[Any]:
        return self.values


def unwrap(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(unwrap(y) for y in x)
    if isinstance(x, dict):
        return {name: unwrap(y) for name, y in x.items()}
    return x.values if isinstance(x, FakeCupy) else x


def rewrap(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(rewrap(y) for y in x)
    return FakeCupy(x) if isinstance(x, (np.ndarray, np.bool_, np.number)) else x


def test_chunks_of_cupy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = types.ModuleType("fakecupy")
    cupy.from_dlpack = lambda tensor: FakeCupy(np.from_dlpack(tensor))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fakecupy", cupy)
    mask = blobs((14, 15, 16), 9.0)
    x = da.from_array(mask, 6).map_blocks(FakeCupy, meta=FakeCupy(np.empty((0, 0, 0), bool)), dtype=bool)
    for limit in (3000, "64 MiB"):
        for scratch in (None, str(tmp_path)):
            for op, options in (("edt", {"border": "closed"}), ("sdf", {}), ("sdf", {"spacing": (1.0, 0.5, 2.0)})):
                found = chunked(op, x, block_bytes=limit, scratch=scratch, **options).compute()
                assert isinstance(found, FakeCupy)
                error = 1e-6 if "spacing" in options else 0
                np.testing.assert_allclose(found.get(), in_memory(op, mask, **options), rtol=error)
    labels, _ = dtkernels.dask.label(x)
    assert isinstance(labels.compute(), FakeCupy)


# ---- maps

LOCAL = [name for name, c in dtk.conventions().items() if not c.options.normalize.startswith("component")]


@pytest.mark.parametrize("name", LOCAL)
def test_conventions(name: str, tmp_path: Path) -> None:
    masks = [blobs((7, 8, 9), 6.0), np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)]
    for mask in masks:
        x = da.from_array(mask, 4)
        for limit, scratch in ((1500, None), (2500, str(tmp_path))):
            found = dtkernels.dask.distance_map(x, name, block_bytes=limit, scratch=scratch)
            expected = dtk.distance_map(torch.from_numpy(mask), name).numpy()
            np.testing.assert_array_equal(found.compute(), expected, strict=True)


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": "max", "scope": "sample"},
        {"normalize": "per_side_max", "scope": "batch", "border": "closed"},
        {"boundary": "inner_zero", "border": "closed", "truncate": 1.5},
        {"boundary": "inner_contour", "connectivity": 1, "normalize": "max"},
        {"normalize": "diagonal", "on_empty": "diagonal", "on_full": "ones"},
        {"profile": "gaussian", "sigma": 2.0, "weight": 0.5},
    ],
    ids=str,
)
def test_options_of_maps(options: dict[str, Any]) -> None:
    x = np.random.default_rng(0).random((2, 3, 6, 7)) < 0.7
    x[0, 1] = False
    x[1, 0] = True
    for spacing in (None, (0.5, 1.5)):
        for limit in (300, 3000):
            found = dtkernels.dask.distance_map(
                da.from_array(x, (1, 2, 3, 4)), None, spacing, spatial_dims=2, block_bytes=limit, **options
            )
            expected = dtk.distance_map(torch.from_numpy(x), None, spacing, spatial_dims=2, **options).numpy()
            error = 0 if spacing is None else 2e-6
            np.testing.assert_allclose(found.compute(), expected, rtol=error, atol=error)


def test_largest_distances_wait_for_nothing(tmp_path: Path) -> None:
    """A map by its maximum computes the last pass twice: the graph has no block of it that both uses share."""
    x = da.from_array(blobs((24, 20, 20)), 10)
    phi = dtkernels.dask.distance_map(x, "ma_sdf11", block_bytes=30_000, scratch=str(tmp_path))
    layers = phi.__dask_graph__().layers
    assert sum(name.startswith("_finish") for name in layers) == 2
    assert sum(name.startswith("_write") for name in layers) == 1


@pytest.mark.parametrize("convention", ["itk_maurer", "kervadec", "ma_sdf"])
def test_maps_without_voxels(convention: str) -> None:
    x = da.zeros((2, 0, 5), chunks=2)
    assert dtkernels.dask.distance_map(x, convention).compute().shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "li_nidm"}, "normalize: expected no maxima of components"),
        ({"convention": "half", "spacing": (1.0, 2.0)}, "boundary: expected another than 'half'"),
        ({"on_empty": "error"}, "on_empty: expected a value for a dask array"),
        ({"convention": "kervedec"}, "did you mean 'kervadec'"),
    ],
)
def test_maps_that_are_not_here(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        dtkernels.dask.distance_map(da.zeros((4, 4)), **options)
    assert message in str(raised.value)


# ---- metrics


@pytest.mark.parametrize("definition", ["medpy", "monai", "deepmind"])
@pytest.mark.parametrize("spacing", [None, (0.7, 1.6)])
def test_surface_metrics(definition: str, spacing: tuple[float, float] | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    target = np.stack([blobs((14, 15), w) for w in (7.0, 9.0, 12.0, 9.0)]).reshape(2, 2, 14, 15)
    pred = target ^ (rng.random(target.shape) < 0.02)
    pred[0, 1] = False
    target[1, 0] = pred[1, 0] = False
    for directed in (False, True):
        options: dict[str, Any] = {"definition": definition, "directed": directed, "percentiles": (50, 95)}
        expected = dtk.metrics.surface_metrics(
            torch.from_numpy(pred), torch.from_numpy(target), spacing, spatial_dims=2, **options
        )
        for limit in (6000, "64 MiB"):
            found = dtkernels.dask.surface_metrics(
                *(da.from_array(x, (1, 2, 5, 6)) for x in (pred, target)),
                spacing, spatial_dims=2, block_bytes=limit, scratch=str(tmp_path), **options,
            ).compute()  # fmt: skip
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=0, equal_nan=True)
            assert torch.equal(found.pred_empty, expected.pred_empty)


def test_surface_metrics_in_3d() -> None:
    pred, target = blobs((12, 13, 14), 9.0), blobs((12, 13, 14), 9.0)[::-1].copy()
    for definition in ("monai", "deepmind"):
        expected = dtk.metrics.surface_metrics(
            torch.from_numpy(pred), torch.from_numpy(target), definition=definition
        )
        found = dtkernels.dask.surface_metrics(
            da.from_array(pred, 5), da.from_array(target, 6), definition=definition, block_bytes=20_000
        ).compute()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": da.zeros((3, 3))}, ValueError, "target: expected the shape of pred"),
        ({"definition": "mona"}, ValueError, "definition: expected one of"),
        ({"percentiles": 101}, ValueError, "percentiles: expected numbers from 0 to 100"),
        ({"definition": "deepmind", "connectivity": 2}, ValueError, "connectivity: expected 1 with definition"),
    ],
)
def test_errors_of_metrics(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        dtkernels.dask.surface_metrics(**{"pred": da.zeros((4, 4)), "target": da.zeros((4, 4)), **options})
    assert message in str(raised.value)


# ---- schedulers and stores


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="needs distributed")
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("scheduler", ["threads", "processes", "distributed"])
def test_schedulers_and_zarr(scheduler: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    zarr = pytest.importorskip("zarr", reason="needs zarr")
    mask = blobs((40, 50, 30))
    da.from_array(mask, (16, 16, 16)).to_zarr(str(tmp_path / "mask.zarr"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if scheduler == "distributed":
        run = request.getfixturevalue("client").as_current
    else:

        def run() -> Any:
            return dask.config.set(scheduler=scheduler, num_workers=2)

    with run():
        source = da.from_zarr(str(tmp_path / "mask.zarr"))
        for through in (None, str(scratch)) if scheduler != "processes" else (str(scratch),):  # slow to start
            phi = dtkernels.dask.sdf(source, scratch=through, block_bytes=40_000)
            assert phi.npartitions > 4
            target = str(tmp_path / f"phi-{through is None}.zarr")
            phi.to_zarr(target)
            np.testing.assert_array_equal(zarr.open(target)[:], in_memory("sdf", mask), strict=True)
        if scheduler == "processes":
            return
        labels, count = dask.compute(*dtkernels.dask.label(source, block_bytes=100_000))
        expected = dtk.label(torch.from_numpy(mask))
        np.testing.assert_array_equal(labels, expected[0].numpy(), strict=True)
        assert count == expected[1]
        metrics = dtkernels.dask.surface_metrics(source, source[::-1]).compute()
        there = dtk.metrics.surface_metrics(torch.from_numpy(mask), torch.from_numpy(mask[::-1].copy()))
        torch.testing.assert_close(metrics["assd"], there["assd"])


class Counted:
    """An array in chunks that counts how often each voxel is read."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.reads = np.zeros(array.shape, int)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        self.reads[key] += 1
        return self.array[key]


@pytest.mark.parametrize(
    ("block_bytes", "passes"),
    [(300_000, 2), (60_000, 2), (20_000, 3)],  # planes; the mask through files, too; line by line
)
def test_everything_is_read_and_written_once(
    block_bytes: int, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = blobs((48, 50, 40))
    source = Counted(mask)
    moved: Counter[str] = Counter()
    load, save = np.load, np.save

    class Reading:
        """A file whose parts are counted as they are read."""

        def __init__(self, path: str) -> None:
            self.path, self.values = path, load(path, mmap_mode="r")

        def __getitem__(self, key: Any) -> NDArray[Any]:
            values = self.values[key]
            moved[f"read {Path(self.path).parent.name}"] += values.size
            return values

    def saving(file: Any, values: NDArray[Any]) -> None:
        moved["written"] += values.size
        save(file, values)

    monkeypatch.setattr(plan.np, "load", lambda path, mmap_mode: Reading(path))
    monkeypatch.setattr(plan.np, "save", saving)
    x = da.from_array(source, (16, 20, 40), asarray=False, inline_array=True)
    result = dtkernels.dask.sdf(x, scratch=str(tmp_path), block_bytes=block_bytes)
    largest = max(np.prod(c) for c in np.array(np.meshgrid(*result.chunks)).reshape(3, -1).T)
    assert largest * 12 <= max(block_bytes, 40 * 12)
    np.testing.assert_array_equal(result.compute(), in_memory("sdf", mask), strict=True)
    assert (source.reads == 1).all()
    reads = [n for name, n in moved.items() if name.startswith("read")]
    assert set(reads) == {mask.size}
    assert moved["written"] == mask.size * len(reads)
    assert passes - 1 <= len(reads) <= passes


def test_bounded_memory(tmp_path: Path) -> None:
    """320^3 voxels, of which the result takes 125 MiB and what lies between the passes half as much."""
    code = """
import resource, sys, time
import dask, dask.array as da, numpy as np, torch
import dtkernels.dask
def block(block_info=None):
    z, y, x = np.ogrid[tuple(slice(a, b) for a, b in block_info[None]["array-location"])]
    return (np.sin(z / 9) * np.cos(y / 8) + np.sin(y / 8) * np.cos(x / 7) > 0.4).astype(np.uint8)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
mask = da.map_blocks(block, chunks=((64,) * 5,) * 3, dtype=np.uint8)
with dask.config.set(scheduler="synchronous"):
    small = mask[:64, :64, :64]
    float(abs(dtkernels.dask.sdf(small, block_bytes=1 << 20, scratch=sys.argv[1])).sum().compute())
    before = peak()
    phi = dtkernels.dask.sdf(mask, block_bytes="16 MiB", scratch=sys.argv[1])
    total = float(abs(phi).sum(dtype=np.float64).compute())
    print(total, peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    total, grown = map(float, done.stdout.split())
    assert total > 1e7
    assert grown < 60, f"peak memory grew by {grown:.0f} MiB"


def test_nothing_else_imports_dask() -> None:
    code = "import dtkernels, sys; assert not [m for m in sys.modules if m.split('.')[0] == 'dask']"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": np.zeros(3)}, TypeError, "mask: expected a dask.array.Array, got numpy.ndarray"),
        ({"mask": da.zeros(3, dtype=complex)}, TypeError, "mask: expected a real dtype, got complex128"),
        ({"mask": da.zeros(4)[da.zeros(4) == 0]}, ValueError, "mask: expected chunks of known size"),
        ({"mask": da.zeros((2, 40_000))}, ValueError, "mask: expected spatial sides up to 32768"),
        ({"spacing": (1.0, 2.0)}, ValueError, "spacing: expected 3 numbers"),
        ({"spacing": torch.ones(1, 3)}, TypeError, "spacing: expected None, a number or 3 numbers, got a tensor"),
        ({"spacing": -1.0}, ValueError, "spacing: expected positive finite numbers"),
        ({"spatial_dims": 4}, ValueError, "spatial_dims: expected"),
        ({"threshold": float("nan")}, ValueError, "threshold: expected a number, got nan"),
        ({"threshold": "0.5"}, TypeError, "threshold: expected None or a number"),
        ({"border": "shut"}, ValueError, "border: expected 'open' or 'closed', got 'shut'"),
        ({"scratch": "/nowhere/at/all"}, ValueError, "scratch: expected None or a directory"),
        ({"block_bytes": "much"}, ValueError, "block_bytes: expected a number"),
        ({"block_bytes": 0}, ValueError, "block_bytes: expected at least 1, got 0"),
        ({"block_bytes": None}, ValueError, "block_bytes: expected a number"),
        ({"block_bytes": float("inf")}, ValueError, "block_bytes: expected a number"),
        ({"scratch": b"/nowhere/at/all"}, ValueError, "scratch: expected None or a directory"),
        ({"spacing": 1e18, "mask": da.zeros((64, 64))}, ValueError, "spacing: expected distances below 1.8e+19"),
        (
            {"spacing": 1e18, "mask": da.zeros((64, 64)), "block_bytes": 100},
            ValueError,
            "spacing: expected distances below 1.8e+19",
        ),
    ],
)
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        dtkernels.dask.sdf(**{"mask": da.zeros((4, 4, 4)), **arguments})
    assert message in str(raised.value)


def test_an_unknown_backend_is_refused_before_anything_is_computed() -> None:
    mask = da.zeros((4, 4))
    for call in (
        lambda: dtkernels.dask.edt(mask, backend="nope"),
        lambda: dtkernels.dask.distance_map(mask, backend="nope"),
        lambda: dtkernels.dask.label(mask, backend="nope"),
        lambda: dtkernels.dask.surface_metrics(mask, mask, backend="nope"),
    ):
        with pytest.raises(ValueError, match=r"backend: expected one of \['cpu'.*, got 'nope'"):
            call()
