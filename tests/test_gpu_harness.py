"""What measures and checks on a GPU, walked through without one: a mistake in it would be found on rented time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulator import build
from scipy import ndimage

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench import cuda, gpu_check, gpu_sanitize, targets  # noqa: E402


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """NumPy and SciPy under CuPy's names; the functions that were called."""
    called: list[str] = []

    def transform(image: Any, *, sampling: Any, return_indices: bool = False, float64_distances: bool) -> Any:
        assert not float64_distances
        called.append("indices" if return_indices else "distances")
        return ndimage.distance_transform_edt(image, sampling, return_indices=return_indices)

    def label(image: Any, structure: Any) -> Any:
        called.append("label")
        return ndimage.label(image, structure)

    fake: Any = types.ModuleType("cupy")
    fake.__spec__ = types.SimpleNamespace()
    fake.ones, fake.from_dlpack = np.ones, np.from_dlpack
    fake.cuda = types.SimpleNamespace(Stream=types.SimpleNamespace(null=contextlib.nullcontext()))
    functions: Any = types.ModuleType("cupyx.scipy.ndimage")
    functions.distance_transform_edt, functions.label = transform, label
    parent: Any = types.ModuleType("cupyx.scipy")
    parent.ndimage = functions
    for name, module in {"cupy": fake, "cupyx": types.ModuleType("cupyx"), "cupyx.scipy": parent}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return called


def by_name(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["row"]: row for row in record["rows"]}


def test_every_row_and_every_target(cupy: list[str], tmp_path: Path) -> None:
    """All rows of the full benchmark, tiny, on the CPU; a second run measures nothing again."""
    saved = tmp_path / "rows.json"
    assert cuda.main(["--dry-run", "--save", str(saved)]) == 0
    record = json.loads(saved.read_text())
    rows = by_name(record)
    assert list(rows) == list(cuda.rows(quick=False))
    assert not [key for key, row in rows.items() if "failed" in row or "error" in row]
    assert set(cupy) == {"indices", "distances", "label"}
    assert {row["operator"] for row in rows.values()} >= set(cuda.OPERATORS)
    for verdict in record["targets"]:
        # Graphs and MONAI may be absent here; all else has a value.
        assert "value" in verdict or "graph" in verdict["target"] or "MONAI" in verdict["target"], verdict
    first = rows.pop("sdf organ 16x128x128x128")
    rows["label organ 16x128x128x128"]["failed"] = "out of memory"
    saved.write_text(json.dumps({**record, "rows": list(rows.values())}))
    cupy.clear()
    assert cuda.main(["--dry-run", "--save", str(saved)]) == 0
    assert cupy == ["distances"] * 4 + ["label"] * 2
    assert by_name(json.loads(saved.read_text()))["sdf organ 16x128x128x128"].keys() == first.keys()


def test_quick_rows_suffice_for_the_targets() -> None:
    keys = cuda.rows(quick=True)
    for target in targets.TARGETS:
        assert target.key in keys
        assert target.over is None or target.over in keys


def test_a_run_stops_in_time_and_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "rows.json"
    assert cuda.main(["--dry-run", "--quick", "--seconds", "-1", "--save", str(saved)]) == gpu_check.UNFINISHED
    assert "rows left, from 'edt organ 16x128x128x128' on" in capsys.readouterr().out
    assert not saved.exists()


