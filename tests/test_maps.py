"""Every named map against SciPy in float64; numbers, policies and combinations that are promised."""

from __future__ import annotations

import math

import maps_oracle
import numpy as np
import pytest
import torch
from conftest import EVERY_INSTRUCTION_SET, MASK_DTYPES, Backend, numpy, with_instruction_set
from scipy import ndimage

import dtkernels as dtk
from bench import masks
from dtkernels.maps import CONVENTIONS

PER_COMPONENT = [name for name, c in CONVENTIONS.items() if c.options.normalize.startswith("component")]
# Relative to the largest value: a few roundings of float32, more where close numbers are subtracted or divided.
TOLERANCE = 2e-6


def blobs(shape: tuple[int, ...], seed: int = 0, share: float = 0.25) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.2)
    return field > np.quantile(field, 1 - share)


def thin(shape: tuple[int, ...]) -> np.ndarray:
    """A plate and a line, one voxel thick, that touch, and a voxel of its own."""
    mask = np.zeros(shape, bool)
    mask[shape[0] // 2] = True
    mask[..., shape[-1] // 3] = True
    mask[(0,) * len(shape)] = True
    return mask


def at_edge(shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[: shape[0] // 2, ..., : shape[-1] // 2] = True
    return mask


def ball(radius: int, side: int) -> np.ndarray:
    grid = np.indices((side,) * 3) - side // 2
    return (grid**2).sum(0) <= radius**2


MASKS = {
    "blobs": blobs((11, 9, 17)),
    "blobs 2-D": blobs((23, 18), 1),
    "many": blobs((9, 13, 10), 2, 0.5),
    "thin": thin((9, 10, 8)),
    "at the edge": at_edge((8, 7, 18)),
    "voxel": masks.make("one_foreground", (7, 6, 9)).astype(bool),
    "hole": masks.make("one_hole", (20, 33)).astype(bool),
    "line": np.array([0, 0, 1, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1], bool),
    "plane": at_edge((1, 6, 40)),
    "empty": np.zeros((4, 5, 6), bool),
    "full": np.ones((5, 6), bool),
}
SPACINGS = (None, 0.7, (3.0, 0.8, 1.5))


def lacks(backend: Backend, name: str, unequal: bool) -> str | None:
    operators = dtk.backends.available()[backend.name].operators
    if name in PER_COMPONENT and "label" not in operators:
        return f"backend {backend.name} has no label yet"
    if name == "half" and unequal and "nearest" not in operators:
        return f"backend {backend.name} has no nearest yet"
    return None


def assert_same(actual: torch.Tensor, want: np.ndarray, message: str = "") -> None:
    assert actual.dtype == torch.float32
    values = numpy(actual)
    assert values.shape == want.shape
    finite = np.isfinite(want)
    np.testing.assert_array_equal(values[~finite], want[~finite], err_msg=message)
    scale = max(1.0, np.abs(want[finite]).max(initial=0))
    np.testing.assert_allclose(
        values[finite], want[finite], rtol=TOLERANCE, atol=TOLERANCE * scale, err_msg=message
    )
    assert not np.signbit(values[values == 0]).any(), f"-0.0 {message}"


@pytest.mark.parametrize("name", list(CONVENTIONS))
def test_map_is_that_of_its_formula(backend: Backend, name: str) -> None:
    for kind, mask in MASKS.items():
        for spacing in SPACINGS:
            unequal = isinstance(spacing, tuple)
            reason = lacks(backend, name, unequal)
            if reason is not None and unequal and name == "half":
                continue
            if reason is not None:
                pytest.skip(reason)
            given = spacing[-mask.ndim :] if unequal else spacing
            full = np.broadcast_to(1.0 if given is None else given, (mask.ndim,))
            if name == "dpce" and spacing == 0.7:
                continue  # M is below 1 here: see test_penalty_of_thin_sides
            actual = dtk.distance_map(backend.put(mask), name, given, spatial_dims=mask.ndim, backend=backend.name)
            assert_same(actual, maps_oracle.expected(name, mask, full), f"{kind} at {spacing}")


def test_every_convention_has_an_oracle_and_a_line() -> None:
    assert set(dtk.conventions()) == set(maps_oracle.MAPS) == set(maps_oracle.MISSING)
    for convention in dtk.conventions().values():
        assert convention.summary
        assert convention.source


def test_wide_rows_have_their_boundaries(backend: Backend) -> None:
    for width in (63, 64, 65, 130, 192):
        mask = masks.make("noise", (3, 4, width)).astype(bool) | masks.make("organ", (3, 4, width)).astype(bool)
        for name in ("ma_sdf", "itk_maurer"):
            for m in (mask, ~mask, mask[1, 2]):
                actual = dtk.distance_map(backend.put(m), name, backend=backend.name)
                assert_same(actual, maps_oracle.expected(name, m, (1.0,) * m.ndim), f"{name} {width}")


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_contour_by_any_connectivity(backend: Backend, connectivity: int) -> None:
    neighbours = ndimage.generate_binary_structure(3, connectivity)
    for mask in (MASKS["blobs"], MASKS["many"], MASKS["at the edge"]):
        for border in ("open", "closed"):
            core = ndimage.binary_erosion(mask, neighbours, border_value=border == "open")
            away = ndimage.distance_transform_edt(core | ~mask)
            if border == "closed":  # and inside of it background is one step beyond the edge, which is contour
                assert not (core & ~np.pad(np.ones([n - 2 for n in mask.shape], bool), 1)).any()
            actual = dtk.distance_map(
                backend.put(mask), "itk_maurer", connectivity=connectivity, border="open", backend=backend.name
            )
            if border == "open":
                assert_same(actual, np.where(mask, -away, away))


@pytest.mark.parametrize("name", ["ma_sdf11", "rrw", "itk_maurer", "dpce", "half", "li_sni", "diagonal", "unet_w"])
def test_spacing_per_sample(backend: Backend, name: str) -> None:
    if lacks(backend, name, True):
        pytest.skip(lacks(backend, name, True))
    images = np.stack([blobs((7, 12, 9), i) for i in range(3)])
    rows = torch.tensor([[1.0, 1.0, 1.0], [2.5, 2.5, 2.5], [3.0, 0.75, 1.5]])
    actual = dtk.distance_map(
        backend.put(images).unsqueeze(1), name, rows.to(backend.device), spatial_dims=3, backend=backend.name
    )
    want = np.stack([maps_oracle.expected(name, m, r) for m, r in zip(images, rows.tolist(), strict=True)])
    assert_same(actual, want[:, None])


def test_spacing_rows_all_equal_keep_half_a_shift(backend: Backend) -> None:
    images = np.stack([blobs((7, 12), i) for i in range(2)])
    rows = torch.tensor([[2.0, 2.0], [0.5, 0.5]]).to(backend.device)
    actual = dtk.distance_map(backend.put(images), "half", rows, spatial_dims=2, backend=backend.name)
    want = np.stack([maps_oracle.expected("half", m, (s, s)) for m, s in zip(images, (2.0, 0.5), strict=True)])
    assert_same(actual, want)


@pytest.mark.parametrize("name", ["ma_sdf01", "itk_maurer", "li_nidm", "rrw"])
def test_every_dtype_and_layout_gives_the_same_bits(backend: Backend, name: str) -> None:
    if lacks(backend, name, False):
        pytest.skip(lacks(backend, name, False))
    mask = backend.put(np.stack([blobs((2, 7, 18, 20), i) for i in range(2)]))
    want = dtk.distance_map(mask, name, backend=backend.name)
    for dtype in MASK_DTYPES:
        x = (mask * (3 if dtype != torch.bool else 1)).to(dtype)
        assert torch.equal(dtk.distance_map(x, name, backend=backend.name), want), dtype
    for x in (
        mask.contiguous(memory_format=torch.channels_last_3d),
        mask.transpose(2, 4).contiguous().transpose(2, 4),
        torch.stack((mask, ~mask), -1)[..., 0],
        mask.flip(3).flip(3),
    ):
        assert torch.equal(dtk.distance_map(x, name, backend=backend.name), want)
    probabilities = torch.where(mask, 0.75, 0.25).to(torch.float16)
    assert torch.equal(dtk.distance_map(probabilities, name, threshold=0.5, backend=backend.name), want)
    out = torch.empty(mask.shape, device=mask.device)
    assert dtk.distance_map(mask, name, out=out, backend=backend.name) is out
    assert torch.equal(out, want)
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        assert torch.equal(dtk.distance_map(mask, name, backend=backend.name), want)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5), (2, 0, 4, 4)])
@pytest.mark.parametrize("name", ["ma_sdf11", "itk_maurer", "half"])
def test_nothing_in_nothing_out(backend: Backend, name: str, shape: tuple) -> None:
    result = dtk.distance_map(backend.put(np.zeros(shape, bool)), name, backend=backend.name)
    assert result.shape == shape
    assert result.dtype == torch.float32


def test_two_threads_and_one_give_the_same_bits() -> None:
    mask = torch.from_numpy(masks.make("spheres", (96, 64, 96)))
    for name, spacing in [*((name, None) for name in CONVENTIONS), ("half", (3.0, 0.8, 1.5))]:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(dtk.distance_map(mask, name, spacing))
        torch.set_num_threads(1)
        assert torch.equal(*results), name


# ---- policies, borders, scopes ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CONVENTIONS))
def test_missing_classes(backend: Backend, name: str) -> None:
    if lacks(backend, name, False):
        pytest.skip(lacks(backend, name, False))
    object_, empty, full = blobs((6, 7), 3), np.zeros((6, 7), bool), np.ones((6, 7), bool)
    batch = backend.put(np.stack([empty, object_, full]))
    of_empty, of_full = maps_oracle.MISSING[name]
    result = numpy(dtk.distance_map(batch, name, spatial_dims=2, backend=backend.name))
    assert (result[0] == of_empty).all()
    assert (result[2] == of_full).all()
    np.testing.assert_array_equal(result[1], numpy(dtk.distance_map(batch[1], name, backend=backend.name)))
    for policy, value in (("zeros", 0.0), ("ones", 1.0), ("nan", np.nan), (-2.5, -2.5)):
        limit = CONVENTIONS[name].options.truncate or np.inf
        changed = numpy(
            dtk.distance_map(batch, name, on_empty=policy, on_full=policy, spatial_dims=2, backend=backend.name)
        )
        np.testing.assert_array_equal(changed[0], np.full((6, 7), np.clip(value, -limit, limit), np.float32))
        np.testing.assert_array_equal(changed[2], changed[0])
        np.testing.assert_array_equal(changed[1], result[1])


def test_missing_distances_may_count_as_the_diagonal(backend: Backend) -> None:
    batch = backend.put(np.stack([np.zeros((3, 4)), np.ones((3, 4))]))
    options = {"on_empty": "diagonal", "on_full": "diagonal", "spatial_dims": 2, "backend": backend.name}
    rows = torch.tensor([[1.0, 1.0], [2.0, 2.0]]).to(backend.device)
    for name, outside, inside in (
        ("edt_diff", 5, -10),
        ("edt_sdf", -5, 10),
        ("hd_two", 5, 10),
        ("diagonal", 1, -1),
    ):
        result = numpy(dtk.distance_map(batch, name, rows, **options))
        assert (result[0] == outside).all(), name
        assert (result[1] == inside).all(), name
    result = numpy(dtk.distance_map(batch, "edt_diff", rows, truncate=7.0, **options))
    assert (result[0] == 5).all()
    assert (result[1] == -7).all()


def test_missing_classes_may_be_an_error(backend: Backend) -> None:
    batch = np.stack([blobs((6, 7), 3), np.zeros((6, 7)), np.ones((6, 7))]).reshape(1, 3, 6, 7)
    for name in ("edt", "kervadec", "itk_maurer", "ac"):
        options = {"backend": backend.name}
        with pytest.raises(ValueError, match=r"no empty mask with on_empty='error', got one at \(0, 1\)"):
            dtk.distance_map(backend.put(batch), name, on_empty="error", **options)
        with pytest.raises(ValueError, match=r"no full mask with on_full='error', got one at \(0, 2\)"):
            dtk.distance_map(backend.put(batch), name, on_full="error", **options)
        good = dtk.distance_map(backend.put(batch[:, :1]), name, on_empty="error", on_full="error", **options)
        torch.testing.assert_close(good, dtk.distance_map(backend.put(batch[:, :1]), name, **options))
    with pytest.raises(ValueError, match="got one at the image"):
        dtk.distance_map(backend.put(batch[0, 1]), "kervadec", on_empty="error", backend=backend.name)


def test_closed_border_is_background(backend: Backend) -> None:
    mask = at_edge((8, 12))
    padded = np.pad(mask, 20)
    for name in ("edt", "edt_diff", "ma_sdf", "kervadec", "half"):
        inside = maps_oracle.MAPS[name](padded, (1.0, 1.0))[20:-20, 20:-20]
        outside = maps_oracle.MAPS[name](mask, (1.0, 1.0))
        actual = dtk.distance_map(backend.put(mask), name, border="closed", backend=backend.name)
        assert_same(actual, np.where(mask, inside, outside), name)
    if lacks(backend, "half", True) is None:
        spacing, mask = (1.57, 0.83), blobs((10, 13), 5)
        inside = maps_oracle.MAPS["half"](np.pad(mask, 6), spacing)[6:-6, 6:-6]
        actual = dtk.distance_map(backend.put(mask), "half", spacing, border="closed", backend=backend.name)
        assert_same(actual, np.where(mask, inside, maps_oracle.MAPS["half"](mask, spacing)))
    full = dtk.distance_map(backend.put(np.ones((5, 5))), "ma_sdf", border="closed", backend=backend.name)
    assert numpy(full)[[0, 1, 2], 2].tolist() == [0, -2, -3]  # there is a boundary: it is not full


FACES_BY_NEAREST = """
import numpy as np, torch
from bench import masks
import dtkernels as dtk
from dtkernels.backends import cpu

def both(x, spacing, **options):
    cpu.FACES = True
    own = dtk.distance_map(x, "half", spacing, **options)
    cpu.FACES = False
    return own, dtk.distance_map(x, "half", spacing, **options)

torch.set_num_threads(1)
assert cpu.FACES
rng = np.random.default_rng(0)
shapes = (128, 50, 35), (20, 150, 40), (9, 40, 200), (3, 5, 300), (130, 40), (1, 90)
for shape in shapes:
    made = [masks.make(kind, shape) for kind in ("organ", "ellipsoids", "noise", "one_hole")]
    made += [rng.random(shape) < 0.02, rng.random(shape) < 0.98, np.ones(shape, bool)]
    for spacing in ((3.0, 1.0, 0.5), (0.25, 1.0, 0.5), (2.0, 1.0, 2.0), (0.7, 1.9, 1.1)):
        for border in ("open", "closed"):
            for mask in made:
                x = torch.from_numpy(mask)
                own, want = both(x, spacing[-x.ndim :], border=border)
                assert torch.equal(own, want), (shape, spacing, border)
    options = {"normalize": "per_side_max", "spatial_dims": x.ndim}
    batch = torch.stack([torch.from_numpy(mask.astype(bool)) for mask in made])[:, None]
    rows = torch.rand(len(made), x.ndim, dtype=torch.float64) + 0.3
    rows[::3] = 1.5
    own, want = both(batch, rows, **options)
    torch.testing.assert_close(own, want, rtol=1e-6, atol=0.0)
"""


@EVERY_INSTRUCTION_SET
def test_faces_in_the_passes_are_those_of_the_nearest_voxels(isa: str) -> None:
    """Lines of many blocks, wide codes, ties of exact and of rounded squares: bit for bit by ``nearest``."""
    with_instruction_set(isa, FACES_BY_NEAREST)


def test_scope_of_the_maximum(backend: Backend) -> None:
    batch = np.zeros((2, 2, 9, 30), bool)
    batch[0, 0, 1:4, 1:4] = batch[0, 1, 1:8, 1:9] = batch[1, 0, 3:6, 5:29] = batch[1, 1, 2, 2:20] = True
    d_in = np.stack([[ndimage.distance_transform_edt(m) for m in row] for row in batch])
    x = backend.put(batch)
    for scope, axes in (("sample-and-class", (2, 3)), ("sample", (1, 2, 3)), ("batch", (0, 1, 2, 3))):
        top = d_in.max(axes, keepdims=True)
        assert_same(dtk.distance_map(x, "ma_dtm01", scope=scope, backend=backend.name), d_in / top)


# ---- combinations --------------------------------------------------------------------------------------


def test_options_combine_freely(backend: Backend) -> None:
    mask, s = MASKS["blobs"], (3.0, 0.8, 1.5)
    x, d_in, d_out = backend.put(mask), *maps_oracle.distances(mask, s)
    edge, diagonal = maps_oracle.inner_boundary(mask), np.linalg.norm(np.multiply(mask.shape, s))

    def map_of(*names: str, **options: object) -> torch.Tensor:
        return dtk.distance_map(x, *names, spacing=s, backend=backend.name, **options)

    top = max(d_in.max(), d_out.max())
    for actual, want in (
        (map_of(), d_out - d_in),
        (map_of(inside="positive"), d_in - d_out),
        (map_of(outside="same"), -d_in - d_out),
        (map_of(outside="zero"), -d_in),
        (map_of(normalize="max"), (d_out - d_in) / top),
        (map_of("kervadec", normalize="max"), (d_out - (d_in - 1) * mask) / max(d_in.max() - 1, d_out.max())),
        (map_of(boundary="shift", normalize="per_side_max"),
         d_out / d_out.max() - (d_in - 1) / (d_in.max() - 1) * mask),
        (map_of("kervadec", normalize="diagonal"), (d_out - (d_in - 1) * mask) / diagonal),
        (map_of("kervadec", truncate=2.5), (d_out - (d_in - 1) * mask).clip(-2.5, 2.5)),
        (map_of("ma_sdf11", inside="positive"), np.where(edge, 0, d_in / d_in.max() - d_out / d_out.max())),
        (map_of(boundary="inner_zero", inside="negative", normalize="per_side_max", on_empty="zeros"),
         maps_oracle.MAPS["ma_sdf11"](mask, s)),
        (map_of("hd_two", normalize="max"), (d_in + d_out) / top),
        (map_of("unet_w", weight=0.5, amplitude=3.0, sigma=2.0), 0.5 + 3 * np.exp(-((d_in + d_out) ** 2) / 8)),
        (map_of("rrw", inside="positive"), np.where(mask, d_in / d_in.max(), 1)),
    ):  # fmt: skip
        assert_same(actual, want)
    maurer = maps_oracle.MAPS["itk_maurer"](mask, s)
    sides = np.where(mask, maurer / maurer.min(), maurer / maurer.max())
    assert_same(map_of("itk_maurer", normalize="per_side_max"), np.where(mask, -sides, sides))


def test_components_by_any_connectivity(backend: Backend) -> None:
    if lacks(backend, "li_ndm", False):
        pytest.skip(lacks(backend, "li_ndm", False))
    mask = MASKS["many"]
    d_in = ndimage.distance_transform_edt(mask)
    for connectivity in (1, 2, 3):
        labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, connectivity))
        top = np.concatenate([[1.0], ndimage.maximum(d_in, labels, range(1, count + 1))])[labels]
        actual = dtk.distance_map(backend.put(mask), "li_ndm", connectivity=connectivity, backend=backend.name)
        assert_same(actual, d_in / top)


