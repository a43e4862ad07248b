"""The CuPy backend: its own code run against host memory and the emulator, and its source against the real NVRTC.

A stand-in for the module ``cupy`` has the few attributes that the backend uses, with CuPy's own rules. Its
compiler looks a name expression up among the emulated kernels, and a launch runs that kernel on host pointers, so
torch's CPU tensors stand for CUDA ones. Where NVRTC can be loaded (no GPU needed; pip install nvidia-cuda-nvrtc,
or CuPy itself), every kernel is compiled by it, as on a user's machine.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from emulated import H200, Library
from emulator import build

import dtkernels as dtk
from dtkernels.backends import cupy as backend
from dtkernels.maps import CONVENTIONS
from dtkernels.plans import launch as plans
from dtkernels.plans import transform

ROOT = Path(__file__).parent.parent
CACHES = (backend._cupy, backend._obstacle, backend._properties, backend._binary, backend._source)
SCAN = "dtk::scan<uint8_t>"
LINES = "dtk::lines<int32_t, true, uint16_t, dtk::Strips, false>"
FLOAT_LINES = "dtk::lines<float, true, uint16_t, dtk::Strips, false>"
NEAREST = "dtk::nearest_lines<dtk::Rounded, false>"
LABEL = ["dtk::label_unite<uint32_t>", "dtk::label_roots<uint32_t>"]

emulated = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")
compiled = pytest.mark.skipif(
    not dtk.backends.available()["cpu"].available, reason="compares with the compiled CPU backend"
)


# ---- The stand-in


class CUDARuntimeError(RuntimeError):
    """What CuPy raises for errors of the runtime."""


class CUDADriverError(RuntimeError):
    """What CuPy raises for errors of the driver."""


class NVRTCError(RuntimeError):
    """What CuPy raises for errors of NVRTC."""


class FakeCuPy(types.ModuleType):
    """The attributes of ``cupy`` that the backend uses, on the emulator; notes everything that it is asked."""

    def __init__(self, library: Library | None, properties: plans.DeviceProperties = H200) -> None:
        super().__init__("cupy")
        self.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        self.kernels = library.kernels() if library else {}
        self.compilations: Counter[tuple[str, str]] = Counter()  # (expression, -arch)
        self.options: set[tuple[str, ...]] = set()
        self.loads: Counter[tuple[str, int | None]] = Counter()  # (expression, device)
        self.opt_ins: list[tuple[str, int]] = []
        self.launches: list[tuple[plans.Launch, int, int | None]] = []  # with stream and device
        self.device: int | None = None  # the current one
        self.device_count = 2
        self.driver_version = 12080
        self.nvrtc_version = (12, 8)
        self.architectures = (75, 80, 90, 100, 120)
        self.refused_image = False
        attributes = dict(zip(backend._ATTRIBUTES.values(), properties, strict=True))
        fake = self

        class Device:
            def __init__(self, device: int | None) -> None:
                self.id = device

            def __enter__(self) -> None:
                self.before, fake.device = fake.device, self.id

            def __exit__(self, *_: object) -> None:
                fake.device = self.before

        class Function:
            def __init__(self, expression: str, number: int) -> None:
                self.expression, self.ptr, self.shared = expression, number, 48 * 1024
                functions[number] = self

            def __call__(
                self,
                grid: tuple[int, ...],
                block: tuple[int, ...],
                args: Any,
                shared_mem: int = 0,
                stream: Any = None,
            ) -> None:
                assert isinstance(grid, tuple)
                assert isinstance(block, tuple)
                (x,) = args
                assert isinstance(x, np.ndarray)
                assert x.size == 1, "CuPy passes by value what has one element"
                params = ctypes.string_at(x.__array_interface__["data"][0], x.nbytes)
                if shared_mem > self.shared:
                    raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
                launch = plans.Launch(self.expression, grid, block[0], shared_mem, params)
                fake.launches.append((launch, stream.ptr, fake.device))
                if library is not None:
                    library.launch(launch)

        class Module:
            def load(self, image: bytes) -> None:
                if fake.refused_image:
                    raise CUDADriverError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
                self.expression = image.decode().removeprefix("image of ")
                fake.loads[self.expression, fake.device] += 1

            def get_function(self, symbol: str) -> Function:
                assert symbol == f"mangled {self.expression}"
                return Function(self.expression, 1 + len(functions))

        functions: dict[int, Function] = {}

        def set_attribute(function: int, attribute: int, value: int) -> None:
            assert attribute == 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            functions[function].shared = value
            fake.opt_ins.append((functions[function].expression, value))

        def device_attribute(number: int, device: int | None) -> int:
            return attributes[number]

        self.cuda = types.SimpleNamespace(
            Device=Device,
            Module=Module,
            nvrtc=FakeNVRTC(self),
            driver=types.SimpleNamespace(
                CUDADriverError=CUDADriverError,
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
                funcSetAttribute=set_attribute,
            ),
            runtime=types.SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                is_hip=False,
                getDeviceCount=lambda: self.device_count,
                driverGetVersion=lambda: self.driver_version,
                deviceGetAttribute=device_attribute,
            ),
        )


class FakeNVRTC:
    """A compiler that knows the emulated kernels and takes its time, so that a missing lock would show."""

    NVRTCError = NVRTCError

    def __init__(self, fake: FakeCuPy) -> None:
        self.fake = fake
        self.programs: dict[int, dict[str, Any]] = {}

    def getVersion(self) -> tuple[int, int]:
        return self.fake.nvrtc_version

    def getSupportedArchs(self) -> tuple[int, ...]:
        return self.fake.architectures

    def createProgram(self, source: str, name: str, headers: tuple[()], include_names: tuple[()]) -> int:
        assert headers == include_names == ()
        self.programs[number := 1 + len(self.programs)] = {"source": source}
        return number

    def addNameExpression(self, program: int, expression: str) -> None:
        self.programs[program]["expression"] = expression

    def compileProgram(self, program: int, options: tuple[str, ...]) -> None:
        expression, source = self.programs[program]["expression"], self.programs[program]["source"]
        threading.Event().wait(0.01)
        if self.fake.kernels.get(expression) != int(re.findall(r"== (\d+),", source)[-1]):
            raise NVRTCError("NVRTC_ERROR_COMPILATION (6)")
        self.fake.compilations[expression, options[-1]] += 1
        self.fake.options.add(options[:-1])

    def getLoweredName(self, program: int, expression: str) -> str:
        return f"mangled {expression}"

    def getCUBIN(self, program: int) -> bytes:
        return f"image of {self.programs[program]['expression']}".encode()

    getPTX = getCUBIN

    def getProgramLog(self, program: int) -> str:
        return "dtk/scan.cuh(7): error: of the stand-in"

    def destroyProgram(self, program: int) -> None:
        self.programs[program].clear()


def forget() -> None:
    """What a new process does not know."""
    backend._kernels.clear()
    for cache in CACHES:
        cache.cache_clear()


Use = Callable[..., FakeCuPy]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Use]:
    """Puts a stand-in in CuPy's place, for tensors on the CPU and with a cache of its own."""
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CUPY_CACHE_IN_MEMORY", raising=False)
    monkeypatch.setattr(backend, "DEVICES", ("cpu",))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, raising=False)
    monkeypatch.setattr(
        torch.cuda, "is_current_stream_capturing", lambda: False
    )  # absent from CPU builds of torch

    def put(library: Library | None = None, properties: plans.DeviceProperties = H200) -> FakeCuPy:
        fake = FakeCuPy(library, properties)
        monkeypatch.setitem(sys.modules, "cupy", fake)
        forget()
        return fake

    forget()
    yield put
    forget()


