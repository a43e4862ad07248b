"""How a region loss and a distance loss share a training: the schedules of the papers, and the loss that follows
one.

Distance losses say little while a prediction is poor: trained alone they diverge or stay where they are. Every
paper joins them to a region loss (Dice, cross-entropy) and moves the weight from one to the other::

    loss = CompoundLoss(DiceLoss(softmax=True, to_onehot_y=True),
                        BoundaryLoss(softmax=True, to_onehot_y=True), LinearSchedule())
    for epoch in range(epochs):
        for image, labels, spacing in loader:
            loss(network(image), labels, spacing).backward()
            ...
        loss.step()  # in Lightning: in on_train_epoch_end

A schedule counts whatever ``step`` is called for: epochs or optimiser steps.

==========================  ==============================  =======================
schedule                    region weight                   distance weight
==========================  ==============================  =======================
:class:`ConstantSchedule`   1                               1
:class:`LinearSchedule`     1, falling by 0.01 to 0.01      the rest to 1
:class:`RebalanceSchedule`  1, falling by 0.01 to 0.1       0.01, growing by 0.01
:class:`IncreaseSchedule`   1                               0.01, growing by 0.01
:class:`RatioSchedule`      distance loss / region loss     1
==========================  ==============================  =======================
"""

from __future__ import annotations

import inspect
import math
import numbers
from typing import Any

import torch
from torch import Tensor

from .arguments import SpacingLike


class Schedule:
    """A count, and the weights that belong to it."""

    def __init__(self) -> None:
        """Start at 0."""
        self.count = 0

    def weights(self, count: int) -> tuple[float, float]:
        """Weights of region and distance loss after ``count`` steps.

        Args:
            count: epochs or steps.
        """
        raise NotImplementedError

    def combine(self, region: Tensor, distance: Tensor, weights: Tensor) -> Tensor:
        """The total of two losses.

        Args:
            region: the region loss.
            distance: the distance loss.
            weights: (2,), those of the present count.
        """
        return weights[0] * region + weights[1] * distance

    def step(self, count: int | None = None) -> None:
        """Go on by one, or to ``count``.

        Args:
            count: of epochs or steps, from 0.
        """
        if count is not None and (isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 0):
            raise ValueError(f"count: expected None or an int that is not negative, got {count!r}")
        self.count = self.count + 1 if count is None else int(count)

    def state_dict(self) -> dict[str, Any]:
        """The count and every option, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Args:
            state: what it returned.
        """
        if state.keys() != vars(self).keys():
            raise ValueError(
                f"state: expected {sorted(vars(self))}, those of a {type(self).__name__}, got {sorted(state)}"
            )
        vars(self).update(state)

    def __repr__(self) -> str:
        """Name, options and count."""
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


class ConstantSchedule(Schedule):
    """The same weights throughout.

    >>> from dtkernels.schedules import ConstantSchedule
    >>> ConstantSchedule(1.0, 0.5).weights(100)
    (1.0, 0.5)
    """

    def __init__(self, region: float = 1.0, distance: float = 1.0) -> None:
        """Choose the weights.

        Args:
            region: weight of the region loss.
            distance: weight of the distance loss.
        """
        super().__init__()
        self.region, self.distance = _number("region", region), _number("distance", distance)

    def weights(self, count: int) -> tuple[float, float]:
        """As :meth:`Schedule.weights`."""
        return self.region, self.distance