def test_penalty_of_thin_sides() -> None:
    """(M - d) / (M - 1) is 0/0 on a side that is one voxel thick: it is 2 there, and where M is below 1."""
    mask = torch.tensor([0, 0, 0, 1, 0, 0])
    assert dtk.distance_map(mask, "dpce").tolist() == [1, 1.5, 2, 2, 2, 1.5]
    assert dtk.distance_map(mask, "dpce", 0.25).tolist() == [2, 2, 2, 2, 2, 2]


# ---- label maps and rules of foreground --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ma_sdf11", "kervadec", "rrw", "itk_maurer", "li_nidm", "edt_diff"])
def test_label_maps_give_a_map_per_class(backend: Backend, name: str) -> None:
    if lacks(backend, name, False):
        pytest.skip(lacks(backend, name, False))
    labels = np.stack([blobs((8, 9, 7), i) + 2 * blobs((8, 9, 7), i + 9) for i in range(2)]).astype(np.int16)
    x, options = backend.put(labels), {"spatial_dims": 3, "backend": backend.name}
    want = np.stack([[maps_oracle.expected(name, m == c, (1.0,) * 3) for c in range(5)] for m in labels])
    assert_same(dtk.distance_map(x, name, num_classes=5, **options), want)
    assert_same(dtk.distance_map(x.unsqueeze(1), name, num_classes=5, **options), want)
    assert_same(dtk.distance_map(x[0], name, num_classes=5, **options), want[0])
    assert_same(dtk.distance_map(x, name, num_classes=5, include_background=False, **options), want[:, 1:])
    scores = torch.nn.functional.one_hot(x.long(), 5).movedim(-1, 1).float() + 0.1
    assert_same(dtk.distance_map(scores, name, argmax=True, **options), want)
    assert_same(dtk.distance_map(scores, name, threshold=1.0, include_background=False, **options), want[:, 1:])


