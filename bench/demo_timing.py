"""The three ways to the same Hausdorff loss, timed side by side on the same batches."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import measure
from .demo_training import Batch, Spacing

ROUNDS = (3, 9)  # at least and at most
TOLERANCE = 1e-4  # relative: float32 sums over some hundred thousand voxels


class SciPyHausdorff:
    """The recipe in use today: masks to NumPy, SciPy's transform per sample and class both ways, and back."""

    def __call__(self, logits: Tensor, label: Tensor, spacing: Spacing) -> Tensor:
        probability = torch.softmax(logits, 1)
        target = torch.nn.functional.one_hot(label[:, 0], logits.shape[1]).movedim(-1, 1)
        p, g = probability[:, 1:], target[:, 1:].to(probability.dtype)
        with torch.no_grad():
            weight = self._field(p, spacing) ** 2 + self._field(g, spacing) ** 2
        return ((p - g) ** 2 * weight).mean()

    @staticmethod
    def _field(x: Tensor, spacing: Spacing) -> Tensor:
        from scipy import ndimage

        masks = (x.detach() > 0.5).cpu().numpy()
        field = np.zeros(masks.shape, np.float32)
        for b, sample in enumerate(masks):
            sampling = spacing[b].tolist() if isinstance(spacing, Tensor) else spacing
            for c, mask in enumerate(sample):
                if mask.any() and not mask.all():
                    inside = ndimage.distance_transform_edt(mask, sampling=sampling)
                    field[b, c] = inside + ndimage.distance_transform_edt(~mask, sampling=sampling)
        return torch.from_numpy(field).to(x.device)


class SciPyBoundary:
    """The boundary loss by the same recipe: the target's maps as in Kervadec et al.'s ``one_hot2dist``."""

    def __call__(self, logits: Tensor, label: Tensor, spacing: Spacing) -> Tensor:
        from scipy import ndimage

        probability = torch.softmax(logits, 1)
        masks = torch.nn.functional.one_hot(label[:, 0], logits.shape[1]).movedim(-1, 1).bool().cpu().numpy()
        field = np.zeros(masks.shape, np.float32)
        for b, sample in enumerate(masks):
            sampling = spacing[b].tolist() if isinstance(spacing, Tensor) else spacing
            for c, mask in enumerate(sample):
                if mask.any() and not mask.all():
                    outside = ndimage.distance_transform_edt(~mask, sampling=sampling)
                    inside = ndimage.distance_transform_edt(mask, sampling=sampling)
                    field[b, c] = outside * ~mask - (inside - 1) * mask
        return (probability * torch.from_numpy(field).to(logits.device)).mean()


class Monai:
    """MONAI's loss of a name. It knows no spacing: distances are in voxels."""

    def __init__(self, name: str) -> None:
        import monai.losses

        self.loss = getattr(monai.losses, name)(softmax=True, to_onehot_y=True)

    def __call__(self, logits: Tensor, label: Tensor, spacing: Spacing) -> Tensor:
        value: Tensor = self.loss(logits, label)
        return value


class Values(NamedTuple):
    """One loss on the same batches by the three implementations, and how far they are apart."""

    dtkernels: list[float]
    scipy: list[float]
    monai: list[float]
    dtkernels_in_voxels: list[float]  # what MONAI's is compared with
    difference_scipy: float  # relative, the worst batch
    difference_monai: float

    @property
    def agree(self) -> bool:
        return self.difference_scipy <= TOLERANCE and self.difference_monai <= TOLERANCE


class Timing(NamedTuple):
    """Seconds per batch, everything timed in the same rounds of one process."""

    network: measure.Sample  # forward, Dice, backward
    losses: dict[str, measure.Sample]  # forward and backward to the logits
    values: Values
    shape: tuple[int, ...]  # of a batch's logits
    batches: int
    unit_spacing: bool  # voxels are mm
    monai_uses: str

    def ratio(self, name: str) -> float:
        return self.losses[name].median / self.losses["dtkernels"].median

    def share(self, name: str) -> float:
        """Of an iteration: the loss over network and loss."""
        loss = self.losses[name].median
        return loss / (self.network.median + loss)


def compare(
    model: torch.nn.Module,
    batches: Sequence[Batch],
    dice: Callable[[Tensor, Tensor], Tensor],
    hausdorff: Callable[..., Tensor],
    *,
    seconds: float,
) -> Timing:
    """Time the network alone and the loss three ways, in as many rounds as ``seconds`` allow.

    The batches' logits are the model's own.
    """
    losses: dict[str, Callable[..., Tensor]] = {
        "dtkernels": hausdorff,
        "scipy": SciPyHausdorff(),
        "monai": Monai("HausdorffDTLoss"),
    }
    with torch.no_grad():
        logits = [model(batch.image) for batch in batches]
    cuda = batches[0].image.is_cuda

    def network() -> None:
        for batch in batches:
            model.zero_grad(set_to_none=True)
            dice(model(batch.image), batch.label).backward()
        if cuda:
            torch.cuda.synchronize()

    def timed(loss: Callable[..., Tensor]) -> Callable[[], None]:
        def run() -> None:
            for batch, prediction in zip(batches, logits, strict=True):
                loss(prediction.detach().requires_grad_(), batch.label, spacing=batch.spacing).backward()
            if cuda:
                torch.cuda.synchronize()

        return run

    model.train()
    contenders: dict[str, Callable[[], Any]] = {"network": network}
    contenders |= {name: timed(loss) for name, loss in losses.items()}
    start = time.perf_counter()
    for once in contenders.values():
        once()
    fitting = seconds / (time.perf_counter() - start)
    rounds = int(min(max(fitting - 2, ROUNDS[0]), ROUNDS[1]))  # two more are the timer's warm-up
    samples = measure.side_by_side(contenders, rounds=rounds)
    model.zero_grad(set_to_none=True)
    each = {name: _per_batch(sample, len(batches)) for name, sample in samples.items()}
    network_sample = each.pop("network")
    on_gpu = cuda and all(importlib.util.find_spec(name) for name in ("cupy", "cucim"))
    return Timing(
        network_sample,
        each,
        _values(losses, batches, logits),
        tuple(logits[0].shape),
        len(batches),
        all(batch.spacing == (1.0, 1.0, 1.0) for batch in batches),
        "cuCIM on the GPU" if on_gpu else "SciPy on the CPU",
    )


def _per_batch(sample: measure.Sample, batches: int) -> measure.Sample:
    return measure.Sample(sample.median / batches, sample.low / batches, sample.high / batches, sample.rounds)


@torch.no_grad()
def _values(
    losses: dict[str, Callable[..., Tensor]], batches: Sequence[Batch], logits: Sequence[Tensor]
) -> Values:
    def values(name: str, in_mm: bool = True) -> list[float]:
        return [
            losses[name](x, batch.label, spacing=batch.spacing if in_mm else (1.0, 1.0, 1.0)).item()
            for batch, x in zip(batches, logits, strict=True)
        ]

    ours, scipy, monai, voxels = values("dtkernels"), values("scipy"), values("monai"), values("dtkernels", False)
    return Values(ours, scipy, monai, voxels, _difference(ours, scipy), _difference(voxels, monai))


def _difference(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(x - y) / max(abs(x), abs(y), 1e-12) for x, y in zip(a, b, strict=True))
