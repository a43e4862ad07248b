"""Values: every backend against the oracle; bit for bit at unit spacing, within a derived bound at others."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import oracle
import pytest
import torch
from conftest import EVERY_INSTRUCTION_SET, Backend, numpy, with_instruction_set

from bench import masks

OPS = ["edt", "sdf"]
BORDERS = ["open", "closed"]
variants = pytest.mark.parametrize(
    ("op", "border", "squared"),
    [pytest.param(*v, id=f"{v[0]}-{v[1]}-{'squared' if v[2] else 'root'}")
     for v in itertools.product(OPS, BORDERS, [False, True])],
)  # fmt: skip


def check_exact(
    backend: Backend, mask: np.ndarray, expected: dict[tuple[str, str], np.ndarray], spatial_dims: int
) -> None:
    """All variants that ``expected`` has squares for must have exactly those values."""
    x = backend.put(mask)
    for (op, border), square in expected.items():
        for squared in (False, True):
            result = backend.op(op)(x, border=border, squared=squared, spatial_dims=spatial_dims)
            message = f"{op} {border} {squared=}"
            oracle.assert_exact(numpy(result), square, is_squared=squared, message=message)


# ---- sizes: around every width that a kernel may work in (SIMD, warp, block, tile), on every axis

SIDES = [0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000]
SHAPES = sorted({
    *((n,) for n in SIDES),
    *((n, 5) for n in SIDES), *((5, n) for n in SIDES),
    *((n, 2, 3) for n in SIDES), *((2, n, 3) for n in SIDES), *((3, 2, n) for n in SIDES),
    (33, 65), (65, 33), (17, 31, 9), (1, 1), (1, 1, 1), (1, 9, 1), (9, 1, 9),
})  # fmt: skip


@cache
def squares_of(kind: str, shape: tuple[int, ...]) -> tuple[np.ndarray, dict[tuple[str, str], np.ndarray]]:
    """A mask and the exact squares of its variants; computed once for all backends."""
    rng = np.random.default_rng(len(shape) * 1000 + sum(shape))
    density = {"half": 0.5, "few holes": 0.99, "few voxels": 0.01}[kind]
    mask = (rng.random(shape) < density).astype(np.uint8)
    return mask, {(op, b): oracle.squared(op, mask, closed=b == "closed") for op in OPS for b in BORDERS}


@pytest.mark.parametrize("kind", ["half", "few holes", "few voxels"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_every_side_is_exact(backend: Backend, shape: tuple[int, ...], kind: str) -> None:
    mask, expected = squares_of(kind, shape)
    check_exact(backend, mask, expected, len(shape))


@pytest.mark.parametrize("shape", [(23,), (13, 17), (7, 11, 9)], ids=lambda s: f"{len(s)}-D")
@pytest.mark.parametrize("kind", list(masks.KINDS))
def test_every_kind_of_mask_is_exact(backend: Backend, kind: str, shape: tuple[int, ...]) -> None:
    mask = masks.make(kind, shape)
    expected = {(op, b): oracle.squared(op, mask, closed=b == "closed") for op in OPS for b in BORDERS}
    check_exact(backend, mask, expected, len(shape))


def test_every_mask_of_a_small_image_is_exact(backend: Backend) -> None:
    """All 512 masks of 3 x 3 voxels at once: no pattern that small is left to chance."""
    bits = (np.arange(512)[:, None] >> np.arange(9)) & 1
    mask = bits.reshape(512, 3, 3).astype(bool)
    expected = {
        (op, b): np.stack([oracle.squared(op, m, closed=b == "closed") for m in mask])
        for op in OPS for b in BORDERS
    }  # fmt: skip
    check_exact(backend, mask, expected, 2)


def test_every_mask_of_a_short_line_is_exact(backend: Backend) -> None:
    mask = ((np.arange(1024)[:, None] >> np.arange(10)) & 1).astype(bool)
    expected = {
        (op, b): np.stack([oracle.squared(op, m, closed=b == "closed") for m in mask])
        for op in OPS for b in BORDERS
    }  # fmt: skip
    check_exact(backend, mask, expected, 1)


# ---- larger images, against SciPy's nearest voxels


@cache
def scipy_squares_of(
    kind: str, shape: tuple[int, ...], seed: int = 0
) -> tuple[np.ndarray, dict[tuple[str, str], np.ndarray]]:
    mask = masks.make(kind, shape, seed)
    return mask, {(op, "open"): oracle.scipy_squared(op, mask) for op in OPS}


@pytest.mark.large
@pytest.mark.parametrize("shape", [(32768,), (700, 500), (70, 90, 110)], ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", list(masks.KINDS))
def test_large_images_equal_scipy(backend: Backend, kind: str, shape: tuple[int, ...]) -> None:
    mask, expected = scipy_squares_of(kind, shape)
    check_exact(backend, mask, expected, len(shape))


@pytest.mark.large
@pytest.mark.parametrize(
    "shape", [(3, 2000, 40), (40, 3, 2000), (2000, 40, 3)], ids=lambda s: "x".join(map(str, s))
)
def test_long_thin_volumes_equal_scipy(backend: Backend, shape: tuple[int, ...]) -> None:
    for kind in ("seeds", "noise", "organ"):
        mask, expected = scipy_squares_of(kind, shape, seed=1)
        check_exact(backend, mask, expected, 3)


# ---- nothing or everything inside


def constant(backend: Backend, value: int, shape: tuple[int, ...]) -> torch.Tensor:
    return backend.put(np.full(shape, value, np.uint8))


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(
    "shape", [(1,), (40,), (7, 33), (5, 6, 7), (1, 1, 1)], ids=lambda s: "x".join(map(str, s))
)
def test_empty_and_full_masks(backend: Backend, shape: tuple[int, ...], squared: bool) -> None:
    empty, full = constant(backend, 0, shape), constant(backend, 1, shape)
    for border in BORDERS:
        assert (backend.edt(empty, border=border, squared=squared) == 0).all()
        assert (backend.sdf(empty, border=border, squared=squared) == np.inf).all()
    assert (backend.edt(full, squared=squared) == np.inf).all()
    assert (backend.sdf(full, squared=squared) == -np.inf).all()
    # A closed border is the only background there is: the distance to the nearest face, from voxel centres.
    faces = [np.minimum(np.arange(n), n - 1 - np.arange(n)) + 1.0 for n in shape]
    depth = np.minimum.reduce(np.broadcast_arrays(*np.meshgrid(*faces, indexing="ij", sparse=True)))
    expected = (depth**2 if squared else depth).astype(np.float32)
    np.testing.assert_array_equal(numpy(backend.edt(full, border="closed", squared=squared)), expected)
    np.testing.assert_array_equal(numpy(backend.sdf(full, border="closed", squared=squared)), -expected)


def test_empty_and_full_samples_stand_beside_others(backend: Backend) -> None:
    """The missing class of one sample must not show in its neighbours."""
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, (5, 2, 9, 10), dtype=np.uint8)
    batch[0, 0], batch[1], batch[4, 1] = 0, 1, 1
    for op, border in itertools.product(OPS, BORDERS):
        square = np.stack([
            np.stack([oracle.squared(op, image, closed=border == "closed") for image in sample])
            for sample in batch
        ])  # fmt: skip
        check_exact(backend, batch, {(op, border): square}, 2)


@pytest.mark.parametrize("corner", list(itertools.product([0, 1], repeat=3)), ids=str)
def test_one_voxel_and_one_hole_in_each_corner(backend: Backend, corner: tuple[int, ...]) -> None:
    shape = (5, 9, 6)
    at = tuple(c * (n - 1) for c, n in zip(corner, shape, strict=True))
    square = sum((np.indices(shape)[k] - at[k]) ** 2 for k in range(3)).astype(np.float64)
    hole = np.ones(shape, np.uint8)
    hole[at] = 0
    square_inside = -square
    square_inside[at] = 1  # the hole's own distance to the foreground
    check_exact(backend, hole, {("edt", "open"): square, ("sdf", "open"): square_inside}, 3)
    check_exact(backend, 1 - hole, {("sdf", "open"): -square_inside}, 3)


@pytest.mark.parametrize(
    "shape", [(0,), (0, 4), (4, 0), (0, 0, 0), (3, 0, 5), (0, 1, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8, 8)], ids=str
)
def test_nothing_gives_nothing(backend: Backend, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=backend.device)
    for op, border in itertools.product(OPS, BORDERS):
        result = backend.op(op)(x, border=border)
        assert result.shape == shape
        assert result.dtype == torch.float32
        assert result.device == x.device
        out = torch.empty(shape, device=backend.device)
        assert backend.op(op)(x, border=border, out=out) is out


# ---- spacing


@pytest.mark.parametrize(
    "shape", [(40,), (11, 17), (6, 9, 8), (1, 9, 30), (70, 2, 3)], ids=lambda s: "x".join(map(str, s))
)
@pytest.mark.parametrize(
    "spacing",
    [(1.0, 1.0, 2.5), (0.7, 0.7, 5.0), (3.0, 0.5, 0.9765625), (0.1, 100.0, 1.0), (1e-3, 2e-3, 7e-4)],
    ids=str,
)
@variants
def test_anisotropic_spacing_within_the_derived_bound(
    backend: Backend, shape: tuple[int, ...], spacing: tuple[float, ...], op: str, border: str, squared: bool
) -> None:
    mask = (np.random.default_rng(0).random(shape) < 0.9).astype(np.uint8)
    spacing = spacing[-len(shape) :]
    expected = oracle.squared(op, mask, spacing, closed=border == "closed")
    result = backend.op(op)(backend.put(mask), spacing, border=border, squared=squared)
    oracle.assert_close(numpy(result), expected, is_squared=squared)


@pytest.mark.large
@pytest.mark.parametrize("shape", [(300, 400), (40, 60, 50)], ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", ["seeds", "organ", "noise", "one_hole"])
def test_anisotropic_spacing_of_large_images_against_scipy(
    backend: Backend, kind: str, shape: tuple[int, ...]
) -> None:
    """SciPy's own float64 distances: its error is far below a unit of 2^-24."""
    mask = masks.make(kind, shape)
    spacing = (2.5, 0.7, 0.8)[-len(shape) :]
    inner, outer = (oracle.ndimage.distance_transform_edt(m, sampling=spacing) for m in (mask, 1 - mask))
    x = backend.put(mask)
    oracle.assert_close(numpy(backend.edt(x, spacing)), inner**2, is_squared=False)
    oracle.assert_close(numpy(backend.sdf(x, spacing, squared=True)), outer**2 - inner**2, is_squared=True)


