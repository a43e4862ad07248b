"""Train a small 3-D U-Net with Dice + Hausdorff on real volumes, time the loss three ways, draw the result.

    python -m bench.demo                    # the hippocampus data where it is found, else the MNI152 template
    python -m bench.demo --minutes 1        # a shorter run
    python -m bench.demo --data mni152      # needs no download

It needs ``pip install 'dtkernels[demo]'``. The GPU is used where torch sees one. Exit status: 0 when everything
was written and the three implementations of the loss agree, 1 otherwise, 2 for a bad option or a missing package.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import dtkernels as dtk
from dtkernels import data
from dtkernels.optional import MissingDependencyError

from . import measure

if TYPE_CHECKING:
    from rich.console import Console

    from .demo_timing import Timing
    from .demo_training import History, Score, Volumes

PACKAGES = ("matplotlib", "monai", "nibabel", "nilearn", "rich", "scipy")


class DemoError(Exception):
    """The demo cannot go on; the message says what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    options = parse(arguments)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"the demo needs {', '.join(missing)}: pip install 'dtkernels[demo]'", file=sys.stderr)
        return 2
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    try:
        run(options, console)
    except (DemoError, MissingDependencyError, OSError) as error:
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False, soft_wrap=True)
        return 1
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.demo",
        description="Train a small 3-D U-Net with Dice + Hausdorff on real volumes, time the loss three ways, "
        "draw the result.",
    )
    parser.add_argument("--minutes", type=_positive(float), default=4.0, help="for everything (default: 4)")
    parser.add_argument(
        "--steps", type=_positive(int), default=300, help="of training, fewer if the time is short (default: 300)"
    )
    parser.add_argument(
        "--data",
        help="a Decathlon folder (with imagesTr and labelsTr), or mni152 for the template that nilearn carries; "
        "default: the hippocampus under $DTK_DATA or in the user's cache, else mni152",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for the files (default: demo-output)"
    )
    parser.add_argument("--cases", type=_positive(int), help="read at most this many volumes (at least 2)")
    parser.add_argument("--batch", type=_positive(int), default=4, help="volumes per step (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--device", help="of torch; default: cuda where torch sees a GPU, else cpu")
    return parser.parse_args(arguments)


def _positive(kind: type[int] | type[float]) -> Any:
    def convert(text: str) -> int | float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
        return value

    convert.__name__ = kind.__name__  # argparse names it where the text is no number
    return convert


def find_data(where: str | None, limit: int | None) -> data.Dataset:
    """The data set that ``--data`` names, or the best one that is here."""
    remedy = (
        "what to do: `dtk data hippocampus` fetches real volumes (about 27 MB, network needed); or pass "
        "--data FOLDER with imagesTr and labelsTr in it; or `pip install nilearn` for the MNI152 template"
    )
    if where == "mni152":
        return _limited(data.load_mni152(), limit)
    folder = data.find_hippocampus(where)
    if folder is not None:
        return data.load_decathlon(folder, limit=limit)
    if where is not None:
        raise DemoError(
            f"--data: expected a folder with imagesTr and labelsTr, or mni152, got {where!r}; {remedy}"
        )
    try:
        return _limited(data.load_mni152(), limit)
    except MissingDependencyError as error:
        raise DemoError(f"no data: nothing under {data.data_home()}, and {error}; {remedy}") from error


