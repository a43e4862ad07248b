"""Memory for results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As ``torch.empty``, but what does not fit on a CPU is a MemoryError, where torch raises a RuntimeError.

    On a GPU it stays ``torch.OutOfMemoryError``, which training loops catch.
    """
    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except RuntimeError as error:
        if device.type != "cpu":
            raise
        size = math.prod(shape) * dtype.itemsize
        raise MemoryError(f"expected {size} bytes for a result of shape {tuple(shape)}, got none") from error
