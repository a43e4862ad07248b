"""The CUDA kernels on the emulator, driven by the real launch plan: what the tests of the kernels call.

Imports neither torch nor the package's ``__init__``, so that it also runs under a sanitizer.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from emulator import build
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
SOURCES = ("csrc/cuda/launch.cu", "tests/emulated_kernels.cpp")

if "dtkernels" not in sys.modules and os.environ.get("DTK_EMULATED_ALONE"):
    bare = types.ModuleType("dtkernels")  # the package without its __init__, which would import torch
    bare.__path__ = [str(ROOT / "dtkernels")]
    sys.modules["dtkernels"] = bare

plans: Any = importlib.import_module("dtkernels.plans.transform")
nearest_plans: Any = importlib.import_module("dtkernels.plans.nearest")
weigh_plans: Any = importlib.import_module("dtkernels.plans.weigh")
label_plans: Any = importlib.import_module("dtkernels.plans.label")
remap_plans: Any = importlib.import_module("dtkernels.plans.remap")
problems: Any = importlib.import_module("dtkernels.problem")
DType, Rule, Measure = problems.DType, problems.Rule, problems.Measure

Bytes = NDArray[np.uint8]
GARBAGE = 0xA5

H200 = plans.DeviceProperties(132, 232448, 9, 0)

DTYPES = {
    "bool": DType.UINT8,
    "uint8": DType.UINT8,
    "int8": DType.INT8,
    "int16": DType.INT16,
    "int32": DType.INT32,
    "int64": DType.INT64,
    "float16": DType.FLOAT16,
    "bfloat16": DType.BFLOAT16,  # held in uint16
    "float32": DType.FLOAT32,
    "float64": DType.FLOAT64,
}


def built(mode: str = "plain") -> build.Built:
    """The kernels, compiled for a mode of the emulator."""
    return build.library("kernels_emulated", SOURCES, mode)


class Library:
    """The kernels of one build of the emulator."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Load a shared library, the plain one by default."""
        self._c = ctypes.CDLL(str(path or built().path))
        self._c.kernel_name.restype = ctypes.c_char_p
        self._c.kernel_params_size.restype = ctypes.c_size_t
        self._c.dtk_emulator_statistics.restype = ctypes.c_size_t
        self._c.dtk_emulator_set.argtypes = [ctypes.c_char_p, ctypes.c_int64]

    def kernels(self) -> dict[str, int]:
        """Size of the parameters by name."""
        count = self._c.kernel_count()
        return {self._c.kernel_name(i).decode(): self._c.kernel_params_size(i) for i in range(count)}

    def set(self, **settings: int) -> None:
        """Settings of the emulator."""
        for name, value in settings.items():
            assert self._c.dtk_emulator_set(name.encode(), value) == 0, name

    def statistics(self) -> dict[str, Any]:
        """Statistics by kernel since the last reset."""
        text = ctypes.create_string_buffer(1 << 20)
        self._c.dtk_emulator_statistics(text, ctypes.c_size_t(len(text)))
        return dict(json.loads(text.value))

    def reset_statistics(self) -> None:
        """Start counting anew."""
        self._c.dtk_emulator_reset_statistics()

    def launch(self, launch: Any) -> None:
        """Run one launch of a plan to its end."""
        message = ctypes.create_string_buffer(4096)
        failed = self._c.kernel_launch(
            launch.kernel.encode(),
            (ctypes.c_uint * 3)(*launch.grid),
            ctypes.c_uint(launch.block),
            ctypes.c_size_t(launch.shared),
            launch.params,
            ctypes.c_size_t(len(launch.params)),
            message,
            ctypes.c_size_t(len(message)),
        )
        if failed:
            raise RuntimeError(message.value.decode())


class Options(NamedTuple):
    """How to transform, and how to run it."""

    signed: bool = True
    squared: bool = False
    closed: bool = False
    spacing: Any = (1.0, 1.0, 1.0)  # a (z, y, x) row, or an array of one row per sample
    rule: Any = Rule.NONZERO
    threshold: float = 0.0
    dtype: str | None = None  # where numpy has no name for it
    classes: int | None = None  # of a label map: image axis 1 has stride 0
    device: Any = H200
    max_blocks: int | None = None
    solver: str | None = None
    fused: bool | None = None
    out: str = "float32"  # dtype of the result; bfloat16 comes in uint16
    keyed: bool = True  # of the feature transform
    joint: bool | None = None  # of weighed sums
    mapping: Any = None  # the formula of a map


