"""The Numba backend: values against the oracle and other backends, and what only a JIT compiler can get wrong.

Its GPU kernels run here in Numba's simulator, by the launches that a GPU gets, and are compiled to PTX where there
is a libNVVM.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from conftest import MASK_DTYPES
from torch.utils.data import DataLoader, Dataset

import dtkernels as dtk
from bench import masks

pytest.importorskip("numba")

ROOT = Path(__file__).parent.parent
OPS = ["edt", "sdf"]
BORDERS = ["open", "closed"]
COMPILED = dtk.backends.available()["cpu"].available
OTHER = "cpu" if COMPILED else "reference"


def call(op: str, x: torch.Tensor, *args: object, backend: str = "numba", **kwargs: object) -> torch.Tensor:
    return getattr(dtk, op)(x, *args, backend=backend, **kwargs)


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def random_mask(shape: tuple[int, ...], density: float = 0.9, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < density).astype(np.uint8)


def run_python(code: str, **environment: str) -> str:
    """Standard output of a fresh interpreter that sees the package and the tests."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


# ---- values

SHAPES = [
    (1,), (2,), (300,), (5, 33), (33, 17), (1, 40), (40, 1), (40, 3, 5), (3, 40, 17), (2, 3, 150), (1, 9, 30),
    (1, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_values(shape: tuple[int, ...], density: float) -> None:
    mask = random_mask(shape, density)
    x = torch.from_numpy(mask)
    spacing = (3.0, 0.7, 0.9765625)[-len(shape) :]
    for op, border in product(OPS, BORDERS):
        unit = oracle.squared(op, mask, closed=border == "closed")
        scaled = oracle.squared(op, mask, spacing, closed=border == "closed")
        for squared in (False, True):
            options = {"border": border, "squared": squared, "spatial_dims": len(shape)}
            result = call(op, x, **options).numpy()
            np.testing.assert_array_equal(
                result, oracle.exact(unit, is_squared=squared), err_msg=f"{op} {options}"
            )
            oracle.assert_close(call(op, x, spacing, **options).numpy(), scaled, is_squared=squared)


@pytest.mark.parametrize("shape", [(1 << 15,), (300, 400), (50, 60, 70), (3, 500, 20)], ids=str)
@pytest.mark.parametrize("kind", list(masks.KINDS))
def test_larger_images_equal_the_other_backends(kind: str, shape: tuple[int, ...]) -> None:
    mask = masks.make(kind, shape)
    x = torch.from_numpy(mask)
    for op in OPS:
        np.testing.assert_array_equal(
            call(op, x, squared=True).numpy(), oracle.exact(oracle.scipy_squared(op, mask), is_squared=True)
        )
        for border in BORDERS if COMPILED else ():
            for spacing in (None, 0.3):
                ours, theirs = (call(op, x, spacing, border=border, backend=b) for b in ("numba", OTHER))
                assert torch.equal(ours, theirs)
        spacing = (3.0, 0.8, 0.81)[-len(shape) :]
        ours, theirs = (call(op, x, spacing, backend=b) for b in ("numba", OTHER))
        torch.testing.assert_close(ours, theirs, rtol=4 * 2.0**-23, atol=0.0)


@pytest.mark.parametrize("dtype", MASK_DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_dtypes_and_rules(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.choice([0.0, 1.0, 2.0, 3.0], (2, 3, 9, 20), p=[0.2, 0.4, 0.2, 0.2])).to(dtype)
    if dtype.is_floating_point:
        values[0, 0, 0] = float("nan")
        values[0, 1] *= 0.3
    if dtype not in (torch.bool, torch.uint8):
        values[1] *= -1
    for x in (
        values,
        values.transpose(2, 3),
        values[:, :, ::2, 1:],
        values[:, :1].expand(2, 4, 9, 20),
        values.mT[::2],
    ):
        foreground = (x != 0) & (x == x)
        assert torch.equal(call("sdf", x), call("sdf", foreground, backend="reference"))
        for threshold in (0.5, -1.0, 1e300):
            above = x.double() > dtk.arguments.round_threshold(threshold, dtype)
            assert torch.equal(call("edt", x, threshold=threshold), call("edt", above, backend="reference"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64], ids=str)
def test_labels(dtype: torch.dtype) -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (3, 7, 8, 9))).to(dtype)
    labels[0, 0] = 100  # of no class
    rows = torch.tensor([[1.0, 1.0, 1.0], [0.5, 2.0, 1.0], [3.0, 3.0, 3.0]])
    for x, spacing in product((labels, labels.mT[:, ::2]), (None, (1.0, 2.0, 0.5), rows)):
        result = dtk.labels_sdf(x, 5, spacing, spatial_dims=3, backend="numba")
        for c in range(5):
            assert torch.equal(result[:, c], call("sdf", x == c, spacing, spatial_dims=3))
    assert (result[:, 4] == np.inf).all()


def test_a_row_of_spacing_per_sample() -> None:
    x = torch.from_numpy(random_mask((3, 2, 12, 11, 10)))
    rows = torch.tensor([[1.0, 1.0, 1.0], [0.5, 2.0, 1.0], [0.3, 0.3, 0.3]], dtype=torch.float64)
    for op in OPS:
        expected = torch.stack([call(op, x[i], rows[i].tolist(), spatial_dims=3) for i in range(3)])
        assert torch.equal(call(op, x, rows), expected)


def test_longest_lines() -> None:
    """32,768 voxels: codes of 15 bits, squared counts above 2^24 and the largest that there are."""
    x = torch.ones(3, 1 << 15, dtype=torch.uint8)
    x[0, 0] = 0
    far = np.arange(1 << 15, dtype=np.float64) ** 2
    expected = np.stack([far, far + 1, far + 4]).astype(np.float32)
    np.testing.assert_array_equal(call("edt", x, squared=True).numpy(), expected)
    np.testing.assert_array_equal(call("edt", x.T, squared=True).numpy(), expected.T)
    assert (call("edt", x[1], border="closed", squared=True).max() == (1 << 14) ** 2).all()


def test_many_small_images_and_one_large_one(threads: int) -> None:
    """Every way to share work among threads gives the same."""
    for shape, dims in (((64, 3, 40, 30), 2), ((5, 60, 50, 40), 3), ((1, 400, 500), 2), ((600, 700), 1)):
        x = torch.from_numpy(random_mask(shape))
        result = call("sdf", x, spatial_dims=dims)
        assert torch.equal(result, call("sdf", x, spatial_dims=dims, backend=OTHER))


def test_nothing_is_written_beside_the_result() -> None:
    memory = torch.full((3, 50, 70), -5.0)
    for shape, spacing in (((50, 70), None), ((7, 10, 50), (1.0, 2.0, 3.0)), ((3500,), None)):
        x = torch.from_numpy(random_mask(shape))
        call("sdf", x, spacing, out=memory[1].view(shape))
        assert torch.equal(memory[1].view(shape), call("sdf", x, spacing))
        assert (memory[::2] == -5).all()


# ---- processes and threads


def large() -> torch.Tensor:
    """Enough voxels for two threads."""
    return torch.from_numpy(masks.make("organ", (64, 64, 64)))


def total() -> float:
    """Of a map. By NumPy, since torch's own threads hang in a forked child."""
    return float(call("sdf", large()).numpy().sum(dtype=np.float64))


def in_child(queue: multiprocessing.Queue) -> None:
    queue.put(total())


def test_a_forked_child_starts_its_own_threads(two_threads: None) -> None:
    expected = total()  # the pool is running
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=in_child, args=(queue,)) for _ in range(3)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [expected] * 3
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    assert total() == expected  # and the parent's still runs


