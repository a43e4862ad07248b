"""The training of the demo: volumes of one size, a small U-Net, Dice + Hausdorff, validation in mm."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dtkernels as dtk
from dtkernels.data import Case, Dataset

LARGEST_SIDE = 64
MULTIPLE = 8
PEAK_RATE = 5e-3

Spacing = tuple[float, ...] | Tensor


class Batch(NamedTuple):
    """Volumes of one size on the device."""

    image: Tensor  # (B, 1, D, H, W) float32
    label: Tensor  # (B, 1, D, H, W) int64
    spacing: Spacing  # one triple where the headers agree, else one row per sample


class Window(NamedTuple):
    """Where a case lies in the common size: ``common[inside] = volume[taken]``."""

    taken: tuple[slice, ...]
    inside: tuple[slice, ...]


class Volumes:
    """Cases in one common size, on the device."""

    def __init__(self, cases: Sequence[Case], size: Sequence[int], device: torch.device) -> None:
        self.cases = tuple(cases)
        self.windows = [window(case, size) for case in cases]
        image = torch.zeros(len(cases), 1, *size)
        label = torch.zeros(len(cases), 1, *size, dtype=torch.int64)
        for i, (case, (taken, inside)) in enumerate(zip(cases, self.windows, strict=True)):
            part = case.image[taken]
            image[(i, 0, *inside)] = (part - part.mean()) / part.std().clamp(min=1e-6)
            label[(i, 0, *inside)] = case.label[taken].long()
        self.image, self.label = image.to(device), label.to(device)
        self.spacing = torch.tensor([case.spacing for case in cases])

    def __len__(self) -> int:
        return len(self.cases)

    def batch(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        rows = self.spacing[chosen]
        same = bool((rows == rows[0]).all())
        at = chosen.to(self.image.device)
        spacing: Spacing = tuple(rows[0].tolist()) if same else rows.to(self.image.device)
        return Batch(self.image[at], self.label[at], spacing)


def common_size(cases: Sequence[Case]) -> tuple[int, ...]:
    """The smallest size that the U-Net takes and that holds every case, up to a limit."""
    largest = (max(case.image.shape[axis] for case in cases) for axis in range(3))
    return tuple(min(LARGEST_SIDE, MULTIPLE * math.ceil(side / MULTIPLE)) for side in largest)


def window(case: Case, size: Sequence[int]) -> Window:
    """Centre the case; where it is larger than the common size, cut around the middle of its object."""
    where = torch.nonzero(case.label)
    middle = (where.amin(0) + where.amax(0)).div(2, rounding_mode="floor").tolist() if len(where) else None
    taken, inside = [], []
    for axis, (have, want) in enumerate(zip(case.image.shape, size, strict=True)):
        start = 0
        if have > want:
            centre = middle[axis] if middle else have // 2
            start = min(max(centre - want // 2, 0), have - want)
        length = min(have, want)
        offset = (want - length) // 2
        taken.append(slice(start, start + length))
        inside.append(slice(offset, offset + length))
    return Window(tuple(taken), tuple(inside))


def split(dataset: Dataset, seed: int, validation: float = 0.2) -> tuple[list[Case], list[Case]]:
    """Training and validation cases, drawn by ``seed``; at least one of each."""
    order = torch.randperm(len(dataset.cases), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = min(max(1, round(validation * len(order))), len(order) - 1)
    cases = dataset.cases
    return [cases[i] for i in order[held_out:]], [cases[i] for i in order[:held_out]]


def network(classes: int) -> torch.nn.Module:
    """A U-Net of 0.14 million parameters, small enough for two CPU cores."""
    from monai.networks.nets import UNet

    return UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        channels=(16, 32, 64),
        strides=(2, 2),
        num_res_units=1,
    )


class Criterion(NamedTuple):
    """Dice + share * weight * Hausdorff; the weight is set anew in every step so that both count the same.

    That balance is Karimi & Salcudean's (IEEE TMI 39, 2020): the Hausdorff term falls by orders of magnitude
    during training. ``share`` grows from 0, for as long as nothing is segmented yet the Hausdorff term alone
    would be served best by an empty prediction.
    """

    dice: Callable[[Tensor, Tensor], Tensor]
    hausdorff: Callable[..., Tensor]

    def __call__(self, logits: Tensor, batch: Batch, share: float) -> tuple[Tensor, Tensor, Tensor]:
        dice = self.dice(logits, batch.label)
        hausdorff = self.hausdorff(logits, batch.label, spacing=batch.spacing)
        weight = share * (dice / hausdorff.clamp(min=1e-8)).detach()
        return dice + weight * hausdorff, dice.detach(), hausdorff.detach()


class History(NamedTuple):
    """What the training did."""

    steps: int
    seconds: float
    dice: list[float]  # the Dice loss of every step
    hausdorff: list[float]  # the Hausdorff loss of every step, mm^2
    stopped_early: bool  # the time ran out before the steps did


def train(
    model: torch.nn.Module,
    volumes: Volumes,
    criterion: Criterion,
    *,
    steps: int,
    batch_size: int,
    seconds: float,
    seed: int,
    report: Callable[[int, int, float, float], Any],
) -> History:
    """Adam with a one-cycle rate, fewer steps where ``seconds`` would not do; ``report(step, of, dice, mm^2)``."""
    order = torch.Generator().manual_seed(seed)
    batch_size = min(batch_size, len(volumes))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    queue: list[int] = []
    losses: list[Tensor] = []
    start = time.perf_counter()
    planned = steps
    peak, warm_up = PEAK_RATE, 0.25
    model.train()
    step = 0
    while step < planned:
        done = step / planned
        rise = min(1.0, (done + 1 / planned) / warm_up)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, done - warm_up) / (1 - warm_up)))
        for group in optimizer.param_groups:
            group["lr"] = peak * rise * fall
        if len(queue) < batch_size:
            queue += torch.randperm(len(volumes), generator=order).tolist()
        batch = volumes.batch([queue.pop(0) for _ in range(batch_size)])
        total, dice, hausdorff = criterion(model(batch.image), batch, share=done)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        step += 1
        losses.append(torch.stack([dice, hausdorff]))
        if step % 10 == 0 or step == planned:
            dice_now, hausdorff_now = losses[-1].tolist()  # reads the device: not in every step
            per_step = (time.perf_counter() - start) / step
            planned = max(step, min(planned, int(seconds / per_step)))
            report(step, planned, dice_now, hausdorff_now)
    values = torch.stack(losses).cpu()
    if not bool(values.isfinite().all()):
        raise RuntimeError("the training diverged: a loss is not finite")
    return History(step, time.perf_counter() - start, values[:, 0].tolist(), values[:, 1].tolist(), step < steps)


@torch.no_grad()
def predict(model: torch.nn.Module, volumes: Volumes, batch_size: int) -> list[Tensor]:
    """Predicted labels of every case in the common size, background outside the case itself."""
    model.eval()
    results: list[Tensor] = []
    for first in range(0, len(volumes), batch_size):
        indices = range(first, min(first + batch_size, len(volumes)))
        winners = model(volumes.batch(list(indices)).image).argmax(1)
        for i, winner in zip(indices, winners, strict=True):
            inside = volumes.windows[i].inside
            label = torch.zeros_like(winner)
            label[inside] = winner[inside]
            results.append(label)
    return results


class Score(NamedTuple):
    """Validation of one class."""

    name: str
    dice: float  # mean over the cases
    hd95: float  # median over the cases, mm; a missed class counts as infinite
    missed: int  # cases where exactly one of prediction and label has the class
    cases: int  # cases where at least one has it


def evaluate(predictions: Sequence[Tensor], volumes: Volumes, classes: Sequence[str]) -> list[Score]:
    """Dice and HD95 of every class but the background."""
    scores = []
    for index, name in enumerate(classes[1:], 1):
        dices, distances = [], []
        for i, prediction in enumerate(predictions):
            p, t = prediction == index, volumes.label[i, 0] == index
            size = int(p.sum() + t.sum())
            if size:
                dices.append(2 * int((p & t).sum()) / size)
                distances.append(hd95(p, t, volumes.cases[i].spacing))
        n = len(dices)
        scores.append(
            Score(
                name,
                sum(dices) / n if n else math.nan,
                statistics.median(distances) if n else math.nan,
                sum(math.isinf(d) for d in distances),
                n,
            )
        )
    return scores


def hd95(prediction: Tensor, target: Tensor, spacing: Sequence[float]) -> float:
    """The larger of the two directed 95th percentiles between surface voxels, in mm, as MONAI defines it.

    inf where one mask is empty, nan where both are.
    """
    p, t = surface(prediction), surface(target)
    has_p, has_t = bool(p.any()), bool(t.any())
    if not (has_p and has_t):
        return math.inf if has_p or has_t else math.nan
    distance = dtk.edt(~torch.stack([p, t]), spacing, spatial_dims=p.ndim)
    directed = (torch.quantile(distance[1][p], 0.95), torch.quantile(distance[0][t], 0.95))
    return max(directed[0].item(), directed[1].item())


def surface(mask: Tensor) -> Tensor:
    """Voxels of the mask with a face neighbour outside it; the image's edge counts as outside."""
    eroded = mask.clone()
    for axis, side in enumerate(mask.shape):
        inner = torch.zeros_like(mask)
        if side > 2:
            middle = mask.narrow(axis, 0, side - 2) & mask.narrow(axis, 2, side - 2)
            inner.narrow(axis, 1, side - 2).copy_(middle)
        eroded &= inner
    return mask & ~eroded
