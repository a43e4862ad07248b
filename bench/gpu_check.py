"""One command on a machine with a GPU: build, tests, sanitizers, benchmark, one result file.

``python -m bench.gpu_check [--output FILE]`` (or ``make gpu-check``) needs no network: the Python that runs it
must have torch with CUDA, pip, pytest, hypothesis, SciPy and rich, the build tools scikit-build-core, pybind11,
cmake and ninja, and nvcc on the PATH. CuPy and MONAI are measured where they are installed. The package is
built into an environment of its own under ``build/gpu-check``; nothing is installed elsewhere. Every step has
a time limit and the whole ends inside ten minutes; a step that fails does not stop the ones after it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu-check"
LIMIT_SECONDS = 570


class Step(NamedTuple):
    """A command and the most seconds it may take."""

    name: str
    command: list[str]
    limit: int


class Outcome(NamedTuple):
    """What became of a step."""

    name: str
    state: str  # passed, failed, timed out, skipped
    seconds: float
    detail: str


def find_gpu() -> tuple[str, str] | None:
    """Name and architecture of the first GPU that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return torch.cuda.get_device_name(0), f"{major}{minor}"


def make_environment() -> str:
    """A virtual environment that sees this interpreter's packages; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(BUILD)], check=True)
    library = next(BUILD.glob("lib/python*/site-packages"))
    # Not --system-site-packages: from within an environment that would skip the environment's own packages.
    (library / "parent.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")
    return str(BUILD / "bin" / "python")


# What behaves differently on a GPU; the emulator, the demo and the packaging do not.
SUITES = (
    "transform",
    "nearest",
    "label",
    "properties",
    "inputs",
    "torch_integration",
    "out_dtype",
    "extrema",
    "maps",
    "envelope",
    "soft",
    "backends",
    "distance_sums",
    "losses",
    "losses_formulas",
    "losses_steps",
    "metrics",
    "cuda",
    "kernel_budgets",
)


def build_step(python: str, architecture: str) -> Step:
    """The package, editable, with the kernels of this GPU's architecture.

    It has a build folder of its own: CMake's cache in the usual one remembers other settings.
    """
    install = [python, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    folder = f"--config-settings=build-dir={BUILD}-sm{architecture}"
    return Step("build", [*install, folder, "--editable", str(ROOT)], 240)


def toolkit() -> dict[str, str]:
    """Where CuPy's compiler finds CUDA's headers; from an environment that has none it would look in vain."""
    nvcc = shutil.which("nvcc")
    if "CUDA_PATH" in os.environ or nvcc is None:
        return {}
    root = Path(nvcc).resolve().parent.parent
    return {"CUDA_PATH": str(root)} if (root / "include" / "cuda_runtime.h").is_file() else {}


def gpu_backends(python: str, environment: dict[str, str]) -> list[str]:
    """Backends that can run on the GPU in the environment just built, the compiled one first."""
    code = (
        "import dtkernels as dtk; "
        "print(*(n for n, s in dtk.backends.available().items() if s.available and 'cuda' in s.devices))"
    )
    done = subprocess.run(
        [python, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.split()


def steps(python: str, backends: list[str], benchmark: Path) -> list[Step]:
    """Everything after the build."""
    parallel = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    suite = [python, "-m", "pytest", "-q", "--maxfail=25", "-p", "no:cacheprovider", *parallel, "--dtk-backend"]
    files = [f"tests/test_{name}.py" for name in SUITES]
    result = [Step("tests on cuda", [*suite, "cuda", *files], 180)]
    result.append(Step("benchmark", [python, "-m", "bench.cuda", "--quick", "--save", str(benchmark)], 150))
    for name in backends:
        if name != "cuda":
            result.append(Step(f"tests on {name}", [*suite, name, *files[:3]], 90))
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9"]
        result.append(Step(tool, [*command, python, "-m", "bench.gpu_sanitize"], 60))
    return result


def run(step: Step, environment: dict[str, str], remaining: float) -> Outcome:
    if shutil.which(step.command[0]) is None:
        return Outcome(step.name, "skipped", 0.0, f"{step.command[0]} is not installed")
    limit = min(step.limit, remaining)
    if limit < 5:
        return Outcome(step.name, "skipped", 0.0, "no time left")
    print(f"== {step.name}: {' '.join(step.command)}", flush=True)
    start = time.monotonic()
    process = subprocess.Popen(
        step.command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children, too: they must not stay on the GPU
        output, _ = process.communicate()
        return Outcome(step.name, "timed out", limit, output[-2000:])
    seconds = time.monotonic() - start
    print(output[-6000:], flush=True)
    return Outcome(step.name, "passed" if process.returncode == 0 else "failed", seconds, summary(output))


def summary(output: str) -> str:
    """The lines of a log that say how it ended."""
    lines = [line for line in output.splitlines() if re.search(r"passed|failed|ERROR SUMMARY|error|Error", line)]
    return "\n".join((lines or output.splitlines())[-12:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="result file; default bench/results/gpu-<device>-<date>.json")
    arguments = parser.parse_args()
    begin = time.monotonic()
    found = find_gpu()
    if found is None:
        print("gpu-check: no GPU that torch can use was found; nothing was built, tested or measured")
        return 2
    name, architecture = found
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    output = arguments.output or ROOT / "bench" / "results" / f"gpu-{slug}-{time.strftime('%Y-%m-%d')}.json"
    benchmark = BUILD / "benchmark.json"
    python = make_environment()
    tools = f"{BUILD / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": tools, "CUDAARCHS": architecture, "DTK_CUDA": "ON", **toolkit()}
    print(f"gpu-check: {name}, sm_{architecture}")
    outcomes = [run(build_step(python, architecture), environment, LIMIT_SECONDS)]
    backends = gpu_backends(python, environment) if outcomes[0].state == "passed" else []
    if outcomes[0].state == "passed" and "cuda" not in backends:
        outcomes.append(Outcome("backends", "failed", 0.0, "the build offers no cuda backend on this machine"))
    for step in steps(python, backends, benchmark) if "cuda" in backends else []:
        outcomes.append(run(step, environment, LIMIT_SECONDS - (time.monotonic() - begin)))
    measured = json.loads(benchmark.read_text()) if benchmark.exists() else None
    record = {
        "gpu": name,
        "architecture": architecture,
        "backends": backends,
        "steps": [o._asdict() for o in outcomes],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**record, "benchmark": measured}, indent=1) + "\n")
    print(f"\ngpu-check on {name}: result file {output}")
    for outcome in outcomes:
        print(f"  {outcome.state:9s} {outcome.name} ({outcome.seconds:.0f} s)")
        if outcome.state != "passed":
            print("    " + outcome.detail.replace("\n", "\n    "))
    return 0 if all(o.state == "passed" for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