@pytest.mark.parametrize("name", ["ma_sdf01", "kervadec", "half", "edt_sdf", "rrw", "dpce"])
def test_two_classes_take_one_transform(backend: Backend, name: str) -> None:
    labels = np.stack([blobs((8, 11), 1), np.zeros((8, 11)), np.ones((8, 11))])
    want = np.stack([[maps_oracle.expected(name, m == c, (1.0, 1.0)) for c in range(2)] for m in labels])
    options = {"spatial_dims": 2, "backend": backend.name}
    for dtype in (torch.bool, torch.uint8, torch.int64):
        x = backend.put(labels).to(dtype)
        assert_same(dtk.distance_map(x, name, num_classes=2, **options), want)
        out = torch.empty(3, 2, 8, 11, device=x.device)
        assert_same(dtk.distance_map(x.unsqueeze(1), name, num_classes=2, out=out, **options), want)
    scores = torch.stack((1 - x, x), 1).float()
    assert_same(dtk.distance_map(scores, name, argmax=True, **options), want)
    x[0, 3, 4] = 2  # now 1 is not the complement of 0
    want = np.stack([[maps_oracle.expected(name, numpy(m) == c, (1.0, 1.0)) for c in range(2)] for m in x])
    assert_same(dtk.distance_map(x, name, num_classes=2, **options), want)


