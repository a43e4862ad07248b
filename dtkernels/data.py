"""Real data for the demo, the tests and a first try: where it is, how it is read, where it comes from.

===============  ======================================================================================
hippocampus      Task04_Hippocampus of the Medical Segmentation Decathlon (Simpson et al. 2019,
                 arXiv:1902.09063), T1 MRI, CC BY-SA 4.0; read from disk, or fetched by
                 :func:`download_hippocampus`
mni152           the MNI152 T1 template with its grey- and white-matter masks, out of an installed nilearn
                 (no network needed), cut into patches
===============  ======================================================================================

Spacing always comes from the file's header, in mm and in array order. Reading needs nibabel, the download
MONAI, the template nilearn; each is imported where it is used.

>>> from dtkernels import data
>>> folder = data.find_hippocampus()
>>> if folder is not None:
...     case = data.load_decathlon(folder, limit=1).cases[0]
...     assert case.image.shape == case.label.shape and len(case.spacing) == 3
"""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .optional import require
from .volumes import NIFTI, VolumeError, read, stem

TASK = "Task04_Hippocampus"

# Folder names under which people keep it: the short one, and the one that the archive unpacks to.
_FOLDERS = ("hippocampus", TASK)

# What the tasks' labels mean; other tasks get "class 1", "class 2", ...
_CLASSES = {"hippocampus": ("background", "anterior", "posterior")}


class Case(NamedTuple):
    """One image and its segmentation."""

    name: str
    image: torch.Tensor  # float32 (D, H, W), the scanner's values
    label: torch.Tensor  # uint8 (D, H, W)
    spacing: tuple[float, float, float]  # mm per voxel in array order


class Dataset(NamedTuple):
    """Cases that share their classes."""

    name: str
    source: str  # the folder or the package that the cases were read from
    classes: tuple[str, ...]  # the background first
    cases: tuple[Case, ...]


class DownloadError(RuntimeError):
    """The data could not be fetched; the message says why and what to do instead."""


# ---- where the data is -------------------------------------------------------------------------------


def data_home() -> Path:
    """The folder that holds the data sets: ``$DTK_DATA``, else ``dtkernels`` in the user's cache folder."""
    given = os.environ.get("DTK_DATA")
    if given:
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "dtkernels"


