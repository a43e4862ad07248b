"""A formula as kernels take it, and the lengths of an image that it may use: ``csrc/dtk/evaluate.cuh``."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from ..problem import Mapping, Spacing
from .launch import float32

FORMULA = "32f"
SIZE = "3f3i"
MAPPING = f"{FORMULA}{SIZE}2i"

Numbers = tuple[float, ...]


def mapping_fields(mapping: Mapping | None, shape: Sequence[int], dims: int, spacing: Spacing) -> Numbers:
    """A ``Mapping``; zeros where there is none."""
    if mapping is None:
        return (0,) * (32 + 6 + 2)
    return (*formula_fields(mapping.formula), *size_fields(shape, dims, spacing), mapping.inner_zero, True)


def formula_fields(formula: Sequence[float]) -> Numbers:
    """A ``Formula``."""
    return tuple(map(float32, formula))


def size_fields(shape: Sequence[int], dims: int, spacing: Spacing) -> Numbers:
    """An ``ImageSize`` of an image (batch, class, z, y, x): the sides alone where spacing lies on the device."""
    sides = (*(0,) * (3 - dims), *shape[5 - dims :])
    if spacing.values is None:
        return (0.0, 0.0, 0.0, *sides)
    squares = 0.0
    for side, step in zip(sides, spacing.values, strict=True):
        squares += (side * step) * (side * step)
    diagonal = math.sqrt(_rounded(squares))  # rounded once more where it is packed, which gives float32's own root
    widest = _rounded(max(spacing.values[3 - dims :])) * _rounded(1.00001)
    return (float32(spacing.values[2]), diagonal, float32(widest), *sides)


def _rounded(x: float) -> float:
    """The nearest float32."""
    return float(struct.unpack("<f", struct.pack("<f", float32(x)))[0])
