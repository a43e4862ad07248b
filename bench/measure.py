"""Timing side by side: every contender in every round, so that a noisy machine is noisy to all of them."""

from __future__ import annotations

import datetime
import gc
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dtkernels.cli import processor

RESULTS = Path(__file__).parent / "results"


class Sample(NamedTuple):
    """Seconds per call of one contender."""

    median: float
    low: float  # first and third quartile
    high: float
    rounds: int

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        return (self.high - self.low) / self.median


def side_by_side(
    contenders: dict[str, Callable[[], Any]],
    *,
    rounds: int = 7,
    slice_seconds: float = 0.02,
    slow_seconds: float = math.inf,
) -> dict[str, Sample]:
    """Median seconds per call; a contender that is fast is called many times within its turn.

    One that takes more than ``slow_seconds`` in two rounds sits out those after them.
    """
    calls = {}
    for name, run in contenders.items():
        once = math.inf
        for _ in range(2):  # the first warms up: scratch, caches, lazy imports
            start = time.perf_counter()
            run()
            once = min(once, time.perf_counter() - start)
            if once > slow_seconds:
                break  # nothing that happens once matters beside this
        calls[name] = max(1, int(slice_seconds / max(once, 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in contenders.items():
                if len(seconds[name]) >= 2 and calls[name] * sum(seconds[name][:2]) > slow_seconds:
                    continue
                start = time.perf_counter()
                for _ in range(calls[name]):
                    run()
                seconds[name].append((time.perf_counter() - start) / calls[name])
    finally:
        gc.enable()
    return {name: summary(values) for name, values in seconds.items()}


def summary(values: list[float]) -> Sample:
    """Median and quartiles."""
    if len(values) < 2:
        return Sample(values[0], values[0], values[0], len(values))
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Sample(statistics.median(values), low, high, len(values))


def machine() -> dict[str, Any]:
    """What a reader needs to compare two result files."""
    versions = {}
    for name in (
        "dtkernels",
        "torch",
        "numpy",
        "scipy",
        "numba",
        "edt",
        "monai",
        "medpy",
        "surface-distance",
        "cupy-cuda12x",
        "cupy-cuda13x",
    ):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "processor": processor(),
        "versions": versions,
    }
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
        record["cuda"] = torch.version.cuda
    return record


def save(path: Path, payload: dict[str, Any]) -> None:
    """Write a result file: machine, command, numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = "python -m " + " ".join([_module(), *sys.argv[1:]])
    path.write_text(json.dumps({"command": command, **machine(), **payload}, indent=1) + "\n")


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else Path(sys.argv[0]).stem
