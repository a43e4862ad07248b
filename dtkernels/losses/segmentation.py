"""What every loss of a segmentation shares: its options, how it reads a target, activations and reductions."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import functional, maps
from ..arguments import (
    SpacingLike,
    check_no_gradient,
    check_tensor,
    has_tangent,
    needs_gradient,
    operator_spacing,
    where_equal,
)
from ..batching import SampleFunction
from ..formula import check_name
from ._sums import ScoredSoftmax, SecondOfTwo, spatial_axes

REDUCTIONS = ("mean", "sum", "none")


@dataclasses.dataclass(frozen=True)  # torch 2.8 compiles no methods of named tuples
class Truth:
    """The target of one call, for the classes that are scored."""

    values: Tensor  # integer labels (B, 1, *spatial), or one channel per class, of any dtype
    first: int | None  # the label of the first scored class; None where values has a channel per class
    classes: int
    ignored: Tensor | None  # (B, 1, *spatial) bool
    voxels: int | Tensor  # how many are counted in a sample; (B, 1) where some are ignored
    hides_class: bool = False  # the label of the ignored voxels is that of a scored class
    given: Tensor | None = None  # maps (B, C, *spatial), from the caller, who keeps it

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.values.ndim - 2

    def sdf(self, spacing: SpacingLike, *, squared: bool = False) -> Tensor:
        """Signed distance map (B, C, *spatial) of every scored class; ignored voxels are outside of all."""
        if self.first is None:
            return self.sdf_of(self.values, spacing, squared=squared)
        return functional.labels_sdf(
            self._labels(),
            self.classes,
            spacing,
            spatial_dims=self.spatial_dims,
            squared=squared,
            first_label=self.first,
        )

    def _labels(self) -> Tensor:
        """Labels, which are those of scored classes at voxels alone that count."""
        labels = self.values
        if self.ignored is not None and self.hides_class:
            labels = labels.to(torch.promote_types(labels.dtype, torch.int16)).masked_fill(self.ignored, -1)
        return labels

    def sdf_of(self, x: Tensor, spacing: SpacingLike, *, squared: bool = False) -> Tensor:
        """Signed distance map of ``x > 0.5``; ignored voxels are outside."""
        if self.ignored is None:
            return functional.sdf(
                x.detach(), spacing, spatial_dims=self.spatial_dims, squared=squared, threshold=0.5
            )
        mask = (x > 0.5) & ~self.ignored
        return functional.sdf(mask, spacing, spatial_dims=self.spatial_dims, squared=squared)

    def map(self, convention: str, spacing: SpacingLike, full_class: float | None = None) -> Tensor:
        """Map (B, C, *spatial) of every scored class, finite, and 0 at ignored voxels.

        A class that fills its image has the value ``full_class``, by default the convention's.
        """
        options = maps.CONVENTIONS[convention].options
        # The values where there is no boundary that are no distances stay; an infinite distance costs nothing.
        empty, full = (
            "zeros" if v == "inf" and options.profile == "distance" else v
            for v in (options.on_empty, options.on_full)
        )
        full = full if full_class is None else full_class
        words: dict[str, Any] = {"on_empty": empty, "on_full": full, "spatial_dims": self.spatial_dims}
        if self.first is not None:
            words |= {"num_classes": self.first + self.classes, "include_background": self.first == 0}
            result = maps.distance_map(self._labels(), convention, spacing, **words)
        elif self.ignored is None:
            result = maps.distance_map(self.values.detach(), convention, spacing, threshold=0.5, **words)
        else:
            mask = (self.values > 0.5) & ~self.ignored
            result = maps.distance_map(mask, convention, spacing, **words)
        return self.hide_(result)

    def is_summed(self, input: Tensor) -> bool:
        """Whether :meth:`sums` takes this target, and what is asked of ``input``."""
        return (
            self.given is None
            and self.ignored is None
            and not needs_gradient(self.values)
            and not has_tangent(input)
        )

    def sums(self, function: type[SampleFunction], p: Tensor, spacing: SpacingLike, *options: Any) -> Tensor:
        """(B, C) by an operator of :mod:`~dtkernels.distance_sums`, which makes no maps but the gradient."""
        given = operator_spacing(spacing, self.spatial_dims)
        rows = given if isinstance(given, Tensor) else None
        host = None if given is None or isinstance(given, Tensor) else tuple(given)
        sums: Tensor = function.apply(p, self.values, host, rows, self.first, *options)[0]  # type: ignore[no-untyped-call]
        return sums

    def mask(self) -> Tensor:
        """(B, C, *spatial) bool: where each scored class is, ignored voxels or not."""
        return self.values > 0.5 if self.first is None else self.values == self.names(self.values)

    def names(self, like: Tensor) -> Tensor:
        """The label of each scored class, (C, 1, 1[, 1])."""
        first = self.first or 0
        names = torch.arange(first, first + self.classes, device=like.device)
        return names[(..., *(None,) * self.spatial_dims)]

    def hide_(self, weight: Tensor) -> Tensor:
        """Give ignored voxels no weight."""
        return weight if self.ignored is None else weight.masked_fill_(self.ignored, 0)

    def hide(self, x: Tensor) -> Tensor:
        """The same in a new tensor, where any voxel is ignored."""
        return x if self.ignored is None else x.masked_fill(self.ignored, 0)


class SegmentationLoss(torch.nn.Module):
    """Options, target and reduction of a loss; a subclass says what one class of one sample costs."""

    # The gradient with respect to a target would be missing silently.
    refuses_target_gradient: ClassVar[bool] = True

    def __init__(
        self,
        include_background: bool,
        to_onehot_y: bool,
        sigmoid: bool,
        softmax: bool,
        other_act: Callable[[Tensor], Tensor] | None,
        reduction: str,
        batch: bool,
        ignore_index: int | None,
    ) -> None:
        """Take the options, see :class:`~dtkernels.losses.HausdorffDTLoss`.

        Args:
            include_background: if False, channel 0 is not scored.
            to_onehot_y: the target is a label map.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input.
            reduction: ``"mean"``, ``"sum"`` or ``"none"`` over samples and classes.
            batch: average over the voxels of all samples together, before ``reduction``.
            ignore_index: label of the voxels to leave out.
        """
        super().__init__()
        if other_act is not None and not callable(other_act):
            raise TypeError(f"other_act: expected None or a callable, got {type(other_act).__name__}")
        if int(sigmoid) + int(softmax) + int(other_act is not None) > 1:
            raise ValueError(
                f"sigmoid, softmax, other_act: expected at most one activation, got sigmoid={sigmoid}, "
                f"softmax={softmax}, other_act={other_act}"
            )
        if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, int)):
            raise TypeError(f"ignore_index: expected None or an int, got {ignore_index!r}")
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid = sigmoid
        self.softmax = softmax
        self.other_act = other_act
        self.reduction = check_choice("reduction", str(reduction), REDUCTIONS)
        self.batch = batch
        self.ignore_index = ignore_index

    def forward(
        self, input: Tensor, target: Tensor, spacing: SpacingLike = None, *, maps: Tensor | None = None
    ) -> Tensor:
        """The loss of a prediction.

        Args:
            input: probabilities, or logits with an activation: (B, C, H, W) or (B, C, D, H, W).
            target: one channel per class, of the input's shape, any dtype; with ``to_onehot_y`` a label map
                (B, 1, *spatial) or (B, *spatial), any dtype (the fraction of floating-point labels is cut off).
            spacing: voxel spacing: None (1), a number, one number per spatial dimension in array order, or a
                (B, n) tensor with one row per sample.
            maps: the target's distance maps where they were computed beforehand, in a data loader for instance:
                what the loss would compute for each channel of the input, or for each that is scored. ``spacing``
                then only concerns maps of the prediction.

        Returns:
            A scalar, or one value per sample and class with ``reduction="none"``: float32, or float64 for a
            float64 input.
        """
        check_tensor("input", input)
        check_tensor("target", target)
        if self.refuses_target_gradient:
            check_no_gradient("target", target)
        if input.ndim not in (4, 5):
            raise ValueError(
                f"input: expected (B, C, H, W) or (B, C, D, H, W), got {input.ndim} dimensions: "
                f"{tuple(input.shape)}"
            )
        if target.device != input.device:
            raise ValueError(f"target: expected a tensor on {input.device} like the input, got {target.device}")
        with _full_precision(input.device):
            truth = self._read(input, target, maps)
            return self._reduce(self._per_class(input, truth, spacing), truth)

    def _per_class(self, input: Tensor, truth: Truth, spacing: SpacingLike) -> Tensor:
        """(B, C), or (1, C) with ``batch``: what each scored class of each sample costs."""
        raise NotImplementedError

    def _unreduced(self, per_class: Tensor, truth: Truth) -> Tensor:
        """The shape of ``reduction="none"``, from (B, C), or (1, C) with ``batch``."""
        return per_class.squeeze(0) if self.batch else per_class

    def _read(self, input: Tensor, target: Tensor, maps: Tensor | None) -> Truth:
        """Check the target against the input and find the scored classes and the ignored voxels."""
        channels = input.shape[1]
        if channels == 1 and not torch.compiler.is_compiling():
            for name, asked in (
                ("softmax=True", self.softmax),
                ("to_onehot_y=True", self.to_onehot_y),
                ("include_background=False", not self.include_background),
            ):
                if asked:
                    warnings.warn(f"single channel prediction, `{name}` ignored.", stacklevel=5)
        first = 0 if self.include_background or channels == 1 else 1
        named = self.to_onehot_y and channels > 1
        values, ignored = self._read_labels(input, target) if named else self._read_channels(input, target, first)
        return Truth(
            values=values,
            first=first if named else None,
            classes=channels - first,
            ignored=ignored,
            voxels=_counted(ignored, list(input.shape[2:])),
            hides_class=ignored is not None and first <= (self.ignore_index or 0) < channels,
            given=None if maps is None else _check_maps(maps, input, channels - first),
        )

    def _read_labels(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        batch, _, *spatial = input.shape
        if target.ndim == input.ndim - 1:
            target = target.unsqueeze(1)
        if target.shape != (batch, 1, *spatial):
            raise ValueError(
                f"target: expected labels of shape {(batch, 1, *spatial)} for an input of shape "
                f"{tuple(input.shape)}, got {tuple(target.shape)}"
            )
        if target.dtype.is_floating_point:
            target = target.to(torch.int32)
        elif target.dtype == torch.bool:
            target = target.to(torch.uint8)
        ignored = None if self.ignore_index is None else where_equal(target, self.ignore_index)
        return target, ignored

    def _read_channels(self, input: Tensor, target: Tensor, first: int) -> tuple[Tensor, Tensor | None]:
        batch, channels, *spatial = input.shape
        expected = (batch, channels + (self.ignore_index == channels), *spatial)
        if target.shape != input.shape and target.shape != expected:
            hint = ""
            if channels > 1 and (target.ndim == input.ndim - 1 or target.shape[1:2] == (1,)):
                hint = "; pass to_onehot_y=True if it is a label map"
            raise ValueError(
                f"target: expected the input's shape {tuple(input.shape)}, got {tuple(target.shape)}{hint}"
            )
        ignored = None
        if self.ignore_index is not None:
            if target.shape[1] == 1:
                ignored = where_equal(target, self.ignore_index)
            elif 0 <= self.ignore_index < target.shape[1]:
                ignored = target[:, self.ignore_index : self.ignore_index + 1] > 0.5
            else:
                ignored = target.amax(1, keepdim=True) <= 0.5
        return target[:, first:channels], ignored

    def _probabilities(self, input: Tensor, truth: Truth) -> Tensor:
        """The activated input of the scored classes, in float32 or float64."""
        p = input if input.dtype == torch.float64 else input.to(torch.float32)
        if self.sigmoid:
            p = torch.sigmoid(p)
        if self.softmax and truth.classes < input.shape[1]:
            if input.shape[1] == 2:
                return SecondOfTwo.apply(p)  # type: ignore[no-any-return, no-untyped-call]
            return ScoredSoftmax.apply(p, input.shape[1] - truth.classes)[0]  # type: ignore[no-any-return, no-untyped-call]
        if self.softmax and input.shape[1] > 1:
            p = torch.softmax(p, 1)
        if self.other_act is not None:
            p = self.other_act(p)
            if p.shape != input.shape:
                raise ValueError(
                    f"other_act: expected a result of the input's shape {tuple(input.shape)}, got {tuple(p.shape)}"
                )
        return p[:, input.shape[1] - truth.classes :]

    def _pooled(self, sums: Tensor) -> Tensor:
        """Sums over a sample's voxels, or over those of all samples with ``batch``."""
        return sums.sum(0, keepdim=True) if self.batch else sums

    def _mean(self, sums: Tensor, truth: Truth) -> Tensor:
        """Sums over voxels, divided by the number of voxels that count."""
        voxels = truth.voxels
        if isinstance(voxels, Tensor):
            return self._pooled(sums) / self._pooled(voxels).clamp(min=1)
        return self._pooled(sums) / (voxels * sums.shape[0] if self.batch else voxels)

    def _reduce(self, per_class: Tensor, truth: Truth) -> Tensor:
        if self.reduction == "mean":
            return per_class.mean()
        if self.reduction == "sum":
            return per_class.sum()
        return self._unreduced(per_class, truth)

    def extra_repr(self) -> str:
        """The options, for ``print(loss)``."""
        return ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k != "training" and k[0] != "_")


