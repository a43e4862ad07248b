r"""From options to coefficients: the mathematics of every distance map, once, whoever evaluates it.

A map is a function of the signed distance, the same for all voxels of one side of an image. With the distance
:math:`d \ge 0` to the nearest voxel of the other side, it is

.. math:: f(d) = \min(\max(\frac{a\,d + b \cdot v}{c \cdot v} + e,\; l),\; h), \qquad v = (1, M, s, D),

where :math:`M` is the largest finite :math:`d` of that side (of the sample and class, of the batch, or of the
voxel's connected component), :math:`s` the spacing and :math:`D` the diagonal of the image. The numbers
:math:`a, b, c, e, l, h` depend on the options alone, so they are made here, on the host, without a look at the
data; ``M``, ``s`` and ``D`` stay on the device. Where :math:`c \cdot v` is zero or negative (0/0: a side that is
one voxel thick has :math:`M - 1 = 0`), the map is the constant ``degenerate``. Voxels without any voxel of the
other side in their image get ``empty`` or ``full``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import NamedTuple

from .arguments import check_connectivity

Vector = tuple[float, float, float, float]  # coefficients of (1, M, s, D)

ZERO: Vector = (0.0, 0.0, 0.0, 0.0)
ONE: Vector = (1.0, 0.0, 0.0, 0.0)
MAXIMUM: Vector = (0.0, 1.0, 0.0, 0.0)
SPACING: Vector = (0.0, 0.0, 1.0, 0.0)
DIAGONAL: Vector = (0.0, 0.0, 0.0, 1.0)


class Options(NamedTuple):
    """What a map is made of; :func:`dtkernels.distance_map` documents each."""

    boundary: str = "none"
    inside: str = "negative"
    outside: str = "opposite"
    normalize: str = "none"
    profile: str = "distance"
    scope: str = "sample-and-class"
    connectivity: int | None = None
    truncate: float | None = None
    on_empty: str | float = "inf"
    on_full: str | float = "inf"
    border: str = "open"
    weight: float = 1.0
    amplitude: float = 10.0
    sigma: float = 5.0


# What each option may be; the others are numbers.
CHOICES: dict[str, tuple[str, ...]] = {
    "boundary": ("none", "inner_zero", "shift", "half", "inner_contour"),
    "inside": ("negative", "positive"),
    "outside": ("opposite", "same", "zero"),
    "normalize": (
        "none", "max", "per_side_max", "unit", "rectified",
        "component_max", "component_inverse", "component_complement", "diagonal",
    ),
    "profile": ("distance", "penalty", "gaussian", "indicator"),
    "scope": ("sample-and-class", "sample", "batch"),
    "border": ("open", "closed"),
}  # fmt: skip
POLICIES = ("zeros", "ones", "inf", "nan", "diagonal", "error")


class Side(NamedTuple):
    """The function of one side: ``(slope d + offset . v) / (divisor . v) + add``."""

    slope: float
    offset: Vector = ZERO
    divisor: Vector = ONE
    add: float = 0.0
    degenerate: float = 0.0  # where divisor . v is not positive


class Formula(NamedTuple):
    """A map in numbers. The layout of its floats is that of ``csrc/dtk/formula.h``."""

    inside: Side
    outside: Side
    low: float = -math.inf
    high: float = math.inf
    limit: float = math.inf  # of the absolute values of empty and full
    edge: float = 0.0  # on inner boundary voxels, where boundary is "inner_zero"
    empty: tuple[float, float] = (math.inf, 0.0)  # and a multiple of D
    full: tuple[float, float] = (-math.inf, 0.0)
    rate: float = 0.0  # not 0: slope exp(rate d^2) + add instead
    shared: bool = False  # both sides are divided by the larger of the two divisors

    def floats(self) -> list[float]:
        """All numbers in a row, for kernels."""
        result: list[float] = []
        for side in (self.inside, self.outside):
            result += [side.slope, *side.offset, *side.divisor, side.add, side.degenerate]
        result += [self.low, self.high, self.limit, self.edge, *self.empty, *self.full, self.rate]
        return [*result, float(self.shared)]

    @property
    def one_sided(self) -> float | None:
        """The constant that the map is outside, None where it depends on the distance there."""
        return self.outside.add if self.outside.slope == 0 else None

    @property
    def uses_maxima(self) -> bool:
        """Whether any number depends on M."""
        return any(v[1] for side in (self.inside, self.outside) for v in (side.offset, side.divisor))

    @property
    def is_identity(self) -> bool:
        """Whether the map is the signed distance itself."""
        return self == Formula(Side(-1.0), Side(1.0))


def formula(options: Options) -> Formula:
    """The numbers of a map; the options are known to fit together."""
    o = options
    inner = -1.0 if o.inside == "negative" else 1.0
    outer = {"opposite": -inner, "same": inner, "zero": 0.0}[o.outside]
    result = _PROFILES[o.profile](o, inner, outer)
    limit = math.inf if o.truncate is None else o.truncate
    return result._replace(
        low=max(result.low, -limit),
        high=min(result.high, limit),
        limit=limit,
        edge=min(result.edge, limit),
        empty=_fill(o, o.on_empty, result.outside, outer),
        full=_fill(o, o.on_full, result.inside, inner),
    )


def _distance(o: Options, inner: float, outer: float) -> Formula:
    half = _times(0.5, SPACING)
    inner_shift = {"shift": ONE, "half": half}.get(o.boundary, ZERO)
    outer_shift = {"half": half}.get(o.boundary, ZERO)
    inside = Side(inner, _times(-inner, inner_shift))
    outside = Side(outer, _times(-outer, outer_shift))
    # The largest value that a side has.
    inner_top, outer_top = _plus(MAXIMUM, _times(-1.0, inner_shift)), _plus(MAXIMUM, _times(-1.0, outer_shift))

    low, high, edge, shared = -math.inf, math.inf, 0.0, False
    if o.normalize in ("max", "per_side_max", "unit", "rectified", "component_max"):
        inside, outside = inside._replace(divisor=inner_top), outside._replace(divisor=outer_top)
        low, high, shared = -1.0, 1.0, o.normalize == "max" and outer != 0
    if o.normalize == "unit":
        inside, outside = (_scaled(side, 0.5)._replace(add=0.5, degenerate=0.5) for side in (inside, outside))
        low, edge = 0.0, 0.5
    elif o.normalize == "rectified":
        outside = Side(0.0, add=1.0)
    elif o.normalize in ("component_inverse", "component_complement"):
        inside = Side(-inner, _times(inner, _plus(MAXIMUM, ONE)))
        if o.normalize == "component_inverse":
            inside, outside = inside._replace(divisor=MAXIMUM), outside._replace(divisor=MAXIMUM)
    elif o.normalize == "diagonal":
        inside, outside = inside._replace(divisor=DIAGONAL), outside._replace(divisor=DIAGONAL)
    if outer == 0 and o.normalize != "rectified":
        outside = Side(0.0)
    return Formula(inside, outside, low=low, high=high, edge=edge, shared=shared)


def _penalty(o: Options, inner: float, outer: float) -> Formula:
    side = Side(-1.0, MAXIMUM, _plus(MAXIMUM, _times(-1.0, ONE)), add=1.0, degenerate=2.0)
    return Formula(side, side)


def _gaussian(o: Options, inner: float, outer: float) -> Formula:
    side = Side(o.amplitude, add=o.weight)
    return Formula(side, side, rate=-0.5 / o.sigma**2)


def _indicator(o: Options, inner: float, outer: float) -> Formula:
    return Formula(Side(0.0), Side(0.0, add=1.0))


def of_own_distance(o: Options, f: Formula, equal: bool) -> bool:
    """Whether a map takes no more than a voxel's own signed distance; ``equal``: spacing is known to be equal.

    At equal spacing the foreground of an inner boundary is what lies one step from the background; and the face
    through which the way to the nearest voxel leads is half a step away from it.
    """
    return (
        not f.uses_maxima and o.boundary != "inner_contour" and (equal or o.boundary not in ("inner_zero", "half"))
    )


_PROFILES = {"distance": _distance, "penalty": _penalty, "gaussian": _gaussian, "indicator": _indicator}


def _fill(o: Options, policy: str | float, side: Side, sign: float) -> tuple[float, float]:
    """The value of a class that is missing, or is all there is: a constant and a multiple of the diagonal."""
    if not isinstance(policy, str):
        return float(policy), 0.0
    if policy in ("zeros", "ones", "nan"):
        return {"zeros": 0.0, "ones": 1.0, "nan": math.nan}[policy], 0.0
    if side.slope == 0 or o.profile == "gaussian":  # what the function is for any, or an infinite distance
        return side.add, 0.0
    sign = sign if o.profile == "distance" else 1.0
    if policy == "diagonal":
        return (sign, 0.0) if o.normalize == "diagonal" else (0.0, sign)
    return sign * math.inf, 0.0


def _times(factor: float, v: Sequence[float]) -> Vector:
    return factor * v[0], factor * v[1], factor * v[2], factor * v[3]


def _plus(v: Vector, w: Vector) -> Vector:
    return v[0] + w[0], v[1] + w[1], v[2] + w[2], v[3] + w[3]


def _scaled(side: Side, factor: float) -> Side:
    return side._replace(slope=factor * side.slope, offset=_times(factor, side.offset))


def check(options: Options, dims: int) -> Options:
    """The options with their defaults resolved; ValueError where one is unknown or two exclude each other."""
    o = options
    for name, choices in CHOICES.items():
        check_name(name, getattr(o, name), choices)
    for name in ("on_empty", "on_full"):
        value = getattr(o, name)
        if isinstance(value, str):
            check_name(name, value, POLICIES, "or a number")
        elif not math.isfinite(value):  # "inf" takes the sign of its side, and a number keeps its own
            raise ValueError(f"{name}: expected a finite number or one of {', '.join(POLICIES)}, got {value}")
    for name in ("truncate", "sigma", "amplitude", "weight"):
        value = getattr(o, name)
        least = -math.inf if name in ("amplitude", "weight") else 0.0
        if value is not None and not least < value < math.inf:
            raise ValueError(f"{name}: expected a {'finite' if least else 'positive finite'} number, got {value}")
    if not 1e-18 <= o.sigma <= 1e18:  # as spacings: its square is a float32
        raise ValueError(f"sigma: expected a number in [1e-18, 1e18], got {o.sigma}")
    check_connectivity(o.connectivity, dims)
    for condition, message in _impossible(o):
        if condition:
            raise ValueError(message)
    return o._replace(connectivity=dims if o.connectivity is None else o.connectivity)


def check_name(name: str, value: str, choices: Sequence[str], more: str = "") -> None:
    """One of the words that an option knows; the error names the closest."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, 3, 0.4)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f"{name}: expected one of {', '.join(choices)}{' ' + more if more else ''}, got {value!r}{hint}"
        )


def _impossible(o: Options) -> tuple[tuple[bool, str], ...]:
    inverse = o.normalize in ("component_inverse", "component_complement")
    return (
        (
            o.profile != "distance" and (o.boundary != "none" or o.normalize != "none"),
            f"profile: expected 'distance' with boundary={o.boundary!r} and normalize={o.normalize!r}, which say "
            f"what becomes of a distance, got {o.profile!r}",
        ),
        (
            o.normalize in ("unit", "rectified") and o.outside != "opposite",
            f"outside: expected 'opposite' with normalize={o.normalize!r}, which decides what is outside, "
            f"got {o.outside!r}",
        ),
        (
            inverse and o.boundary != "none",
            f"boundary: expected 'none' with normalize={o.normalize!r}, which is largest at the boundary, "
            f"got {o.boundary!r}",
        ),
        (
            o.profile == "gaussian" and "diagonal" in (o.on_empty, o.on_full),
            "on_empty, on_full: expected no 'diagonal' with profile='gaussian', whose values are no distances",
        ),
    )
