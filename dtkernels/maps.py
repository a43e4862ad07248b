"""The distance maps of the literature by name, each a row of :data:`CONVENTIONS`, and all their combinations.

Papers and codes disagree about signs, zero levels, normalisation, components and missing classes. A convention is
a tuple of :class:`~dtkernels.formula.Options`, so that a new one takes one row here, and a user combines freely.

A loss takes its map from here, with whatever convention its user names::

    phi = dtk.distance_map(labels, "kervadec", spacing, num_classes=C)  # (B, C, *spatial), no gradient
    loss = (softmax(logits) * phi).mean()
"""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import arguments
from .arguments import SpacingLike
from .formula import CHOICES, POLICIES, Options, check, check_name


class Convention(NamedTuple):
    """A named map."""

    summary: str  # the formula, in one line
    source: str
    options: Options


_IN = Options(inside="positive", outside="zero", on_empty="zeros", on_full="zeros")
_SIGNED = Options(on_empty="zeros", on_full="zeros")

# d_in, d_out: distance of a foreground (background) voxel to the nearest voxel centre of the other side, else 0.
# M: largest of a side. s: spacing. C: a connected component. m: the mask.
CONVENTIONS: dict[str, Convention] = {
    "edt": Convention("d_in", "SciPy", _IN._replace(on_full="inf")),
    "edt_diff": Convention("d_out - d_in", "Valverde & Tohka 2021, RW-Boundary", Options()),
    "edt_sdf": Convention("d_in - d_out", "inside positive", Options(inside="positive")),
    "ma_dtm": Convention("d_in", "Ma et al. 2020, eq. 1", _IN),
    "ma_dtm01": Convention("d_in / M_in", "Ma et al. 2020", _IN._replace(normalize="max")),
    "ma_sdf": Convention(
        "d_out - d_in, 0 on the inner boundary", "Ma et al. 2020, eq. 2", _SIGNED._replace(boundary="inner_zero")
    ),
    "ma_sdf11": Convention(
        "d_out / M_out - d_in / M_in, 0 on the inner boundary",
        "Ma et al. 2020",
        _SIGNED._replace(boundary="inner_zero", normalize="per_side_max"),
    ),
    "ma_sdf01": Convention(
        "1/2 + d_out / (2 M_out) - d_in / (2 M_in), 1/2 on the inner boundary",
        "Ma et al. 2020",
        Options(boundary="inner_zero", normalize="unit", on_empty=0.5, on_full=0.5),
    ),
    "xue_sdm": Convention(
        "d_out / M_out outside, -d_in / M_in inside, 0 on the inner boundary",
        "Xue et al. 2020",
        _SIGNED._replace(boundary="inner_zero", normalize="per_side_max"),
    ),
    "kervadec": Convention(
        "d_out outside, -(d_in - 1) inside", "Kervadec et al. 2019, MONAI", _SIGNED._replace(boundary="shift")
    ),
    "half": Convention(
        "d_out - s/2 outside, -(d_in - s/2) inside", "zero between voxel centres", Options(boundary="half")
    ),
    "itk_maurer": Convention(
        "signed distance to the inner contour (full connectivity)",
        "ITK, SignedMaurerDistanceMap",
        Options(boundary="inner_contour"),
    ),
    "rrw": Convention(
        "-d_in / M_in inside, 1 outside",
        "Valverde & Tohka 2021, eq. 4",
        Options(normalize="rectified", on_empty="ones", on_full="ones"),
    ),
    "ac": Convention("1 - m", "active contour as a region-wise map", Options(profile="indicator")),
    "hd_two": Convention(
        "d_in + d_out",
        "Karimi & Salcudean 2019, MONAI",
        Options(inside="positive", outside="same", on_empty="zeros", on_full="zeros"),
    ),
    "dpce": Convention(
        "1 + (M - d) / (M - 1) on each side",
        "Ma et al. 2021, eq. 6",
        Options(profile="penalty", on_empty="ones", on_full="ones"),
    ),
    "li_odm": Convention("d_in", "Li et al. 2020", _IN),
    "li_ndm": Convention("d_in / M_C", "Li et al. 2020", _IN._replace(normalize="component_max")),
    "li_idm": Convention(
        "M_C + 1 - d_in inside", "Li et al. 2020", _IN._replace(normalize="component_complement")
    ),
    "li_nidm": Convention(
        "(M_C + 1 - d_in) / M_C inside", "Li et al. 2020, eq. 1", _IN._replace(normalize="component_inverse")
    ),
    "li_sd": Convention("d_in - d_out", "Li et al. 2020", _IN._replace(outside="opposite")),
    "li_snd": Convention(
        "d_in / M_C - d_out / M_out", "Li et al. 2020", _IN._replace(outside="opposite", normalize="component_max")
    ),
    "li_sni": Convention(
        "(M_C + 1 - d_in) / M_C inside, -d_out / M_out outside",
        "Li et al. 2020",
        _IN._replace(outside="opposite", normalize="component_inverse"),
    ),
    "unet_w": Convention(
        "w_c + 10 exp(-d^2 / (2 5^2)), d = d_in + d_out", "Ronneberger et al. 2015", Options(profile="gaussian")
    ),
    "truncated": Convention("d_out - d_in, clipped to +-10", "truncated signed distance", Options(truncate=10.0)),
    "diagonal": Convention(
        "(d_out - d_in) / diagonal of the image", "scale of the image", Options(normalize="diagonal")
    ),
}