def transform(library: Library, image: NDArray[Any], dims: int, options: Options) -> NDArray[Any]:
    """The result alone."""
    return transform_with_extrema(library, image, dims, options, None)


def transform_with_extrema(
    library: Library, image: NDArray[Any], dims: int, options: Options, extrema: NDArray[np.float32] | None
) -> NDArray[Any]:
    """Transform of an image with axes (batch, class, z, y, x)."""
    described, spacing, largest = _image(image, options), _spacing(options), _address(extrema)
    problem = problems.Problem(
        described, dims, spacing, options.signed, options.squared, options.closed, 0, largest, DTYPES[options.out],
        options.mapping,
    )  # fmt: skip
    plan = plans.plan(problem, options.device, options.max_blocks, options.solver, options.fused)
    element = np.dtype("uint16" if options.out == "bfloat16" else options.out)
    out = execute(library, plan, described, spacing.data, element.itemsize, extrema=largest)[0]
    return out.view(element).reshape(described.shape)


def remap(
    library: Library, distances: NDArray[np.float32], image: NDArray[Any], dims: int, options: Options
) -> NDArray[np.float32]:
    """What the pass over maps makes of distances, by ``options.mapping``."""
    described, spacing, mapping = _image(image, options), _spacing(options), options.mapping
    maps, *guards = guarded(distances.nbytes)
    maps.view(np.float32)[:] = distances.ravel()
    inside = problems.Inside.NEGATIVE if options.signed else problems.Inside.POSITIVE
    problem = problems.RemapProblem(
        0, described, dims, spacing, inside, mapping.inner_zero, options.closed, mapping.formula, 0, 0, 0
    )
    plan = remap_plans.plan(problem, options.device, options.max_blocks)
    for launch in plan.bind(described.data, spacing.data, maps.ctypes.data, 0):
        library.launch(launch)
    assert all((guard == GARBAGE).all() for guard in guards), "written beside the maps"
    return maps.view(np.float32).reshape(distances.shape)


