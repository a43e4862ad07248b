"""Threads of our own for compiled functions that release the GIL.

Numba's ``parallel=True`` is out: of its threading layers "omp" hangs or aborts in a process forked after its first
use, "workqueue" aborts when two Python threads call at once, and "tbb" is an extra package; yet DataLoader workers
fork, and users call from threads. A pool of Python threads does as well, because a call of a compiled function
lasts far longer than handing it over. After a fork the child starts a pool of its own.

The caller takes part in its own work, so a call ends even if no helper ever starts. That makes calls from any
number of threads at once safe, too.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numba.core.compiler_lock

_compiler_lock: Any = numba.core.compiler_lock.global_compiler_lock

_PARTS_PER_THREAD = 8  # small enough parts that a thread that is interrupted is no great loss

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def parallel(work: Callable[[int, int], object], count: int, threads: int) -> None:
    """Call ``work(first, last)`` for ranges that cover ``range(count)``, on up to ``threads`` threads."""
    threads = min(threads, count)
    if threads <= 1:
        work(0, count)
        return
    parts = min(count, _PARTS_PER_THREAD * threads)
    remaining = deque(range(parts))

    def take_part() -> None:
        while True:
            try:
                i = remaining.popleft()
            except IndexError:
                return
            work(count * i // parts, count * (i + 1) // parts)

    helpers = _submit(take_part, threads - 1)
    try:
        take_part()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _submit(task: Callable[[], None], copies: int) -> list[Future[None]]:
    global _pool, _size
    helpers: list[Future[None]] = []
    with _lock:
        if _pool is None or _size < copies:
            if _pool is not None:
                _pool.shutdown(wait=False)  # after what it has been given
            _pool, _size = ThreadPoolExecutor(copies, thread_name_prefix="dtkernels"), copies
        # An interpreter that is shutting down lets no thread start: then the caller works alone.
        with contextlib.suppress(RuntimeError):
            helpers.extend(_pool.submit(task) for _ in range(copies))
    return helpers


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock that one of them held."""
    global _lock, _pool, _size
    _lock, _pool, _size = threading.Lock(), None, 0
    _compiler_lock.release()


# A fork waits until no thread compiles; otherwise the child would inherit a compiler locked for ever.
os.register_at_fork(
    before=_compiler_lock.acquire,
    after_in_parent=_compiler_lock.release,
    after_in_child=_forget_threads,
)
