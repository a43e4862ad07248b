"""Speed of the losses on a CPU against MONAI's: ``python -m bench.losses [--save FILE]``.

Forward and backward on (2, 2, 96, 96, 96), one thread. The Hausdorff loss is timed against MONAI's in turns; every
loss against MONAI's DiceLoss on the same logits and labels, in the same run, round after round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dtkernels import losses

from . import masks, measure

SHAPE = (2, 2, 96, 96, 96)
REQUIRED = 40.0  # MONAI's Hausdorff loss takes at least so many times as long
WORDS: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
REGRESSION: dict[str, Any] = {"other_act": torch.tanh, "to_onehot_y": True}
OURS: dict[str, torch.nn.Module] = {
    "BoundaryLoss": losses.BoundaryLoss(**WORDS),
    "RegionWiseLoss": losses.RegionWiseLoss(**WORDS),
    "HausdorffDTLoss": losses.HausdorffDTLoss(**WORDS),
    "HausdorffDTLoss, one-sided": losses.HausdorffDTLoss(**WORDS, variant="one_sided"),
    "LogHausdorffDTLoss": losses.LogHausdorffDTLoss(**WORDS),
    "GeneralizedSurfaceLoss": losses.GeneralizedSurfaceLoss(**WORDS),
    "DistancePenalizedCELoss": losses.DistancePenalizedCELoss(**WORDS),
    "BorderWeightedCELoss": losses.BorderWeightedCELoss(**WORDS),
    "MapDiceLoss": losses.MapDiceLoss(**WORDS),
    "SDFProductLoss": losses.SDFProductLoss(**REGRESSION),
    "ShapeAwareLoss": losses.ShapeAwareLoss(**REGRESSION),
    "SignedDistanceRegressionLoss": losses.SignedDistanceRegressionLoss(**REGRESSION),
}


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that need a gradient, and labels that they agree with in part."""
    batch, _, *spatial = SHAPE
    labels = torch.stack([torch.from_numpy(masks.make("organ", tuple(spatial), seed=i)) for i in range(batch)])
    labels = (labels[:, None] > 0).long()
    moved = labels.roll((3, -2, 4), (2, 3, 4)).float()
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    logits = torch.cat([1 - moved, moved], 1).mul_(4).add_(noise)
    return logits.requires_grad_(), labels


def step(loss: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        x.grad = None
        loss(x, labels).backward()

    return run


def in_turns(
    theirs: torch.nn.Module, ours: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor
) -> tuple[float, list[float]]:
    """Median of their time over ours, and their seconds; theirs takes long, so that five turns say enough."""
    seconds, ratios = [], []
    for _ in range(5):
        start = time.perf_counter()
        step(theirs, x, labels)()
        between = time.perf_counter()
        for _ in range(5):
            step(ours, x, labels)()
        seconds.append(between - start)
        ratios.append(5 * seconds[-1] / (time.perf_counter() - between))
    return statistics.median(ratios), seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="result file (JSON)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.losses

    x, labels = batch()
    dice = step(monai.losses.DiceLoss(**WORDS), x, labels)
    runs = {"MONAI DiceLoss": dice, **{name: step(loss, x, labels) for name, loss in OURS.items()}}
    times = measure.side_by_side(runs, rounds=arguments.rounds, slice_seconds=0.0)
    # Both classes are scored: with MONAI's default of leaving the background out, half of its work and of our maps
    # goes, but not of the softmax. Both are reported, the first is held.
    both: dict[str, Any] = {**WORDS, "include_background": True}
    ratio, _ = in_turns(monai.losses.HausdorffDTLoss(**both), losses.HausdorffDTLoss(**both), x, labels)
    ratio_default, seconds = in_turns(monai.losses.HausdorffDTLoss(**WORDS), OURS["HausdorffDTLoss"], x, labels)

    reference = times["MONAI DiceLoss"].median
    rows = [
        {"loss": name, "milliseconds": 1e3 * t.median, "spread": t.spread, "times_dice": t.median / reference}
        for name, t in times.items()
    ]
    rows.append(
        {
            "loss": "MONAI HausdorffDTLoss", "milliseconds": 1e3 * statistics.median(seconds),
            "spread": measure.summary(seconds).spread, "times_dice": statistics.median(seconds) / reference,
        }
    )  # fmt: skip
    table = Table(title="Forward and backward on 2 x 2 x 96 x 96 x 96, one thread")
    for column in ("loss", "ms", "spread", "times MONAI's Dice"):
        table.add_column(column, justify="left" if column == "loss" else "right")
    for row in rows:
        table.add_row(
            row["loss"], f"{row['milliseconds']:.1f}", f"{row['spread']:.0%}", f"{row['times_dice']:.2f}"
        )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(f"MONAI's HausdorffDTLoss takes {ratio:.1f} times as long as ours (required {REQUIRED:g})")
    console.print(f"without the background, its default, {ratio_default:.1f} times")
    if arguments.save:
        payload = {
            "shape": SHAPE,
            "threads": 1,
            "rows": rows,
            "monai_over_hausdorff": ratio,
            "without_background": ratio_default,
            "required": REQUIRED,
        }
        measure.save(arguments.save, payload)
    return int(ratio < REQUIRED)


if __name__ == "__main__":
    sys.exit(main())