def nearest(
    library: Library, image: NDArray[Any], dims: int, options: Options
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distances and positions of an image with axes (batch, class, z, y, x)."""
    described, spacing = _image(image, options), _spacing(options)
    problem = problems.NearestProblem(described, dims, spacing, 0, 0)
    plan = nearest_plans.plan(problem, options.device, options.max_blocks, options.keyed)
    size = 8 * int(np.prod(described.shape))
    distances, positions = execute(library, plan, described, spacing.data, 4, second=size)
    return distances.view(np.float32).reshape(described.shape), positions.view(np.int64).reshape(described.shape)


def label(
    library: Library, image: NDArray[Any], connectivity: int, options: Options
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Components of an image with axes (batch, class, z, y, x), and how many there are in each of its images."""
    described = _image(image, options)
    problem = problems.LabelProblem(described, connectivity, 0, 0)
    plan = label_plans.plan(problem, options.device, options.max_blocks)
    images = described.shape[0] * described.shape[1]
    labels, counts = execute(library, plan, described, 0, 4, second=4 * images)
    return labels.view(np.int32).reshape(described.shape), counts.view(np.int32).reshape(described.shape[:2])


def weigh(
    library: Library,
    prediction: NDArray[np.float32],
    target: NDArray[Any],
    dims: int,
    options: Options,
    measure: Any,
    alpha: int = 2,
    shift: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sums of pieces (batch, class, pieces) and gradient.

    The target is a label map where ``options`` have classes, otherwise one of numbers, unless it is bool.
    """
    of_prediction = _image(prediction, options._replace(rule=Rule.ABOVE, threshold=0.5, classes=None))
    of_target, rows = _image(target, options), _spacing(options)
    soft = options.classes is None and target.dtype != np.bool_
    problem = problems.SumsProblem(
        of_prediction, of_target, dims, rows, measure, alpha, shift, soft and measure != Measure.BOUNDARY, 0, 0
    )
    only = {
        "max_blocks": options.max_blocks,
        "solver": options.solver,
        "fused": options.fused,
        "joint": options.joint,
    }
    images = prediction.shape[0] * prediction.shape[1]
    each = None if isinstance(options.spacing, tuple) else np.repeat(options.spacing, prediction.shape[1], 0)
    gradient, *guards = guarded(4 * prediction.size)
    plan = weigh_plans.plan(problem._replace(gradient=gradient.ctypes.data), options.device, **only)
    scratch, *scratch_guards = guarded(plan.scratch_bytes)
    for launch in plan.bind(rows.data, _address(each), scratch.ctypes.data):
        library.launch(launch)
    for guard in (*guards, *scratch_guards):
        assert (guard == GARBAGE).all(), "written beside the gradient or the scratch"
    partials = scratch[plan.partials :][: 4 * images * plan.pieces].view(np.float32)
    return partials.reshape(*prediction.shape[:2], plan.pieces), gradient.view(np.float32).reshape(
        prediction.shape
    )


def _image(image: NDArray[Any], options: Options) -> Any:
    shape = image.shape if options.classes is None else (image.shape[0], options.classes, *image.shape[2:])
    stride = [s // image.itemsize for s in image.strides]
    if options.classes is not None:
        stride[1] = 0
    dtype = DTYPES[options.dtype or image.dtype.name]
    return problems.Image(image.ctypes.data, dtype, shape, tuple(stride), options.rule, options.threshold)


def _spacing(options: Options) -> Any:
    """On the host, or rows in memory, which must be float64 already."""
    if isinstance(options.spacing, tuple):
        return problems.Spacing(options.spacing)
    assert options.spacing.dtype == np.float64
    assert options.spacing.flags.c_contiguous
    return problems.Spacing(None, options.spacing.ctypes.data, len(options.spacing))


def _address(array: NDArray[Any] | None) -> int:
    return 0 if array is None else array.ctypes.data


def execute(
    library: Library, plan: Any, image: Any, spacing: int, element: int, second: int = 0, extrema: int = 0
) -> tuple[Bytes, Bytes]:
    """Run a plan; memory around its results and its scratch is checked.

    The first result has ``element`` bytes for each voxel; the second one has ``second`` bytes in all, or lies at
    the address ``extrema``.
    """
    sizes = (element * int(np.prod(image.shape)), second, plan.scratch_bytes)
    (out, *guards), (also, *also_guards), (scratch, *scratch_guards) = (guarded(size) for size in sizes)
    for launch in plan.bind(
        image.data, spacing, out.ctypes.data, scratch.ctypes.data, also.ctypes.data if second else extrema
    ):
        library.launch(launch)
    for name, sides in (("result", guards), ("second result", also_guards), ("scratch", scratch_guards)):
        for where, guard in zip(("before", "past"), sides, strict=True):
            assert (guard == GARBAGE).all(), f"written {where} the {name}"
    return out, also


def guarded(size: int, to: int = 256) -> tuple[Bytes, Bytes, Bytes]:
    """Memory full of garbage, aligned as an allocator on a device does, and what lies on both sides of it."""
    memory = np.full(size + 3 * to, GARBAGE, np.uint8)
    start = to + -memory.ctypes.data % to
    return memory[start : start + size], memory[:start], memory[start + size :]


def under_a_sanitizer(program: str, mode: str) -> None:
    """Run a file of tests as a program, which is given the kernels' path, without torch; it must end with "done".

    Address: overruns and undefined behaviour. Thread: races between the threads of a block and between blocks.
    """
    kernels = built(mode)
    done = subprocess.run(
        [sys.executable, program, str(kernels.path)],
        env={**os.environ, **kernels.environment, "DTK_EMULATED_ALONE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert done.stdout.endswith("done\n")


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins where an allocation on a device would, at a multiple of 256 bytes."""
    memory, *_ = guarded(array.nbytes)
    copy = memory.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def as_image(mask: NDArray[Any]) -> NDArray[Any]:
    """(z, y, x), (y, x) or (x,) as (batch, class, z, y, x) of one image."""
    return mask.reshape((1,) * (5 - mask.ndim) + mask.shape)


def masks(shape: Sequence[int], seed: int) -> dict[str, NDArray[np.uint8]]:
    """Kinds of masks that take the kernels down different paths."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    noise = rng.random(shape)
    single = np.zeros(size, np.uint8)
    single[rng.integers(size)] = 1
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    centre = rng.uniform(-0.4, 0.4, (len(shape),) + (1,) * len(shape))
    organ = ((grid - centre) ** 2).sum(0) < 0.3
    return {
        "half": (noise < 0.5).astype(np.uint8),
        "sparse": (noise < 0.02).astype(np.uint8),
        "dense": (noise < 0.98).astype(np.uint8),
        "organ": organ.astype(np.uint8),
        "single": single.reshape(shape),
        "hole": 1 - single.reshape(shape),
        "empty": np.zeros(shape, np.uint8),
        "full": np.ones(shape, np.uint8),
    }
