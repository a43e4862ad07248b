"""One function per surface metric: :func:`.surface_metrics` with the rest left out.

Each takes what :func:`.surface_metrics` takes, returns float32 of the batch's shape, in the unit of
``spacing``, and treats empty masks as it does. Two metrics of the same masks are cheaper in one call of it.
"""

from __future__ import annotations

from torch import Tensor

from ..arguments import SpacingLike
from .surface import SurfaceMetrics, surface_metrics


def hausdorff_distance(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    definition: str = "monai",
    directed: bool = False,
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
) -> Tensor:
    """Hausdorff distance: the largest distance of a surface to the other.

    Source: Huttenlocher et al., Comparing Images Using the Hausdorff Distance, IEEE TPAMI 15, 1993.

    >>> import torch
    >>> hausdorff_distance(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 1, 1, 1, 1]), spacing=0.5)
    tensor(1.)
    """
    return _measure(
        pred, target, spacing, definition, (), (), directed, on_empty, on_both_empty,
        include_background, num_classes, spatial_dims,
    ).hd  # fmt: skip


def hausdorff_percentile(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    percentile: float = 95,
    definition: str = "monai",
    directed: bool = False,
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
) -> Tensor:
    """Robust Hausdorff distance (HD95): a percentile of the surface distances.

    Pooled over both directions (``"medpy"``), or the larger of both directions (``"monai"``, and by area
    ``"deepmind"``); linear between order statistics but for ``"deepmind"``.

    >>> import torch
    >>> hausdorff_percentile(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 1, 1, 1, 1]), percentile=50)
    tensor(1.)
    """
    return _measure(
        pred, target, spacing, definition, (percentile,), (), directed, on_empty, on_both_empty,
        include_background, num_classes, spatial_dims,
    ).hd_percentiles[0]  # fmt: skip


def average_surface_distance(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    definition: str = "monai",
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
) -> Tensor:
    """ASD: mean distance of the prediction's surface to the target's. Swap the masks for the way back.

    >>> import torch
    >>> average_surface_distance(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 0]))
    tensor(0.5000)
    """
    return _measure(
        pred, target, spacing, definition, (), (), False, on_empty, on_both_empty,
        include_background, num_classes, spatial_dims,
    ).asd  # fmt: skip


def average_symmetric_surface_distance(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    definition: str = "monai",
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
) -> Tensor:
    """ASSD: mean distance over both surfaces together (``"deepmind"``: mean of the two directed means).

    Source: Heimann et al., Comparison and Evaluation of Methods for Liver Segmentation from CT Datasets,
    IEEE TMI 28, 2009.

    >>> import torch
    >>> average_symmetric_surface_distance(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 0]))
    tensor(0.5000)
    """
    return _measure(
        pred, target, spacing, definition, (), (), False, on_empty, on_both_empty,
        include_background, num_classes, spatial_dims,
    ).assd  # fmt: skip


def maximum_symmetric_surface_distance(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    definition: str = "monai",
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
) -> Tensor:
    """MSD of Heimann et al. (2009): another name of the undirected Hausdorff distance.

    >>> import torch
    >>> maximum_symmetric_surface_distance(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 1, 1]))
    tensor(1.)
    """
    return _measure(
        pred, target, spacing, definition, (), (), False, on_empty, on_both_empty,
        include_background, num_classes, spatial_dims,
    ).msd  # fmt: skip


def root_mean_square_surface_distance(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    definition: str = "monai",
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
) -> Tensor:
    """RMSD of Heimann et al. (2009): root of the mean squared distance over both surfaces together.

    >>> import torch
    >>> root_mean_square_surface_distance(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 0]))
    tensor(0.7071)
    """
    return _measure(
        pred, target, spacing, definition, (), (), False, on_empty, on_both_empty,
        include_background, num_classes, spatial_dims,
    ).rmsd  # fmt: skip


def normalized_surface_dice(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    tolerance: float = 1.0,
    definition: str = "monai",
    directed: bool = False,
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
) -> Tensor:
    """NSD: share of both surfaces within ``tolerance`` of the other, 0 where one mask is empty.

    Source: Nikolov et al., Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy,
    JMIR 23(7), 2021 (``"deepmind"``, by area; the others count surface voxels).

    >>> import torch
    >>> normalized_surface_dice(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 1, 1, 1, 1]), tolerance=0.5)
    tensor(0.5000)
    """
    return _measure(
        pred, target, spacing, definition, (), (tolerance,), directed, "inf", on_both_empty,
        include_background, num_classes, spatial_dims,
    ).nsd[0]  # fmt: skip


def _measure(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike,
    definition: str,
    percentiles: tuple[float, ...],
    tolerances: tuple[float, ...],
    directed: bool,
    on_empty: str | float,
    on_both_empty: str,
    include_background: bool,
    num_classes: int | None,
    spatial_dims: int | None,
) -> SurfaceMetrics:
    return surface_metrics(
        pred, target, spacing, definition=definition, percentiles=percentiles, tolerances=tolerances,
        directed=directed, on_empty=on_empty, on_both_empty=on_both_empty,
        include_background=include_background, num_classes=num_classes, spatial_dims=spatial_dims,
    )  # fmt: skip