@pytest.mark.parametrize("spacing", [0.7, 3.0, 0.1, 1e-3, 250.0])
def test_isotropic_spacing_keeps_equal_distances_equal(backend: Backend, spacing: float) -> None:
    """At equal spacing the voxel counts stay integers: the count n gives one value, within the rounding of

    s (1, doubled by the square), s^2 (1) and the product n s^2 (1): 4 units of 2^-24 on the square, half and
    one more on the distance.
    """
    mask = masks.make("ellipsoids", (20, 18, 22), seed=2)
    count = oracle.scipy_squared("sdf", mask)
    x = backend.put(mask)
    for squared, units in ((True, 4), (False, 3)):
        result = numpy(backend.sdf(x, spacing, squared=squared))
        exact = count * spacing**2 if squared else oracle.root(count) * spacing
        assert (np.abs(result - exact) <= units * oracle.U * np.abs(exact)).all()
        assert len(np.unique(result)) == len(np.unique(count))
        assert (numpy(backend.sdf(x, (spacing,) * 3, squared=squared)) == result).all()


@pytest.mark.parametrize("exponent", [-10, -1, 1, 7])
def test_spacing_of_a_power_of_two_is_exact(backend: Backend, exponent: int) -> None:
    mask = masks.make("noise", (30, 31))
    square = oracle.squared_sdf(mask)
    result = backend.sdf(backend.put(mask), 2.0**exponent, squared=True)
    np.testing.assert_array_equal(numpy(result), (square * 4.0**exponent).astype(np.float32))


