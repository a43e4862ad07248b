"""The study's tables, as rows of text; in Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .analysis import DIGITS, TITLES, Comparison, Scores, interval, rank_scores
from .claims import Evidence, judge


class Table(NamedTuple):
    """A table and where its numbers come from."""

    name: str  # of its CSV file
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    source: str = ""  # which command, which machine
    numbers: int = 1  # columns before the first of numbers

    def markdown(self) -> str:
        """With its source in a line below."""
        rules = ["---" if i < self.numbers else "---:" for i in range(len(self.header))]
        lines = [_line(self.header), _line(rules), *(_line(row) for row in self.rows)]
        return "\n".join([*lines, "", f"*{self.source}*", ""])

    def csv(self) -> str:
        """The same rows."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def cases_csv(scores: dict[str, Scores]) -> str:
    """Every metric of every case and class, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["experiment", "seed", "fold", "case", "class", *TITLES, "missed"])
    for name, s in scores.items():
        for record in s.records:
            found = record["scores"]
            for i, case in enumerate(record["cases"]):
                for c, title in enumerate(record["data"]["classes"][1:]):
                    values = [found[key][i][c] for key in (*TITLES, "missed")]
                    writer.writerow([name, record["seed"], record["fold"], case, title, *values])
    return text.getvalue()


def scores_table(scores: dict[str, Scores], source: str) -> Table:
    """Means over cases and classes with their intervals."""
    ranks = rank_scores(scores)
    rows = []
    for name, s in scores.items():
        cells = [f"{s.experiment.title} (`{name}`)", s.experiment.paper, str(len(s.records))]
        for metric in TITLES:
            low, high = interval(s.per_case(metric))
            digits = DIGITS[metric]
            mean = np.nanmean(s.per_case(metric))
            cells.append(f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
        rows.append([*cells, f"{s.missed} of {s.organs}", f"{ranks[name]:.1f}"])
    header = ["experiment", "paper", "runs", *TITLES.values(), "missed", "rank score"]
    return Table("scores", header, rows, source, 2)


def differences_table(scores: dict[str, Scores], against: dict[str, dict[str, Comparison]], source: str) -> Table:
    """Every experiment minus the baseline."""
    rows = []
    for name in against["dice"]:
        cells = [f"`{name}`"]
        for metric in ("dice", "hd95", "nsd"):
            c, digits = against[metric][name], DIGITS[metric]
            low, high = c.interval
            star = " **\\***" if c.clear else ""
            cells += [
                f"{c.difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]{star}",
                f"{c.p:.2g}",
                f"{c.runs_better} of {c.runs}",
            ]
        rows.append(cells)
    header = ["minus `dice`"]
    for metric in ("dice", "hd95", "nsd"):
        header += [TITLES[metric], "p", "runs better"]
    return Table("differences", header, rows, source)


def classes_table(scores: dict[str, Scores], source: str) -> Table:
    """Means of each class."""
    classes = next(iter(scores.values())).records[0]["data"]["classes"][1:]
    rows = []
    for name, s in scores.items():
        cells = [f"`{name}`"]
        for index in range(len(classes)):
            cells += [f"{np.nanmean(s.values(m)[:, index]):.{DIGITS[m]}f}" for m in TITLES]
        rows.append(cells)
    header = ["experiment", *(f"{c}: {title}" for c in classes for title in TITLES.values())]
    return Table("classes", header, rows, source)


def time_table(scores: dict[str, Scores], source: str) -> Table:
    """Seconds of an iteration, and what the loss and the maps have of it."""
    rows = []
    for name, s in scores.items():
        iteration, loss, maps = (s.seconds(key) for key in ("iteration", "loss", "maps"))
        rows.append(
            [
                f"`{name}`",
                f"{1e3 * iteration:.0f}",
                f"{1e3 * loss:.1f}",
                f"{100 * loss / iteration:.1f} %",
                f"{1e3 * maps:.2f}",
                f"{100 * maps / iteration:.1f} %",
                f"{s.seconds('cpu'):.0f}",
            ]
        )
    header = ["experiment", "ms per iteration", "loss, ms", "share", "maps, ms", "share", "s per run"]
    return Table("time", header, rows, source)


def claims_table(evidence: Evidence, source: str) -> Table:
    """What the papers say and what the miniature says to that."""
    rows = [[c.paper, c.text, f"**{v.answer}**", v.evidence] for c, v in judge(evidence)]
    return Table("claims", ["paper", "claim", "miniature", "evidence"], rows, source, 4)


def demonstration_tables(results: dict[str, list[dict[str, Any]]], source: str) -> dict[str, Table]:
    """Those of :mod:`.demonstrations`, by name."""

    def share(x: float) -> str:
        return f"{100 * x:.1f} %"

    signs = [
        [str(r["classes"])] + [share(r[m][k]) for k in ("rises", "overtakes") for m in ("raw", "rectified")]
        for r in results["wrong_signs"]
    ]
    hollow = [
        [r["form"], *(f"{r[k]:.4f}" for k in ("loss of the ball", "loss reached", "Dice", "centre"))]
        for r in results["hollow"]
    ]  # fmt: skip
    forms = {"two_sided": "two-sided", "ma2020": "foreground only", "one_sided": "one-sided"}
    island = [[str(r["distance"])] + [f"{r[f]:.1f}" for f in forms] for r in results["island"]]
    frequency = [
        [str(r["classes"]), f"{r['raw']} of {r['trials']}", f"{r['rectified']} of {r['trials']}"]
        for r in results["convergence"]
    ]
    return {
        "wrong_signs": Table(
            "wrong_signs",
            ["classes", "a wrong class rises: raw", "rectified", "... more than the true one: raw", "rectified"],
            signs,
            source,
        ),
        "hollow": Table(
            "hollow",
            ["MapDice", "loss of the ball itself", "loss reached", "Dice of what is reached", "p at the centre"],
            hollow,
            source,
        ),
        "island": Table("island", ["voxels away", *forms.values()], island, source),
        "convergence": Table("convergence", ["classes", "raw", "rectified"], frequency, source),
    }
