"""What the papers' losses do without any data: each function returns the rows of a table.

Nothing here is trained on volumes; the whole takes about a minute of one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import dtkernels as dtk
from dtkernels import losses

ON_LOGITS: dict[str, Any] = {"softmax": True, "to_onehot_y": True}


def everything() -> dict[str, Any]:
    """All demonstrations by name."""
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "wrong_signs": wrong_signs,
        "hollow": hollow,
        "island": island,
        "convergence": convergence,
    }
    return {name: part() for name, part in parts.items()}


# ---- wrong-signed gradients of the region-wise loss --------------------------------------------------


def random_labels(classes: int, side: int, generator: torch.Generator) -> Tensor:
    """(1, 1, side, side) labels: discs of every class but the background, at random."""
    labels = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    for name in range(1, classes):
        radius = float(torch.empty(()).uniform_(side / 12, side / 6, generator=generator))
        centre = torch.empty(2).uniform_(radius, side - radius, generator=generator)
        labels[..., _disc((side, side), centre, radius)] = name
    return labels


def wrong_signs(trials: int = 20, side: int = 64) -> list[dict[str, Any]]:
    """In which share of pixels descent raises the logit of a wrong class, and of more than the true one's."""
    rows = []
    for classes in (2, 3, 4, 6, 8):
        row: dict[str, Any] = {"classes": classes}
        for name, convention in (("raw", "edt_diff"), ("rectified", "rrw")):
            generator = torch.Generator().manual_seed(classes)
            loss = losses.RegionWiseLoss(**ON_LOGITS, convention=convention)
            rises = overtakes = pixels = 0
            for _ in range(trials):
                labels = random_labels(classes, side, generator)
                logits = torch.randn(1, classes, side, side, generator=generator).requires_grad_()
                loss(logits, labels).backward()
                assert logits.grad is not None
                step = -logits.grad[0].flatten(1)
                truth = labels.flatten().long()[None]
                others = step.scatter(0, truth, -math.inf).amax(0)
                rises += int((others > 0).sum())
                overtakes += int((others > step.gather(0, truth)[0]).sum())
                pixels += truth.numel()
            row[name] = {"rises": rises / pixels, "overtakes": overtakes / pixels}
        rows.append(row)
    return rows


# ---- MapDice's hollow optimum ------------------------------------------------------------------------


def hollow(radius: int = 25, steps: int = 300) -> list[dict[str, Any]]:
    """What a free prediction of a ball becomes under MapDice: its Dice with the ball, and p at the centre."""
    side = 2 * radius + 7
    ball = _disc((side,) * 3, torch.full((3,), side // 2), radius).float()[None, None]
    rows = []
    for form in ("printed", "weighted"):
        loss = losses.MapDiceLoss(include_background=True, sigmoid=True, form=form)
        perfect = losses.MapDiceLoss(include_background=True, form=form)(ball, ball).item()
        logits = torch.zeros_like(ball).requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.2)
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss(logits, ball)
            value.backward()
            optimizer.step()
        p = logits.detach().sigmoid()
        mask = p > 0.5
        centre = p[0, 0, side // 2, side // 2, side // 2].item()
        dice = 2 * float((mask & (ball > 0.5)).sum()) / float(mask.sum() + ball.sum())
        rows.append(
            {
                "form": form,
                "loss of the ball": perfect,
                "loss reached": value.item(),
                "Dice": dice,
                "centre": centre,
            }
        )
    return rows


# ---- the false-positive island -----------------------------------------------------------------------


def island(side: int = 96) -> list[dict[str, Any]]:
    """What an island of 3^2 voxels costs at a distance from a disc, over what it costs two voxels away."""
    rows = []
    disc = _disc((side, side), torch.tensor([side / 2, side / 4]), side / 8).float()[None, None]
    edge = int(side / 4 + side / 8)
    forms = ("two_sided", "ma2020", "one_sided")
    first: dict[str, float] = {}
    for distance in (2, 5, 10, 20, 30, 40):
        prediction = disc.clone()
        at = edge + distance + 1
        prediction[..., side // 2 - 1 : side // 2 + 2, at : at + 3] = 1
        row: dict[str, Any] = {"distance": distance}
        for form in forms:
            loss = losses.HausdorffDTLoss(include_background=True, variant=form)
            value = loss(prediction, disc).item()
            row[form] = value / first.setdefault(form, value)
        rows.append(row)
    return rows


# ---- convergence -------------------------------------------------------------------------------------


def convergence(trials: int = 12, side: int = 32, steps: int = 300) -> list[dict[str, Any]]:
    """How often a small network learns generated shapes under each map: shapes of ``classes - 1`` discs.

    A training has converged when every class is found with a Dice of at least 0.8 on what it was trained on.
    """
    rows = []
    for classes in (2, 3, 4):
        row: dict[str, Any] = {"classes": classes, "trials": trials}
        for name, convention in (("raw", "edt_diff"), ("rectified", "rrw")):
            loss = losses.RegionWiseLoss(**ON_LOGITS, convention=convention)
            row[name] = sum(
                _converges(loss, classes, side, steps, torch.Generator().manual_seed(100 * classes + trial))
                for trial in range(trials)
            )
        rows.append(row)
    return rows


def _converges(loss: torch.nn.Module, classes: int, side: int, steps: int, generator: torch.Generator) -> bool:
    labels = torch.cat([random_labels(classes, side, generator) for _ in range(4)])
    shades = torch.linspace(0, 1, classes)[labels.long()]
    image = shades + 0.1 * torch.randn(labels.shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        layers: list[torch.nn.Module] = []
        for before, after in ((1, 8), (8, 8), (8, 8)):
            layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.ReLU()]
        network = torch.nn.Sequential(*layers, torch.nn.Conv2d(8, classes, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network(image), labels).backward()
        optimizer.step()
    with torch.no_grad():
        found = network(image).argmax(1, keepdim=True).to(torch.uint8)
    scores = dtk.metrics.overlap_metrics(
        found, labels, num_classes=classes, include_background=False, spatial_dims=2
    ).global_dice
    return bool((scores.nan_to_num(1.0) >= 0.8).all())


def _disc(shape: tuple[int, ...], centre: Tensor, radius: float) -> Tensor:
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    return torch.stack([(x - c) ** 2 for x, c in zip(axes, centre, strict=True)]).sum(0) <= radius**2