def _choose(name: str | None) -> tuple[torch.device, str]:
    """The device, and the backend that runs on it."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        return device, dtk.backends.choose(device).NAME
    except (RuntimeError, ValueError) as error:
        raise DemoError(f"{error}; --device cpu runs the demo without a GPU") from error


def _limited(dataset: data.Dataset, limit: int | None) -> data.Dataset:
    return dataset._replace(cases=dataset.cases[:limit])


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The demo from the data to the files; returns what the JSON file holds."""
    began = time.perf_counter()
    budget = 60 * options.minutes
    try:
        dataset = find_data(options.data, options.cases)
    except ValueError as error:  # a file that is not what its name says
        raise DemoError(str(error)) from error
    if len(dataset.cases) < 2:
        raise DemoError(f"expected at least 2 cases to train and to validate on, got {len(dataset.cases)}")

    from monai.losses import DiceLoss

    from dtkernels.losses import HausdorffDTLoss

    from . import demo_timing, demo_training

    device, backend = _choose(options.device)
    torch.manual_seed(options.seed)
    torch.backends.cudnn.deterministic = True
    size = demo_training.common_size(dataset.cases)
    training, validation = (
        demo_training.Volumes(cases, size, device) for cases in demo_training.split(dataset, options.seed)
    )
    console.print(
        f"[bold]{dataset.name}[/]: {len(training)} volumes to train on, {len(validation)} to validate on, "
        f"{len(dataset.classes) - 1} classes, {' x '.join(map(str, size))} voxels, {_spacings(dataset)}\n"
        f"from {dataset.source}; on {_device_name(device)}, dtkernels backend {backend}",
        soft_wrap=True,
    )
    if dataset.name == "mni152":
        console.print(
            "[yellow]One template brain in patches: good for the timings, too little to judge the training by. "
            "`dtk data hippocampus` fetches real volumes.[/]",
            soft_wrap=True,
        )

    model = demo_training.network(len(dataset.classes)).to(device)
    criterion = demo_training.Criterion(
        DiceLoss(softmax=True, to_onehot_y=True),
        HausdorffDTLoss(softmax=True, to_onehot_y=True),
    )
    # A third of the time is kept for validation, timings and pictures.
    left = budget - (time.perf_counter() - began)
    history = _train(options, console, model, training, criterion, 0.65 * left)

    with console.status("validating"):
        predictions = demo_training.predict(model, validation, options.batch)
        scores = demo_training.evaluate(predictions, validation, dataset.classes)
    with console.status("timing the loss three ways"):
        batch_size = min(options.batch, len(training))
        starts = range(0, min(len(training), 2 * batch_size) - batch_size + 1, batch_size)
        batches = [training.batch(range(s, s + batch_size)) for s in starts]
        left = min(budget - (time.perf_counter() - began), 60.0)
        timing = demo_timing.compare(model, batches, criterion.dice, criterion.hausdorff, seconds=0.7 * left)
    _show(console, history, scores, timing)

    options.output.mkdir(parents=True, exist_ok=True)
    where = _device_name(device)
    files = _draw(options.output, model, validation, predictions, dataset, timing, where)
    record = summarize(dataset, training, validation, history, scores, timing)
    record |= {"device": str(device), "device_name": where, "backend": backend, "seed": options.seed}
    record["seconds"] = time.perf_counter() - began
    files.append(options.output / "demo.json")
    measure.save(files[-1], record)
    written = ", ".join(map(str, files))
    console.print(f"\nwritten after {record['seconds']:.0f} s: {written}", soft_wrap=True)
    if not timing.values.agree:
        raise DemoError(
            f"the three implementations of the loss disagree: relative difference to SciPy "
            f"{timing.values.difference_scipy:.1e}, to MONAI {timing.values.difference_monai:.1e}, "
            f"expected at most {demo_timing.TOLERANCE:.0e}"
        )
    return record


