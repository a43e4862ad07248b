"""The operator behind :func:`dtkernels.distance_map`: one transform, and a formula that makes a map of it.

The transform evaluates the :class:`~dtkernels.formula.Formula` where it writes the distance, if the backend has
``MAPS`` and the formula needs no more than that distance. Otherwise a pass does, in place: in a kernel where the
backend has one, in elementwise torch operators elsewhere. The largest distances come with the transform's last
pass, and whatever depends on the data stays on the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import arguments, backends, memory, transform
from .erosion import eroded
from .formula import Formula, Options, Side, Vector, check, formula, of_own_distance
from .problem import ContourProblem, FacesProblem, Inside, Mapping, RemapProblem, Rule

Scalar = float | Tensor


def distance_map(
    mask: Tensor,
    spacing: transform.OpSpacing = None,
    *,
    num_classes: int | None = None,
    first_label: int = 0,
    binary: bool = False,
    spatial_dims: int | None = None,
    threshold: float | None = None,
    backend: str | None = None,
    out: Tensor | None = None,
    **given_options: Any,
) -> Tensor:
    """The map that the options describe, of a mask or of the classes of a label map from ``first_label`` on.

    ``binary`` says that a label map of two classes holds 0 and 1 alone.
    """
    arguments.check_tensor("mask", mask)
    arguments.check_no_gradient("mask", mask)
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    o = parse(given_options, dims)
    f = formula(o)
    layout, shape = transform.layout_of(mask, dims, threshold, num_classes, first_label)
    images = layout.image.shape
    given, rows = transform.spacing_of(spacing, dims, layout.source, images[0])
    chosen = backends.choose(layout.source.device, backend)
    apart = o.boundary == "half" and not _equal(spacing)  # the zero level differs from voxel to voxel
    to_faces = apart and getattr(chosen, "FACES", False)  # and the transform knows how
    if apart:
        f = formula(o._replace(boundary="none"))
    contour = o.boundary == "inner_contour"
    if apart and not (to_faces or hasattr(chosen, "faces")):
        backends.choose(layout.source.device, backend, "nearest")  # refuse before any work
    if o.normalize.startswith("component"):
        backends.choose(layout.source.device, backend, "label")

    inside = Inside.NEGATIVE
    if contour:
        inside = Inside.MASK
    elif (
        f.one_sided is not None
        and f.empty == (f.one_sided, 0.0)
        and "error" not in (o.on_empty, o.on_full)
        and not apart  # signs tell the sides apart
    ):
        inside = Inside.POSITIVE  # nobody asks how far a background voxel is

    mapping = None
    if (
        getattr(chosen, "MAPS", False)
        and of_own_distance(o, f, _equal(spacing))
        and not _is_distance(f, o, inside)
        and "error" not in (o.on_empty, o.on_full)  # infinite distances are asked for
    ):
        mapping = Mapping(tuple(f.floats()), o.boundary == "inner_zero")

    extrema = None
    moved = apart and not to_faces  # afterwards
    if f.uses_maxima and not moved and not contour:
        extrema = torch.zeros((*images[:2], 2), dtype=torch.float32, device=mask.device)
    # A closed border has made the outermost foreground contour already, and is none for the background.
    common: dict[str, Any] = {"border": "open" if contour else o.border, "backend": backend, "to_faces": to_faces}
    two = mapping is None and inside == Inside.NEGATIVE and num_classes == 2 and o.border == "open"
    if two and not first_label and (binary or _is_binary(mask)):
        phi = _of_two_classes(mask, images, shape, dims, spacing, out, extrema, common)
    else:
        source = layout
        if contour:
            source = arguments.mask_layout(_off_contour(layout, o, dims, chosen), 3, None)
        signed = inside == Inside.NEGATIVE
        common.update(out=out, extrema=extrema, mapping=mapping)
        phi = transform.run(source, shape, dims, spacing, signed=signed, **common)
    if not phi.numel() or mapping is not None:
        return phi
    maps = phi.view(images)
    if "error" in (o.on_empty, o.on_full):
        _refuse_missing(maps, foreground(layout) if contour else maps < 0, o, mask.ndim - dims)
    if moved:
        closed = o.border == "closed"
        if hasattr(chosen, "faces"):
            chosen.faces(FacesProblem(maps.data_ptr(), layout.image, dims, given, closed), layout.source, rows)
        else:
            _shift_to_faces(maps, dims, given.values if rows is None else rows, closed, backend)
    if f.uses_maxima and (moved or contour):
        if contour:
            maps.mul_(torch.where(foreground(layout), -1.0, 1.0))
        extrema = torch.zeros((*images[:2], 2), dtype=torch.float32, device=mask.device)
        transform.read_extrema(maps, extrema, signed=True, squared=False)
    if extrema is not None and o.scope != "sample-and-class":
        over = (1,) if o.scope == "sample" else (0, 1)
        extrema.copy_(extrema.amax(over, keepdim=True).expand_as(extrema))
    labels = counts = None
    if o.normalize.startswith("component"):
        options: dict[str, Any] = {"connectivity": o.connectivity, "backend": backend}
        if num_classes is None:
            labels, counts = transform.label(mask, spatial_dims=dims, threshold=threshold, **options)
        else:
            labels, counts = transform.label(foreground(layout), spatial_dims=3, **options)
    if _is_distance(f, o, inside):
        return phi

    if hasattr(chosen, "remap"):
        problem = RemapProblem(
            maps.data_ptr(),
            layout.image,
            dims,
            given,
            inside,
            o.boundary == "inner_zero",
            o.border == "closed",
            tuple(f.floats()),
            0 if extrema is None else extrema.data_ptr(),
            0 if labels is None else labels.data_ptr(),
            0 if counts is None else counts.data_ptr(),
        )
        chosen.remap(problem, layout.source, rows, extrema)
    else:
        evaluate(maps, f, o, layout, dims, inside, rows if given.values is None else given.values, extrema, labels)
    return phi


def _is_distance(f: Formula, o: Options, inside: Inside) -> bool:
    """Whether the map is what the transform writes."""
    if inside == Inside.POSITIVE:
        return f == Formula(Side(1.0), Side(0.0), empty=(0.0, 0.0), full=(math.inf, 0.0))
    return inside == Inside.NEGATIVE and f.is_identity and o.boundary != "inner_zero"


def _is_binary(labels: Tensor) -> bool:
    """Whether all labels are 0 or 1, as far as that can be seen without a device synchronisation."""
    if labels.device.type != "cpu" or not labels.numel():
        return False
    low, high = labels.aminmax()
    return int(low) >= 0 and int(high) <= 1


def _of_two_classes(
    labels: Tensor,
    images: Sequence[int],
    shape: Sequence[int],
    dims: int,
    spacing: transform.OpSpacing,
    out: Tensor | None,
    extrema: Tensor | None,
    common: dict[str, Any],
) -> Tensor:
    """One signed transform for both classes: each is the background of the other."""
    layout = arguments.mask_layout(labels, dims, None)
    own = None if extrema is None else extrema[:, :1].clone()
    one = transform.run(layout, labels.shape, dims, spacing, signed=True, extrema=own, **common)
    if out is None:
        out = memory.empty(shape, torch.float32, labels.device)
    else:
        arguments.check_out(out, shape, labels, spacing if isinstance(spacing, Tensor) else None)
    if not out.numel():
        return out
    both = out.view(tuple(images))
    one = one.view(images[0], 1, *images[2:])
    torch.neg(one, out=both[:, :1])
    both[:, 1:].copy_(one)
    if extrema is not None and own is not None:
        extrema.copy_(torch.cat((own.flip(-1), own), 1))
    return out


def parse(options: dict[str, Any], dims: int) -> Options:
    """Options as the operator has them, where a policy may be a number in words."""
    for name in ("on_empty", "on_full"):
        try:
            value = float(options[name])
        except (KeyError, ValueError):
            continue
        if -math.inf < value < math.inf:
            options[name] = value
    return check(Options(**options), dims)


def foreground(layout: arguments.Layout) -> Tensor:
    """The masks (B, C, z, y, x) as bool."""
    image, x = layout
    x = x.as_strided(image.shape, image.stride, x.storage_offset())
    if image.rule == Rule.ABOVE:
        return x > image.threshold
    if image.rule == Rule.EQUALS_CLASS:
        first = int(image.threshold)
        return x == torch.arange(first, first + image.shape[1], device=x.device).view(1, -1, 1, 1, 1)
    return (x != 0).logical_and_(x == x)  # NaN is background


def _equal(spacing: transform.OpSpacing) -> bool:
    """Whether the spacing is known to be the same along all axes; tensors on GPUs are not asked."""
    if isinstance(spacing, Tensor):
        return spacing.shape[1] == 1 or (spacing.device.type == "cpu" and bool((spacing == spacing[:, :1]).all()))
    return spacing is None or all(s == spacing[0] for s in spacing)


def _refuse_missing(maps: Tensor, inside: Tensor, o: Options, lead: int) -> None:
    """The one place where a map looks at values on the host."""
    infinite = maps.flatten(2)[..., 0].isinf()
    first = inside.flatten(2)[..., 0]
    for policy, name, missing in (("on_empty", "empty", infinite & ~first), ("on_full", "full", infinite & first)):
        if getattr(o, policy) != "error":
            continue
        places = missing.nonzero().tolist()
        if places:
            at = ", ".join(str(tuple(p[:lead])) if lead else "the image" for p in places[:5])
            more = f" and {len(places) - 5} more" if len(places) > 5 else ""
            raise ValueError(f"mask: expected no {name} mask with {policy}='error', got one at {at}{more}")


# ---- boundaries --------------------------------------------------------------------------------------


def _off_contour(layout: arguments.Layout, o: Options, dims: int, chosen: backends.Backend) -> Tensor:
    """(B, C, z, y, x): 0 on the inner contour, 1 elsewhere."""
    if not hasattr(chosen, "contour"):
        return ~inner_contour(foreground(layout), o, dims)
    image = layout.image
    result = memory.empty(image.shape, torch.uint8, layout.source.device)
    problem = ContourProblem(image, dims, o.connectivity or dims, o.border == "closed", result.data_ptr())
    chosen.contour(problem, layout.source)
    return result


def inner_contour(mask: Tensor, o: Options, dims: int) -> Tensor:
    """Foreground voxels with a neighbour in the background; beyond the image only if it is closed."""
    return mask & ~eroded(mask, dims, o.connectivity or dims, closed=o.border == "closed")


def _shift_to_faces(maps: Tensor, dims: int, spacing: Any, closed: bool, backend: str | None) -> None:
    r"""Move the zero level from voxel centres to the faces between them, at unequal spacing.

    Let q be the nearest voxel of the other class, and k = |p - q| in voxels. The segment from q to p is inside of
    q's cell as long as each coordinate has moved by half a voxel at most, that is, for the fraction
    :math:`1 / (2 \max_a k_a)` of it: so it leaves the cell through the face across the axis with the largest
    :math:`k_a`, and half the spacing of that axis is what lies between q's centre and that face. Where several
    axes are largest, the segment leaves through an edge, and the narrowest of them counts. Of several voxels
    equally near q is the first by x, then by y, then by z. Beyond a closed border the nearest voxel lies straight
    across it, of several ends as near across that of z, then of y. It counts where one of the image is as near.
    """
    maps = maps.transpose(2, 4)  # nearest() gives the first in raster order: axes are x, y, z from here on
    inside = maps < 0
    lengths = inside.shape[2 : 2 + dims]
    widths: list[Any] = [spacing[:, 2 - k] if isinstance(spacing, Tensor) else spacing[2 - k] for k in range(dims)]
    given = torch.stack(widths, 1) if isinstance(spacing, Tensor) else widths
    images = inside.reshape(*inside.shape[:2], *lengths)
    (distance, to_outside), (_, to_inside) = (
        [x.view(inside.shape) for x in transform.nearest(m, given, spatial_dims=dims, backend=backend)]
        for m in (images, ~images)
    )
    place = torch.where(inside, to_outside, to_inside)
    if math.prod(lengths) < 2**31:
        place = place.int()
    if isinstance(spacing, Tensor):
        widths = [s.float().view(-1, 1, 1, 1, 1) for s in widths]
    steps: list[Tensor] = []
    ends: list[Tensor] = []
    for k, n in reversed(list(enumerate(lengths))):
        own = torch.arange(n, device=maps.device, dtype=place.dtype).view(-1, *(1,) * (2 - k))
        steps.insert(0, (place % n).sub_(own).abs_())
        place = place.div(n, rounding_mode="floor")
        ends.insert(0, torch.minimum(own + 1, n - own) * widths[k])
    most = functools.reduce(torch.maximum, steps)
    across = functools.reduce(
        torch.minimum, (torch.where(k == most, s, math.inf) for k, s in zip(steps, widths, strict=True))
    )
    if closed:
        nearest_end = functools.reduce(torch.minimum, ends)
        beyond = inside & (nearest_end <= distance * (1 + 1e-6))
        for end, width in zip(ends, widths, strict=True):
            across = torch.where(beyond & (end == nearest_end), width, across)
    maps.sub_(torch.copysign(across.mul_(0.5), maps))  # infinite distances stay so


# ---- the pass, in torch operators -----------------------------------------------------------------------


def evaluate(
    maps: Tensor,
    f: Formula,
    o: Options,
    layout: arguments.Layout,
    dims: int,
    inside: Inside,
    spacing: Any,
    extrema: Tensor | None,
    labels: Tensor | None,
) -> None:
    """Make maps of distances, in place: what a backend without ``remap`` leaves to torch operators."""
    signed = inside == Inside.NEGATIVE
    inner = foreground(layout) if inside == Inside.MASK else (maps < 0 if signed else maps > 0)
    d = maps.abs()
    extents = [n * spacing[..., axis] if isinstance(spacing, Tensor) else n * spacing[axis]
               for axis, n in enumerate(maps.shape[2:]) if axis >= 3 - dims]  # fmt: skip
    if isinstance(spacing, Tensor):
        s: Scalar = spacing[:, 2].float().view(-1, 1, 1, 1, 1)
        diagonal: Scalar = torch.stack(extents).norm(dim=0).float().view(-1, 1, 1, 1, 1)
    else:
        s, diagonal = spacing[2], math.hypot(*extents)
    top_in: Scalar = 0.0
    top_out: Scalar = 0.0
    if extrema is not None:
        top_in, top_out = (x.sqrt()[..., None, None, None] for x in extrema.view(*maps.shape[:2], 2).unbind(-1))
    if labels is not None:
        top_in = _component_maxima(d, labels)
    v_in, v_out = (1.0, top_in, s, diagonal), (1.0, top_out, s, diagonal)

    divisor_in, divisor_out = _dot(f.inside.divisor, v_in), _dot(f.outside.divisor, v_out)
    if f.shared:
        divisor_in = divisor_out = torch.maximum(divisor_in, divisor_out)  # type: ignore[arg-type]
    value = torch.where(
        inner, _side(d, f.inside, v_in, divisor_in, f.rate), _side(d, f.outside, v_out, divisor_out, f.rate)
    ).clamp_(f.low, f.high)
    if o.boundary == "inner_zero":
        value.masked_fill_(inner_contour(inner, o._replace(connectivity=1), dims), f.edge)
    empty, full = (_missing(pair, f.limit, diagonal) for pair in (f.empty, f.full))
    torch.where(d.isinf(), torch.where(inner, full, empty), value, out=maps)


def _missing(pair: tuple[float, float], limit: float, diagonal: Scalar) -> Scalar:
    value = pair[0] + pair[1] * diagonal if pair[1] else pair[0]
    return value.clamp(-limit, limit) if isinstance(value, Tensor) else max(min(value, limit), -limit)


def _side(d: Tensor, side: Side, v: tuple[Scalar, ...], divisor: Scalar, rate: float) -> Scalar:
    if rate:
        return torch.exp(d.square().mul_(rate)).mul_(side.slope).add_(side.add)
    if side.slope == 0:
        return torch.full((), side.add, device=d.device)
    value = d * side.slope + _dot(side.offset, v)
    if side.divisor == (1.0, 0.0, 0.0, 0.0):
        return value.add_(side.add)
    scale = abs(side.divisor[1]) * v[1]
    degenerate = torch.as_tensor(divisor <= 1e-6 * scale, device=d.device)
    return torch.where(degenerate, side.degenerate, value / torch.where(degenerate, 1.0, divisor) + side.add)


def _dot(a: Vector, v: tuple[Scalar, ...]) -> Scalar:
    return sum((x * y for x, y in zip(a, v, strict=True) if x), 0.0)


def _component_maxima(d: Tensor, labels: Tensor) -> Tensor:
    """The largest finite distance of each voxel's component; 0 in the background.

    No image has more components than voxels without a common face, (N + 1) / 2: so the table of maxima needs no
    count, which would have to be read back.
    """
    images = d.shape[0] * d.shape[1]
    voxels = d.numel() // images
    index = labels.view(images, voxels).long()
    finite = torch.where(d.isinf(), 0.0, d).view(images, voxels)
    table = torch.zeros((images, (voxels + 1) // 2 + 1), device=d.device).scatter_reduce_(1, index, finite, "amax")
    return table.gather(1, index).mul_(index > 0).view(d.shape)
