"""Single operators under pytest-benchmark: ``pytest bench/test_operators.py`` (or ``make bench-operators``).

For comparing one version with the next on one machine: ``--benchmark-autosave``, then ``--benchmark-compare``.
Peers are in ``python -m bench`` and bench.cuda. One thread; ``--benchmark-disable`` runs everything once, untimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import dtkernels as dtk

from . import masks

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark times the operators; pip install '.[bench]'")

Benchmark = Callable[..., Any]

SHAPES = {"1d": (64, 4096), "2d": (512, 512), "3d": (96, 96, 96), "batch": (16, 1, 35, 51, 35)}
KINDS = ("organ", "ellipsoids", "noise")
DTYPES = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(kind: str, shape: str, dtype: torch.dtype = torch.uint8) -> tuple[torch.Tensor, int]:
    """A batch of masks and the number of its spatial dimensions."""
    sides = SHAPES[shape]
    dims = {"1d": 1, "2d": 2}.get(shape, 3)
    count = torch.Size(sides[:-dims]).numel()
    images = [torch.from_numpy(masks.make(kind, sides[-dims:], seed=i)) for i in range(count)]
    return torch.stack(images).reshape(sides).to(dtype), dims


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operator", [dtk.edt, dtk.sdf], ids=["edt", "sdf"])
def test_transform(benchmark: Benchmark, operator: Callable[..., Any], kind: str, shape: str) -> None:
    mask, dims = make(kind, shape)
    out = torch.empty(mask.shape)
    benchmark(operator, mask, spatial_dims=dims, out=out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype(benchmark: Benchmark, dtype: torch.dtype) -> None:
    mask, dims = make("organ", "3d", dtype)
    benchmark(dtk.sdf, mask, spatial_dims=dims, out=torch.empty(mask.shape))


def test_unequal_spacing(benchmark: Benchmark) -> None:
    mask, dims = make("organ", "3d")
    benchmark(dtk.sdf, mask, (3.0, 0.8, 0.8), spatial_dims=dims, out=torch.empty(mask.shape))


def test_labels_sdf(benchmark: Benchmark) -> None:
    labels, dims = make("organ", "batch", torch.int64)
    benchmark(dtk.labels_sdf, labels, 3, spatial_dims=dims)


@pytest.mark.parametrize("shape", ["2d", "3d"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operator", [dtk.nearest, dtk.label], ids=["nearest", "label"])
def test_other_operators(benchmark: Benchmark, operator: Callable[..., Any], kind: str, shape: str) -> None:
    mask, dims = make(kind, shape)
    benchmark(operator, mask, spatial_dims=dims)
