"""What holds for every mask, whatever its values: hypothesis looks for one where it does not.

Where a law relates integers (unit spacing) it must hold exactly; at other spacings within the roundings that
:func:`oracle.tolerance` derives. Laws about the same image computed twice hold bit for bit at any spacing.
"""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
import torch
from conftest import Backend, numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

OPS = ["edt", "sdf"]


@st.composite
def seeded_masks(draw: st.DrawFn) -> np.ndarray:
    """Longer axes than hypothesis likes to fill voxel by voxel."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=12))
    axis = draw(st.integers(0, len(shape) - 1))
    shape = (*shape[:axis], draw(st.integers(13, 140)), *shape[axis + 1 :])
    density = draw(st.sampled_from([0.02, 0.5, 0.9, 0.995]))
    return np.random.default_rng(draw(st.integers(0, 2**16))).random(shape) < density


def filled_masks(max_side: int = 8, min_dims: int = 1, max_dims: int = 3) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(bool, hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=max_side))


MASKS = st.one_of(filled_masks(), seeded_masks())
SPACINGS = st.lists(st.floats(0.0625, 20), min_size=3, max_size=3)
borders = pytest.mark.parametrize("border", ["open", "closed"])
ops = pytest.mark.parametrize("op", OPS)


def pairs_of_masks() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    return hnp.array_shapes(min_dims=1, max_dims=3, max_side=8).flatmap(
        lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
    )


def assert_near(actual: np.ndarray, expected: np.ndarray, ndim: int, *, is_squared: bool = False) -> None:
    """Two computed results of one true value: each within the tolerance of it."""
    np.testing.assert_allclose(actual, expected, rtol=2.1 * oracle.tolerance(ndim, is_squared=is_squared), atol=0)


@ops
@borders
@given(mask=MASKS, squared=st.booleans())
def test_equals_brute_force(backend: Backend, op: str, border: str, mask: np.ndarray, squared: bool) -> None:
    expected = oracle.squared(op, mask, closed=border == "closed")
    result = backend.op(op)(backend.put(mask), border=border, squared=squared)
    oracle.assert_exact(numpy(result), expected, is_squared=squared)


@ops
@borders
@given(mask=MASKS, spacing=SPACINGS, squared=st.booleans())
def test_equals_brute_force_at_any_spacing(
    backend: Backend, op: str, border: str, mask: np.ndarray, spacing: list[float], squared: bool
) -> None:
    spacing = spacing[: mask.ndim]
    expected = oracle.squared(op, mask, spacing, closed=border == "closed")
    result = backend.op(op)(backend.put(mask), spacing, border=border, squared=squared)
    oracle.assert_close(numpy(result), expected, is_squared=squared)


@borders
@given(mask=MASKS, spacing=SPACINGS)
def test_neighbours_differ_by_their_spacing_at_most(
    backend: Backend, border: str, mask: np.ndarray, spacing: list[float]
) -> None:
    """A distance is 1-Lipschitz; a signed one is too on either side and jumps by twice the spacing between."""
    spacing = spacing[: mask.ndim]
    x = backend.put(mask)
    distance, signed = numpy(backend.edt(x, spacing, border=border)), numpy(backend.sdf(x, spacing, border=border))
    for axis, step in enumerate(spacing):
        for values, jump in ((distance, 0.0), (signed, step)):
            first, second = (
                np.moveaxis(values, axis, 0)[s].astype(np.float64) for s in (slice(1, None), slice(-1))
            )
            both = np.isfinite(first) & np.isfinite(second)
            assert (np.isfinite(first) == np.isfinite(second)).all()
            first, second = first[both], second[both]
            slack = 2 * oracle.tolerance(mask.ndim, is_squared=False) * np.maximum(np.abs(first), np.abs(second))
            across = np.sign(first) * np.sign(second) < 0
            assert (np.abs(first - second) <= step + across * jump + slack).all()


@borders
@given(masks=pairs_of_masks())
def test_union_of_backgrounds_is_the_minimum(
    backend: Backend, border: str, masks: tuple[np.ndarray, np.ndarray]
) -> None:
    """edt(a and b) = min(edt(a), edt(b)): the background of the intersection is the union of both."""
    a, b = masks
    both, first, second = (backend.edt(backend.put(m), squared=True, border=border) for m in (a & b, a, b))
    # Background voxels of one mask have no distance of their own in it: 0 is their distance in both.
    assert torch.equal(both, torch.minimum(first, second))


@ops
@borders
@given(masks=pairs_of_masks(), spacing=SPACINGS)
def test_nested_masks_have_ordered_distances(
    backend: Backend, op: str, border: str, masks: tuple[np.ndarray, np.ndarray], spacing: list[float]
) -> None:
    """More foreground: larger distances inside, smaller ones outside. Roundings are monotone, so no slack."""
    small, large = masks[0] & masks[1], masks[0] | masks[1]
    spacing = spacing[: small.ndim]
    inner, outer = (backend.op(op)(backend.put(m), spacing, border=border) for m in (small, large))
    if op == "sdf":
        inner, outer = outer, inner
    slack = 1 + 2 * oracle.tolerance(small.ndim, is_squared=False) * torch.sign(outer)
    assert (inner <= outer * slack).all()


@ops
@borders
@given(mask=MASKS)
def test_flips_and_transposes(backend: Backend, op: str, border: str, mask: np.ndarray) -> None:
    result = numpy(backend.op(op)(backend.put(mask), border=border))
    for axis in range(mask.ndim):
        flipped = backend.op(op)(backend.put(np.flip(mask, axis)), border=border)
        np.testing.assert_array_equal(np.flip(numpy(flipped), axis), result)
    for order in itertools.permutations(range(mask.ndim)):
        permuted = backend.op(op)(backend.put(mask).permute(order), border=border)
        np.testing.assert_array_equal(numpy(permuted), result.transpose(order))


@ops
@given(mask=MASKS, spacing=SPACINGS)
def test_transposes_with_their_spacing(backend: Backend, op: str, mask: np.ndarray, spacing: list[float]) -> None:
    spacing = spacing[: mask.ndim]
    result = numpy(backend.op(op)(backend.put(mask), spacing))
    for order in itertools.permutations(range(mask.ndim)):
        permuted = backend.op(op)(backend.put(mask).permute(order), [spacing[k] for k in order])
        assert_near(numpy(permuted), result.transpose(order), mask.ndim)


def crop(tensor: torch.Tensor, width: int) -> torch.Tensor:
    return tensor[(slice(width, -width),) * tensor.ndim]


@ops
@given(mask=MASKS, width=st.integers(1, 4))
def test_padding(backend: Backend, op: str, mask: np.ndarray, width: int) -> None:
    """A closed border is a rim of background; an open one is as good as foreground that goes on."""
    call = backend.op(op)
    bare = backend.put(mask)
    rimmed = backend.put(np.pad(mask, width))
    assert torch.equal(crop(call(rimmed), width), call(bare, border="closed"))
    assert torch.equal(crop(call(rimmed, border="closed"), width), call(bare, border="closed"))
    extended = backend.put(np.pad(mask, width, constant_values=True))
    assert torch.equal(crop(backend.edt(extended), width), backend.edt(bare))


@ops
@borders
@given(mask=MASKS, spacing=SPACINGS, exponent=st.integers(-8, 8), factor=st.floats(0.1, 10))
def test_scaling_the_spacing_scales_the_distances(
    backend: Backend, op: str, border: str, mask: np.ndarray, spacing: list[float], exponent: int, factor: float
) -> None:
    x, spacing = backend.put(mask), spacing[: mask.ndim]
    result = backend.op(op)(x, spacing, border=border)
    doubled = backend.op(op)(x, [s * 2.0**exponent for s in spacing], border=border)
    assert torch.equal(doubled, result * 2.0**exponent)  # a power of two moves the exponents alone
    scaled = backend.op(op)(x, [s * factor for s in spacing], border=border)
    assert_near(numpy(scaled), numpy(result).astype(np.float64) * factor, mask.ndim)


@given(mask=MASKS, spacing=st.none() | SPACINGS, squared=st.booleans())
def test_complement_changes_the_sign(
    backend: Backend, mask: np.ndarray, spacing: list[float] | None, squared: bool
) -> None:
    spacing = spacing and spacing[: mask.ndim]
    inside, outside = (backend.sdf(backend.put(m), spacing, squared=squared) for m in (mask, ~mask))
    assert torch.equal(inside, -outside)


@borders
@given(mask=MASKS, spacing=st.none() | SPACINGS)
def test_signed_is_the_difference_of_the_unsigned(
    backend: Backend, border: str, mask: np.ndarray, spacing: list[float] | None
) -> None:
    spacing = spacing and spacing[: mask.ndim]
    inside = backend.edt(backend.put(mask), spacing, border=border)
    outside = backend.edt(backend.put(~mask), spacing)
    signed = backend.sdf(backend.put(mask), spacing, border=border)
    if spacing is None:
        assert torch.equal(signed, outside - inside)
    else:
        assert_near(numpy(signed), numpy(outside - inside), mask.ndim)


@borders
@given(mask=MASKS, spacing=st.none() | SPACINGS)
def test_zero_and_sign_tell_the_mask(
    backend: Backend, border: str, mask: np.ndarray, spacing: list[float] | None
) -> None:
    spacing = spacing and spacing[: mask.ndim]
    x = backend.put(mask)
    for squared in (False, True):
        assert torch.equal(backend.edt(x, spacing, border=border, squared=squared) > 0, x)
        signed = backend.sdf(x, spacing, border=border, squared=squared)
        assert torch.equal(signed < 0, x)
        assert torch.equal(signed > 0, ~x)


@ops
@borders
@given(mask=MASKS, spacing=st.none() | SPACINGS)
def test_squared_is_the_square(
    backend: Backend, op: str, border: str, mask: np.ndarray, spacing: list[float] | None
) -> None:
    spacing = spacing and spacing[: mask.ndim]
    x = backend.put(mask)
    square = numpy(backend.op(op)(x, spacing, border=border, squared=True)).astype(np.float64)
    distance = numpy(backend.op(op)(x, spacing, border=border))
    if spacing is None:
        np.testing.assert_array_equal(distance, oracle.exact(square, is_squared=False))
    else:
        assert_near(distance, oracle.root(square), mask.ndim)


@ops
@borders
@given(
    batch=filled_masks(min_dims=3, max_dims=5, max_side=5), spacing=st.none() | SPACINGS, dims=st.integers(1, 3)
)
def test_batch_equals_a_loop(
    backend: Backend, op: str, border: str, batch: np.ndarray, spacing: list[float] | None, dims: int
) -> None:
    spacing = spacing and spacing[:dims]
    x = backend.put(batch)
    result = backend.op(op)(x, spacing, border=border, spatial_dims=dims)
    images, results = x.reshape(-1, *x.shape[-dims:]), result.reshape(-1, *x.shape[-dims:])
    for image, expected in zip(images, results, strict=True):
        assert torch.equal(backend.op(op)(image, spacing, border=border), expected)


@ops
@given(data=st.data(), batch=filled_masks(min_dims=3, max_dims=4, max_side=6))
def test_spacing_per_sample_equals_a_loop(
    backend: Backend, op: str, data: st.DataObject, batch: np.ndarray
) -> None:
    dims = data.draw(st.integers(1, batch.ndim - 1))
    rows = data.draw(hnp.arrays(np.float32, (batch.shape[0], dims), elements=st.floats(0.0625, 20, width=32)))
    x = backend.put(batch)
    result = backend.op(op)(x, backend.put(rows), spatial_dims=dims)
    for image, row, expected in zip(x, rows.tolist(), result, strict=True):
        alone = backend.op(op)(image, row, spatial_dims=dims)
        if backend.device == "cpu":
            assert torch.equal(alone, expected)
        else:  # a GPU's rows are not read back: equal numbers are not seen to be equal, and count in float32
            torch.testing.assert_close(alone, expected, rtol=2e-6, atol=0)


@borders
@given(
    labels=hnp.arrays(np.int64, hnp.array_shapes(max_dims=3, max_side=9), elements=st.integers(-2, 6)),
    spacing=st.none() | SPACINGS,
    squared=st.booleans(),
    classes=st.integers(1, 6),
)
def test_labels_equal_signed_maps_of_each_class(
    backend: Backend, border: str, labels: np.ndarray, spacing: list[float] | None, squared: bool, classes: int
) -> None:
    options = {"spacing": spacing and spacing[: labels.ndim], "border": border, "squared": squared}
    x = backend.put(labels)
    expected = torch.stack([backend.sdf(x == c, **options) for c in range(classes)])
    assert torch.equal(backend.labels_sdf(x, classes, **options), expected)


@ops
@given(
    values=hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=9), elements=st.floats(width=32)),
    threshold=st.floats(-1e3, 1e3) | st.sampled_from([0.0, -0.0, 0.1, 0.5, np.inf, -np.inf]),
)
def test_threshold_equals_a_comparison(backend: Backend, op: str, values: np.ndarray, threshold: float) -> None:
    x = backend.put(values)
    assert torch.equal(backend.op(op)(x, threshold=threshold), backend.op(op)(x > threshold))


@ops
@given(mask=seeded_masks(), spacing=SPACINGS)
def test_the_same_call_gives_the_same_bits(
    backend: Backend, op: str, mask: np.ndarray, spacing: list[float]
) -> None:
    x, spacing = backend.put(mask), spacing[: mask.ndim]
    assert torch.equal(backend.op(op)(x, spacing), backend.op(op)(x, spacing))
