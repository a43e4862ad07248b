"""The largest squared distances that the last pass of a transform takes along: ``torch.ops.dtk.sdf_extrema``."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from conftest import Backend, numpy

from bench import masks

extrema_of = torch.ops.dtk.sdf_extrema

# Boxes, lines and planes whose sides are and are not multiples of a vector, and wide codes (a side above 128).
SHAPES = [
    (5, 7, 9),
    (3, 16, 32),
    (2, 33, 17),
    (1, 1, 40),
    (18, 1, 3),
    (131, 4, 5),
    (40, 50),
    (16, 130),
    (200,),
    (1,),
]


def expected(mask: np.ndarray, spacing: tuple[float, ...], *, signed: bool, closed: bool) -> np.ndarray:
    square = oracle.squared("sdf" if signed else "edt", mask, spacing, closed=closed)
    finite = square[np.isfinite(square)]
    inside, outside = (-finite, finite) if signed else (finite, np.zeros_like(finite))
    return np.array([inside.max(initial=0), outside.max(initial=0)])


@pytest.mark.parametrize("border", ["open", "closed"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_extrema_are_those_of_the_map(backend: Backend, shape: tuple, signed: bool, border: str) -> None:
    kinds = ("organ", "noise", "one_hole", "one_foreground")
    images = np.stack([masks.make(kind, shape) for kind in kinds] + [np.zeros(shape), np.ones(shape)])
    for spacing in (None, 0.5, (0.75, 1.5, 3.0)[: len(shape)]):
        full = np.broadcast_to(1.0 if spacing is None else spacing, (len(shape),))
        want = np.stack([expected(m, full, signed=signed, closed=border == "closed") for m in images])
        for squared in (False, True):
            values = [float(s) for s in full] if spacing is not None else None
            options = {"signed": signed, "squared": squared, "border": border, "backend": backend.name}
            result, extrema = extrema_of(
                backend.put(images).unsqueeze(0), values, spatial_dims=len(shape), **options
            )
            assert extrema.shape == (1, len(images), 2)
            op = backend.sdf if signed else backend.edt
            same = op(backend.put(images), values, spatial_dims=len(shape), squared=squared, border=border)
            np.testing.assert_array_equal(numpy(result)[0], numpy(same))
            bound = oracle.tolerance(len(shape), is_squared=True) * 2
            exact = spacing is None and squared  # without EXTREMA, roots are squared again
            np.testing.assert_allclose(numpy(extrema)[0], want, rtol=0 if exact else bound)


def test_extrema_of_distances_are_integers_at_unit_spacing() -> None:
    mask = torch.from_numpy(masks.make("noise", (40, 30, 50)))
    assert extrema_of(mask, backend="cpu")[1].tolist() == extrema_of(mask, squared=True, backend="cpu")[1].tolist()


def test_extrema_are_taken_over_all_threads_and_slices() -> None:
    mask = torch.from_numpy(masks.make("organ", (96, 96, 96)))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        result, extrema = extrema_of(mask)
        torch.testing.assert_close(extrema.sqrt(), torch.stack((-result.min(), result.max())), rtol=0, atol=0)
    torch.set_num_threads(1)


def test_extrema_of_label_maps_samples_and_spacing_rows(backend: Backend) -> None:
    labels = torch.stack([torch.from_numpy(masks.make("spheres", (40, 24))) * (i + 1) for i in range(3)])
    rows = torch.tensor([[1.0, 2.0], [0.5, 0.5], [3.0, 0.25]])
    result, extrema = extrema_of(
        labels.to(backend.device), rows.to(backend.device), num_classes=4, spatial_dims=2, backend=backend.name
    )
    finite = torch.where(result.isinf(), 0, result).flatten(2)
    want = torch.stack((-finite.amin(2), finite.amax(2)), dim=2).clamp(min=0).square()
    torch.testing.assert_close(extrema, want, rtol=1e-6, atol=0)


def test_extrema_of_nothing(backend: Backend) -> None:
    result, extrema = extrema_of(backend.put(np.zeros((2, 3, 0, 4))), backend=backend.name)
    assert result.shape == (2, 3, 0, 4)
    assert extrema.shape == (2, 3, 2)
    assert extrema.abs().sum() == 0


def test_extrema_operator_passes_opcheck_and_vmap(backend: Backend) -> None:
    mask = backend.put(masks.make("noise", (2, 3, 6, 7)))
    torch.library.opcheck(extrema_of.default, (mask,), {"backend": backend.name})
    torch.library.opcheck(
        extrema_of.per_sample, (mask, torch.ones(2, 2).to(mask.device)), {"backend": backend.name}
    )
    mapped = torch.vmap(lambda m: extrema_of(m, spatial_dims=2, backend=backend.name))(mask)
    direct = extrema_of(mask, spatial_dims=2, backend=backend.name)
    for a, b in zip(mapped, direct, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
