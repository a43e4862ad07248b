"""``compat.edt`` against the package edt, and against all pairs of voxels."""

from __future__ import annotations

from typing import Any

import edt as theirs
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dtkernels.compat import edt as ours

Array = NDArray[Any]
DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint64", "float32", "float64"]
FUNCTIONS = ["edt", "edtsq", "sdf", "sdfsq"]


def label_map(shape: tuple[int, ...], labels: int, size: int = 4, seed: int = 0) -> Array:
    """Blocks of random labels with some noise on them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, labels, [-(-n // size) for n in shape])
    for axis in range(len(shape)):
        coarse = coarse.repeat(size, axis)
    fine = coarse[tuple(slice(n) for n in shape)]
    noise = rng.random(shape) < 0.05
    return np.where(noise, rng.integers(0, labels, shape), fine)


def both(name: str, labels: Array, **options: Any) -> tuple[Array, Array]:
    result = getattr(ours, name)(labels, **options)
    if labels.ndim == 1 and options.get("anisotropy") is not None:
        options["anisotropy"] = options["anisotropy"][0]  # the only form that edt takes
    return result, getattr(theirs, name)(labels, **options)


@pytest.mark.parametrize("shape", [(50,), (1, 1), (17, 40), (40, 1), (9, 15, 22), (1, 30, 5)], ids=str)
@pytest.mark.parametrize("labels", [1, 2, 3, 9, 100])
@pytest.mark.parametrize("order", ["C", "F"])
def test_equals_edt(shape: tuple[int, ...], labels: int, order: str) -> None:
    data = np.asarray(label_map(shape, labels), order=order)
    for spacing in (None, (2.0, 0.7, 1.3)[: len(shape)], (0.5,) * len(shape)):
        for name in FUNCTIONS:
            for border in (False, True):
                result, expected = both(name, data, anisotropy=spacing, black_border=border)
                assert result.dtype == expected.dtype == np.float32
                assert result.flags.f_contiguous == expected.flags.f_contiguous
                np.testing.assert_allclose(result, expected, rtol=1e-6)


def all_pairs(labels: Array, spacing: Any, closed: bool) -> Array:
    """Squared distance of every voxel to the nearest of another label, by brute force in float64."""
    padded = np.pad(labels, 1) if closed else labels
    at = np.argwhere(np.ones(padded.shape)) * np.asarray(spacing, np.float64)
    square = ((at[:, None] - at[None]) ** 2).sum(-1)
    square[padded.ravel()[:, None] == padded.ravel()[None]] = np.inf
    result = np.where(padded == 0, 0, square.min(1).reshape(padded.shape))
    return result[(slice(1, -1),) * labels.ndim] if closed else result


@pytest.mark.parametrize("shape", [(60,), (9, 11), (5, 6, 7)], ids=str)
@pytest.mark.parametrize("closed", [False, True])
def test_all_pairs(shape: tuple[int, ...], closed: bool) -> None:
    for labels in (2, 3, 4, 5, 17, 300):
        data = label_map(shape, labels, 3)
        for spacing in ((1.0,) * len(shape), (1.0, 2.5, 0.5)[: len(shape)]):
            result = ours.edtsq(data, spacing, closed)
            np.testing.assert_array_equal(result, all_pairs(data, spacing, closed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: str) -> None:
    data = label_map((12, 13), 2 if dtype == "bool" else 100).astype(dtype)
    if dtype.startswith("float"):
        data = data * dtype_scale(dtype)
    elif dtype.startswith("int"):
        data[data == 3] = -3
    for name in FUNCTIONS:
        result, expected = both(name, data)
        np.testing.assert_array_equal(result, expected)


def dtype_scale(dtype: str) -> Any:
    return np.dtype(dtype).type(0.37)


def test_half_precision_labels_are_read() -> None:
    """Package edt gives zeros for them, without a word."""
    data = label_map((12, 13), 5)
    np.testing.assert_array_equal(ours.edt(data.astype(np.float16)), theirs.edt(data))
    assert theirs.edt(data).max() > 1
    assert not theirs.edt(data.astype(np.float16)).any()


def test_labels_with_many_bits() -> None:
    """Hashes as labels, with and without 0, are numbered first; multiples of 2^32 are not."""
    small = label_map((15, 16), 60)
    hashes = np.random.default_rng(0).integers(1, 2**63, 60).astype(np.uint64)
    with_zero, high = np.append(np.uint64(0), hashes[1:]), np.arange(60, dtype=np.uint64) << np.uint64(32)
    for table in (hashes, with_zero, high):
        for data in (table[small], table[small].astype(np.int64), table[small + 60 - small.max() - 1]):
            for name in FUNCTIONS:
                for border in (False, True):
                    result, expected = both(name, data, black_border=border)
                    np.testing.assert_array_equal(result, expected)


def test_one_label_and_none() -> None:
    for value in (0, 1, 5, 255, 256, 2**40):
        data = np.full((4, 5), value)
        for name in FUNCTIONS:
            for border in (False, True):
                result, expected = both(name, data, black_border=border)
                np.testing.assert_array_equal(result, expected)


def test_layouts_and_lists() -> None:
    data = label_map((12, 14, 16), 7)
    for view in (
        data[::2, ::-1, 1:],
        data.transpose(1, 0, 2),
        np.broadcast_to(data[0], (3, 14, 16)),
        data.astype(">i4"),
    ):
        np.testing.assert_array_equal(ours.edtsq(view), ours.edtsq(np.array(view, np.int64)))
    assert ours.edt([[0, 3, 3, 4]]).tolist() == [[0, 1, 1, 1]]
    assert ours.edt(np.zeros((0, 3))).shape == (0, 3)
    assert ours.edt(torch.tensor([0, 3, 3])).tolist() == [0, 1, 2]


def test_ignored_arguments() -> None:
    """As edt 2 and edt 3 order them."""
    data = label_map((9, 9), 4)
    for arguments in ((None, False, "K", 1), (None, False, 1, None)):
        np.testing.assert_array_equal(ours.edt(data, *arguments), theirs.edt(data))
    np.testing.assert_array_equal(ours.sdf(data, None, False, 1), theirs.sdf(data, None, False, 1))
    np.testing.assert_array_equal(ours.edt(data, anisotropy=2), theirs.edt(data, anisotropy=(2, 2)))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"data": np.zeros((2, 2, 2, 2))}, TypeError, "data: expected 1, 2 or 3 dimensions, got 4"),
        ({"data": 1}, TypeError, "data: expected 1, 2 or 3 dimensions, got 0"),
        ({"data": np.zeros(3, complex)}, TypeError, "data: expected integers, bools or floats, got dtype complex"),
        ({"data": [["a", "b"]]}, TypeError, "data: expected integers"),
        ({"anisotropy": (1, 2, 3)}, ValueError, "anisotropy: expected 2 numbers"),
        ({"anisotropy": (1, -2)}, ValueError, "anisotropy: expected positive"),
        ({"anisotropy": "wide"}, TypeError, "anisotropy: expected None, a number or 2 numbers"),
        ({"voxel_graph": np.zeros((3, 3))}, NotImplementedError, "voxel_graph"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_bad_input(change: dict[str, Any], error: type[Exception], words: str) -> None:
    for name in ("edt", "edtsq"):
        with pytest.raises(error, match=words):
            getattr(ours, name)(**{"data": np.ones((3, 3), int), **change})
