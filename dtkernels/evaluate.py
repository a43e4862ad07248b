"""Predictions in files against targets in files: what ``dtk metrics`` does.

>>> import tempfile
>>> import numpy as np
>>> labels = np.zeros((12, 12), np.uint8)
>>> labels[2:5, 2:5], labels[7:10, 7:10] = 1, 2
>>> with tempfile.TemporaryDirectory() as folder:
...     np.save(f"{folder}/target.npy", labels)
...     np.save(f"{folder}/pred.npy", np.roll(labels, 1, 0))
...     report = evaluate(f"{folder}/pred.npy", f"{folder}/target.npy", Settings())
>>> report.cases[0].values["1"]["hd95"]
1.0
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from . import metrics, volumes
from .arguments import device_by_name
from .metrics import Aggregate, Lesion
from .metrics.components import MATCHINGS
from .metrics.masks import choice, numbers_in
from .optional import MissingDependencyError
from .volumes import Volume, VolumeError

Array = NDArray[Any]

# Affines within this many mm of each other at all corners of the image place it alike.
PLACE_MM = 1e-2
SPACING_RTOL = 1e-3


@dataclass(frozen=True)
class Settings:
    """What is measured, and how; checked when it is made."""

    labels: Mapping[str, tuple[int, ...]] | None = None  #: name -> voxel values; None: every value but 0
    definition: str = "monai"  #: as :func:`dtkernels.metrics.surface_metrics`, like the next four
    percentiles: tuple[float, ...] = (95,)
    tolerances: tuple[float, ...] = (1.0,)
    directed: bool = False
    on_empty: str | float = "inf"
    spacing: tuple[float, ...] | None = None  #: for files that have none; None is 1
    device: str = "cpu"
    lesions: str | None = (
        None  #: "voronoi" or "iou": lesion by lesion, as :func:`dtkernels.metrics.lesion_metrics`
    )
    threshold: float = 0.5  #: least IoU of a pair, for "iou"
    connectivity: int | None = None  #: of lesions

    def __post_init__(self) -> None:
        """Refuse what no file could make right.

        Raises:
            TypeError, ValueError: as :func:`dtkernels.metrics.surface_metrics`.
        """
        choice("definition", self.definition, metrics.DEFINITIONS)
        numbers_in("percentiles", self.percentiles, 100)
        numbers_in("tolerances", self.tolerances, math.inf)
        if not isinstance(self.on_empty, (int, float)):
            choice("on_empty", self.on_empty, ("inf", "nan", "diagonal"))
        if self.lesions is not None:
            choice("lesions", self.lesions, MATCHINGS)
            if self.directed:
                raise ValueError("directed: expected False with lesions, which are measured both ways, got True")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: expected a number from 0 to 1, got {self.threshold!r}")
        if self.connectivity not in (None, 1, 2, 3):
            raise ValueError(f"connectivity: expected 1, 2 or 3, got {self.connectivity!r}")
        if self.labels is not None and not self.labels:
            raise ValueError("labels: expected at least one, got none")
        device_by_name(self.device)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics, in order."""
        surface = ("hd", *(f"hd{q:g}" for q in self.percentiles), "asd", "assd", "rmsd")
        within = (f"nsd@{t:g}" for t in self.tolerances)
        if self.lesions is not None:
            return (*COUNTS, "dice", "iou", *surface, *within, "rq", "sq", "pq")
        return (*OVERLAP, *surface, *within)


COUNTS = ("found", "missed", "spurious")
OVERLAP = ("dice", "jaccard", "voe", "rvd")


class Pair(NamedTuple):
    """Two files to compare."""

    name: str
    pred: Path
    target: Path


class Case(NamedTuple):
    """What came of a pair: label -> metric -> value (inf for a missed object, nan for a label in neither)."""

    name: str
    values: dict[str, dict[str, float]]
    lesions: dict[str, list[Lesion]] | None = None  # label -> each lesion, where they were measured one by one