def test_phi_of_two_classes_sums_to_one() -> None:
    """Conventions: kervadec's background map is 1 - the foreground's, everywhere, so one transform serves both."""
    labels = torch.from_numpy(blobs((9, 10, 11)).astype(np.uint8))
    background, foreground = dtk.distance_map(labels, "kervadec", num_classes=2)
    torch.testing.assert_close(background + foreground, torch.ones(labels.shape), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "ignore_index"),
    [(torch.uint8, -100), (torch.uint8, -1), (torch.uint8, 511), (torch.int8, 255), (torch.int64, 2**70)],
)
def test_an_ignored_label_that_the_dtype_cannot_hold_is_nowhere(dtype: torch.dtype, ignore_index: int) -> None:
    """To torch, a uint8 156 equals -100, the usual ignored label."""
    labels = torch.tensor([0, 255, 156, 1, 2], dtype=torch.uint8).to(dtype)
    want = dtk.distance_map(labels, num_classes=3)
    assert torch.equal(dtk.distance_map(labels, num_classes=3, ignore_index=ignore_index), want)


def test_ignored_voxels_belong_to_no_class_and_have_no_map(backend: Backend) -> None:
    labels = (blobs((8, 9)) + 2 * blobs((8, 9), 4)).astype(np.uint8)
    labels[2:4, 3:7] = 255
    x, options = backend.put(labels), {"ignore_index": 255, "backend": backend.name}
    ignored = labels == 255
    for background in (True, False):
        actual = dtk.distance_map(x, "kervadec", num_classes=4, include_background=background, **options)
        classes = range(0 if background else 1, 4)
        want = np.stack([maps_oracle.expected("kervadec", labels == c, (1.0, 1.0)) for c in classes])
        assert_same(actual, np.where(ignored, 0, want))
    actual = dtk.distance_map(x, "rrw", **options)
    assert_same(actual, np.where(ignored, 0, maps_oracle.expected("rrw", (labels > 0) & ~ignored, (1.0, 1.0))))
    assert numpy(x)[2, 3] == 255  # nothing was changed in place


