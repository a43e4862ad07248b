"""The CUDA kernels of the envelope and of its gradient, unmodified, on the emulator with the real launch plans.

As test_kernels_emulated.py, this file is also the program that runs under the sanitizers.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from typing import Any

import numpy as np
import pytest
from emulated import DTYPES, GARBAGE, H200, Library, as_image, guarded, problems, under_a_sanitizer
from emulator import build
from numpy.typing import NDArray

plans: Any = importlib.import_module("dtkernels.plans.envelope")

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

Array = NDArray[Any]
# So little shared memory that long lines are searched where they lie.
TINY = H200._replace(shared_per_block_optin=8192)


def run(library: Library, plan: Any, image: int, spacing: int, second: Array | None, size: int) -> Array:
    """Every launch of a plan; what lies around its results and its scratch memory must stay as it is."""
    out, *out_guard = guarded(size)
    scratch, *scratch_guard = guarded(plan.scratch_bytes)
    at = 0 if second is None else second.ctypes.data
    for launch in plan.bind(image, spacing, out.ctypes.data, scratch.ctypes.data, at):
        library.launch(launch)
    for guard in (*out_guard, *scratch_guard):
        assert (guard == GARBAGE).all()
    return out


def envelope(
    library: Library,
    f: Array,
    spacing: Any = (1.0, 1.0, 1.0),
    *,
    with_index: bool = True,
    device: Any = H200,
    max_blocks: int | None = None,
) -> tuple[Array, Array | None]:
    """Of f with axes (batch, class, z, y, x)."""
    rows = None if isinstance(spacing, tuple) else np.ascontiguousarray(spacing, np.float64)
    given = problems.Spacing(spacing) if rows is None else problems.Spacing(None, rows.ctypes.data, len(rows))
    stride = tuple(s // f.itemsize for s in f.strides)
    image = problems.Image(f.ctypes.data, DTYPES[f.dtype.name], f.shape, stride)
    memory, *guard = guarded(8 * f.size)
    index = memory.view(np.int64) if with_index else None
    problem = problems.EnvelopeProblem(image, 3, given, 0, memory.ctypes.data if with_index else 0)
    plan = plans.plan(problem, device, max_blocks)
    out = run(
        library, plan, f.ctypes.data, given.data, index, f.nbytes if f.flags.c_contiguous else f.size * f.itemsize
    )
    assert (guard[0] == GARBAGE).all()
    assert (guard[1] == GARBAGE).all()
    return out.view(f.dtype).reshape(f.shape), None if index is None else index.reshape(f.shape)


def scatter(library: Library, grad: Array, index: Array, max_blocks: int | None = None) -> Array:
    plan = plans.scatter_plan(grad.shape, grad.dtype == np.float64, H200, max_blocks)
    before = index.copy()
    out = run(library, plan, grad.ctypes.data, 0, index, grad.nbytes)
    np.testing.assert_array_equal(index, before)
    return out.view(grad.dtype).reshape(grad.shape)


def all_candidates(f: Array, spacing: Any = (1.0, 1.0, 1.0)) -> tuple[Array, Array]:
    """The sums of the definition in f's dtype, axis by axis, the last first; the lowest of equals."""
    least = np.where(np.isnan(f), np.inf, f).astype(f.dtype)
    place = np.broadcast_to(np.arange(f[0, 0].size).reshape(f.shape[2:]), f.shape)
    rows = np.broadcast_to(np.asarray(spacing, np.float64), (len(f), 3))
    for axis in (4, 3, 2):
        n = f.shape[axis]
        k = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        with np.errstate(over="ignore"):
            cost = (rows[:, axis - 2] ** 2).astype(f.dtype)[:, None, None] * (k**2).astype(f.dtype)  # (b, p, j)
            lines, places = np.moveaxis(least, axis, -1), np.moveaxis(place, axis, -1)
            sums = lines[..., None, :] + cost.reshape(len(f), 1, 1, 1, n, n)
        best = sums.argmin(-1)
        least = np.moveaxis(np.take_along_axis(sums, best[..., None], -1)[..., 0], -1, axis)
        place = np.moveaxis(np.take_along_axis(places, best, -1), -1, axis)
    return least, np.where(least == np.inf, -1, place)


def functions(shape: tuple[int, ...], dtype: str, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    kinds = {
        "noise": 20 * noise,
        "smooth": 300 * np.cos(np.arange(noise.size).reshape(shape) / noise.size * 9),
        "sparse": np.where(rng.random(shape) < 0.05, 9 * noise, np.inf),
        "steps": np.round(noise),
        "none": np.full(shape, np.inf),
        "bottomless": np.where(rng.random(shape) < 0.02, -np.inf, noise),
        "not a number": np.where(rng.random(shape) < 0.4, np.nan, noise),
        "high": 1e6 + 3 * noise,
        "one": np.where(np.arange(noise.size).reshape(shape) == rng.integers(noise.size), -7.0, np.inf),
    }
    return {name: f.astype(dtype) for name, f in kinds.items()}


def check(library: Library, f: Array, spacing: Any = (1.0, 1.0, 1.0), **options: Any) -> None:
    values, index = envelope(library, f, spacing, **options)
    expected, place = all_candidates(f, spacing)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(index, place)
    alone, _ = envelope(library, f, spacing, with_index=False, **options)
    np.testing.assert_array_equal(alone, expected)


def check_all(library: Library, shape: tuple[int, ...], only: str = "", **options: Any) -> None:
    for dtype in ("float32", "float64"):
        for name, f in functions(shape, dtype, sum(shape)).items():
            if not only or name in only.split():
                check(library, as_image(f), **options)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 16, 17, 31, 33, 64, 65, 129, 257])
