"""The CUDA kernels, unmodified, run by the emulator with the real launch plan, against brute force.

The same cases under AddressSanitizer and ThreadSanitizer run in subprocesses (a sanitizer must be loaded first):
this file is then a program, ``python test_kernels_emulated.py LIBRARY``.
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
    plans,
    transform,
    transform_with_extrema,
    under_a_sanitizer,
)
from emulator import build
from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

SIDES = (1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
# So little shared memory that tiles have few lanes or one, or, from 500 voxels on, lie in global memory.
TINY = H200._replace(shared_per_block_optin=9216)


def check(library: Library, mask: NDArray[Any], options: Options = Options()) -> None:  # noqa: B008
    """One image at unit spacing, bit for bit, in all plans that the options leave open."""
    op = "sdf" if options.signed else "edt"
    expected = oracle.exact(oracle.squared(op, mask, closed=options.closed), is_squared=options.squared)
    for forced in ways(mask.shape, options):
        actual = transform(library, as_image(mask), mask.ndim, forced).reshape(mask.shape)
        np.testing.assert_array_equal(actual, expected)


def ways(shape: tuple[int, ...], options: Options, *, weighed: bool = False) -> list[Options]:
    """The options for every plan that they leave open."""
    volume = len(shape) == 3 and min(shape) > 1
    ways = [options._replace(fused=False)] if options.solver not in plans.FORCED else []
    if volume and options.solver in (None, "strips") and options.device == H200:
        ways.append(options._replace(fused=True, solver="strips"))
    isotropic = isinstance(options.spacing, tuple) and len(set(options.spacing)) == 1
    if volume and options.solver in (None, "split") and isotropic and options.device == H200:
        ways.append(options._replace(fused=True, solver="split"))
    for name, strip in plans.PACKED_STRIPS.items():
        packs = isotropic and options.device == H200 and plans.packs(list(shape), strip)
        if (
            volume
            and options.solver in (None, name)
            and packs
            and not (strip == 16 and (weighed or shape[0] > 128))
        ):
            ways.append(options._replace(fused=True, solver=name))
    return ways


def check_all(library: Library, shape: tuple[int, ...], *options: Options, only: str = "") -> None:
    for name, mask in masks(shape, seed=sum(shape)).items():
        if not only or name in only.split():
            for o in options:
                check(library, mask, o)


BOTH = (Options(signed=False), Options(signed=True))


@pytest.mark.parametrize("n", SIDES)
def test_one_axis(library: Library, n: int) -> None:
    check_all(library, (n,), *BOTH)


@pytest.mark.parametrize("n", SIDES)
def test_two_axes(library: Library, n: int) -> None:
    check_all(library, (n, 7), *BOTH)
    check_all(library, (6, n), *BOTH)


@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize("solver", plans.SOLVERS)
def test_solvers_by_length(library: Library, n: int, solver: str) -> None:
    check_all(library, (3, n), *(o._replace(solver=solver) for o in BOTH), only="half sparse organ hole")


@pytest.mark.parametrize("n", [n for n in SIDES if n > 1])
def test_three_axes(library: Library, n: int) -> None:
    for shape in ((n, 3, 4), (3, n, 4), (4, 3, n)):
        check_all(library, shape, *BOTH, only="half sparse organ hole")


@pytest.mark.parametrize(
    "shape",
    [(1030,), (1000, 3), (2048, 2), (3, 1000), (2049, 2, 2), (4, 2045), (700, 3, 5), (2, 1001, 3), (2, 3, 999)],
)
def test_long_lines(library: Library, shape: tuple[int, ...]) -> None:
    check_all(library, shape, *BOTH, only="half sparse single hole")


@pytest.mark.parametrize("solver", plans.SOLVERS)
@pytest.mark.parametrize("shape", [(70,), (20, 41), (13, 17, 19)])
def test_solvers(library: Library, shape: tuple[int, ...], solver: str) -> None:
    check_all(library, shape, *(o._replace(solver=solver) for o in BOTH))


@pytest.mark.parametrize(
    "shape", [(1,), (9,), (1, 1), (8, 21), (1, 30), (30, 1), (1, 1, 1), (5, 12, 7), (9, 1, 6)]
)
def test_closed_border(library: Library, shape: tuple[int, ...]) -> None:
    check_all(library, shape, *(o._replace(closed=True, squared=True) for o in BOTH))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 40), (1, 40, 1), (40, 1, 1), (1, 12, 9), (12, 1, 9), (12, 9, 1)]
)
def test_axes_of_length_one(library: Library, shape: tuple[int, ...]) -> None:
    check_all(library, shape, *BOTH)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "steps", "transposed", "offset"])
def test_dtypes_and_strides(library: Library, name: str, layout: str) -> None:
    """Any dtype, read where it lies; values other than 0 and 1, negative ones, infinity and NaN."""
    rng = np.random.default_rng(5)
    shape = (2, 2, 9, 6, 8)
    wide = {"channels last": (2, 9, 6, 8, 2), "steps": (2, 2, 18, 6, 24), "transposed": (8, 6, 9, 2, 2)}
    foreground = rng.random(wide.get(layout, shape)) < 0.7
    values: NDArray[Any]
    if name == "bfloat16":
        kinds = np.array([0x3F80, 0xBF80, 0x0001, 0x7F80], np.uint16)  # 1, -1, the smallest, infinity
        zeros = np.array([0x0000, 0x8000, 0x7FC0], np.uint16)  # 0, -0, NaN
    elif name.startswith("float"):
        kinds = np.array([1, -1, np.finfo(name).smallest_subnormal, np.inf], name)
        zeros = np.array([0.0, -0.0, np.nan, 0.0], name)
    else:
        kinds = (
            np.array([1, True, 127, 1], name)
            if name == "bool"
            else np.array([1, 64, 127, np.iinfo(name).min or 128], name)
        )
        zeros = np.array([0], name)
    values = np.where(foreground, rng.choice(kinds, foreground.shape), rng.choice(zeros, foreground.shape))
    if layout == "offset":  # no vector load is aligned
        memory = np.zeros(values.size + 1, values.dtype)
        memory[1:] = values.ravel()
        values = memory[1:].reshape(shape)
    views = {
        "channels last": lambda a: a.transpose(0, 4, 1, 2, 3),
        "steps": lambda a: a[:, :, ::2, :, ::3],
        "transposed": lambda a: a.transpose(4, 3, 2, 1, 0),
    }
    view = views.get(layout, lambda a: a)
    image, mask = view(values), view(foreground)
    result = transform(library, image, 3, Options(dtype=name))
    for b, c in np.ndindex(2, 2):
        expected = oracle.exact(oracle.squared_sdf(mask[b, c]), is_squared=False)
        np.testing.assert_array_equal(result[b, c], expected)


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "uint8", "int16"])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1, 37), (1, 1, 1, 8, 12), (2, 1, 5, 6, 7)])
def test_threshold(library: Library, name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    scale = 1 if name.startswith("float") else 100
    image = (rng.random(shape) * scale).astype(name)
    threshold = float(image.flat[3])  # a value that occurs: it is background
    result = transform(library, image, 3, Options(rule=Rule.ABOVE, threshold=threshold))
    for b, c in np.ndindex(shape[:2]):
        expected = oracle.exact(oracle.squared_sdf(image[b, c] > threshold), is_squared=False)
        np.testing.assert_array_equal(result[b, c], expected)


@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "int64", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 60), (2, 1, 1, 9, 12), (1, 1, 7, 6, 8), (2, 1, 130, 3, 4)])
def test_label_maps(library: Library, name: str, shape: tuple[int, ...]) -> None:
    labels = np.random.default_rng(7).choice([0, 1, 1, 3], shape).astype(name)
    for first in (0, 1, -2):
        result = transform(library, labels, 3, Options(rule=Rule.EQUALS_CLASS, classes=5, threshold=float(first)))
        for b, c in np.ndindex(shape[0], 5):
            expected = oracle.exact(oracle.squared_sdf(labels[b, 0] == first + c), is_squared=False)
            np.testing.assert_array_equal(result[b, c], expected)


@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "int32", "int64"])
def test_classes_beyond_the_labels_dtype(library: Library, name: str) -> None:
    """No class wraps around onto a label."""
    limits = np.iinfo(name)
    labels = np.zeros((3, 1, 2, 2, 4), name)
    labels[0], labels[2] = limits.min, limits.max
    for first in (0, -256, 200, 65_500, -(2**32), 2**32 - 2):
        rule = Options(rule=Rule.EQUALS_CLASS, classes=300, threshold=float(first))
        result = transform(library, labels, 3, rule)[:, :, 0, 0, 0]
        classes = np.arange(first, first + 300)
        np.testing.assert_array_equal(
            result == -np.inf, classes == labels[:, 0, 0, 0, 0].astype(np.int64)[:, None]
        )
        assert np.isinf(result).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("solver", plans.SOLVERS)
@pytest.mark.parametrize("spacing", [(3.0, 0.7, 1.3), (1.0, 1.0, 0.01), (1e-3, 40.0, 1.0), (2.5, 2.5, 2.5)])
@pytest.mark.parametrize("closed", [False, True])
def test_spacing(
    library: Library, spacing: tuple[float, float, float], solver: str, signed: bool, closed: bool
) -> None:
    for shape in ((61,), (17, 40), (11, 9, 14), (1, 12, 9)):
        row = spacing[-len(shape) :]
        for name, mask in masks(shape, seed=8).items():
            for squared in (False, True):
                options = Options(signed, squared, closed, spacing, solver=solver)
                expected = oracle.squared("sdf" if signed else "edt", mask, row, closed=closed)
                for forced in ways(shape, options):
                    actual = transform(library, as_image(mask), len(shape), forced).reshape(shape)
                    oracle.assert_close(actual, expected, is_squared=squared)
            if name == "organ" and min(shape) == 1:
                break


@pytest.mark.parametrize("shape", [(3, 2, 1, 1, 21), (3, 1, 1, 7, 9), (2, 2, 5, 6, 7)])
@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_spacing_on_the_device(library: Library, shape: tuple[int, ...], one_row: bool, closed: bool) -> None:
    rng = np.random.default_rng(9)
    image = (rng.random(shape) < 0.8).astype(np.uint8)
    rows = rng.uniform(0.3, 4, (1 if one_row else shape[0], 3))
    options = Options(spacing=rows, closed=closed)
    for forced in ways(shape[2:], options):
        result = transform(library, image, 3, forced)
        for b, c in np.ndindex(shape[:2]):
            expected = oracle.squared_sdf(image[b, c], rows[0 if one_row else b], closed=closed)
            oracle.assert_close(result[b, c], expected, is_squared=False)


def test_isotropic_spacing_scales_exact_integers(library: Library) -> None:
    mask = masks((9, 10, 11), seed=3)["half"]
    unit = transform(library, as_image(mask), 3, Options(squared=True))
    root = np.sign(unit) * np.sqrt(np.abs(unit))
    scaled = transform(library, as_image(mask), 3, Options(spacing=(0.3, 0.3, 0.3)))
    np.testing.assert_array_equal(scaled, root * np.float32(0.3))


def as_float(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Results of any type as float32; a byte of 255 is infinity."""
    if name == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    wide = values.astype(np.float32)
    return np.where(wide == 255, np.float32(np.inf), wide) if name == "uint8" else wide


