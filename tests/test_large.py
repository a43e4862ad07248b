"""Offsets past 2^31 elements on a CPU: inputs with huge strides over memory that is never touched, and results
larger than 2^31 elements where the machine has the memory. (For a GPU: ``test_cuda.py``.)"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Backend

import dtkernels as dtk

SHAPE = (2, 2, 3, 20, 24)
# Sample, class, slice and row lie further apart than an int, or an unsigned one, counts; their sum further still.
STRIDES = (2**33 + 4096, 2**32 + 8192, 2**31 + 96, 2**29 + 32, 1)


def spread(values: torch.Tensor) -> torch.Tensor:
    """The same values at ``STRIDES``, in a mapping of which only the pages that hold them take memory."""
    reach = sum((n - 1) * s for n, s in zip(SHAPE, STRIDES, strict=True)) + 1
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        memory = mmap.mmap(-1, reach * values.element_size(), flags=flags)
    except OSError as error:
        pytest.skip(
            f"needs {reach * values.element_size() >> 30} GiB of address space that is not reserved: {error}"
        )
    flat = torch.frombuffer(memory, dtype=torch.uint8).view(values.dtype)  # keeps the mapping
    view = flat.as_strided(SHAPE, STRIDES)
    view.copy_(values)
    return view


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random(SHAPE) < 0.6)


def on_cpu(backend: Backend) -> None:
    if backend.device != "cpu":
        pytest.skip("maps host memory; offsets on a GPU are tested in test_cuda.py")


def same(result: Any, expected: Any) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


CALLS: dict[str, Callable[..., Any]] = {
    "edt": dtk.edt,
    "sdf, unequal spacing": lambda m, **kw: dtk.sdf(m, (1.0, 2.0, 0.5), **kw),
    "nearest": dtk.nearest,
    "label": lambda m, **kw: dtk.label(m, connectivity=2, **kw),
    "map": lambda m, **kw: dtk.distance_map(m, "kervadec", **kw),
    "map from the contour": lambda m, **kw: dtk.distance_map(m, "kervadec", boundary="inner_contour", **kw),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_masks_with_huge_strides(backend: Backend, mask: torch.Tensor, name: str, dtype: torch.dtype) -> None:
    on_cpu(backend)
    values = mask.to(dtype)
    same(CALLS[name](spread(values), backend=backend.name), CALLS[name](values, backend=backend.name))


def test_labels_with_huge_strides(backend: Backend) -> None:
    on_cpu(backend)
    values = torch.from_numpy(np.random.default_rng(1).integers(0, 4, SHAPE)).to(torch.int64)
    wide = spread(values)
    same(backend.labels_sdf(wide[:, :1], 4), backend.labels_sdf(values[:, :1], 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_functions_with_huge_strides(dtype: torch.dtype) -> None:
    values = torch.from_numpy(np.random.default_rng(2).normal(size=SHAPE)).to(dtype)
    same(dtk.envelope(spread(values), return_index=True), dtk.envelope(values, return_index=True))


def available() -> int:
    """Bytes that a process may take without others losing theirs."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0


def needs(gibibytes: int) -> None:
    if available() < gibibytes << 30:
        pytest.skip(f"needs {gibibytes} GiB of free memory, {available() >> 30} are free")


def test_result_of_more_than_2_to_the_31_voxels() -> None:
    """One image over and over, at stride 0: maps all along the batch must be that of the image."""
    needs(13)
    side = 1024
    one = torch.zeros(side, side, dtype=torch.bool)
    one[300:700, 200:800] = True
    count = 2**31 // side**2 + 3
    maps = dtk.sdf(one.expand(count, 1, side, side), backend="cpu")
    expected = dtk.sdf(one, backend="cpu")
    assert maps.numel() > 2**31
    assert all(torch.equal(map, expected) for map in (*maps[::64, 0], *maps[-3:, 0]))


def test_image_of_more_than_2_to_the_31_voxels() -> None:
    """A single volume: the scan's codes, the slices and the runs of the components are counted in 64 bits."""
    needs(14)
    shape = (2050, 1024, 1024)
    size = shape[0] * shape[1] * shape[2]
    mask = torch.zeros(size, dtype=torch.uint8).view(shape)
    mask[0, 0, 0] = mask[-1, -1, -1] = mask[1500:1600, 3, 5] = 1
    labels, count = dtk.label(mask, backend="cpu")
    assert count.item() == 3
    assert labels[0, 0, 0].item() == 1
    assert labels[1500:1600, 3, 5].unique().tolist() == [2]
    assert labels[-1, -1, -1].item() == 3
    del labels
    distances = dtk.sdf(mask, squared=True, backend="cpu")
    assert distances[-1, -1, -1].item() == -1
    assert distances[-1, -1, -1001].item() == 1000**2
    assert distances[-1, 3, 5].item() == 450**2
