"""Every named map in float64 by SciPy, image by image, formula by formula as the papers print them.

No options, no coefficients, no shared thought with :mod:`dtkernels.formula`: a map is one function of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Map = NDArray[np.float64]


def distances(mask: Mask, spacing: Sequence[float]) -> tuple[Map, Map]:
    """``d_in`` and ``d_out`` of a mask that has both sides."""
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return inside, ndimage.distance_transform_edt(~mask, sampling=spacing)


def inner_boundary(mask: Mask) -> Mask:
    """Foreground voxels with a face neighbour in the background; the image edge is open."""
    faces = ndimage.generate_binary_structure(mask.ndim, 1)
    return mask & ~ndimage.binary_erosion(mask, faces, border_value=1)


def contour(mask: Mask) -> Mask:
    """The same with all 3^n - 1 neighbours."""
    full = ndimage.generate_binary_structure(mask.ndim, mask.ndim)
    return mask & ~ndimage.binary_erosion(mask, full, border_value=1)


def component_maxima(mask: Mask, values: Map) -> Map:
    """Each foreground voxel's largest value of its component, components by full connectivity."""
    full = ndimage.generate_binary_structure(mask.ndim, mask.ndim)
    labels, count = ndimage.label(mask, full)
    return np.concatenate([[0.0], ndimage.maximum(values, labels, range(1, count + 1))])[labels]


def nearest_of_other_class(mask: Mask, spacing: Sequence[float]) -> NDArray[np.int64]:
    """Displacement (n, *shape) to the nearest voxel of the other class, of several the first by the last axis."""
    points = np.indices(mask.T.shape).reshape(mask.ndim, -1)[::-1].T
    result = np.zeros_like(points)
    s = np.asarray(spacing, np.float64)
    flat = mask.T.ravel()
    for side in (True, False):
        here, there = points[flat == side], points[flat != side]
        step = here[:, None] - there[None]
        square = ((step * s) ** 2).sum(-1)
        first = (square <= square.min(1, keepdims=True) * (1 + 1e-6)).argmax(1)
        result[flat == side] = step[np.arange(len(here)), first]
    return result.T.reshape(mask.ndim, *mask.T.shape).transpose(0, *range(mask.ndim, 0, -1))


def _edt(m: Mask, s: Sequence[float]) -> Map:
    return distances(m, s)[0]


def _edt_diff(m: Mask, s: Sequence[float]) -> Map:
    d_in, d_out = distances(m, s)
    return d_out - d_in


def _ma_dtm01(m: Mask, s: Sequence[float]) -> Map:
    d_in = _edt(m, s)
    return d_in / d_in.max()


def _ma_sdf(m: Mask, s: Sequence[float]) -> Map:
    return np.where(inner_boundary(m), 0, _edt_diff(m, s))


def _ma_sdf11(m: Mask, s: Sequence[float]) -> Map:
    d_in, d_out = distances(m, s)
    return np.where(inner_boundary(m), 0, d_out / d_out.max() - d_in / d_in.max())


def _ma_sdf01(m: Mask, s: Sequence[float]) -> Map:
    d_in, d_out = distances(m, s)
    return np.where(inner_boundary(m), 0.5, 0.5 + d_out / (2 * d_out.max()) - d_in / (2 * d_in.max()))


def _kervadec(m: Mask, s: Sequence[float]) -> Map:
    d_in, d_out = distances(m, s)
    return d_out * ~m - (d_in - 1) * m


def _half(m: Mask, s: Sequence[float]) -> Map:
    d = _edt_diff(m, s)
    k = np.abs(nearest_of_other_class(m, s))
    widths = np.asarray(s, float).reshape(-1, *(1,) * m.ndim)
    across = np.where(k == k.max(0), widths, np.inf).min(0)
    return np.sign(d) * (np.abs(d) - across / 2)


def _itk_maurer(m: Mask, s: Sequence[float]) -> Map:
    away = ndimage.distance_transform_edt(~contour(m), sampling=s)
    return np.where(m, -away, away)


def _rrw(m: Mask, s: Sequence[float]) -> Map:
    d_in = _edt(m, s)
    return np.where(m, -d_in / d_in.max(), 1)