def narrowed(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """float32 rounded to nearest, ties to even."""
    if name == "bfloat16":
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    return np.rint(values) if name == "uint8" else values.astype(name).astype(np.float32)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.37, 0.37, 0.37), (0.7, 1e-6, 2.3)])
@pytest.mark.parametrize("shape", [(37,), (6, 33), (7, 12, 20), (40, 3, 9)])
def test_narrow_results(
    library: Library, shape: tuple[int, ...], spacing: tuple[float, float, float], name: str
) -> None:
    """float32 rounded once, from every kernel that ends a transform."""
    for o in BOTH if name != "uint8" else BOTH[:1]:
        for closed in (False, True):
            options = o._replace(closed=closed, spacing=spacing)
            for kind, mask in masks(shape, seed=12).items():
                expected = transform(library, as_image(mask), len(shape), options)
                for forced in ways(shape, options._replace(out=name)):
                    actual = transform(library, as_image(mask), len(shape), forced)
                    np.testing.assert_array_equal(as_float(actual, name), narrowed(expected, name), err_msg=kind)


@pytest.mark.parametrize("shape", [(3, 2, 1, 1, 21), (3, 3, 1, 5, 9), (2, 2, 5, 6, 7), (2, 1, 40, 33, 12)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.37, 0.37, 0.37), (0.7, 1.3, 2.3)])
@pytest.mark.parametrize("closed", [False, True])
def test_extrema(
    library: Library, shape: tuple[int, ...], spacing: tuple[float, float, float], closed: bool
) -> None:
    """The largest finite squares of each image and side, from tiles that hold several images too."""
    rng = np.random.default_rng(13)
    image = (rng.random(shape) < rng.random((*shape[:2], 1, 1, 1)) ** 0.2).astype(np.uint8)
    image[0, 0] = 1
    image[-1, 0] = 0
    dims = sum(n > 1 for n in shape[2:])
    for signed in (False, True):
        for squared in (False, True):
            options = Options(signed, squared, closed, spacing)
            for way in ways(shape[2:], options):
                for blocks in (None, 2):
                    extrema = np.zeros((*shape[:2], 2), np.float32)
                    forced = way._replace(max_blocks=blocks)
                    result = transform_with_extrema(library, image, dims, forced, extrema)
                    np.testing.assert_array_equal(result, transform(library, image, dims, forced))
                    finite = np.where(np.isfinite(result), result, 0).reshape(*shape[:2], -1).astype(np.float64)
                    sides = [-finite.min(-1), finite.max(-1)] if signed else [finite.max(-1), 0 * finite.max(-1)]
                    expected = np.stack(sides, -1).clip(0) ** (1 if squared else 2)
                    np.testing.assert_allclose(extrema, expected, rtol=3e-7)