class MapLoss(SegmentationLoss):
    """A loss that reads one map of the target, whichever ``convention`` names."""

    def __init__(
        self,
        include_background: bool,
        to_onehot_y: bool,
        sigmoid: bool,
        softmax: bool,
        other_act: Callable[[Tensor], Tensor] | None,
        reduction: str,
        batch: bool,
        ignore_index: int | None,
        convention: str,
    ) -> None:
        """Take the options, see :class:`~dtkernels.losses.BoundaryLoss`.

        Args:
            include_background: as there.
            to_onehot_y: as there.
            sigmoid: as there.
            softmax: as there.
            other_act: as there.
            reduction: as there.
            batch: as there.
            ignore_index: as there.
            convention: the map.
        """
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, batch, ignore_index
        )
        self.convention = check_choice("convention", convention, maps.CONVENTIONS)

    def _full_class(self) -> float | None:
        """The map of a class that fills its image, where the loss wants another than the convention."""
        return None

    def _map(self, truth: Truth, spacing: SpacingLike) -> Tensor:
        """The target's map (B, C, *spatial), 0 at ignored voxels."""
        if truth.given is None:
            return truth.map(self.convention, spacing, self._full_class())
        return truth.hide(truth.given)


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """No autocast, of which the meta device has none."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """One of the words that an option knows."""
    check_name(name, value, tuple(choices))
    return value


def check_number(name: str, value: float) -> float:
    """A finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: expected a finite number that is not negative, got {value}")
    return float(value)


def _check_maps(maps: Tensor, input: Tensor, classes: int) -> Tensor:
    """The scored channels of the maps that the caller computed, in float32, or float64 for a float64 input."""
    check_tensor("maps", maps)
    check_no_gradient("maps", maps)
    batch, channels, *spatial = input.shape
    if maps.shape not in ((batch, channels, *spatial), (batch, classes, *spatial)):
        raise ValueError(
            f"maps: expected a map for each channel of the input, {tuple(input.shape)}, or for each of the "
            f"{classes} that are scored, got {tuple(maps.shape)}"
        )
    if maps.device != input.device:
        raise ValueError(f"maps: expected a tensor on {input.device} like the input, got {maps.device}")
    return maps[:, maps.shape[1] - classes :].to(torch.float64 if input.dtype == torch.float64 else torch.float32)


def _counted(ignored: Tensor | None, spatial: list[int]) -> int | Tensor:
    voxels = math.prod(spatial)
    return voxels if ignored is None else voxels - ignored.sum(spatial_axes(ignored))
