"""The CUDA pass that makes maps of distances, run by the emulator, against the pass on CPUs, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from emulated import H200, SOURCES, Library
from emulator import build
from test_maps import MASKS

import dtkernels as dtk
from dtkernels.backends import cpu
from dtkernels.maps import CONVENTIONS
from dtkernels.plans import remap as plans
from dtkernels.problem import RemapProblem

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build.library("kernels_emulated", SOURCES, "plain").path)


@pytest.fixture
def named() -> set[str]:
    """The kernels that ran."""
    return set()


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, library: Library, named: set[str]) -> Callable[..., torch.Tensor]:
    """``dtk.distance_map`` whose last pass runs on the emulator."""

    def remap(problem: RemapProblem, source: Any, rows: Any, extrema: torch.Tensor | None) -> None:
        images = problem.image.shape[0] * problem.image.shape[1]
        state = torch.full((images * (2 + plans.entries(problem)) + 1,), torch.nan)
        state[2 * images : -1] = 0
        if extrema is not None:
            state[: 2 * images] = extrema.flatten()
        plan = plans.plan(problem, H200, max_blocks=3)
        for launch in plan.bind(
            problem.image.data, problem.spacing.data, problem.maps, problem.labels, state.data_ptr()
        ):
            library.launch(launch)
        assert state[-1].isnan(), "written past the maxima"

    def run(*arguments: Any, **options: Any) -> torch.Tensor:
        library.reset_statistics()
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "remap", remap)
            result = dtk.distance_map(*arguments, backend="cpu", **options)
        named.update(library.statistics())
        return result

    return run


@pytest.mark.parametrize("name", list(CONVENTIONS))
def test_every_map_on_the_kernels(emulated: Callable[..., torch.Tensor], named: set[str], name: str) -> None:
    for kind, mask in MASKS.items():
        x = torch.from_numpy(mask)
        for spacing in (None, (3.0, 0.8, 1.5)[: mask.ndim]):
            options = {"spatial_dims": mask.ndim}
            want = dtk.distance_map(x, name, spacing, **options)
            np.testing.assert_array_equal(emulated(x, name, spacing, **options), want, err_msg=f"{kind} {spacing}")
    components = CONVENTIONS[name].options.normalize.startswith("component")
    kernels = {"dtk::remap", "dtk::component_maxima"} if components else {"dtk::remap"}
    ran = {kernel.split("<")[0] for kernel in named}
    assert ran == (set() if name in ("edt", "edt_diff") else kernels)  # those two are what the transform gives


def test_batches_classes_rows_and_borders(emulated: Callable[..., torch.Tensor]) -> None:
    labels = torch.from_numpy(np.stack([MASKS["many"] + 2 * np.roll(MASKS["many"], i, 1) for i in (2, 5)])).short()
    rows = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.5, 0.8]])
    for name in ("ma_sdf", "ma_sdf01", "li_nidm", "rrw", "itk_maurer", "diagonal"):
        for options in ({}, {"border": "closed"}, {"include_background": False}, {"on_empty": "diagonal"}):
            call = {"num_classes": 5, "spatial_dims": 3, **options}
            want = dtk.distance_map(labels, name, rows, **call)
            np.testing.assert_array_equal(emulated(labels, name, rows, **call), want, err_msg=f"{name} {options}")


@pytest.mark.parametrize("name", ["unet_w", "ma_sdf01", "kervadec", "dpce"])
def test_truncated_maps(emulated: Callable[..., torch.Tensor], name: str) -> None:
    mask = torch.from_numpy(MASKS["many"])
    got = emulated(mask, name, truncate=0.25, spatial_dims=3)
    np.testing.assert_array_equal(got, dtk.distance_map(mask, name, truncate=0.25, spatial_dims=3))
    assert got.abs().max() == 0.25


def test_layouts_dtypes_and_many_chunks(emulated: Callable[..., torch.Tensor]) -> None:
    mask = torch.from_numpy(np.random.default_rng(0).random((2, 2, 17, 19, 21)) < 0.4)
    for x in (mask, mask.transpose(2, 4), mask.to(torch.float16).flip(2), mask.long()[:, :, ::2]):
        for name in ("ma_sdf11", "li_ndm", "itk_maurer"):
            np.testing.assert_array_equal(emulated(x, name), dtk.distance_map(x, name))
    closed = torch.ones(1, 1, 5, dtype=torch.uint8)  # axes of length 1 have background beyond their ends
    options = {"border": "closed", "spatial_dims": 3}
    assert emulated(closed, "ma_sdf", **options).tolist() == [[[0.0] * 5]]
    np.testing.assert_array_equal(dtk.distance_map(closed, "ma_sdf", **options), torch.zeros(1, 1, 5))


def test_a_table_of_maxima_holds_every_component() -> None:
    """Checkerboards have most components: (N + 1) / 2."""
    for shape in ((3, 3, 3), (4, 5), (7,)):
        board = torch.from_numpy(np.indices(shape).sum(0) % 2 == 0)
        count = int(dtk.label(board, connectivity=1)[1])
        image = dtk.arguments.mask_layout(board, board.ndim, None).image
        problem = RemapProblem(0, image, 3, *(None,) * 6, labels=1, counts=0)  # type: ignore[arg-type]
        assert plans.entries(problem) == count + 1