def test_spacing_is_in_array_order(backend: Backend) -> None:
    """One site at the origin: along each axis alone the distance is the index times that axis's spacing."""
    mask = np.ones((4, 5, 6), np.uint8)
    mask[0, 0, 0] = 0
    result = numpy(backend.edt(backend.put(mask), (2.0, 4.0, 8.0)))
    np.testing.assert_array_equal(result[:, 0, 0], 2 * np.arange(4))
    np.testing.assert_array_equal(result[0, :, 0], 4 * np.arange(5))
    np.testing.assert_array_equal(result[0, 0, :], 8 * np.arange(6))


# ---- beyond the integers of float32


@pytest.mark.large
@pytest.mark.parametrize(
    ("shape", "op"),
    [
        *itertools.product([(1, 6000, 20), (20, 1, 6000), (6000, 2, 11), (32768, 3), (3, 32768)], OPS),
        ((5000, 5000), "edt"),
    ],
    ids=str,
)  # fmt: skip
def test_distances_beyond_2_to_24_are_rounded_once(backend: Backend, shape: tuple[int, ...], op: str) -> None:
    """Squares above 2^24 = 16,777,216 have no float32 of their own: the nearest one, not a sum of roundings."""
    mask = np.ones(shape, np.uint8)
    site = tuple(n // 50 for n in shape)
    mask[site] = 0
    axes = [(np.arange(n) - c) ** 2 for n, c in zip(shape, site, strict=True)]
    square = sum(np.meshgrid(*axes, indexing="ij", sparse=True))
    assert square.max() > 2**24
    sign = 1 if op == "edt" else -1
    x = backend.put(mask)
    result = sign * numpy(backend.op(op)(x, squared=True))
    result[site] = 0  # there the signed distance is 1, to the other side
    wrong = result != square.astype(np.float32)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} squares are not n rounded once"
    # The distance may come from the rounded square: half a unit from that, one from the root.
    distance = sign * numpy(backend.op(op)(x))
    distance[site] = 0
    exact = np.sqrt(square, dtype=np.float64)
    assert (np.abs(distance - exact) <= 1.5 * oracle.U * exact).all()


