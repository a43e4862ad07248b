"""Distances between the surfaces of a prediction and a target, by the definition of a library.

==============  ======================  =========================  ===================================
                ``"medpy"``             ``"monai"``                ``"deepmind"``
==============  ======================  =========================  ===================================
surface         foreground voxels with a face neighbour in the     elements of half a voxel, weighted
                background, beyond the image included              by length or area (:mod:`.surfels`)
HD percentile   of both directions      larger of the directed     larger of the directed ones,
                pooled, linear          ones, linear               where the area reaches the share
ASSD            mean over both surfaces together                   mean of the two directed means
RMSD            over both surfaces together                        the same, weighted
NSD             share of surface voxels within the tolerance       share of the area
==============  ======================  =========================  ===================================

The names stand for MedPy 0.5 (before 0.5 its ASSD was the mean of the two means), MONAI 1.6 and
surface-distance 0.1, whose numbers these are to a relative 1e-5 wherever both masks have a surface. What is
not in a library (RMSD in all, NSD in MedPy, ASSD and MSD in surface-distance) follows the same surface and
weights. MONAI's NSD with ``use_subvoxels=True`` is ``"deepmind"``'s.

Where a mask is empty the libraries differ more than anywhere else, so nothing is silent here:

=======================  ==========================================  ==================
                         one mask empty                              both empty
=======================  ==========================================  ==================
here, ``on_empty="inf"`` distances inf, NSD 0                        nan
MedPy                    raises (``on_empty="error"``)               raises
MONAI                    HD and ASD inf, **HD95 nan**, NSD 0         nan
surface-distance         inf, the mean from the empty mask nan,      HD inf, others nan
                         NSD 0
=======================  ==========================================  ==================

MONAI leaves nan out of its averages, so a model that misses an organ entirely is averaged over the cases it
found: HD95 of [3.0, missed] is 3.0, and of nothing but misses 0.0. :func:`.aggregate` counts what it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .. import arguments
from ..arguments import SpacingLike
from . import dense, distances, masks, packed
from .definitions import DEFINITIONS, Definition
from .masks import Pair
from .moments import Moments

EMPTY = ("inf", "nan", "diagonal", "error")
BOTH_EMPTY = ("nan", "perfect")


@dataclass(frozen=True, eq=False)
class SurfaceMetrics(Mapping[str, Tensor]):
    """Float32 tensors of the batch's shape, (B, C) for (B, C, \\*spatial) masks, on its device.

    As a mapping: ``"hd"``, ``"hd95"`` and so on for each percentile, ``"asd"``, ``"assd"``, ``"msd"``, ``"rmsd"``,
    ``"nsd@1"`` and so on for each tolerance.
    """

    hd: Tensor  #: Hausdorff distance
    hd_percentiles: Tensor  #: (percentiles, ...) robust Hausdorff distances
    asd: Tensor  #: average distance from the prediction's surface to the target's
    assd: Tensor  #: average symmetric surface distance
    msd: Tensor  #: maximum symmetric surface distance: the Hausdorff distance, never directed
    rmsd: Tensor  #: root mean square symmetric surface distance
    nsd: Tensor  #: (tolerances, ...) normalised surface Dice, 0 .. 1
    pred_empty: Tensor  #: bool: no foreground in the prediction
    target_empty: Tensor  #: bool: no foreground in the target
    percentiles: tuple[float, ...]
    tolerances: tuple[float, ...]

    def __getitem__(self, key: str) -> Tensor:
        """One metric by name."""
        if key in ("hd", "asd", "assd", "msd", "rmsd"):
            value: Tensor = getattr(self, key)
            return value
        for prefix, numbers, values in (
            ("hd", self.percentiles, self.hd_percentiles),
            ("nsd@", self.tolerances, self.nsd),
        ):
            for n, number in enumerate(numbers):
                if key == f"{prefix}{number:g}":
                    return values[n]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        """Names of the metrics."""
        yield "hd"
        yield from (f"hd{q:g}" for q in self.percentiles)
        yield from ("asd", "assd", "msd", "rmsd")
        yield from (f"nsd@{t:g}" for t in self.tolerances)

    def __len__(self) -> int:
        """How many metrics."""
        return 5 + len(self.percentiles) + len(self.tolerances)


def surface_metrics(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    definition: str = "monai",
    percentiles: float | Sequence[float] = (95,),
    tolerances: float | Sequence[float] = (1.0,),
    directed: bool = False,
    distance: str = "euclidean",
    connectivity: int = 1,
    on_empty: str | float = "inf",
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
    backend: str | None = None,
) -> SurfaceMetrics:
    r"""Every surface metric of all samples and classes, from one distance transform of each mask.

    With S_P, S_T the surfaces, w the size of a surface element (1 for voxels) and d its distance to the other
    surface,

    .. math::

        \mathrm{HD} &= \max(\max_{S_P} d, \max_{S_T} d) \qquad
        \mathrm{ASD} = \frac{\sum_{S_P} w d}{\sum_{S_P} w} \\
        \mathrm{ASSD} &= \frac{\sum_{S_P} w d + \sum_{S_T} w d}{\sum_{S_P} w + \sum_{S_T} w} \qquad
        \mathrm{RMSD} = \sqrt{\frac{\sum_{S_P} w d^2 + \sum_{S_T} w d^2}{\sum_{S_P} w + \sum_{S_T} w}} \\
        \mathrm{NSD}_\tau &= \frac{\sum_{S_P: d \le \tau} w + \sum_{S_T: d \le \tau} w}
                                {\sum_{S_P} w + \sum_{S_T} w}

    with the differences between definitions that the table of this module lists. Distances are in the unit of
    ``spacing``. Percentiles are exact for any number of surface voxels.

    Args:
        pred: ``(B, C, *spatial)`` masks, foreground non-zero (NaN is background); any dtype and layout, on any
            device. Without B and C, or with other leading dimensions, results have those.
        target: masks of the same shape on the same device.
        spacing: as in :func:`dtkernels.edt`: None (1), a number, one number per spatial dimension in array
            order, or a ``(B, spatial_dims)`` tensor with a row per sample.
        definition: ``"medpy"``, ``"monai"`` or ``"deepmind"``.
        percentiles: in 0 .. 100, for ``hd_percentiles``. (MONAI takes 0 for the maximum.)
        tolerances: for ``nsd``, in the unit of ``spacing``. A distance within a relative 5e-7 of a tolerance
            counts as within it: rounding shall not decide ties.
        directed: HD, its percentiles and NSD look from the prediction's surface only. ASD always does, ASSD,
            MSD and RMSD never do.
        distance: ``"euclidean"``, or ``"chessboard"`` or ``"taxicab"``, which count voxels and take no spacing.
        connectivity: the surface is the foreground voxels with a background neighbour that differs in at most
            so many coordinates, 1 (faces) to the number of spatial dimensions; 1 for ``"deepmind"``.
        on_empty: what distances are where one of the two masks is empty: ``"inf"``, ``"nan"``, a number,
            ``"diagonal"`` (of the image, side lengths times spacing), or ``"error"``, a ValueError that lists
            the pairs, also where both are empty; it alone reads back from a GPU. NSD is 0 in any case.
        on_both_empty: ``"nan"`` for all metrics where neither mask has a surface, or ``"perfect"``: distances 0,
            NSD 1.
        include_background: whether class 0 is measured.
        num_classes: given, ``pred`` and ``target`` are integer label maps, as in :func:`dtkernels.labels_sdf`.
        spatial_dims: how many trailing dimensions are spatial: 1, 2 or 3, 2 or 3 for ``"deepmind"``. Default as
            in :func:`dtkernels.edt`: 5-D is (B, C, D, H, W), 4-D (B, C, H, W), up to 3-D all spatial.
        backend: backend of the distance transform by name.

    Returns:
        :class:`SurfaceMetrics`. Nothing is read back to the host, and on GPUs there is no loop over samples or
        classes. Not differentiable.

    Raises:
        TypeError: inputs that are no tensors, unsupported dtypes, labels that are no integers.
        ValueError: different shapes, wrong rank, bad spacing, unknown words (with the closest), percentiles out
            of range; on CPUs, where looking is free, also masks that are not binary.

    >>> import torch
    >>> from dtkernels.metrics import surface_metrics
    >>> target = torch.zeros(1, 2, 8, 8, dtype=torch.uint8)
    >>> target[0, :, 2:5, 2:5] = 1
    >>> pred = target.roll(1, dims=-1)
    >>> pred[0, 1] = 0  # the second organ is missed
    >>> result = surface_metrics(pred, target, spacing=(1.0, 0.5))
    >>> result["hd95"], result["nsd@1"]
    (tensor([[0.5000,    inf]]), tensor([[1., 0.]]))
    """
    found = _measure(
        pred, target, spacing, definition, percentiles, tolerances, directed, distance, connectivity, on_empty,
        on_both_empty, include_background, num_classes, spatial_dims, backend,
    )  # fmt: skip
    return of_measured(found, directed)


def of_measured(found: Measured, directed: bool) -> SurfaceMetrics:
    """Every metric of what has been summed up."""
    sums, length = found.sums, found.length
    means = sums.first / sums.total
    return SurfaceMetrics(
        hd=length(sums.maximum[0] if directed else sums.maximum.amax(0)),
        hd_percentiles=length(sums.percentiles[:, 0] if directed else sums.percentiles.amax(1)),
        asd=length(means[0]),
        assd=length(sums.first.sum(0) / sums.total.sum(0) if found.asked.rule.pooled_mean else means.mean(0)),
        msd=length(sums.maximum.amax(0)),
        rmsd=length((sums.second.sum(0) / sums.total.sum(0)).sqrt()),
        nsd=found.nsd(directed),
        pred_empty=found.empty(0),
        target_empty=found.empty(1),
        percentiles=found.asked.percentiles,
        tolerances=found.asked.tolerances,
    )


class Shares(NamedTuple):
    """What is left of :class:`SurfaceMetrics` where nothing but NSD is asked."""

    nsd: Tensor  # (tolerances, ...)
    pred_empty: Tensor
    target_empty: Tensor


def shares_within(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike = None,
    *,
    tolerances: float | Sequence[float] = (1.0,),
    definition: str = "monai",
    directed: bool = False,
    distance: str = "euclidean",
    connectivity: int = 1,
    on_both_empty: str = "nan",
    include_background: bool = True,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
    backend: str | None = None,
) -> Shares:
    """NSD alone, which needs no distance beyond the largest tolerance; arguments of :func:`surface_metrics`.

    >>> shares_within(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 1, 1, 1, 1]), tolerances=(0.5, 3)).nsd
    tensor([0.5000, 1.0000])
    """
    found = _measure(
        pred, target, spacing, definition, (), tolerances, directed, distance, connectivity, "inf",
        on_both_empty, include_background, num_classes, spatial_dims, backend, shares_only=True,
    )  # fmt: skip
    return Shares(found.nsd(directed), found.empty(0), found.empty(1))


class Asked(NamedTuple):
    """What to measure, checked."""

    rule: Definition
    percentiles: tuple[float, ...]
    tolerances: tuple[float, ...]
    on_empty: str | float
    perfect: bool  # whether two empty masks are as good as can be


def asked(
    dims: int,
    definition: str,
    percentiles: float | Sequence[float],
    tolerances: float | Sequence[float],
    connectivity: int,
    on_empty: str | float,
    on_both_empty: str,
) -> Asked:
    """Check arguments of :func:`surface_metrics`."""
    masks.choice("definition", definition, DEFINITIONS)
    if not isinstance(on_empty, (int, float)) or isinstance(on_empty, bool):
        masks.choice("on_empty", on_empty, EMPTY)
    masks.choice("on_both_empty", on_both_empty, BOTH_EMPTY)
    q = masks.numbers_in("percentiles", percentiles, 100)
    tau = masks.numbers_in("tolerances", tolerances, math.inf)
    rule = DEFINITIONS[definition]._replace(connectivity=arguments.check_connectivity(connectivity, dims))
    if rule.subvoxel and dims == 1:
        raise ValueError(f"spatial_dims: expected 2 or 3 with definition={definition!r}, got 1")
    if rule.subvoxel and connectivity != 1:
        raise ValueError(f"connectivity: expected 1 with definition={definition!r}, got {connectivity}")
    return Asked(rule, q, tau, on_empty, on_both_empty == "perfect")


class Measured(NamedTuple):
    """Moments, and what becomes of pairs without a surface."""

    sums: Moments
    asked: Asked
    lead: tuple[int, ...]
    missing: float | Tensor  # distance where one of the masks is empty
    one: Tensor  # (B, K): just one of the masks is empty
    none: Tensor  # (B, K): both are

    def empty(self, which: int) -> Tensor:
        """Whether the predictions (0) or targets (1) have no foreground."""
        return (self.sums.total[which] == 0).reshape(self.lead)

    def length(self, value: Tensor) -> Tensor:
        """A distance (..., B, K) in the shape of the batch."""
        # masked_fill, not where: a number given to where is copied to a GPU with a synchronisation
        value = value.masked_fill(self.none, 0.0 if self.asked.perfect else math.nan)
        if isinstance(self.missing, Tensor):
            value = torch.where(self.one, self.missing, value)
        else:
            value = value.masked_fill(self.one, self.missing)
        return value.float().reshape((*value.shape[:-2], *self.lead))

    def nsd(self, directed: bool) -> Tensor:
        """Share of the surfaces within each tolerance, (tolerances, ...) in the shape of the batch."""
        total, within = self.sums.total, self.sums.within
        value = within[:, 0] / total[0] if directed else within.sum(1) / total.sum(0)
        value = value.masked_fill(self.none, 1.0 if self.asked.perfect else math.nan).masked_fill(self.one, 0.0)
        return value.float().reshape((*value.shape[:-2], *self.lead))


def _measure(
    pred: Tensor,
    target: Tensor,
    spacing: SpacingLike,
    definition: str,
    percentiles: float | Sequence[float],
    tolerances: float | Sequence[float],
    directed: bool,
    distance: str,
    connectivity: int,
    on_empty: str | float,
    on_both_empty: str,
    include_background: bool,
    num_classes: int | None,
    spatial_dims: int | None,
    backend: str | None,
    shares_only: bool = False,
) -> Measured:
    """Check the arguments, and sum up what all metrics follow from."""
    masks.choice("distance", distance, distances.NAMES)
    images = masks.pair(pred, target, spatial_dims, num_classes, include_background)
    wanted = asked(images.dims, definition, percentiles, tolerances, connectivity, on_empty, on_both_empty)
    q, tau = wanted.percentiles, wanted.tolerances
    if distance != "euclidean" and spacing is not None:
        raise ValueError(
            f"spacing: expected None with distance={distance!r}, which counts voxels, got {spacing!r}"
        )
    rows = masks.host_or_rows(spacing, images)
    pooled = wanted.rule.pooled_percentile and not directed
    measure = packed.measure if pred.device.type == "cpu" else dense.measure
    limit = max(tau) if shares_only and tau and distance == "euclidean" and backend is None else None
    sums = measure(images, rows, wanted.rule, pooled, q, tau, distances.by_name(distance, backend), limit)
    diagonal = _diagonal(images, rows) if on_empty == "diagonal" else 0.0
    return measured(sums, wanted, images.lead, diagonal)


def measured(sums: Moments, wanted: Asked, lead: tuple[int, ...], diagonal: float | Tensor) -> Measured:
    """Moments of pairs, and which of them lack a surface."""
    present = sums.total > 0  # (2, B, K)
    missing: float | Tensor = math.inf
    if wanted.on_empty == "error":
        _refuse_empty(present)
    else:
        missing = diagonal if wanted.on_empty == "diagonal" else float(wanted.on_empty)
    one, none = present[0] ^ present[1], ~(present[0] | present[1])
    return Measured(sums, wanted, lead, missing, one, none)


def _refuse_empty(present: Tensor) -> None:
    if bool(present.all()):
        return
    cases = []
    for b, k in (~present.all(0)).nonzero().tolist():
        who = " and ".join(n for n, p in zip(("pred", "target"), present[:, b, k].tolist(), strict=True) if not p)
        cases.append(f"{who} at [{b}, {k}]")
    more = f" and {len(cases) - 8} more" if len(cases) > 8 else ""
    raise ValueError(
        "on_empty: expected foreground in every mask with on_empty='error', got none in "
        f"{'; '.join(cases[:8])}{more}"
    )


def _diagonal(images: Pair, spacing: list[float] | Tensor | None) -> Tensor:
    """Physical diagonal of the image, (B, 1) or (1, 1)."""
    device = images.pred.values.device
    if isinstance(spacing, Tensor):
        lengths = torch.tensor(images.spatial, dtype=torch.float64, device="cpu")
        sides = spacing * lengths.to(device, non_blocking=True)
        return sides.square().sum(1, keepdim=True).sqrt()
    numbers = spacing or [1.0] * images.dims
    diagonal = math.hypot(*(n * s for n, s in zip(images.spatial, numbers, strict=True)))
    return torch.full((1, 1), diagonal, dtype=torch.float64, device=device)
