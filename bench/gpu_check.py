"""One command on a machine with a GPU: build, tests, sanitizers, benchmark, one result file.

``python -m bench.gpu_check [--only build,tests,sanitize,bench] [--seconds N] [--output FILE]``, or
``make gpu-check``, needs no network: the Python that runs it must have torch with CUDA, pip, pytest, hypothesis,
SciPy and rich, the build tools scikit-build-core, pybind11, cmake and ninja, and nvcc on the PATH. CuPy, Numba and
MONAI take part where they are installed. The package is built into a folder of its own under ``build/gpu-check``,
which stands in PYTHONPATH for the steps; nothing is installed elsewhere.

Every step has a time limit and the whole ends inside ten minutes; a step that fails does not stop the ones after
it, and the result file is written after each, with all that the steps print in a log beside it. Run again, it goes
on: what has passed, for these sources on this GPU, is not repeated, and the benchmark measures the rows that it
still lacks; on a fresh machine too, if the result file of an earlier one lies where this one's would. ``--again``
begins anew.
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
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu-check"
LIMIT_SECONDS = 570

PARTS = ("build", "tests", "bench", "sanitize")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
WORKERS = 8  # of pytest
UNFINISHED = 3  # exit status of a benchmark that has rows left
LOG_CHARACTERS = 200_000  # of a step


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


def make_overlay() -> Path:
    """A folder for the package, from which Python takes it first where the folder stands in PYTHONPATH.

    No virtual environment: in one, the libraries of CUDA that lie beside this interpreter's packages are not
    found, nor are the hooks of packages that have some, as numba-cuda has.
    """
    site = BUILD / "site"
    site.mkdir(parents=True, exist_ok=True)
    # In PYTHONPATH's folders Python reads no .pth files, which is how an editable installation is found.
    (site / "sitecustomize.py").write_text(
        "import site\nfrom pathlib import Path\n\nsite.addsitedir(str(Path(__file__).parent))\n"
    )
    return site


# What behaves differently on a GPU; the emulator, the demo and the packaging do not. A step for each line.
SUITES = {
    "transforms": ("transform", "properties", "out_dtype", "extrema", "cuda"),
    "operators": ("nearest", "label", "envelope", "maps", "soft"),
    "front": ("inputs", "torch_integration", "backends"),
    "losses": ("distance_sums", "losses", "losses_formulas", "losses_steps", "metrics"),
}
# Of the run-time compiled kernels their launches alone, not the arguments before them.
OTHER_SUITES = {"kernels": ("transform", "nearest", "label", "out_dtype", "extrema", "envelope", "distance_sums")}
# Of the CuPy backend's own tests those that need a GPU, or CuPy: the others run on the emulator.
OF_CUPY = (
    "test_installed_cupy_has_what_the_backend_uses",
    "test_first_call_and_later_processes",
    "test_graph_after_the_first_call",
    "test_streams_of_torch_and_more_than_48_kb",
)
SANITIZED = ("transforms", "positions", "maps", "envelopes", "losses")  # parts of bench.gpu_sanitize


def build_step(site: Path, architecture: str) -> Step:
    """The package, editable, with the kernels of this GPU's architecture.

    It has a build folder of its own: CMake's cache in the usual one remembers other settings.
    """
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(site)]
    alone = ["--no-build-isolation", "--no-deps", "--no-index"]
    folder = f"--config-settings=build-dir={BUILD}-sm{architecture}"
    return Step("build", "build", [*pip, *alone, folder, "--editable", str(ROOT)], 240)


def cuda_root() -> Path | None:
    """The toolkit of the nvcc on the PATH, which may be a script that calls another."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    plan = subprocess.run([nvcc, "--dryrun", "-c", "none.cu"], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", plan.stderr, re.MULTILINE)
    return Path(top[1]).resolve() if top else None


def environment_of(site: Path, architecture: str) -> dict[str, str]:
    """For all steps: the package, the build tools, the sanitizer, and where libraries look for CUDA's headers."""
    root = cuda_root()
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    given = {"CUDAARCHS": architecture, "DTK_CUDA": "ON"}
    if root is not None:
        paths += [str(root / "bin"), str(root / "compute-sanitizer")]
        if (root / "include" / "cuda_runtime.h").is_file():
            given["CUDA_PATH"] = os.environ.get("CUDA_PATH", str(root))
    packages = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **given, "PATH": os.pathsep.join(paths), "PYTHONPATH": os.pathsep.join(packages)}