def test_lengths(library: Library, n: int) -> None:
    check_all(library, (n,))
    check_all(library, (3, n), only="noise sparse steps")
    check_all(library, (n, 3), only="noise sparse steps")


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 6), (1, 9, 1), (6, 40, 9), (20, 3, 35), (4, 17, 18)], ids=str)
def test_volumes(library: Library, shape: tuple[int, ...]) -> None:
    check_all(library, shape)
    check_all(library, shape, only="noise sparse", spacing=(0.7, 2.0, 1e-2))


@pytest.mark.parametrize("shape", [(1900,), (2, 2001), (2001, 3), (3, 1800, 2)], ids=str)
@pytest.mark.parametrize("max_blocks", [None, 1])
def test_lines_that_do_not_fit(library: Library, shape: tuple[int, ...], max_blocks: int | None) -> None:
    check_all(library, shape, only="noise sparse smooth", device=TINY, max_blocks=max_blocks)


def test_batches_layouts_and_rows(library: Library) -> None:
    rng = np.random.default_rng(0)
    base = (30 * rng.standard_normal((3, 4, 10, 12, 14))).astype(np.float32)
    rows = rng.uniform(0.3, 2, (2, 3))
    for f in (base[:2], base[:2, ::2, ::3, :, 1::2], base[:2].transpose(0, 4, 2, 1, 3), base[1:, :, :1]):
        check(library, f)
        check(library, f, rows)
        check(library, f, rows, max_blocks=2)


def test_longest_line(library: Library) -> None:
    f = np.full((1, 1, 1, 1, 32768), np.inf, np.float32)
    f[..., [5, 20000]] = 0
    values, index = envelope(library, f)
    assert index is not None
    x = np.arange(32768)
    near = np.where(np.abs(x - 5) <= np.abs(x - 20000), 5, 20000)
    np.testing.assert_array_equal(index.ravel(), near)
    np.testing.assert_array_equal(values.ravel(), ((x - near) ** 2).astype(np.float32))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 9), (2, 3, 1, 8, 9), (2, 1, 6, 7, 8), (1, 2, 5, 1, 30), (1, 1, 9, 4, 1)]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients(library: Library, shape: tuple[int, ...], dtype: str) -> None:
    """Integers, so that the order of a sum is no matter; positions of real envelopes, -1 among them."""
    rng = np.random.default_rng(1)
    for kind, f in functions(shape, dtype, 3).items():
        index = all_candidates(f, (1.0, 0.5, 2.0))[1]
        grad = rng.integers(-9, 10, shape).astype(dtype)
        expected = np.zeros((shape[0] * shape[1], index[0, 0].size))
        for row, g, at in zip(expected, grad.reshape(expected.shape), index.reshape(expected.shape), strict=True):
            np.add.at(row, at[at >= 0], g[at >= 0])
        for max_blocks in (None, 1):
            sums = scatter(library, grad, np.ascontiguousarray(index), max_blocks)
            np.testing.assert_array_equal(sums.reshape(expected.shape), expected, err_msg=kind)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_schedules(library: Library, seed: int) -> None:
    library.set(seed=seed, resident=3)
    try:
        check_all(library, (9, 11, 36), only="noise sparse", max_blocks=3)
        check_all(library, (100,), only="noise sparse")
    finally:
        library.set(seed=0, resident=1)


def test_work_is_bounded(library: Library) -> None:
    """A few candidates per voxel and axis: landmarks bound what windows do not."""
    for name, f in functions((40, 48, 56), "float32", 2).items():
        library.reset_statistics()
        envelope(library, as_image(f), with_index=False)
        counts = [s.get("counters", {}) for s in library.statistics().values()]
        most = 3 * 56 if name == "bottomless" else 3 * 16
        assert sum(c.get("candidates", 0) for c in counts) / f.size < most, name


def test_parameters_have_the_size_of_their_structs(library: Library) -> None:
    sizes = library.kernels()
    asked = set()
    for shape, dtype, device in itertools.product(
        ((1, 1, 1, 1, 2000), (2, 2, 8, 9, 10)), (problems.DType.FLOAT32, problems.DType.FLOAT64), (H200, TINY)
    ):
        image = problems.Image(0, dtype, shape, (0,) * 5)
        problem = problems.EnvelopeProblem(image, 3, problems.Spacing(), 0, 1)
        wide = dtype == problems.DType.FLOAT64
        for plan in (plans.plan(problem, device), plans.scatter_plan(shape, wide, device)):
            for launch in plan.bind(1, 2, 3, 4, 5):
                assert sizes[launch.kernel] == len(launch.params)
                asked.add(launch.kernel)
    assert asked == {name for name in sizes if "parabolas" in name or "receivers" in name}


@pytest.mark.parametrize("mode", ["address", "thread"])
def test_under_a_sanitizer(mode: str) -> None:
    under_a_sanitizer(__file__, mode)


def main(path: str) -> None:
    """Every kernel, on small functions."""
    library = Library(path)
    for seed in (0, 1):
        library.set(seed=seed, resident=2)
        check_all(library, (9, 5, 36), only="noise sparse one", max_blocks=3)
        check_all(library, (3, 1800), only="sparse", device=TINY, max_blocks=2)
    for dtype in ("float32", "float64"):
        f = functions((2, 1, 6, 7, 9), dtype, 1)["noise"]
        scatter(library, f, np.ascontiguousarray(all_candidates(f)[1]))
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
