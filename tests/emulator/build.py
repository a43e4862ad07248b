"""Compiles CUDA sources for the emulator: plain, under a sanitizer, or so that accesses are counted.

    built = build.module("_C_emulated", sources=["csrc/cuda/launch.cu", "csrc/module.cpp"], mode="thread")
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **built.environment})

Objects are kept under build/emulator and reused while the command, the source and every header that it
included are the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "emulator"
MODES = ("plain", "address", "thread", "traffic")

PathLike = str | os.PathLike[str]

_COMMON = [
    "-std=c++17",
    "-fPIC",
    "-g1",  # lines and functions for backtraces, nothing of variables: a third less to compile
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",  # #pragma unroll
    "-ffp-contract=off",  # as nvcc --fmad=false: both round every product
    "-fvisibility=hidden",  # two modules in one process must not share a machine
    "-fno-gnu-unique",  # nor their static variables
    "-fno-omit-frame-pointer",  # sanitizers unwind fibres by frame pointer
    "-DDTK_EMULATOR",
]
_SANITIZE = {
    "plain": ["-O2"],
    # -O0: a third of -O1's time to compile, and runs are short.
    # -fno-sanitize=vptr: pybind11 has nothing to gain from it, and it needs run-time type information.
    "address": ["-O0", "-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"],
    "thread": ["-O1", "-fsanitize=thread"],
    # A call before every access, answered by runtime/traffic.cpp.
    "traffic": ["-O1", "-fsanitize=thread", "-fno-tree-sra"],
}
# The runtime is never instrumented, and must not call functions that sanitizers intercept.
_RUNTIME = {
    "plain": [],
    "address": ["-DDTK_EMULATOR_ADDRESS"],
    "thread": ["-DDTK_EMULATOR_THREAD"],
    "traffic": ["-DDTK_EMULATOR_TRAFFIC"],
}
_RUNTIME_FLAGS = ["-O2", "-fno-builtin", "-fno-tree-loop-distribute-patterns"]
RUNTIME_SOURCES = sorted(HERE.glob("runtime/*.cpp"))


@dataclasses.dataclass(frozen=True)
class Built:
    """A linked file, and the variables that a process needs to load or run it."""

    path: pathlib.Path
    environment: dict[str, str]


def compiler() -> str | None:
    """The C++ compiler, or None where there is none: CXX, else g++."""
    return shutil.which(os.environ.get("CXX", "g++"))


def missing(mode: str) -> str | None:
    """Why code of `mode` cannot be built here, or None."""
    if compiler() is None:
        return "no C++ compiler"
    needed = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}.get(mode, [])
    absent = [name for name in needed if not _library(name).is_absolute() or not _library(name).exists()]
    return f"the compiler lacks {', '.join(absent)}" if absent else None


def environment(mode: str, preload: bool = True) -> dict[str, str]:
    """Variables for a subprocess that runs code of `mode`; `preload` when Python loads it as a library.

    A sanitizer must be the first library of its process, hence LD_PRELOAD. ASan also wants libstdc++ from
    the start, or it finds no `__cxa_throw` to wrap and the first C++ exception ends the process.
    """
    variables: dict[str, str] = {}
    if mode == "address":
        # Python never frees everything, so leaks say nothing. Exit code 66 tells a finding from other ends.
        variables["ASAN_OPTIONS"] = "detect_leaks=0:exitcode=66:abort_on_error=0:handle_abort=1"
        variables["UBSAN_OPTIONS"] = "print_stacktrace=1:exitcode=66"
    elif mode == "thread":
        # TSan would sleep for a second at exit, for threads that might still race.
        variables["TSAN_OPTIONS"] = "exitcode=66:halt_on_error=0:report_signal_unsafe=0:atexit_sleep_ms=0"
    libraries = {"address": ["libasan.so", "libstdc++.so"], "thread": ["libtsan.so"]}.get(mode)
    if libraries and preload:
        variables["LD_PRELOAD"] = ":".join(str(_library(name)) for name in libraries)
        variables["PYTHONMALLOC"] = "malloc"  # pymalloc's arenas would hide overruns between its blocks
        variables["OPENBLAS_NUM_THREADS"] = "1"  # no threads that the sanitizer would have to follow
    return variables


def module(
    name: str,
    sources: Sequence[PathLike],
    mode: str = "plain",
    *,
    include: Sequence[PathLike] = (),
    define: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Built:
    """A Python extension module `name`; one of the sources defines it with PYBIND11_MODULE.

    `define` entries are NAME or NAME=VALUE. The file lies alone in its directory, ready for sys.path.
    """
    import pybind11

    system = ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include")]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return _build(name + suffix, sources, mode, include, define, [*system, *flags], ["-shared"], preload=True)


def library(
    name: str,
    sources: Sequence[PathLike],
    mode: str = "plain",
    *,
    include: Sequence[PathLike] = (),
    define: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Built:
    """A shared library for ctypes; only functions marked visible are exported."""
    return _build(name + ".so", sources, mode, include, define, flags, ["-shared"], preload=True)


def executable(
    name: str,
    sources: Sequence[PathLike],
    mode: str = "plain",
    *,
    include: Sequence[PathLike] = (),
    define: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Built:
    """A program; -rdynamic lets the runtime find the kernels' names."""
    return _build(name, sources, mode, include, define, flags, ["-rdynamic"], preload=False)


