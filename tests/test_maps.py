"""Every named map against SciPy in float64; numbers, policies and combinations that are promised."""

from __future__ import annotations

import maps_oracle
import numpy as np
import pytest
import torch
from conftest import Backend, numpy
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
