"""What the CUDA path is required to reach, as data, and whether the rows of a measured run do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dtkernels.maps import CONVENTIONS

from . import masks


class Target(NamedTuple):
    """``quantity`` of the row ``key`` is at most ``most``, or at least ``least``.

    With ``over``, the quantity is taken over that of another row.
    """

    name: str
    key: str
    quantity: str
    most: float | None = None
    least: float | None = None
    goal: float | None = None
    over: str | None = None


VOLUMES, VOLUME, LARGE, SLICES = "16x128x128x128", "1x128x128x128", "1x256x256x256", "256x1024x1024"
# SAM 3's Triton transform of 256 x 1024^2 on an H100, by its docstring: facebookresearch/sam3, sam3/model/edt.py.
PUBLISHED_US = 322e3

TARGETS = (
    *(
        Target(
            f"16 x 128^3 signed, {kind}, over 5 bytes a voxel", f"sdf {kind} {VOLUMES}", "times_floor", 8, goal=3
        )
        for kind in ("organ", "ellipsoids", "noise")
    ),
    Target("one 128^3 signed, graph replay, us", f"sdf organ {VOLUME}", "microseconds_graph", 40),
    Target("16 x 128^3, CuPy's loop over ours", f"edt organ {VOLUMES}", "cupy_over_ours", least=20),
    Target("one 128^3, CuPy over ours", f"edt organ {VOLUME}", "cupy_over_ours", least=3),
    Target("one 256^3, CuPy over ours", f"edt organ {LARGE}", "cupy_over_ours", least=3),
    Target("Hausdorff loss (4, 2, 128^3), MONAI over ours", "loss HausdorffDTLoss", "monai_over_ours", least=100),
    Target("256 x 1024^2, us: published time by 50", f"edt organ {SLICES}", "microseconds", PUBLISHED_US / 50),
    *(
        Target(
            f"16 x 128^3 signed, {kind} over organ", f"sdf {kind} {VOLUMES}", "microseconds", 4,
            over=f"sdf organ {VOLUMES}",
        )
        for kind in masks.KINDS
        if kind != "organ"
    ),
    *(
        Target(
            f"16 x 128^3, map {name} over sdf", f"map {name} organ {VOLUMES}", "microseconds",
            2 if convention.options.normalize.startswith("component") else 1.3, over=f"sdf organ {VOLUMES}",
        )
        for name, convention in CONVENTIONS.items()
    ),
)  # fmt: skip


def judge(target: Target, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The measured value and whether it meets the requirement; why not, where there is none."""
    required = f"at most {target.most:g}" if target.most is not None else f"at least {target.least:g}"
    verdict: dict[str, Any] = {"target": target.name, "required": required, "goal": target.goal}
    for key in (target.key, target.over or target.key):
        if key not in rows:
            return {**verdict, "state": "not measured", "why": f"no row {key!r}"}
        if rows[key].get(target.quantity) is None:
            reasons = [
                rows[key].get(k)
                for k in ("failed", "error", "absent")
                if k == "failed" or "over_ours" in target.quantity
            ]
            why = next((r for r in reasons if r), f"no {target.quantity} in row {key!r}")
            return {**verdict, "state": "not measured", "why": why}
    value = rows[target.key][target.quantity] / (rows[target.over][target.quantity] if target.over else 1)
    met = (target.most is None or value <= target.most) and (target.least is None or value >= target.least)
    return {**verdict, "value": value, "state": "met" if met else "NOT MET"}
