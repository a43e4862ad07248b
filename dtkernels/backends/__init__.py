"""Backends: who can run an operator here, why another cannot, and which one is taken.

A backend is a module with one function per kind of :mod:`~dtkernels.problem`, for the device types it names:
``run`` for the distance transforms; ``nearest``, ``label``, ``envelope`` and its gradient ``scatter``, which it
may lack; and ``remap``, ``contour``, ``faces`` and ``weigh``, which torch operators replace where it lacks them.
The first available one that has the operator and serves the tensor's device is taken; ``backend=`` or the
environment variable ``DTK_BACKEND`` choose another by name. A backend that cannot run, or lacks the operator, is
refused with its reason: nothing ever moves to another device by itself.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol

import torch

from ..problem import (
    ContourProblem,
    EnvelopeProblem,
    FacesProblem,
    LabelProblem,
    NearestProblem,
    Problem,
    RemapProblem,
    SumsProblem,
)
from . import cpu, cuda, cupy, numba, reference


class Backend(Protocol):
    """What a backend module offers; all functions but ``run`` may be missing.

    ``EXTREMA = True`` says that ``run`` fills ``problem.extrema``; without it transform.py reads them off the map.
    ``FACES = True`` says that ``run`` knows ``problem.to_faces``; without it remap.py moves the maps afterwards.
    ``CONVERTS = True`` says that ``run`` writes ``problem.out_dtype``; without it transform.py converts float32.
    ``MAPS = True`` says that ``run`` evaluates ``problem.mapping``; without it remap.py takes a second pass.
    """

    NAME: str
    DEVICES: tuple[str, ...]

    @staticmethod
    def unavailable() -> str | None:
        """None where the backend can run, otherwise the reason and the remedy."""

    @staticmethod
    def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
        """Fill ``out``; ``source`` and ``rows`` own the memory that ``problem`` points to."""

    @staticmethod
    def nearest(
        problem: NearestProblem,
        source: torch.Tensor,
        rows: torch.Tensor | None,
        distance: torch.Tensor,
        index: torch.Tensor,
    ) -> None:
        """Fill ``distance`` and ``index``."""

    @staticmethod
    def label(problem: LabelProblem, source: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> None:
        """Fill ``labels`` and ``count``."""

    @staticmethod
    def remap(
        problem: RemapProblem, source: torch.Tensor, rows: torch.Tensor | None, extrema: torch.Tensor | None
    ) -> None:
        """Evaluate a formula on the maps in place; without it remap.py does, in torch operators."""

    @staticmethod
    def contour(problem: ContourProblem, source: torch.Tensor) -> None:
        """Fill ``problem.out``; without it remap.py does, in torch operators."""

    @staticmethod
    def faces(problem: FacesProblem, source: torch.Tensor, rows: torch.Tensor | None) -> None:
        """Move the maps in place; without it remap.py does, by ``nearest`` and torch operators."""

    @staticmethod
    def weigh(
        problem: SumsProblem,
        sources: tuple[torch.Tensor, torch.Tensor],
        rows: torch.Tensor | None,
        sums: torch.Tensor,
        gradient: torch.Tensor,
    ) -> None:
        """Fill ``sums`` and ``gradient``, the same in every run; without it distance_sums.py does.

        ``sources``: the prediction and the target.
        """

    @staticmethod
    def envelope(
        problem: EnvelopeProblem,
        source: torch.Tensor,
        rows: torch.Tensor | None,
        values: torch.Tensor,
        index: torch.Tensor | None,
    ) -> None:
        """Fill ``values`` and, where asked for, ``index``."""

    @staticmethod
    def scatter(
        grad: torch.Tensor, index: torch.Tensor, shape: tuple[int, int, int, int, int], sums: torch.Tensor
    ) -> None:
        """Fill ``sums[b, c, q]`` with the sum of ``grad[b, c, p]`` over the p with ``index[b, c, p] == q``."""


class Status(NamedTuple):
    """State of one backend."""

    available: bool
    devices: tuple[str, ...]
    reason: str  # empty where available
    operators: tuple[str, ...]  # what it computes where available


# Every operator, and the function of a backend that computes it.
_OPERATORS = {
    "edt": "run",
    "sdf": "run",
    "labels_sdf": "run",
    "nearest": "nearest",
    "label": "label",
    "envelope": "envelope",
}

# In order of preference for the devices they serve.
_BACKENDS: dict[str, Backend] = {b.NAME: b for b in (cpu, cuda, cupy, numba, reference)}  # type: ignore[misc]


def available() -> dict[str, Status]:
    """Every backend by name, with the reason where it cannot run.

    >>> import dtkernels as dtk
    >>> dtk.backends.available()["cpu"].available
    True
    >>> "label" in dtk.backends.available()["cpu"].operators
    True
    """
    result = {}
    for name, backend in _BACKENDS.items():
        reason = backend.unavailable()
        operators = tuple(operator for operator in _OPERATORS if _has(backend, operator))
        result[name] = Status(reason is None, backend.DEVICES, reason or "", operators)
    return result


def _has(backend: Backend, operator: str) -> bool:
    return hasattr(backend, _OPERATORS[operator])


def _lack(operator: str) -> str:
    able = [name for name, backend in _BACKENDS.items() if _has(backend, operator)]
    return f"has no {operator!r} operator; {' and '.join(able)} have it, on the devices that they serve"


def named(name: str, origin: str = "backend") -> Backend:
    """The backend of that name, whether or not it can run here."""
    if name not in _BACKENDS:
        raise ValueError(f"{origin}: expected one of {sorted(_BACKENDS)}, got {name!r}")
    return _BACKENDS[name]


def choose(device: torch.device, name: str | None = None, operator: str = "edt") -> Backend:
    """The backend for ``operator`` on ``device``: by name, by ``DTK_BACKEND``, else the first that can run."""
    origin = "backend"
    if name is None:
        name = os.environ.get("DTK_BACKEND") or None
        origin = "DTK_BACKEND"
    if name is not None:
        backend = named(name, origin)
        reason = backend.unavailable()
        if reason is not None:
            raise RuntimeError(f"{origin}: {name!r} cannot run here: {reason}")
        if not _has(backend, operator):
            raise RuntimeError(f"{origin}: {name!r} {_lack(operator)}")
        if device.type not in backend.DEVICES:
            raise ValueError(
                f"{origin}: {name!r} runs on {' and '.join(backend.DEVICES)}, but the tensor is on {device}; "
                "move the tensor or choose another backend"
            )
        return backend
    reasons = []
    for backend in _BACKENDS.values():
        if device.type in backend.DEVICES:
            reason = backend.unavailable() if _has(backend, operator) else _lack(operator)
            if reason is None:
                return backend
            reasons.append(f"{backend.NAME}: {reason}")
    raise RuntimeError(
        f"no backend can run {operator!r} on {device}: " + ("; ".join(reasons) or "none serves such a device")
    )


__all__ = ["Backend", "Status", "available", "choose"]