def test_narrow_results_with_extrema(library: Library) -> None:
    mask = masks((9, 20, 24), seed=14)["half"]
    both = [np.zeros((1, 1, 2), np.float32) for _ in range(2)]
    for name, extrema in zip(("float32", "float16"), both, strict=True):
        transform_with_extrema(library, as_image(mask), 3, Options(out=name), extrema)
    np.testing.assert_array_equal(*both)
    assert both[0].min() > 0


def test_batches_differ(library: Library) -> None:
    shape = (7, 6, 5)
    kinds = masks(shape, seed=4)
    image = np.stack(list(kinds.values())).reshape(4, 2, *shape)
    for forced in ways(shape, Options()):
        result = transform(library, image, 3, forced).reshape(-1, *shape)
        for actual, mask in zip(result, kinds.values(), strict=True):
            np.testing.assert_array_equal(actual, oracle.exact(oracle.squared_sdf(mask), is_squared=False))


@pytest.mark.parametrize(
    "shape", [(2, 2, 2), (3, 33, 8), (3, 8, 66), (2, 71, 64), (130, 9, 10), (129, 5, 7), (9, 17, 31), (200, 8, 16)]
)
def test_slices(library: Library, shape: tuple[int, ...]) -> None:
    """Several teams and tiles, rows of whole words and of single codes, one and two bytes each."""
    check_all(library, shape, *BOTH)


