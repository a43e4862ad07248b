"""Speed of the CPU backend against every peer in one process: ``python -m bench.cpu [--quick] [--save FILE]``.

One thread unless a row says otherwise. Every row runs our transform and its peers in turn, round after round,
and prints the peer's median over ours. Where a row carries a requirement the run fails when it does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import edt as edt_peer
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import ndimage

import dtkernels as dtk

from . import masks, measure

ANISOTROPIC = (3.0, 0.8, 0.8)


class Case(NamedTuple):
    """One row: a mask, an operator, and how much faster than each peer it must be (0: only reported)."""

    kind: str
    shape: tuple[int, ...]
    signed: bool
    spacing: tuple[float, ...] | None = None
    batch: int = 1
    allocate: bool = False
    required: Mapping[str, float] = MappingProxyType({})

    @property
    def title(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"{self.batch} x ({size})" if self.batch > 1 else size


# The faster of edt's forms: unsigned on bool or uint8; signed by sdf or by the multi-label transform of m + 1.
BEST = "best edt"
# The masks that the requirement on every mask names; the others are reported, however they turn out.
HELD = ("organ", "ellipsoids", "noise", "one_foreground", "one_hole", "spheres")


def cases(quick: bool) -> Iterator[Case]:
    """The rows, headline first."""
    organ = ("organ", (128, 128, 128))
    yield Case(*organ, False, required={"edt.edt": 12, "scipy": 120})
    yield Case(*organ, True, required={"edt.sdf": 15, "edt.edtsq(m+1)": 8, "scipy": 80})
    yield Case(*organ, False, allocate=True, required={"edt.edt": 6})
    yield Case(*organ, True, allocate=True, required={"edt.sdf": 12})
    yield Case("organ", (35, 51, 35), False, batch=64, required={"edt.edt": 4})
    yield Case("organ", (35, 51, 35), True, batch=64, required={"edt.sdf": 10})
    shapes: list[tuple[int, ...]] = [(64,) * 3, (128,) * 3, (1024,) * 2]
    if not quick:
        shapes += [(256,) * 3, (4096,) * 2]
    for shape in shapes:
        for kind in masks.KINDS:
            for spacing in (None, ANISOTROPIC[-len(shape) :]):
                for signed in (False, True):
                    yield Case(kind, shape, signed, spacing, required={BEST: 8} if kind in HELD else {})


def batch_of(case: Case) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([masks.make(case.kind, case.shape, seed=i) for i in range(case.batch)])


def peers(case: Case, images: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, Callable[[], Any]]:
    spacing = case.spacing or (1.0,) * len(case.shape)
    as_bool = images.astype(bool)
    result: dict[str, Callable[[], Any]] = {}

    def loop(function: Callable[..., Any], arrays: Any, **options: Any) -> Callable[[], Any]:
        return lambda: [function(a, **options) for a in arrays]

    options = {"anisotropy": spacing, "parallel": 1}
    if case.signed:
        result["edt.sdf"] = loop(edt_peer.sdf, images, **options)
        result["edt.edtsq(m+1)"] = loop(lambda a, **o: edt_peer.edtsq(a + np.uint8(1), **o), images, **options)
    else:
        result["edt.edt"] = loop(edt_peer.edt, images, **options)
        result["edt.edt(bool)"] = loop(edt_peer.edt, as_bool, **options)
    if "scipy" in case.required:
        result["scipy"] = loop(lambda a: _scipy(a, spacing, case.signed), as_bool)
    return result


def _scipy(mask: Any, spacing: Any, signed: bool) -> Any:
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return ndimage.distance_transform_edt(~mask, sampling=spacing) - inside if signed else inside


def run_case(case: Case, rounds: int) -> dict[str, Any]:
    """Time one row; the result is plain numbers."""
    images = batch_of(case)
    mask = torch.from_numpy(images)
    out = None if case.allocate else torch.empty(mask.shape)
    function = dtk.sdf if case.signed else dtk.edt
    dims = len(case.shape)
    contenders: dict[str, Callable[[], Any]] = {
        "dtkernels": lambda: function(mask, case.spacing, spatial_dims=dims, out=out),
        **peers(case, images),
    }
    times = measure.side_by_side(contenders, rounds=rounds, slow_seconds=1.0)
    ours = times.pop("dtkernels")
    ratios = {name: t.median / ours.median for name, t in times.items()}
    best = min((n for n in ratios if n.startswith("edt")), key=lambda n: ratios[n])
    ratios[BEST] = ratios[best]
    return {
        "mask": case.kind,
        "shape": list(case.shape),
        "batch": case.batch,
        "operator": "sdf" if case.signed else "edt",
        "spacing": list(case.spacing) if case.spacing else None,
        "output": "allocated" if case.allocate else "given",
        "milliseconds": ours.median * 1e3,
        "nanoseconds_per_voxel": ours.median * 1e9 / mask.numel(),
        "spread": ours.spread,
        "ratios": ratios,
        "required": dict(case.required),
        "holds": all(ratios[name] >= least for name, least in case.required.items()),
    }


def run_threads(rounds: int) -> dict[str, Any]:
    """Two threads against one on large volumes, beside what memory allows: a copy from uint8 to float32."""
    out = torch.empty(256, 256, 256)
    organ, spheres = (torch.from_numpy(masks.make(kind, tuple(out.shape))) for kind in ("organ", "spheres"))
    contenders: dict[str, Callable[[], Any]] = {
        "sdf organ": lambda: dtk.sdf(organ, out=out),
        "edt organ": lambda: dtk.edt(organ, out=out),
        "edt spheres": lambda: dtk.edt(spheres, out=out),
        "copy": lambda: out.copy_(organ),
    }

    def with_threads(n: int, run: Callable[[], Any]) -> Callable[[], Any]:
        def run_with_threads() -> None:
            torch.set_num_threads(n)
            run()

        return run_with_threads

    turns = {f"{name} {n}": with_threads(n, run) for name, run in contenders.items() for n in (1, 2)}
    times = measure.side_by_side(turns, rounds=rounds)
    torch.set_num_threads(1)
    ratios = {name: times[f"{name} 1"].median / times[f"{name} 2"].median for name in contenders}
    ratio = ratios.pop("sdf organ")
    return {"one_over_two_threads": ratio, "others": ratios, "required": 1.6, "holds": ratio >= 1.6}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="sizes to 128^3 and 1024^2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", type=Path, help="result file (JSON)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table(title="Time of the peer over ours (one thread; ratios above 1: dtkernels is faster)")
    for column in ("mask", "operator", "spacing", "output"):
        table.add_column(column)
    for column in ("ms", "ns/voxel", "spread", "ratios", "required", "holds"):
        table.add_column(column, justify="right")
    rows = []
    for case in cases(arguments.quick):
        row = run_case(case, arguments.rounds)
        rows.append(row)
        ratios = ", ".join(f"{n} {r:.1f}" for n, r in row["ratios"].items() if n != BEST)
        required = ", ".join(f"{n} {r:g}" for n, r in case.required.items())
        table.add_row(
            f"{case.kind} {case.title}",
            row["operator"],
            "unit" if case.spacing is None else str(case.spacing),
            row["output"],
            f"{row['milliseconds']:.3f}",
            f"{row['nanoseconds_per_voxel']:.2f}",
            f"{row['spread']:.0%}",
            ratios,
            required,
            "yes" if row["holds"] else "NO",
        )
        console.print(f"{case.kind} {case.title} {row['operator']}: {ratios}", highlight=False)
    threads = run_threads(arguments.rounds)
    console.print(table)
    others = ", ".join(f"{name} {ratio:.2f} x" for name, ratio in threads["others"].items())
    console.print(
        f"two threads, 256 x 256 x 256: sdf organ {threads['one_over_two_threads']:.2f} x (required 1.6), {others}"
    )
    failed = [r for r in rows if not r["holds"]]
    for row in failed:
        console.print(f"does not hold: {row}")
    count = len(failed) + (not threads["holds"])
    held = sum(bool(r["required"]) for r in rows) + 1
    console.print(f"{held - count} requirements hold, {count} fail")
    if arguments.save:
        measure.save(arguments.save, {"rows": rows, "threads": threads})
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
