"""What the two backends share that run the kernels of csrc/dtk on a GPU: a problem becomes launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..plans import envelope, label, nearest, remap, transform, weigh
from ..plans.launch import DeviceProperties, Launch, Plan
from ..problem import (
    ContourProblem,
    EnvelopeProblem,
    FacesProblem,
    LabelProblem,
    NearestProblem,
    Problem,
    RemapProblem,
    SumsProblem,
)


class Gpu(NamedTuple):
    """A device and the way to it."""

    device: torch.device
    properties: DeviceProperties
    launch: Callable[[Launch, int], None]  # queues one launch on a stream of the device

    def run(self, problem: Problem) -> None:
        """Queue a distance transform."""
        plan = transform.plan(problem, self.properties)
        self._queue(plan, problem.image.data, problem.spacing.data, problem.out, problem.extrema)

    def nearest(self, problem: NearestProblem) -> None:
        """Queue a feature transform."""
        plan = nearest.plan(problem, self.properties)
        self._queue(plan, problem.image.data, problem.spacing.data, problem.distances, problem.indices)

    def label(self, problem: LabelProblem) -> None:
        """Queue a labelling."""
        self._queue(label.plan(problem, self.properties), problem.image.data, 0, problem.labels, problem.counts)

    def envelope(self, problem: EnvelopeProblem) -> None:
        """Queue an envelope."""
        plan = envelope.plan(problem, self.properties)
        self._queue(plan, problem.image.data, problem.spacing.data, problem.values, problem.indices)

    def remap(self, problem: RemapProblem, extrema: torch.Tensor | None) -> None:
        """Queue a formula; the maxima of components, if any, follow the extrema in memory."""
        plan = remap.plan(problem, self.properties)
        state = extrema
        if problem.labels:
            images = problem.image.shape[0] * problem.image.shape[1]
            state = torch.zeros(images * (2 + remap.entries(problem)), device=self.device)
            if extrema is not None:
                state[: 2 * images].copy_(extrema.flatten())
        second = 0 if state is None else state.data_ptr()
        stream = torch._C._cuda_getCurrentRawStream(self.device.index)
        for launch in plan.bind(problem.image.data, problem.spacing.data, problem.maps, problem.labels, second):
            self.launch(launch, stream)

    def contour(self, problem: ContourProblem) -> None:
        """Queue the contour of a mask."""
        self._queue(remap.contour_plan(problem, self.properties), problem.image.data, 0, problem.out)

    def faces(self, problem: FacesProblem) -> None:
        """Queue the passes of a feature transform for either side."""
        plan = nearest.faces_plan(problem, self.properties)
        self._queue(plan, problem.image.data, problem.spacing.data, problem.maps)

    def weigh(self, problem: SumsProblem, rows: torch.Tensor | None, sums: torch.Tensor) -> None:
        """Queue sums and their gradient; the sums of pieces are added up by torch, in a fixed order."""
        each = rows
        if rows is not None:  # a row for every image
            images = problem.target.shape[:2]
            each = rows[:, None].expand(*images, 3).contiguous()
        plan = weigh.plan(problem, self.properties)
        scratch = torch.empty(plan.scratch_bytes, dtype=torch.uint8, device=self.device)
        stream = torch._C._cuda_getCurrentRawStream(self.device.index)
        data = 0 if each is None else each.data_ptr()
        for launch in plan.bind(problem.spacing.data, data, scratch.data_ptr()):
            self.launch(launch, stream)
        partials = scratch[plan.partials :][: 4 * sums.numel() * plan.pieces].view(torch.float32)
        torch.sum(partials.view(*sums.shape, plan.pieces), -1, out=sums)

    def scatter(
        self, grad: torch.Tensor, index: torch.Tensor, shape: tuple[int, int, int, int, int], sums: torch.Tensor
    ) -> None:
        """Queue the gradient of an envelope."""
        plan = envelope.scatter_plan(shape, grad.dtype == torch.float64, self.properties)
        self._queue(plan, grad.data_ptr(), 0, sums.data_ptr(), index.data_ptr())

    def _queue(self, plan: Plan, image: int, spacing: int, out: int, second: int = 0) -> None:
        """Queue every launch of a plan on torch's current stream.

        Scratch comes from torch's allocator. It is held until the last launch is queued: freed earlier, another
        thread on the same stream could be given the same memory between two of our launches.
        """
        scratch = torch.empty(plan.scratch_bytes, dtype=torch.uint8, device=self.device)
        stream = torch._C._cuda_getCurrentRawStream(self.device.index)
        for launch in plan.bind(image, spacing, out, scratch.data_ptr(), second):
            self.launch(launch, stream)
