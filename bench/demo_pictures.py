"""The pictures of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

import dtkernels as dtk

from .demo_timing import Timing

# Okabe and Ito's palette, told apart with any kind of colour vision.
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
INK = "#222222"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}


def draw_case(
    path: Path,
    *,
    image: Tensor,
    label: Tensor,
    prediction: Tensor,
    probability: Tensor,
    spacing: Sequence[float],
    classes: Sequence[str],
    title: str,
) -> None:
    """Image, label and prediction above; their signed distances and the Hausdorff loss's integrand below.

    Args:
        path: PNG to write.
        image: (D, H, W).
        label: (D, H, W) integers.
        prediction: (D, H, W) integers.
        probability: (C, D, H, W).
        spacing: mm per voxel in array order.
        classes: names, the background first.
        title: of the whole figure.
    """
    outside, inside = _distance(prediction > 0, spacing), _distance(label > 0, spacing)
    penalty = _penalty(label, prediction, probability, spacing, len(classes))
    index = int((label > 0).flatten(1).sum(1).argmax())

    def cut(volume: Tensor) -> NDArray[Any]:
        return volume[index].float().cpu().numpy().T

    height, width = label.shape[2] * spacing[2], label.shape[1] * spacing[1]
    extent = (0.0, width, 0.0, height)
    grid_y = (np.arange(label.shape[2]) + 0.5) * spacing[2]
    grid_x = (np.arange(label.shape[1]) + 0.5) * spacing[1]

    with plt.rc_context(STYLE):
        panel = 3.6
        figure, axes = plt.subplots(
            2, 3, figsize=(3 * panel + 0.3, 2 * panel * height / width + 1.6), layout="constrained"
        )
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.07, wspace=0.02, hspace=0.02)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
        for axis in axes.flat:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)

        grey = cut(image)
        low, high = np.percentile(grey, (1, 99.5))
        for axis, name, overlay in (
            (axes[0, 0], "image", None),
            (axes[0, 1], "label", label),
            (axes[0, 2], "prediction", prediction),
        ):
            axis.imshow(grey, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent)
            axis.set_title(name)
            if overlay is not None:
                _overlay(axis, cut(overlay), len(classes), extent, grid_x, grid_y)
        _scale_bar(axes[0, 0], width, height)
        patches = [Patch(color=_colour(c), label=name) for c, name in enumerate(classes[1:], 1)]
        figure.legend(handles=patches, loc="upper right", ncols=len(patches), frameon=False)

        limit = _limit(cut(inside))
        step = max(1.0, round(limit / 6))
        steps = [s for s in np.arange(-10 * limit, 10 * limit, step) if abs(s) > 1e-6]
        for axis, name, field in (
            (axes[1, 0], "signed distance of the label", inside),
            (axes[1, 1], "signed distance of the prediction", outside),
        ):
            values = np.clip(cut(field), -10 * limit, 10 * limit)  # infinite where nothing was predicted
            shown = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", extent=extent)
            axis.set_title(name)
            if values.min() < 0 < values.max():
                lines = {"colors": INK, "negative_linestyles": "solid"}
                axis.contour(grid_x, grid_y, values, levels=steps, linewidths=0.4, alpha=0.45, **lines)
                axis.contour(grid_x, grid_y, values, levels=[0.0], linewidths=2.0, **lines)
            else:
                axis.text(width / 2, height / 2, "no boundary in this slice", ha="center", color="white")
        _bar(figure, shown, axes[1, :2], f"mm, negative inside; a line every {step:g} mm", "both")

        values = cut(penalty)
        top = max(float(values.max()), 1e-6)
        heat = axes[1, 2].imshow(
            values, cmap="cividis", norm=PowerNorm(0.5, 0, top), origin="lower", extent=extent
        )
        axes[1, 2].contour(grid_x, grid_y, cut(inside), levels=[0.0], colors="white", linewidths=1.2)
        axes[1, 2].set_title("penalty of the Hausdorff loss")
        _bar(figure, heat, axes[1, 2], "mm², outline of the label in white", "neither")
        figure.savefig(path)
        plt.close(figure)


def _bar(figure: Figure, shown: AxesImage, axes: Any, label: str, extend: str) -> None:
    wide = isinstance(axes, np.ndarray)
    bar = figure.colorbar(
        shown, ax=axes, extend=extend, location="bottom", fraction=0.05, pad=0.02,
        shrink=0.6 if wide else 0.9, aspect=42 if wide else 30,
    )  # fmt: skip
    bar.set_label(label)
    bar.outline.set_visible(False)


def draw_timing(path: Path, timing: Timing, subtitle: str) -> None:
    """One bar per implementation: network and loss in an iteration."""
    names = {"dtkernels": "dtkernels", "scipy": "SciPy recipe", "monai": "MONAI"}
    order = list(reversed(names))
    network = timing.network.median
    loss = np.array([timing.losses[name].median for name in order])
    spread = np.array(
        [
            [timing.losses[n].median - timing.losses[n].low for n in order],
            [timing.losses[n].high - timing.losses[n].median for n in order],
        ]
    )
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.5, 2.9), layout="constrained")
        scale = 1000.0
        axis.barh(order, network * scale, color="#BBBBBB", height=0.6, label="network: forward, Dice, backward")
        axis.barh(
            order, loss * scale, left=network * scale, color="#0072B2", height=0.6,
            xerr=spread * scale, error_kw={"elinewidth": 1, "capsize": 3, "ecolor": INK},
            label="Hausdorff loss: forward, backward",
        )  # fmt: skip
        for row, name in enumerate(order):
            end = (network + timing.losses[name].high) * scale
            axis.annotate(
                f"{timing.share(name):.0%} of the iteration", (end, row), xytext=(8, 0),
                textcoords="offset points", va="center",
            )  # fmt: skip
        axis.set_yticks(range(len(order)), [names[name] for name in order])
        axis.set_xlim(0, (network + loss.max()) * scale * 1.28)
        axis.set_xlabel("ms per iteration (median, quartiles as whiskers)")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, borderaxespad=0.2)
        figure.suptitle(subtitle, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
        figure.savefig(path)
        plt.close(figure)


def _distance(mask: Tensor, spacing: Sequence[float]) -> Tensor:
    return dtk.sdf(mask, tuple(spacing), spatial_dims=3)


def _penalty(
    label: Tensor, prediction: Tensor, probability: Tensor, spacing: Sequence[float], classes: int
) -> Tensor:
    """(p - g)^2 (d_P^2 + d_G^2), summed over the classes that are not the background."""
    total = torch.zeros_like(probability[0])
    for c in range(1, classes):
        p, g = probability[c], (label == c).to(probability.dtype)
        distances = dtk.sdf(torch.stack([p, g]), tuple(spacing), spatial_dims=3, threshold=0.5)
        finite = torch.where(distances.isfinite(), distances, 0.0)
        total += (p - g) ** 2 * finite.square().sum(0)
    return total


def _colour(index: int) -> str:
    return CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]


def _overlay(
    axis: Axes,
    labels: NDArray[Any],
    classes: int,
    extent: tuple[float, float, float, float],
    grid_x: NDArray[Any],
    grid_y: NDArray[Any],
) -> None:
    colours = ListedColormap([_colour(c) for c in range(1, classes)] or [INK])
    shown = np.ma.masked_equal(labels, 0)
    axis.imshow(
        shown, cmap=colours, vmin=0.5, vmax=classes - 0.5, alpha=0.55, origin="lower", extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    for c in range(1, classes):
        mask = (labels == c).astype(float)
        if mask.any() and not mask.all():
            axis.contour(grid_x, grid_y, mask, levels=[0.5], colors=[_colour(c)], linewidths=1.4)


def _scale_bar(axis: Axes, width: float, height: float) -> None:
    length = 10.0 if width < 150 else 50.0
    x, y = width * 0.05, height * 0.06
    axis.plot([x, x + length], [y, y], color="white", linewidth=2.5, solid_capstyle="butt")
    axis.text(x + length / 2, y + height * 0.025, f"{length:.0f} mm", color="white", ha="center", va="bottom")


def _limit(values: NDArray[Any]) -> float:
    """A symmetric limit in whole mm: the inside must not drown in the far outside."""
    finite = np.abs(values[np.isfinite(values)])
    return float(max(2.0, np.ceil(np.percentile(finite, 90)))) if finite.size else 2.0