def _train(
    options: argparse.Namespace,
    console: Console,
    model: torch.nn.Module,
    volumes: Volumes,
    criterion: Any,
    seconds: float,
) -> History:
    """Train with a progress bar, or with a line every now and then where there is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .demo_training import train

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("Dice loss {task.fields[dice]:.3f}, Hausdorff {task.fields[hausdorff]:.2f} mm²"),
    )
    every = max(10, options.steps // 10)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=options.steps, dice=float("nan"), hausdorff=float("nan"))

        def show(step: int, planned: int, dice: float, hausdorff: float) -> None:
            bar.update(task, completed=step, total=planned, dice=dice, hausdorff=hausdorff)
            if not console.is_terminal and (step % every == 0 or step == planned):
                console.print(f"step {step:4d} of {planned}: Dice loss {dice:.3f}, Hausdorff {hausdorff:.2f} mm²")

        history = train(
            model,
            volumes,
            criterion,
            steps=options.steps,
            batch_size=options.batch,
            seconds=seconds,
            seed=options.seed,
            report=show,
        )
    if history.stopped_early:
        console.print(
            f"[yellow]The time allowed {history.steps} of {options.steps} steps; --minutes gives it more.[/]"
        )
    return history


def summarize(
    dataset: data.Dataset,
    training: Volumes,
    validation: Volumes,
    history: History,
    scores: list[Score],
    timing: Timing,
) -> dict[str, Any]:
    """Everything that was measured, for the JSON file. A distance that is not finite is null there."""
    first, last = history.hausdorff[:10], history.hausdorff[-10:]
    return {
        "data": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "training": len(training),
            "validation": len(validation),
            "size": list(training.image.shape[2:]),
            "spacings_mm": sorted({case.spacing for case in dataset.cases}),
        },
        "training": {
            "steps": history.steps,
            "seconds": history.seconds,
            "stopped_early": history.stopped_early,
            "dice_loss": {"first": history.dice[0], "last": statistics.fmean(history.dice[-10:])},
            "hausdorff_loss_mm2": {"first": statistics.fmean(first), "last": statistics.fmean(last)},
        },
        "validation": [
            {
                "class": s.name,
                "dice": _finite(s.dice),
                "hd95_mm": _finite(s.hd95),
                "missed": s.missed,
                "cases": s.cases,
            }
            for s in scores
        ],
        "timing": {
            "unit": "seconds per iteration",
            "batch": list(timing.shape),
            "batches": timing.batches,
            "rounds": timing.network.rounds,
            "threads": torch.get_num_threads(),
            "monai_uses": timing.monai_uses,
            "network": timing.network._asdict(),
            "losses": {
                name: {
                    **sample._asdict(),
                    "ratio_to_dtkernels": timing.ratio(name),
                    "share_of_iteration": timing.share(name),
                }
                for name, sample in timing.losses.items()
            },
        },
        "loss_values": {**timing.values._asdict(), "agree": timing.values.agree},
    }


def _finite(x: float) -> float | None:
    return x if abs(x) < float("inf") else None


def _show(console: Console, history: History, scores: list[Score], timing: Timing) -> None:
    """The tables."""
    from rich.table import Table

    style = {"title_justify": "left", "title_style": "bold", "box": None, "padding": (0, 2, 0, 0)}
    table = Table("class", title=f"\nValidation after {history.steps} steps", **style)
    for column in ("Dice", "HD95 mm (median)", "missed"):
        table.add_column(column, justify="right")
    for s in scores:
        table.add_row(s.name, f"{s.dice:.3f}", f"{s.hd95:.2f}", f"{s.missed} of {s.cases}")
    console.print(table)

    shape = " x ".join(map(str, timing.shape))
    title = f"\nMilliseconds per iteration, batch {shape}, median of {timing.network.rounds} interleaved rounds"
    table = Table("", title=title, **style)
    for column in ("ms", "quartiles", "x dtkernels", "with network", "share", "loss, mm²"):
        table.add_column(column, justify="right")
    network = timing.network
    table.add_row(
        "network alone (Dice)", _ms(network.median), _quartiles(network), "", _ms(network.median), "", ""
    )
    rows = (
        ("Hausdorff, dtkernels", "dtkernels", timing.values.dtkernels),
        ("Hausdorff, SciPy recipe", "scipy", timing.values.scipy),
        ("Hausdorff, MONAI", "monai", timing.values.monai),
    )
    for label, name, values in rows:
        sample = timing.losses[name]
        unit = "" if name != "monai" or timing.unit_spacing else " vox²"
        table.add_row(
            label,
            _ms(sample.median),
            _quartiles(sample),
            f"{timing.ratio(name):.1f}",
            _ms(network.median + sample.median),
            f"{timing.share(name):.0%}",
            f"{statistics.fmean(values):.5f}{unit}",
        )
    console.print(table)
    values = timing.values
    voxels = "" if timing.unit_spacing else " (both in voxels: MONAI's loss knows no spacing)"
    console.print(
        f"Losses: forward and backward to the logits; MONAI transforms with {timing.monai_uses}. share: of an "
        f"iteration, network and loss.\nLoss values agree within {values.difference_scipy:.1e} with SciPy and "
        f"{values.difference_monai:.1e} with MONAI{voxels}, relative."
        if values.agree
        else "[bold red]The loss values disagree.[/]"
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def _quartiles(sample: measure.Sample) -> str:
    return f"{_ms(sample.low)}-{_ms(sample.high)}"


def _draw(
    folder: Path,
    model: torch.nn.Module,
    volumes: Volumes,
    predictions: list[torch.Tensor],
    dataset: data.Dataset,
    timing: Timing,
    where: str,
) -> list[Path]:
    """The pictures: the validation case of median Dice, and the timings."""
    from . import demo_pictures

    def overlap(i: int) -> float:
        p, t = predictions[i] > 0, volumes.label[i, 0] > 0
        return 2 * float((p & t).sum()) / max(1.0, float(p.sum() + t.sum()))

    dice = {i: overlap(i) for i in range(len(predictions))}
    chosen = sorted(dice, key=lambda i: dice[i])[len(dice) // 2]
    case, inside = volumes.cases[chosen], volumes.windows[chosen].inside
    with torch.no_grad():
        probability = model(volumes.batch([chosen]).image)[0].softmax(0)
    files = [folder / "case.png", folder / "timing.png"]
    demo_pictures.draw_case(
        files[0],
        image=volumes.image[chosen, 0][inside],
        label=volumes.label[chosen, 0][inside],
        prediction=predictions[chosen][inside],
        probability=probability[(slice(None), *inside)],
        spacing=case.spacing,
        classes=dataset.classes,
        title=f"{case.name}, the validation case of median Dice ({dice[chosen]:.2f})",
    )
    shape = " × ".join(map(str, timing.shape))
    demo_pictures.draw_timing(files[1], timing, f"One training iteration, batch {shape}, {where}")
    return files


def _spacings(dataset: data.Dataset) -> str:
    spacings = sorted({case.spacing for case in dataset.cases})
    if len(spacings) == 1:
        return " x ".join(f"{s:g}" for s in spacings[0]) + " mm"
    return f"{len(spacings)} different spacings"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    sys.exit(main())
