"""Budgets without a GPU: registers, spills and shared memory by the compiler; bytes and counted work by the model.

``DTK_TEST_ARCHITECTURES="75 80 90"`` compiles for more architectures than the one whose registers are budgeted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NVCC = shutil.which("nvcc")
sys.path.insert(0, str(ROOT))

from emulated import H200, SOURCES, Library  # noqa: E402
from emulator import build  # noqa: E402
from test_plan import problem  # noqa: E402

from bench import masks, model  # noqa: E402
from dtkernels.plans.launch import STATIC_SHARED  # noqa: E402
from dtkernels.plans.transform import plan  # noqa: E402

# Registers per thread on sm_90. Passes run with up to 1,024 threads, so 64 is the end; 65,536 registers of a
# multiprocessor over the budget are the threads that can be resident.
BUDGETS = {"scan": 80, "scan_long": 48, "lines": 64, "slices": 64, "parabolas": 64, "receivers": 40}


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("architecture", os.environ.get("DTK_TEST_ARCHITECTURES", "90").split())
def test_registers_and_spills(tmp_path: Path, architecture: str) -> None:
    command = [
        str(NVCC), "-c", f"-arch=sm_{architecture}", "-std=c++17", "--fmad=false", "-Xptxas", "-v",
        "-o", str(tmp_path / "kernels.o"), str(ROOT / "csrc/cuda/launch.cu"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = re.compile(
        r"Compiling entry function '_ZN3dtk\d+(?P<kernel>scan_long|"
        + "|".join(BUDGETS)
        + r")I(?P<instance>\w+?)Ev.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
        r"(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
        re.DOTALL,
    )
    found = list(report.finditer(done.stderr))
    assert len(found) == (ROOT / "csrc/cuda/launch.cu").read_text().count("    DTK_KERNEL(")
    for kernel in found:
        name = f"{kernel['kernel']}<{kernel['instance']}>"
        assert (kernel["stack"], kernel["stores"], kernel["loads"]) == ("0", "0", "0"), name
        assert int(kernel["registers"]) <= BUDGETS[kernel["kernel"]], name
        assert int(kernel["shared"] or 0) <= STATIC_SHARED, name


# Work of a voxel at 48^3, over all benchmark masks: the measured counts and a tenth. The organ is the mask that
# speed is quoted for; no mask may cost 4 times as many candidates.
LAUNCHES = {True: 2, False: 3}
BYTES = {True: 7, False: 11}
BARRIERS = {True: 16, False: 14}  # of a block, in the kernel that has most
CANDIDATES = {"strips": 0.25, "candidates": 7.5, "intervals": 0.4, "strip_candidates": 22.0}


@pytest.fixture(scope="module")
def library() -> Library:
    if build.compiler() is None:
        pytest.skip("the emulator needs a C++ compiler")
    return Library(build.library("kernels_emulated", SOURCES, "plain").path)


@pytest.mark.parametrize("fused", [True, False])
def test_counted_work(library: Library, fused: bool) -> None:
    work: dict[str, dict[str, float]] = {k: model.count(library, k, 48, True, fused) for k in masks.KINDS}
    for kind, counts in work.items():
        assert counts["launches"] == LAUNCHES[fused]
        assert counts["barriers"] <= BARRIERS[fused], kind
        for name, most in CANDIDATES.items():
            assert counts[name] <= most, (kind, name)
    totals = {kind: counts["candidates"] + counts["strip_candidates"] for kind, counts in work.items()}
    assert max(totals.values()) <= 4 * totals["organ"], totals


@pytest.mark.parametrize("fused", [True, False])
def test_bytes_per_voxel(fused: bool) -> None:
    """128^3 of bytes: image, code twice, (squares twice,) distance. Codes are two bytes above."""
    volume: Any = problem((16, 1, 128, 128, 128))
    assert model.bytes_per_voxel(plan(volume, H200, fused=fused), 1) == BYTES[fused]
    tall: Any = problem((16, 1, 200, 128, 128))
    assert model.bytes_per_voxel(plan(tall, H200, fused=fused), 1) == (9 if fused else 17)
