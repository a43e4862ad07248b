"""The study's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from .analysis import DIGITS, TITLES, Scores, interval
from .experiments import BASELINE

BLUE, ORANGE, GREY = "#2a6f97", "#e07a2f", "#8d99ae"


def draw(scores: dict[str, Scores], demonstrations: dict[str, Any], folder: Path) -> list[Path]:
    """Every figure there are results for."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    if scores:
        made += [score_figure(scores, folder), time_figure(scores, folder)]
    if demonstrations:
        made.append(demonstration_figure(demonstrations, folder))
    return made


def score_figure(scores: dict[str, Scores], folder: Path) -> Path:
    """Means with their intervals, and the runs as ticks; of experiments far below, the number."""
    metrics = ("dice", "nsd", "hd95")
    height = 1.2 + 0.28 * len(scores)
    figure, axes = plt.subplots(1, len(metrics), figsize=(10, height), sharey=True, layout="constrained")
    rows = np.arange(len(scores))[::-1]
    dice = {name: float(np.nanmean(s.per_case("dice"))) for name, s in scores.items()}
    apart = {name for name in scores if dice[name] < max(dice.values()) - 0.1}
    for axis, metric in zip(axes, metrics, strict=True):
        means = {name: float(np.nanmean(s.per_case(metric))) for name, s in scores.items()}
        for row, (name, s) in zip(rows, scores.items(), strict=True):
            mean = means[name]
            if name in apart:
                # It would squeeze the others together.
                place = {"xy": (0.5, row), "xycoords": ("axes fraction", "data")}
                axis.annotate(f"{mean:.{DIGITS[metric]}f}", **place, ha="center", va="center", color=GREY)
                continue
            axis.plot(interval(s.per_case(metric)), (row, row), color=BLUE, lw=2)
            axis.plot(mean, row, "o", color=ORANGE if name == BASELINE else BLUE)
            axis.plot(s.per_run(metric), [row] * len(s.records), "|", color=GREY, ms=7)
        if BASELINE in scores:
            axis.axvline(np.nanmean(scores[BASELINE].per_case(metric)), color=ORANGE, lw=0.8, ls=":")
        axis.set_title(TITLES[metric], loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(-0.6, len(scores) - 0.4)
    axes[0].set_yticks(rows, [s.experiment.title for s in scores.values()])
    return _save(figure, folder / "study-scores.png")


def time_figure(scores: dict[str, Scores], folder: Path) -> Path:
    """What an iteration is spent on."""
    figure, axis = plt.subplots(figsize=(10, 1.2 + 0.28 * len(scores)), layout="constrained")
    rows = np.arange(len(scores))[::-1]
    iteration, loss, maps = (
        1e3 * np.array([s.seconds(key) for s in scores.values()]) for key in ("iteration", "loss", "maps")
    )
    left = np.zeros(len(scores))
    for label, part, colour in (
        ("distance maps", maps, ORANGE),
        ("the rest of the loss", np.maximum(loss - maps, 0), BLUE),
        ("network, optimiser, data", iteration - loss, "#d7dde5"),
    ):
        axis.barh(rows, part, left=left, label=label, color=colour)
        left += part
    axis.set_yticks(rows, [s.experiment.title for s in scores.values()])
    axis.set_xlabel("ms per iteration")
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return _save(figure, folder / "study-time.png")


def demonstration_figure(results: dict[str, Any], folder: Path) -> Path:
    """Wrong signs, the island, convergence."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    signs, island, frequency = (results[name] for name in ("wrong_signs", "island", "convergence"))
    for name, colour in (("raw", ORANGE), ("rectified", BLUE)):
        axes[0].plot(
            [r["classes"] for r in signs], [100 * r[name]["rises"] for r in signs], "o-", color=colour, label=name
        )
    axes[0].set(title="Pixels where a wrong class rises, %", xlabel="classes")
    for name, colour, title in (
        ("two_sided", BLUE, "two-sided"),
        ("ma2020", ORANGE, "foreground only"),
        ("one_sided", GREY, "one-sided"),
    ):
        axes[1].plot([r["distance"] for r in island], [r[name] for r in island], "o-", color=colour, label=title)
    axes[1].set(title="Cost of an island, relative", xlabel="voxels away", yscale="log")
    places = np.arange(len(frequency))
    for shift, (name, colour) in zip((-0.2, 0.2), (("raw", ORANGE), ("rectified", BLUE)), strict=True):
        share = [100 * r[name] / r["trials"] for r in frequency]
        axes[2].bar(places + shift, share, 0.4, color=colour, label=name)
    axes[2].set(title="Trainings that converge, %", xlabel="classes", ylim=(0, 100))
    axes[2].set_xticks(places, [r["classes"] for r in frequency])
    for axis in axes:
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    return _save(figure, folder / "study-demonstrations.png")


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path
