"""From result files to numbers: means with confidence intervals, paired tests, ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .experiments import BASELINE, EXPERIMENTS, Experiment

Array = NDArray[np.float64]

# Which way is better, and how many digits are worth printing.
BETTER = {"dice": 1, "jaccard": 1, "nsd": 1, "hd95": -1, "asd": -1}
TITLES = {"dice": "Dice", "jaccard": "Jaccard", "nsd": "NSD", "hd95": "HD95, mm", "asd": "ASD, mm"}
DIGITS = {"dice": 3, "jaccard": 3, "nsd": 3, "hd95": 2, "asd": 2}
RESAMPLES = 4000
LEVEL = 0.05
LEAST_RUNS = 3  # below that no difference is clear


@dataclass
class Scores:
    """All runs of one experiment."""

    experiment: Experiment
    records: list[dict[str, Any]] = field(default_factory=list)

    def values(self, metric: str) -> Array:
        """(cases of all runs, classes); nan where a class is neither there nor predicted."""
        return np.concatenate([np.array(r["scores"][metric], dtype=float) for r in self.records])

    def per_case(self, metric: str) -> Array:
        """Mean over classes of each case of each run."""
        return np.nanmean(self.values(metric), axis=1)

    def per_run(self, metric: str) -> Array:
        """Mean over classes and cases of each run."""
        return np.array([np.nanmean(np.array(r["scores"][metric], dtype=float)) for r in self.records])

    @property
    def keys(self) -> list[tuple[int, int, str]]:
        """Seed, fold and name of the cases, in the order of :meth:`values`."""
        return [(r["seed"], r["fold"], case) for r in self.records for case in r["cases"]]

    @property
    def missed(self) -> int:
        """Organs that were there and not predicted at all."""
        return int(sum(np.sum(r["scores"]["missed"]) for r in self.records))

    @property
    def organs(self) -> int:
        """Organs that could be missed."""
        return int(self.values("dice").size)

    def seconds(self, key: str) -> float:
        """Mean over the runs."""
        return float(np.mean([r["seconds"][key] for r in self.records]))


def read(results: Path) -> dict[str, Scores]:
    """Every run in a folder, by experiment, in the order of the list; runs in the order of their seeds."""
    known = {e.name: e for e in EXPERIMENTS}
    found: dict[str, Scores] = {}
    records = [json.loads(path.read_text()) for path in sorted(results.glob("*-s*-f*.json"))]
    for record in sorted(records, key=lambda r: (r["seed"], r["fold"])):
        name = record["experiment"]
        if name in known:
            found.setdefault(name, Scores(known[name])).records.append(record)
    return {e.name: found[e.name] for e in EXPERIMENTS if e.name in found}


def interval(values: Array, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over cases."""
    values = values[~np.isnan(values)]
    draws = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(1), (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """One experiment against the baseline on the same cases of the same folds."""

    difference: float  # mean, the experiment's minus the baseline's
    interval: tuple[float, float]
    p: float  # Wilcoxon's signed-rank test, after Holm's correction over the experiments
    runs_better: int  # in how many pairs of runs the mean is better
    runs: int  # of how many
    sign: int  # 1 where more is better, else -1

    @property
    def clear(self) -> bool:
        """At 5 % after the correction, and with the same sign in every run: cases do not stand for trainings."""
        agreeing = self.runs if self.sign * self.difference > 0 else 0
        return self.p < LEVEL and self.runs >= LEAST_RUNS and self.runs_better == agreeing

    @property
    def better(self) -> bool:
        """Clearly."""
        return self.clear and self.sign * self.difference > 0

    @property
    def worse(self) -> bool:
        """Clearly."""
        return self.clear and self.sign * self.difference < 0

    def no_worse_than(self, margin: float) -> bool:
        """The interval's bad end is within the margin."""
        return (self.interval[0] if self.sign > 0 else -self.interval[1]) > -margin


def compare(
    scores: dict[str, Scores], metric: str, baseline: str = BASELINE, names: Iterable[str] | None = None
) -> dict[str, Comparison]:
    """Every experiment against the baseline, corrected for their number."""
    from scipy.stats import wilcoxon

    if baseline not in scores:
        return {}
    base = scores[baseline]
    own = dict(zip(base.keys, base.per_case(metric), strict=True))
    runs = {(r["seed"], r["fold"]): m for r, m in zip(base.records, base.per_run(metric), strict=True)}
    raw: dict[str, tuple[Array, float, list[bool]]] = {}
    for name, other in scores.items():
        if name == baseline or (names is not None and name not in names):
            continue
        pairs = [(x, own[k]) for k, x in zip(other.keys, other.per_case(metric), strict=True) if k in own]
        if not pairs:
            continue
        differences = np.array([a - b for a, b in pairs])
        p = 1.0 if not np.any(differences) else float(wilcoxon(differences).pvalue)
        better = [
            bool(BETTER[metric] * (m - runs[r["seed"], r["fold"]]) > 0)
            for r, m in zip(other.records, other.per_run(metric), strict=True)
            if (r["seed"], r["fold"]) in runs
        ]
        raw[name] = (differences, p, better)
    corrected = holm([p for _, p, _ in raw.values()])
    return {
        name: Comparison(float(d.mean()), interval(d), q, sum(better), len(better), BETTER[metric])
        for (name, (d, _, better)), q in zip(raw.items(), corrected, strict=True)
    }


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the smallest times n, the next times n - 1, ..., never falling.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    result = [0.0] * len(p)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        result[index] = highest
    return result


def rank_scores(scores: dict[str, Scores], metrics: Sequence[str] = ("dice", "nsd")) -> dict[str, float]:
    """Mean rank over classes and metrics of an experiment's mean, 1 the best; equal means share their rank."""
    from scipy.stats import rankdata

    ranks = []
    for metric in metrics:
        means = np.array([np.nanmean(s.values(metric), axis=0) for s in scores.values()])
        ranks.append(rankdata(-BETTER[metric] * means, axis=0))
    if not ranks:
        return {}
    return dict(zip(scores, np.concatenate(ranks, axis=1).mean(1).tolist(), strict=True))
