"""The report: tables, figures and one page, from the result files alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from . import analysis, claims, tables
from .analysis import Scores
from .experiments import EXPERIMENTS
from .prose import DEMONSTRATED, DIFFERENCES, INTRODUCTION, LIMITS, SCORES, VERDICTS, YOUR_OWN
from .settings import FULL, MINIATURE
from .tables import Table

DEMONSTRATIONS = "demonstrations.json"


class Report:
    """Everything that the result files of a folder say."""

    def __init__(self, results: Path) -> None:
        self.scores = analysis.read(results)
        path = results / DEMONSTRATIONS
        self.demonstrations: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        against = {m: analysis.compare(self.scores, m) for m in analysis.TITLES}
        self.evidence = claims.Evidence(self.scores, against, self.demonstrations.get("results", {}))
        source = provenance(self.scores, self.command)
        self.tables: dict[str, Table] = {}
        if self.scores:
            self.tables["claims"] = tables.claims_table(self.evidence, source)
            self.tables["scores"] = tables.scores_table(self.scores, source)
            if against["dice"]:
                self.tables["differences"] = tables.differences_table(self.scores, against, source)
            self.tables["classes"] = tables.classes_table(self.scores, source)
            self.tables["time"] = tables.time_table(self.scores, source)
        if self.demonstrations:
            made = self.demonstrations
            source = f"{made['processor']}, {made['date']}: `{self.command}`."
            self.tables |= tables.demonstration_tables(made["results"], source)

    @property
    def command(self) -> str:
        """The command that makes these runs."""
        records = [r for s in self.scores.values() for r in s.records]
        settings = [r["settings"] for r in records]
        subset = {e.name for e in EXPERIMENTS if e.subset}
        if any(r["data"]["name"] != "hippocampus" for r in records):
            return "python -m bench.study run --data FOLDER"
        if set(self.scores) <= subset and all(s == MINIATURE.as_json() for s in settings):
            return "make study"
        if all(s == FULL.as_json() for s in settings):
            return "make study-full"
        return "python -m bench.study run"

    def write(self, page: Path, figures: Path, folder: Path) -> list[Path]:
        """The page, the figures, and each table as Markdown and CSV."""
        from . import plots

        folder.mkdir(parents=True, exist_ok=True)
        written = plots.draw(self.scores, self.demonstrations.get("results", {}), figures)
        for table in self.tables.values():
            for suffix, text in ((".md", table.markdown()), (".csv", table.csv())):
                written.append(folder / (table.name + suffix))
                written[-1].write_text(text)
        written.append(folder / "cases.csv")
        written[-1].write_text(tables.cases_csv(self.scores))
        page.write_text(self.page(os.path.relpath(figures, page.parent)))
        return [*written, page]

    def page(self, figures: str) -> str:
        """The page; ``figures`` is the folder of the figures, seen from it."""
        parts = [INTRODUCTION]
        if self.scores:
            parts += [
                self.what_was_run(),
                "## What the papers say, and what the miniature says to that\n",
                VERDICTS,
                self.tables["claims"].markdown(),
                LIMITS,
                "## Scores\n",
                SCORES,
                f"![scores]({figures}/study-scores.png)\n",
                self.tables["scores"].markdown(),
            ]
            if "differences" in self.tables:
                parts += ["### Against Dice alone\n", DIFFERENCES, self.tables["differences"].markdown()]
            parts += [
                "### By class\n",
                self.tables["classes"].markdown(),
                "## Time\n",
                self.time(),
                f"![time]({figures}/study-time.png)\n",
                self.tables["time"].markdown(),
            ]
        if self.demonstrations:
            parts += ["## Without data\n", f"![demonstrations]({figures}/study-demonstrations.png)\n"]
            for name, text in DEMONSTRATED.items():
                parts += [text, self.tables[name].markdown()]
        return "\n".join([*parts, YOUR_OWN])

    def what_was_run(self) -> str:
        """Data and settings in a paragraph."""
        records = [r for s in self.scores.values() for r in s.records]
        first = records[0]
        settings, data = first["settings"], first["data"]
        tested = len({(r["fold"], case) for r in records for case in r["cases"]})
        cpu = sum(r["seconds"]["cpu"] for r in records)
        size = " x ".join(map(str, settings["patch"]))
        return (
            f"Here: {len(records)} runs of {len(self.scores)} experiments on *{data['name']}* "
            f"({', '.join(data['classes'][1:])}), each with {data['training']} training volumes, patches of "
            f"{size}, {settings['steps']} steps of {settings['batch']} patches, and a network of "
            f"{first['parameters']:,} parameters. Seed 0 is tested on fold 0, and so on, so no volume is tested "
            f"twice: {tested} held-out volumes. Optimiser (AdamW, one-cycle rate, peak "
            f"{settings['peak_rate']:g}) and all else is the same for every experiment; an epoch of the papers' "
            f"schedules is a hundredth of the training. The runs took {cpu / 60:.0f} CPU minutes, which on two "
            f"cores to themselves are {cpu / 120:.0f} minutes (computed, not measured).\n"
        )

    def time(self) -> str:
        """What the maps cost, in a paragraph."""
        shares = {n: s.seconds("maps") / s.seconds("iteration") for n, s in self.scores.items()}
        most = max(shares, key=lambda name: shares[name])
        return (
            "CPU seconds of the process, which a busy machine does not stretch; on a GPU seconds. The loss is "
            "timed forward and backward on recorded predictions, the maps are dtkernels' operators within its "
            f"forward pass. No experiment spends more than {100 * shares[most]:.1f} % of an iteration in maps "
            f"(`{most}`).\n"
        )


def provenance(scores: dict[str, Scores], command: str) -> str:
    """Command, machine and date of the runs."""
    records = [r for s in scores.values() for r in s.records]
    if not records:
        return ""
    dates = sorted({r["machine"]["date"] for r in records})
    machines = sorted({r["machine"]["processor"] if r["device"] == "cpu" else r["device"] for r in records})
    versions = records[-1]["machine"]
    return (
        f"{', '.join(machines)}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, torch {versions['torch']}, "
        f"monai {versions['monai']}: `{command}`."
    )


def write(results: Path, page: Path, figures: Path, folder: Path) -> list[Path]:
    """The report of a folder of results."""
    return Report(results).write(page, figures, folder)
