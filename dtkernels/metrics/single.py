"""One function per surface metric: :func:`.surface_metrics` with the rest left out.

Each takes what :func:`.surface_metrics` takes, returns float32 of the batch's shape, in the unit of
``spacing``, and treats empty masks as it does. Two metrics of the same masks are cheaper in one call of it.
"""

from __future__ import annotations

from torch import Tensor

from ..arguments import SpacingLike
from . import readers
from .surface import SurfaceMetrics, shares_within, surface_metrics


def hausdorff_distance(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    definition: str = "monai",
    directed: bool = False,
    distance: str = "euclidean",
    connectivity: int = 1,
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """Hausdorff distance: the largest distance of a surface to the other.

    Arguments, dtype, empty masks and errors are those of :func:`.surface_metrics`.

    Source: Huttenlocher et al., Comparing Images Using the Hausdorff Distance, IEEE TPAMI 15, 1993.

    >>> import torch
    >>> hausdorff_distance(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 1, 1, 1, 1]), spacing=0.5)
    tensor(1.)
    """
    return surface_metrics(
        pred, target, spacing, definition=definition, percentiles=(), tolerances=(), directed=directed,
        distance=distance, connectivity=connectivity, on_empty=on_empty, on_both_empty=on_both_empty,
        include_background=include_background, num_classes=num_classes, spatial_dims=spatial_dims,
        backend=backend,
    ).hd  # fmt: skip


def hausdorff_percentile(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    percentile: float = 95,
    definition: str = "monai",
    directed: bool = False,
    distance: str = "euclidean",
    connectivity: int = 1,
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """Robust Hausdorff distance (HD95): a percentile of the surface distances.

    Arguments, dtype, empty masks and errors are those of :func:`.surface_metrics`.

    Pooled over both directions (``"medpy"``), or the larger of both directions (``"monai"``, and by area
    ``"deepmind"``); linear between order statistics but for ``"deepmind"``.

    >>> import torch
    >>> hausdorff_percentile(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 1, 1, 1, 1]), percentile=50)
    tensor(1.)
    """
    return surface_metrics(
        pred, target, spacing, definition=definition, percentiles=percentile, tolerances=(), directed=directed,
        distance=distance, connectivity=connectivity, on_empty=on_empty, on_both_empty=on_both_empty,
        include_background=include_background, num_classes=num_classes, spatial_dims=spatial_dims,
        backend=backend,
    ).hd_percentiles[0]  # fmt: skip


def normalized_surface_dice(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    tolerance: float = 1.0,
    definition: str = "monai",
    directed: bool = False,
    distance: str = "euclidean",
    connectivity: int = 1,
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """NSD: share of both surfaces within ``tolerance`` of the other, 0 where one mask is empty.

    Arguments, dtype, empty masks and errors are those of :func:`.surface_metrics`.

    Source: Nikolov et al., Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy,
    JMIR 23(7), 2021 (``"deepmind"``, by area; the others count surface voxels).

    On a CPU, where no other metric is asked, surface voxels look around themselves up to the tolerance, and the
    distance transform is left out as long as that is less work. Naming a ``backend`` asks for its transform.

    >>> import torch
    >>> normalized_surface_dice(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 1, 1, 1, 1]), tolerance=0.5)
    tensor(0.5000)
    """
    return shares_within(
        pred, target, spacing, definition=definition, tolerances=tolerance, directed=directed,
        distance=distance, connectivity=connectivity, on_both_empty=on_both_empty,
        include_background=include_background, num_classes=num_classes, spatial_dims=spatial_dims,
        backend=backend,
    ).nsd[0]  # fmt: skip


def _without_ranks(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    definition: str = "monai",
    distance: str = "euclidean",
    connectivity: int = 1,
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
    backend: str | None = None,
) -> SurfaceMetrics:
    """All but percentiles and tolerances."""
    return surface_metrics(
        pred, target, spacing, definition=definition, percentiles=(), tolerances=(),
        distance=distance, connectivity=connectivity, on_empty=on_empty, on_both_empty=on_both_empty,
        include_background=include_background, num_classes=num_classes, spatial_dims=spatial_dims,
        backend=backend,
    )  # fmt: skip


@readers.of(_without_ranks)
def average_surface_distance(result: SurfaceMetrics) -> Tensor:
    """ASD: mean distance of the prediction's surface to the target's. Swap the masks for the way back.

    Arguments, dtype, empty masks and errors are those of :func:`.surface_metrics`.

    >>> import torch
    >>> average_surface_distance(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 0]))
    tensor(0.5000)
    """
    return result.asd


@readers.of(_without_ranks)
def average_symmetric_surface_distance(result: SurfaceMetrics) -> Tensor:
    """ASSD: mean distance over both surfaces together (``"deepmind"``: mean of the two directed means).

    Arguments, dtype, empty masks and errors are those of :func:`.surface_metrics`.

    Source: Heimann et al., Comparison and Evaluation of Methods for Liver Segmentation from CT Datasets,
    IEEE TMI 28, 2009.

    >>> import torch
    >>> average_symmetric_surface_distance(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 0]))
    tensor(0.5000)
    """
    return result.assd


@readers.of(_without_ranks)
def maximum_symmetric_surface_distance(result: SurfaceMetrics) -> Tensor:
    """MSD of Heimann et al. (2009): another name of the undirected Hausdorff distance.

    Arguments, dtype, empty masks and errors are those of :func:`.surface_metrics`.

    >>> import torch
    >>> maximum_symmetric_surface_distance(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 1, 1]))
    tensor(1.)
    """
    return result.msd


@readers.of(_without_ranks)
def root_mean_square_surface_distance(result: SurfaceMetrics) -> Tensor:
    """RMSD of Heimann et al. (2009): root of the mean squared distance over both surfaces together.

    Arguments, dtype, empty masks and errors are those of :func:`.surface_metrics`.

    >>> import torch
    >>> root_mean_square_surface_distance(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 0]))
    tensor(0.7071)
    """
    return result.rmsd