def _dpce(m: Mask, s: Sequence[float]) -> Map:
    result = np.zeros(m.shape)
    for side, d in zip((m, ~m), distances(m, s), strict=True):
        top = d.max()
        result[side] = 1 + (top - d[side]) / (top - 1) if top > 1 else 2
    return result


def _li_ndm(m: Mask, s: Sequence[float]) -> Map:
    d_in = _edt(m, s)
    return np.where(m, d_in / np.where(m, component_maxima(m, d_in), 1), 0)


def _li_idm(m: Mask, s: Sequence[float]) -> Map:
    d_in = _edt(m, s)
    return np.where(m, component_maxima(m, d_in) + 1 - d_in, 0)


def _li_nidm(m: Mask, s: Sequence[float]) -> Map:
    top = np.where(m, component_maxima(m, _edt(m, s)), 1)
    return _li_idm(m, s) / top


def _outer(m: Mask, s: Sequence[float]) -> Map:
    d_out = distances(m, s)[1]
    return d_out / d_out.max()


def _unet_w(m: Mask, s: Sequence[float]) -> Map:
    return 1 + 10 * np.exp(-(_edt_diff(m, s) ** 2) / 50)


def _diagonal(m: Mask, s: Sequence[float]) -> Map:
    return _edt_diff(m, s) / np.linalg.norm(np.asarray(m.shape) * s)


MAPS: dict[str, Callable[[Mask, Sequence[float]], Map]] = {
    "edt": _edt,
    "edt_diff": _edt_diff,
    "edt_sdf": lambda m, s: -_edt_diff(m, s),
    "ma_dtm": _edt,
    "ma_dtm01": _ma_dtm01,
    "ma_sdf": _ma_sdf,
    "ma_sdf11": _ma_sdf11,
    "ma_sdf01": _ma_sdf01,
    "xue_sdm": _ma_sdf11,
    "kervadec": _kervadec,
    "half": _half,
    "itk_maurer": _itk_maurer,
    "rrw": _rrw,
    "ac": lambda m, s: 1.0 - m,
    "hd_two": lambda m, s: np.abs(_edt_diff(m, s)),
    "dpce": _dpce,
    "li_odm": _edt,
    "li_ndm": _li_ndm,
    "li_idm": _li_idm,
    "li_nidm": _li_nidm,
    "li_sd": lambda m, s: -_edt_diff(m, s),
    "li_snd": lambda m, s: _li_ndm(m, s) - _outer(m, s),
    "li_sni": lambda m, s: _li_nidm(m, s) - _outer(m, s),
    "unet_w": _unet_w,
    "truncated": lambda m, s: _edt_diff(m, s).clip(-10, 10),
    "diagonal": _diagonal,
}

# The value of every voxel of an image without foreground, and of one without background.
INF = np.inf
MISSING: dict[str, tuple[float, float]] = {
    "edt": (0, INF),
    "edt_diff": (INF, -INF),
    "edt_sdf": (-INF, INF),
    "ma_dtm": (0, 0),
    "ma_dtm01": (0, 0),
    "ma_sdf": (0, 0),
    "ma_sdf11": (0, 0),
    "ma_sdf01": (0.5, 0.5),
    "xue_sdm": (0, 0),
    "kervadec": (0, 0),
    "half": (INF, -INF),
    "itk_maurer": (INF, -INF),
    "rrw": (1, 1),
    "ac": (1, 0),
    "hd_two": (0, 0),
    "dpce": (1, 1),
    "li_odm": (0, 0),
    "li_ndm": (0, 0),
    "li_idm": (0, 0),
    "li_nidm": (0, 0),
    "li_sd": (0, 0),
    "li_snd": (0, 0),
    "li_sni": (0, 0),
    "unet_w": (1, 1),
    "truncated": (10, -10),
    "diagonal": (INF, -INF),
}


def expected(name: str, mask: Mask, spacing: Sequence[float]) -> Map:
    """The map called ``name`` of any mask."""
    mask = np.asarray(mask, bool)
    if not mask.any():
        return np.full(mask.shape, float(MISSING[name][0]))
    if mask.all():
        return np.full(mask.shape, float(MISSING[name][1]))
    return MAPS[name](mask, spacing)
