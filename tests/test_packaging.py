"""The source distribution and the wheel built from it: contents, links, and that a build without CUDA says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    for tool in ("scikit_build_core", "pybind11"):
        pytest.importorskip(tool, reason=f"{tool} is needed to build without isolation")
    work = tmp_path_factory.mktemp("sdist")
    code = "import sys, scikit_build_core.build as b; b.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(work)], cwd=ROOT, capture_output=True, check=True)
    (archive,) = work.glob("dtkernels-*.tar.gz")
    shutil.unpack_archive(archive, work)
    return work / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def cpu_wheel(source: Path) -> tuple[Path, str]:
    """A wheel built without CUDA from the source distribution, unpacked, and what the build printed."""
    work = source.parent
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-index"]
    compiler = work / "c++"  # what is in a wheel does not hang on optimisation, which takes most of the time
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "c++")} "$@" -O0\n')
    compiler.chmod(0o755)
    environment = {**os.environ, "DTK_CUDA": "OFF", "CXX": str(compiler)}
    done = subprocess.run(
        [*command, "-w", str(work), str(source)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (wheel,) = work.glob("dtkernels-*.whl")
    zipfile.ZipFile(wheel).extractall(work / "unpacked")
    return work / "unpacked", done.stdout + done.stderr


def test_source_distribution(source: Path) -> None:
    """All that the Makefile needs, and what the numbers of the pages come from."""
    for folder in ("bench", "csrc", "dtkernels", "tests"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".cpp", ".h", ".cuh", ".cu", ".md", ".json"):
                assert (source / file.relative_to(ROOT)).is_file(), file
    assert {"CMakeLists.txt", "LICENSE", "Makefile", "README.md", "pyproject.toml"} <= {
        file.name for file in source.iterdir()
    }
    assert not (source / "build").exists()


def test_contents(cpu_wheel: tuple[Path, str]) -> None:
    names = {str(p.relative_to(cpu_wheel[0])) for p in cpu_wheel[0].rglob("*")}
    for expected in (
        "dtkernels/py.typed",
        "dtkernels/_C.pyi",
        "dtkernels/csrc/dtk/config.h",
        "dtkernels/plans/transform.py",
    ):
        assert expected in names
    assert any(n.startswith("dtkernels/_C.") and n.endswith(".so") for n in names)
    assert not [n for n in names if n.split("/")[0] in ("bench", "tests", "csrc")]
    assert not [n for n in names if n.startswith("dtkernels/docs")]


def test_build_without_cuda_says_so(cpu_wheel: tuple[Path, str]) -> None:
    assert "CPU kernels only" in cpu_wheel[1]
    code = """
import sys
# The finder of an editable install would come before the path.
sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]
import dtkernels as dtk
state = dtk.backends.available()["cuda"]
print(dtk.__file__, state.available, state.reason)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(cpu_wheel[0])},
        cwd=cpu_wheel[0],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(cpu_wheel[0]) in done.stdout
    assert "False this build of dtkernels has no CUDA kernels" in done.stdout


def test_links_no_torch(cpu_wheel: tuple[Path, str]) -> None:
    if shutil.which("ldd") is None:
        pytest.skip("ldd is not installed")
    (module,) = (cpu_wheel[0] / "dtkernels").glob("_C.*.so")
    needed = subprocess.run(["ldd", str(module)], capture_output=True, text=True, check=True).stdout
    assert "libtorch" not in needed
    assert "libcuda" not in needed
