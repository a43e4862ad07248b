"""Transforms that end in the formula of a map, run by the emulator: against the pass over maps, bit for bit, and
against formulas in float64.

This file is also a program, ``python test_mapped_emulated.py LIBRARY``, for runs under a sanitizer.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from emulated import H200, Library, Options, Rule, masks, problems, remap, transform, under_a_sanitizer
from emulator import build
from numpy.typing import NDArray
from test_kernels_emulated import TINY, ways

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

# The named maps that need no more than a voxel's own distance; the last two at equal spacing alone.
OWN = (
    "edt_sdf", "ma_dtm", "kervadec", "ac", "hd_two", "li_odm", "li_sd", "unet_w", "truncated", "diagonal",
    "half", "ma_sdf",
)  # fmt: skip
FEW = ("kervadec", "ma_dtm", "unet_w", "diagonal", "ma_sdf")
SHAPES = [
    (1, 1, 1), (1, 1, 19), (1, 6, 11), (9, 1, 8), (1, 40, 1), (7, 6, 9), (5, 10, 12), (130, 4, 6), (3, 18, 33),
]  # fmt: skip
UNEQUAL = (3.0, 0.8, 1.5)


def options_of(name: str, **changes: Any) -> Options:
    """How to make the map: signed or not, and its formula."""
    from dtkernels.formula import formula
    from dtkernels.maps import resolve

    o = resolve(name, **changes)
    f = formula(o)
    signed = f.one_sided is None or f.empty != (f.one_sided, 0.0)
    mapping = problems.Mapping(tuple(f.floats()), o.boundary == "inner_zero")
    return Options(signed=signed, closed=o.border == "closed", mapping=mapping)


def make(shape: tuple[int, ...], samples: int = 2) -> NDArray[np.uint8]:
    """Masks (batch, class, z, y, x) of many kinds, an empty one and a full one among them."""
    kinds = masks(shape, seed=sum(shape))
    return np.stack(list(kinds.values())).reshape(samples, -1, *shape)


def check(library: Library, image: NDArray[Any], dims: int, options: Options, oracle: str = "") -> None:
    """The same bits with and without a pass of its own, on every way through the kernels."""
    for way in ways(image.shape[2:], options):
        plain = transform(library, image, dims, way._replace(mapping=None))
        want = remap(library, plain, image, dims, way)
        got = transform(library, image, dims, way)
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32), err_msg=str(way))
        if not oracle:
            continue
        import maps_oracle

        for b, c in np.ndindex(image.shape[:2]):
            s = way.spacing if isinstance(way.spacing, tuple) else tuple(way.spacing[b % len(way.spacing)])
            mask = image[b, c].reshape(image.shape[5 - dims :]) != 0
            expected = maps_oracle.expected(oracle, mask, s[3 - dims :]).reshape(got[b, c].shape)
            np.testing.assert_allclose(got[b, c], expected, rtol=2e-6, atol=2e-6, err_msg=f"{way} {b} {c}")


@pytest.mark.parametrize("name", OWN)
def test_every_map_of_own_distances(library: Library, name: str) -> None:
    options = options_of(name)
    for shape in SHAPES:
        image = make(shape)
        for dims in (dims for dims in (1, 2, 3) if shape[: 3 - dims] == (1,) * (3 - dims)):
            check(library, image, dims, options, name)
            check(library, image, dims, options._replace(spacing=(0.7,) * 3), name)
        if name not in OWN[-2:]:
            check(library, image, 3, options._replace(spacing=UNEQUAL), name)


@pytest.mark.parametrize("name", FEW)
def test_rows_of_spacing(library: Library, name: str) -> None:
    equal = np.array([[1.0] * 3, [2.5] * 3])
    for shape in ((7, 6, 9), (1, 6, 11), (1, 1, 19)):
        for rows in (equal, equal[1:], np.array([UNEQUAL, (0.5, 1.0, 2.0)])):
            if name == "ma_sdf" and (rows == UNEQUAL).any():
                continue
            check(library, make(shape), 3, options_of(name)._replace(spacing=rows), name)


@pytest.mark.parametrize("name", FEW)
def test_closed_borders(library: Library, name: str) -> None:
    for shape in ((7, 6, 9), (5, 10, 12), (1, 6, 11), (9, 1, 8), (1, 1, 19)):
        options = options_of(name, border="closed")
        check(library, make(shape), 3, options)
        check(library, make(shape), 3, options._replace(spacing=(0.7,) * 3))
        if name != "ma_sdf":
            check(library, make(shape), 3, options._replace(spacing=UNEQUAL))


def test_words_for_missing_classes(library: Library) -> None:
    image = make((5, 10, 12))
    for empty, full in (("zeros", "ones"), ("nan", "inf"), ("diagonal", "diagonal"), (-3.5, 2.0)):
        for name in ("kervadec", "hd_two", "ma_dtm"):
            for clip in ({}, {"truncate": 1.5}):
                options = options_of(name, on_empty=empty, on_full=full, **clip)
                check(library, image, 3, options)
                check(library, image, 3, options._replace(spacing=UNEQUAL))


@pytest.mark.parametrize("solver", ["divide", "strips", "envelope", "window"])
def test_every_solver_of_lines(library: Library, solver: str) -> None:
    for name in ("kervadec", "ma_dtm"):
        for shape in ((7, 6, 9), (1, 1, 300)):
            options = options_of(name)._replace(solver=solver, fused=False)
            check(library, make(shape), 3, options, name)
            check(library, make(shape), 3, options._replace(spacing=UNEQUAL), name)


def test_long_lines_labels_and_few_blocks(library: Library) -> None:
    """Tiles in global memory, blocks with several turns, classes of a label map, a result that is not aligned."""
    labels = np.random.default_rng(0).integers(0, 4, (2, 1, 6, 10, 12)).astype(np.int16)
    labels[1] = 1
    for name in FEW:
        options = options_of(name)
        for shape in ((1, 3, 600), (2, 600, 3), (1, 1, 900)):
            check(library, make(shape)[:1, ::3], 3, options._replace(device=TINY), name)
        check(library, labels, 3, options._replace(rule=Rule.EQUALS_CLASS, classes=3, max_blocks=2))
        check(library, make((5, 10, 12)), 3, options._replace(max_blocks=3))


@pytest.mark.parametrize("seed", range(1, 4))
def test_any_order_of_threads(library: Library, seed: int) -> None:
    image = make((6, 12, 17))
    for name in ("kervadec", "ma_dtm"):
        for way in ways(image.shape[2:], options_of(name)):
            library.set(seed=0)
            want = transform(library, image, 3, way)
            try:
                library.set(seed=seed, resident=3)
                np.testing.assert_array_equal(transform(library, image, 3, way), want)
            finally:
                library.set(seed=0, resident=1)


def test_no_pass_over_maps(library: Library) -> None:
    """A map takes the launches of its distances, bytes and all."""
    from test_plan import problem

    from bench import model
    from dtkernels.plans.transform import plan

    mapping = options_of("kervadec").mapping
    for shape in ((16, 1, 128, 128, 128), (1, 1, 256, 256, 256), (2, 1, 1, 700, 800), (1, 1, 64, 64, 64)):
        distances, mapped = plan(problem(shape), H200), plan(problem(shape, mapping=mapping), H200)
        assert [s._replace(constant=b"") for s in mapped.steps] == [
            s._replace(constant=b"") for s in distances.steps
        ]
        assert mapped.scratch_bytes == distances.scratch_bytes
        assert model.bytes_per_voxel(mapped, 1) == model.bytes_per_voxel(distances, 1)


def test_only_of_float32_distances() -> None:
    from test_plan import problem

    from dtkernels.plans.transform import plan

    mapping = problems.Mapping((0.0,) * 32, False)
    for wrong in ({"squared": True}, {"extrema": 64}, {"out_dtype": problems.DType.FLOAT16}):
        with pytest.raises(ValueError, match="mapping: expected float32 distances without extrema"):
            plan(problem((1, 1, 8, 8, 8), mapping=mapping, **wrong), H200)


@pytest.mark.parametrize("mode", ["address", "thread"])
def test_under_a_sanitizer(mode: str) -> None:
    under_a_sanitizer(__file__, mode)


def main(path: str) -> None:
    """Every kernel, on small images; -(d - D) / D inside, d / D outside, and 0 next to the background."""
    library = Library(path)
    side = (0.0, 0.0, 0.0, 0.0)
    inside, outside = (-1.0, *side[:3], 1.0, *side[:3], 1.0, 0.0, 0.0), (1.0, *side, *side[:3], 1.0, 0.0, 0.0)
    formula = (*inside, *outside, -9.0, 9.0, 9.0, 0.0, 0.5, 0.0, -0.5, 0.0, 0.0, 0.0)
    for seed in (0, 1):
        library.set(seed=seed, resident=2)
        for signed in (True, False):
            options = Options(signed=signed, mapping=problems.Mapping(formula, True))
            for shape in ((5, 12, 9), (1, 6, 33), (1, 1, 40)):
                check(library, make(shape), 3, options)
                rows = options._replace(spacing=np.array([[1.0, 2.0, 3.0], [1.0] * 3]))
                check(library, make(shape), 3, rows._replace(mapping=problems.Mapping(formula, False)))
            check(library, make((1, 2, 600))[:1, :2], 3, options._replace(device=TINY))
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
