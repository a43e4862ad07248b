"""The picture of every distance map on one real slice: ``python -m bench.map_pictures``.

The slice is of a hippocampus of the Medical Segmentation Decathlon (``DTK_DATA``, ``dtk data hippocampus``): the
one across the first axis, of 40 volumes, whose anterior part has most components, and among these is largest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import TwoSlopeNorm
from scipy import ndimage

import dtkernels as dtk
from dtkernels import data
from dtkernels.formula import formula

from . import inputs

PATH = Path(__file__).parent.parent / "dtkernels" / "docs" / "figures" / "maps.png"
COLUMNS = 7


def real_slice() -> tuple[np.ndarray, tuple[float, float]]:
    """Foreground of the slice and its spacing."""
    best, spacing = None, (1.0, 1.0)
    for _, path in inputs.hippocampi()[:40]:
        labels, (_, *inner) = data.read_volume(path)
        for part in labels == 1:
            rank = (ndimage.label(part, np.ones((3, 3)))[1], int(part.sum()))
            if best is None or rank > best[0]:
                best, spacing = (rank, part), (inner[0], inner[1])
    assert best is not None
    rows, columns = (np.flatnonzero(best[1].any(axis)) for axis in (1, 0))
    return np.pad(best[1][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 7), spacing


def draw(path: Path) -> None:
    """All maps on the slice, each on its own scale; a black line between the voxels is the mask's edge."""
    mask, spacing = real_slice()
    names = list(dtk.conventions())
    rows = -(-len(names) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(1.75 * COLUMNS, 2.0 * rows), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for name, axis in zip(names, axes.flat, strict=False):
        values = dtk.distance_map(torch.from_numpy(mask), name, spacing).numpy()
        low, high = float(values.min()), float(values.max())
        limits = {"cmap": "viridis"}
        if low < 0 < high:
            limits = {"cmap": "RdBu_r", "norm": TwoSlopeNorm(0.0, low, high)}
        image = axis.imshow(values, interpolation="nearest", **limits)
        axis.contour(np.kron(mask, np.ones((8, 8))), [0.5], colors="black", linewidths=0.7,
                     extent=(-0.5, mask.shape[1] - 0.5, -0.5, mask.shape[0] - 0.5))  # fmt: skip
        axis.set_title(name, fontsize=9)
        bar = figure.colorbar(image, ax=axis, shrink=0.8, pad=0.02)
        bar.ax.tick_params(labelsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75, pil_kwargs={"optimize": True})
    plt.close(figure)


def missing_table() -> str:
    """What every map is on masks without foreground and without background, as Markdown."""

    def text(fill: tuple[float, float], limit: float) -> str:
        return f"{np.clip(fill[0], -limit, limit):g}"

    lines = ["| map | without foreground | without background |", "| --- | ---: | ---: |"]
    for name, convention in dtk.conventions().items():
        f = formula(convention.options)
        lines.append(f"| `{name}` | {text(f.empty, f.limit)} | {text(f.full, f.limit)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PATH)
    parser.add_argument("--table", action="store_true", help="print the table of missing classes instead")
    arguments = parser.parse_args()
    if arguments.table:
        print(missing_table())
    else:
        draw(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
