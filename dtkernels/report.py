"""``dtk metrics`` on a terminal: options in, a progress bar, tables, JSON or CSV out.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .evaluate import Case, Report, Settings, evaluate
from .optional import MissingDependencyError
from .volumes import VolumeError

# What a table has room for; JSON and CSV have everything.
_HIDDEN = ("jaccard", "voe")
_HIDDEN_OF_LESIONS = ("iou", "hd", "asd", "rmsd")


def run(
    pred: Path,
    target: Path,
    labels: Sequence[str],
    names: Path | None,
    options: dict[str, Any],
    workers: int,
    form: str,
) -> int:
    """Evaluate and print; the exit status: 0, 1 for failed cases, 2 for options or paths that cannot be right."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    try:
        settings = Settings(
            **{
                **options,
                "labels": chosen_labels(labels, _named(names)),
                "on_empty": _number_or_word(options["on_empty"]),
                "spacing": numbers(options["spacing"]),
            }
        )
        columns = (TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            report = evaluate(
                pred, target, settings, workers=workers,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
    except (MissingDependencyError, VolumeError, TypeError, ValueError) as error:
        console.print("error:", str(error), style="red", markup=False, soft_wrap=True, highlight=False)
        return 2
    {"json": _as_json, "csv": _as_csv, "table": _as_tables}[form](report)
    for failure in report.failures:
        console.print("failed:", failure.reason, style="red", markup=False, soft_wrap=True, highlight=False)
    if report.failures:
        done = len(report.cases)
        console.print(f"{len(report.failures)} of {done + len(report.failures)} cases failed", style="red")
    return 1 if report.failures else 0


def chosen_labels(given: Sequence[str], names: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]] | None:
    """Labels by the words of ``--label``, all of ``names`` without any; None leaves it to the files.

    >>> chosen_labels(["1+2=kidney", "3", "liver"], {"liver": (5,)})
    {'kidney': (1, 2), '3': (3,), 'liver': (5,)}
    """
    chosen = {}
    for word in given:
        numbers, _, name = word.partition("=")
        if numbers in names and not name:
            values, name = names[numbers], numbers
        else:
            try:
                values = tuple(int(number) for number in numbers.split("+"))
            except ValueError:
                known = f" or one of {', '.join(names)}" if names else " (names need --names dataset.json)"
                raise ValueError(f"label: expected 1, 1=liver or 1+2=kidney{known}, got {word!r}") from None
            name = name or numbers
        if name in chosen:
            raise ValueError(f"label: expected each name once, got {name!r} again")
        chosen[name] = values
    return chosen or names or None


def _named(path: Path | None) -> dict[str, tuple[int, ...]]:
    """Labels of a ``dataset.json``: number to name (Decathlon), or name to number or numbers (nnU-Net)."""
    if path is None:
        return {}
    try:
        entries = json.loads(path.read_text())["labels"].items()
        numbered = [(v, k) if isinstance(v, str) else (k, v) for k, v in entries]
        found = {str(n): tuple(map(int, v)) if isinstance(v, list) else (int(v),) for n, v in numbered}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VolumeError(
            f"{path}: expected JSON with labels and their names, {type(error).__name__}: {error}"
        ) from error
    return {name: values for name, values in found.items() if values != (0,) and name != "ignore"}


def _number_or_word(word: str) -> str | float:
    if word in ("inf", "nan"):
        return word
    try:
        return float(word)
    except ValueError:
        return word


def numbers(text: str | None) -> tuple[float, ...] | None:
    """The numbers of ``--spacing``."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"spacing: expected numbers such as 1,0.5,0.5, got {text!r}") from None


def _as_json(report: Report) -> None:
    """nan, which is a label that neither file has, as null; inf, a missed object, as "inf": JSON has neither."""
    settings = report.settings
    record = {
        "definition": settings.definition,
        "on_empty": settings.on_empty,
        **({} if settings.lesions is None else {"lesions": settings.lesions}),
        "labels": {
            label: {
                metric: {
                    "mean": _plain(float(mean.mean)),
                    "used": int(mean.used),
                    "infinite": int(mean.infinite),
                    "undefined": int(mean.undefined),
                }
                for metric in settings.names
                for mean in [report.mean(label, metric)]
            }
            for label in report.labels
        },
        "cases": [
            {
                "name": case.name,
                "labels": {n: {m: _plain(v) for m, v in row.items()} for n, row in case.values.items()},
                **({} if settings.lesions is None else {"lesions": _lesions(case)}),
            }
            for case in report.cases
        ],
        "failures": [failure._asdict() for failure in report.failures],
    }
    print(json.dumps(record, indent=1, allow_nan=False))


def _lesions(case: Case) -> dict[str, list[dict[str, Any]]]:
    return {
        label: [
            {"label": x.label, "voxels": x.voxels, "matched": x.matched}
            | {name: _plain(value) for name, value in x.values.items()}
            for x in lesions
        ]
        for label, lesions in (case.lesions or {}).items()
    }


def _plain(value: float) -> float | str | None:
    return None if math.isnan(value) else value if math.isfinite(value) else str(value)


def _as_csv(report: Report) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["case", "label", *report.settings.names])
    for case in report.cases:
        for label, row in case.values.items():
            table.writerow([case.name, label, *row.values()])


def _as_tables(report: Report) -> None:
    from rich.console import Console

    console = Console()
    if not report.cases:
        return
    if not report.labels:
        console.print("no label in any file")
    elif len(report.cases) == 1:
        console.print(_one_case(report))
    else:
        for label in report.labels:
            console.print(_one_label(report, label))


def _shown(report: Report) -> list[str]:
    hidden = _HIDDEN if report.settings.lesions is None else _HIDDEN_OF_LESIONS
    return [name for name in report.settings.names if name not in hidden]


def _how(report: Report) -> str:
    """In what way the numbers of a table were found."""
    settings = report.settings
    return settings.definition + (f", lesion by lesion: {settings.lesions}" if settings.lesions else "")


def _one_case(report: Report) -> Any:
    from rich.table import Table

    table = Table("label", title=f"{report.cases[0].name} ({_how(report)})", title_justify="left")
    for name in _shown(report):
        table.add_column(name, justify="right", no_wrap=True)
    for label in report.labels:
        table.add_row(label, *(_text(report.values(label, name)[0]) for name in _shown(report)))
    return table


def _one_label(report: Report, label: str) -> Any:
    from rich.table import Table

    names = [case.name for case in report.cases]
    means = {metric: report.mean(label, metric) for metric in _shown(report)}
    left_out = [kind for kind in ("infinite", "undefined") if any(int(getattr(m, kind)) for m in means.values())]
    table = Table("metric", title=f"label {label} ({_how(report)})", title_justify="left")
    for column in ("mean", "median", "worst", "cases", *left_out):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("worst case", no_wrap=True)
    for metric, mean in means.items():
        values = report.values(label, metric)
        known = [(value, name) for value, name in zip(values, names, strict=True) if not math.isnan(value)]
        worst = max(known, key=lambda pair: _badness(metric, pair[0]), default=(math.nan, ""))
        median = statistics.median([value for value, _ in known]) if known else math.nan
        counts = (str(int(getattr(mean, kind))) for kind in left_out)
        table.add_row(
            metric, _text(float(mean.mean)), _text(median), _text(worst[0]), str(int(mean.used)), *counts, worst[1]
        )
    return table


def _badness(metric: str, value: float) -> float:
    if metric in ("dice", "iou", "found", "rq", "sq", "pq") or metric.startswith("nsd"):
        return -value
    return abs(value)


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"
