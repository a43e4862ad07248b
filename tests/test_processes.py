"""Processes, threads and memory: training loops fork workers, call from threads, and run for days."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from queue import Empty
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Backend, numpy
from torch.utils.data import DataLoader, Dataset

import dtkernels as dtk
from bench import masks

TIMEOUT = 120.0  # seconds for a fresh interpreter; a hang is a failure, not a stuck suite
FORK_TIMEOUT = 30.0  # a forked child has imported everything and needs less than one


def on_cpu(backend: Backend) -> None:
    if backend.device != "cpu":
        pytest.skip("CUDA cannot be used in a forked child: CUDA's own rule, whatever runs on it")


def compute(backend: str, device: str) -> np.ndarray:
    """Maps of masks large enough for every thread to have work, read and written in several ways."""
    mask = torch.from_numpy(masks.make("ellipsoids", (2, 1, 60, 64, 70))).to(device)
    rows = torch.tensor([[1.0, 2.0, 0.5], [0.7, 1.0, 3.0]], device=device)
    maps = [
        dtk.sdf(mask, (1.0, 2.0, 0.5), backend=backend),
        dtk.edt(mask, rows, threshold=0.5, border="closed", backend=backend),
        dtk.sdf(mask.transpose(-1, -3), backend=backend).transpose(-1, -3),
        dtk.labels_sdf(mask, 2, backend=backend)[:, 1:],
    ]
    return np.stack([numpy(m) for m in maps])


def child(queue: Any, backend: str, device: str) -> None:
    queue.put(compute(backend, device))


def run(process: BaseProcess, queue: Any, timeout: float = FORK_TIMEOUT) -> np.ndarray:
    """The child's answer, or a failure if it hangs or dies."""
    process.start()
    try:
        result = queue.get(timeout=timeout)
        process.join(timeout)
        assert process.exitcode == 0
        return result
    except Empty:
        pytest.fail(f"no answer from the child in {timeout:.0f} s: it hangs (exit code {process.exitcode})")
    finally:
        if process.is_alive():
            process.kill()
            process.join()


def test_fork_after_use(backend: Backend) -> None:
    """The parent's threads do not exist in the child: a pool that waits for them hangs."""
    on_cpu(backend)
    context = multiprocessing.get_context("fork")
    expected = compute(backend.name, backend.device)
    for _ in range(2):
        queue = context.Queue()
        result = run(context.Process(target=child, args=(queue, backend.name, backend.device)), queue)
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(compute(backend.name, backend.device), expected)  # the parent goes on


def grandchild(queue: Any, backend: str, device: str) -> None:
    compute(backend, device)
    context = multiprocessing.get_context("fork")
    inner = context.Queue()
    queue.put(run(context.Process(target=child, args=(inner, backend, device)), inner))


def test_fork_in_a_fork(backend: Backend) -> None:
    on_cpu(backend)
    context = multiprocessing.get_context("fork")
    expected = compute(backend.name, backend.device)
    queue = context.Queue()
    result = run(context.Process(target=grandchild, args=(queue, backend.name, backend.device)), queue)
    np.testing.assert_array_equal(result, expected)


def test_fork_while_other_threads_compute(backend: Backend) -> None:
    """A fork in the middle of a transform must not leave the child a lock that nobody will release."""
    on_cpu(backend)
    context = multiprocessing.get_context("fork")
    expected = compute(backend.name, backend.device)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            compute(backend.name, backend.device)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(3):
            queue = context.Queue()
            result = run(context.Process(target=child, args=(queue, backend.name, backend.device)), queue)
            np.testing.assert_array_equal(result, expected)
    finally:
        stop.set()
        for worker in workers:
            worker.join(TIMEOUT)
    assert not any(worker.is_alive() for worker in workers)


def test_spawn(backend: Backend) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    result = run(context.Process(target=child, args=(queue, backend.name, backend.device)), queue, TIMEOUT)
    np.testing.assert_array_equal(result, compute(backend.name, backend.device))


class Maps(Dataset):
    """A data set that computes its targets' maps in the loader's workers."""

    def __init__(self, backend: str, count: int) -> None:
        self.backend, self.count = backend, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        mask = torch.from_numpy(masks.make("noise", (1, 30, 40, 50), seed=index))
        return dtk.sdf(mask, spatial_dims=3, backend=self.backend)


def test_data_loader_workers(backend: Backend) -> None:
    on_cpu(backend)
    data = Maps(backend.name, 8)
    expected = torch.stack([data[i] for i in range(8)])  # the parent has used its pool
    context = "fork"  # the default on Linux up to Python 3.13
    for _ in range(2):
        loader = DataLoader(data, batch_size=2, num_workers=2, timeout=TIMEOUT, multiprocessing_context=context)
        assert torch.equal(torch.cat(list(loader)), expected)


