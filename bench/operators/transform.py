"""Distances, nearest voxels and components of masks, by us and by the libraries that have them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dtkernels as dtk

from .. import inputs
from ..entries import Entry
from .job import Job, Run, array, difference, each, with_threads

Exact = Callable[[], NDArray[np.float64]]
LARGEST_EXACT = 256**3  # voxels; SciPy's transform of more takes minutes


def tensor(x: NDArray[Any], entry: Entry) -> torch.Tensor:
    """Masks in the entry's dtype and on its device."""
    return torch.from_numpy(x).to(getattr(torch, entry.dtype)).to(entry.device)


# --- What the passes move ---


def transform_bytes(shape: tuple[int, ...], element: int) -> int:
    """The scan reads the mask and writes codes, a byte up to 128 voxels; slices read them and write float32."""
    return element + 2 * (1 if shape[0] <= 128 else 2) + 4


def nearest_bytes(shape: tuple[int, ...], element: int) -> int:
    """The transform; then the mask again and int64 positions, with values and places between slices and rows."""
    return transform_bytes(shape, element) + element + 8 + (16 if len(shape) == 3 else 0)


def label_bytes(element: int) -> float:
    """The mask once, a bit for every voxel out and in, and int32 labels; runs are counted as nothing."""
    return element + 2 / 8 + 4


# --- Distances ---


@lru_cache(maxsize=2)
def _sides(mask: str, shape: tuple[int, ...], batch: tuple[int, ...], spacing: Any, inside: bool) -> Any:
    from scipy import ndimage

    data = inputs.load(Entry("", "", shape, mask, batch=batch, spacing=spacing))
    return np.stack([ndimage.distance_transform_edt(m if inside else m == 0, data.sampling) for m in data.each])


def exact_distances(entry: Entry, signed: bool) -> NDArray[np.float64]:
    """By SciPy in float64."""
    sides = partial(_sides, entry.mask, entry.shape, entry.batch, entry.spacing)
    inside: NDArray[np.float64] = sides(True)
    return sides(False) - inside if signed else inside


def _scipy(mask: Any, sampling: Any, signed: bool) -> Any:
    from scipy import ndimage

    inside = ndimage.distance_transform_edt(mask, sampling=sampling)
    return ndimage.distance_transform_edt(~mask, sampling=sampling) - inside if signed else inside


def _edt(function: str, data: inputs.Inputs, threads: int, dtype: Any = np.uint8) -> Run:
    import edt

    transform = partial(getattr(edt, function), anisotropy=data.sampling, parallel=threads)
    if function == "edtsq":  # of labels: both classes at once
        return each(lambda m: transform(m + np.uint8(1)), data.each)
    return each(transform, data.each.astype(dtype))