def _build(
    file_name: str,
    sources: Sequence[PathLike],
    mode: str,
    include: Sequence[PathLike],
    define: Sequence[str],
    flags: Sequence[str],
    link: Sequence[str],
    preload: bool,
) -> Built:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    cxx = compiler()
    if cxx is None:
        raise RuntimeError("the emulator needs a C++ compiler: g++ or CXX")
    directories = [f"-I{path}" for path in (HERE, ROOT / "csrc", *include)]
    common = [cxx, *_COMMON, *directories]
    watched = [*common, *_SANITIZE[mode], *(f"-D{d}" for d in define), *flags]
    runtime = [*common, *_RUNTIME_FLAGS, *_RUNTIME[mode]]
    with _locked():
        objects = [_compile(runtime, path) for path in RUNTIME_SOURCES]
        objects += [_compile(watched, _resolve(path)) for path in sources]
        key = _digest(file_name, *link, *watched, *(path.parent.name for path in objects))
        target = BUILD / f"{pathlib.Path(file_name).stem.split('.')[0]}-{mode}-{key}" / file_name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            # Named apart until complete, so that an interrupted link leaves nothing that looks finished.
            partial = target.with_name(target.name + ".partial")
            sanitize = [f for f in _SANITIZE[mode] if "sanitize" in f and mode != "traffic"]
            _run([cxx, *sanitize, *link, "-o", str(partial), *map(str, objects), "-ldl", "-pthread"])
            partial.replace(target)
    return Built(target, environment(mode, preload))


def _resolve(path: PathLike) -> pathlib.Path:
    path = pathlib.Path(path)
    return path if path.is_absolute() else ROOT / path


def _compile(command: list[str], source: pathlib.Path) -> pathlib.Path:
    """The object for `source`, compiled anew only if a file that went into it has changed."""
    directory = BUILD / "objects" / f"{source.stem}-{_digest(str(source), *command)}"
    manifest = directory / "manifest.json"
    if manifest.exists():
        recorded = json.loads(manifest.read_text())
        object_file = directory / str(recorded["key"]) / f"{source.stem}.o"
        if object_file.exists() and all(_file_digest(path) == d for path, d in recorded["files"].items()):
            return object_file
    directory.mkdir(parents=True, exist_ok=True)
    partial, dependencies = directory / "partial.o", directory / "partial.d"
    listing = ["-MMD", "-MF", str(dependencies)]
    _run([*command, *listing, "-x", "c++", "-c", str(source), "-o", str(partial)])
    # "partial.o: a.cpp b.h \<newline> c.h"; paths with spaces come escaped.
    text = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].replace("\\ ", "\0")
    files = {path.replace("\0", " "): _file_digest(path.replace("\0", " ")) for path in text.split()}
    key = _digest(*(part for item in sorted(files.items()) for part in item))
    object_file = directory / key / f"{source.stem}.o"
    object_file.parent.mkdir(exist_ok=True)
    partial.replace(object_file)
    manifest.write_text(json.dumps({"key": key, "files": files}))
    return object_file


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _file_digest(path: str) -> str:
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]
    except OSError:
        return "absent"


def _library(name: str) -> pathlib.Path:
    cxx = compiler() or "g++"
    found = subprocess.run([cxx, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = pathlib.Path(found.stdout.strip())  # the bare name if there is no such library
    return path.resolve() if path.is_absolute() else path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
