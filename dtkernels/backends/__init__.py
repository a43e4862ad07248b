"""Backends: who can run a transform here, why another cannot, and which one is taken.

A backend runs a :class:`~dtkernels.problem.Problem` on the device types it names. The first available
one that serves the tensor's device is taken; ``backend=`` or the environment variable ``DTK_BACKEND``
choose another by name. A backend that cannot run is refused with its reason: nothing ever moves to
another device by itself.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol

import torch

from ..problem import Problem
from . import cpu, cuda, reference


class Backend(Protocol):
    """What a backend module offers."""

    NAME: str
    DEVICES: tuple[str, ...]

    @staticmethod
    def unavailable() -> str | None:
        """None where the backend can run, otherwise the reason and the remedy."""

    @staticmethod
    def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
        """Fill ``out``; ``source`` and ``rows`` own the memory that ``problem`` points to."""


class Status(NamedTuple):
    """State of one backend."""

    available: bool
    devices: tuple[str, ...]
    reason: str  # empty where available


# In order of preference for the devices they serve.
_BACKENDS: dict[str, Backend] = {b.NAME: b for b in (cpu, cuda, reference)}  # type: ignore[misc]


def available() -> dict[str, Status]:
    """Every backend by name, with the reason where it cannot run.

    >>> import dtkernels as dtk
    >>> dtk.backends.available()["cpu"].available
    True
    """
    result = {}
    for name, backend in _BACKENDS.items():
        reason = backend.unavailable()
        result[name] = Status(reason is None, backend.DEVICES, reason or "")
    return result


def choose(device: torch.device, name: str | None = None) -> Backend:
    """The backend for ``device``: by name, by ``DTK_BACKEND``, else the first that can run."""
    origin = "backend"
    if name is None:
        name = os.environ.get("DTK_BACKEND") or None
        origin = "DTK_BACKEND"
    if name is not None:
        backend = _BACKENDS.get(name)
        if backend is None:
            raise ValueError(f"{origin}: expected one of {sorted(_BACKENDS)}, got {name!r}")
        reason = backend.unavailable()
        if reason is not None:
            raise RuntimeError(f"{origin}: {name!r} cannot run here: {reason}")
        if device.type not in backend.DEVICES:
            raise ValueError(
                f"{origin}: {name!r} runs on {' and '.join(backend.DEVICES)}, but the tensor is on {device}; "
                "move the tensor or choose another backend"
            )
        return backend
    reasons = []
    for backend in _BACKENDS.values():
        if device.type in backend.DEVICES:
            reason = backend.unavailable()
            if reason is None:
                return backend
            reasons.append(f"{backend.NAME}: {reason}")
    raise RuntimeError(
        f"no backend can run on {device}: " + ("; ".join(reasons) or "none serves such a device")
    )


__all__ = ["Backend", "Status", "available", "choose"]