@pytest.fixture
def fake(use: Use, library: Library) -> FakeCuPy:
    return use(library)


def mask_of(shape: tuple[int, ...], density: float = 0.7, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


# ---- Values

SHAPES = [(70,), (1, 1), (20, 41), (3, 129), (17, 12, 19), (130, 4, 5), (5, 1, 33)]
DTYPES = [torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float64]
TINY = H200._replace(shared_per_block_optin=9216)  # long lines lie in scratch memory
LONG = (2, 9000)  # lines too long for the solver of short ones: a tile of them takes more than 48 KB


@emulated
@compiled
@pytest.mark.parametrize("op", ["edt", "sdf"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_as_the_cpu_backend(fake: FakeCuPy, shape: tuple[int, ...], op: str) -> None:
    """Bit for bit at every spacing known on the host: both round every product. Where samples have their own, in
    memory, this backend cannot see which of them are isotropic and count in integers.
    """
    function = getattr(dtk, op)
    for density in (0.05, 0.7, 0.99, 1.0):
        mask = mask_of((2, 2, *shape), density)
        per_sample = torch.tensor([[1.0, 2.0, 0.3], [0.7, 0.7, 0.7]], dtype=torch.float64)[:, : len(shape)]
        for spacing in (None, (2.5,) * len(shape), (1.0, 0.7, 3.0)[: len(shape)], per_sample):
            for border in ("open", "closed"):
                options: Any = {"spatial_dims": len(shape), "border": border, "squared": border == "closed"}
                actual = function(mask, spacing, backend="cupy", **options)
                expected = function(mask, spacing, backend="cpu", **options)
                if spacing is per_sample:
                    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
                else:
                    assert torch.equal(actual, expected), (density, spacing, border)
    assert fake.launches


@emulated
@compiled
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nearest_as_on_the_cpu_backend(fake: FakeCuPy, shape: tuple[int, ...]) -> None:
    """The same voxels, at any spacing, and of this backend's own transform the distances, bit for bit."""
    per_sample = torch.tensor([[1.0, 2.0, 0.3], [0.7, 0.7, 0.7]], dtype=torch.float64)[:, : len(shape)]
    for density in (0.05, 0.7, 0.99, 1.0):
        mask = mask_of((2, 2, *shape), density)
        for spacing in (None, (2.5,) * len(shape), (1.0, 0.7, 3.3)[: len(shape)], per_sample):
            distance, index = dtk.nearest(mask, spacing, spatial_dims=len(shape), backend="cupy")
            expected = dtk.nearest(mask, spacing, spatial_dims=len(shape), backend="cpu")
            assert torch.equal(index, expected[1]), (density, spacing)
            own = dtk.edt(mask, spacing, spatial_dims=len(shape), backend="cupy")
            assert torch.equal(distance, own), (density, spacing)
    assert fake.launches


@emulated
@pytest.mark.parametrize("spacing", [(0.7, 1.3, 0.9), (0.3, 0.7, 0.7), (1e-3, 1.0, 1e3), (5.0, 0.1, 0.1)], ids=str)
def test_nearest_at_rounded_spacing(use: Use, library: Library, spacing: tuple[float, ...]) -> None:
    """Ties among rounded squares, on every kind of tile: those of a search over all candidates."""
    for properties in (H200, TINY):
        use(library, properties)
        for shape in ((130,), (60, 44), (11, 26, 18), (64, 3, 17), (2, 700)):
            lattice = torch.ones(shape, dtype=torch.bool)
            lattice[tuple(slice(1 % n, None, 4) for n in shape)] = False
            for mask in (lattice, mask_of(shape, 0.9), mask_of(shape, 0.995)):
                index = dtk.nearest(mask, spacing[-len(shape) :], backend="cupy")[1]
                assert torch.equal(index, dtk.nearest(mask, spacing[-len(shape) :], backend="reference")[1])


@emulated
@compiled
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_label_as_on_the_cpu_backend(fake: FakeCuPy, shape: tuple[int, ...]) -> None:
    for density in (0.0, 0.3, 0.6, 0.95):
        mask = mask_of((2, 2, *shape), density).transpose(0, 1)
        for connectivity in range(1, len(shape) + 1):
            options: Any = {"connectivity": connectivity, "spatial_dims": len(shape)}
            for actual, expected in zip(
                dtk.label(mask, backend="cupy", **options), dtk.label(mask, backend="cpu", **options), strict=True
            ):
                assert torch.equal(actual, expected)
    assert {launch.kernel.partition("<")[0] for launch, _, _ in fake.launches} >= {"dtk::label_rows"}


@emulated
@compiled
@pytest.mark.parametrize(
    ("names", "only", "least"),
    [
        (("label", "nearest"), "", 200),
        (("distance_sums",), " and (vmap or many-contiguous)", 9),
        (("maps",), " and cupy and not operator and not vmap", 90),
    ],
    ids=["label, nearest", "distance_sums", "maps"],
)
def test_suites_of_other_operators(tmp_path: Path, names: tuple[str, ...], only: str, least: int) -> None:
    """The suites that other backends pass, through this front end and the emulated kernels."""
    # Without the ladder of backends, in which this one serves CPUs now.
    selection = ["-m", "not large", "-k", f"not ladder and not compile_with{only}", "-p", "no:cacheprovider"]
    suites = [str(ROOT / "tests" / f"test_{name}.py") for name in names]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "emulated_cupy",
            "--dtk-backend",
            "cupy",
            *selection,
            *suites,
        ],
        env={**os.environ, "CUPY_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT / "tests")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= least


@emulated
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_against_the_oracle(fake: FakeCuPy, shape: tuple[int, ...]) -> None:
    mask = mask_of(shape, 0.9)
    for op in ("edt", "sdf"):
        actual = getattr(dtk, op)(mask, backend="cupy").numpy()
        np.testing.assert_array_equal(actual, oracle.exact(oracle.squared(op, mask.numpy()), is_squared=False))


@emulated
@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_are_read_where_they_lie(fake: FakeCuPy, dtype: torch.dtype) -> None:
    """Any dtype and strides, an offset, a threshold, a given result: pointers go through, nothing is copied."""
    whole = (mask_of((3, 14, 9, 22)).float() * 3).to(dtype)
    view = whole[1:, 2:, :, ::2].transpose(1, 3)
    out = torch.full(view.shape, -7.0)
    result = dtk.sdf(view, threshold=0.5, spatial_dims=3, out=out, backend="cupy")
    assert result.data_ptr() == out.data_ptr()
    assert torch.equal(out, dtk.sdf(view, threshold=0.5, spatial_dims=3, backend="cpu"))
    scan, last = fake.launches[0][0], fake.launches[-1][0]
    pointers = np.frombuffer(scan.params, np.uint64, 6), np.frombuffer(last.params, np.uint64, 6)
    assert pointers[0][5] == pointers[1][5] == view.data_ptr()
    assert pointers[1][2] == out.data_ptr()


# Their formulas need no more than a voxel's own distance; those of the second row only at equal spacing.
OWN_DISTANCE = {
    "edt_sdf", "ma_dtm", "kervadec", "ac", "hd_two", "li_odm", "li_sd", "unet_w", "truncated",
    "diagonal", *("half", "ma_sdf"),
}  # fmt: skip


@emulated
@compiled
@pytest.mark.parametrize("name", list(CONVENTIONS))
def test_maps_end_with_the_transform(fake: FakeCuPy, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where they can: the same bits as by a pass over distances, in the launches of the distances."""
    masks = torch.stack([mask_of((2, 9, 10, 12), density) for density in (0.0, 0.3, 0.95, 1.0)])
    labels = torch.randint(0, 3, (2, 1, 9, 10, 12), generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([[1.0], [0.7], [2.0], [3.0]]).expand(4, 3)
    for x, spacing, options in (
        (masks, None, {}),
        (masks, (3.0, 0.8, 1.5), {}),
        (masks, (0.7,) * 3, {"border": "closed"}),
        (masks, rows, {"spatial_dims": 3}),
        (masks, (1.0, 2.0), {"spatial_dims": 2, "out": torch.empty(masks.shape)}),
        (labels, None, {"num_classes": 3, "spatial_dims": 3}),
        (labels == 1, None, {"num_classes": 2, "spatial_dims": 3}),
    ):
        results, passes = [], []
        for fused in (True, False):
            monkeypatch.setattr(backend, "MAPS", fused)
            fake.launches.clear()
            results.append(dtk.distance_map(x, name, spacing, backend="cupy", **options).clone())
            passes.append([launch.kernel.partition("<")[0] for launch, _, _ in fake.launches])
        assert torch.equal(results[0].view(torch.int32), results[1].view(torch.int32)), (spacing, options)
        unequal = isinstance(spacing, tuple) and len(set(spacing)) > 1
        own = name in OWN_DISTANCE and not (unequal and name in ("half", "ma_sdf"))
        assert passes[1] == passes[0] + ["dtk::remap"] if own else passes[1] == passes[0]


@emulated
@compiled
def test_labels(fake: FakeCuPy) -> None:
    labels = torch.randint(0, 4, (2, 1, 11, 13, 6), generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        dtk.labels_sdf(labels, 5, backend="cupy", spatial_dims=3),
        dtk.labels_sdf(labels, 5, backend="cpu", spatial_dims=3),
    )


@emulated
@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_envelopes(fake: FakeCuPy, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Values and minimisers bit for bit, gradients but for the order of their sums."""
    generator = torch.Generator().manual_seed(2)
    per_sample = torch.tensor([[1.0, 2.0, 0.3], [0.7, 0.9, 0.7]], dtype=torch.float64)[:, : len(shape)]
    for spacing in (None, (1.0, 0.7, 3.0)[: len(shape)], per_sample):
        f = (20 * torch.randn((2, 2, *shape), generator=generator)).to(dtype).requires_grad_()
        results = []
        for name in ("cupy", "cpu"):
            values, index = dtk.envelope(f, spacing, spatial_dims=len(shape), return_index=True, backend=name)
            results.append((values, index, *torch.autograd.grad(values.square().sum(), f)))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
        torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-5, atol=1e-3)
        assert torch.equal(dtk.envelope(f.detach(), spacing, spatial_dims=len(shape), backend="cupy"), values)


@emulated
def test_subnormal_values_are_foreground(fake: FakeCuPy) -> None:
    """What CuPy's own options would lose; see test_no_flush_to_zero_and_no_contraction for the compiler's part."""
    for dtype, smallest in ((torch.float16, 2.0**-24), (torch.float32, 2.0**-149)):
        mask = torch.tensor([[0.0, smallest, smallest, 0.0]], dtype=dtype)
        assert dtk.edt(mask, backend="cupy").tolist() == [[0.0, 1.0, 1.0, 0.0]]


@emulated
def test_without_the_compiled_module(tmp_path: Path) -> None:
    """A pure-Python install with CuPy: no _C at all."""
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(ROOT)]!r}
sys.modules["dtkernels._C"] = None
import test_cupy as t, torch, dtkernels as dtk
assert not dtk.backends.available()["cpu"].available
library = t.Library()
sys.modules["cupy"] = t.FakeCuPy(library)
t.forget()
t.backend.DEVICES = ("cpu",)
torch._C._cuda_getCurrentRawStream = lambda index: 0
torch.cuda.is_current_stream_capturing = lambda: False
assert dtk.backends.available()["cupy"].available
x = t.mask_of((9, 8, 7))
assert torch.equal(dtk.sdf(x), dtk.sdf(x, backend="reference")) and dtk.backends.choose(x.device).NAME == "cupy"
print("right")
"""
    env = {**os.environ, "CUPY_CACHE_DIR": str(tmp_path)}
    env.pop("DTK_BACKEND", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "right", done.stderr


# ---- Launches


@emulated
def test_parameters_arrive_intact(fake: FakeCuPy) -> None:
    """Byte for byte what the plan binds, and as many as the kernel takes."""
    expected: list[plans.Launch] = []
    original = plans.Plan.bind

    def bind(self: plans.Plan, *pointers: int) -> list[plans.Launch]:
        expected.extend(original(self, *pointers))
        return expected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans.Plan, "bind", bind)
        dtk.sdf(mask_of((12, 9, 40)), (1.0, 2.0, 3.0), backend="cupy")
    assert [launch for launch, _, _ in fake.launches] == expected
    assert len(expected) > 1
    for launch in expected:
        assert len(launch.params) == fake.kernels[launch.kernel]


@emulated
def test_shared_memory_is_asked_for_exactly_when_needed(use: Use, library: Library) -> None:
    fake = use(library)
    limit = H200.shared_per_block_optin - plans.STATIC_SHARED
    dtk.sdf(mask_of((20, 20)), backend="cupy")
    assert max(launch.shared for launch, _, _ in fake.launches) <= 48 * 1024
    assert fake.opt_ins == []
    for _ in range(3):  # once is enough
        dtk.sdf(mask_of(LONG), backend="cupy")
    greedy = {launch.kernel for launch, _, _ in fake.launches if launch.shared > 48 * 1024}
    assert greedy
    assert sorted(fake.opt_ins) == sorted((kernel, limit) for kernel in greedy)
    assert all(launch.shared <= limit for launch, _, _ in fake.launches)


@emulated
def test_tiles_in_scratch_memory(use: Use, library: Library) -> None:
    """Lines too long for this device's shared memory: scratch from torch, no opt-in."""
    fake = use(library, TINY)
    mask = mask_of((3, 700), 0.95)
    actual = dtk.sdf(mask, backend="cupy").numpy()
    np.testing.assert_array_equal(actual, oracle.exact(oracle.squared("sdf", mask.numpy()), is_squared=False))
    assert any(launch.kernel.endswith("true>") for launch, _, _ in fake.launches)
    assert fake.opt_ins == []


def launch_of(kernel: str = SCAN, shared: int = 0, size: int = 152) -> plans.Launch:
    return plans.Launch(kernel, (1, 1, 1), 32, shared, bytes(size))


def test_stream_and_device(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches go to the tensor's device and torch's stream; afterwards the device is what it was."""
    fake = use()
    fake.kernels[SCAN] = 152
    asked = []
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: asked.append(index) or 0xBEEF)
    steps = [launch_of(), launch_of()]
    monkeypatch.setattr(transform, "plan", lambda problem, device: plans.Plan(4096, False, ()))
    monkeypatch.setattr(plans.Plan, "bind", lambda self, *pointers: steps)
    place = torch.device("cuda", 1)
    monkeypatch.setattr(torch, "empty", lambda *size, **how: torch.zeros(4096) if how["device"] == place else None)
    source: Any = types.SimpleNamespace(device=place)
    problem: Any = types.SimpleNamespace(
        image=types.SimpleNamespace(data=1), spacing=types.SimpleNamespace(data=2), out=3, extrema=0
    )
    fake.device = 0
    backend.run(problem, source, None, torch.zeros(1))
    assert fake.launches == [(step, 0xBEEF, 1) for step in steps]
    assert asked == [1]
    assert fake.device == 0
    assert fake.loads == {(SCAN, 1): 1}


@emulated
def test_failed_launch_says_which(fake: FakeCuPy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_allow_shared", lambda *_: None)
    message = r"dtk::scan<uint8_t>, grid \(1, 1, 1\), block 32, .*CUDA_ERROR"
    with pytest.raises(RuntimeError, match=message) as caught:
        backend._launch(launch_of(shared=100_000), 0, 0)
    assert "100000 bytes, device 0" in str(caught.value)


# ---- Compiling once


@emulated
def test_compiled_once_and_loaded_once_per_device(fake: FakeCuPy) -> None:
    mask = mask_of((12, 9, 40))
    for _ in range(3):
        dtk.sdf(mask, backend="cupy")
    used = {launch.kernel for launch, _, _ in fake.launches}
    assert fake.compilations == {(kernel, "-arch=sm_90"): 1 for kernel in used}
    assert fake.options == {("--std=c++17", "--fmad=false", "-lineinfo")}
    assert fake.loads == {(kernel, None): 1 for kernel in used}
    one = max(used)
    for device in (0, 1, 0, 1):
        with fake.cuda.Device(device):
            backend._load(one, fake.kernels[one], device)
    assert sum(fake.compilations.values()) == len(used)
    assert fake.loads == {(kernel, None): 1 for kernel in used} | {(one, 0): 1, (one, 1): 1}
    assert not any(program for program in fake.cuda.nvrtc.programs.values()), "a program was not destroyed"


@emulated
def test_threads(use: Use, library: Library) -> None:
    """Many threads whose first calls coincide: one compilation and load each, one opt-in, right results."""
    fake = use(library)
    masks = [mask_of(LONG, 0.9, seed) for seed in range(4)]
    barrier = threading.Barrier(8)

    def work(i: int) -> torch.Tensor:
        barrier.wait()
        return dtk.sdf(masks[i % 4], backend="cupy")

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    for i, result in enumerate(results):
        assert torch.equal(result, dtk.sdf(masks[i % 4], backend="reference"))
    assert set(fake.compilations.values()) == set(fake.loads.values()) == {1}
    assert len(fake.opt_ins) == len(set(fake.opt_ins)) > 0


@emulated
def test_later_processes_take_it_from_disk(use: Use, library: Library, tmp_path: Path) -> None:
    mask = mask_of((12, 9, 40))
    first = use(library)
    expected = dtk.sdf(mask, backend="cupy")
    kept = sorted((tmp_path / "cache").glob("*"))
    assert len(kept) == sum(first.compilations.values()) > 0
    assert all(re.fullmatch(r"dtkernels-[0-9a-f]{40}\.bin", file.name) for file in kept)

    again = use(library)
    assert torch.equal(dtk.sdf(mask, backend="cupy"), expected)
    assert not again.compilations
    assert again.loads

    for damage in (lambda data: data[:-3], lambda data: b"", lambda data: data[:40] + b"?" + data[41:]):
        for file in kept:
            file.write_bytes(damage(file.read_bytes()))
        damaged = use(library)
        assert torch.equal(dtk.sdf(mask, backend="cupy"), expected)
        assert sum(damaged.compilations.values()) == len(kept)


@emulated
@pytest.mark.parametrize("what", ["compiler", "source", "architecture", "size"])
def test_cache_is_keyed_by(what: str, use: Use, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(library)
    backend._binary(SCAN, fake.kernels[SCAN], "sm_90")
    fake = use(library)
    size, target = fake.kernels[SCAN], "sm_90"
    if what == "compiler":
        fake.nvrtc_version = (12, 9)
    elif what == "source":
        source = backend._source()
        monkeypatch.setattr(backend, "_source", lambda: source + "// an edit\n")
    elif what == "architecture":
        target = "sm_120"
    else:
        size = fake.kernels[SCAN] = size + 8
    backend._binary(SCAN, size, target)
    assert fake.compilations == {(SCAN, f"-arch={target}"): 1}
    if what == "source":
        monkeypatch.undo()  # before forget() asks for the cache of the original


@emulated
@pytest.mark.parametrize("how", ["in memory", "not writable"])
def test_without_a_cache(
    how: str, use: Use, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "in memory":
        monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        fake = use(library)
        dtk.edt(mask_of((5, 6)), backend="cupy")
        assert set(fake.compilations.values()) == {1}
    assert not (tmp_path / "cache").exists()


@emulated
def test_refused_in_the_capture_of_a_graph(fake: FakeCuPy, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = mask_of((12, 9, 40))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"dtk::.* is not compiled yet.*before the capture"):
        dtk.sdf(mask, backend="cupy")
    assert not fake.compilations
    assert not fake.launches
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    dtk.sdf(mask, backend="cupy")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    dtk.sdf(mask, backend="cupy")  # everything is loaded: a capture meets launches alone


def test_target_of_devices_old_and_new(use: Use) -> None:
    fake = use()
    assert backend._target(9, 0) == "sm_90"
    assert backend._target(12, 0) == "sm_120"
    assert backend._target(13, 0) == "compute_120"  # PTX: the driver knows the device, this NVRTC does not
    assert backend._target(8, 9) == "compute_80"
    fake.architectures = (80, 90)
    with pytest.raises(RuntimeError, match=r"compute capability 8\.0 or newer, the device has 7\.5"):
        backend._target(7, 5)


@emulated
def test_failed_compilation_shows_the_log(fake: FakeCuPy) -> None:
    message = r"(?s)NVRTC 12\.8 does not compile dtk::nonsense.*sm_90.*scan\.cuh\(7\)"
    with pytest.raises(RuntimeError, match=message):
        backend._load("dtk::nonsense", 8, 0)
    assert not any(program for program in fake.cuda.nvrtc.programs.values())
    assert not backend._kernels


@emulated
def test_image_that_the_driver_refuses(fake: FakeCuPy) -> None:
    fake.refused_image = True
    message = r"scan<uint8_t>: the driver \(CUDA 12\.8\) .*NVRTC 12\.8 .*sm_90.*PTX_VERSION"
    with pytest.raises(RuntimeError, match=message):
        backend._load(SCAN, fake.kernels[SCAN], 0)


# ---- Reasons


def reason() -> str:
    backend._cupy.cache_clear()
    backend._obstacle.cache_clear()
    status = dtk.backends.available()["cupy"]
    assert not status.available
    return status.reason


def test_available_with_cupy_and_a_gpu(use: Use) -> None:
    use()
    assert dtk.backends.available()["cupy"].available


def test_cupy_not_installed(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "CuPy is not installed" in reason()
    assert "dtkernels[cuda12]" in reason()
    assert "dtkernels[cuda13]" in reason()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert reason() == "CuPy is not installed; pip install 'dtkernels[cuda13]'"
    with pytest.raises(RuntimeError, match="'cupy' cannot run here: CuPy is not installed"):
        dtk.edt(torch.ones(3, 3), backend="cupy")


def test_cupy_that_cannot_be_imported(use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libcudart is missing\\nand more lines')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert reason().startswith("CuPy cannot be imported (libcudart is missing); pip install")


def test_machine_without_driver_or_gpu(use: Use) -> None:
    fake = use()

    def no_driver() -> int:
        raise CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    fake.cuda.runtime.getDeviceCount = no_driver
    assert reason() == "no usable GPU (cudaErrorInsufficientDriver: CUDA driver version is insufficient)"
    fake.cuda.runtime.getDeviceCount = lambda: 0
    assert "no usable GPU" in reason()


def test_nvrtc_missing_or_too_new(use: Use) -> None:
    fake = use()
    fake.nvrtc_version = (13, 0)
    fake.driver_version = 12090
    assert "driver is of CUDA 12.9 and cannot load what NVRTC 13.0 compiles" in reason()

    def missing() -> tuple[int, int]:
        raise RuntimeError("CuPy failed to load libnvrtc.so.12: no such file")

    fake.cuda.nvrtc.getVersion = missing  # type: ignore[method-assign]
    assert re.search(r"does not find NVRTC.*libnvrtc\.so\.12.*pip install", reason())


def test_cupy_for_rocm(use: Use) -> None:
    use().cuda.runtime.is_hip = True
    assert "ROCm" in reason()


def test_import_of_the_package_leaves_cupy_alone(tmp_path: Path) -> None:
    """Installed or not: CuPy is imported when its backend is asked for, not before."""
    (tmp_path / "cupy.py").write_text("")
    code = "import sys, dtkernels, torch; dtkernels.edt(torch.ones(3, 3)); print('cupy' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- The source


def test_one_string_has_every_header_once() -> None:
    backend._source.cache_clear()
    source = backend._source()
    headers = {path.name: path.read_text() for path in (ROOT / "csrc/dtk").iterdir()}
    for name, text in headers.items():
        assert source.count(f'#line 1 "dtk/{name}"\n') == 1, name
        for line in text.splitlines():
            if len(line) > 60 and "#" not in line:
                assert line in source, name
    assert "#pragma once" not in source
    assert set(re.findall(r"#include (.*?)\s*(?://.*)?\n", source)) == {
        '"emulator.h"', "<cuda_runtime.h>", "<cstdint>",  # of the other compilers of config.h
    }  # fmt: skip
    assert source.isascii()


def test_source_of_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    assert backend._headers() == ROOT / "csrc/dtk"
    monkeypatch.setattr(backend, "__file__", str(tmp_path / "dtkernels/backends/cupy.py"))
    with pytest.raises(RuntimeError, match="no kernel sources"):
        backend._headers()


# ---- The real NVRTC


class NVRTC:
    """NVRTC by ctypes, with the functions that CuPy's binding of it has."""

    NVRTCError = NVRTCError

    def __init__(self, path: str) -> None:
        self._c = ctypes.CDLL(path)
        self._c.nvrtcGetErrorString.restype = ctypes.c_char_p

    def _call(self, name: str, *args: Any) -> None:
        status = self._c[name](*args)
        if status:
            raise NVRTCError(f"{self._c.nvrtcGetErrorString(status).decode()} ({status})")

    def getVersion(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def getSupportedArchs(self) -> tuple[int, ...]:
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        architectures = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", architectures)
        return tuple(architectures)

    def createProgram(self, source: str, name: str, headers: tuple[()], include_names: tuple[()]) -> int:
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        return program.value or 0

    def addNameExpression(self, program: int, expression: str) -> None:
        self._call("nvrtcAddNameExpression", ctypes.c_void_p(program), expression.encode())

    def compileProgram(self, program: int, options: tuple[str, ...]) -> None:
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        self._call("nvrtcCompileProgram", ctypes.c_void_p(program), len(options), words)

    def getLoweredName(self, program: int, expression: str) -> str:
        name = ctypes.c_char_p()
        self._call("nvrtcGetLoweredName", ctypes.c_void_p(program), expression.encode(), ctypes.byref(name))
        return (name.value or b"").decode()

    def _get(self, what: str, program: int) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", ctypes.c_void_p(program), ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", ctypes.c_void_p(program), buffer)
        return buffer.raw[:-1]

    def getCUBIN(self, program: int) -> bytes:
        return self._get("CUBIN", program)

    def getPTX(self, program: int) -> bytes:
        return self._get("PTX", program)

    def getProgramLog(self, program: int) -> str:
        return self._get("ProgramLog", program).decode()

    def destroyProgram(self, program: int) -> None:
        self._call("nvrtcDestroyProgram", ctypes.byref(ctypes.c_void_p(program)))


def find_nvrtc() -> Any:
    """CuPy's binding, or that of the wheel, or None."""
    try:
        binding = importlib.import_module("cupy").cuda.nvrtc
        binding.getVersion()
        return binding
    except Exception:  # whichever way CuPy fails, the wheel alone will do
        pass
    try:
        packages = [Path(p) for p in importlib.import_module("nvidia").__path__]
    except ImportError:
        return None
    found = {int(path.suffix[1:]): path for p in packages for path in p.glob("*/lib/libnvrtc.so.[0-9]*")}
    return NVRTC(str(found[max(found)])) if found else None


REGISTERED = re.findall(r"DTK_KERNEL\([\w<>]+,\s+(dtk::.*>)\),", (ROOT / "csrc/cuda/launch.cu").read_text())


@pytest.fixture
def nvrtc(use: Use, library: Library) -> Any:
    """The real compiler behind the backend's own code, with an empty cache."""
    binding = find_nvrtc()
    if binding is None:
        pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc")
    use(library).cuda.nvrtc = binding
    return binding


@emulated
def test_registered_kernels_are_the_emulated_ones(library: Library) -> None:
    assert set(library.kernels()) == set(REGISTERED)


@emulated
@pytest.mark.parametrize("expression", REGISTERED)
def test_nvrtc_compiles_every_kernel(nvrtc: Any, library: Library, expression: str) -> None:
    """For sm_90, from the source and with the size of parameters that a user's machine gets."""
    binary = backend._binary(expression, library.kernels()[expression], "sm_90")
    assert binary.image.startswith(b"\x7fELF")
    assert binary.symbol.encode() in binary.image


@emulated
@pytest.mark.parametrize("architecture", [75, 100, 120])
@pytest.mark.parametrize("expression", [SCAN, LINES, FLOAT_LINES, NEAREST, *LABEL])
def test_nvrtc_compiles_for(nvrtc: Any, library: Library, expression: str, architecture: int) -> None:
    if architecture not in nvrtc.getSupportedArchs():
        pytest.skip(f"NVRTC {nvrtc.getVersion()} does not know sm_{architecture}")
    binary = backend._binary(expression, library.kernels()[expression], f"sm_{architecture}")
    assert binary.image.startswith(b"\x7fELF")


@emulated
@pytest.mark.parametrize("expression", [SCAN, FLOAT_LINES, NEAREST])
def test_no_flush_to_zero_and_no_contraction(nvrtc: Any, library: Library, expression: str) -> None:
    """The code rounds as the other backends do: subnormal numbers count, and no product is fused with a sum."""
    ptx = backend._binary(expression, library.kernels()[expression], "compute_90").image.decode()
    assert ".entry " in ptx
    assert ".ftz" not in ptx
    assert "fma.rn" not in ptx


@emulated
def test_nvrtc_refuses_parameters_of_another_size(nvrtc: Any, library: Library) -> None:
    size = library.kernels()[SCAN]
    with pytest.raises(RuntimeError, match=f"(?s)does not compile dtk::scan<uint8_t>.*packs {size + 8} bytes"):
        backend._binary(SCAN, size + 8, "sm_90")


@emulated
def test_nvrtc_names_header_and_line(nvrtc: Any, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    source = backend._source()
    text = (ROOT / "csrc/dtk/scan.cuh").read_text()
    anchor = "const int length = int(image.shape[2]);"
    line = text[: text.index(anchor)].count("\n") + 1
    monkeypatch.setattr(backend, "_source", lambda: source.replace(anchor, "nonsense", 1))
    with pytest.raises(RuntimeError, match=rf"dtk/scan\.cuh\({line}\): error"):
        backend._binary(SCAN, library.kernels()[SCAN], "sm_90")
    monkeypatch.undo()


def test_installed_cupy_has_what_the_backend_uses() -> None:
    """The stand-in's attributes exist in the real module, with the parameters that are given by position."""
    cuda = pytest.importorskip("cupy").cuda
    stand_in = FakeCuPy(None).cuda
    for name, value in vars(stand_in).items():
        assert hasattr(cuda, name), name
        if isinstance(value, types.SimpleNamespace):
            for attribute in vars(value):
                assert hasattr(getattr(cuda, name), attribute), f"{name}.{attribute}"
    for name, function in inspect.getmembers(FakeNVRTC, inspect.isfunction):
        assert name.startswith("_") or callable(getattr(cuda.nvrtc, name)), function
    assert cuda.driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES == 8
    numbers = {
        "cudaDevAttrMultiProcessorCount": "multiprocessors",
        "cudaDevAttrMaxSharedMemoryPerBlockOptin": "shared_per_block_optin",
    }
    for name, field in numbers.items():
        assert getattr(cuda.runtime, name) == backend._ATTRIBUTES[field], name


# ---- With a GPU: what host memory cannot show

STATUS = dtk.backends.available()["cupy"]
gpu = pytest.mark.skipif(not STATUS.available, reason=f"cupy backend: {STATUS.reason}")


@gpu
def test_first_call_and_later_processes(tmp_path: Path) -> None:
    """Below 3 s from nothing, imports aside; a later process only loads."""
    code = """
import time, torch, dtkernels as dtk
x = torch.rand(1, 1, 64, 64, 64, device="cuda") > 0.5
assert dtk.backends.available()["cupy"].available
torch.cuda.synchronize()
start = time.perf_counter()
result = dtk.sdf(x, backend="cupy")
torch.cuda.synchronize()
print(time.perf_counter() - start)
assert torch.equal(result.cpu(), dtk.sdf(x.cpu()))
"""
    env = {**os.environ, "CUPY_CACHE_DIR": str(tmp_path)}
    env.pop("CUPY_CACHE_IN_MEMORY", None)
    seconds = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        seconds.append(float(done.stdout))
    assert seconds[0] < 3
    assert seconds[1] < 0.5


@gpu
def test_graph_after_the_first_call() -> None:
    mask = mask_of((2, 1, 40, 50, 60)).cuda()
    out = torch.empty(mask.shape, device="cuda")
    forget()
    with pytest.raises(RuntimeError, match="before the capture"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        dtk.sdf(mask, out=out, backend="cupy")
    dtk.sdf(mask, out=out, backend="cupy")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        dtk.sdf(mask, out=out, backend="cupy")
    new = mask.roll(3, -1)
    mask.copy_(new)
    graph.replay()
    assert torch.equal(out.cpu(), dtk.sdf(new.cpu()))


@gpu
def test_streams_of_torch_and_more_than_48_kb() -> None:
    """Waits for what its stream does before; on lines too long for shared memory as it comes, and for any."""
    for shape in ((40, 50, 60), (64, 9000), (3, 30000)):
        mask = mask_of(shape, 0.9)
        late = torch.zeros_like(mask, device="cuda")
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            late.copy_(mask)
            result = dtk.sdf(late, backend="cupy")
        stream.synchronize()
        assert torch.equal(result.cpu(), dtk.sdf(mask))
