"""The kernels that end in sums and gradients, run by the emulator, against the same kernels that write maps.

This file is also a program, ``python test_weigh_emulated.py LIBRARY``, for runs under a sanitizer.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from emulated import H200, Library, Measure, Options, Rule, transform, under_a_sanitizer, weigh
from emulator import build
from numpy.typing import NDArray
from test_kernels_emulated import TINY, ways

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

Floats = NDArray[np.float32]
MEASURES = [(Measure.BOUNDARY, 1, False), (Measure.BOUNDARY, 1, True)] + [
    (measure, alpha, False)
    for measure in (Measure.TWO_SIDED, Measure.INSIDE, Measure.ONE_SIDED)
    for alpha in (1, 2)
]
KINDS = ("labels", "labels from 2", "bool", "float32", "int16")
FEW = [MEASURES[1], MEASURES[3], MEASURES[6]]


def make_case(shape: tuple[int, ...], kind: str, seed: int = 0) -> tuple[Floats, NDArray[Any], Options]:
    """Prediction and target (batch, class, z, y, x), with empty and full masks in both where there is room."""
    rng = np.random.default_rng(seed)
    p = rng.random(shape, np.float32)
    p[0, 0] *= 0.49
    p[-1, -1] = 0.5 + p[-1, -1] / 2 if min(shape[:2]) > 1 else p[-1, -1]
    if kind.startswith("labels"):
        first = 0 if kind == "labels" else 2
        target = rng.integers(0, first + shape[1] + 1, (shape[0], 1, *shape[2:])).astype(np.uint8)
        target[-1] = first
        return p, target, Options(rule=Rule.EQUALS_CLASS, classes=shape[1], threshold=float(first))
    numbers = rng.random(shape) if kind == "float32" else rng.random(shape) < 0.3
    numbers[-1, 0] = 1
    numbers[0, -1] = 0
    return p, numbers.astype(kind), Options(rule=Rule.ABOVE, threshold=0.5)


def expected(
    library: Library, p: Floats, target: NDArray[Any], dims: int, o: Options, measure: Any, alpha: int, shift: bool
) -> tuple[NDArray[np.float64], Floats]:
    """From whole maps, in the same steps."""
    squared = measure != Measure.BOUNDARY and alpha == 2

    def distance(sdf: Floats) -> Floats:
        kept = np.isfinite(sdf) & ((sdf < 0) | (measure != Measure.INSIDE))
        return np.where(kept, np.abs(sdf), np.float32(0))

    phi = transform(library, target, dims, o._replace(squared=squared))
    if measure == Measure.BOUNDARY:
        z = np.where(np.isinf(phi), 0, np.where(phi < 0, np.float32(shift) + phi, phi))
        return (p.astype(np.float64) * z).sum((2, 3, 4)), z
    w = distance(phi)
    if measure != Measure.ONE_SIDED:
        mask = o._replace(squared=squared, rule=Rule.ABOVE, threshold=0.5, classes=None)
        w = w + distance(transform(library, p, dims, mask))
    g = (phi < 0).astype(np.float32) if o.classes is not None or target.dtype == bool else target.astype("float32")
    e = g - p
    t = w * e
    return (t.astype(np.float64) * e).sum((2, 3, 4)), -2 * t


def check(library: Library, shape: tuple[int, ...], kind: str, options: dict[str, Any], measures: Any) -> None:
    """The gradient bit for bit; the sums within what float32 adds lose; both whatever the number of blocks."""
    dims = 3
    p, target, o = make_case(shape, kind)
    for way in ways(shape[2:], o._replace(**options), weighed=True):
        for measure, alpha, shift in measures:
            sums, gradient = expected(library, p, target, dims, way, measure, alpha, shift)
            pieces, actual = weigh(library, p, target, dims, way, measure, alpha, shift)
            np.testing.assert_array_equal(actual, gradient)
            scale = 1e-6 * np.abs(gradient).sum((2, 3, 4)).max()
            np.testing.assert_allclose(pieces.astype(np.float64).sum(-1), sums, rtol=1e-6, atol=scale)
            again, same = weigh(library, p, target, dims, way._replace(max_blocks=2), measure, alpha, shift)
            assert (again == pieces).all()
            assert (same == actual).all()
            if way.solver == "packed" and measure in (Measure.TWO_SIDED, Measure.INSIDE):
                apart, same = weigh(library, p, target, dims, way._replace(joint=False), measure, alpha, shift)
                assert (apart == pieces).all()
                assert (same == actual).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_sum(library: Library, kind: str) -> None:
    for shape in ((2, 2, 9, 10, 7), (2, 3, 1, 13, 9)):
        check(library, shape, kind, {}, MEASURES)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1), (2, 2, 1, 1, 40), (1, 2, 1, 3, 1), (3, 1, 7, 1, 5), (1, 2, 1, 40, 33), (2, 1, 130, 6, 8),
        (1, 2, 5, 33, 36), (1, 1, 2, 40, 100), (1, 1, 1, 2, 2050),
    ],
)  # fmt: skip
def test_shapes(library: Library, shape: tuple[int, ...]) -> None:
    check(library, shape, "labels", {}, FEW)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (3.0, 0.7, 1.1), None])
def test_spacing(library: Library, spacing: Any) -> None:
    for shape in ((2, 2, 9, 10, 7), (2, 3, 1, 13, 9)):
        rows = np.random.default_rng(1).uniform(0.5, 2, (shape[0], 3))
        check(library, shape, "bool", {"spacing": rows if spacing is None else spacing}, FEW)


def test_long_lines(library: Library) -> None:
    """Tiles in global memory."""
    for shape in ((1, 2, 1, 3, 600), (2, 1, 2, 600, 3), (1, 1, 1, 1, 900)):
        check(library, shape, "float32", {"device": TINY}, FEW)


def test_joint_slices_of_128(library: Library) -> None:
    """Both forms, of noise and of masks whose sites lie far away."""
    p, target, o = make_case((1, 1, 2, 128, 128), "labels")
    target[0, 0, 0] = np.arange(128) > 120
    p[0, 0, 1] = np.where(np.arange(128) < 3, np.float32(0.75), np.float32(0.25))
    way = o._replace(fused=True, solver="packed")
    for measure, alpha in ((Measure.TWO_SIDED, 2), (Measure.INSIDE, 1)):
        joint = weigh(library, p, target, 3, way._replace(joint=True), measure, alpha)
        apart = weigh(library, p, target, 3, way._replace(joint=False), measure, alpha)
        for x, y in zip(joint, apart, strict=True):
            np.testing.assert_array_equal(x, y)
        sums, gradient = expected(library, p, target, 3, way, measure, alpha, False)
        np.testing.assert_array_equal(joint[1], gradient)
        np.testing.assert_allclose(joint[0].astype(np.float64).sum(-1), sums, rtol=1e-5)


def test_strides(library: Library) -> None:
    """Channels of a larger prediction, and of a larger target."""
    p, target, o = make_case((2, 3, 5, 6, 8), "float32")
    for measure in FEW:
        want = weigh(library, np.ascontiguousarray(p[:, 1:]), target[:, 1:].copy(), 3, o, *measure)
        got = weigh(library, p[:, 1:], target[:, 1:], 3, o, *measure)
        for x, y in zip(got, want, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_threads(library: Library, seed: int) -> None:
    shape = (2, 2, 6, 12, 17)
    p, target, o = make_case(shape, "labels")
    for way in ways(shape[2:], o, weighed=True):
        for measure in FEW:
            library.set(seed=0)
            want = weigh(library, p, target, 3, way, *measure)
            try:
                library.set(seed=seed + 1, resident=3)
                got = weigh(library, p, target, 3, way, *measure)
            finally:
                library.set(seed=0, resident=1)
            for x, y in zip(got, want, strict=True):
                np.testing.assert_array_equal(x, y)


def test_large_volume_takes_the_packed_kernel() -> None:
    """The launch plan by default, and the split values of 256^3."""
    from emulated import problems, weigh_plans

    def kernels(side: int, measure: Any, device: Any = H200, **options: Any) -> list[str]:
        shape = (4, 2, side, side, side)
        image = problems.Image(0, problems.DType.FLOAT32, shape, (2 * side**3, side**3, side**2, side, 1))
        problem = problems.SumsProblem(image, image, 3, problems.Spacing(), measure, 2, False, False, 0, 0)
        plan = weigh_plans.plan(problem, device, **options)
        steps = (plan.target.steps if plan.target else ()) + plan.weighed.steps
        return [step.kernel.removeprefix("dtk::") for step in steps]

    packed = "packed_slices<uint8_t, true, 8"
    assert kernels(128, Measure.BOUNDARY) == ["scan<uint8_t>", f"{packed}, dtk::Weighed<dtk::PackedSlices>>"]
    joint = ["scan<uint8_t>", "scan<uint8_t>", f"{packed}, dtk::Weighed<dtk::PackedSlices>, true>"]
    apart = ["scan<uint8_t>", "packed_slices<uint8_t, true, 16>", *kernels(128, Measure.BOUNDARY)]
    for measure in (Measure.TWO_SIDED, Measure.INSIDE):
        assert kernels(128, measure) == joint
        assert kernels(128, measure, joint=False) == apart
        # Two blocks of one slice each, but not of two.
        assert kernels(128, measure, H200._replace(shared_per_block_optin=99 * 1024)) == apart
    with pytest.raises(ValueError, match="joint"):
        kernels(256, Measure.TWO_SIDED, joint=True)
    with pytest.raises(ValueError, match="joint"):
        kernels(128, Measure.ONE_SIDED, joint=True)
    assert kernels(256, Measure.ONE_SIDED)[1:] == [
        "slices<int32_t, true, dtk::Strips, true, dtk::Weighed<dtk::Slices>>"
    ]


@pytest.mark.parametrize("mode", ["address", "thread"])
def test_under_a_sanitizer(mode: str) -> None:
    under_a_sanitizer(__file__, mode)


def main(path: str) -> None:
    """Every kernel, on small images."""
    library = Library(path)
    for seed in (0, 1):
        library.set(seed=seed, resident=2)
        check(library, (2, 2, 5, 12, 9), "labels", {}, FEW)
        check(library, (1, 2, 1, 6, 33), "float32", {"spacing": (2.0, 1.5, 0.5)}, FEW)
        check(library, (1, 2, 4, 6, 9), "int16", {"spacing": np.array([[1.0, 2.0, 3.0]])}, FEW[1:])
        check(library, (1, 1, 1, 2, 600), "bool", {"device": TINY}, FEW)
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