def gpu_backends(environment: dict[str, str]) -> dict[str, str]:
    """Every backend that is for GPUs, and why it cannot run on this one; no reason where it can."""
    code = (
        "import json, dtkernels as dtk; "
        "print(json.dumps({n: '' if s.available and 'cuda' in s.devices else s.reason or 'it sees no GPU' "
        "for n, s in dtk.backends.available().items() if n not in ('cpu', 'reference')}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return {"cuda": done.stderr[-2000:] or f"exit status {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def steps(backends: Collection[str], benchmark: Path, path: str | None = None) -> list[Step]:
    """Everything after the build, what is most wanted first; ``path`` as in the variable PATH."""
    python = sys.executable
    parallel = ["-n", str(WORKERS)] if importlib.util.find_spec("xdist") else []
    suite = [python, "-m", "pytest", "-q", "--maxfail=25", "-p", "no:cacheprovider", *parallel, "--dtk-backend"]

    def tested(backend: str, suites: dict[str, tuple[str, ...]]) -> list[Step]:
        if backend not in backends:
            return []
        return [
            Step("tests", f"tests on {backend}: {name}", [*suite, backend, *files_of(files)], 180)
            for name, files in suites.items()
        ]

    def sanitized(tools: Sequence[str]) -> list[Step]:
        program = shutil.which("compute-sanitizer", path=path) or "compute-sanitizer"
        watch = [program, "--error-exitcode", "9", "--tool"]
        return [
            Step("sanitize", f"{tool}, {part}", [*watch, tool, python, "-m", "bench.gpu_sanitize", part], 120)
            for tool in tools
            for part in SANITIZED
        ]

    command = [python, "-m", "bench.cuda", "--save", str(benchmark), "--seconds", "240"]
    result = [Step("tests", "every operator beside the CPU", [python, "-m", "bench.gpu_sanitize"], 120)]
    result += tested("cuda", SUITES)
    result.append(Step("bench", "benchmark, targets", [*command, "--quick"], 300))
    result += tested("cupy", OTHER_SUITES)
    if "cupy" in backends:
        own = [f"tests/test_cupy.py::{name}" for name in OF_CUPY]
        result.append(Step("tests", "tests on cupy: its own", [*suite, "cupy", *own], 180))
    result += sanitized(TOOLS[:2])
    result += tested("numba", OTHER_SUITES)
    result.append(Step("bench", "benchmark, all rows", command, 300))
    return result + sanitized(TOOLS[2:])


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


def run(step: Step, environment: dict[str, str], remaining: float, log: Path) -> Outcome:
    if shutil.which(step.command[0], path=environment.get("PATH")) is None:
        return Outcome(step.name, "skipped", 0.0, f"{step.command[0]} is not installed")
    limit = min(step.limit, remaining)
    if remaining < 5:
        return Outcome(step.name, "skipped", 0.0, "no time left")
    if step.part == "tests":  # workers share the processors
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // WORKERS)), **environment}
    head = f"== {step.name}: {' '.join(step.command)}"
    print(head, flush=True)
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
        keep(log, head, output)
        return Outcome(step.name, "timed out", limit, output[-2000:])
    seconds = time.monotonic() - start
    keep(log, head, output)
    print(output[-6000:], flush=True)
    state = {0: "passed", UNFINISHED: "unfinished"}.get(process.returncode, "failed")
    if state == "unfinished" and step.part != "bench":
        state = "failed"
    return Outcome(step.name, state, seconds, summary(output))


def keep(log: Path, head: str, output: str) -> None:
    with log.open("a") as file:
        file.write(f"{head}\n{output[-LOG_CHARACTERS:]}\n")


def summary(output: str) -> str:
    """The lines of a log that say how it ended."""
    lines = [
        line
        for line in output.splitlines()
        if re.search(r"passed|failed|FAILED|ERROR|[Ee]rror|wrong|NOT MET|not measured|rows left", line)
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
    site = make_overlay()
    environment = environment_of(site, architecture)
    print(f"gpu-check: {name}, sm_{architecture}")
    record = {"gpu": name, "architecture": architecture, "sources": fingerprint(name), "steps": {}}
    if (left := next((f for f in (state, output) if f.exists()), None)) and not options.again:
        earlier = json.loads(left.read_text())
        if earlier.get("sources") == record["sources"]:
            record = earlier
            if record.get("benchmark") and not benchmark.exists():
                benchmark.write_text(json.dumps(record["benchmark"]))
    if options.again or not record["steps"]:
        benchmark.unlink(missing_ok=True)  # rows of other sources
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log")
    if options.again or not record["steps"]:
        log.unlink(missing_ok=True)

    def take(step: Step) -> None:
        if record["steps"].get(step.name, {}).get("state") == "passed":
            return
        outcome = run(step, environment, options.seconds - (time.monotonic() - begin), log)
        record["steps"][step.name] = outcome._asdict()
        record["benchmark"] = json.loads(benchmark.read_text()) if benchmark.exists() else None
        state.write_text(json.dumps(record, indent=1) + "\n")
        shutil.copyfile(state, output)

    states = gpu_backends(environment)
    if states.get("cuda"):  # a folder that was left behind may lack the build
        record["steps"].pop("build", None)
    if "build" in only:
        take(build_step(site, architecture))
        states = gpu_backends(environment)
    for backend, reason in states.items():
        print(f"gpu-check: {backend} {f'cannot run: {reason}' if reason else 'can run'}")
    record["backends"] = states
    if states.get("cuda"):
        print("gpu-check: the build offers no cuda backend on this machine; nothing was tested or measured")
        return 1
    able = [backend for backend, reason in states.items() if not reason]
    wanted = [step for step in steps(able, benchmark, environment["PATH"]) if step.part in only]
    for step in wanted:
        take(step)

    print(f"\ngpu-check on {name}: result file {output}, log {log.name}")
    for outcome in record["steps"].values():
        print(f"  {outcome['state']:10s} {outcome['name']} ({outcome['seconds']:.0f} s)")
        if outcome["state"] != "passed":
            print("    " + outcome["detail"].replace("\n", "\n    "))
    for verdict in (record.get("benchmark") or {}).get("targets", ()):
        value = f"{verdict['value']:.2f}" if "value" in verdict else verdict["why"]
        print(f"  {verdict['state']:12s} {verdict['target']}: {value} (required {verdict['required']})")
    ends = {record["steps"].get(step.name, {}).get("state") for step in wanted}
    if ends - {"passed"}:
        print("gpu-check: not everything passed; run again to go on with what is left")
    return 0 if ends <= {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main())
