"""The CuPy backend: the kernels of csrc/dtk compiled by NVRTC at the first call, for GPUs without a CUDA toolkit.

Same kernels, same launches (dtkernels/plans), same results as the compiled CUDA backend; tensors go in by pointer.
CuPy supplies NVRTC, module loading and launches. Its ``RawModule`` is of no use here: it always adds
``-ftz=true``, by which kernels take subnormal values for zero, and before CuPy 14.2 it compiles templates anew in
each process.

A kernel is compiled when a call first needs it, about half a second each, and kept on disk for later processes, in
CuPy's cache directory (``CUPY_CACHE_DIR``; ``CUPY_CACHE_IN_MEMORY=1`` turns that off). So the first call with a
kind of input must not lie in the capture of a CUDA graph: it would load a module there. It is refused.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.resources
import importlib.util
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..plans.launch import STATIC_SHARED, DeviceProperties, Launch
from ..problem import (
    ContourProblem,
    EnvelopeProblem,
    FacesProblem,
    LabelProblem,
    NearestProblem,
    Problem,
    RemapProblem,
    SumsProblem,
)
from .gpu import Gpu

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.10 has it elsewhere

NAME = "cupy"
DEVICES = ("cuda",)
CONVERTS = EXTREMA = MAPS = True

OPTIONS = ("--std=c++17", "--fmad=false", "-lineinfo")  # as in CMakeLists.txt; no -ftz, whose default is false
# Bytes of dynamic shared memory that a block gets without asking, beside what its kernel declares.
DEFAULT_SHARED = 48 * 1024 - STATIC_SHARED

# enum cudaDeviceAttr, by field of DeviceProperties.
_ATTRIBUTES = {"multiprocessors": 16, "shared_per_block_optin": 97, "major": 75, "minor": 76}


def unavailable() -> str | None:
    """A reason where CuPy, NVRTC, the driver or a GPU is missing; CuPy is imported to know."""
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; {_remedy()}"
    return _obstacle()


def run(problem: Problem, source: torch.Tensor, rows: torch.Tensor | None, out: torch.Tensor) -> None:
    """Launch the plan on torch's current stream, whatever device is current."""
    with _gpu(source.device) as gpu:
        gpu.run(problem)


def nearest(
    problem: NearestProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    distance: torch.Tensor,
    index: torch.Tensor,
) -> None:
    """The same for a feature transform."""
    with _gpu(source.device) as gpu:
        gpu.nearest(problem)


def label(problem: LabelProblem, source: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> None:
    """The same for a labelling."""
    with _gpu(source.device) as gpu:
        gpu.label(problem)


def envelope(
    problem: EnvelopeProblem,
    source: torch.Tensor,
    rows: torch.Tensor | None,
    values: torch.Tensor,
    index: torch.Tensor | None,
) -> None:
    """A pass per axis."""
    with _gpu(source.device) as gpu:
        gpu.envelope(problem)


def remap(
    problem: RemapProblem, source: torch.Tensor, rows: torch.Tensor | None, extrema: torch.Tensor | None
) -> None:
    """A pass in place."""
    with _gpu(source.device) as gpu:
        gpu.remap(problem, extrema)


def contour(problem: ContourProblem, source: torch.Tensor) -> None:
    """A pass over the mask."""
    with _gpu(source.device) as gpu:
        gpu.contour(problem)


def faces(problem: FacesProblem, source: torch.Tensor, rows: torch.Tensor | None) -> None:
    """The passes of a feature transform, for either side."""
    with _gpu(source.device) as gpu:
        gpu.faces(problem)


def weigh(
    problem: SumsProblem,
    sources: tuple[torch.Tensor, torch.Tensor],
    rows: torch.Tensor | None,
    sums: torch.Tensor,
    gradient: torch.Tensor,
) -> None:
    """One or two transforms, the last of which ends in sums and gradient."""
    with _gpu(gradient.device) as gpu:
        gpu.weigh(problem, rows, sums)


def scatter(
    grad: torch.Tensor, index: torch.Tensor, shape: tuple[int, int, int, int, int], sums: torch.Tensor
) -> None:
    """A pass per axis, the same in every run."""
    with _gpu(grad.device) as gpu:
        gpu.scatter(grad, index, shape, sums)


@contextlib.contextmanager
def _gpu(device: torch.device) -> Iterator[Gpu]:
    """The device, current for as long as this lasts."""

    def launch(step: Launch, stream: int) -> None:
        _launch(step, device.index, stream)

    with _cupy().cuda.Device(device.index):
        yield Gpu(device, _properties(device.index), launch)


# ---- CuPy


@functools.cache
def _cupy() -> Any:
    return importlib.import_module("cupy")


@functools.cache
def _obstacle() -> str | None:
    """What keeps an installed CuPy from compiling and launching."""
    try:
        cuda = _cupy().cuda
    except Exception as error:  # ImportError by rights, but the libraries below it raise what they like
        return f"CuPy cannot be imported ({_first_line(error)}); {_remedy()}"
    if cuda.runtime.is_hip:
        return "this CuPy is built for ROCm, but the kernels are CUDA"
    try:
        count = cuda.runtime.getDeviceCount()
    except cuda.runtime.CUDARuntimeError as error:
        return f"no usable GPU ({_first_line(error)})"
    if count == 0:
        return "no usable GPU (CuPy finds a driver, but no device)"
    try:
        compiler = cuda.nvrtc.getVersion()
    except Exception as error:  # RuntimeError of CuPy, or an error of the package cuda-pathfinder
        return f"CuPy does not find NVRTC, the compiler ({_first_line(error)}); {_remedy()}"
    if cuda.runtime.driverGetVersion() // 1000 < compiler[0]:
        return (
            f"the driver is of CUDA {_driver_version()} and cannot load what NVRTC {_version(compiler)} compiles; "
            f"{_remedy()}, or update the driver"
        )
    return None


def _remedy() -> str:
    """Which extra to install: CuPy and NVRTC for the CUDA of torch, so that one driver serves both."""
    if torch.version.cuda is not None:
        return f"pip install 'dtkernels[cuda{torch.version.cuda.split('.')[0]}]'"
    return "pip install 'dtkernels[cuda12]', or 'dtkernels[cuda13]' where the driver is of CUDA 13"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].strip()


