"""The papers on distance maps in miniature.

    python -m bench.study run                # the subset: two CPU cores, less than half an hour
    python -m bench.study run --full         # everything, on a GPU where there is one
    python -m bench.study report             # tables, figures and a page from what has run
    python -m bench.study list               # every experiment, and which have run

It needs ``pip install 'dtkernels[study]'`` and the hippocampus set (``dtk data hippocampus``, or ``DTK_DATA``).
Exit status: 0 when every run stands, 1 when one failed or there is no data, 2 for a bad option or a missing
package, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from pathlib import Path

from .experiments import EXPERIMENTS, Experiment

PACKAGES = ("matplotlib", "monai", "nibabel", "pytorch_lightning", "rich", "scipy")


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands."""
    options = parse(arguments)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"the study needs {', '.join(missing)}: pip install 'dtkernels[study]'", file=sys.stderr)
        return 2
    try:
        return {"run": run, "report": report, "list": show}[options.command](options)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench.study", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "train and test what has no result yet, then write the report"),
        ("report", "tables, figures and a page from what has run"),
        ("list", "every experiment, and how many of its runs stand"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--results", type=Path, default=Path("study-output"), help="folder of the result files"
        )
        command.add_argument("--full", action="store_true", help="every experiment, not the subset")
        command.add_argument("--only", type=_pattern, help="experiments whose whole name matches this expression")
        if name != "list":
            command.add_argument("--page", type=Path, help="the page; default: report.md beside the results")
            command.add_argument("--figures", type=Path, help="folder of the figures; default: figures there")
        if name == "run":
            command.add_argument("--data", help="folder with imagesTr and labelsTr; default: the hippocampus set")
            command.add_argument("--workers", type=_positive, help="processes; default: 2, on a GPU 1")
            command.add_argument("--device", choices=("cpu", "gpu"), help="default: cpu, with --full gpu if any")
            command.add_argument("--steps", type=_positive, help="of training, to try something out")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return value


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"expected a regular expression, got {text!r}: {error}") from error


def chosen(options: argparse.Namespace) -> list[Experiment]:
    """The experiments that the options name."""
    if options.only is not None:
        return [e for e in EXPERIMENTS if options.only.fullmatch(e.name)]
    return [e for e in EXPERIMENTS if options.full or e.subset]


def run(options: argparse.Namespace) -> int:
    """Every run that has no result, then the report."""
    import dataclasses

    import torch
    from rich.console import Console

    from . import cases, runner
    from .settings import FULL, MINIATURE

    console = Console(highlight=False)
    device = options.device or ("gpu" if options.full and torch.cuda.is_available() else "cpu")
    settings = FULL if options.full and device == "gpu" else MINIATURE
    if options.steps:
        settings = dataclasses.replace(settings, steps=options.steps)
    workers = options.workers or (2 if device == "cpu" else 1)
    experiments = chosen(options)
    if not experiments:
        console.print(f"--only: no experiment is named {options.only.pattern}", markup=False)
        return 2
    try:
        folder = cases.find(options.data)
        cases.check(folder, settings)
        every = list(runner.jobs(experiments, options.results))
        todo = [job for job in every if not runner.stands(job, settings)]
    except (cases.StudyError, runner.OtherResultError) as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 1
    console.print(
        f"{len(every)} runs of {len(experiments)} experiments, {len(every) - len(todo)} stand; "
        f"{workers} processes on the {device}, results in {options.results}",
        soft_wrap=True,
    )
    demonstrate(options.results, console)
    failures = runner.run_all(todo, folder, settings, console, workers=workers, accelerator=device)
    if len(failures) < len(todo) or len(todo) < len(every):
        report(options)
    if failures:
        console.print(f"\n{len(failures)} runs failed:", *failures, sep="\n", markup=False, soft_wrap=True)
    return 1 if failures else 0


def demonstrate(results: Path, console: object) -> None:
    """The demonstrations that need no data, once."""
    from rich.console import Console

    from .. import measure
    from . import demonstrations, runner
    from .report import DEMONSTRATIONS

    assert isinstance(console, Console)
    path = results / DEMONSTRATIONS
    if path.exists():
        return
    with console.status("demonstrations without data"):
        found = demonstrations.everything()
    machine = measure.machine()
    runner.write(path, {"date": machine["date"], "processor": machine["processor"], "results": found})


def report(options: argparse.Namespace) -> int:
    """The page, the figures and the tables."""
    from . import report as writing

    page = options.page or options.results / "report.md"
    figures = options.figures or page.parent / "figures"
    written = writing.write(options.results, page, figures, options.results / "tables")
    print(f"{len(written)} files written, first of all {page}")
    return 0


def show(options: argparse.Namespace) -> int:
    """Every experiment, and how many of its runs stand."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what", "paper", "subset", "runs", box=None)
    for experiment in EXPERIMENTS:
        if options.only is not None and not options.only.fullmatch(experiment.name):
            continue
        paths = [options.results / f"{experiment.name}-s{s}-f{f}.json" for s, f in experiment.runs()]
        done = sum(path.exists() and bool(json.loads(path.read_text())) for path in paths)
        table.add_row(
            experiment.name,
            experiment.title,
            experiment.paper,
            "yes" if experiment.subset else "",
            f"{done} of {len(paths)}",
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