@pytest.mark.parametrize("signed", [False, True])
def test_dead_slices_and_columns(library: Library, signed: bool) -> None:
    """Columns without any site beside others, and slices of one class throughout: what the early outs skip."""
    mask = np.zeros((6, 20, 40), np.uint8)
    mask[:, :, 11:29] = 1  # no change of class along the first axis anywhere
    for image in (mask, 1 - mask, mask.transpose(0, 2, 1).copy()):
        check(library, image, Options(signed))
        part = image.copy()
        part[2, 3, 12:14] ^= 1
        check(library, part, Options(signed))
    library.reset_statistics()
    transform(library, as_image(np.zeros((6, 40, 40), np.uint8)), 3, Options(signed, fused=True, solver="strips"))
    counts = [s.get("counters", {}) for s in library.statistics().values()]
    assert all(not any(c.values()) for c in counts), counts


@pytest.mark.parametrize("shape", [(2, 128, 128), (2, 90, 231), (2, 231, 90), (2, 61, 268)])
def test_large_slices(library: Library, shape: tuple[int, ...]) -> None:
    """Against the passes over lines, which other tests hold to brute force."""
    for mask in (masks(shape, seed=5)[name] for name in ("organ", "half", "single")):
        for o in BOTH:
            apart, *fused = (transform(library, as_image(mask), 3, forced) for forced in ways(shape, o))
            assert fused
            for result in fused:
                np.testing.assert_array_equal(apart, result)