# ---- torch --------------------------------------------------------------------------------------------------


def test_the_operator_passes_opcheck(backend: Backend) -> None:
    op = torch.ops.dtk.distance_map
    mask = backend.put(masks.make("spheres", (2, 2, 9, 8)))
    words = {"backend": backend.name, "on_empty": "zeros"}
    for options in (
        {"boundary": "inner_zero", "normalize": "unit"},
        {"boundary": "inner_contour"},
        {"boundary": "half", "scope": "batch", "normalize": "max"},
    ):
        torch.library.opcheck(op.default, (mask,), {**words, **options})
    rows = torch.tensor([[1.0, 1.0], [2.0, 2.0]]).to(mask.device)
    torch.library.opcheck(op.per_sample, (mask, rows), {**words, "profile": "gaussian"})
    labels = mask[:, 0].int()
    torch.library.opcheck(op.default, (labels,), {**words, "num_classes": 3, "spatial_dims": 2})
    out = torch.empty(mask.shape, device=mask.device)
    torch.library.opcheck(torch.ops.dtk.distance_map_out.default, (mask,), {**words, "out": out})


def test_vmap_and_compile(backend: Backend) -> None:
    batch = backend.put(masks.make("spheres", (3, 2, 9, 8)))

    def map_of(mask: torch.Tensor) -> torch.Tensor:
        return dtk.distance_map(mask, "ma_sdf11", spatial_dims=2, backend=backend.name) + 1

    want = map_of(batch)
    torch.testing.assert_close(torch.vmap(map_of)(batch), want, rtol=0, atol=0)
    torch.testing.assert_close(torch.vmap(map_of, in_dims=2)(batch.movedim(0, 2)), want, rtol=0, atol=0)
    with pytest.raises(NotImplementedError, match="scope='batch' under vmap"):
        torch.vmap(lambda m: dtk.distance_map(m, "rrw", scope="batch", spatial_dims=2))(batch)
    compiled = torch.compile(map_of, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch), want, rtol=0, atol=0)
    torch.testing.assert_close(compiled(batch[:2, :, :7]), map_of(batch[:2, :, :7]), rtol=0, atol=0)


