"""Ctrl-C in a long run, memory that runs out: a call ends with Python's own exception, the next one is right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import dtkernels as dtk
from bench import masks

BATCH = (40, 64, 128, 128)  # more than 0.2 s of one core's work for every operator

CALLS: dict[str, Callable[[torch.Tensor], Any]] = {
    "edt": lambda m: dtk.edt(m, spatial_dims=3, backend="cpu"),
    "sdf": lambda m: dtk.sdf(m, (1.0, 2.0, 0.5), spatial_dims=3, backend="cpu"),
    "nearest": lambda m: dtk.nearest(m, spatial_dims=3, backend="cpu"),
    "label": lambda m: dtk.label(m, connectivity=3, spatial_dims=3, backend="cpu"),
    "envelope": lambda m: dtk.envelope(torch.where(m, 1e9, 0.0), spatial_dims=3, backend="cpu"),
    "distance_map": lambda m: dtk.distance_map(m, "kervadec", spatial_dims=3, backend="cpu"),
}


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


class Signalled(Exception):
    """What the handler raises."""


@pytest.fixture
def handler() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Have a function called by the handler of a signal that comes 50 ms later."""
    before = signal.getsignal(signal.SIGUSR1)
    timers = []

    def arm(action: Callable[[], None]) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: action())
        timers.append(threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)))
        timers[-1].start()

    yield arm
    for timer in timers:
        timer.cancel()
        timer.join()
    signal.signal(signal.SIGUSR1, before)


needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")


@needs_signals
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("name", CALLS)
def test_exception_of_a_signal_handler_ends_the_call(name: str, handler: Any) -> None:
    """And leaves threads and scratch as they were: the same call then gives what it gave before."""
    call = CALLS[name]
    small = torch.from_numpy(masks.make("noise", (2, 20, 30, 40)))
    expected = call(small)
    mask = torch.from_numpy(masks.make("noise", BATCH[1:])).expand(BATCH)
    raised = False

    def interrupt() -> None:
        nonlocal raised
        raised = True
        raise Signalled

    handler(interrupt)

    def until_interrupted() -> None:  # should a call be over before the signal comes, the next one meets it
        while not raised:
            call(mask)
            time.sleep(0.0)

    with pytest.raises(Signalled):
        until_interrupted()
    torch.testing.assert_close(call(small), expected, rtol=0, atol=0)


@needs_signals
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("name", CALLS)
def test_signal_handler_may_call_the_same_operator(name: str, handler: Any) -> None:
    """The outer call's scratch is not the inner one's, and the outer one goes on to its right end."""
    call = CALLS[name]
    rng = np.random.default_rng(0)
    inner_mask = torch.from_numpy(rng.random((2, 70, 90, 110)) < 0.5)
    mask = torch.from_numpy(rng.random((BATCH[0] // 8, *BATCH[1:])) < 0.5).repeat(8, 1, 1, 1)
    inner_expected, expected = call(inner_mask), call(mask)
    inner = []
    handler(lambda: inner.append(call(inner_mask)))
    deadline = time.monotonic() + 60
    while not inner and time.monotonic() < deadline:
        torch.testing.assert_close(call(mask), expected, rtol=0, atol=0)
    torch.testing.assert_close(inner[0], inner_expected, rtol=0, atol=0)


@needs_signals
def test_ctrl_c_is_answered_at_once() -> None:
    """A volume of one image on one thread: within a fraction of the time it takes."""
    script = """
        import os, signal, threading, time, torch, dtkernels as dtk
        torch.set_num_threads(1)
        mask = torch.rand(320, 320, 320) > 0.5
        start = time.perf_counter()
        dtk.nearest(mask)
        whole = time.perf_counter() - start
        early = whole / 8
        threading.Timer(early, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.perf_counter()
        try:
            dtk.nearest(mask)
        except KeyboardInterrupt:
            print((time.perf_counter() - start - early) / whole)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout, "the call ended before the signal came"
    assert float(run.stdout) < 0.4, "the share of the whole run that Ctrl-C waited for"


def limited(script: str) -> str:
    """Run a script that may take 600 MB of address space more than it has after its imports."""
    head = """
        import gc, resource, sys, torch, dtkernels as dtk
        torch.set_num_threads(1)
        dtk.sdf(torch.ones(8, 8, 8)); dtk.nearest(torch.ones(8, 8, 8)); dtk.label(torch.ones(8, 8, 8))
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        def limit(more):
            resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.RLIM_INFINITY))
        limit(600 << 20)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(script)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "DTK_BACKEND": "cpu"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


needs_limits = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc and rlimits")


@needs_limits
@pytest.mark.parametrize("name", ["edt", "sdf", "nearest", "label", "envelope"])
def test_result_that_does_not_fit(name: str) -> None:
    """MemoryError with the size, for an input of stride 0; nothing is kept, and the next call is right."""
    element = "0.0" if name == "envelope" else "True"
    out = limited(f"""
        mask = torch.tensor([{element}]).expand(1024, 1024, 1024)
        for _ in range(20):
            try:
                dtk.{name}(mask)
            except MemoryError as error:
                message = str(error)
        print(message)
        dtk.{name}(torch.ones(64, 64, 64))
    """)
    assert str(2**30 * 4) in out
    assert "(1024, 1024, 1024)" in out


@needs_limits
def test_scratch_that_does_not_fit() -> None:
    """The result's memory is there, the volume's working memory is not: MemoryError, twenty times the same."""
    out = limited("""
        mask = torch.tensor([True]).expand(400, 512, 512)
        out = torch.empty(mask.shape)
        for _ in range(20):
            try:
                dtk.sdf(mask, out=out)
            except MemoryError as error:
                message = str(error)
        print(message)
        limit(1200 << 20)
        print(dtk.sdf(mask, out=out).max().item())
    """)
    message, value = out.splitlines()
    assert "bytes of working memory" in message
    assert value == "-inf"
