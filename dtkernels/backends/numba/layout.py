"""What both devices need to know about a problem before they compute anything."""

from __future__ import annotations

import torch

from ...problem import Image, Problem, Rule


class FlatMask:
    """The input as a one-dimensional view of its memory, of a dtype that Numba knows, and its strides."""

    def __init__(self, image: Image, source: torch.Tensor) -> None:  # noqa: D107
        source = source.detach()
        self.rule = image.rule
        self.stride: tuple[int, ...] = image.stride
        if source.dtype in (torch.float16, torch.bfloat16):  # unknown to Numba: one mask in between
            values = source.as_strided(image.shape, image.stride)
            source = values > image.threshold if image.rule == Rule.ABOVE else (values != 0) & (values == values)
            self.rule, self.stride = Rule.NONZERO, source.stride()
        if source.dtype == torch.bool:
            source = source.view(torch.uint8)
        extent = 1 + sum((n - 1) * s for n, s in zip(image.shape, self.stride, strict=True))
        self.memory = source.as_strided((extent,), (1,))


def axes_to_do(problem: Problem) -> int:
    """How many trailing axes matter: one of length 1 does not, unless background lies beyond its ends."""
    _, _, depth, height, _ = problem.image.shape
    if depth > 1 or (problem.closed and problem.spatial_dims == 3):
        return 3
    if height > 1 or (problem.closed and problem.spatial_dims >= 2):
        return 2
    return 1


def is_isotropic(spacing: tuple[float, ...], spatial_dims: int) -> bool:
    """Whether squared distances are voxel counts times one number."""
    used = spacing[3 - spatial_dims :]
    return all(s == used[-1] for s in used)
