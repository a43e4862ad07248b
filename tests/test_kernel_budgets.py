"""What the compiler makes of the kernels: no spills, no local memory, and registers within a budget."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NVCC = shutil.which("nvcc")

# Registers per thread on sm_90. Passes run with up to 1,024 threads, so 64 is the end; 65,536 registers of a
# multiprocessor over the budget are the threads that can be resident.
BUDGETS = {"scan": 80, "scan_long": 48, "lines": 64}


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_registers_and_spills(tmp_path: Path) -> None:
    command = [
        str(NVCC), "-c", "-arch=sm_90", "-std=c++17", "--fmad=false", "-Xptxas", "-v",
        "-o", str(tmp_path / "kernels.o"), str(ROOT / "csrc/cuda/launch.cu"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = re.compile(
        r"Compiling entry function '_ZN3dtk\d+(?P<kernel>scan_long|scan|lines)I(?P<instance>\w+?)Ev.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
        re.DOTALL,
    )
    found = list(report.finditer(done.stderr))
    assert len(found) == (ROOT / "csrc/cuda/launch.cu").read_text().count("    DTK_KERNEL(")
    for kernel in found:
        name = f"{kernel['kernel']}<{kernel['instance']}>"
        assert (kernel["stack"], kernel["stores"], kernel["loads"]) == ("0", "0", "0"), name
        assert int(kernel["registers"]) <= BUDGETS[kernel["kernel"]], name
