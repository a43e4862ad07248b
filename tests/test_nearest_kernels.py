"""The feature transform's kernels, unmodified, run by the emulator with the real launch plan, against brute force.

As in test_kernels_emulated.py, this file is also the program that runs under a sanitizer.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import oracle
import pytest
from emulated import (
    DTYPES,
    H200,
    Library,
    Options,
    Rule,
    as_image,
    masks,
    nearest,
    nearest_plans,
    problems,
    transform,
    under_a_sanitizer,
)
from emulator import build
from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

Array = NDArray[Any]
SIDES = (1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 64, 65, 130)
UNEQUAL = (2.0, 0.5, 1.5)  # all sums are exact, so ties are those of the real numbers
# So little shared memory that tiles have few lanes or one, or, from 1,100 voxels on, lie in global memory.
TINY = H200._replace(shared_per_block_optin=9216)
ARITHMETICS = {"keyed": Options(), "exact": Options(keyed=False), "rounded": Options(spacing=UNEQUAL)}


def lattice(shape: tuple[int, ...], pitch: int, offset: int = 0) -> Array:
    """Background voxels at the points of a grid: every cell's middle has many nearest."""
    mask = np.ones(shape, np.uint8)
    mask[tuple(slice(min(offset, side - 1), None, pitch) for side in shape)] = 0
    return mask


def kinds(shape: tuple[int, ...], seed: int) -> list[Array]:
    symmetric = masks(shape, seed)["dense"]
    symmetric &= symmetric[::-1] & symmetric[..., ::-1]
    return [*masks(shape, seed).values(), lattice(shape, 2), lattice(shape, 5, 1), symmetric]


def check(library: Library, mask: Array, options: Options) -> None:
    """Positions against all pairs; distances bit for bit those of the distance transform's kernels."""
    spacing = options.spacing[-mask.ndim :]
    equal = len(set(spacing)) == 1
    distance, index = nearest(library, as_image(mask), mask.ndim, options)
    expected = oracle.nearest_index(mask, None if equal else spacing)
    np.testing.assert_array_equal(index.reshape(mask.shape), expected, err_msg=f"{mask.shape}, {options}")
    transformed = transform(library, as_image(mask), mask.ndim, Options(signed=False, spacing=options.spacing))
    np.testing.assert_array_equal(distance, transformed)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("n", SIDES)
def test_sides(library: Library, n: int, arithmetic: str) -> None:
    shapes = (
        ((n,), (n, 5), (4, n), (n, 3, 4), (3, n, 5), (2, 3, n)) if n < 100 else ((n,), (n, 3), (2, n), (n, 2, 2))
    )
    for shape in shapes:
        for mask in kinds(shape, n):
            check(library, mask, ARITHMETICS[arithmetic])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("shape", [(1, 1, 40), (40, 1, 1), (1, 12, 9), (12, 1, 9), (12, 9, 1), (1, 1, 1)], ids=str)
def test_axes_of_length_one(library: Library, shape: tuple[int, ...], arithmetic: str) -> None:
    for mask in kinds(shape, 1):
        check(library, mask, ARITHMETICS[arithmetic])


@pytest.mark.parametrize("device", [H200, TINY], ids=["H200", "little shared memory"])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("shape", [(1, 2100), (600, 3), (1500, 2), (2, 700, 2), (700, 2, 2)], ids=str)
def test_long_lines(library: Library, shape: tuple[int, ...], arithmetic: str, device: Any) -> None:
    """Few sites far apart, symmetric ones among them: every level of the marks, with ties."""
    rng = np.random.default_rng(0)
    for sites in (1, 2, 9):
        mask = np.ones(shape, np.uint8)
        mask.flat[rng.integers(0, mask.size, sites)] = 0
        symmetric = mask & mask[::-1] & mask[..., ::-1]
        for max_blocks in (None, 2):
            options = ARITHMETICS[arithmetic]._replace(device=device, max_blocks=max_blocks)
            check(library, symmetric, options)


