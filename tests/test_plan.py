"""The launch plan as arithmetic: every work item once, within the limits of the device, and what it refuses."""

from __future__ import annotations

import itertools
import random
import re
import struct
import timeit
from math import prod
from pathlib import Path
from typing import Any

import pytest
from emulated import Library
from emulator import build

from dtkernels.plans import label, nearest, remap, weigh
from dtkernels.plans import transform as plans
from dtkernels.plans.launch import STATIC_SHARED, DeviceProperties, Step
from dtkernels.plans.transform import plan
from dtkernels.problem import (
    ContourProblem,
    DType,
    FacesProblem,
    Image,
    Inside,
    LabelProblem,
    Measure,
    NearestProblem,
    Problem,
    RemapProblem,
    Rule,
    Spacing,
    SumsProblem,
)

DEVICES = {
    "T4": DeviceProperties(40, 64 << 10, 7, 5),
    "A100": DeviceProperties(108, 163 << 10, 8, 0),
    "L4": DeviceProperties(58, 99 << 10, 8, 9),
    "H200": DeviceProperties(132, 227 << 10, 9, 0),
}
H200 = DEVICES["H200"]

SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 1, 1, 40),
    (4, 1, 1, 240, 241),
    (1, 1, 1, 1024, 1024),
    (2, 2, 35, 51, 35),
    (16, 1, 128, 128, 128),
    (2, 1, 200, 64, 61),
    (1, 1, 256, 256, 256),
    (1, 1, 512, 512, 512),
    (1, 1, 2, 1, 700),
    (1, 2, 2100, 3, 5),
    (1, 1, 3, 1, 32768),
    (1, 1, 1, 32768, 3),
    (1, 1, 2, 20000, 3),
    (1, 1, 4096, 4096, 300),
]


def problem(shape: tuple[int, ...] = (1, 1, 8, 8, 8), **changes: Any) -> Problem:
    stride = [1]
    for n in shape[:0:-1]:
        stride.insert(0, stride[0] * n)
    image = Image(64, DType.UINT8, shape, tuple(stride))  # type: ignore[arg-type]
    fields = {
        "spatial_dims": 3,
        "spacing": Spacing(),
        "signed": True,
        "squared": False,
        "closed": False,
        "out": 128,
    }
    return Problem(image, **{**fields, **changes})


