"""What the two backends share that run the kernels of csrc/dtk on a GPU: a problem becomes launches."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import plan
from ..problem import Problem


def enqueue(
    problem: Problem,
    device: torch.device,
    properties: plan.DeviceProperties,
    launch: Callable[[plan.Launch, int], None],
) -> None:
    """Hand every launch of the plan to ``launch``, with torch's current stream on ``device``.

    Scratch comes from torch's allocator. It is held until the last launch is queued: freed earlier, another thread
    on the same stream could be given the same memory between two of our launches.
    """
    the_plan = plan.plan(problem, properties)
    scratch = torch.empty(the_plan.scratch_bytes, dtype=torch.uint8, device=device)
    stream = torch._C._cuda_getCurrentRawStream(device.index)
    for step in the_plan.bind(problem.image.data, problem.spacing.data, problem.out, scratch.data_ptr()):
        launch(step, stream)