def test_ring_of_equally_far_voxels(library: Library) -> None:
    """From the centre, all twelve points at squared distance 25: the topmost wins, then the leftmost."""
    mask = np.ones((15, 15), np.uint8)
    for y, x in [(5, 0), (4, 3), (3, 4), (0, 5)]:
        for sy, sx in [(1, 1), (1, -1), (-1, 1), (-1, -1)]:
            mask[7 + sy * y, 7 + sx * x] = 0
    for keyed in (True, False):
        distance, index = nearest(library, as_image(mask), 2, Options(keyed=keyed))
        assert (distance[0, 0, 0, 7, 7], index[0, 0, 0, 7, 7]) == (5.0, 2 * 15 + 7)


@pytest.mark.parametrize("seed", range(1, 5))
def test_random_schedules(library: Library, seed: int) -> None:
    library.set(seed=seed, resident=3)
    try:
        for arithmetic in ARITHMETICS.values():
            for shape in ((50,), (70, 33), (26, 7, 34)):
                for mask in (lattice(shape, 9, 4), masks(shape, seed)["dense"]):
                    check(library, mask, arithmetic._replace(max_blocks=None if seed % 2 else 3))
    finally:
        library.set(seed=0, resident=1)


@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_spacing_in_memory(library: Library, dims: int, one_row: bool) -> None:
    """Samples of equal and of unequal spacing, told apart on the device; distances are the transform's."""
    rows = np.array([UNEQUAL, (0.7, 0.7, 0.7), (1.0, 1.0, 2.0)])
    rows[:, : 3 - dims] = 1.0
    rows = np.ascontiguousarray(rows[:1] if one_row else rows)
    shape = (3, 2, *(1,) * (3 - dims), *(9, 11, 35)[3 - dims :])
    image = (np.random.default_rng(0).random(shape) < 0.95).astype(np.uint8)
    image[0, 0] = lattice(shape[2:], 4)
    for keyed in (True, False):
        distance, index = nearest(library, image, dims, Options(spacing=rows, keyed=keyed))
        expected = transform(library, image, dims, Options(signed=False, spacing=rows))
        np.testing.assert_array_equal(distance, expected)
        for b, c in np.ndindex(3, 2):
            row = rows[0 if one_row else b][3 - dims :]
            mask = image[b, c].reshape(shape[5 - dims :])
            wanted = oracle.nearest_index(mask, None if len(set(row)) == 1 else row)
            np.testing.assert_array_equal(index[b, c].reshape(mask.shape), wanted, err_msg=f"{b}, {c}")


def test_batches_layouts_and_rules(library: Library) -> None:
    """Each image of a batch for itself, read where it lies."""
    rng = np.random.default_rng(3)
    for name in DTYPES:
        values = np.where(rng.random((7, 2, 6, 3, 10)) < 0.8, 1, 0)
        values = (values * 0x3F80).astype(np.uint16) if name == "bfloat16" else values.astype(name)
        view = values.transpose(3, 1, 0, 4, 2)
        _, index = nearest(library, view, 3, Options(dtype=name))
        for at in np.ndindex(view.shape[:2]):
            np.testing.assert_array_equal(index[at], oracle.nearest_index(view[at]))
    image = rng.random((1, 2, 1, 20, 33)).astype(np.float32)
    _, index = nearest(library, image, 3, Options(rule=Rule.ABOVE, threshold=0.1))
    np.testing.assert_array_equal(index[0, 1], oracle.nearest_index(image[0, 1] > 0.1))


def test_squares_beyond_the_range_of_float32_mean_no_background(library: Library) -> None:
    mask = np.ones((40, 3), np.uint8)
    mask[0] = 0
    spacing = (1.0, 1e18, 1.0)
    distance, index = nearest(library, as_image(mask), 2, Options(spacing=spacing))
    expected = transform(library, as_image(mask), 2, Options(signed=False, spacing=spacing))
    np.testing.assert_array_equal(distance, expected)
    np.testing.assert_array_equal(index < 0, np.isinf(expected))


