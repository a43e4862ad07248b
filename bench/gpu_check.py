"""One command on a machine with a GPU: build, tests, sanitizers, benchmark, one result file.

``python -m bench.gpu_check [--only build,tests,sanitize,bench] [--seconds N] [--output FILE]``, or
``make gpu-check``, needs no network: the Python that runs it must have torch with CUDA, pip, pytest, hypothesis,
SciPy and rich, the build tools scikit-build-core, pybind11, cmake and ninja, and nvcc on the PATH. CuPy and MONAI
are measured where they are installed. The package is built into an environment of its own under
``build/gpu-check``; nothing is installed elsewhere.

Every step has a time limit and the whole ends inside ten minutes; a step that fails does not stop the ones after
it, and the result file is written after each. Run again, it goes on: what has passed, for these sources on this
GPU, is not repeated, and the benchmark measures the rows that it still lacks. ``--again`` begins anew.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu-check"
LIMIT_SECONDS = 570


PARTS = ("build", "tests", "bench", "sanitize")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
UNFINISHED = 3  # exit status of a benchmark that has rows left


class Step(NamedTuple):
    """A command and the most seconds it may take."""

    part: str
    name: str
    command: list[str]
    limit: int


class Outcome(NamedTuple):
    """What became of a step."""

    name: str
    state: str  # passed, unfinished, failed, timed out, skipped
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
    if not (BUILD / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(BUILD)], check=True)
    library = next(BUILD.glob("lib/python*/site-packages"))
    # Not --system-site-packages: from within an environment that would skip the environment's own packages.
    (library / "parent.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")
    return str(BUILD / "bin" / "python")


# What behaves differently on a GPU; the emulator, the demo and the packaging do not. A step for each line.
SUITES = {
    "transforms": ("transform", "properties", "out_dtype", "extrema", "cuda"),
    "operators": ("nearest", "label", "envelope", "maps", "soft"),
    "front": ("inputs", "torch_integration", "backends"),
    "losses": ("distance_sums", "losses", "losses_formulas", "losses_steps", "metrics"),
}
# Of the run-time compiled kernels their launches alone, not the arguments before them.
OTHER_SUITES = {"kernels": ("transform", "nearest", "label", "out_dtype", "extrema", "envelope", "distance_sums")}
SANITIZED = ("transforms", "positions", "maps", "envelopes", "losses")  # parts of bench.gpu_sanitize


def build_step(python: str, architecture: str) -> Step:
    """The package, editable, with the kernels of this GPU's architecture.

    It has a build folder of its own: CMake's cache in the usual one remembers other settings.
    """
    install = [python, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    folder = f"--config-settings=build-dir={BUILD}-sm{architecture}"
    return Step("build", "build", [*install, folder, "--editable", str(ROOT)], 240)


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
    """Everything after the build, what is most wanted first."""
    parallel = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    suite = [python, "-m", "pytest", "-q", "--maxfail=25", "-p", "no:cacheprovider", *parallel, "--dtk-backend"]

    def tested(backend: str, suites: dict[str, tuple[str, ...]]) -> list[Step]:
        return [
            Step("tests", f"tests on {backend}: {name}", [*suite, backend, *files_of(files)], 180)
            for name, files in suites.items()
        ]

    command = [python, "-m", "bench.cuda", "--save", str(benchmark), "--seconds", "240"]
    result = tested("cuda", SUITES)
    result.append(Step("bench", "benchmark, targets", [*command, "--quick"], 300))
    for name in backends:
        if name != "cuda":
            result += tested(name, OTHER_SUITES)
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    for tool in TOOLS:
        for part in SANITIZED:
            watched = [
                sanitizer,
                "--tool",
                tool,
                "--error-exitcode",
                "9",
                python,
                "-m",
                "bench.gpu_sanitize",
                part,
            ]
            result.append(Step("sanitize", f"{tool}, {part}", watched, 120))
    result.append(Step("bench", "benchmark, all rows", command, 300))
    return result


def files_of(suites: Sequence[str]) -> list[str]:
    return [f"tests/test_{name}.py" for name in suites]


def fingerprint(gpu: str) -> str:
    """Of the GPU and of all sources that a step may read."""
    digest = hashlib.sha256(gpu.encode())
    for folder in ("csrc", "dtkernels", "bench", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cpp", ".cu", ".cuh", ".h"):
                digest.update(f"{path.relative_to(ROOT)}".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run(step: Step, environment: dict[str, str], remaining: float) -> Outcome:
    if shutil.which(step.command[0]) is None:
        return Outcome(step.name, "skipped", 0.0, f"{step.command[0]} is not installed")
    limit = min(step.limit, remaining)
    if remaining < 5:
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
    state = {0: "passed", UNFINISHED: "unfinished"}.get(process.returncode, "failed")
    if state == "unfinished" and step.part != "bench":
        state = "failed"
    return Outcome(step.name, state, seconds, summary(output))


def summary(output: str) -> str:
    """The lines of a log that say how it ended."""
    lines = [
        line
        for line in output.splitlines()
        if re.search(r"passed|failed|ERROR SUMMARY|error|Error|NOT MET|not measured|rows left", line)
    ]
    return "\n".join((lines or output.splitlines())[-30:])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="result file; default bench/results/gpu-<device>.json")
    parser.add_argument(
        "--only", default=",".join(PARTS), help=f"parts of {', '.join(PARTS)}, with commas between"
    )
    parser.add_argument("--seconds", type=float, default=LIMIT_SECONDS, help="of the whole")
    parser.add_argument("--again", action="store_true", help="repeat what has passed")
    options = parser.parse_args(arguments)
    only = options.only.split(",")
    if not set(only) <= set(PARTS):
        parser.error(f"--only: expected parts of {', '.join(PARTS)}, got {options.only!r}")
    begin = time.monotonic()
    found = find_gpu()
    if found is None:
        print("gpu-check: no GPU that torch can use was found; nothing was built, tested or measured")
        return 2
    name, architecture = found
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    output = options.output or ROOT / "bench" / "results" / f"gpu-{slug}.json"
    state, benchmark = BUILD / "result.json", BUILD / "rows.json"  # where a later run looks for them
    python = make_environment()
    tools = f"{BUILD / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": tools, "CUDAARCHS": architecture, "DTK_CUDA": "ON", **toolkit()}
    print(f"gpu-check: {name}, sm_{architecture}")
    record = {"gpu": name, "architecture": architecture, "sources": fingerprint(name), "steps": {}}
    if state.exists() and not options.again:
        earlier = json.loads(state.read_text())
        if earlier.get("sources") == record["sources"]:
            record = earlier
    if options.again or not record["steps"]:
        benchmark.unlink(missing_ok=True)  # rows of other sources
    output.parent.mkdir(parents=True, exist_ok=True)

    def take(step: Step) -> None:
        if record["steps"].get(step.name, {}).get("state") == "passed":
            return
        outcome = run(step, environment, options.seconds - (time.monotonic() - begin))
        record["steps"][step.name] = outcome._asdict()
        record["benchmark"] = json.loads(benchmark.read_text()) if benchmark.exists() else None
        state.write_text(json.dumps(record, indent=1) + "\n")
        shutil.copyfile(state, output)

    backends = gpu_backends(python, environment)
    if "cuda" not in backends:  # an environment that was left behind may lack the build
        record["steps"].pop("build", None)
    if "build" in only:
        take(build_step(python, architecture))
        backends = gpu_backends(python, environment)
    if "cuda" not in backends:
        print("gpu-check: the build offers no cuda backend on this machine; nothing was tested or measured")
        return 1
    record["backends"] = backends
    wanted = [step for step in steps(python, backends, benchmark) if step.part in only]
    for step in wanted:
        take(step)

    print(f"\ngpu-check on {name}: result file {output}")
    for outcome in record["steps"].values():
        print(f"  {outcome['state']:10s} {outcome['name']} ({outcome['seconds']:.0f} s)")
        if outcome["state"] != "passed":
            print("    " + outcome["detail"].replace("\n", "\n    "))
    for verdict in (record.get("benchmark") or {}).get("targets", ()):
        value = f"{verdict['value']:.2f}" if "value" in verdict else verdict["why"]
        print(f"  {verdict['state']:12s} {verdict['target']}: {value} (required {verdict['required']})")
    states = {record["steps"].get(step.name, {}).get("state") for step in wanted}
    if states - {"passed"}:
        print("gpu-check: not everything passed; run again to go on with what is left")
    return 0 if states <= {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main())