def find_hippocampus(root: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder with ``imagesTr`` and ``labelsTr``: ``root`` itself or a known folder in it; None if absent.

    ``root`` defaults to :func:`data_home`.
    """
    base = data_home() if root is None else Path(root).expanduser()
    for folder in (base, *(base / name for name in _FOLDERS)):
        if (folder / "imagesTr").is_dir() and (folder / "labelsTr").is_dir():
            return folder
    return None


# ---- reading -----------------------------------------------------------------------------------------


def read_volume(path: str | os.PathLike[str]) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Voxels and spacing of a 3-D NIfTI file, as :func:`dtkernels.volumes.read` finds them.

    Raises:
        VolumeError: a ValueError: as :func:`dtkernels.volumes.read`, or not three-dimensional.
        MissingDependencyError: nibabel is not installed.
    """
    _, voxels, spacing, _ = read(path)
    if spacing is None or voxels.ndim != 3:
        raise VolumeError(f"{path}: expected a 3-D volume, got shape {voxels.shape}")
    return voxels, (spacing[0], spacing[1], spacing[2])


def read_case(image: str | os.PathLike[str], label: str | os.PathLike[str]) -> Case:
    """An image and its label map, checked to lie on one grid."""
    voxels, spacing = read_volume(image)
    labels, label_spacing = read_volume(label)
    if voxels.shape != labels.shape:
        raise ValueError(f"{label}: expected the image's shape {voxels.shape}, got {labels.shape}")
    if not np.allclose(spacing, label_spacing, rtol=1e-3):
        raise ValueError(f"{label}: expected the image's spacing {spacing}, got {label_spacing}")
    classes = np.rint(labels)
    if classes.size and not (classes.min() >= 0 and classes.max() <= 255 and np.all(classes == labels)):
        raise ValueError(
            f"{label}: expected whole numbers from 0 to 255, got values from {labels.min()} to {labels.max()}"
        )
    return Case(
        stem(Path(image)),
        torch.from_numpy(voxels.astype(np.float32)),
        torch.from_numpy(classes.astype(np.uint8)),
        spacing,
    )


def decathlon_pairs(folder: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
    """(image, label) files of a Decathlon folder, in order of name; images without a label are left out.

    Raises:
        FileNotFoundError: no pair under ``imagesTr`` and ``labelsTr``.
    """
    root = Path(folder)
    labels = {stem(path): path for path in _volumes(root / "labelsTr")}
    pairs = [(path, labels[stem(path)]) for path in _volumes(root / "imagesTr") if stem(path) in labels]
    if not pairs:
        raise FileNotFoundError(
            f"{root}: expected the Decathlon's layout, imagesTr/NAME.nii.gz beside labelsTr/NAME.nii.gz, "
            "and found no such pair"
        )
    return pairs


def load_decathlon(
    folder: str | os.PathLike[str],
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read the labelled cases of a Decathlon folder.

    Args:
        folder: holds ``imagesTr`` and ``labelsTr``.
        limit: at most this many cases, the first by name.
        progress: called with (cases read, cases in all) after each.

    Raises:
        FileNotFoundError: no labelled case there.
        ValueError: a file that is not what its name says.
        MissingDependencyError: nibabel is not installed.
    """
    pairs = decathlon_pairs(folder)[:limit]
    cases = []
    for image, label in pairs:
        cases.append(read_case(image, label))
        if progress is not None:
            progress(len(cases), len(pairs))
    name = cases[0].name.rsplit("_", 1)[0]
    return Dataset(name, os.fspath(folder), _class_names(name, cases), tuple(cases))


def _volumes(folder: Path) -> Iterator[Path]:
    """NIfTI files by name. The Decathlon's archives carry hidden ``._`` files that only look like volumes."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.endswith(NIFTI) and not path.name.startswith("."):
                yield path


def _class_names(name: str, cases: Sequence[Case]) -> tuple[str, ...]:
    count = 1 + max(int(case.label.max()) if case.label.numel() else 0 for case in cases)
    known = _CLASSES.get(name, ("background",))
    return (known + tuple(f"class {c}" for c in range(len(known), count)))[: max(count, len(known))]


# ---- the MNI152 template -----------------------------------------------------------------------------


def load_mni152(*, resolution: int = 2, patch: tuple[int, int, int] = (32, 32, 32)) -> Dataset:
    """The MNI152 T1 template in patches that do not overlap: 0 background, 1 grey matter, 2 white matter.

    The template and the masks are read from the installed nilearn. One average brain is enough to see a
    training run, not to judge a method by.

    Args:
        resolution: voxel size in mm that nilearn resamples to.
        patch: voxels of a patch; those at the end of the brain are filled up with zeros.

    Raises:
        MissingDependencyError: nilearn is not installed.
    """
    datasets = require("nilearn.datasets", "the MNI152 template", extra="demo")
    template = datasets.load_mni152_template(resolution=resolution)
    # One closing instead of two, at probability one half: the masks then hardly overlap (white wins).
    masks = [
        np.asarray(load(resolution=resolution, threshold=0.5, n_iter=1).dataobj) > 0
        for load in (datasets.load_mni152_gm_mask, datasets.load_mni152_wm_mask)
    ]
    grey, white = masks
    voxels = np.asarray(template.dataobj, dtype=np.float32)
    labels = np.where(white, 2, np.where(grey, 1, 0)).astype(np.uint8)
    zooms = [float(z) for z in template.header.get_zooms()[:3]]
    spacing = (zooms[0], zooms[1], zooms[2])

    brain = np.argwhere(labels > 0)
    low, high = brain.min(axis=0), brain.max(axis=0) + 1
    tiles = [-(-int(h - l) // p) for l, h, p in zip(low, high, patch, strict=True)]
    cases = []
    for tile in np.ndindex(*tiles):
        begin = [int(l) + t * p for l, t, p in zip(low, tile, patch, strict=True)]
        window = tuple(slice(b, b + p) for b, p in zip(begin, patch, strict=True))
        label = _filled(labels[window], patch)
        if min(int((label == 1).sum()), int((label == 2).sum())) < 0.02 * label.size:
            continue  # a corner of the box that is nearly all air
        image = _filled(voxels[window], patch)
        name = "mni152_" + "".join(str(t) for t in tile)
        cases.append(Case(name, torch.from_numpy(image), torch.from_numpy(label), spacing))
    classes = ("background", "grey matter", "white matter")
    return Dataset("mni152", f"nilearn's MNI152 template at {resolution} mm", classes, tuple(cases))


def _filled(part: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    result = np.zeros(tuple(shape), part.dtype)
    result[tuple(slice(0, n) for n in part.shape)] = part
    return result


# ---- download ----------------------------------------------------------------------------------------


def download_hippocampus(
    destination: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    timeout: float = 30.0,
) -> Path:
    """Fetch Task04_Hippocampus from its public home (address and MD5 are MONAI's) and unpack it.

    A set that is already there is left as it is, an archive that was already fetched is checked and unpacked.

    Args:
        destination: the folder to put ``Task04_Hippocampus`` into, by default :func:`data_home`.
        progress: called with (bytes so far, bytes in all, or 0 where the server does not say).
        timeout: seconds without an answer after which to give up.

    Returns:
        The folder with ``imagesTr`` and ``labelsTr``.

    Raises:
        DownloadError: no network, a broken archive, a folder that cannot be written.
        MissingDependencyError: MONAI is not installed.
    """
    root = data_home() if destination is None else Path(destination).expanduser()
    present = find_hippocampus(root)
    if present is not None:
        return present
    apps = require("monai.apps", "downloading the hippocampus data", extra="demo")
    address, digest = apps.DecathlonDataset.resource[TASK], apps.DecathlonDataset.md5[TASK]
    archive = root / f"{TASK}.tar"
    remedy = (
        f"check the network, or fetch {TASK}.tar from the Medical Segmentation Decathlon by hand, put it "
        f"into {root} and run this again"
    )
    try:
        root.mkdir(parents=True, exist_ok=True)
        fetched = not archive.exists()
        if fetched:
            _fetch(address, archive, progress, timeout)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"could not download {address} to {root}: {reason}; {remedy}") from error
    # The two steps of MONAI's download_and_extract that need no network, for archives fetched by hand.
    if not apps.check_hash(archive, digest, "md5"):
        if fetched:
            archive.unlink()
        raise DownloadError(
            f"{archive} is damaged{' and has been removed' if fetched else ''}: its MD5 is not {digest}; {remedy}"
        )
    with tempfile.TemporaryDirectory(dir=root, prefix="unpacking-") as aside:  # all of it or nothing
        apps.extractall(archive, output_dir=aside)
        if find_hippocampus(aside) != Path(aside, TASK):
            raise DownloadError(f"{archive}: expected {TASK}/imagesTr and {TASK}/labelsTr inside; {remedy}")
        shutil.move(Path(aside, TASK), root / TASK)
    if fetched:
        archive.unlink()
    return root / TASK


def _fetch(address: str, file: Path, progress: Callable[[int, int], None] | None, timeout: float) -> None:
    """Download beside ``file`` and move it there when complete, so that a broken run leaves nothing behind."""
    part = file.with_name(file.name + ".part")
    try:
        with urllib.request.urlopen(address, timeout=timeout) as answer, part.open("wb") as sink:
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while block := answer.read(1 << 16):
                sink.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
        if total and done != total:
            raise OSError(f"the connection closed after {done} of {total} bytes")
        shutil.move(part, file)
    finally:
        part.unlink(missing_ok=True)