def _version(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}"


def _driver_version() -> str:
    number = _cupy().cuda.runtime.driverGetVersion()
    return f"{number // 1000}.{number % 1000 // 10}"


@functools.cache
def _properties(device: int) -> DeviceProperties:
    get = _cupy().cuda.runtime.deviceGetAttribute
    return DeviceProperties(**{name: get(number, device) for name, number in _ATTRIBUTES.items()})


# ---- Launches


class Kernel:
    """A kernel loaded on one device."""

    def __init__(self, function: Any) -> None:
        """``function`` is a ``cupy.cuda.Function``."""
        self.function = function
        self.shared = DEFAULT_SHARED  # what a block may have by now


class Stream(NamedTuple):
    """All that CuPy wants to know of a stream; its own class for foreign ones is deprecated since CuPy 14."""

    ptr: int


_kernels: dict[tuple[str, int], Kernel] = {}
_lock = threading.Lock()  # for whatever happens once: compiling, loading, asking for shared memory


def _launch(launch: Launch, device: int, stream: int) -> None:
    """Queue one launch; ``device`` is current."""
    kernel = _kernels.get((launch.kernel, device)) or _load(launch.kernel, len(launch.params), device)
    if launch.shared > kernel.shared:
        _allow_shared(kernel, device)
    # An array with one element is passed by value; CuPy and the driver copy the bytes before they return.
    params = np.frombuffer(launch.params, dtype=np.dtype((np.void, len(launch.params))))
    try:
        kernel.function(launch.grid, (launch.block,), (params,), launch.shared, Stream(stream))
    except _cupy().cuda.driver.CUDADriverError as error:
        raise RuntimeError(
            f"{launch.kernel}, grid {launch.grid}, block {launch.block}, shared {launch.shared} bytes, "
            f"device {device}: {error}"
        ) from error


def _allow_shared(kernel: Kernel, device: int) -> None:
    """Ask for the device's whole limit, so that once is enough."""
    driver = _cupy().cuda.driver
    limit = _properties(device).shared_per_block_optin - STATIC_SHARED
    with _lock:
        if kernel.shared < limit:
            attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            driver.funcSetAttribute(kernel.function.ptr, attribute, limit)
            kernel.shared = limit


def _load(expression: str, params_size: int, device: int) -> Kernel:
    """Compile a kernel, or take it from the cache, and load it on ``device``, which is current."""
    cuda = _cupy().cuda
    with _lock:
        kernel = _kernels.get((expression, device))
        if kernel is not None:  # another thread was first
            return kernel
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{expression} is not compiled yet, which cannot happen while a CUDA graph is captured: call the "
                "same transform once before the capture"
            )
        properties = _properties(device)
        target = _target(properties.major, properties.minor)
        binary = _binary(expression, params_size, target)
        module = cuda.Module()
        try:
            module.load(binary.image)
        except cuda.driver.CUDADriverError as error:
            raise RuntimeError(
                f"{expression}: the driver (CUDA {_driver_version()}) does not load what "
                f"NVRTC {_version(cuda.nvrtc.getVersion())} compiled for {target}: {error}"
            ) from error
        kernel = _kernels[expression, device] = Kernel(module.get_function(binary.symbol))
        return kernel


# ---- Compilation


class Binary(NamedTuple):
    """One compiled kernel: its name in the machine code or PTX, and that."""

    symbol: str
    image: bytes


