"""Budgets without a GPU: registers, spills and shared memory by the compiler; work and accesses by the emulator.

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

from emulated import H200, Library, built  # noqa: E402
from emulator import build  # noqa: E402
from emulator.traffic import SECTOR, Traffic  # noqa: E402
from test_plan import problem  # noqa: E402

from bench import masks, model  # noqa: E402
from dtkernels.plans import weigh  # noqa: E402
from dtkernels.plans.launch import STATIC_SHARED  # noqa: E402
from dtkernels.plans.transform import plan  # noqa: E402
from dtkernels.problem import Measure, SumsProblem  # noqa: E402

# Registers per thread on sm_90. Passes run with up to 1,024 threads, so 64 is the end; 65,536 registers of a
# multiprocessor over the budget are the threads that can be resident.
BUDGETS = {
    "scan": 80, "scan_long": 48, "lines": 64, "packed_slices": 64, "slices": 64, "parabolas": 64, "receivers": 40,
    "nearest_rows": 80, "nearest_lines": 64,
    "label_rows": 80, "label_unite": 80, "label_roots": 48, "label_count": 48, "label_write": 48,
    "remap": 64, "component_maxima": 40, "contour": 48,
}  # fmt: skip

LONG_STRIPS = 80  # of packed slices: three blocks of 256 threads


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
        rf"Compiling entry function '_ZN3dtk\d+(?P<kernel>{'|'.join(BUDGETS)})I(?P<instance>\w+?)Ev.*?"
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
        long_strips = kernel["kernel"] == "packed_slices" and "Li16E" in kernel["instance"]
        assert int(kernel["registers"]) <= (LONG_STRIPS if long_strips else BUDGETS[kernel["kernel"]]), name
        assert int(kernel["shared"] or 0) <= STATIC_SHARED, name


# Work of a voxel at 48^3, signed, over all benchmark masks: the measured counts and a tenth.
LAUNCHES = {"packed_long": 2, "packed": 2, "strips": 2, "apart": 3}
BYTES = {"packed_long": 7, "packed": 7, "strips": 7, "apart": 11}
BARRIERS = {"packed_long": 22, "packed": 22, "strips": 16, "apart": 14}  # of a block, in the kernel that has most
LINES = {"strips": 0.25, "candidates": 7.5, "intervals": 0.4, "strip_candidates": 22.0}
PAIRS = {
    "pair_strips": 0.125,
    "pair_ends": 0.125,
    "pair_mixed": 0.125,
    "pair_neighbours": 0.1,
    "pair_positions": 0.21,
    "pair_candidates": 4.0,
    "pair_sites": 1.15,
}
# The modelled instructions of a voxel (bench/model.py). The organ is the mask that speed is quoted for; no mask
# may cost 4 times as much.
INSTRUCTIONS = {
    ("packed_long", True): 150.0,
    ("packed_long", False): 140.0,
    ("packed", True): 165.0,
    ("packed", False): 155.0,
    ("strips", True): 300.0,
    ("strips", False): 240.0,
}


@pytest.mark.parametrize("way", LAUNCHES)
def test_counted_work(library: Library, way: str) -> None:
    for kind in masks.KINDS:
        counts = model.count(library, kind, 48, True, way != "apart", None if way == "apart" else way)
        assert counts["launches"] == LAUNCHES[way]
        assert counts["barriers"] <= BARRIERS[way], kind
        for name, most in {**LINES, **PAIRS}.items():
            assert counts[name] <= (most if (name in PAIRS) == way.startswith("packed") else 0), (kind, name)


@pytest.mark.parametrize(("solver", "signed"), INSTRUCTIONS)
def test_no_mask_costs_much_more_than_the_organ(library: Library, solver: str, signed: bool) -> None:
    costs = {k: model.instructions(model.count(library, k, 48, signed, True, solver)) for k in masks.KINDS}
    assert max(costs.values()) <= INSTRUCTIONS[solver, signed], costs
    assert max(costs.values()) <= 4 * costs["organ"], costs


def test_packed_slices_are_below_the_required_time(library: Library) -> None:
    """8 times the time of moving 5 bytes per voxel, by the model, for 16 x 128^3 signed."""
    required = 8 * model.VOXELS * 5 / model.BYTES_PER_SECOND * 1e6
    for kind in ("organ", "ellipsoids", "noise"):
        work = model.count(library, kind, 64, True, True, "packed_long")
        assert max(model.microseconds(work, BYTES["packed_long"])) <= required, kind


# Of a voxel at 64^3, signed, over all benchmark masks. Sectors: what the caches are asked for, in bytes.
SECTORS = {"packed_long": 7.4, "packed": 7.4, "strips": 7.9, "apart": 12.6}
WAVEFRONTS = {"packed_long": 0.62, "packed": 0.9, "strips": 1.45, "apart": 1.4}


@pytest.mark.parametrize("way", LAUNCHES)
def test_counted_traffic(way: str) -> None:
    """Memory moves what the model says, to the byte; requests leave few holes, banks few conflicts."""
    if reason := build.missing("traffic"):
        pytest.skip(reason)
    counted = Library(built("traffic").path)
    voxels = 64**3
    for kind in masks.KINDS:
        kernels = model.traffic(counted, kind, 64, True, way != "apart", None if way == "apart" else way).values()
        sums = [Traffic.of(statistics) for statistics in kernels]
        assert sum(t.memory_read + t.memory_written for t in sums) == pytest.approx(BYTES[way] * voxels, abs=512)
        assert sum(t.read_sectors + t.write_sectors for t in sums) * SECTOR <= SECTORS[way] * voxels, kind
        assert sum(t.shared_wavefronts for t in sums) <= WAVEFRONTS[way] * voxels, kind


@pytest.mark.parametrize("way", LAUNCHES)
def test_bytes_per_voxel(way: str) -> None:
    """128^3 of bytes: image, code twice, (squares twice,) distance. Codes are two bytes above."""
    options: Any = {"fused": way != "apart", "solver": None if way == "apart" else way}
    volume: Any = problem((16, 1, 128, 128, 128))
    assert model.bytes_per_voxel(plan(volume, H200, **options), 1) == BYTES[way]
    if way != "packed_long":
        tall: Any = problem((16, 1, 200, 64, 64))
        assert model.bytes_per_voxel(plan(tall, H200, **options), 1) == (9 if way != "apart" else 17)


def test_volumes_of_256_move_nine_bytes_per_voxel() -> None:
    volume: Any = problem((8, 1, 256, 256, 256))
    the_plan = plan(volume, H200)
    assert the_plan.steps[1].kernel.endswith("dtk::Strips, true>")
    assert model.bytes_per_voxel(the_plan, 1) == 9


@pytest.mark.parametrize(
    ("measure", "moved"), [(Measure.BOUNDARY, 11), (Measure.ONE_SIDED, 11), (Measure.TWO_SIDED, 17)]
)
def test_sums_write_no_map_of_the_prediction(measure: Measure, moved: int) -> None:
    """128^3 of labels: a transform of bytes (7) and the prediction; or scans of both (2, 5), their codes (2), the
    prediction once more and the gradient; where each has its kernel, the target's map written and read as well."""
    volumes: Any = problem((4, 2, 128, 128, 128))
    sums = SumsProblem(volumes.image, volumes.image, 3, volumes.spacing, measure, 2, False, False, 0, 0)
    assert model.bytes_of_sums(weigh.plan(sums, H200), 1) == moved
    if measure == Measure.TWO_SIDED:
        assert model.bytes_of_sums(weigh.plan(sums, H200, joint=False), 1) == 25
