"""The figures of "how the kernels work": ``python -m bench.kernel_pictures [--out FOLDER]``. No data needed."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import TwoSlopeNorm
from numpy.typing import NDArray

import dtkernels as dtk

FIGURES = Path(__file__).resolve().parent.parent / "dtkernels" / "docs" / "figures"
INSIDE, OUTSIDE, ENVELOPE = "#0072B2", "#D55E00", "#009E73"

Values = NDArray[np.float64]


def blob() -> NDArray[np.bool_]:
    """(20, 28): two discs that touch, one with a hole."""
    y, x = np.indices((20, 28))
    mask = (y - 9) ** 2 + (x - 9) ** 2 <= 40
    mask |= (y - 12) ** 2 + (x - 19) ** 2 <= 25
    mask[9, 8] = False
    return np.asarray(mask)


def along(mask: NDArray[np.bool_], axis: int) -> Values:
    """Signed distance to the nearest voxel of the other class on the line alone, infinite where there is none."""
    lines = torch.from_numpy(np.moveaxis(mask, axis, -1).copy())
    return np.moveaxis(dtk.sdf(lines, spatial_dims=1).double().numpy(), -1, axis)


def passes(out: Path) -> None:
    """The mask, what the first pass leaves, and what the second makes of it."""
    mask = blob()
    pictures = {
        "mask, one bit a voxel": np.where(mask, -1.0, 1.0),
        "first axis: nearest change in the column": along(mask, 0),
        "second axis: exact signed distance": dtk.sdf(torch.from_numpy(mask)).double().numpy(),
    }
    figure, axes = plt.subplots(1, 3, figsize=(9.0, 2.5), layout="constrained")
    for axis, (title, values) in zip(axes, pictures.items(), strict=True):
        shown = np.ma.masked_invalid(values)
        limit = max(float(np.abs(shown).max()), 2.0)
        cmap = plt.get_cmap("RdBu_r").with_extremes(bad="lightgrey")
        image = axis.imshow(shown, cmap=cmap, norm=TwoSlopeNorm(0.0, -limit, limit))
        axis.axhline(9, color="black", linewidth=0.6, linestyle=":")
        axis.set_title(title, fontsize=8)
        axis.set_axis_off()
        if limit > 2:
            figure.colorbar(image, ax=axis, shrink=0.75).ax.tick_params(labelsize=6)
    save(figure, out / "kernels-passes.png")


def envelope(out: Path) -> None:
    """A row of the picture above: the parabolas of its voxels, clamped for either sign, and their minimum."""
    mask = blob()
    row = 9
    of_line, inside = along(mask, 0)[row], mask[row]
    exact = dtk.sdf(torch.from_numpy(mask)).double().numpy()[row]
    at = np.linspace(0, len(inside) - 1, 800)
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 2.8), layout="constrained", sharey=True)
    for axis, side, colour, what in (
        (axes[0], True, INSIDE, "foreground"),
        (axes[1], False, OUTSIDE, "background"),
    ):
        height = np.where(inside == side, of_line**2, 0.0)  # max(sign g, 0)
        for j in np.flatnonzero(np.isfinite(height)):
            curve = height[j] + (at - j) ** 2
            axis.plot(at[curve < 60], curve[curve < 60], color="0.8", linewidth=0.5)
            axis.plot(j, height[j], "o", color=colour if height[j] else "black", markersize=3)
        places = np.flatnonzero(inside == side)
        axis.plot(places, exact[places] ** 2, "_", color=ENVELOPE, markersize=9, markeredgewidth=2)
        best = np.array([np.min(height + (p - np.arange(len(height))) ** 2) for p in places])
        assert (best == np.round(exact[places] ** 2)).all()  # the picture shows what the text says
        axis.set_title(f"for the {what}: sites black, the result green", fontsize=8)
        axis.set_xlabel("voxel of the row", fontsize=8)
        axis.set_ylim(-2, 60)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("squared distance", fontsize=8)
    save(figure, out / "kernels-envelope.png")


def minimisers(out: Path) -> None:
    """Which voxel of a line is the minimiser of each: in order, so halving the line halves the candidates."""
    rng = np.random.default_rng(3)
    n = 48
    height = rng.integers(0, 260, n).astype(np.float64)
    p, j = np.indices((n, n))
    cost = height[j] + (p - j) ** 2
    best = cost.argmin(1)
    assert (np.diff(best) >= 0).all()
    reach = (j - p) ** 2 < height[:, None]
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.2), layout="constrained")
    axes[0].imshow(reach.T, cmap="Greys", vmin=0, vmax=2.5, origin="lower")
    axes[0].set_title("window: only these j can beat j = p", fontsize=8)
    low, high = np.zeros(n), np.full(n, n - 1.0)
    done = np.zeros(n, bool)
    for step in (24, 12, 6):  # what three rounds of divide and conquer leave
        done[step::step] = True
        known = np.flatnonzero(done)
        for v in range(n):
            left, right = known[known <= v], known[known >= v]
            low[v] = best[left[-1]] if len(left) else 0
            high[v] = best[right[0]] if len(right) else n - 1
    between = (j >= low[:, None]) & (j <= high[:, None])
    axes[1].imshow(between.T, cmap="Greys", vmin=0, vmax=2.5, origin="lower")
    axes[1].plot(np.flatnonzero(done), best[done], "o", color=OUTSIDE, markersize=4)
    axes[1].set_title("monotone: the candidates after seven minimisers (dots) are known", fontsize=8)
    for axis in axes:
        axis.step(range(n), best, where="mid", color=ENVELOPE, linewidth=1.5)
        axis.set_xlabel("voxel p", fontsize=8)
        axis.set_ylabel("candidate j; green: the minimiser", fontsize=8)
        axis.tick_params(labelsize=7)
    save(figure, out / "kernels-minimisers.png")


def save(figure: plt.Figure, path: Path) -> None:
    """Write without the versions of libraries, so that the same picture is the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FIGURES)
    out = parser.parse_args().out
    for draw in (passes, envelope, minimisers):
        draw(out)


if __name__ == "__main__":
    main()
