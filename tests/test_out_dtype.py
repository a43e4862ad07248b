"""``out_dtype``: narrow results are float32 rounded once, and nothing that may overflow is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import dtkernels as dtk

HALVES = (torch.float16, torch.bfloat16)


def _mask(*shape: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.97).to(torch.uint8)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_rounded_once(backend: Any, dtype: torch.dtype) -> None:
    mask = _mask(2, 1, 9, 14, 11).to(backend.device)
    for squared in (False, True):
        options: dict[str, Any] = {"spacing": (0.7, 1.0, 2.1), "squared": squared}
        for function in (backend.edt, backend.sdf):
            narrow = function(mask, out_dtype=dtype, **options)
            assert narrow.dtype == dtype
            assert torch.equal(narrow, function(mask, **options).to(dtype))
    labels = torch.arange(60, device=backend.device).view(1, 6, 10) % 7 % 3
    narrow = backend.labels_sdf(labels, 3, spatial_dims=2, out_dtype=dtype)
    assert torch.equal(narrow, backend.labels_sdf(labels, 3, spatial_dims=2).to(dtype))


def test_bytes(backend: Any) -> None:
    """Nearest integer, ties to even; 255 where there is no background at all."""
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]], dtype=torch.uint8, device=backend.device)
    halves = backend.edt(mask, spacing=(1, 0.5), out_dtype=torch.uint8)  # 2.5 2 1.5 1 0.5 0
    assert halves.tolist() == [[2, 2, 2, 1, 0, 0]]
    full = backend.edt(torch.ones(2, 5, 7, device=backend.device), out_dtype=torch.uint8)
    assert full.dtype == torch.uint8
    assert (full == 255).all()
    image = _mask(3, 40, 30).to(backend.device)
    assert torch.equal(backend.edt(image, out_dtype=torch.uint8).float(), backend.edt(image).round())


def test_infinity() -> None:
    full = torch.ones(4, 5)
    for dtype in HALVES:
        assert (dtk.edt(full, out_dtype=dtype) == torch.inf).all()
        assert (dtk.sdf(full, out_dtype=dtype) == -torch.inf).all()
        assert (dtk.sdf(0 * full, out_dtype=dtype) == torch.inf).all()


def test_every_distance_must_fit() -> None:
    line = torch.ones(256)
    line[0] = 0
    assert dtk.edt(line[:255], out_dtype=torch.uint8).max() == 254
    with pytest.raises(ValueError, match=r"^out_dtype: expected distances up to 254 for uint8, but .* is 255;"):
        dtk.edt(line, out_dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^out_dtype: expected squared distances up to 65504 for float16"):
        dtk.edt(torch.ones(257), squared=True, out_dtype=torch.float16)
    assert dtk.edt(line, squared=True, out_dtype=torch.float16).max() == 255**2 - 1  # to nearest: 65024
    with pytest.raises(ValueError, match=r"^out_dtype: expected distances up to 65504 for float16"):
        dtk.sdf(torch.ones(3, 3), spacing=(1, 40_000), out_dtype=torch.float16)
    assert dtk.sdf(torch.ones(3, 3), spacing=(1, 40_000), out_dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"^out_dtype: "):  # one voxel and what surrounds it
        dtk.edt(torch.ones(1, 1), spacing=1e5, border="closed", out_dtype=torch.float16)
    assert dtk.edt(torch.ones(1, 1), spacing=1e5, out_dtype=torch.float16) == torch.inf
    rows = torch.tensor([[1.0, 1.0], [1.0, 70_000.0]])
    with pytest.raises(ValueError, match=r"^out_dtype: "):
        dtk.edt(torch.ones(2, 3, 3), rows, spatial_dims=2, out_dtype=torch.float16)
    narrow = dtk.edt(torch.ones(2, 3, 3), rows / 2, spatial_dims=2, out_dtype=torch.bfloat16)
    assert narrow.dtype == torch.bfloat16


def test_refusals() -> None:
    mask = torch.ones(3, 3)
    for wrong in ("float16", 5, True):
        with pytest.raises(TypeError, match=r"^out_dtype: expected None or a torch.dtype, got"):
            dtk.edt(mask, out_dtype=wrong)  # type: ignore[arg-type]
    for dtype in (torch.float64, torch.int32, torch.bool):
        with pytest.raises(TypeError, match=r"^out_dtype: expected a type among .* got"):
            dtk.edt(mask, out_dtype=dtype)
    for dtype in (torch.uint8, torch.int8):
        with pytest.raises(TypeError, match=r"^out_dtype: expected a type of a signed distance among .* got"):
            dtk.sdf(mask, out_dtype=dtype)
    with pytest.raises(TypeError, match=r"^out: expected dtype float16, got float32"):
        dtk.edt(mask, out=torch.empty(3, 3), out_dtype=torch.float16)
    with pytest.raises(TypeError, match=r"^out: expected dtype float32, got float16"):
        dtk.edt(mask, out=torch.empty(3, 3, dtype=torch.float16))


@pytest.mark.parametrize("dtype", [*HALVES, torch.uint8])
def test_in_torch(dtype: torch.dtype) -> None:
    mask = _mask(2, 5, 7, 9)
    out = torch.empty(mask.shape, dtype=dtype)
    assert dtk.edt(mask, spatial_dims=3, out=out, out_dtype=dtype) is out
    assert torch.equal(out, dtk.edt(mask, spatial_dims=3, out_dtype=dtype))
    mapped = torch.vmap(lambda m: dtk.edt(m, out_dtype=dtype))(mask)
    assert torch.equal(mapped, out)
    torch.library.opcheck(torch.ops.dtk.edt.default, (mask,), {"spatial_dims": 3, "out_dtype": dtype})
    with FakeTensorMode():
        fake = torch.ones(3, 4)
        assert dtk.edt(fake, out_dtype=dtype).dtype == dtype
        if dtype == torch.uint8:
            with pytest.raises(TypeError, match=r"^out_dtype: "):
                dtk.sdf(fake, out_dtype=dtype)
