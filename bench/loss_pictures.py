"""The gradient of every loss on a slice of a real hippocampus: ``python -m bench.loss_pictures [--out FOLDER]``.

The prediction is the target's blurred mask, moved by two voxels, with a false island far away; red is where
descent takes foreground away, blue where it adds some. Needs the hippocampus set (``dtk data hippocampus``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from dtkernels import data, losses
from dtkernels.losses.segmentation import SegmentationLoss

from . import inputs

FIGURES = Path(__file__).resolve().parent.parent / "dtkernels" / "docs" / "figures"
ON_MAPS = (losses.SDFProductLoss, losses.ShapeAwareLoss, losses.SignedDistanceRegressionLoss)
KINDS: tuple[type[SegmentationLoss], ...] = tuple(getattr(losses, name) for name in losses.__all__)


def slice_of_a_case() -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Image and mask (1, 1, H, W) of the slice with the most foreground, and its spacing."""
    case = data.read_case(*inputs.hippocampi()[0])
    mask = case.label > 0
    at = int(mask.sum((0, 1)).argmax())
    return case.image[None, None, :, :, at], mask[None, None, :, :, at].float(), case.spacing[:2]


def probability(mask: Tensor) -> Tensor:
    """The target blurred and moved by (2, 1), and an island in the corner."""
    moved = mask.roll((2, 1), (2, 3))
    moved[..., 3:6, -7:-4] = 1
    blurred = torch.nn.functional.avg_pool2d(moved, 3, 1, 1)
    return torch.nn.functional.avg_pool2d(blurred, 3, 1, 1).clamp(0.02, 0.98)


def push(
    kind: type[SegmentationLoss], mask: Tensor, spacing: tuple[float, float], length: float | None = None
) -> Tensor:
    """(H, W): where descent adds foreground (positive) and takes it away, of the logit or of minus the map.

    With ``length`` the region-wise loss of a map of zeros: the length of the contours alone.
    """
    p = probability(mask)
    if kind in ON_MAPS:
        x = (0.5 - p).clamp(-0.9, 0.9).requires_grad_()  # a map: negative inside
        options = {"k": 10.0} if kind is losses.ShapeAwareLoss else {}  # 1500 shows the boundary's voxels only
        kind(include_background=True, **options)(x, mask, spacing).backward()
        sign = 1
    else:
        x = torch.logit(p).requires_grad_()
        options = {} if length is None else {"length": length}
        maps = {} if length is None else {"maps": torch.zeros_like(mask)}
        kind(include_background=True, sigmoid=True, **options)(x, mask, spacing, **maps).backward()
        sign = -1
    assert x.grad is not None
    return sign * x.grad[0, 0]


def push_of_contours(mask: Tensor, spacing: tuple[float, float]) -> Tensor:
    """(H, W): the same for the region term of active contours, of the object's logit beside the background's."""
    x = torch.logit(probability(mask))
    both = torch.cat([torch.zeros_like(x), x], 1).requires_grad_()
    losses.RegionWiseLoss(softmax=True, convention="ac")(both, torch.cat([1 - mask, mask], 1), spacing).backward()
    assert both.grad is not None
    return -both.grad[0, 1]


def draw(name: str, arrow: Tensor, image: Tensor, mask: Tensor, spacing: tuple[float, float], out: Path) -> None:
    """One picture: the image with both contours, and the push."""
    limit = arrow.abs().max().item()
    figure, axes = plt.subplots(1, 2, figsize=(5.2, 2.6), layout="constrained")
    aspect = spacing[0] / spacing[1]
    axes[0].imshow(image[0, 0], cmap="gray", aspect=aspect)
    shown = axes[1].imshow(arrow, cmap="RdBu", vmin=-limit, vmax=limit, aspect=aspect)
    for axis in axes:
        axis.contour(mask[0, 0], [0.5], colors="#009E73", linewidths=1.2)
        axis.contour(probability(mask)[0, 0], [0.5], colors="#D55E00", linewidths=1.2, linestyles="--")
        axis.set_axis_off()
    axes[0].set_title("target, prediction (dashed)", fontsize=8)
    axes[1].set_title(f"descent of {name}", fontsize=8)
    figure.colorbar(shown, ax=axes[1], shrink=0.8).ax.tick_params(labelsize=6)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FIGURES)
    out = parser.parse_args().out
    image, mask, spacing = slice_of_a_case()
    pictures = {kind.__name__: push(kind, mask, spacing) for kind in KINDS}
    pictures["RegionWiseLoss-length"] = push(losses.RegionWiseLoss, mask, spacing, length=1.0)
    pictures["RegionWiseLoss-ac"] = push_of_contours(mask, spacing)
    for name, arrow in pictures.items():
        draw(name, arrow, image, mask, spacing, out)
        print(out / f"{name}.png")


if __name__ == "__main__":
    main()