def _target(major: int, minor: int) -> str:
    """Machine code for the device; for one that NVRTC does not know yet PTX, which the driver translates."""
    nvrtc = _cupy().cuda.nvrtc
    known = nvrtc.getSupportedArchs()
    capability = 10 * major + minor
    if capability in known:
        return f"sm_{capability}"
    below = [a for a in known if a < capability]
    if not below:
        raise RuntimeError(
            f"NVRTC {_version(nvrtc.getVersion())} compiles for compute capability {_capability(min(known))} or "
            f"newer, the device has {_capability(capability)}"
        )
    return f"compute_{max(below)}"


def _capability(number: int) -> str:
    return f"{number // 10}.{number % 10}"


@functools.cache
def _binary(expression: str, params_size: int, target: str) -> Binary:
    """One kernel for one target, from disk if it was compiled before."""
    source = _source() + _check_of_size(expression, params_size)
    options = (*OPTIONS, f"-arch={target}")
    version = _version(_cupy().cuda.nvrtc.getVersion())
    path = _cached_file(source, *options, expression, version)
    binary = _read(path)
    if binary is None:
        binary = _compile(source, options, expression)
        _write(path, binary)
    return binary


def _compile(source: str, options: tuple[str, ...], expression: str) -> Binary:
    nvrtc = _cupy().cuda.nvrtc
    program = nvrtc.createProgram(source, "dtkernels.cu", (), ())
    try:
        nvrtc.addNameExpression(program, expression)
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError as error:
            raise RuntimeError(
                f"NVRTC {_version(nvrtc.getVersion())} does not compile {expression} with {' '.join(options)}: "
                f"{error}\n{nvrtc.getProgramLog(program)}"
            ) from error
        machine_code = options[-1].startswith("-arch=sm_")
        image = nvrtc.getCUBIN(program) if machine_code else nvrtc.getPTX(program)
        return Binary(nvrtc.getLoweredName(program, expression), image)
    finally:
        nvrtc.destroyProgram(program)


def _check_of_size(expression: str, params_size: int) -> str:
    """Source that does not compile unless the kernel takes as many bytes as the plan packs: no one else checks."""
    return f"""
template <typename Params>
__device__ Params dtk_params_of(void (*)(Params));
static_assert(sizeof(decltype(dtk_params_of({expression}))) == {params_size},
              "dtkernels/plans packs {params_size} bytes");
"""


# ---- Source


@functools.cache
def _source() -> str:
    """Every kernel as one string. NVRTC finds no headers of its own, and the cache could not see them change."""
    directory = _headers()
    headers = {f.name: f.read_text(encoding="utf-8") for f in directory.iterdir() if f.is_file()}
    done: set[str] = set()
    return "".join(_inline(name, headers, done) for name in sorted(headers) if name.endswith(".cuh"))


def _headers() -> Traversable:
    """csrc/dtk within the package, or beside it where Python imports the package from the checkout itself."""
    installed = importlib.resources.files("dtkernels").joinpath("csrc", "dtk")
    if installed.joinpath("config.h").is_file():
        return installed
    checkout = Path(__file__).resolve().parents[2] / "csrc" / "dtk"
    if checkout.joinpath("config.h").is_file():
        return checkout
    raise RuntimeError(f"no kernel sources at {installed} or {checkout}; reinstall dtkernels")


def _inline(name: str, headers: dict[str, str], done: set[str]) -> str:
    """A header with those it includes in place, each once; other includes are of other compilers and stay."""
    if name in done:
        return ""
    done.add(name)
    lines = [f'#line 1 "dtk/{name}"\n']
    for number, line in enumerate(headers[name].splitlines(), 1):
        include = re.match(r'#include "([^"]+)"', line)
        if include and include[1] in headers:
            lines += [_inline(include[1], headers, done), f'#line {number + 1} "dtk/{name}"\n']
        else:
            lines.append("\n" if line == "#pragma once" else f"{line}\n")
    return "".join(lines)


# ---- Cache on disk: a digest of the rest, the symbol, a zero byte, the image


def _cached_file(*key: str) -> Path | None:
    """Where the result of these inputs is kept; None where CuPy is told to keep nothing."""
    if os.environ.get("CUPY_CACHE_IN_MEMORY") == "1":
        return None
    directory = os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()
    return Path(directory) / f"dtkernels-{digest[:40]}.bin"


def _read(path: Path | None) -> Binary | None:
    """What was kept, or None if there is nothing whole."""
    try:
        data = path.read_bytes() if path is not None else b""
    except OSError:
        return None
    digest, content = data[:32], data[32:]
    if hashlib.sha256(content).digest() != digest:
        return None
    symbol, _, image = content.partition(b"\0")
    return Binary(symbol.decode(), image)


def _write(path: Path | None, binary: Binary) -> None:
    """Keep it, in one step for other processes; a directory that cannot be written costs only their time."""
    if path is None:
        return
    content = binary.symbol.encode() + b"\0" + binary.image
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                file.write(hashlib.sha256(content).digest() + content)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