# ---- threads


def test_threads_at_once(backend: Backend) -> None:
    """Eight threads, each with masks of its own: no shared scratch, no result of another's."""
    shapes = [(40, 50), (3, 1, 20, 30), (12, 20, 24), (400,)]
    jobs = [backend.put(masks.make("noise", shapes[k % 4], seed=k)) for k in range(32)]
    expected = [backend.sdf(x) for x in jobs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            results = list(pool.map(backend.sdf, jobs, timeout=TIMEOUT))
            for result, values in zip(results, expected, strict=True):
                assert torch.equal(result, values)


@pytest.fixture
def _thread_count() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_thread_count")
def test_number_of_threads_does_not_matter(backend: Backend) -> None:
    on_cpu(backend)
    cases = [
        ("ellipsoids", (2, 1, 60, 64, 70), (1.0, 2.0, 0.5)), ("ellipsoids", (700, 500), (0.7, 1.1)),
        ("noise", (3, 7), None), ("noise", (30_000,), 2.0), ("seeds", (1, 3, 2000), (1.0, 0.3, 0.2)),
    ]  # fmt: skip
    for kind, shape, spacing in cases:
        x = backend.put(masks.make(kind, shape))
        results = []
        for threads in (1, 2, 4, 3, 1):
            torch.set_num_threads(threads)
            results.append((backend.edt(x, spacing), backend.sdf(x, spacing, border="closed")))
        for edt, sdf in results[1:]:
            assert torch.equal(edt, results[0][0])
            assert torch.equal(sdf, results[0][1])


def test_the_interpreter_is_free_while_a_transform_runs(backend: Backend) -> None:
    """Other Python threads go on: the lock is released around the work."""
    on_cpu(backend)
    if backend.name == "reference":
        pytest.skip("the reference is Python: only compiled work can leave the interpreter to others")
    x = backend.put(masks.make("spheres", (300, 300, 300)))
    out = torch.empty(x.shape)
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    during = []
    for _ in range(5):  # the best of some: a busy machine may hold back either thread
        before = ticks
        backend.sdf(x, out=out)
        during.append(ticks - before)
    stop.set()
    thread.join()
    assert max(during) >= 5, "held, at most one tick fits in before the work and one after it"


# ---- memory


def resident() -> int:
    """Bytes of this process in memory, without those freed that malloc keeps: they could hide a leak."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(backend: Backend, call: Any, warm_up: int, calls: int) -> int:
    """Bytes gained by ``calls`` calls after a warm-up, on the host and on the device."""

    def used() -> int:
        if backend.device == "cuda":
            torch.cuda.synchronize()
            return resident() + torch.cuda.memory_allocated()
        return resident()

    for _ in range(warm_up):
        call()
    before = used()
    for _ in range(calls):
        call()
    return used() - before


needs_proc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc on Linux")


@needs_proc
def test_small_calls_do_not_grow_memory(backend: Backend) -> None:
    """10,000 calls that lost one small tensor in three would gain 2 MiB and more."""
    x, y = backend.put(masks.make("noise", (2, 1, 6, 7))), backend.put(np.arange(12).reshape(3, 4) % 3)
    rows, out = backend.put(np.array([[1.0, 2.0], [2.0, 0.5]])), torch.empty(2, 1, 6, 7, device=backend.device)

    def call() -> None:
        backend.sdf(x, (0.5, 2.0))
        backend.edt(x, rows, threshold=0.5, out=out)
        backend.labels_sdf(y, 3)

    rounds = 3334 if backend.name != "reference" else 1000
    assert growth(backend, call, rounds // 4, rounds) < 1 << 20


@needs_proc
@pytest.mark.large
def test_large_calls_do_not_grow_memory(backend: Backend) -> None:
    """Each result is 15 MiB and its scratch of that order: 20 calls may leave the heap one of them, not many."""
    x = backend.put(masks.make("ellipsoids", (160, 160, 150)))

    def call() -> None:
        backend.sdf(x)

    assert growth(backend, call, 3, 20) < 60 << 20


@needs_proc
def test_refusals_do_not_grow_memory(backend: Backend) -> None:
    x = backend.put(np.ones((2, 1, 64, 64), np.float32))

    def call() -> None:
        with pytest.raises(ValueError):
            backend.sdf(x, torch.ones(3, 2, device=backend.device))

    assert growth(backend, call, 500, 1000) < 1 << 20
