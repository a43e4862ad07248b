"""Predictions and targets as users give them, seen as (sample, class) masks; checked once, before any work."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import arguments
from ..arguments import SpacingLike


class Masks(NamedTuple):
    """Masks of all samples and classes over the memory that the user gave."""

    name: str  # of the argument
    values: Tensor  # (B, K, *spatial) numbers, or (B, *spatial) labels
    classes: range | None  # the K classes of a label map

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, K, *spatial)."""
        shape = tuple(self.values.shape)
        return shape if self.classes is None else (shape[0], len(self.classes), *shape[1:])

    def stored(self, sample: int, index: int) -> Tensor:
        """One mask as it is in memory: where all bits are 0 there is background, :func:`binary` knows the rest."""
        if self.classes is None:
            return self.values[sample, index]
        return self.values[sample] == self.classes[index]

    def all(self) -> Tensor:
        """Every mask, bool ``(B, K, *spatial)``."""
        if self.classes is None:
            return binary(self.name, self.values, lead=2)
        classes = torch.arange(self.classes.start, self.classes.stop, device=self.values.device)
        return self.values[:, None] == classes.reshape(-1, *[1] * (self.values.ndim - 1))


class Pair(NamedTuple):
    """What is compared."""

    pred: Masks
    target: Masks
    lead: tuple[int, ...]  # shape of the results
    dims: int

    @property
    def samples(self) -> int:
        """Rows of a per-sample spacing."""
        return self.pred.shape[0]

    @property
    def spatial(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.pred.shape[2:]


def pair(
    pred: Tensor,
    target: Tensor,
    spatial_dims: int | None,
    num_classes: int | None,
    include_background: bool,
) -> Pair:
    """Check two inputs against each other and bring both to (sample, class, \\*spatial)."""
    for name, x in (("pred", pred), ("target", target)):
        arguments.check_tensor(name, x)
        arguments.check_no_gradient(name, x)
    if target.device != pred.device:
        raise ValueError(f"target: expected a tensor on {pred.device} like pred, got {target.device}")
    if target.shape != pred.shape:
        hint = ""
        if pred.ndim == target.ndim > 2 and 1 in (pred.shape[1], target.shape[1]):
            hint = "; one-hot encode the label map, or pass two label maps and num_classes"
        raise ValueError(
            f"target: expected the shape of pred, {tuple(pred.shape)}, got {tuple(target.shape)}{hint}"
        )
    dims = arguments.resolve_spatial_dims(pred.ndim, spatial_dims, "pred")
    spatial = tuple(pred.shape[pred.ndim - dims :])
    # MONAI's MetaTensor is a tensor too, and a prediction may come with a graph
    pred, target = (x.detach().as_subclass(Tensor) for x in (pred, target))
    if num_classes is not None:
        return _label_maps(pred, target, dims, num_classes, include_background)
    if not include_background:
        if pred.ndim - dims < 2 or pred.shape[1] < 2:
            raise ValueError(
                "include_background: expected True for masks without a class axis or with a single class "
                f"(nothing would be left), got False with shape {tuple(pred.shape)}"
            )
        pred, target = pred[:, 1:], target[:, 1:]
    lead = tuple(pred.shape[: pred.ndim - dims])
    samples = lead[0] if lead else 1
    full = (samples, math.prod(lead[1:]), *spatial)
    return Pair(Masks("pred", pred.reshape(full), None), Masks("target", target.reshape(full), None), lead, dims)


def _label_maps(pred: Tensor, target: Tensor, dims: int, num_classes: int, include_background: bool) -> Pair:
    for name, x in (("pred", pred), ("target", target)):
        if x.is_floating_point() or x.dtype == torch.bool:
            raise TypeError(
                f"{name}: expected integer labels with num_classes={num_classes}, "
                f"got {str(x.dtype).removeprefix('torch.')}"
            )
    lead = tuple(pred.shape[: pred.ndim - dims])
    if len(lead) > 2 or lead[1:] not in ((), (1,)):
        raise ValueError(
            f"pred: expected label maps (B, *spatial) or (B, 1, *spatial) with num_classes={num_classes} and "
            f"{dims} spatial dimensions, got {tuple(pred.shape)}; pass spatial_dims if that is not what you meant"
        )
    arguments.labels_shape(pred, num_classes, dims)  # checks num_classes
    first = 0 if include_background else 1
    if first == num_classes:
        raise ValueError("include_background: expected True with num_classes=1 (nothing would be left)")
    classes = range(first, num_classes)
    rows = (lead[0] if lead else 1, *pred.shape[pred.ndim - dims :])
    maps = [Masks(name, x.reshape(rows), classes) for name, x in (("pred", pred), ("target", target))]
    return Pair(maps[0], maps[1], (*lead[:1], len(classes)), dims)


def host_or_rows(spacing: SpacingLike, images: Pair) -> list[float] | Tensor | None:
    """Spacing as numbers for the batch or as float64 rows (B, n) on the device of the images; None for 1."""
    given = arguments.operator_spacing(spacing, images.dims)
    if given is None:
        return None
    if isinstance(given, Tensor):
        rows = arguments.sample_spacing(given, images.dims, images.pred.values, images.samples)
        return rows[:, 3 - images.dims :]
    return list(arguments.host_spacing(given, images.dims)[3 - images.dims :])


def choice(name: str, value: Any, options: Iterable[str]) -> None:
    """Refuse a word that is not an option, with the closest that is."""
    options = list(options)
    if value in options:
        return
    close = difflib.get_close_matches(value.lower(), options, n=1, cutoff=0.4) if isinstance(value, str) else []
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}{hint}")