def test_a_row_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved = tmp_path / "rows.json"
    good, bad = {"operator": "edt", "microseconds": 1.0}, "edt organ 1x128x128x128"

    def fail(bench: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(cuda, "rows", lambda quick: {bad: fail, "good": lambda bench: good})
    assert cuda.main(["--dry-run", "--save", str(saved)]) == 1
    record = json.loads(saved.read_text())
    assert record["rows"] == [{"row": bad, "failed": "RuntimeError: no memory"}, {"row": "good", **good}]
    assert {v["why"] for v in record["targets"] if v["target"].startswith("one 128^3, CuPy")} == {
        "RuntimeError: no memory"
    }


def test_verdicts() -> None:
    most, least = targets.Target("a", "x", "us", 8, goal=3), targets.Target("b", "x", "cupy_over_ours", least=20)
    over = targets.Target("c", "x", "us", 4, over="y")
    rows = {"x": {"us": 8.0, "cupy_over_ours": 19.9}, "y": {"us": 1.9}}
    assert targets.judge(most, rows)["state"] == "met"
    assert targets.judge(least, rows)["state"] == "NOT MET"
    assert targets.judge(over, rows) == {
        "target": "c", "required": "at most 4", "goal": None, "value": 8 / 1.9, "state": "NOT MET",
    }  # fmt: skip
    assert targets.judge(over, {"x": rows["x"]})["why"] == "no row 'y'"
    assert targets.judge(least, {"x": {"absent": "CuPy is not installed"}})["why"] == "CuPy is not installed"


def test_sanitized_program_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(gpu_sanitize.PARTS) == gpu_check.SANITIZED
    assert gpu_sanitize.main(["--dry-run"]) == 0
    text = capsys.readouterr().out
    assert len(re.findall(r"\d+ results, 0 wrong", text)) == len(gpu_sanitize.PARTS)


def test_sanitized_program_names_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A result that differs, and a part that breaks off; the part after it runs."""

    def wrong(x: torch.Tensor, *, backend: str = "") -> torch.Tensor:
        return x + (torch.arange(6) == 4) if backend else x

    def differs(both: Any, large: bool) -> Any:
        yield from both(wrong, torch.zeros(6))

    def breaks(both: Any, large: bool) -> Any:
        yield from both(torch.zeros, (1,), nonsense=1)

    monkeypatch.setattr(gpu_sanitize, "PARTS", {"breaks": breaks, "differs": differs})
    assert gpu_sanitize.main(["--dry-run"]) == 1
    text = capsys.readouterr().out
    assert "breaks: zeros((1,), nonsense=1)" in text
    assert "differs: wrong: wrong(torch.float32 (6,)): 1 of 6 elements differ, the first at (4,)" in text
    assert "got 0.0, expected 1.0" in text
    assert "differs: 1 results, 1 wrong" in text


# Taken by force alone; by images that are too large to be emulated; by lines too long for devices that have less
# shared memory than an H200.
ELSEWHERE = r"dtk::(Envelope|Window)|uint8_t, dtk::Divide|dtk::Strips, true|Divide, true|parabolas<float, false>"

EMULATED = """
import sys
import emulated
emulated.Library.launch = lambda *_: None
import emulated_cupy
from bench import gpu_sanitize
gpu_sanitize.main(["--dry-run"])
print("reached", sorted({launch.kernel for launch, *_ in sys.modules["cupy"].launches}))
"""


@pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")
def test_sanitized_program_reaches_every_kernel() -> None:
    """By the launches that CuPy's front end asks of the emulator, which runs none: other tests are for results."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", EMULATED],
        env={**os.environ, "PYTHONPATH": path, "DTK_BACKEND": "cupy"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    reached = set(re.findall(r"'([^']*)'", done.stdout.split("reached")[1]))
    table = (ROOT / "csrc/cuda/launch.cu").read_text()
    kernels = set(re.findall(r"DTK_KERNEL\([\w<>]+,\s+(dtk::.*)\)", table))
    assert {k for k in kernels if not re.search(ELSEWHERE, k)} <= reached, (kernels - reached, reached)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[gpu_check.Step]:
    """gpu_check on a GPU that there is not; its steps after the build, for tests to fill."""
    steps: list[gpu_check.Step] = []
    build_step = gpu_check.Step("build", "build", [sys.executable, "-c", ""], 60)
    states = {"cuda": "", "cupy": "", "numba": "it sees no GPU"}
    for name, value in {
        "BUILD": tmp_path / "build",
        "find_gpu": lambda: ("No GPU", "90"),
        "gpu_backends": lambda *_: states,
        "build_step": lambda *_: build_step,
        "steps": lambda *_: steps,
    }.items():
        monkeypatch.setattr(gpu_check, name, value)
    (tmp_path / "build").mkdir()
    return steps


def test_gpu_check_goes_on_where_it_ended(checked: list[gpu_check.Step], tmp_path: Path) -> None:
    mark, log = tmp_path / "mark", tmp_path / "log"
    note = f"open({str(log)!r}, 'a').write(sys.argv[1])"
    passes = [sys.executable, "-c", f"import sys; {note}", "a"]
    fails_once = [
        sys.executable,
        "-c",
        f"import sys, os; {note}; sys.exit(not os.path.exists({str(mark)!r}))",
        "b",
    ]
    left = [
        sys.executable,
        "-c",
        f"import sys, os; {note}; sys.exit(0 if os.path.exists({str(mark)!r}) else 3)",
        "c",
    ]
    hangs = [sys.executable, "-c", "import time; time.sleep(60)"]
    checked += [
        gpu_check.Step("tests", "passes", passes, 60),
        gpu_check.Step("tests", "fails once", fails_once, 60),
        gpu_check.Step("bench", "left", left, 60),
        gpu_check.Step("sanitize", "hangs", hangs, 1),
        gpu_check.Step("sanitize", "absent", ["no-such-program"], 60),
    ]
    output = tmp_path / "result.json"
    run = ["--output", str(output)]
    assert gpu_check.main([*run, "--only", "build,tests,bench"]) == 1
    record = json.loads(output.read_text())
    assert {n: s["state"] for n, s in record["steps"].items()} == {
        "build": "passed", "passes": "passed", "fails once": "failed", "left": "unfinished",
    }  # fmt: skip
    assert record["backends"] == {"cuda": "", "cupy": "", "numba": "it sees no GPU"}
    mark.touch()
    assert gpu_check.main([*run, "--only", "tests,bench"]) == 0
    assert log.read_text() == "abcbc"
    assert gpu_check.main(run) == 1
    steps = json.loads(output.read_text())["steps"]
    assert (steps["hangs"]["state"], steps["absent"]["state"]) == ("timed out", "skipped")
    kept = output.with_suffix(".log").read_text()
    assert [line.split(":")[0] for line in kept.splitlines() if line.startswith("==")] == [
        "== build", "== passes", "== fails once", "== left", "== fails once", "== left", "== hangs",
    ]  # fmt: skip
    assert log.read_text() == "abcbc"
    assert gpu_check.main([*run, "--only", "tests", "--again"]) == 0
    assert log.read_text() == "abcbcab"
    with pytest.raises(SystemExit):
        gpu_check.main(["--only", "nonsense"])


def test_gpu_check_repeats_what_was_measured_of_other_sources(
    checked: list[gpu_check.Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    checked.append(gpu_check.Step("tests", "a", [sys.executable, "-c", f"open({str(log)!r}, 'a').write('a')"], 60))
    for sources in ("1", "1", "2"):
        monkeypatch.setattr(gpu_check, "fingerprint", lambda gpu, sources=sources: sources)
        assert gpu_check.main(["--output", str(tmp_path / "result.json")]) == 0
    assert log.read_text() == "aa"


def test_gpu_check_goes_on_from_the_result_of_another_machine(
    checked: list[gpu_check.Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its build folder did not come along: the build is done again, what else has passed is not."""
    log, rows, measured = tmp_path / "log", tmp_path / "build" / "rows.json", '{"rows": []}'
    note = f"import sys; open({str(log)!r}, 'a').write(sys.argv[1])"
    benchmark = f"{note}; open({str(rows)!r}, 'w').write({measured!r})"
    build_step = gpu_check.Step("build", "build", [sys.executable, "-c", note, "b"], 60)
    monkeypatch.setattr(gpu_check, "build_step", lambda *_: build_step)
    checked.append(gpu_check.Step("bench", "a", [sys.executable, "-c", benchmark, "a"], 60))
    run = ["--output", str(tmp_path / "result.json")]
    assert gpu_check.main(run) == 0
    (tmp_path / "build" / "result.json").unlink()
    rows.unlink()
    states = iter([{"cuda": "no build"}, {"cuda": ""}])
    monkeypatch.setattr(gpu_check, "gpu_backends", lambda *_: next(states))
    assert gpu_check.main(run) == 0
    assert log.read_text() == "bab"
    assert json.loads(rows.read_text()) == {"rows": []}


def test_the_package_comes_from_its_folder_wherever_python_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hook of an editable installation, ahead of a checkout without the compiled module."""
    monkeypatch.setattr(gpu_check, "BUILD", tmp_path / "build")
    site = gpu_check.make_overlay()
    (site / "hook.pth").write_text("import hook\n")
    (site / "hook.py").write_text(
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return importlib.util.spec_from_loader(name, None) if name == 'dtkernels' else None\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    environment = gpu_check.environment_of(site, "90")
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(site)
    code = "import importlib.util as u; print(u.find_spec('dtkernels').origin, u.find_spec('torch').origin)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None", torch.__file__]


def test_the_toolkit_behind_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit = tmp_path / "cuda"
    (toolkit / "include").mkdir(parents=True)
    (toolkit / "include" / "cuda_runtime.h").touch()
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho '#$ TOP={toolkit}/bin/..' >&2\n")
    nvcc.chmod(0o755)
    (toolkit / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    environment = gpu_check.environment_of(tmp_path / "site", "90")
    assert environment["CUDA_PATH"] == str(toolkit)
    assert str(toolkit / "bin") in environment["PATH"].split(os.pathsep)


def test_steps_name_what_exists(tmp_path: Path) -> None:
    steps = gpu_check.steps(["cuda", "cupy", "numba"], tmp_path / "rows.json")
    assert len({step.name for step in steps}) == len(steps)
    assert {step.part for step in steps} == set(gpu_check.PARTS) - {"build"}
    for files in (*gpu_check.SUITES.values(), *gpu_check.OTHER_SUITES.values()):
        for name in files:
            assert (ROOT / f"tests/test_{name}.py").is_file(), name
    source = (ROOT / "tests/test_cupy.py").read_text()
    for name in gpu_check.OF_CUPY:
        assert f"def {name}(" in source
    assert not [
        step for step in gpu_check.steps(["cuda"], tmp_path) if "cupy" in step.name or "numba" in step.name
    ]
    for step in steps:
        assert step.limit <= 300
        if step.part == "tests" and "pytest" in step.command:
            assert "--dtk-backend" in step.command
    assert torch.cuda.is_available() or gpu_check.find_gpu() is None
    assert len(gpu_check.fingerprint("GPU")) == 16