def test_a_fork_during_calls_of_another_thread(two_threads: None) -> None:
    expected = total()
    stop = threading.Event()

    def keep_calling() -> None:
        while not stop.is_set():
            call("sdf", large())

    busy = [threading.Thread(target=keep_calling) for _ in range(2)]
    for thread in busy:
        thread.start()
    try:
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        for _ in range(5):
            child = context.Process(target=in_child, args=(queue,))
            child.start()
            assert queue.get(timeout=60) == expected
            child.join(timeout=60)
            assert child.exitcode == 0
    finally:
        stop.set()
        for thread in busy:
            thread.join()


class Maps(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        before = torch.get_num_threads()  # one in a worker, and torch's own functions would hang with more
        torch.set_num_threads(2)
        result = call("sdf", torch.from_numpy(np.roll(large().numpy(), index, 0)))
        torch.set_num_threads(before)
        return result


def test_data_loader_workers(two_threads: None) -> None:
    expected = torch.stack([Maps()[i] for i in range(6)])
    loader = DataLoader(Maps(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert torch.equal(torch.cat(list(loader)), expected)


def test_calls_from_many_threads_at_once(two_threads: None) -> None:
    inputs = [torch.roll(large(), i, 1) for i in range(8)]
    expected = [call("sdf", x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            results = list(pool.map(lambda x: call("sdf", x), inputs))
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_a_call_after_the_main_thread_has_ended() -> None:
    """Then no thread can be started any more, and the caller does all work."""
    output = run_python("""
        import threading, torch, dtkernels as dtk
        x = torch.ones(64, 64, 64); x[0] = 0
        torch.set_num_threads(2)
        def late():
            threading.main_thread().join()
            print(dtk.edt(x, backend="numba").max().item())
        threading.Thread(target=late).start()
    """)
    assert output.strip() == "63.0"


# ---- compilation


def test_importing_the_package_imports_no_numba() -> None:
    run_python("""
        import sys, torch, dtkernels as dtk
        dtk.edt(torch.ones(3))
        dtk.edt(torch.ones(3), backend="reference")
        assert not [m for m in sys.modules if m.split(".")[0] in ("numba", "llvmlite")]
    """)


def test_a_missing_numba_is_named_with_the_remedy() -> None:
    run_python("""
        import importlib.util, torch, dtkernels as dtk
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "numba" else find(name, *a)
        try:
            dtk.edt(torch.ones(3), backend="numba")
        except RuntimeError as error:
            assert "pip install 'dtkernels[numba]'" in str(error)
        else:
            raise SystemExit("no error")
    """)


def test_a_broken_numba_is_refused_with_its_reason(tmp_path: Path) -> None:
    """Not before it is asked for: the other backends run."""
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.3 or less')")
    run_python(f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        import torch, dtkernels as dtk
        assert dtk.edt(torch.tensor([0, 1, 1, 0])).tolist() == [0, 1, 1, 0]
        status = dtk.backends.available()["numba"]
        assert not status.available and "Numba needs NumPy 2.3 or less" in status.reason, status
        try:
            dtk.edt(torch.ones(3), backend="numba")
        except RuntimeError as error:
            assert "'numba' cannot run here: Numba cannot be imported (Numba needs NumPy 2.3" in str(error), error
        else:
            raise SystemExit("no error")
    """)


def test_the_cache_is_used_and_checked(tmp_path: Path) -> None:
    """A second process compiles nothing; a change of any source file makes the machine code stale."""
    package = tmp_path / "dtkernels"
    shutil.copytree(ROOT / "dtkernels", package, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        # The finder of an editable install would come before the path.
        sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]
        import numpy as np
        from dtkernels.backends.numba import passes
        assert passes.__file__.startswith({str(tmp_path)!r})
        codes, row = np.zeros(4 + passes.CODE_PADDING, np.uint16), (np.empty(1, np.uint8), np.empty(1, np.uint16))
        line = np.array([0, 1, 1, 0], np.uint8)
        passes.scan(line, 0, 0, 1, 1, 0, 0, 4, 1, 1, 0, 0.0, False, codes, 1, *row, 0, 0, 1)
        assert (codes[:4] == [0, 0x8000, 0x8000, 0]).all()
        print(sum(passes.scan.stats.cache_hits.values()))
    """
    cache = str(tmp_path / "cache")
    assert run_python(code, NUMBA_CACHE_DIR=cache).strip() == "0"
    assert run_python(code, NUMBA_CACHE_DIR=cache).strip() == "1"
    source = package / "backends" / "numba" / "solver.py"
    os.utime(source, (source.stat().st_atime, source.stat().st_mtime + 2))
    assert run_python(code, NUMBA_CACHE_DIR=cache).strip() == "0"


def test_no_cache_folder_is_no_error() -> None:
    from dtkernels.backends.numba import jit

    asked = []

    def refusing(cache: bool = False) -> Callable[[object], object]:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
        return lambda function: function

    assert jit.cached(refusing)(abs) is abs
    assert asked == [True, False]


# ---- GPU kernels


def test_gpu_kernels_in_the_simulator() -> None:
    output = run_python(
        """
        import itertools
        import numpy as np, torch, oracle
        import dtkernels as dtk
        import dtkernels.backends.numba as backend
        from dtkernels.backends.numba import gpu
        backend.run = gpu.run
        gpu.THREADS, gpu.TILE, gpu.TILE_ROWS, gpu.PITCH = 4, 4, 2, 5  # a simulated thread is a real one
        rng = np.random.default_rng(0)
        for shape in [(1,), (7,), (5, 6), (3, 1, 4), (2, 5, 6)]:
            for op, border in itertools.product(("edt", "sdf"), ("open", "closed")):
                mask = (rng.random((2, *shape)) < 0.7).astype(np.uint8)
                mask[0] = rng.integers(0, 2)
                spacing = (0.7, 3.0, 0.9765625)[-len(shape):]
                options = {"border": border, "spatial_dims": len(shape), "backend": "numba"}
                result = getattr(dtk, op)(torch.from_numpy(mask), **options).numpy()
                scaled = getattr(dtk, op)(torch.from_numpy(mask), spacing, **options).numpy()
                for i in range(2):
                    square = oracle.squared(op, mask[i], closed=border == "closed")
                    np.testing.assert_array_equal(result[i], oracle.exact(square, is_squared=False))
                    square = oracle.squared(op, mask[i], spacing, closed=border == "closed")
                    oracle.assert_close(scaled[i], square, is_squared=False)
        x = torch.from_numpy(rng.integers(0, 3, (2, 4, 5, 3))).mT
        rows = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.5, 0.5]])
        labels = dtk.labels_sdf(x, 3, rows, spatial_dims=3, squared=True, backend="numba")
        for i, c in itertools.product(range(2), range(3)):
            square = oracle.squared("sdf", x[i].numpy() == c, rows[i].tolist())
            oracle.assert_close(labels[i, c].numpy(), square, is_squared=True)
        half = torch.rand(4, 5).bfloat16()
        square = oracle.squared("edt", half.float().numpy() > 0.5)
        result = dtk.edt(half, threshold=0.5, backend="numba").numpy()
        np.testing.assert_array_equal(result, oracle.exact(square, is_squared=False))
        print("done")
        """,
        NUMBA_ENABLE_CUDASIM="1",
    )
    assert output.strip() == "done"


def test_gpu_kernels_of_other_operators_in_the_simulator() -> None:
    """Nearest voxels and components, for every connectivity, batches, spacings and ties."""
    output = run_python(
        """
        import numpy as np, torch
        import dtkernels as dtk
        import dtkernels.backends.numba as backend
        from dtkernels.backends.numba import gpu, gpu_components, gpu_feature
        backend.run, backend.nearest, backend.label = gpu.run, gpu_feature.run, gpu_components.run
        gpu.THREADS, gpu.TILE, gpu.TILE_ROWS, gpu.PITCH = 4, 4, 2, 5  # a simulated thread is a real one
        rng = np.random.default_rng(0)
        rows = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.5, 0.7]])
        for shape in [(1,), (9,), (5, 6), (3, 1, 4), (1, 5, 1), (3, 4, 5)]:
            n = len(shape)
            mask = rng.random((2, *shape)) < 0.75
            mask[1] = shape == (5, 6) or rng.random(shape) < 0.95
            x = torch.from_numpy(mask).to(torch.bfloat16 if n == 2 else torch.uint8)
            for spacing in (None, 0.5, (0.7, 3.0, 0.9)[:n], rows[:, :n]):
                ours, theirs = (dtk.nearest(x, spacing, spatial_dims=n, backend=b) for b in ("numba", "reference"))
                assert torch.equal(ours[1], theirs[1]), (shape, spacing)
                torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=0.0)
            for connectivity in range(1, n + 1):
                options = {"connectivity": connectivity, "spatial_dims": n}
                for a, b in zip(*(dtk.label(x, backend=b, **options) for b in ("numba", "reference"))):
                    assert torch.equal(a, b), (shape, connectivity)
        print("done")
        """,
        NUMBA_ENABLE_CUDASIM="1",
    )
    assert output.strip() == "done"


def find_cuda_home(folder: Path) -> Path | None:
    """A folder laid out as Numba wants it, with the libNVVM of this machine."""
    homes = [os.environ.get("CUDA_HOME", ""), *map(str, Path("/usr/local").glob("cuda*"))]
    homes += [f"{path}/nvidia/cuda_nvcc" for path in sys.path]
    for home in map(Path, filter(None, homes)):
        libraries = [p for d in ("nvvm/lib64", "nvvm/lib", "lib") for p in (home / d).glob("libnvvm.so*")]
        if libraries and (home / "nvvm/libdevice").is_dir():
            (folder / "nvvm/lib64").mkdir(parents=True)
            (folder / "nvvm/lib64/libnvvm.so").symlink_to(max(libraries, key=lambda p: len(p.name)))
            (folder / "nvvm/libdevice").symlink_to(home / "nvvm/libdevice")
            return folder
    return None


def test_gpu_kernels_compile_to_ptx(tmp_path: Path) -> None:
    """For Hopper, without a GPU. No product is fused with a float32 sum, and roots are correctly rounded."""
    home = find_cuda_home(tmp_path)
    if home is None:
        pytest.skip("no libNVVM on this machine")
    output = run_python(
        """
        from types import SimpleNamespace
        from numba import cuda, types
        from numba.cuda import dispatcher
        from dtkernels.backends.numba import gpu, gpu_components, gpu_feature
        # A device function is compiled for the device at hand.
        dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(9, 0))
        def flat(t): return types.Array(t, 1, "C")
        i, u = types.int64, flat(types.int16)
        stride, places = types.UniTuple(i, 5), flat(i)
        for v in (types.int32, types.float32):
            cost = types.Array(v, 2, "C")
            for kernel, signature in {
                gpu.scan: (flat(types.uint8), *[i] * 11, types.float64, cost, i, v, i, i, flat(v)),
                gpu.envelope: (flat(v), flat(v), u, u, i, i, i, cost, i, v, i, i),
                gpu.transpose: (flat(types.int32), i, i, flat(types.int32)),
                gpu.finish: (flat(v), i, types.float32, v, i, i, flat(types.float32)),
                gpu_feature.scan_rows:
                    (flat(types.uint8), stride, *[i] * 6, types.float64, cost, i, v, flat(v), places),
                gpu_feature.solve_axis: (flat(v), places, flat(v), places, *[i] * 3, cost, i, v, v, u, u, u),
            }.items():
                ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=(9, 0))
                assert ".target sm_90" in ptx and "fma.rn.f32" not in ptx
                assert ("sqrt.rn.f32" in ptx) == (kernel is gpu.finish) and "sqrt.approx" not in ptx
                print(len(ptx), end=" ")
        parents = flat(types.int32)
        for kernel, signature in {
            gpu_components.begin: (flat(types.uint8), stride, *[i] * 6, types.float64, parents),
            gpu_components.unite: (parents, *[i] * 5),
            gpu_components.flatten: (parents, i, i, parents),
            gpu_components.number: (parents, i, i, parents),
        }.items():
            ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=(9, 0))
            assert ".target sm_90" in ptx and ("atom" in ptx) == (kernel is gpu_components.unite)
            print(len(ptx), end=" ")
        """,
        CUDA_HOME=str(home), NUMBA_ENABLE_CUDASIM="0",
    )  # fmt: skip
    assert len(output.split()) == 16
