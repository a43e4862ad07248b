"""Losses, forward and backward, on logits that agree with their labels in part."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch

from dtkernels import losses

from .. import inputs
from ..entries import Entry
from .job import Job, Run

WORDS: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
REGRESSION: dict[str, Any] = {"other_act": torch.tanh, "to_onehot_y": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "one-sided": {"variant": "one_sided"},
    "background too": {"include_background": True},
}


def _batch(entry: Entry) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that need a gradient, and labels that they agree with in part."""
    samples, _ = entry.batch
    images = inputs.load(entry._replace(batch=(samples,))).images
    labels = torch.from_numpy(images).to(entry.device)[:, None].long()
    moved = labels.roll((3, -2, 4), (2, 3, 4)).float()
    noise = torch.randn((samples, 2, *entry.shape), generator=torch.Generator().manual_seed(0)).to(entry.device)
    logits = torch.cat([1 - moved, moved], 1).mul_(4).add_(noise)
    return logits.requires_grad_(), labels


def loss(entry: Entry) -> Job:
    """The loss that the variant names, "CLASS" or "CLASS, how"."""
    x, labels = _batch(entry)
    name, _, how = entry.variant.partition(", ")
    regression = name in ("SDFProductLoss", "ShapeAwareLoss", "SignedDistanceRegressionLoss")
    words = {**(REGRESSION if regression else WORDS), **VARIANTS.get(how, {})}

    def step(function: Any) -> Run:
        def run() -> torch.Tensor:
            x.grad = None
            value: torch.Tensor = function(x, labels)
            value.backward()
            return value.detach()

        return run

    def monai(name: str, words: dict[str, Any]) -> Run:
        return step(getattr(importlib.import_module("monai.losses"), name)(**words))

    @cache
    def wide() -> float:
        """MONAI's loss of the same name in float64, its maps by SciPy."""
        twin = getattr(importlib.import_module("monai.losses"), name)(**words)
        return float(twin(x.detach().double(), labels))

    def error(contender: str, value: torch.Tensor) -> float | None:
        comparable = "MONAI" in entry.peers and contender != "MONAI DiceLoss"
        return abs(float(value) / wide() - 1) if comparable else None

    peers = {
        "MONAI DiceLoss": lambda: monai("DiceLoss", WORDS),
        "MONAI": lambda: monai(name, words),
    }
    return Job(step(getattr(losses, name)(**words)), peers, x.numel(), error=error)