# ---- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("kervadek",), ValueError, "convention: expected one of .* did you mean 'kervadec'"),
        ((3,), TypeError, "convention: expected a str"),
        ({"boundary": "halves"}, ValueError, "boundary: .* did you mean 'half'"),
        ({"normalize": "component"}, ValueError, "normalize: .* did you mean 'component_max'"),
        ({"on_empty": "zero"}, ValueError, "on_empty: expected one of .* or a number.* did you mean 'zeros'"),
        ({"on_full": None, "on_empty": [1]}, TypeError, "on_empty: expected a number or one of"),
        ({"inside": True}, TypeError, "inside: expected a str"),
        ({"truncate": 0}, ValueError, "truncate: expected a positive finite number, got 0"),
        ({"truncate": "far"}, TypeError, "truncate: expected a number"),
        ({"sigma": float("nan")}, ValueError, "sigma: expected a positive finite number"),
        ({"connectivity": 4}, ValueError, "connectivity: expected 1..3"),
        ({"connectivity": 1.5}, TypeError, "connectivity: expected an int"),
        ({"border": "close"}, ValueError, "border: .* did you mean 'closed'"),
        ({"profile": "penalty", "normalize": "max"}, ValueError, "profile: expected 'distance' with"),
        (
            {"normalize": "unit", "outside": "same"},
            ValueError,
            "outside: expected 'opposite' with normalize='unit'",
        ),
        ({"normalize": "component_inverse", "boundary": "half"}, ValueError, "boundary: expected 'none' with"),
        ({"profile": "gaussian", "on_full": "diagonal"}, ValueError, "expected no 'diagonal'"),
        ({"argmax": 1}, TypeError, "argmax: expected a bool"),
        ({"argmax": True}, ValueError, "expected scores"),
        ({"argmax": True, "num_classes": 2}, ValueError, "argmax: expected no num_classes"),
        ({"num_classes": 2, "threshold": 0.5}, ValueError, "threshold: expected None for a label map"),
        ({"num_classes": 1, "include_background": False}, ValueError, "num_classes: expected at least 2, got 1"),
        ({"include_background": False}, ValueError, "include_background: expected a mask"),
        ({"ignore_index": 1.0}, TypeError, "ignore_index: expected None or an int"),
        ({"ignore_index": 1, "threshold": math.nan}, ValueError, "threshold: expected a number, got nan"),
        ({"on_full": math.inf}, ValueError, "on_full: expected a finite number or one of zeros"),
        ({"on_empty": -math.inf}, ValueError, "on_empty: expected a finite number or one of zeros"),
        ({"spacing": (1.0, 2.0)}, ValueError, "spacing: expected 3 numbers"),
        ({"backend": "cpuu"}, ValueError, "backend: expected one of"),
    ],
)
def test_what_cannot_be_is_refused(arguments: object, error: type[Exception], text: str) -> None:
    mask = torch.zeros(3, 4, 5, dtype=torch.int32)
    positional, named = ((), arguments) if isinstance(arguments, dict) else (arguments, {})
    with pytest.raises(error, match=text):
        dtk.distance_map(mask, *positional, **named)