class LinearSchedule(Schedule):
    r"""From the region loss to the distance loss: :math:`\alpha L_R + (1 - \alpha) L_D`, alpha falling to a floor.

    References:
        Ma et al., How distance transform maps boost segmentation CNNs, MIDL 2020 (by 0.001 or 0.01 per epoch).

    >>> from dtkernels.schedules import LinearSchedule
    >>> schedule = LinearSchedule()
    >>> [schedule.weights(n) for n in (0, 50, 1000)]
    [(1.0, 0.0), (0.5, 0.5), (0.01, 0.99)]
    """

    def __init__(self, start: float = 1.0, change: float = 0.01, floor: float = 0.01) -> None:
        """Choose where alpha starts and how it falls.

        Args:
            start: alpha at 0.
            change: how much it falls in a step.
            floor: below which it does not fall.
        """
        super().__init__()
        self.start, self.change, self.floor = (
            _number("start", start), _number("change", change), _number("floor", floor)
        )  # fmt: skip

    def weights(self, count: int) -> tuple[float, float]:
        """As :meth:`Schedule.weights`."""
        alpha = max(self.floor, self.start - self.change * count)
        return alpha, 1.0 - alpha


class RebalanceSchedule(Schedule):
    r"""Both weights move: the region loss's down to a floor, the distance loss's up without end.

    References:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, Medical Image Analysis 67, 2021; the
        authors' code, whose floor is 0.1.

    >>> from dtkernels.schedules import RebalanceSchedule
    >>> schedule = RebalanceSchedule()
    >>> [tuple(round(w, 6) for w in schedule.weights(n)) for n in (0, 50, 200)]
    [(1.0, 0.01), (0.5, 0.51), (0.1, 2.01)]
    """

    def __init__(
        self, region: float = 1.0, distance: float = 0.01, change: float = 0.01, floor: float = 0.1
    ) -> None:
        """Choose where the weights start and how they move.

        Args:
            region: weight of the region loss at 0.
            distance: weight of the distance loss at 0.
            change: of both in a step.
            floor: below which the region loss's does not fall.
        """
        super().__init__()
        self.region, self.distance = _number("region", region), _number("distance", distance)
        self.change, self.floor = _number("change", change), _number("floor", floor)

    def weights(self, count: int) -> tuple[float, float]:
        """As :meth:`Schedule.weights`."""
        return max(self.floor, self.region - self.change * count), self.distance + self.change * count


class IncreaseSchedule(Schedule):
    """The distance loss's weight grows, the region loss's stays.

    References:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, Medical Image Analysis 67, 2021.

    >>> from dtkernels.schedules import IncreaseSchedule
    >>> IncreaseSchedule().weights(99)
    (1.0, 1.0)
    """

    def __init__(
        self, region: float = 1.0, distance: float = 0.01, change: float = 0.01, ceiling: float = math.inf
    ) -> None:
        """Choose where the weight starts and how it grows.

        Args:
            region: weight of the region loss.
            distance: weight of the distance loss at 0.
            change: its growth in a step.
            ceiling: above which it does not grow.
        """
        super().__init__()
        self.region, self.distance = _number("region", region), _number("distance", distance)
        self.change, self.ceiling = _number("change", change), ceiling

    def weights(self, count: int) -> tuple[float, float]:
        """As :meth:`Schedule.weights`."""
        return self.region, min(self.ceiling, self.distance + self.change * count)


class RatioSchedule(Schedule):
    r"""Region and distance loss of the same size: :math:`\alpha L_R + L_D` with :math:`\alpha = |L_D| / L_R`.

    Alpha is computed anew in every call and without a gradient, so a Dice loss of 0.5 and a Hausdorff loss of 100
    make 200, whose derivative is 200 with respect to the one and 1 with respect to the other. Nothing is read back
    to the host. A region loss of 0 (below 1e-6) counts as that.

    References:
        Ma et al., How distance transform maps boost segmentation CNNs, MIDL 2020; Karimi & Salcudean 2019.

    >>> import torch
    >>> from dtkernels.schedules import RatioSchedule
    >>> dice, hausdorff = torch.tensor(0.5, requires_grad=True), torch.tensor(100.0, requires_grad=True)
    >>> total = RatioSchedule().combine(dice, hausdorff, torch.ones(2))
    >>> total.backward()
    >>> total.item(), dice.grad.item(), hausdorff.grad.item()
    (200.0, 200.0, 1.0)
    """

    def weights(self, count: int) -> tuple[float, float]:
        """Of the region loss, beside the ratio, and of the distance loss: 1 and 1."""
        return 1.0, 1.0

    def combine(self, region: Tensor, distance: Tensor, weights: Tensor) -> Tensor:
        """As :meth:`Schedule.combine`."""
        alpha = distance.detach().abs() / region.detach().abs().clamp(min=1e-6)
        return super().combine(alpha * region, distance, weights)


