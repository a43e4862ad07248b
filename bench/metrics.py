"""Surface metrics against the libraries that define them: ``python -m bench.metrics [--save FILE]``.

One CPU thread, all contenders in turn in one process. A row is HD95, ASSD and NSD of the same masks: one call of
``surface_metrics`` against three metric classes of MONAI, two functions of MedPy (which has no NSD), or
surface-distance's distances and three readers. Where a row carries a requirement the run fails when it does not
hold.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import surface_distance
import torch
from medpy.metric import binary
from monai import metrics as monai
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from dtkernels.metrics import surface_metrics

from . import masks, measure

TOLERANCE = 1.0
PEERS = ("monai", "medpy", "surface-distance", "scipy")


class Case(NamedTuple):
    """One row: masks, a definition, and how much faster than each peer it must be (others are only reported)."""

    shape: tuple[int, ...]
    definition: str
    dtype: torch.dtype = torch.uint8
    batch: tuple[int, int] = (1, 1)
    spacing: tuple[float, float, float] | None = None
    required: Mapping[str, float] = MappingProxyType({})

    @property
    def title(self) -> str:
        """As in the table."""
        image = " x ".join(map(str, self.shape))
        return image if self.batch == (1, 1) else f"{self.batch[0]} x {self.batch[1]} x ({image})"


def cases() -> Iterator[Case]:
    """The rows, headline first."""
    organ = (128, 128, 128)
    for dtype in (torch.uint8, torch.bool, torch.float32):
        yield Case(organ, "monai", dtype, required={"MONAI": 20})
        yield Case(organ, "deepmind", dtype, required={"surface-distance": 10})
    yield Case(organ, "medpy")
    for definition in ("monai", "deepmind"):
        yield Case(organ, definition, spacing=(3.0, 0.8, 0.8))
        yield Case((96, 96, 96), definition, torch.float32, batch=(4, 3))


def pair_of(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """A target, and a prediction that a few smooth mistakes tell from it, for every sample and class."""
    targets = [masks.make("organ", case.shape, seed=i) for i in range(case.batch[0] * case.batch[1])]
    preds = []
    for i, target in enumerate(targets):
        noise = np.random.default_rng(i).normal(size=[-(-n // 8) for n in case.shape])
        noise = ndimage.zoom(noise, [n / m for n, m in zip(case.shape, noise.shape, strict=True)], order=1)
        preds.append(ndimage.gaussian_filter(target.astype(np.float32), 1.5) + 0.15 * noise > 0.5)
    return tuple(  # type: ignore[return-value]
        torch.from_numpy(np.stack(x)).reshape(*case.batch, *case.shape).to(case.dtype) for x in (preds, targets)
    )


def contenders(case: Case) -> dict[str, Callable[[], Any]]:
    pred, target = pair_of(case)
    spacing = case.spacing or (1.0, 1.0, 1.0)
    result: dict[str, Callable[[], Any]] = {
        "dtkernels": lambda: surface_metrics(
            pred, target, case.spacing, definition=case.definition, percentiles=95, tolerances=TOLERANCE
        )
    }
    if case.definition == "monai":
        options = {"include_background": True}
        classes = [
            monai.HausdorffDistanceMetric(percentile=95, **options),
            monai.SurfaceDistanceMetric(symmetric=True, **options),
            monai.SurfaceDiceMetric([TOLERANCE] * case.batch[1], **options),
        ]
        floats = pred.float(), target.float()  # what its pipelines hand over

        def three_classes() -> None:
            for metric in classes:
                metric.reset()
                metric(*floats, spacing=spacing)

        result["MONAI"] = three_classes
    arrays = [
        (p.bool().numpy(), t.bool().numpy()) for p, t in zip(pred.flatten(0, 1), target.flatten(0, 1), strict=True)
    ]
    if case.definition == "deepmind":

        def distances_and_readers() -> None:
            for p, t in arrays:
                found = surface_distance.compute_surface_distances(t, p, spacing)
                surface_distance.compute_robust_hausdorff(found, 95)
                surface_distance.compute_average_surface_distance(found)
                surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE)

        result["surface-distance"] = distances_and_readers
    if case.definition == "medpy":
        result["MedPy"] = lambda: [f(p, t, spacing) for p, t in arrays for f in (binary.hd95, binary.assd)]
    return result


def run_case(case: Case, rounds: int) -> dict[str, Any]:
    """Time one row; the result is plain numbers."""
    times = measure.side_by_side(contenders(case), rounds=rounds)
    ours = times.pop("dtkernels")
    ratios = {name: t.median / ours.median for name, t in times.items()}
    return {
        "shape": list(case.shape),
        "batch": list(case.batch),
        "definition": case.definition,
        "dtype": str(case.dtype).removeprefix("torch."),
        "spacing": list(case.spacing) if case.spacing else None,
        "title": case.title,
        "milliseconds": ours.median * 1e3,
        "spread": ours.spread,
        "peers_milliseconds": {name: t.median * 1e3 for name, t in times.items()},
        "ratios": ratios,
        "required": dict(case.required),
        "holds": all(ratios[name] >= least for name, least in case.required.items()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="result file (JSON)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")

    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table(
        "masks",
        "dtype",
        "definition",
        "spacing",
        "ms",
        "peer's time over ours",
        "required",
        title="HD95 + ASSD + NSD",
    )
    rows = []
    for case in cases():
        row = run_case(case, arguments.rounds)
        rows.append(row)
        ratios = ", ".join(f"{name} {ratio:.1f} x" for name, ratio in row["ratios"].items())
        required = ", ".join(f"{n} {x:g} x" for n, x in row["required"].items())
        state = f"{required} {'holds' if row['holds'] else 'MISSED'}" if required else ""
        table.add_row(
            case.title,
            row["dtype"],
            case.definition,
            str(case.spacing or 1),
            f"{row['milliseconds']:.2f}",
            ratios,
            state,
        )
    console.print(table)
    if arguments.save:
        measure.save(arguments.save, {"tolerance": TOLERANCE, "threads": 1, "peers": PEERS, "rows": rows})
    missed = [row for row in rows if not row["holds"]]
    if missed:
        console.print(f"{len(missed)} requirement(s) missed", style="red")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