def test_work_is_bounded(library: Library) -> None:
    """A few candidates per voxel and axis on every kind of mask."""
    for name, mask in masks((40, 48, 56), seed=2).items():
        library.reset_statistics()
        nearest(library, as_image(mask), 3, Options())
        counts = [s.get("counters", {}) for s in library.statistics().values()]
        assert sum(c.get("nearest_candidates", 0) for c in counts) / mask.size < 2 * 25, name


DEVICES = [H200, H200._replace(multiprocessors=40, shared_per_block_optin=64 << 10), TINY]


@pytest.mark.parametrize("device", DEVICES, ids=["H200", "T4", "little shared memory"])
def test_plan_stays_within_a_device(device: Any) -> None:
    shapes = (
        (1, 1, 1, 1, 1), (2, 3, 1, 1, 32768), (16, 1, 128, 128, 128), (1, 1, 1, 1024, 1024), (1, 1, 1, 32768, 3),
        (1, 1, 20000, 2, 3), (1, 1, 1, 32768, 32768), (1, 1, 1300, 1300, 1300),
    )  # fmt: skip
    spacings = [problems.Spacing(), problems.Spacing((1.0, 2.0, 3.0)), problems.Spacing(None, 8, 1)]
    for shape in shapes:
        for spacing in spacings:
            image = problems.Image(0, problems.DType.UINT8, shape, (0, 0, 0, 0, 1))
            plan = nearest_plans.plan(problems.NearestProblem(image, 3, spacing, 0, 0), device)
            for step in plan.steps:
                assert 0 < step.grid[0] < 2**31
                assert step.block % 32 == 0
                assert 32 <= step.block <= 1024
                if device is not TINY or "nearest_lines" in step.kernel:
                    assert step.shared + 1024 <= device.shared_per_block_optin
    keyed = [s.kernel for s in _plan((16, 1, 128, 128, 128)).steps]
    assert keyed == ["dtk::nearest_rows<uint16_t>", *["dtk::nearest_lines<dtk::Keyed, false>"] * 2]
    assert _plan((1, 1, 1, 1024, 1024)).steps[1].kernel == keyed[1]
    assert "Exact" in _plan((1, 1, 1, 1025, 1024)).steps[1].kernel
    assert _plan((1, 1, 4, 0, 8)).steps == ()
    with pytest.raises(ValueError, match="squared diagonals"):
        _plan((1, 1, 400, 32768, 32768))


def _plan(shape: tuple[int, ...]) -> Any:
    image = problems.Image(0, problems.DType.UINT8, shape, (0, 0, 0, 0, 1))
    return nearest_plans.plan(problems.NearestProblem(image, 3, problems.Spacing(), 0, 0), H200)


@pytest.mark.parametrize("mode", ["address", "thread"])
def test_under_a_sanitizer(mode: str) -> None:
    """Overruns and undefined behaviour; races between the threads of a block and between blocks."""
    under_a_sanitizer(__file__, mode)


def main(path: str) -> None:
    """Every kernel on small images, blocks one after another and interleaved."""
    library = Library(path)
    for seed in (0, 1):
        library.set(seed=seed, resident=2)
        for arithmetic in ARITHMETICS.values():
            for shape in ((70,), (35, 33), (26, 4, 9), (2, 1090)):
                for mask in (lattice(shape, 9, 4), masks(shape, seed)["half"]):
                    check(library, mask, arithmetic._replace(max_blocks=3))
            long = lattice((1200, 2), 401, 100)
            check(library, long, arithmetic._replace(device=TINY, max_blocks=2))
        rows = np.array([UNEQUAL, (1.0, 1.0, 1.0)])
        image = (np.random.default_rng(0).random((2, 1, 9, 7, 12)) < 0.9).astype(np.uint8)
        nearest(library, image, 3, Options(spacing=rows))
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