class CompoundLoss(torch.nn.Module):
    """A region loss and a distance loss under a schedule.

    The weights are a buffer: they go to a device with the module, :meth:`step` changes them in place, so that
    neither a compiled nor a captured training step is made anew, and nothing is read back to the host. The
    module's own ``state_dict`` carries the schedule.

    >>> import torch
    >>> from dtkernels.losses import BoundaryLoss, GeneralizedSurfaceLoss
    >>> from dtkernels.schedules import CompoundLoss, LinearSchedule
    >>> loss = CompoundLoss(GeneralizedSurfaceLoss(), BoundaryLoss(), LinearSchedule(change=0.5))
    >>> mask = torch.zeros(1, 1, 1, 6)
    >>> mask[..., 2:5] = 1
    >>> p = torch.full_like(mask, 0.5)
    >>> print(f"{loss(p, mask, spacing=2.0):.4f}", loss.weights)
    0.7500 tensor([1., 0.])
    >>> loss.step()
    >>> print(f"{loss(p, mask, spacing=2.0):.4f}", loss.weights)
    0.5000 tensor([0.5000, 0.5000])
    """

    weights: Tensor

    def __init__(
        self, region: torch.nn.Module, distance: torch.nn.Module, schedule: Schedule | None = None
    ) -> None:
        """Join two losses.

        Args:
            region: any loss of input and target; MONAI's and torch's do.
            distance: a loss of :mod:`dtkernels.losses`, or any.
            schedule: default: :class:`LinearSchedule`.
        """
        super().__init__()
        self.region, self.distance = region, distance
        self.schedule = LinearSchedule() if schedule is None else schedule
        self.register_buffer("weights", torch.tensor(self.schedule.weights(self.schedule.count)), persistent=False)
        self._spaced = _takes_spacing(region), _takes_spacing(distance)

    def forward(self, input: Tensor, target: Tensor, spacing: SpacingLike = None) -> Tensor:
        """The total loss.

        Args:
            input: as the two losses take it.
            target: as the two losses take it.
            spacing: given to those losses that have a ``spacing``.
        """
        return self.schedule.combine(*self.terms(input, target, spacing), self.weights)

    def terms(self, input: Tensor, target: Tensor, spacing: SpacingLike = None) -> tuple[Tensor, Tensor]:
        """Region and distance loss, without their weights.

        Args:
            input: as in :meth:`forward`.
            target: as in :meth:`forward`.
            spacing: as in :meth:`forward`.
        """
        region = self.region(input, target, spacing) if self._spaced[0] else self.region(input, target)
        return region, self.distance(input, target, spacing) if self._spaced[1] else self.distance(input, target)

    def step(self, count: int | None = None) -> None:
        """Let the schedule go on by an epoch or a step, see :meth:`Schedule.step`.

        Args:
            count: of epochs or steps, from 0; default: one more.
        """
        self.schedule.step(count)
        self._follow()

    def get_extra_state(self) -> dict[str, Any]:
        """The schedule's state, for ``state_dict``."""
        return self.schedule.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Args:
            state: what :meth:`get_extra_state` returned.
        """
        self.schedule.load_state_dict(state)
        self._follow()

    def _follow(self) -> None:
        with torch.no_grad():
            for weight, value in zip(self.weights, self.schedule.weights(self.schedule.count), strict=True):
                weight.fill_(value)


def _takes_spacing(loss: torch.nn.Module) -> bool:
    return "spacing" in inspect.signature(loss.forward).parameters


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return float(value)