@pytest.mark.parametrize("shape", [(37,), (9, 70), (8, 9, 40)])
@pytest.mark.parametrize("max_blocks", [1, 2])
def test_few_blocks_go_round(library: Library, shape: tuple[int, ...], max_blocks: int) -> None:
    check_all(library, shape, *(o._replace(max_blocks=max_blocks) for o in BOTH))


@pytest.mark.parametrize("shape", [(150,), (600,), (2, 150, 5), (2, 600, 3), (3, 620), (2, 2, 580), (300, 4)])
@pytest.mark.parametrize("max_blocks", [None, 2])
def test_little_shared_memory(library: Library, shape: tuple[int, ...], max_blocks: int | None) -> None:
    check_all(
        library,
        shape,
        *(o._replace(device=TINY, max_blocks=max_blocks) for o in BOTH),
        only="half sparse hole full",
    )
    anisotropic = Options(spacing=(1.5, 0.5, 2.0), device=TINY, max_blocks=max_blocks)
    mask = masks(shape, seed=1)["sparse"]
    actual = transform(library, as_image(mask), mask.ndim, anisotropic).reshape(shape)
    oracle.assert_close(actual, oracle.squared_sdf(mask, anisotropic.spacing[-mask.ndim :]), is_squared=False)


@pytest.mark.parametrize("seed", range(1, 7))
def test_random_schedules(library: Library, seed: int) -> None:
    library.set(seed=seed, resident=3)
    try:
        for shape in ((50,), (10, 44), (9, 11, 36)):
            options = [o._replace(max_blocks=b) for o in BOTH for b in (None, 3)]
            check_all(library, shape, *options, only="half organ hole")
    finally:
        library.set(seed=0, resident=1)


def test_longest_line_in_integers(library: Library) -> None:
    """Sides of 32,768: squares near 2^31 - 1 neither wrap nor meet the value of "no site"."""
    mask = np.ones((2, 32768), np.uint8)
    mask[0, 0] = 0
    expected = np.add.outer(np.arange(2.0) ** 2, np.arange(32768.0) ** 2)
    result = transform(library, as_image(mask), 2, Options(signed=False, squared=True)).reshape(mask.shape)
    np.testing.assert_array_equal(result, expected.astype(np.float32))
    column = np.ones((32768, 2), np.uint8)
    column[0, 0] = 0
    result = transform(library, as_image(column), 2, Options(signed=False, squared=True)).reshape(column.shape)
    np.testing.assert_array_equal(result, expected.T.astype(np.float32))


