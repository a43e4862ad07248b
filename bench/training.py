"""Training steps with distance maps by us, by SciPy and by MONAI: ``python -m bench.training [--device cuda]``.

One epoch of a small 3-D U-Net on the hippocampus with Dice, Dice + boundary and Dice + Hausdorff. Every
combination trains a network of its own from the same weights, and in every step all of them take the same batch,
in turn: what disturbs one disturbs all. SciPy's maps are made as people make them today, copied to the CPU, per
sample and class.

The distance loss is timed by itself, forward and backward to the logits, between Dice and the network's backward;
on a GPU by events. ``--save`` writes ``bench/results/training.json``.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from dtkernels import losses

from . import demo, demo_timing, demo_training, measure

WEIGHT = 0.01  # of the distance loss beside Dice: both matter, neither rules
TOLERANCE = 1e-4  # relative, of a loss between libraries, on the first batch


class Trainer:
    """A network, its optimizer, and the time that each part of its steps took."""

    def __init__(self, model: torch.nn.Module, dice: Any, distance: Callable[..., Tensor] | None) -> None:
        self.model, self.dice, self.distance = model, dice, distance
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.marks: list[list[Any]] = []
        self.values: list[Tensor] = []

    def step(self, batch: demo_training.Batch, mark: Callable[[], Any]) -> None:
        """Forward, Dice, distance loss, backward and update, with a mark after each."""
        marks = [mark()]
        logits = self.model(batch.image)
        leaf = logits.detach().requires_grad_()
        marks.append(mark())
        self.dice(leaf, batch.label).backward()
        marks.append(mark())
        if self.distance is not None:
            value = self.distance(leaf, batch.label, spacing=batch.spacing)
            (WEIGHT * value).backward()
            self.values.append(value.detach())
        marks.append(mark())
        self.optimizer.zero_grad(set_to_none=True)
        logits.backward(leaf.grad)
        self.optimizer.step()
        self.marks.append([*marks, mark()])


class Seconds(NamedTuple):
    """Of every step but the first."""

    step: list[float]
    distance: list[float]


def seconds(trainer: Trainer, cuda: bool) -> Seconds:
    """The marks as seconds."""
    if cuda:
        torch.cuda.synchronize()

    def between(a: Any, b: Any) -> float:
        return float(a.elapsed_time(b) * 1e-3 if cuda else b - a)

    kept = trainer.marks[1:]
    return Seconds([between(m[0], m[-1]) for m in kept], [between(m[2], m[3]) for m in kept])


def trainers(classes: int, device: torch.device) -> dict[tuple[str, str], Trainer]:
    """By objective and by who makes the maps, all from the same weights."""
    from monai.losses import DiceLoss

    words: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
    distances: dict[tuple[str, str], Callable[..., Tensor] | None] = {
        ("Dice", ""): None,
        ("Dice + boundary", "dtkernels"): losses.BoundaryLoss(**words),
        ("Dice + boundary", "SciPy"): demo_timing.SciPyBoundary(),
        ("Dice + boundary", "MONAI"): demo_timing.Monai("BoundaryLoss"),
        ("Dice + Hausdorff", "dtkernels"): losses.HausdorffDTLoss(**words),
        ("Dice + Hausdorff", "SciPy"): demo_timing.SciPyHausdorff(),
        ("Dice + Hausdorff", "MONAI"): demo_timing.Monai("HausdorffDTLoss"),
    }
    result = {}
    for key, distance in distances.items():
        torch.manual_seed(0)
        result[key] = Trainer(demo_training.network(classes).to(device).train(), DiceLoss(**words), distance)
    return result


def rows(
    everyone: dict[tuple[str, str], Trainer], epoch: int, cuda: bool, unit_spacing: bool
) -> list[dict[str, Any]]:
    """Numbers of every trainer; ratios and differences are to ours with the same objective.

    MONAI's losses know no spacing: they are compared where voxels are mm.
    """
    measured = {key: seconds(trainer, cuda) for key, trainer in everyone.items()}
    result = []
    for (objective, maps), taken in measured.items():
        step, distance = measure.summary(taken.step), measure.summary(taken.distance)
        row: dict[str, Any] = {
            "name": f"training/{objective}" + (f" by {maps}" if maps else ""),
            "objective": objective,
            "maps": maps,
            "milliseconds": 1e3 * step.median,
            "spread": step.spread,
            "rounds": step.rounds,
            "epoch_seconds": epoch * sum(taken.step) / len(taken.step),
            "peers": {},
            "holds": True,
        }
        if maps:
            ours = measured[objective, "dtkernels"]
            values = everyone[objective, maps].values
            first, reference = (float(v[0]) for v in (values, everyone[objective, "dtkernels"].values))
            row["distance_milliseconds"] = 1e3 * distance.median
            row["share"] = sum(taken.distance) / sum(taken.step)
            row["step_ratio"] = step.median / measure.summary(ours.step).median
            row["distance_ratio"] = distance.median / measure.summary(ours.distance).median
            row["difference"] = abs(first / reference - 1) if unit_spacing or maps != "MONAI" else None
        result.append(row)
    return result


def show(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    text = f"{row['name']}: {row['milliseconds']:.1f} ms per step (spread {row['spread']:.0%}), "
    text += f"{row['epoch_seconds']:.1f} s per epoch"
    if row["maps"]:
        text += f", distance loss {row['distance_milliseconds']:.2f} ms, {row['share']:.0%} of the time"
        text += f", {row['distance_ratio']:.1f} x ours; steps {row['step_ratio']:.2f} x ours"
    return text


def main(arguments: list[str] | None = None) -> int:
    """Train, time, print, save; returns the exit status, 1 where the libraries' losses disagree."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--steps", type=int, help="default: one epoch")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--data", help="as of bench.demo")
    parser.add_argument("--cases", type=int, help="read at most this many volumes")
    parser.add_argument("--save", type=Path, nargs="?", const=measure.RESULTS / "training.json", metavar="FILE")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="monai")
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    console = Console(highlight=False, soft_wrap=True)

    dataset = demo.find_data(options.data, options.cases)
    cases, _ = demo_training.split(dataset, 0)
    volumes = demo_training.Volumes(cases, demo_training.common_size(dataset.cases), device)
    everyone = trainers(len(dataset.classes), device)
    epoch = max(1, len(volumes) // options.batch)
    order = torch.randperm(len(volumes), generator=torch.Generator().manual_seed(0)).tolist()

    def mark() -> Any:
        if not cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    for step in range(1 + (options.steps or epoch)):  # the first warms up
        first = step * options.batch
        batch = volumes.batch([order[i % len(order)] for i in range(first, first + options.batch)])
        for trainer in everyone.values():
            trainer.step(batch, mark)
    unit_spacing = bool((volumes.spacing == 1).all())
    result = rows(everyone, epoch, cuda, unit_spacing)
    for row in result:
        console.print(show(row), markup=False)
    apart = max(row.get("difference") or 0.0 for row in result)
    console.print(f"the libraries' losses are {apart:.1e} apart on the first batch, relative")
    if options.save:
        payload = {
            "data": dataset.name,
            "batch": [options.batch, len(dataset.classes), *volumes.image.shape[2:]],
            "steps": options.steps or epoch,
            "steps_per_epoch": epoch,
            "device": torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU thread(s)",
            "rows": result,
        }
        command = "python -m bench.training --save" + (f" --steps {options.steps}" if options.steps else "")
        measure.save(options.save, payload, command)
    torch.set_num_threads(before)
    if not apart <= TOLERANCE:
        console.print(f"they disagree: expected at most {TOLERANCE:.0e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
