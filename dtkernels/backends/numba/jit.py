"""How the backend's functions are compiled: without the GIL, and once per machine where a cache can be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

# What Numba types and Python does not: a pointer to elements of some type, and sixteen lanes (simd.py).
Pointer = Any
Vector = Any

_njit: Any = numba.njit

_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
_STAMP = tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in _SOURCES)

# No fastmath anywhere: float32 results are those of the compiled kernels, rounding for rounding. No reference
# counts, since compiled code allocates nothing; compilation takes a third of the time without them.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


def inner(function: F) -> F:
    """A function that only compiled code calls, without the wrappers that Python and C would need."""
    compiled: F = _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
    return compiled


def entry(function: F) -> F:
    """A function that Python calls. What it calls is part of its machine code, in the cache too."""
    return cached(_njit, **_OPTIONS)(function)


def cached(compiler: Callable[..., Any], **options: Any) -> Callable[[F], F]:
    """A decorator that keeps machine code on disk, if Numba finds a folder that it can write to.

    That is NUMBA_CACHE_DIR if it is set, else __pycache__ beside the source, else (a read-only installation) the
    user's cache folder. Without any of them Numba refuses the decorator, and every process compiles for itself.
    """

    def decorate(function: F) -> F:
        compiled: F
        try:
            compiled = compiler(cache=True, **options)(function)
            # Numba compares the cache with the function's own file only; its machine code comes from all of ours.
            index: Any = compiled._cache._cache_file  # type: ignore[attr-defined]
            index._source_stamp = _STAMP
        except (RuntimeError, AttributeError) as error:
            if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
                raise
            compiled = compiler(**options)(function)
        return compiled

    return decorate
