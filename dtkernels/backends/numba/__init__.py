"""The Numba backend: kernels compiled at the first call, for machines where dtkernels has no compiled module.

No module here may be called ``cuda``: the import hook of the package numba-cuda takes every name that contains
"numba.cuda" for its own, and "dtkernels.backends.numba.cuda" sends it into an endless recursion.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch

from ...problem import LabelProblem, NearestProblem, Problem

NAME = "numba"


def __getattr__(name: str) -> Any:
    if name == "DEVICES":  # not before it is asked for, since only Numba knows
        return _devices()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _devices() -> tuple[str, ...]:
    """A GPU counts if torch and Numba both can use it; Numba needs NVVM, too, which compiles for it."""
    if unavailable() is not None or not torch.cuda.is_available():
        return ("cpu",)
    try:
        usable = bool(importlib.import_module("numba.cuda").is_available())
    except Exception:  # a broken Numba must not take the other backends down
        usable = False
    return ("cpu", "cuda") if usable else ("cpu",)


def unavailable() -> str | None:
    """A reason where Numba is not installed, or does not import; it is imported to know."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed; pip install 'dtkernels[numba]'"
    return _obstacle()


@functools.cache
def _obstacle() -> str | None:
    """What keeps an installed Numba from working: most often a NumPy newer than it knows."""
    try:
        importlib.import_module("numba")
    except Exception as error:  # ImportError by rights, but LLVM's library below it raises what it likes
        return f"Numba cannot be imported ({error}); pip install --upgrade 'dtkernels[numba]'"
    return None


def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
    """On the device where the tensor is; Numba is imported here, by the first call."""
    if source.device.type == "cuda":
        from . import gpu

        gpu.run(problem, source, rows, out)
    else:
        from . import cpu

        cpu.run(problem, source, rows, out)


def nearest(
    problem: NearestProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    distance: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """On the device where the tensor is."""
    if source.device.type == "cuda":
        from . import gpu_feature

        gpu_feature.run(problem, source, rows, distance, index)
    else:
        from . import feature

        feature.run(problem, source, rows, distance, index)


def label(problem: LabelProblem, source: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> None:
    """On the device where the tensor is."""
    if source.device.type == "cuda":
        from . import gpu_components

        gpu_components.run(problem, source, labels, count)
    else:
        from . import components

        components.run(problem, source, labels, count)
