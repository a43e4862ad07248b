"""Surface metrics of a target and of a prediction that a few smooth mistakes tell from it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from dtkernels.metrics import lesion_metrics, normalized_surface_dice
from dtkernels.metrics import surface_metrics as ours_metrics

from .. import inputs
from ..entries import Entry
from .job import Job, Run

TOLERANCE = 1.0


def _pair(entry: Entry) -> tuple[torch.Tensor, torch.Tensor, inputs.Inputs]:
    from scipy import ndimage

    data = inputs.load(entry)
    preds = []
    for i, target in enumerate(data.each):
        noise = np.random.default_rng(i).normal(size=[-(-n // 8) for n in target.shape])
        noise = ndimage.zoom(noise, [n / m for n, m in zip(target.shape, noise.shape, strict=True)], order=1)
        preds.append(ndimage.gaussian_filter(target.astype(np.float32), 1.5) + 0.15 * noise > 0.5)
    dtype = getattr(torch, entry.dtype)
    pred = torch.from_numpy(np.stack(preds)).reshape(data.images.shape)
    return pred.to(entry.device, dtype), torch.from_numpy(data.images).to(entry.device, dtype), data


def surface_metrics(entry: Entry) -> Job:
    """HD95, ASSD and NSD by the definition that the variant names; a row of a result is (HD95, ASSD, NSD).

    One call of ours against three metric classes of MONAI, two functions of MedPy (which has no NSD), or
    surface-distance's distances and three readers.
    """
    pred, target, data = _pair(entry)
    arrays = [
        (p.bool().cpu().numpy(), t.bool().cpu().numpy())
        for p, t in zip(pred.flatten(0, 1), target.flatten(0, 1), strict=True)
    ]

    def ours() -> Any:
        found = ours_metrics(
            pred, target, data.spacing, definition=entry.variant, percentiles=95, tolerances=TOLERANCE
        )
        return found.hd_percentiles, found.assd, found.nsd

    def monai() -> Run:
        from monai import metrics

        options = {"include_background": True}
        classes = [
            metrics.HausdorffDistanceMetric(percentile=95, **options),
            metrics.SurfaceDistanceMetric(symmetric=True, **options),
            metrics.SurfaceDiceMetric([TOLERANCE] * entry.batch[1], **options),
        ]
        floats = pred.float(), target.float()  # what its pipelines hand over

        def three_classes() -> list[Any]:
            for metric in classes:
                metric.reset()
            return [metric(*floats, spacing=data.sampling) for metric in classes]

        return three_classes

    def deepmind() -> Run:
        import surface_distance

        def one(pair: Any) -> list[float]:
            found = surface_distance.compute_surface_distances(pair[1], pair[0], data.sampling)
            means = surface_distance.compute_average_surface_distance(found)
            return [
                surface_distance.compute_robust_hausdorff(found, 95),
                np.mean(means),
                surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE),
            ]

        return lambda: np.array([one(pair) for pair in arrays]).T

    def medpy() -> Run:
        from medpy.metric import binary

        return lambda: (
            np.array([[f(p, t, data.sampling) for f in (binary.hd95, binary.assd)] for p, t in arrays]).T
        )

    peers: dict[str, Callable[[], Run]] = {"MONAI": monai, "surface-distance": deepmind, "MedPy": medpy}

    @cache
    def truth() -> list[Any]:
        (definer,) = entry.peers
        return [np.asarray(row, np.float64).ravel() for row in peers[definer]()()]

    def error(name: str, result: Any) -> float | None:
        """The largest difference to the library that defines the metric, where it is installed."""
        found = [np.asarray(row, np.float64).ravel() for row in result]
        with contextlib.suppress(ImportError):
            return max(float(np.abs(a - b).max()) for a, b in zip(truth(), found, strict=False))
        return None

    return Job(ours, peers, pred.numel(), error=error)


def hausdorff(entry: Entry) -> Job:
    """The Hausdorff distance alone, which more libraries have; scikit-image's and ITK's are of all voxels."""
    pred, target, data = _pair(entry)
    p, t = (x.bool().cpu().numpy()[0, 0] for x in (pred, target))

    def skimage() -> Run:
        from skimage.metrics import hausdorff_distance

        return lambda: hausdorff_distance(p, t)

    def simpleitk() -> Run:
        import SimpleITK as sitk

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(entry.threads)
        images = [sitk.GetImageFromArray(x.view(np.uint8)) for x in (p, t)]
        measure = sitk.HausdorffDistanceImageFilter()

        def run() -> float:
            measure.Execute(*images)
            return float(measure.GetHausdorffDistance())

        return run

    def medpy() -> Run:
        from medpy.metric import binary

        return lambda: binary.hd(p, t)

    return Job(
        lambda: ours_metrics(pred, target, data.spacing, definition="medpy").hd,
        {"scikit-image": skimage, "SimpleITK": simpleitk, "MedPy": medpy},
        pred.numel(),
        error=lambda name, result: abs(float(result) - medpy()()) if name in ("dtkernels", "MedPy") else None,
    )


def nsd(entry: Entry) -> Job:
    """The surface Dice alone by the definition that the variant names; ``transform`` is ours with one."""
    pred, target, data = _pair(entry)
    p, t = (x.bool().cpu().numpy()[0, 0] for x in (pred, target))
    definition = entry.variant

    def monai() -> Run:
        from monai.metrics import SurfaceDiceMetric

        floats = pred.float(), target.float()
        metric = SurfaceDiceMetric([TOLERANCE], include_background=True)
        return lambda: metric(*floats, spacing=data.sampling)

    def deepmind() -> Run:
        import surface_distance

        return lambda: surface_distance.compute_surface_dice_at_tolerance(
            surface_distance.compute_surface_distances(t, p, data.sampling), TOLERANCE
        )

    def transform() -> Run:
        return lambda: (
            ours_metrics(
                pred, target, data.spacing, definition=definition, percentiles=(), tolerances=TOLERANCE
            ).nsd
        )

    peers: dict[str, Callable[[], Run]] = {"transform": transform, "MONAI": monai, "surface-distance": deepmind}

    @cache
    def truth() -> float:
        return float(peers[entry.peers[-1]]()())

    return Job(
        lambda: normalized_surface_dice(pred, target, data.spacing, definition=definition, tolerance=TOLERANCE),
        peers,
        pred.numel(),
        error=lambda name, result: abs(float(result) - truth()),
    )


def lesions(entry: Entry) -> Job:
    """Everything of ``lesion_metrics``, matched as the variant says, of some forty blobs, a fifth missed.

    MONAI's ``DiceMetric(per_component=True)`` has Dice alone. panoptica measures Dice, IoU, HD95, ASSD and NSD;
    its pins on NumPy and pandas keep it out of the extras: ``pip install --no-deps panoptica``.
    """
    from scipy import ndimage

    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=entry.shape), 2)
    target = noise > min(2.8 * noise.std(), 0.9 * noise.max())
    numbers, count = ndimage.label(target, np.ones((3,) * target.ndim))
    pred = np.roll(target & ~np.isin(numbers, rng.permutation(count)[: count // 5] + 1), 1, -1)
    p, t = (torch.from_numpy(x)[None, None].to(entry.device) for x in (pred, target))

    def monai() -> Run:
        from monai.metrics import DiceMetric

        channels = [torch.cat([~x, x], 1).float() for x in (p, t)]
        return lambda: DiceMetric(per_component=True)(*channels)

    def panoptica() -> Run:
        try:
            import panoptica
        except NameError as error:  # where plotly is missing
            raise ImportError(str(error)) from error

        evaluator = panoptica.Panoptica_Evaluator(
            expected_input=panoptica.InputType.SEMANTIC,
            instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
            instance_matcher=panoptica.NaiveThresholdMatching(),
            instance_metrics=[panoptica.Metric[m] for m in ("DSC", "IOU", "HD95", "ASSD", "NSD")],
        )
        arrays = [x.astype(np.uint8) for x in (pred, target)]

        def run() -> float:
            found = evaluator.evaluate(*arrays, verbose=False)
            found = next(iter(found.values())) if isinstance(found, dict) else found
            for name in ("sq_dsc", "sq_hd95", "sq_assd", "sq_nsd"):
                getattr(found, name)  # computed when asked for
            return float(found.sq)

        return run

    definition = "monai" if entry.variant == "voronoi" else "medpy"
    return Job(
        lambda: lesion_metrics(p, t, matching=entry.variant, definition=definition),
        {"MONAI (Dice alone)": monai, "panoptica": panoptica},
        p.numel(),
    )
