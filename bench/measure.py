"""Timing side by side: every contender in every round, so that a noisy machine is noisy to all of them."""

from __future__ import annotations

import datetime
import gc
import json
import math
import platform
import shutil
import statistics
import subprocess
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
    settle_seconds: float = 0.0,
    first: Callable[[str, Any], None] | None = None,
) -> dict[str, Sample]:
    """Median seconds per call; a contender that is fast is called many times within its turn.

    One that takes more than ``slow_seconds`` is measured twice, its first call included: nothing that happens once
    matters beside that. The first contender, whose time all ratios share, is warmed up and timed in every round
    whatever it takes. Every turn begins after ``settle_seconds`` of sleep. ``first(name, result)`` gets what each
    contender's first call returned.
    """
    limit = {name: slow_seconds if i else math.inf for i, name in enumerate(contenders)}
    calls = {}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for name, run in contenders.items():
        once = math.inf
        for attempt in range(2):  # the first warms up: scratch, caches, lazy imports
            time.sleep(settle_seconds)
            start = time.perf_counter()
            result = run()
            once = min(once, time.perf_counter() - start)
            if first is not None and attempt == 0:
                first(name, result)
            del result
            if once > limit[name]:
                seconds[name].append(once)
                break
        calls[name] = max(1, int(slice_seconds / max(once, 1e-7)))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in contenders.items():
                if len(seconds[name]) >= 2 and calls[name] * sum(seconds[name][:2]) > limit[name]:
                    continue
                time.sleep(settle_seconds)
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


PACKAGES = (
    "dtkernels",
    "torch",
    "numpy",
    "scipy",
    "numba",
    "edt",
    "opencv-python-headless",
    "SimpleITK",
    "monai",
    "scikit-image",
    "connected-components-3d",
    "medpy",
    "surface-distance",
    "dask",
    "zarr",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "cucim-cu12",
)


def revision() -> str:
    """The measured commit, "-dirty" where more than results and pages differ; "unknown" outside a checkout."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(RESULTS.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    if shutil.which("git") is None or (head := git("rev-parse", "--short", "HEAD")).returncode != 0:
        return "unknown"
    same = git("diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)bench/results", ":(top,exclude)*.md")
    return head.stdout.strip() + ("" if same.returncode == 0 else "-dirty")


def machine() -> dict[str, Any]:
    """What a reader needs to compare two result files."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "revision": revision(),
        "python": platform.python_version(),
        "processor": processor(),
        "versions": versions,
    }
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
        record["cuda"] = torch.version.cuda
    return record


def save(path: Path, payload: dict[str, Any], command: str | None = None) -> None:
    """Write a result file: machine, command, numbers; a row to a line, so that differences can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = command or "python -m " + " ".join([_module(), *sys.argv[1:]])
    rest = {key: value for key, value in payload.items() if key != "rows"}
    text = json.dumps({"command": command, **machine(), **rest}, indent=1)
    if "rows" in payload:
        lines = ",\n  ".join(map(json.dumps, payload["rows"]))
        text = f'{text[:-2]},\n "rows": [\n  {lines}\n ]\n}}'
    path.write_text(text + "\n")


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else Path(sys.argv[0]).stem
