"""Sums weighed by distances: one transform that ends in ``weigh.cuh``, or two, the target's and the prediction's.

Of two transforms the last kernel solves both images where a block can hold a slice of each (``_joint``), and the
target leaves its run codes alone; else the target leaves its map. Either lies in scratch behind the sums of
pieces; before them lies what both transforms use, one after the other.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any, NamedTuple

from ..problem import Image, Measure, Problem, SumsProblem
from . import transform
from .launch import OUT, STATIC_SHARED, DeviceProperties, Launch, Plan, Step, align

_WEIGHING = struct.Struct("<Q2qQ2q2Q2q2if4x")


class SumsPlan(NamedTuple):
    """The launches of a :class:`~dtkernels.problem.SumsProblem`."""

    target: Plan | None  # makes the target's map, or its run codes
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


def plan(problem: SumsProblem, device: DeviceProperties, joint: bool | None = None, **options: Any) -> SumsPlan:
    """Plan of ``problem``; the options are those of :func:`dtkernels.plans.transform.plan`.

    ``joint`` forces both transforms to end in one kernel, where that is possible, or keeps them apart; by default
    ``_joint`` decides.
    """
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
    other_bytes = 4 * voxels if both else 0
    if target is not None and voxels and joint is not False and (step := _joint(weighed.steps[-1], device)):
        codes = target.steps[0]._replace(target=(OUT, 0))
        target, other_bytes = target._replace(steps=(codes,)), target.scratch_bytes
        weighed = weighed._replace(steps=(*weighed.steps[:-1], step))
    elif joint:
        raise ValueError("joint: expected two packed slices that fit shared memory")
    return SumsPlan(target, weighed, problem, partials, other, other + other_bytes)


def _joint(step: Step, device: DeviceProperties) -> Step | None:
    """The last step of the prediction's transform as one that solves the target's slices too, or None.

    The kernel is there for packed slices, and worth it where shared memory holds as many blocks of two slices as
    registers allow, 1,024 threads: with fewer, what is saved of memory's time is lost of the processors'.
    """
    if "packed_slices" not in step.kernel:
        return None
    shared = step.shared + transform.packed_team_offset(step)
    if 1024 // step.block * (shared + STATIC_SHARED) > device.shared_per_block_optin:
        return None
    return step._replace(kernel=step.kernel.removesuffix(">") + ", true>", shared=shared)