def conventions() -> dict[str, Convention]:
    """Every named map: its formula in one line, where it comes from, and the options that it stands for.

    >>> import dtkernels as dtk
    >>> dtk.conventions()["kervadec"].summary
    'd_out outside, -(d_in - 1) inside'
    >>> dtk.conventions()["kervadec"].options.boundary
    'shift'
    """
    return dict(CONVENTIONS)


def distance_map(
    mask: Tensor,
    convention: str | None = None,
    spacing: SpacingLike = None,
    *,
    boundary: str | None = None,
    inside: str | None = None,
    outside: str | None = None,
    normalize: str | None = None,
    profile: str | None = None,
    scope: str | None = None,
    connectivity: int | None = None,
    truncate: float | None = None,
    on_empty: str | float | None = None,
    on_full: str | float | None = None,
    border: str | None = None,
    weight: float | None = None,
    amplitude: float | None = None,
    sigma: float | None = None,
    num_classes: int | None = None,
    argmax: bool = False,
    include_background: bool = True,
    ignore_index: int | None = None,
    threshold: float | None = None,
    spatial_dims: int | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""A distance map by the name of its convention, by options, or by a name and options that differ.

    With the distance :math:`d` of a voxel to the nearest voxel centre of the other side, in the unit of
    ``spacing``, and :math:`M` the largest on its side, a map is :math:`\pm d` on either side, moved by
    ``boundary``, divided by ``normalize`` and clipped by ``truncate``; :func:`conventions` lists the names.

    Args:
        mask: ``(*batch, *spatial)`` on any device, of any dtype and layout, as in :func:`dtkernels.edt`; or a
            label map, with ``num_classes``; or scores of classes, with ``argmax``.
        convention: a name of :func:`conventions`; None is the plain signed distance, ``"edt_diff"``.
        spacing: as in :func:`dtkernels.edt`.
        boundary: the zero level. ``"none"``: none, d is at least the spacing on both sides. ``"inner_zero"``: 0 on
            foreground voxels with a face neighbour in the background, all others keep d. ``"shift"``: d - 1
            inside, in the unit of ``spacing``. ``"half"``: d - s/2 on both sides, which is 0 half-way between
            voxel centres; s is the spacing across the face through which the way from the nearest voxel leads.
            ``"inner_contour"``: d is the distance to the contour, the foreground voxels that have one of their
            ``connectivity`` neighbours in the background.
        inside: sign of the foreground, ``"negative"`` or ``"positive"``.
        outside: sign of the background: ``"opposite"``, ``"same"``, or ``"zero"``: no distances there.
        normalize: ``"none"``; ``"max"``: by the largest value of both sides; ``"per_side_max"``: each side by its
            own; ``"unit"``: the same, moved from [-1, 1] to [0, 1]; ``"rectified"``: the same inside, and 1
            outside; ``"component_max"``: each connected component of the foreground by its own, and the background
            by its own; ``"component_inverse"``: :math:`(M_C + 1 - d) / M_C` inside, the background by its own;
            ``"component_complement"``: :math:`M_C + 1 - d` inside; ``"diagonal"``: by the length of the image's
            diagonal, from edge to edge.
        profile: ``"distance"``; ``"penalty"``: :math:`1 + (M - d) / (M - 1)` on each side; ``"gaussian"``:
            :math:`weight + amplitude \exp(-d^2 / (2\,sigma^2))`; ``"indicator"``: 1 outside, 0 inside.
        scope: over what the largest is taken: ``"sample-and-class"``, ``"sample"`` (over its classes) or
            ``"batch"`` (over everything).
        connectivity: of components and of the inner contour, as in :func:`dtkernels.label`; default: full.
        truncate: clip to this absolute value.
        on_empty: the map of an image without foreground: ``"zeros"``, ``"ones"``, ``"nan"``, ``"inf"`` or
            ``"diagonal"`` (with the sign of the map outside), a finite number, or ``"error"``: ValueError, the
            only choice that reads anything back to the host.
        on_full: the same for an image without background (with the sign of the map inside).
        border: as in :func:`dtkernels.edt`; a closed image without background is not full, since there is
            background around it.
        weight: of ``profile="gaussian"``: the class weight, 1 by default.
        amplitude: of ``profile="gaussian"``, 10 by default.
        sigma: of ``profile="gaussian"``, 5 by default.
        num_classes: ``mask`` is an integer (or bool) label map, and the result has a map of each class; shapes as
            in :func:`dtkernels.labels_sdf`.
        argmax: ``mask`` holds scores ``(B, C, *spatial)``; the foreground of a class is where its score is the
            largest.
        include_background: if False, class 0 has no map: the result begins with class 1.
        ignore_index: voxels with this value (of a label map, or of ``mask``) are foreground of no class, and their
            maps are 0.
        threshold: as in :func:`dtkernels.edt`.
        spatial_dims: as in :func:`dtkernels.edt`.
        out: as in :func:`dtkernels.edt`.
        backend: as in :func:`dtkernels.edt`.

    Returns:
        float32 of the mask's shape, or with a class axis, on the mask's device. Not differentiable. 0/0 is 0 (a
        side with ``M = 1`` under ``boundary="shift"``), 1/2 under ``"unit"``, and 2 under ``"penalty"``.

    Raises:
        TypeError: as :func:`dtkernels.edt`, or an option of another type.
        ValueError: as :func:`dtkernels.edt`; an unknown name, with the closest ones; options that exclude each
            other; a missing class under ``"error"``.
        RuntimeError: as :func:`dtkernels.edt`; ``boundary="half"`` at unequal spacing and components need a
            backend with ``nearest`` and ``label``.

    References:
        Those of :func:`conventions`.

    >>> import torch, dtkernels as dtk
    >>> mask = torch.tensor([0, 1, 1, 1, 1, 0, 0])
    >>> dtk.distance_map(mask, "kervadec")
    tensor([ 1.,  0., -1., -1.,  0.,  1.,  2.])
    >>> dtk.distance_map(mask, "half", spacing=0.5)
    tensor([ 0.2500, -0.2500, -0.7500, -0.7500, -0.2500,  0.2500,  0.7500])
    >>> dtk.distance_map(mask, boundary="inner_zero", normalize="per_side_max", inside="positive")
    tensor([-0.5000,  0.0000,  1.0000,  1.0000,  0.0000, -0.5000, -1.0000])
    >>> dtk.distance_map(torch.tensor([0, 0, 2, 1]), "rrw", num_classes=3)
    tensor([[-1.0000, -0.5000,  1.0000,  1.0000],
            [ 1.0000,  1.0000,  1.0000, -1.0000],
            [ 1.0000,  1.0000, -1.0000,  1.0000]])
    """
    arguments.check_tensor("mask", mask)
    arguments.check_no_gradient("mask", mask)
    changes = {
        "boundary": boundary, "inside": inside, "outside": outside, "normalize": normalize, "profile": profile,
        "scope": scope, "connectivity": connectivity, "truncate": truncate, "on_empty": on_empty,
        "on_full": on_full, "border": border, "weight": weight, "amplitude": amplitude, "sigma": sigma,
    }  # fmt: skip
    options = resolve(convention, **{name: value for name, value in changes.items() if value is not None})
    for name, flag in (("argmax", argmax), ("include_background", include_background)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}: expected a bool, got {flag!r}")
    arguments.check_options(
        backend=backend, threshold=threshold, num_classes=1 if num_classes is None else num_classes
    )
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    check(options, dims)
    classes = _Classes.of(mask, dims, num_classes, argmax, include_background, ignore_index, threshold)
    given = arguments.operator_spacing(spacing, dims)
    overload = "per_sample" if isinstance(given, Tensor) else "default"
    words = options._asdict()
    words["on_empty"], words["on_full"] = str(options.on_empty), str(options.on_full)
    words.update(
        spatial_dims=dims, num_classes=classes.number, first_label=classes.first, binary=classes.binary,
        threshold=classes.threshold, backend=backend,
    )  # fmt: skip
    if out is None:
        result: Tensor = getattr(torch.ops.dtk.distance_map, overload)(classes.source, given, **words)
    else:
        arguments.check_out_type(out)
        getattr(torch.ops.dtk.distance_map_out, overload)(classes.source, given, out=out, **words)
        result = out
    return result if classes.ignored is None else result.masked_fill_(classes.ignored, 0.0)


def resolve(convention: str | None, **changes: Any) -> Options:
    """The options of a convention with some changed; TypeError and ValueError name what does not exist."""
    if convention is None:
        options = Options()
    else:
        if not isinstance(convention, str):
            raise TypeError(f"convention: expected a str, a name of dtk.conventions(), got {convention!r}")
        check_name("convention", convention, tuple(CONVENTIONS))
        options = CONVENTIONS[convention].options
    _check_types(changes)
    return options._replace(**changes)


def _check_types(changes: dict[str, Any]) -> None:
    """Types of the options: torch's own answer to a wrong one is a dump of the operator's schema."""
    for name, value in changes.items():
        check_name("option", name, Options._fields)
        if name in CHOICES and not isinstance(value, str):
            raise TypeError(f"{name}: expected a str, one of {', '.join(CHOICES[name])}, got {value!r}")
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if name in ("on_empty", "on_full") and not (number or isinstance(value, str)):
            raise TypeError(f"{name}: expected a number or one of {', '.join(POLICIES)}, got {value!r}")
        if name in ("truncate", "weight", "amplitude", "sigma") and not number:
            raise TypeError(f"{name}: expected a number, got {value!r}")


class _Classes(NamedTuple):
    """What the operator reads, after the rules of foreground."""

    source: Tensor
    number: int | None  # of classes, of a label map
    first: int  # label of them
    binary: bool  # whether the labels can only be 0 and 1
    threshold: float | None
    ignored: Tensor | None  # voxels, to broadcast against the maps

    @staticmethod
    def of(
        x: Tensor,
        dims: int,
        num_classes: int | None,
        argmax: bool,
        include_background: bool,
        ignore_index: int | None,
        threshold: float | None,
    ) -> _Classes:
        """A label map, or masks."""
        if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, int)):
            raise TypeError(f"ignore_index: expected None or an int, got {ignore_index!r}")
        if threshold is not None and math.isnan(threshold):
            raise ValueError("threshold: expected a number, got nan")
        lead = x.ndim - dims
        binary = x.dtype == torch.bool and include_background and ignore_index is None
        if argmax:
            if num_classes is not None or threshold is not None or ignore_index is not None:
                raise ValueError(
                    "argmax: expected no num_classes, threshold or ignore_index with it: the scores say it all"
                )
            if lead != 2:
                raise ValueError(f"mask: expected scores (B, C, *spatial) with argmax=True, got {tuple(x.shape)}")
            binary = x.shape[1] == 2 and include_background
            num_classes, x = x.shape[1], x.argmax(1)
        elif num_classes is not None and threshold is not None:
            raise ValueError("threshold: expected None for a label map (num_classes is given)")
        ignored = None if ignore_index is None else arguments.where_equal(x, ignore_index)
        if num_classes is None:
            if not include_background:
                if lead != 2:
                    raise ValueError(
                        "include_background: expected a mask (B, C, *spatial) or a label map, got shape "
                        f"{tuple(x.shape)}"
                    )
                x = x[:, 1:]
                ignored = None if ignored is None else ignored[:, 1:]
            if ignored is not None:
                x = (x > threshold if threshold is not None else (x != 0) & (x == x)) & ~ignored
                threshold = None
            return _Classes(x, None, 0, False, threshold, ignored)
        first = 0 if include_background else 1
        if x.dtype == torch.bool:
            x = x.to(torch.uint8)
        if ignored is not None and ignored.ndim - dims == 1:
            ignored = ignored.unsqueeze(1)
        if ignored is not None:
            x = x.to(torch.promote_types(x.dtype, torch.int16)).masked_fill(ignored.view(x.shape), -1)
        if num_classes - first < 1:
            raise ValueError(f"num_classes: expected at least {first + 1}, got {num_classes}")
        return _Classes(x, num_classes - first, first, binary, None, ignored)