def _maurer(data: inputs.Inputs, signed: bool, threads: int) -> Run:
    """ITK's signed Maurer map. Unsigned it is that of the background, whose outside is our inside.

    Its inside is measured from the object's own contour, so that signed maps differ by about a voxel there.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    images = []
    for mask in data.each:
        image = sitk.GetImageFromArray(mask if signed else (mask == 0).view(np.uint8))
        image.SetSpacing(data.sampling[::-1])
        images.append(image)
    return each(lambda i: sitk.SignedMaurerDistanceMap(i, False, False, True), images)


def _opencv(data: inputs.Inputs, size: str, threads: int) -> Run:
    import cv2

    cv2.setNumThreads(threads)
    return each(lambda i: cv2.distanceTransform(i, cv2.DIST_L2, getattr(cv2, size)), data.each)


def _monai(data: inputs.Inputs) -> Run:
    from monai.transforms.utils import distance_transform_edt

    images = torch.from_numpy(data.each)
    return lambda: distance_transform_edt(images, sampling=list(data.sampling))


def _on_gpu(x: torch.Tensor, data: inputs.Inputs, signed: bool, module: str) -> Run:
    import importlib

    import cupy

    transform = importlib.import_module(module).distance_transform_edt
    options = {"sampling": data.spacing, "float64_distances": False}
    images = cupy.from_dlpack(x.reshape(-1, *x.shape[-data.dims :]))

    def run() -> list[Any]:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            inside = [transform(image, **options) for image in images]
            if not signed:
                return inside
            return [transform(i == 0, **options) - d for i, d in zip(images, inside, strict=True)]

    return run


def backends(call: Callable[[str], Any], x: torch.Tensor) -> dict[str, Callable[[], Run]]:
    """Our other backends, which compile in their first call: before anything is timed."""

    def prepared(name: str) -> Run:
        state = dtk.backends.available()[name]
        if not state.available or x.device.type not in state.devices:
            raise ImportError(state.reason or f"it does not serve {x.device.type}")
        call(name)
        return lambda: call(name)

    return {name: partial(prepared, name) for name in ("numba", "reference")}


def distances(entry: Entry) -> Job:
    """``dtk.edt`` or ``dtk.sdf``, the result given unless the variant says that it is allocated."""
    data = inputs.load(entry)
    signed = entry.operator == "sdf"
    function = dtk.sdf if signed else dtk.edt
    x = tensor(data.images, entry)
    out = None if entry.variant == "allocated" else torch.empty(x.shape, device=x.device)

    def ours(backend: str | None = None) -> Any:
        return function(x, data.spacing, spatial_dims=data.dims, out=out, backend=backend)

    def error(name: str, result: Any) -> float | None:
        if x.numel() > LARGEST_EXACT:
            return None
        found, exact = array(result), exact_distances(entry, signed)
        if name == "edt.sdf":  # positive inside
            found = -found
        elif name == "edt.edtsq(m+1)":
            found, exact = np.sqrt(found), np.abs(exact)
        elif name == "SimpleITK" and not signed:  # the map of the background, below 0 where ours is 0
            found = np.maximum(found, 0)
        return difference(found, exact)

    threads = entry.threads
    peers: dict[str, Callable[[], Run]] = {
        "one thread": lambda: with_threads(1, ours),
        "converted to uint8": lambda: (
            lambda: function((x != 0).byte(), data.spacing, spatial_dims=data.dims, out=out)
        ),
        "SciPy": lambda: each(lambda m: _scipy(m, data.sampling, signed), data.each.astype(bool)),
        "SimpleITK": lambda: _maurer(data, signed, threads),
        "MONAI": lambda: _monai(data),
        "OpenCV": lambda: _opencv(data, "DIST_MASK_PRECISE", threads),
        "OpenCV 5x5": lambda: _opencv(data, "DIST_MASK_5", threads),
        "edt.edt": lambda: _edt("edt", data, threads),
        "edt.edt(bool)": lambda: _edt("edt", data, threads, bool),
        "edt.sdf": lambda: _edt("sdf", data, threads),
        "edt.edtsq(m+1)": lambda: _edt("edtsq", data, threads),
        "CuPy": lambda: _on_gpu(x, data, signed, "cupyx.scipy.ndimage"),
        "cuCIM": lambda: _on_gpu(x, data, signed, "cucim.core.operations.morphology"),
        **backends(ours, x),
    }
    moved = transform_bytes(x.shape[-data.dims :], x.element_size())
    return Job(ours, peers, x.numel(), moved, error)


def copy(entry: Entry) -> Job:
    """A mask to float32, which memory alone bounds."""
    x = tensor(inputs.load(entry).images, entry)
    out = torch.empty(x.shape, device=x.device)

    def ours() -> Any:
        return out.copy_(x)

    return Job(ours, {"one thread": lambda: with_threads(1, ours)}, x.numel(), x.element_size() + 4)


def labels_sdf(entry: Entry) -> Job:
    """Every class of label maps; the last of ``batch`` is the number of classes."""
    samples, classes = entry.batch
    masks = inputs.load(entry._replace(batch=(samples, classes - 1))).images
    labels = np.zeros((samples, 1, *entry.shape), np.int64)
    for c in range(1, classes):  # later classes lie over earlier ones
        labels[:, 0][masks[:, c - 1] > 0] = c
    x = tensor(labels, entry)
    out = torch.empty((samples, classes, *entry.shape), device=x.device)

    def one_hot() -> Any:
        return dtk.sdf(torch.nn.functional.one_hot(x[:, 0], classes).movedim(-1, 1), out=out)

    def scipy() -> Any:
        return [_scipy(sample[0] == c, None, True) for sample in labels for c in range(classes)]

    exact = cache(lambda: array(scipy()).reshape(out.shape))
    return Job(
        lambda: dtk.labels_sdf(x, classes, out=out),
        {"one-hot, sdf": lambda: one_hot, "SciPy": lambda: scipy},
        out.numel(),
        transform_bytes(entry.shape, x.element_size()),
        lambda name, result: difference(result, exact()),
    )


# --- Nearest voxels and components ---


def nearest(entry: Entry) -> Job:
    """Distance and position of the nearest background voxel; the error is that of the distance to the position."""
    data = inputs.load(entry)
    x = tensor(data.images, entry)
    grid = np.indices(data.each.shape[1:])

    def ours(backend: str | None = None) -> Any:
        return dtk.nearest(x, data.spacing, spatial_dims=data.dims, backend=backend)

    def scipy() -> Run:
        from scipy import ndimage

        options = {"sampling": data.sampling, "return_indices": True}
        return each(lambda m: ndimage.distance_transform_edt(m, **options), data.each.astype(bool))

    def error(name: str, result: Any) -> float:
        if isinstance(result, list):
            found = result[0][1]
        else:
            found = np.stack(np.unravel_index(array(result[1]).reshape(grid[0].shape), grid[0].shape))
        step = [(a - b) * s for a, b, s in zip(grid, found, data.sampling, strict=True)]
        return difference(np.sqrt(sum(d**2 for d in step))[None], exact_distances(entry, False)[:1])

    moved = nearest_bytes(x.shape[-data.dims :], x.element_size())
    return Job(ours, {"SciPy": scipy, **backends(ours, x)}, x.numel(), moved, error)


def label(entry: Entry) -> Job:
    """Components by faces or by full connectivity; the error counts labels that are not one of SciPy's."""
    data = inputs.load(entry)
    x = tensor(data.images, entry)
    dims, full = data.dims, entry.variant == "full"

    def ours(backend: str | None = None) -> Any:
        return dtk.label(x, spatial_dims=dims, connectivity=dims if full else 1, backend=backend)

    def cc3d() -> Run:
        import cc3d

        connectivity = {2: (4, 8), 3: (6, 26)}[dims][full]
        return each(lambda m: cc3d.connected_components(m, connectivity=connectivity), data.each)

    def scipy() -> Run:
        from scipy import ndimage

        structure = ndimage.generate_binary_structure(dims, dims if full else 1)
        return each(lambda m: ndimage.label(m, structure)[0], data.each)

    def skimage() -> Run:
        from skimage import measure

        return each(lambda m: measure.label(m, connectivity=dims if full else 1), data.each)

    def simpleitk() -> Run:
        import SimpleITK as sitk

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(entry.threads)
        images = [sitk.GetImageFromArray(m) for m in data.each]
        return each(lambda i: sitk.ConnectedComponent(i, full), images)

    def opencv() -> Run:
        import cv2

        cv2.setNumThreads(entry.threads)
        return each(lambda m: cv2.connectedComponents(m, connectivity=8 if full else 4)[1], data.each)

    def error(name: str, result: Any) -> float:
        found = array(result[0] if isinstance(result, tuple) else result).reshape(data.each.shape)
        wrong = 0
        for a, b in zip(found, scipy()(), strict=True):
            together = len(np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b))
            wrong += 2 * together - len(np.unique(a)) - len(np.unique(b))
        return float(wrong)

    peers = {"cc3d": cc3d, "SciPy": scipy, "scikit-image": skimage, "SimpleITK": simpleitk, "OpenCV": opencv}
    return Job(ours, {**peers, **backends(ours, x)}, x.numel(), label_bytes(x.element_size()), error)