@pytest.mark.large
def test_far_ties_and_near_ties_are_told_apart(backend: Backend) -> None:
    """Two sites whose squares differ by 1 at 36 million, where float32 steps by 4: the sums must be wider."""
    mask = np.ones((2, 6001), np.uint8)
    mask[0, 0] = mask[1, 6000] = 0
    expected = oracle.scipy_squared("edt", mask)
    result = backend.edt(backend.put(mask), squared=True)
    np.testing.assert_array_equal(numpy(result), expected.astype(np.float32))


# ---- layouts: what the strides say is what is read


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors equal to the contiguous 4-D or 5-D ``x`` that lie differently in memory."""

    def slices(start: int, step: int) -> tuple[slice, ...]:
        return tuple(slice(start, start + n * step, step) for n in x.shape)

    sparse, padded = x.new_ones([3 * n for n in x.shape]), x.new_ones([n + 3 for n in x.shape])
    sparse[slices(1, 3)], padded[slices(2, 1)] = x, x
    offset = x.new_ones(x.numel() + 5)
    offset[5:] = x.flatten()
    return {
        "channels last": x.to(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d),
        "transposed": x.transpose(-1, -2).contiguous().transpose(-1, -2),
        "reversed axes": x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim))),
        "batch last": x.movedim(0, -1).contiguous().movedim(-1, 0),
        "sliced": padded[slices(2, 1)],
        "every third": sparse[slices(1, 3)],
        "storage offset": offset[5:].view(x.shape),
        "flipped twice": x.flip(-1, -2).flip(-1, -2),
    }


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 10, 37), (2, 2, 4, 7, 35)], ids=["2-D", "3-D"])
def test_layout_does_not_matter(backend: Backend, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = backend.put(np.random.default_rng(0).random(shape) < 0.7).to(dtype)
    spacing = (2.0, 1.0, 0.5)[-(len(shape) - 2) :]
    for op in OPS:
        expected = backend.op(op)(x, spacing)
        for name, y in layouts(x).items():
            assert torch.equal(y, x)
            before = y.clone()
            result = backend.op(op)(y, spacing)
            assert torch.equal(result, expected), name
            assert torch.equal(y, before), name
            assert result.is_contiguous(), name


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (3,), (0, 1), (2, 3), (0, 3), (0, 1, 2, 3)], ids=str)
def test_expanded_masks(backend: Backend, dims: tuple[int, ...]) -> None:
    """Stride 0: one element stands for many."""
    shape = (3, 2, 9, 34)
    small = backend.put(
        np.random.default_rng(1).integers(0, 2, [1 if k in dims else n for k, n in enumerate(shape)])
    )
    for op in OPS:
        assert torch.equal(backend.op(op)(small.expand(shape)), backend.op(op)(small.expand(shape).contiguous()))


def test_results_do_not_share_memory_with_the_mask(backend: Backend) -> None:
    x = torch.zeros(8, 8, device=backend.device)
    x[2:5, 2:5] = 1
    before = x.clone()
    backend.edt(x).fill_(7)
    backend.sdf(x).fill_(7)
    assert torch.equal(x, before)


# ---- leading dimensions


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 3), (2, 1, 2, 2)], ids=str)
@pytest.mark.parametrize("spatial", [(41,), (9, 14), (4, 6, 7)], ids=lambda s: f"{len(s)}-D")
def test_batch_is_a_loop_over_images(backend: Backend, spatial: tuple[int, ...], batch: tuple[int, ...]) -> None:
    x = np.random.default_rng(3).random(batch + spatial) < 0.8
    dims = len(spatial)
    for op in OPS:
        images = [oracle.exact(oracle.squared(op, m), is_squared=False) for m in x.reshape(-1, *spatial)]
        result = backend.op(op)(backend.put(x), spatial_dims=dims)
        np.testing.assert_array_equal(numpy(result), np.reshape(images, batch + spatial))


@pytest.mark.large
@pytest.mark.parametrize(("count", "shape"), [(70_000, (3,)), (70_000, (2, 3)), (3000, (2, 3, 4))], ids=str)
def test_many_small_images(backend: Backend, count: int, shape: tuple[int, ...]) -> None:
    """More images than a grid has rows (65,535): all of them are computed, none twice."""
    patterns = (
        np.arange(2 ** int(np.prod(shape)))
        if np.prod(shape) < 12
        else np.random.default_rng(0).integers(0, 1 << 24, 500)
    )
    unique = ((patterns[:, None] >> np.arange(np.prod(shape))) & 1).astype(np.uint8).reshape(-1, *shape)
    expected = np.stack([oracle.exact(oracle.squared_sdf(m), is_squared=False) for m in unique])
    which = np.random.default_rng(1).integers(0, len(unique), count)
    result = backend.sdf(backend.put(unique[which]), spatial_dims=len(shape))
    np.testing.assert_array_equal(numpy(result), expected[which])


# ---- out=


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_out_receives_the_same_result(backend: Backend, op: str, squared: bool) -> None:
    x = backend.put(masks.make("organ", (2, 3, 20, 24)))
    options = {"spacing": (0.7, 2.0), "squared": squared, "border": "closed"}
    expected = backend.op(op)(x, **options)
    out = torch.full(x.shape, torch.nan, device=backend.device)
    assert backend.op(op)(x, **options, out=out) is out
    assert torch.equal(out, expected)
    # A contiguous part of something larger is written to, and nothing around it.
    whole = torch.full((4, 3, 20, 24), -5.0, device=backend.device)
    part = whole[1:3]
    assert backend.op(op)(x, **options, out=part) is part
    assert torch.equal(whole[1:3], expected)
    assert (whole[[0, 3]] == -5).all()


def test_out_with_spacing_per_sample_and_labels(backend: Backend) -> None:
    x = backend.put(masks.make("noise", (2, 1, 12, 13)))
    rows = torch.tensor([[1.0, 2.0], [0.5, 3.0]], device=backend.device)
    out = torch.full(x.shape, torch.nan, device=backend.device)
    assert backend.edt(x, rows, out=out) is out
    assert torch.equal(out, backend.edt(x, rows))
    maps = torch.full((2, 3, 12, 13), torch.nan, device=backend.device)
    for spacing in (None, rows):
        assert backend.labels_sdf(x, 3, spacing, out=maps) is maps
        assert torch.equal(maps, backend.labels_sdf(x, 3, spacing))


# ---- labels


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(
    ("shape", "spatial_dims"),
    [((50,), None), ((9, 12), None), ((4, 5, 6), None), ((3, 33), 1), ((3, 9, 12), 2), ((2, 4, 5, 6), 3),
     ((2, 1, 9, 12), None), ((2, 1, 4, 5, 6), None), ((2, 1, 30), 1)],
    ids=str,
)  # fmt: skip
def test_labels_are_one_signed_map_per_class(
    backend: Backend, shape: tuple[int, ...], spatial_dims: int | None, dtype: torch.dtype
) -> None:
    """Class 4 is absent, and -1 (but for unsigned), 5 and 100 belong to no class: ignored voxels."""
    values = [0, 1, 2, 3, 5, 100] + ([-1] if dtype != torch.uint8 else [255])
    labels = np.random.default_rng(0).choice(values, shape)
    dims = spatial_dims or min(len(shape), 3 if len(shape) in (3, 5) else 2 if len(shape) in (2, 4) else 1)
    spatial, batch = shape[-dims:], shape[:-dims][:1]
    images = labels.reshape(-1, *spatial)
    for border, squared in itertools.product(BORDERS, [False, True]):
        expected = np.stack([
            np.stack([
                oracle.exact(oracle.squared_sdf(image == c, closed=border == "closed"), is_squared=squared)
                for c in range(5)
            ])
            for image in images
        ])  # fmt: skip
        x = backend.put(labels).to(dtype)
        result = backend.labels_sdf(x, 5, spatial_dims=spatial_dims, border=border, squared=squared)
        assert result.shape == (*batch, 5, *spatial)
        np.testing.assert_array_equal(numpy(result), expected.reshape(*batch, 5, *spatial))


def test_labels_beyond_the_dtype_of_any_class(backend: Backend) -> None:
    """Labels are compared as they are: 256 is not 0, 2^32 + 1 is not 1."""
    labels = backend.put(np.array([0, 1, 256, 257, 2**32, 2**32 + 1, -(2**32), -256, 2**63 - 1, -(2**63)]))
    expected = torch.stack([backend.sdf(labels == c) for c in range(2)])
    assert torch.equal(backend.labels_sdf(labels, 2), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_classes_from_any_label_on(backend: Backend, dtype: torch.dtype) -> None:
    """Of every map that reads labels; no label wraps around."""
    limits = torch.iinfo(dtype)
    labels = torch.tensor([[0, 1, 1, 2, limits.max], [limits.min, 3, 0, limits.max, 2]], dtype=dtype)
    wide = labels.to(torch.int64)
    for first in (0, 1, 3, -2, 254, 2**32):
        masks = torch.stack([wide == first + c for c in range(4)], 1)
        options = {"spatial_dims": 1, "backend": backend.name}
        maps = torch.ops.dtk.labels_sdf(backend.put(labels), 4, first_label=first, **options)
        assert torch.equal(maps, backend.sdf(backend.put(masks), spatial_dims=1))
        for words in ({}, {"boundary": "inner_contour"}, {"inside": "positive", "outside": "zero"}):
            words = {**words, "on_empty": "zeros", **options}
            got = torch.ops.dtk.distance_map(backend.put(labels), num_classes=4, first_label=first, **words)
            assert torch.equal(got, torch.ops.dtk.distance_map(backend.put(masks), **words)), words
    for first in (True, 1.0):
        with pytest.raises(TypeError, match="first_label: expected an int, got"):
            backend.labels_sdf(backend.put(labels), 2, first_label=first)
    with pytest.raises(ValueError, match=r"first_label: expected at most 2\^53"):
        backend.labels_sdf(backend.put(labels), 2, first_label=2**60)


@pytest.mark.large
def test_many_classes(backend: Backend) -> None:
    labels = np.random.default_rng(0).integers(0, 300, (2, 1, 40, 45))
    x = backend.put(labels)
    expected = torch.cat([backend.sdf(x == c) for c in range(300)], dim=1)
    assert torch.equal(backend.labels_sdf(x, 300), expected)


def test_labels_layout_does_not_matter(backend: Backend) -> None:
    x = backend.put(np.random.default_rng(0).integers(0, 4, (2, 1, 8, 35)))
    expected = backend.labels_sdf(x, 4, (2.0, 0.5))
    for name, y in layouts(x).items():
        assert torch.equal(backend.labels_sdf(y, 4, (2.0, 0.5)), expected), name
    expanded = x[:1].expand(3, 1, 8, 35)
    assert torch.equal(backend.labels_sdf(expanded, 4), backend.labels_sdf(expanded.contiguous(), 4))


CHECK = """
import numpy as np, torch
import dtkernels as dtk
import oracle