def fields(step: Step) -> dict[str, Any]:
    """The constants of a pass over lines by name."""
    names = (
        "groups lines inner z y x scratch_stride sites_offset shared_offset length lanes_log2 pitch site_pitch "
        "source_format target_format last out_dtype squared closed axis_z axis_y axis_x this_axis scanned_axis "
        "singletons spacing_step weight_z weight_y weight_x scale"
    )
    layout = struct.Struct("<9q17i4f160x4x")
    return dict(zip(names.split(), layout.unpack(step.constant[-layout.size :]), strict=True))


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_line_belongs_to_one_tile(shape: tuple[int, ...], device: DeviceProperties) -> None:
    sides = [n for n in shape[2:] if n > 1] or [1]
    spacing = Spacing((1.0, 1.0, 2.0))
    the_plan = plan(problem(shape, spacing=spacing), device, fused=False)
    passes = [s for s in the_plan.steps if "lines" in s.kernel]
    assert [fields(s)["length"] for s in passes] == (sides[1:] if len(sides) > 1 else sides)
    assert len(the_plan.steps) == len(sides)
    for step in passes:
        f = fields(step)
        assert f["groups"] * f["lines"] * f["length"] == shape[0] * shape[1] * shape[2] * shape[3] * shape[4]
        lanes = 1 << f["lanes_log2"]
        tiles = -(-f["lines"] // lanes)
        assert (tiles - 1) * lanes < f["lines"] <= tiles * lanes
        if f["scratch_stride"] == 0:
            assert step.grid[0] == f["groups"] * tiles
        assert f["last"] == (step is passes[-1])
        assert f["inner"] == 1 or not f["last"]
        assert f["pitch"] >= lanes
        assert f["site_pitch"] >= lanes
        assert f["sites_offset"] >= 4 * f["length"] * f["pitch"]


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("solver", [None, *plans.SOLVERS])
def test_limits_of_the_device(shape: tuple[int, ...], device: DeviceProperties, solver: str | None) -> None:
    sides = [n for n in shape[2:] if n > 1] or [1]
    longest = max(sides[1:] or sides)
    needed = longest * {None: 0, "divide": 0, "strips": 4, "envelope": 8, "window": 6}[solver]
    if needed > device.shared_per_block_optin - STATIC_SHARED or (solver == "strips" and longest > 8192):
        with pytest.raises(ValueError, match="solver: expected 'divide' for lines of"):
            plan(problem(shape), device, solver=solver)
        return
    the_plan = plan(problem(shape), device, solver=solver)
    for step in the_plan.steps:
        assert 0 < step.grid[0] < 2**31
        assert step.grid[1:] == (1, 1)
        assert step.block % 32 == 0
        assert 32 <= step.block <= (256 if "scan" in step.kernel else 1024)
        assert step.shared + STATIC_SHARED <= device.shared_per_block_optin
        if "lines" in step.kernel:
            f = fields(step)
            sites = (2 if "uint16_t" in step.kernel else 1) * (2 if solver == "envelope" else 1)
            rows = f["length"]
            if "Strips" in step.kernel:
                strips = -(-f["length"] // 8)
                assert strips << f["lanes_log2"] <= step.block
                rows = strips + 1
            size = f["sites_offset"] + sites * rows * f["site_pitch"]
            per_thread = step.block * (0 if solver in ("envelope", "window") else 6)
            if f["scratch_stride"]:
                assert size <= f["scratch_stride"]
                assert step.scratch[1] + step.grid[0] * f["scratch_stride"] <= the_plan.scratch_bytes
                assert step.shared == per_thread
            else:
                assert size <= f["shared_offset"]
                assert f["shared_offset"] + per_thread == step.shared
            if "uint8_t" in step.kernel:
                assert f["length"] <= 256


def test_a_large_batch_fills_the_device() -> None:
    """At least 1,024 threads of every pass can be resident on a multiprocessor."""
    for shape in ((16, 1, 128, 128, 128), (8, 1, 256, 256, 256), (2, 1, 512, 512, 512), (16, 1, 1, 1024, 1024)):
        for step in plan(problem(shape), H200).steps:
            resident = min(H200.shared_per_block_optin // (step.shared + STATIC_SHARED), 2048 // step.block)
            assert resident * step.block >= 1024, (shape, step.kernel)
            assert step.grid[0] * step.block >= 256 * H200.multiprocessors


def test_scratch_holds_what_passes_hand_on() -> None:
    """One byte per voxel of run codes and two of squares for 128^3; two of codes above, squares in the output."""
    small = plan(problem((4, 1, 128, 128, 128)), H200, fused=False)
    large = plan(problem((1, 1, 129, 129, 129)), H200, fused=False)
    voxels = 4 * 128**3
    assert small.scratch_bytes == 3 * voxels
    assert [s.kernel.split("<")[0] for s in small.steps] == ["dtk::scan", "dtk::lines", "dtk::lines"]
    assert [s.target for s in small.steps] == [(plans.SCRATCH, 0), (plans.SCRATCH, voxels), (plans.OUT, 0)]
    assert [s.source for s in small.steps[1:]] == [(plans.SCRATCH, 0), (plans.SCRATCH, voxels)]
    assert 2 * 129**3 <= large.scratch_bytes < 2 * 129**3 + 256
    assert [s.target for s in large.steps] == [(plans.SCRATCH, 0), (plans.OUT, 0), (plans.OUT, 0)]
    assert plan(problem((1, 1, 1, 1, 50)), H200).scratch_bytes == 0
    fused = plan(problem((4, 1, 128, 128, 128)), H200)
    assert fused.scratch_bytes == voxels
    assert [s.kernel.split("<")[0] for s in fused.steps] == ["dtk::scan", "dtk::packed_slices"]
    assert [s.target for s in fused.steps] == [(plans.SCRATCH, 0), (plans.OUT, 0)]
    assert fused.steps[1].source == (plans.SCRATCH, 0)


@pytest.mark.parametrize(
    ("spacing", "arithmetic"),
    [
        (Spacing(), "int32_t"),
        (Spacing((0.7, 0.7, 0.7)), "int32_t"),
        (Spacing((2.0, 1.0, 1.0)), "float"),
        (Spacing(None, 8, 1), "float"),
        (Spacing(None, 8, 2), "float"),
    ],
)
def test_arithmetic(spacing: Spacing, arithmetic: str) -> None:
    for step in plan(problem((2, 1, 9, 9, 9), spacing=spacing), H200, fused=False).steps[1:]:
        assert step.kernel.startswith(f"dtk::lines<{arithmetic}, true, uint16_t, dtk::Strips, false>")
        assert fields(step)["groups"] == spacing.rows
    # An axis of length 1 has no step, so its spacing is of no account.
    flat = plan(problem((2, 1, 1, 9, 9), spacing=Spacing((2.0, 1.0, 1.0))), H200)
    assert "int32_t" in flat.steps[1].kernel
    closed = plan(problem((2, 1, 1, 9, 9), spacing=Spacing((2.0, 1.0, 1.0)), closed=True), H200)
    assert "float" in closed.steps[1].kernel


def slice_fields(step: Step) -> dict[str, Any]:
    """The constants of the kernel of slices by name."""
    names = (
        "slices group high_offset flags_offset team_offset team_bytes sites_offset source_format words z y x "
        "pitch lanes_log2 teams team_threads out_dtype squared closed spacing_step weight_z weight_y weight_x "
        "scale plain"
    )
    layout = struct.Struct("<2I18i4fi160x4x")
    return dict(zip(names.split(), layout.unpack(step.constant[-layout.size :]), strict=True))


@pytest.mark.parametrize("solver", ["strips", "split"])
@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_slices_have_room_for_all(device: DeviceProperties, solver: str) -> None:
    """Values, flags, teams and their sites one behind the other; a thread for every strip, lane and word."""
    rng = random.Random(1)
    split = solver == "split"
    spacing = Spacing() if split else Spacing(None, 8, 2)
    for _ in range(300):
        sides = [rng.randint(2, 200), rng.randint(2, 260), rng.randint(2, 260)]
        if plans._refusal(solver, sides, 2 * sides[0], split, False, True, device) is not None:
            continue
        step = plan(problem((2, 1, *sides), spacing=spacing), device, solver=solver, fused=True).steps[1]
        assert step.kernel.endswith("true>") == split
        f = slice_fields(step)
        assert (f["z"], f["y"], f["x"]) == tuple(sides)
        assert (f["slices"], f["group"]) == (2 * sides[0], sides[0] * (2 if split else 1))
        assert f["pitch"] % 4 == 2 if split else f["pitch"] % 2 == 1
        assert f["pitch"] >= f["x"]
        assert f["high_offset"] >= 2 * f["y"] * f["pitch"]
        assert f["flags_offset"] >= (f["high_offset"] + f["y"] * f["pitch"] if split else 4 * f["y"] * f["pitch"])
        codes = 4 if f["source_format"] == plans.RUNS_8 else 2
        assert f["words"] in (f["x"], f["x"] / codes)
        assert f["words"] <= step.block
        assert f["team_offset"] >= f["flags_offset"] + 8 * f["words"]
        strips, lanes = -(-max(f["y"], f["x"]) // plans.STRIP), 1 << f["lanes_log2"]
        assert f["team_threads"] == strips * lanes
        assert f["teams"] * f["team_threads"] <= step.block <= 1024
        assert f["sites_offset"] >= 6 * f["team_threads"]
        assert f["team_bytes"] >= f["sites_offset"] + 2 * (strips + 1) * lanes
        assert f["team_offset"] + f["teams"] * f["team_bytes"] <= step.shared
        assert step.shared + STATIC_SHARED <= device.shared_per_block_optin


@pytest.mark.parametrize(("solver", "strip"), plans.PACKED_STRIPS.items())
@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_packed_slices_have_room_for_all(device: DeviceProperties, solver: str, strip: int) -> None:
    """Squares, classes and teams one behind the other; a thread for every strip and lane; squares fit 16 bits."""
    rng = random.Random(2)
    names = (
        "slices classes_offset classes_pitch team_offset team_bytes z y x pitch none lanes_log2 teams "
        "team_threads out_dtype squared closed weight_z weight_y weight_x scale plain"
    )
    layout = struct.Struct("<I15i4fi160x4x")
    packed = 0
    for _ in range(300):
        sides = [rng.randint(2, 249), rng.randint(2, 140), rng.randint(2, 140)]
        if plans._refusal(solver, sides, 2 * sides[0], True, False, True, device) is not None:
            with pytest.raises(ValueError, match="solver: expected "):
                plan(problem((2, 1, *sides)), device, solver=solver)
            continue
        packed += 1
        step = plan(problem((2, 1, *sides)), device, solver=solver).steps[1]
        assert f", {strip}>" in step.kernel
        f = dict(zip(names.split(), layout.unpack(step.constant[-layout.size :]), strict=True))
        height, width = (-(-n // strip) * strip for n in sides[1:])
        assert (f["slices"], f["z"], f["y"], f["x"]) == (2 * sides[0], *sides)
        assert f["pitch"] % 2 == 1
        assert f["pitch"] >= width // 2
        assert f["classes_offset"] >= 4 * height * f["pitch"]
        assert f["classes_pitch"] >= width
        assert (
            f["classes_pitch"] % 8 == f["classes_offset"] % 8 == f["team_offset"] % 4 == f["team_bytes"] % 4 == 0
        )
        assert f["team_offset"] >= f["classes_offset"] + height // 8 * f["classes_pitch"]
        strips, lanes = max(height, width) // strip, 1 << f["lanes_log2"]
        assert f["team_threads"] == strips * lanes
        assert f["teams"] * f["team_threads"] <= step.block <= (256 if strip == 16 else 1024)
        assert f["team_bytes"] >= 4 * (4 * (strips + 1) + 2) * lanes
        assert f["team_offset"] + f["teams"] * f["team_bytes"] <= step.shared
        assert step.shared + STATIC_SHARED <= device.shared_per_block_optin
        squares = (sides[0] - 1) ** 2 + (height - 1) ** 2 + (width - 1) ** 2
        assert squares < f["none"] <= (256 - strip) ** 2
        assert f["none"] + (max(height, width) - 1) ** 2 + strip**2 < 2**16
    assert packed > 100


def test_strips_of_packed_slices() -> None:
    """Sixteen voxels where there are slices enough, little is filled up and codes are bytes; else eight."""
    for shape, strip in (
        ((16, 1, 128, 128, 128), 16),
        ((1, 1, 128, 128, 128), 8),  # a slice for a multiprocessor: more threads to a line
        ((64, 1, 35, 51, 35), 8),  # 64 x 48 of 51 x 35, against 56 x 40
        ((4, 1, 64, 62, 63), 16),
        ((8, 1, 200, 60, 60), 8),
        ((8, 1, 80, 136, 136), 8),  # squares of 80 x 144^2 do not fit 16 bits
    ):
        assert f", {strip}>" in plan(problem(shape), H200).steps[1].kernel, shape


def test_packed_wants_minima_of_halves() -> None:
    """By default where the processor has them, or where nothing else fits; and forced or refused anywhere."""
    shape = (16, 1, 128, 128, 128)
    for device, kernel in (("H200", "packed_"), ("A100", ""), ("T4", "packed_")):
        assert f"dtk::{kernel}slices" in plan(problem(shape), DEVICES[device]).steps[1].kernel
        assert "packed" in plan(problem(shape), DEVICES[device], solver="packed").steps[1].kernel
        assert (
            "packed" not in plan(problem(shape, spacing=Spacing((1.0, 1.0, 2.0))), DEVICES[device]).steps[1].kernel
        )
    for wrong, why in (
        ((1, 1, 1, 9, 9), "expected a volume"),
        ((1, 1, 9, 200, 200), "expected equal spacing and"),
    ):
        with pytest.raises(ValueError, match=f"solver: {why}"):
            plan(problem(wrong), H200, solver="packed")
    with pytest.raises(ValueError, match="solver: expected fused slices for 'packed', got fused=False"):
        plan(problem(shape), H200, solver="packed", fused=False)


@pytest.mark.parametrize(
    ("shape", "device", "fused"),
    [
        ((16, 1, 128, 128, 128), "H200", True),
        ((1, 1, 128, 128, 128), "H200", True),
        ((16, 1, 230, 230, 230), "H200", True),
        ((16, 1, 128, 128, 128), "A100", True),
        ((16, 1, 128, 128, 128), "L4", True),
        ((16, 1, 128, 128, 128), "T4", True),
        ((1, 1, 96, 96, 96), "H200", True),
        (
            (1, 1, 64, 64, 64),
            "H200",
            True,
        ),  # half of the multiprocessors have no slice, but there is a launch less
        ((1, 1, 32, 32, 32), "H200", True),
        ((1, 1, 32, 128, 128), "H200", False),  # a slice takes too long
        ((4, 1, 64, 64, 64), "H200", True),
        ((8, 1, 256, 256, 256), "H200", True),
        ((8, 1, 280, 280, 280), "H200", False),  # a slice takes more shared memory than there is
        ((64, 1, 1, 128, 128), "H200", False),  # images have no axis left to fuse
    ],
)
def test_which_volumes_are_fused(shape: tuple[int, ...], device: str, fused: bool) -> None:
    the_plan = plan(problem(shape), DEVICES[device])
    assert any("slices" in s.kernel for s in the_plan.steps) == fused
    assert all("slices" not in s.kernel for s in plan(problem(shape), DEVICES[device], fused=False).steps)


def test_slices_that_share_no_squares_in_16_bits_need_more_of_them() -> None:
    """Only in 16 bits are fewer instructions the reason for slices that leave multiprocessors idle."""
    for spacing, fused in ((None, True), (Spacing((2.0, 1.0, 1.0)), False)):
        the_plan = plan(problem((1, 1, 64, 64, 64), **({} if spacing is None else {"spacing": spacing})), H200)
        assert any("slices" in s.kernel for s in the_plan.steps) == fused


def test_one_volume_fills_the_device() -> None:
    """A single volume puts threads on most multiprocessors in every pass."""
    for side in (96, 128):
        for step in plan(problem((1, 1, side, side, side)), H200).steps:
            assert step.grid[0] >= 0.7 * H200.multiprocessors, (side, step.kernel)
            assert step.grid[0] * step.block >= side**2 * 2, (side, step.kernel)


def test_fusion_that_is_impossible() -> None:
    for shape, solver, why in (
        ((1, 1, 1, 9, 9), None, "expected a volume"),
        ((1, 1, 9, 9, 9), "envelope", "expected a solver that works in place"),
        ((1, 1, 9, 300, 300), None, "expected slices that fit shared memory"),
        ((1, 1, 9, 2, 2000), None, "expected shorter sides"),
    ):
        with pytest.raises(ValueError, match=f"fused: {why}"):
            plan(problem(shape), H200, solver=solver, fused=True)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"image: expected sides of at most 32768, got \(1, 1, 32769\)"):
        plan(problem((1, 1, 1, 1, 32769)), H200)
    with pytest.raises(ValueError, match=r"image: expected squared diagonals below 2\^31 - 1 voxels"):
        plan(problem((1, 1, 400, 32768, 32768)), H200)
    plan(problem((1, 1, 363, 32768, 32768)), H200)
    plan(problem((1, 1, 400, 32768, 32768), spacing=Spacing((2.0, 1.0, 1.0))), H200)
    with pytest.raises(ValueError, match="solver: expected one of"):
        plan(problem(), H200, solver="magic")
    with pytest.raises(ValueError, match="spacing: expected 1 or 1 rows"):
        plan(problem(spacing=Spacing(None, 8, 3)), H200)
    with pytest.raises(ValueError, match="image: expected 2 spatial axes"):
        plan(problem(spatial_dims=2), H200)
    with pytest.raises(ValueError, match="max_blocks: expected at least 1"):
        plan(problem(), H200, max_blocks=0)


@pytest.mark.parametrize("axis", range(5))
def test_nothing_to_do(axis: int) -> None:
    shape = [2, 2, 4, 4, 4]
    shape[axis] = 0
    empty = plan(problem(tuple(shape), spacing=Spacing(None, 8, shape[0])), H200)
    assert empty.bind(1, 2, 3, 4) == []
    assert empty.scratch_bytes == 0


def test_bind_places_pointers() -> None:
    the_plan = plan(problem((1, 1, 9, 10, 11), spacing=Spacing(None, 8, 1)), H200, fused=False)
    scan, middle, last = (struct.unpack_from("<6Q", launch.params) for launch in the_plan.bind(1, 2, 300, 4096))
    assert scan[:3] == (0, 2, 4096)
    assert scan[5] == 1
    assert middle[:3] == (4096, 2, 300)
    assert last[:3] == (300, 2, 300)
    unit = plan(problem((1, 1, 9, 10, 11)), H200)
    assert all(struct.unpack_from("<6Q", launch.params)[1] == 0 for launch in unit.bind(1, 2, 300, 4096))


def test_plans_are_cached_without_pointers() -> None:
    first = plan(problem(), H200)
    moved = problem()._replace(out=1 << 20)
    moved = moved._replace(image=moved.image._replace(data=1 << 30))
    assert plan(moved, H200) is first
    assert plan(problem(squared=True), H200) is not first


def test_a_call_costs_microseconds() -> None:
    """A cached plan and its three launches; the bound is generous for a busy machine."""
    p = problem((2, 2, 35, 51, 35))
    seconds = min(timeit.repeat(lambda: plan(p, H200).bind(1, 2, 300, 4096), number=1000, repeat=5)) / 1000
    assert seconds < 50e-6


def test_parameters_have_the_size_of_their_structs() -> None:
    """Against the table that is compiled: names, sizes, and that plans ask for nothing else."""
    if build.compiler() is None:
        pytest.skip("needs a C++ compiler")
    sizes = Library().kernels()
    asked = set()
    spacings = [Spacing(), Spacing((1.0, 2.0, 3.0))]
    devices: list[tuple[DeviceProperties, str | None]] = [(H200, solver) for solver in (None, *plans.SOLVERS)]
    tiny = DeviceProperties(4, 9216, 9, 0)
    for shape, spacing, signed in itertools.product(SHAPES, spacings, (False, True)):
        for device, solver in [*devices, (tiny, None)]:
            if solver not in (None, "divide") and max(shape) > 5000:
                continue
            the_plan = plan(problem(shape, spacing=spacing, signed=signed), device, solver=solver)
            for launch in the_plan.bind(1, 2, 3, 4):
                assert sizes[launch.kernel] == len(launch.params)
                asked.add(launch.kernel)
    for shape, spacing, device in itertools.product(SHAPES, [*spacings, Spacing(None, 8, 1)], (H200, tiny)):
        image = problem(shape).image
        others = [nearest.plan(NearestProblem(image, 3, spacing, 128, 256), device)]
        others += [
            remap.plan(
                RemapProblem(128, image, 3, spacing, Inside.NEGATIVE, True, False, (0.5,) * 32, 256, labels, 512),
                device,
            )
            for labels in (0, 64)
        ]
        others.append(remap.contour_plan(ContourProblem(image, 3, 3, False, 128), device))
        others.append(nearest.faces_plan(FacesProblem(128, image, 3, spacing, True), device))
        if prod(shape[2:]) < 2**32:
            others.append(label.plan(LabelProblem(image, 1, 128, 256), device))
        weighed = [
            weigh.plan(SumsProblem(image, image, 3, spacing, measure, 2, False, False, 128, 256), device)
            for measure in (Measure.BOUNDARY, Measure.TWO_SIDED)
        ]
        launches = [launch for other in others for launch in other.bind(1, 2, 3, 4, 5)]
        for launch in [*launches, *(launch for sums in weighed for launch in sums.bind(1, 2, 4))]:
            assert sizes[launch.kernel] == len(launch.params)
            asked.add(launch.kernel)
    elsewhere = {name for name in sizes if "parabolas" in name or "receivers" in name}  # test_envelope_emulated.py
    assert asked == set(sizes) - elsewhere


def test_constants_agree_with_the_sources() -> None:
    csrc = Path(__file__).parent.parent / "csrc"
    launcher, lines = (csrc / "cuda/launch.cu").read_text(), (csrc / "dtk/lines.cuh").read_text()
    assert f"kStaticShared = {STATIC_SHARED};" in launcher
    measures = re.findall(r"^\s*k(\w+),", (csrc / "dtk/measure.h").read_text(), re.MULTILINE)
    assert [m.upper() for m in measures] == [m.name.replace("_", "") for m in Measure]
    formats = re.search(r"enum Format : int32_t \{(.*?)\};", lines, re.DOTALL)
    assert formats is not None
    names = re.findall(r"^\s*k(\w+),", formats.group(1), re.MULTILINE)
    values = [plans.FROM_IMAGE, plans.RUNS_8, plans.RUNS_16, plans.SQUARES_16, plans.SQUARES_32]
    assert dict(zip(names, range(5), strict=True)) == dict(
        zip(["FromImage", "Runs8", "Runs16", "Squares16", "Squares32"], values, strict=True)
    )
    for solver in plans.SOLVERS:
        text = (csrc / f"dtk/{solver}.cuh").read_text()
        assert f"kArrays = {plans._SITE_ARRAYS[solver]};" in text
        if plans._BYTES_PER_THREAD[solver] == 0:
            assert "kBytesPerThread = 0;" in text
    assert "kBytesPerThread = 6;" in (csrc / "dtk/divide.cuh").read_text()
    assert f"kChunkLog2 = {label.CHUNK.bit_length() - 1};" in (csrc / "dtk/label.cuh").read_text()
    assert f"kShift = {nearest.STRIP.bit_length() - 1};" in (csrc / "dtk/argmin.cuh").read_text()
    strips = (csrc / "dtk/strips.cuh").read_text()
    assert f"kShift = {plans.STRIP.bit_length() - 1};" in strips
    assert "kFar = 256 - kRows;" in (csrc / "dtk/packed.cuh").read_text()


def test_vector_loads_only_where_columns_are_words() -> None:
    def vectorised(shape: tuple[int, ...], **image: Any) -> bool:
        p = problem(shape)
        p = p._replace(image=p.image._replace(**image))
        return bool(struct.unpack_from("<i", plan(p, H200).steps[0].constant, -8)[0])

    assert vectorised((1, 1, 9, 10, 12))
    assert vectorised((2, 2, 1, 10, 12), rule=Rule.EQUALS_CLASS)
    assert not vectorised((1, 1, 9, 9, 11))
    assert vectorised((1, 1, 200, 9, 10))  # pairs
    assert not vectorised((1, 1, 9, 10, 12), dtype=DType.FLOAT32)
    assert not vectorised((1, 1, 9, 10, 12), rule=Rule.ABOVE)
    assert not vectorised((1, 1, 9, 10, 12), stride=(0, 0, 2160, 216, 2))
    assert not vectorised((1, 1, 9, 10, 12), stride=(0, 0, 121, 12, 1))
    assert not vectorised((2, 1, 9, 10, 12), stride=(1081, 0, 120, 12, 1))


def test_random_shapes() -> None:
    rng = random.Random(0)
    for _ in range(300):
        shape = (rng.randint(1, 5), rng.randint(1, 3), *(int(2 ** rng.uniform(0, 11)) for _ in range(3)))
        for step in plan(problem(shape), rng.choice(list(DEVICES.values()))).steps:
            assert step.shared < 2**31
            assert step.grid[0] > 0
