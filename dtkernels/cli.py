"""The command line: ``dtk info``, ``dtk map``, ``dtk metrics`` and ``dtk data``.

typer and rich come with ``pip install 'dtkernels[cli]'``; without them the command says so and exits with 2.
"""

import importlib.util
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    import typer

# No "from __future__ import annotations" here: typer reads the annotations of functions that are defined
# where typer has just been imported.

_OPTIONAL = ("scipy", "monai", "nibabel", "nilearn", "matplotlib", "cupy")


def main() -> None:
    """Entry point of ``dtk``."""
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"dtk: the command line needs {' and '.join(missing)}: pip install 'dtkernels[cli]'", file=sys.stderr
        )
        raise SystemExit(2)
    application()(prog_name="dtk")


def application() -> "typer.Typer":
    """The command line as a typer application."""
    import typer

    app = typer.Typer(
        name="dtk",
        help="Exact Euclidean distance transforms where the tensor already is.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,
    )
    data = typer.Typer(help="Fetch public data sets.", no_args_is_help=True)
    app.add_typer(data, name="data")

    @app.command()
    def info(
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    ) -> None:
        """Show versions, backends with the reason where one cannot run, the processor and the GPUs."""
        facts = gather()
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
        else:
            _show(facts)

    @app.command("map")
    def map_(
        paths: Annotated[
            list[Path] | None,
            typer.Argument(
                metavar="IN... OUT",
                help="Masks or labels (.nii, .nii.gz, .npy files, or a folder), and where to write.",
            ),
        ] = None,
        convention: Annotated[
            str, typer.Option("--convention", "-c", help="Name of the map, see --list.")
        ] = "half",
        option: Annotated[
            list[str] | None,
            typer.Option("--option", "-o", help="Option of the map that differs, such as truncate=5; repeatable."),
        ] = None,
        spacing: Annotated[
            str | None, typer.Option(help="Of .npy files, such as 1,0.5,0.5; NIfTI headers have their own.")
        ] = None,
        label: Annotated[int | None, typer.Option(help="Foreground is this value; default: all but 0.")] = None,
        classes: Annotated[int | None, typer.Option(help="A map for each of the labels 0 .. N - 1.")] = None,
        threshold: Annotated[float | None, typer.Option(help="Foreground is what is larger.")] = None,
        device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
        show_list: Annotated[bool, typer.Option("--list", help="List the conventions.")] = False,
    ) -> None:
        """Write distance maps of masks by the name of a convention, with the spacing and affine of the files.

        Files that fail are named at the end, and the exit status is 1; options that cannot be right exit with 2
        before any file is read.
        """
        from . import map_files
        from .report import numbers

        if show_list:
            map_files.show_conventions(as_json)
            return
        if paths is None or len(paths) < 2:
            raise typer.BadParameter("expected at least one input and an output: IN... OUT")
        if sum(x is not None for x in (label, classes, threshold)) > 1:
            raise typer.BadParameter("--label, --classes and --threshold: expected one of them")
        try:
            request = map_files.Request(
                convention,
                map_files.parse_options(option or []),
                numbers(spacing),
                classes,
                label,
                threshold,
                device,
            )
        except (TypeError, ValueError) as error:
            raise typer.BadParameter(str(error)) from None
        raise typer.Exit(map_files.run(paths[:-1], paths[-1], request, as_json))

    @app.command()
    def metrics(
        pred: Annotated[Path, typer.Argument(help="Predicted labels: a .nii, .nii.gz or .npy file, or a folder.")],
        target: Annotated[Path, typer.Argument(help="True labels: a file, or a folder with the same names.")],
        label: Annotated[
            list[str] | None,
            typer.Option(
                help="Label to measure, 1, 1=liver or 1+2=kidney (a union), or a name with --names; repeatable. "
                "Default: every value but 0."
            ),
        ] = None,
        names: Annotated[
            Path | None, typer.Option(help="dataset.json (Decathlon, nnU-Net) that names the labels.")
        ] = None,
        definition: Annotated[str, typer.Option(help="Whose numbers: monai, medpy or deepmind.")] = "monai",
        percentile: Annotated[list[float], typer.Option(help="Of the Hausdorff distance; repeatable.")] = [95.0],  # noqa: B006
        tolerance: Annotated[list[float], typer.Option(help="Of the surface Dice, in mm; repeatable.")] = [1.0],  # noqa: B006
        directed: Annotated[bool, typer.Option("--directed", help="From the prediction only.")] = False,
        on_empty: Annotated[
            str, typer.Option(help="Distance of a missed object: inf, nan, diagonal or a number.")
        ] = "inf",
        spacing: Annotated[
            str | None, typer.Option(help="Of .npy files, such as 1,0.5,0.5; NIfTI headers have their own.")
        ] = None,
        lesions: Annotated[
            str | None,
            typer.Option(
                help="Lesion by lesion, each connected component of the target weighing the same: voronoi (what "
                "is predicted nearest to it, as CC-Dice) or iou (one predicted component for each, as panoptica)."
            ),
        ] = None,
        threshold: Annotated[float, typer.Option(help="Least IoU of a pair, with --lesions iou.")] = 0.5,
        connectivity: Annotated[
            int | None, typer.Option(help="Of lesions: 1 (faces) to 3 (corners too, the default).")
        ] = None,
        workers: Annotated[int, typer.Option("--workers", "--jobs", "-j", min=1, help="Processes.")] = 1,
        device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
        as_csv: Annotated[bool, typer.Option("--csv", help="Print a CSV line per case and label.")] = False,
    ) -> None:
        """Compare predicted labels with true ones: overlap and surface distances per label.

        Spacing and orientation come from the headers and must agree. Cases that fail are listed at the end, and
        the exit status is 1; options that cannot be right exit with 2 before any file is read.
        """
        from . import report

        if as_json and as_csv:
            raise typer.BadParameter("--json and --csv: expected one of them, got both")
        options = {
            "definition": definition, "percentiles": tuple(percentile), "tolerances": tuple(tolerance),
            "directed": directed, "on_empty": on_empty, "spacing": spacing, "device": device, "lesions": lesions,
            "threshold": threshold, "connectivity": connectivity,
        }  # fmt: skip
        form = "json" if as_json else "csv" if as_csv else "table"
        raise typer.Exit(report.run(pred, target, label or [], names, options, workers, form))

    @data.command()
    def hippocampus(
        destination: Annotated[
            Path | None,
            typer.Argument(
                metavar="[DEST]", help="Folder to put it into; default: $DTK_DATA, else the user's cache."
            ),
        ] = None,
    ) -> None:
        """Fetch Task04_Hippocampus of the Medical Segmentation Decathlon (about 27 MB, CC BY-SA 4.0)."""
        _download(destination)

    return app