rng = np.random.default_rng(5)
for shape in ((90,), (20, 70), (5, 14, 37), (130, 3, 5), (2, 3, 300)):
    for density in (0.03, 0.5, 0.97):
        mask = rng.random(shape) < density
        x, spacing = torch.from_numpy(mask), (3.0, 0.7, 1.1)[-len(shape) :]
        for op in ("edt", "sdf"):
            for closed in (False, True):
                options = {"squared": True, "border": "closed" if closed else "open"}
                plain, spaced = (getattr(dtk, op)(x, s, **options).numpy() for s in (None, spacing))
                oracle.assert_exact(plain, oracle.squared(op, mask, closed=closed), is_squared=True)
                oracle.assert_close(spaced, oracle.squared(op, mask, spacing, closed=closed), is_squared=True)
        for s in (None, spacing):
            for ours, theirs in zip(dtk.nearest(x, s), dtk.nearest(x, s, backend="reference"), strict=True):
                torch.testing.assert_close(ours, theirs)
        for ours, theirs in zip(dtk.label(x), dtk.label(x, backend="reference"), strict=True):
            assert torch.equal(ours, theirs)
        for name in ("ma_sdf11", "kervadec", "unet_w", "li_nidm", "itk_maurer"):
            maps = (dtk.distance_map(x, name, spacing, backend=b) for b in ("cpu", "reference"))
            torch.testing.assert_close(*maps, rtol=2e-6, atol=2e-6, equal_nan=True)
"""


@EVERY_INSTRUCTION_SET
def test_every_instruction_set(isa: str) -> None:
    """Distances, nearest voxels, components and maps."""
    with_instruction_set(isa, CHECK)