def numbers_in(name: str, values: float | Sequence[float], high: float) -> tuple[float, ...]:
    """One number or several, each from 0 to ``high`` and finite."""
    given = (values,) if isinstance(values, numbers.Real) else values
    try:
        if isinstance(given, str):
            raise TypeError
        result = tuple(float(v) for v in given)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number or a sequence of numbers, got {values!r}") from None
    for v in result:
        if not (0 <= v <= high and math.isfinite(v)):
            upto = f"from 0 to {high:g}" if math.isfinite(high) else "that are finite and not negative"
            raise ValueError(f"{name}: expected numbers {upto}, got {values!r}")
    return result


def binary(name: str, x: Tensor, lead: int = 0) -> Tensor:
    """Foreground as bool; on CPUs, where a look at the values costs no synchronisation, checked to be one.

    Floats must be 0 and 1 (or NaN, background everywhere in this library), integers 0 and one other value, which
    may differ between the masks along ``lead`` dimensions.
    """
    if x.dtype == torch.bool:
        return x
    if x.device.type != "cpu":
        return x.abs() > 0 if x.is_floating_point() else x.bool()  # NaN > 0 is false
    x = x.contiguous()
    inside = x.bool()
    if x.is_floating_point():
        values: Any = x.numpy() if x.dtype in (torch.float32, torch.float64) else x
        if np.count_nonzero(values == 1) == np.count_nonzero(inside):
            return inside
        x = x.nan_to_num(nan=0.0)
        inside = x.bool()
        if torch.equal(x == 1, inside):
            return inside
        advice = f"threshold probabilities first, for example {name} > 0.5"
    else:
        low, high = torch.aminmax(x) if x.numel() else (0, 0)
        if (low, high) in ((0, 0), (0, 1), (1, 1)):
            return inside
        each = x.reshape(*x.shape[:lead], -1)
        least, most = each.aminmax(dim=-1, keepdim=True)
        other = torch.where(most != 0, most, least)
        if torch.equal((each == other) & (other != 0), each.bool()):
            return inside
        advice = "pass num_classes to compare label maps"
    low, high = torch.aminmax(x)
    raise ValueError(
        f"{name}: expected a mask (0 and {'1' if x.is_floating_point() else 'one other value'}), got "
        f"{str(x.dtype).removeprefix('torch.')} values from {low.item():g} to {high.item():g}; {advice}"
    )