def gather() -> dict[str, Any]:
    """What ``dtk info`` shows, as plain data."""
    import torch

    from . import __version__, backends, data

    statuses = backends.available()
    hippocampus = data.find_hippocampus()
    return {
        "dtkernels": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "optional": {name: _version(name) for name in _OPTIONAL},
        "cpu": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "instruction_set": _instruction_set(),
        },
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "backends": {
            name: {
                "available": s.available,
                "devices": list(s.devices),
                "operators": list(s.operators),
                "reason": s.reason,
            }
            for name, s in statuses.items()
        },
        "default_backend": {device: _chosen(device) for device in ("cpu", "cuda")},
        "data": {"home": str(data.data_home()), "hippocampus": str(hippocampus) if hippocampus else None},
    }


def _version(package: str) -> str | None:
    if importlib.util.find_spec(package) is None:
        return None
    # A package's module and its distribution may differ in name: CuPy has one distribution per CUDA version.
    names = metadata.packages_distributions().get(package, [package])
    return metadata.version(names[0])


def processor() -> str:
    """The processor's name, as precisely as the system gives it."""
    table = Path("/proc/cpuinfo")
    for line in table.read_text().splitlines() if table.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _instruction_set() -> str | None:
    try:
        compiled: Any = importlib.import_module("dtkernels._C")
    except ImportError:
        return None
    return str(compiled.cpu_instruction_set())


def _gpu(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


def _chosen(device: str) -> str | None:
    """The backend that a call without ``backend=`` takes, or None where none can run."""
    import torch

    from . import backends

    try:
        return backends.choose(torch.device(device)).NAME
    except (RuntimeError, ValueError):
        return None


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    versions = Table("package", "version", title="Versions", title_justify="left")
    for name in ("dtkernels", "torch", "python"):
        versions.add_row(name, facts[name])
    for name, version in facts["optional"].items():
        versions.add_row(name, version or "[dim]not installed[/]")

    taken: dict[str, list[str]] = {}
    for device, name in facts["default_backend"].items():
        taken.setdefault(name, []).append(device)
    table = Table("backend", "devices", "computes", "state", title="Backends", title_justify="left")
    for name, status in facts["backends"].items():
        if not status["available"]:
            state = f"[red]unavailable[/]: {escape(status['reason'])}"
        elif name in taken:
            state = f"[green]available[/], taken for {' and '.join(taken[name])} tensors"
        else:
            state = "[green]available[/] by name"
        table.add_row(name, ", ".join(status["devices"]), ", ".join(status["operators"]), state)

    console.print(versions, table, sep="\n")
    cpu = facts["cpu"]
    kernels = cpu["instruction_set"] or "no compiled module"
    console.print(f"CPU   {escape(cpu['processor'])}, {cpu['threads']} threads, kernels: {kernels}")
    for gpu in facts["gpus"]:
        console.print(
            f"GPU   {escape(gpu['name'])}, {gpu['memory_gib']} GiB, compute capability {gpu['compute_capability']}"
        )
    if not facts["gpus"]:
        console.print("GPU   none that torch can see")
    where = facts["data"]["hippocampus"]
    home = facts["data"]["home"]
    absent = f"no hippocampus volumes under {home}; dtk data hippocampus fetches them"
    console.print(f"Data  {escape(where or absent)}", soft_wrap=True)


def _download(destination: Path | None) -> None:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from . import data
    from .optional import MissingDependencyError

    console = Console(stderr=True)
    columns = (TextColumn(data.TASK), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        present = data.find_hippocampus(destination)
        if present is not None:
            console.print(f"already there: {present}", soft_wrap=True)
            return
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("download", total=None)
            folder = data.download_hippocampus(
                destination,
                progress=lambda done, total: bar.update(task, completed=done, total=total or None),
            )
    except (data.DownloadError, MissingDependencyError) as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None
    console.print(
        f"{len(data.decathlon_pairs(folder))} labelled volumes in {folder}\n"
        "Medical Segmentation Decathlon (Simpson et al. 2019, arXiv:1902.09063), CC BY-SA 4.0",
        soft_wrap=True,
    )
    if destination is not None:
        console.print(f"export DTK_DATA={folder.parent.resolve()}", soft_wrap=True)


if __name__ == "__main__":
    main()