def test_bad_masks_are_refused() -> None:
    with pytest.raises(TypeError, match=r"mask: expected a torch\.Tensor"):
        dtk.distance_map(np.zeros((3, 3)), "edt")
    with pytest.raises(ValueError, match="needs no gradient"):
        dtk.distance_map(torch.zeros(3, 3, requires_grad=True), "edt")
    with pytest.raises(TypeError, match="integer dtype"):
        dtk.distance_map(torch.zeros(3, 3), "edt", num_classes=2)
    with pytest.raises(ValueError, match="out: expected shape"):
        dtk.distance_map(torch.zeros(3, 3), "ma_sdf", out=torch.zeros(3, 4))


@pytest.mark.parametrize("name", ["cpu", "reference"])
class TestOptionsThatMeet:
    """Pairs of options, each of which changes what the other starts from."""

    OBJECT = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1]])

    def test_half_without_an_outside_is_the_inside_of_half(self, name: str) -> None:
        want = dtk.distance_map(self.OBJECT, "half", (2.0, 1.0), backend=name).clamp(max=0)
        got = dtk.distance_map(self.OBJECT, "half", (2.0, 1.0), outside="zero", on_empty="zeros", backend=name)
        assert torch.equal(got, want)
        assert got.min() == -2.5

    def test_a_closed_border_is_no_contour_of_the_background(self, name: str) -> None:
        open_, closed = (
            dtk.distance_map(self.OBJECT, "itk_maurer", border=b, backend=name) for b in ("open", "closed")
        )
        assert torch.equal(closed[self.OBJECT == 0], open_[self.OBJECT == 0])
        assert closed[self.OBJECT == 1].tolist() == [0, 0, 0, 0, 0, 0]
        empty = torch.zeros_like(self.OBJECT)
        assert dtk.distance_map(empty, "itk_maurer", border="closed", backend=name).isinf().all()

    def test_truncate_clips_every_profile(self, name: str) -> None:
        for options in ({"profile": "gaussian"}, {"profile": "penalty"}, {"profile": "indicator"}):
            got = dtk.distance_map(self.OBJECT, truncate=0.5, **options, backend=name)
            assert got.max() == 0.5, options
        got = dtk.distance_map(self.OBJECT, "ma_sdf01", truncate=0.25, backend=name)
        assert got.max() == 0.25


@pytest.mark.parametrize("sigma", [1e-170, 1e170])
def test_sigma_whose_square_is_no_float_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma: expected a number in"):
        dtk.distance_map(torch.tensor([0, 1]), "unet_w", sigma=sigma)
