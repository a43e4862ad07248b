"""The CUDA passes that make maps of distances, run by the emulator, against those on CPUs, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from emulated import GARBAGE, H200, Library, guarded
from emulator import build
from test_maps import MASKS

import dtkernels as dtk
from dtkernels.backends import cpu
from dtkernels.maps import CONVENTIONS
from dtkernels.plans import nearest
from dtkernels.plans import remap as plans
from dtkernels.problem import ContourProblem, FacesProblem, RemapProblem

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")


@pytest.fixture
def named() -> set[str]:
    """The kernels that ran."""
    return set()


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, library: Library, named: set[str]) -> Callable[..., torch.Tensor]:
    """``dtk.distance_map`` whose contours, moves to faces and last pass run on the emulator."""

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

    def contour(problem: ContourProblem, source: Any) -> None:
        for launch in plans.contour_plan(problem, H200, max_blocks=3).bind(problem.image.data, 0, problem.out, 0):
            library.launch(launch)

    def faces(problem: FacesProblem, source: Any, rows: Any) -> None:
        plan = nearest.faces_plan(problem, H200, max_blocks=3)
        scratch, *guards = guarded(plan.scratch_bytes)
        for launch in plan.bind(problem.image.data, problem.spacing.data, problem.maps, scratch.ctypes.data):
            library.launch(launch)
        assert all((guard == GARBAGE).all() for guard in guards)

    def run(*arguments: Any, **options: Any) -> torch.Tensor:
        library.reset_statistics()
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "FACES", False)
            for replacement in (remap, contour, faces):
                patch.setattr(cpu, replacement.__name__, replacement, raising=False)
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
    kernels |= {"dtk::contour"} if name == "itk_maurer" else set()
    kernels |= {"dtk::nearest_rows", "dtk::nearest_lines"} if name == "half" else set()
    ran = {kernel.split("<")[0] for kernel in named if kernel.startswith("dtk::")}
    assert ran == (set() if name in ("edt", "edt_diff") else kernels)  # those two are what the transform gives


def test_batches_classes_rows_and_borders(emulated: Callable[..., torch.Tensor]) -> None:
    labels = torch.from_numpy(np.stack([MASKS["many"] + 2 * np.roll(MASKS["many"], i, 1) for i in (2, 5)])).short()
    rows = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.5, 0.8]])
    for name in ("ma_sdf", "ma_sdf01", "li_nidm", "rrw", "itk_maurer", "diagonal"):
        for options in ({}, {"border": "closed"}, {"include_background": False}, {"on_empty": "diagonal"}):
            call = {"num_classes": 5, "spatial_dims": 3, **options}
            want = dtk.distance_map(labels, name, rows, **call)
            np.testing.assert_array_equal(emulated(labels, name, rows, **call), want, err_msg=f"{name} {options}")


@pytest.mark.parametrize("shape", [(7, 9, 35), (5, 1, 20), (1, 1, 9), (9, 1, 1), (12, 13), (1, 9), (9, 1)])
def test_zero_levels_at_faces(emulated: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> None:
    dims = len(shape)
    rng = np.random.default_rng(sum(shape))
    masks = rng.random((2, 2, *shape)) < np.array([0.1, 0.5, 0.9, 1.0]).reshape(2, 2, *(1,) * dims)
    x = torch.from_numpy(masks)
    rows = torch.tensor([[1.0] * dims, [3.0, 1.0, 0.5][-dims:]])
    for spacing in ((3.0, 1.0, 0.5)[-dims:], (0.8, 2.5, 1.5)[-dims:], rows):
        for border in ("open", "closed"):
            options = {"spatial_dims": dims, "border": border}
            want = dtk.distance_map(x, "half", spacing, **options)
            np.testing.assert_array_equal(emulated(x, "half", spacing, **options), want)
            # As backends without a kernel of their own have it.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cpu, "FACES", False)
                np.testing.assert_array_equal(dtk.distance_map(x, "half", spacing, **options), want)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_contours(emulated: Callable[..., torch.Tensor], named: set[str], connectivity: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(3).integers(0, 3, (2, 5, 9, 70)))
    for border in ("open", "closed"):
        options = {"connectivity": connectivity, "border": border, "spatial_dims": 3, "num_classes": 3}
        want = dtk.distance_map(labels, "itk_maurer", **options)
        np.testing.assert_array_equal(emulated(labels, "itk_maurer", **options), want)
        if connectivity < 3:
            plane = {**options, "spatial_dims": 2}
            want = dtk.distance_map(labels[:, 0], "itk_maurer", **plane)
            np.testing.assert_array_equal(emulated(labels[:, 0], "itk_maurer", **plane), want)
    assert any(kernel.startswith("dtk::contour<") for kernel in named)


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
