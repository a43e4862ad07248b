"""Sums weighed by distances: one transform that ends in ``weigh.cuh``, or first a map of the target and then one.

The target's map and the sums of pieces lie in scratch, which both transforms use one after the other.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any, NamedTuple

from ..problem import Image, Measure, Problem, SumsProblem
from . import transform
from .launch import DeviceProperties, Launch, Plan, align

_WEIGHING = struct.Struct("<Q2qQ2q2Q2q2if4x")


class SumsPlan(NamedTuple):
    """The launches of a :class:`~dtkernels.problem.SumsProblem`."""

    target: Plan | None  # makes the target's map
    weighed: Plan
    problem: SumsProblem
    partials: int  # bytes from the beginning of scratch
    other: int
    scratch_bytes: int

    @property
    def pieces(self) -> int:
        """Of an image; their sums (B * C, pieces) are what the launches leave at ``partials``."""
        return self.weighed.pieces

    def bind(self, spacing: int, image_spacing: int, scratch: int) -> list[Launch]:
        """Launches in order; the addresses of rows of spacing, a row for each sample and for each image."""
        p = self.problem
        other = scratch + self.other if self.target else 0
        tail = _WEIGHING.pack(
            *_planes(p.prediction, True),
            *_planes(p.target, p.soft),
            other,
            scratch + self.partials,
            p.target.shape[1],
            prod(p.target.shape[2:]),
            p.target.dtype,
            p.measure,
            float(p.shift),
        )
        image = p.prediction if self.target else p.target
        first = self.target.bind(p.target.data, spacing, other, scratch) if self.target else []
        return first + self.weighed.bind(image.data, image_spacing, p.gradient, scratch, tail=tail)


def _planes(image: Image, used: bool) -> tuple[int, int, int]:
    return (image.data, *image.stride[:2]) if used else (0, 0, 0)


def plan(problem: SumsProblem, device: DeviceProperties, **options: Any) -> SumsPlan:
    """Plan of ``problem``; the options are those of :func:`dtkernels.plans.transform.plan`."""
    squared = problem.measure != Measure.BOUNDARY and problem.alpha == 2
    both = problem.measure in (Measure.TWO_SIDED, Measure.INSIDE)

    def of(image: Image, weighed: bool) -> Plan:
        one = Problem(image, problem.spatial_dims, problem.spacing, True, squared, False, 0)
        return transform.plan(one, device, weighed=weighed, **options)

    target = of(problem.target, False) if both else None
    weighed = of(problem.prediction if both else problem.target, True)
    images, voxels = prod(problem.target.shape[:2]), prod(problem.target.shape)
    partials = max(weighed.scratch_bytes, target.scratch_bytes if target else 0)
    other = partials + align(4 * images * weighed.pieces)
    return SumsPlan(target, weighed, problem, partials, other, other + (4 * voxels if both else 0))