class Failure(NamedTuple):
    """A pair without a result."""

    name: str
    reason: str


@dataclass
class Report:
    """Everything that a run found."""

    settings: Settings
    cases: list[Case] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """All labels, numbers in order, then names."""
        if self.settings.labels is not None:
            return list(self.settings.labels)
        found = {label for case in self.cases for label in case.values}
        return sorted(found, key=int)

    def values(self, label: str, metric: str) -> list[float]:
        """One per case; nan where neither file has the label."""
        return [case.values.get(label, {}).get(metric, math.nan) for case in self.cases]

    def mean(self, label: str, metric: str) -> Aggregate:
        """The mean over finite values, with counts of the rest."""
        return metrics.aggregate(torch.tensor(self.values(label, metric), dtype=torch.float64))


def evaluate(
    pred: str | os.PathLike[str],
    target: str | os.PathLike[str],
    settings: Settings,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Compare two files, or the files of the same names in two folders.

    A pair that cannot be compared is among ``report.failures``, and the others go on; so are files without a
    partner.

    Args:
        pred: a file (``.nii``, ``.nii.gz``, ``.npy``) of labels, or a folder of such files.
        target: the same.
        settings: what is measured.
        workers: processes that share the pairs.
        progress: called with (pairs done, pairs in all) after each.

    Raises:
        VolumeError: a path that does not exist, a file against a folder, folders without a pair.
        ValueError: several workers with a GPU.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if workers > 1 and torch.device(settings.device).type != "cpu":
        raise ValueError(f"workers: expected 1 with device={settings.device!r}, got {workers}")
    found, alone = pairs(Path(pred), Path(target))
    report = Report(settings, failures=alone)
    results: dict[str, Case | Failure] = {}
    for result in _results(found, settings, min(workers, len(found))):
        results[result.name] = result
        if progress is not None:
            progress(len(results), len(found))
    for pair in found:  # in the order of names, whichever was done first
        result = results[pair.name]
        if isinstance(result, Case):
            report.cases.append(result)
        else:
            report.failures.append(result)
    return report


def pairs(pred: Path, target: Path) -> tuple[list[Pair], list[Failure]]:
    """Files to compare, in order of name, and those without a partner."""
    for path in (pred, target):
        if not path.exists():
            raise VolumeError(f"{path}: no such file or folder")
    if pred.is_dir() != target.is_dir():
        folder, file = (pred, target) if pred.is_dir() else (target, pred)
        raise VolumeError(f"{folder}: expected a file like {file}, or two folders")
    if not pred.is_dir():
        return [Pair(volumes.stem(target), pred, target)], []
    there, here = _by_name(pred), _by_name(target)
    names = sorted(set(there) & set(here))
    if not names:
        raise VolumeError(
            f"{pred}: expected files with the names of those in {target} ({', '.join(volumes.SUFFIXES)}), found "
            f"{len(there)} and {len(here)} files without a common name"
        )
    alone = [
        Failure(n, f"{here[n]}: no prediction of that name in {pred}") for n in sorted(set(here) - set(there))
    ]
    alone += [
        Failure(n, f"{there[n]}: no target of that name in {target}") for n in sorted(set(there) - set(here))
    ]
    return [Pair(name, there[name], here[name]) for name in names], alone


def compare(pair: Pair, settings: Settings) -> Case:
    """Measure one pair.

    Raises:
        VolumeError: a file that cannot be read, two that do not lie on one grid, voxels that are no labels, or
            predictions and targets without a common label.
    """
    pred, target = volumes.read(pair.pred), volumes.read(pair.target)
    spacing = _common_grid(pred, target, settings.spacing)
    arrays = [_labels(volume) for volume in (pred, target)]
    chosen = settings.labels or _found(pred, target, arrays)
    if not chosen:
        return Case(pair.name, {})
    shape = arrays[0].shape
    diagonal = math.hypot(*(n * s for n, s in zip(shape, spacing, strict=True)))
    box = _box(arrays, {value for values in chosen.values() for value in values})
    masks = [
        torch.from_numpy(np.stack([np.isin(array[box], values) for values in chosen.values()]))[None].to(
            settings.device
        )
        for array in arrays
    ]
    options: dict[str, Any] = {
        "definition": settings.definition, "percentiles": settings.percentiles, "tolerances": settings.tolerances,
        "on_empty": diagonal if settings.on_empty == "diagonal" else settings.on_empty, "spatial_dims": len(shape),
    }  # fmt: skip
    found: dict[str, torch.Tensor]
    lesions = None
    if settings.lesions is None:
        found = dict(metrics.surface_metrics(masks[0], masks[1], spacing, directed=settings.directed, **options))
        found |= metrics.overlap_metrics(*masks, spatial_dims=len(shape))
    else:
        connectivity = None if settings.connectivity is None else min(settings.connectivity, len(shape))
        one_by_one = metrics.lesion_metrics(
            masks[0], masks[1], spacing, matching=settings.lesions, threshold=settings.threshold,
            connectivity=connectivity, **options,
        )  # fmt: skip
        found = dict(one_by_one) | {name: getattr(one_by_one, name) for name in COUNTS}
        lesions = {label: [x for x in one_by_one.lesions if x.image == (0, k)] for k, label in enumerate(chosen)}
    every = torch.stack([found[name][0].double() for name in settings.names]).tolist()
    values = {
        label: {name: row[k] for name, row in zip(settings.names, every, strict=True)}
        for k, label in enumerate(chosen)
    }
    return Case(pair.name, values, lesions)


def _results(found: list[Pair], settings: Settings, workers: int) -> Iterator[Case | Failure]:
    if workers == 1:
        yield from (_attempt(pair, settings) for pair in found)
        return
    # spawned, not forked: torch's own threads do not survive a fork
    with ProcessPoolExecutor(
        workers, get_context("spawn"), _start_worker, (max(1, torch.get_num_threads() // workers),)
    ) as pool:
        futures: dict[Future[Case | Failure], Pair] = {pool.submit(_attempt, p, settings): p for p in found}
        for future in as_completed(futures):
            pair = futures[future]
            try:
                yield future.result()
            except Exception as error:  # the process died, of memory for example
                yield Failure(pair.name, f"{pair.pred}: {type(error).__name__}: {error}")


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)


def _attempt(pair: Pair, settings: Settings) -> Case | Failure:
    try:
        return compare(pair, settings)
    except MissingDependencyError:
        raise
    except VolumeError as error:
        return Failure(pair.name, str(error))
    except Exception as error:  # one broken case shall not take the others with it
        return Failure(pair.name, f"{pair.pred}, {pair.target}: {type(error).__name__}: {error}")


def _by_name(folder: Path) -> dict[str, Path]:
    """Volumes of a folder and its folders by their path without suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and volumes.is_volume(path) and not path.name.startswith("."):
            name = (path.parent.relative_to(folder) / volumes.stem(path)).as_posix()
            if name in found:
                raise VolumeError(f"{path}: expected one file of this name, found {found[name].name} as well")
            found[name] = path
    return found


def _common_grid(pred: Volume, target: Volume, given: Sequence[float] | None) -> tuple[float, ...]:
    """Spacing of both; they must lie on the same grid."""
    if pred.voxels.shape != target.voxels.shape:
        raise VolumeError(
            f"{pred.path}: expected the shape of {target.path}, {target.voxels.shape}, got {pred.voxels.shape}"
        )
    dims = pred.voxels.ndim
    known = [volume for volume in (pred, target) if volume.spacing is not None]
    for volume in known:
        if given is not None and not np.allclose(volume.spacing or (), given, rtol=SPACING_RTOL):
            raise VolumeError(
                f"{volume.path}: expected the spacing {tuple(given)} that was asked for, got {volume.spacing}"
            )
    if not known:
        if given is not None and len(given) != dims:
            raise VolumeError(f"{pred.path}: expected {dims} numbers as spacing, got {tuple(given)}")
        return tuple(given or (1.0,) * dims)
    if len(known) == 2:
        assert pred.spacing is not None
        assert target.spacing is not None
        if not np.allclose(pred.spacing, target.spacing, rtol=SPACING_RTOL):
            raise VolumeError(
                f"{pred.path}: expected the spacing of {target.path}, {target.spacing}, got {pred.spacing}"
            )
        _same_place(pred, target)
    spacing = known[0].spacing
    assert spacing is not None
    return spacing


def _same_place(pred: Volume, target: Volume) -> None:
    """Compare where the affines put the corners of the image."""
    if pred.affine is None or target.affine is None:
        return
    shape = (*pred.voxels.shape, 1, 1)[:3]
    corners = np.array([[*index, 1] for index in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in shape), 1]
    there, here = (corners @ volume.affine.T for volume in (pred, target) if volume.affine is not None)
    apart = float(np.abs(there - here).max())
    if not apart <= PLACE_MM:
        what = "orientation" if _axes(pred.affine) != _axes(target.affine) else "place"
        detail = (
            f"axes {_axes(target.affine)}, got {_axes(pred.affine)}"
            if what == "orientation"
            else f"but corners of the image are up to {apart:.4g} mm apart"
        )
        raise VolumeError(f"{pred.path}: expected the {what} in space of {target.path}, {detail}")


def _axes(affine: Array) -> str:
    """Directions of the array's axes, as RAS or LPI.

    >>> _axes(np.diag([-1.0, 2.0, 3.0, 1.0]))
    'LAS'
    """
    rest = np.abs(affine[:3, :3]).copy()
    letters = ["?"] * 3
    for _ in range(3):  # the clearest axis first
        to, axis = np.unravel_index(int(rest.argmax()), (3, 3))
        letters[axis] = ("RAS" if affine[to, axis] > 0 else "LPI")[to]
        rest[to, :] = rest[:, axis] = -1
    return "".join(letters)


def _labels(volume: Volume) -> Array:
    """Voxels as integers."""
    x = volume.voxels
    if x.dtype == np.bool_:
        return x.view(np.uint8)
    if x.dtype.kind in "iu":
        return x
    with np.errstate(invalid="ignore"):
        whole = x.astype(np.int64)
    if not np.array_equal(whole, x):
        raise VolumeError(
            f"{volume.path}: expected labels (whole numbers), got {x.dtype} values from {np.nanmin(x):g} to "
            f"{np.nanmax(x):g}; threshold probabilities, or take their argmax, first"
        )
    return whole


def _found(pred: Volume, target: Volume, arrays: list[Array]) -> dict[str, tuple[int, ...]]:
    """All labels of both files but 0, by number."""
    there, here = ({int(v) for v in np.unique(array)} - {0} for array in arrays)
    if there and here and not there & here:
        raise VolumeError(
            f"{pred.path}: expected labels of {target.path}, {_listed(here)}, got {_listed(there)}: none in common"
        )
    return {str(value): (value,) for value in sorted(there | here)}


def _listed(values: set[int]) -> str:
    shown = ", ".join(map(str, sorted(values)[:8]))
    return shown + (f", ... ({len(values)} in all)" if len(values) > 8 else "")


def _box(arrays: list[Array], values: set[int]) -> tuple[slice, ...]:
    """The box around everything chosen: beyond it all is background, as beyond the image."""
    inside = np.isin(arrays[0], sorted(values)) | np.isin(arrays[1], sorted(values))
    lines = [
        np.flatnonzero(inside.any(axis=tuple(j for j in range(inside.ndim) if j != k))) for k in range(inside.ndim)
    ]
    return tuple(slice(int(line[0]), int(line[-1]) + 1) if len(line) else slice(0, 1) for line in lines)