@pytest.mark.parametrize("shape", [(60, 176, 8), (60, 8, 176), (247, 8, 8), (100, 40, 128), (128, 128, 24)])
@pytest.mark.parametrize("corner", [(0, 0, 0), (-1, -1, -1), (0, -1, 0)])
def test_largest_squares_in_16_bits(
    library: Library, shape: tuple[int, int, int], corner: tuple[int, int, int]
) -> None:
    """Nothing wraps: squares near 2^16, and lines without any site beside them."""
    mask = np.zeros(shape, np.uint8)
    mask[corner] = 1
    steps = [np.abs(np.arange(n) - c % n).astype(np.float32) ** 2 for n, c in zip(shape, corner, strict=True)]
    squares = steps[0][:, None, None] + steps[1][:, None] + steps[2]
    signed = squares.copy()
    signed[corner] = -1
    forced = ways(shape, Options(signed=False, squared=True))
    assert "packed" in [way.solver for way in forced]
    for way in forced:
        if way.solver in plans.PACKED_STRIPS:
            result = transform(library, as_image(1 - mask), 3, way).reshape(shape)
            np.testing.assert_array_equal(result, squares)
            result = transform(library, as_image(mask), 3, way._replace(signed=True)).reshape(shape)
            np.testing.assert_array_equal(result, signed)


@pytest.mark.parametrize(
    ("sides", "strips"),
    [
        ([128, 128, 128], (8, 16)),
        ([136, 96, 128], (8, 16)),
        ([60, 176, 8], (8, 16)),
        ([60, 177, 8], ()),
        ([60, 8, 184], ()),
        ([80, 136, 136], (8,)),
        ([247, 8, 8], (8,)),
        ([249, 8, 8], ()),
        ([136, 128, 128], ()),
    ],
)
def test_what_fits_16_bits(sides: list[int], strips: tuple[int, ...]) -> None:
    assert tuple(strip for strip in (8, 16) if plans.packs(sides, strip)) == strips


def test_work_is_bounded(library: Library) -> None:
    """A few candidates per voxel and axis on every kind of mask."""
    for name, mask in masks((40, 48, 56), seed=2).items():
        for signed in (False, True):
            library.reset_statistics()
            transform(library, as_image(mask), 3, Options(signed=signed, fused=False))
            counts = [s.get("counters", {}) for s in library.statistics().values()]
            assert sum(c.get("candidates", 0) for c in counts) / mask.size < 2 * 5, (name, signed)
            assert sum(c.get("strip_candidates", 0) for c in counts) / mask.size < 2 * 16, (name, signed)


@pytest.mark.parametrize("mode", ["address", "thread"])
def test_under_a_sanitizer(mode: str) -> None:
    """Overruns and undefined behaviour; races between the threads of a block and between blocks."""
    under_a_sanitizer(__file__, mode)


def main(path: str) -> None:
    """Every kernel and every branch of the launch plan, on small images."""
    library = Library(path)
    check_all(library, (33,), *BOTH, only="half organ")
    for seed in (0, 1):
        library.set(seed=seed, resident=2)
        for shape in ((6, 33), (9, 5, 12), (130, 2, 5), (2, 18, 36)):
            for solver in (*plans.SOLVERS, *plans.FORCED) if len(shape) > 2 else plans.SOLVERS:
                options = [o._replace(solver=solver, closed=True, max_blocks=3) for o in BOTH]
                check_all(library, shape, *options, only="organ half")
        for shape in ((600,), (2, 600, 3), (2, 260)):
            check_all(library, shape, *(o._replace(device=TINY, max_blocks=2) for o in BOTH), only="sparse")
    check_all(library, (2050, 3), *BOTH, only="half")
    for shape in ((4, 3, 1, 6, 33), (2, 2, 9, 5, 12)):
        for options in ways(shape[2:], Options(closed=True, out="float16", max_blocks=3)):
            image = (np.random.default_rng(0).random(shape) < 0.9).astype(np.uint8)
            extrema = np.zeros((*shape[:2], 2), np.float32)
            transform_with_extrema(library, image, 3, options, extrema)
    for spacing in ((2.0, 1.5, 0.5), np.array([[1.0, 2.0, 3.0], [0.5, 1.0, 1.0]])):
        for solver in plans.SOLVERS:
            for signed in (False, True):
                image = (np.random.default_rng(0).random((2, 1, 6, 7, 9)) < 0.8).astype(np.float32)
                options = Options(signed, spacing=spacing, closed=True, solver=solver)
                for forced in ways((6, 7, 9), options):
                    transform(library, image, 3, forced)
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
