"""What the CUDA path costs without a GPU: bytes per voxel from the launch plan, work from the emulator.

``python -m bench.model [--side 64] [--solver strips] [--apart]`` prints, for every benchmark mask, the global
memory traffic, the counted work per voxel and what both predict for 16 x 128^3 on an H200; with ``--traffic`` the
counted accesses instead: bytes that memory moves, sectors, wavefronts of shared memory, and the lines of the
kernels that take most of them; with ``--maps`` every named map of the organ, over the plain signed transform. The
instructions that a unit of work takes are read off the disassembly for sm_90 (``INSTRUCTIONS``, signed int32); a
prediction is no measurement. ``tests/test_kernel_budgets.py`` holds the counts to written budgets.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench import masks
from dtkernels import formula
from dtkernels.maps import CONVENTIONS
from dtkernels.plans import transform as plans
from dtkernels.plans import weigh as weigh_plans

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

VOXELS = 16 * 128**3
# What a copy on an H200 reads plus writes: assumed, nine tenths of its data sheet's 4.8 TB/s. bench.cuda measures.
BYTES_PER_SECOND = 4.3e12
# 132 multiprocessors of four schedulers, one instruction for 32 lanes each per clock, and the share of slots
# that kernels with barriers have been seen to fill.
LANES_PER_SECOND = 132 * 4 * 32 * 1.755e9 * 0.7

# Wavefronts of shared memory: one per clock of a multiprocessor.
WAVEFRONTS_PER_SECOND = 132 * 1.755e9

# Instructions of a lane (sm_90, signed int32): per voxel of an image, then per counted unit.
INSTRUCTIONS = {
    "scan": 12.5,
    "load": 12.0,
    "store": 40.0,
    "strips": 330.0,  # eight voxels of a line with work: own values, reach, bounds, results
    "intervals": 100.0,
    "candidates": 9.5,  # 37 instructions for four sites of a search
    "strip_candidates": 2.75,  # 88 for four sites and eight voxels: one min-plus, 1.3 multiply-adds
}

COUNTED = ("strips", "intervals", "candidates", "strip_candidates")

# The same of packed slices, where a unit is one for two lines, with strips of eight voxels and of sixteen.
_STRIPS_OF_8 = {
    "scan": 12.5,
    "store": 17.0,
    "pair_strips": 322.0,  # columns 395 and rows 250: 16 voxels from codes or words, their reach, and back again
    "pair_ends": 84.0,  # the ends of the run of a strip of one class
    "pair_mixed": 138.0,  # of a strip of both classes
    "pair_neighbours": 60.0,
    "pair_positions": 110.0,  # searches of the coarse stage
    "pair_candidates": 8.0,  # 32 for four
    "pair_sites": 24.5,  # of the fine stage, for 16 voxels: 49 for two
}
_STRIPS_OF_16 = {
    **_STRIPS_OF_8,
    "pair_strips": 495.0,  # columns 630 and rows 360
    "pair_ends": 146.0,
    "pair_mixed": 256.0,
    "pair_neighbours": 120.0,
    "pair_sites": 40.5,  # for 32 voxels
}
PACKED_INSTRUCTIONS = {8: _STRIPS_OF_8, 16: _STRIPS_OF_16}
PACKED_COUNTED = tuple(_STRIPS_OF_8)[2:]

# What a map takes besides, per voxel: where the transform writes it, or in a pass over distances.
MAP_INSTRUCTIONS = {"line": 17.0, "divided": 28.0, "gaussian": 42.0}
PASS_INSTRUCTIONS = {kind: 28.0 + own for kind, own in MAP_INSTRUCTIONS.items()}
EXTREMA_INSTRUCTIONS = 8.5  # what the largest distances of an image add to a transform
PASS_BYTES = 8  # a distance in, a map out

_FORMAT_BYTES = {plans.RUNS_8: 1, plans.RUNS_16: 2, plans.SQUARES_16: 2, plans.SQUARES_32: 4}


def bytes_per_voxel(plan: plans.Plan, element: int) -> float:
    """Global bytes that the launches read and write for a voxel of an image of ``element`` bytes."""
    total = 0
    for step in plan.steps:
        if "scan" in step.kernel:
            total += element + (1 if "uint8_t" in step.kernel else 2)
            total += 4 if "scan_long" in step.kernel else 0  # codes are read again and finished
        elif "packed_slices" in step.kernel:
            total += (1 if "uint8_t" in step.kernel else 2) + 4
        elif "slices" in step.kernel:
            source = plans._SLICES.unpack(step.constant[-plans._SLICES.size :])[7]
            total += _FORMAT_BYTES[source] + 4
        else:
            fields = plans._LINES.unpack(step.constant[-plans._LINES.size :])
            source, target = fields[13:15]
            total += element if source == plans.FROM_IMAGE else _FORMAT_BYTES[source]
            total += _FORMAT_BYTES[target]
    return total


def bytes_of_sums(plan: weigh_plans.SumsPlan, element: int) -> float:
    """The same of sums weighed by distances, of a target of ``element`` bytes and a float32 prediction."""
    if plan.target is None:
        return bytes_per_voxel(plan.weighed, element) + 4
    first, last = plan.target.steps[-1].kernel, plan.weighed.steps[-1].kernel
    other = 4 if "scan" not in first else 1 if "uint8_t" in last else 2  # the target's map, or run codes
    return bytes_per_voxel(plan.target, element) + bytes_per_voxel(plan.weighed, 4) + 4 + other


def kind_of(f: formula.Formula) -> str:
    """What a formula takes of a voxel."""
    divided = (f.inside.divisor, f.outside.divisor) != (formula.ONE, formula.ONE)
    return "gaussian" if f.rate else "divided" if divided else "line"


def microseconds_of_map(name: str, work: dict[str, float], plan: plans.Plan) -> tuple[float, float, float]:
    """Bytes per voxel of a map at unit spacing, and its predicted time by memory and by instructions.

    ``work`` and ``plan`` are those of its transform, signed or not. Contours and components are not in it.
    """
    o = CONVENTIONS[name].options
    f = formula.formula(o)
    moved, lanes = bytes_per_voxel(plan, 1), instructions(work)
    if formula.of_own_distance(o, f, equal=True):
        lanes += 0 if name in ("edt", "edt_diff") else MAP_INSTRUCTIONS[kind_of(f)]
        return moved, *_microseconds(moved, lanes)
    lanes += EXTREMA_INSTRUCTIONS if f.uses_maxima else 0
    first, second = _microseconds(moved, lanes), _microseconds(PASS_BYTES, PASS_INSTRUCTIONS[kind_of(f)])
    return moved + PASS_BYTES, first[0] + second[0], max(*first) + max(*second)


def count(
    library: Any, kind: str, side: int, signed: bool, fused: bool, solver: str | None = None
) -> dict[str, float]:
    """Counted work per voxel, barriers per block and launches for one mask of ``side``^3 on the emulator."""
    import emulated

    mask = masks.make(kind, (side, side, side))
    library.reset_statistics()
    options = emulated.Options(signed=signed, fused=fused, solver=solver)
    emulated.transform(library, emulated.as_image(mask), 3, options)
    work = dict.fromkeys((*COUNTED, *PACKED_COUNTED), 0.0)
    launches, barriers, strip = 0, 0.0, 0
    for name, statistics in library.statistics().items():
        if "packed_slices" in name:
            strip = 16 if ", 16" in name else 8
        launches += statistics["launches"]
        for key, value in statistics.get("counters", {}).items():
            work[key] += value / mask.size
        if "scan" not in name:
            barriers = max(barriers, statistics["barriers"] / statistics["blocks"])
    return {**work, "launches": launches, "barriers": barriers, "strip": strip}


def traffic(
    library: Any, kind: str, side: int, signed: bool, fused: bool, solver: str | None = None
) -> dict[str, dict[str, Any]]:
    """Statistics by kernel of one mask of ``side``^3, of a library built in mode "traffic"."""
    import emulated

    library.reset_statistics()
    options = emulated.Options(signed=signed, fused=fused, solver=solver)
    mask = masks.make(kind, (side, side, side))
    emulated.transform(library, emulated.aligned(emulated.as_image(mask)), 3, options)
    return dict(library.statistics())


def instructions(work: dict[str, float]) -> float:
    """Instructions of a lane per voxel."""
    if any(work[k] for k in COUNTED):
        fixed = INSTRUCTIONS["scan"] + INSTRUCTIONS["load"] + INSTRUCTIONS["store"]
        return fixed + sum(INSTRUCTIONS[k] * work[k] for k in COUNTED)
    table = PACKED_INSTRUCTIONS[int(work["strip"])]
    return table["scan"] + table["store"] + sum(table[k] * work[k] for k in PACKED_COUNTED)


def microseconds(work: dict[str, float], bytes_moved: float) -> tuple[float, float]:
    """Predicted time of 16 x 128^3 by memory and by instructions; the larger of the two is the prediction."""
    return _microseconds(bytes_moved, instructions(work))


def _microseconds(bytes_moved: float, lanes: float) -> tuple[float, float]:
    return VOXELS * bytes_moved / BYTES_PER_SECOND * 1e6, VOXELS * lanes / LANES_PER_SECOND * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--solver", choices=(*plans.SOLVERS, *plans.FORCED))
    parser.add_argument("--apart", action="store_true", help="a kernel for each axis")
    parser.add_argument("--traffic", metavar="MASK", choices=masks.KINDS, help="count the accesses of this mask")
    parser.add_argument("--lines", type=int, default=8, help="of each kernel, with --traffic")
    parser.add_argument("--maps", action="store_true", help="named maps instead of masks")
    arguments = parser.parse_args()
    import emulated

    if arguments.traffic:
        print_traffic(arguments)
        return
    library = emulated.Library()
    problem = emulated.problems.Problem(
        emulated.problems.Image(
            0, emulated.DType.UINT8, (16, 1, 128, 128, 128), tuple(128**k for k in (3, 3, 2, 1, 0))
        ),
        3,
        emulated.problems.Spacing(),
        True,
        False,
        False,
        0,
    )
    the_plan = plans.plan(problem, emulated.H200, None, arguments.solver, not arguments.apart)
    moved = bytes_per_voxel(the_plan, 1)
    if arguments.maps:
        print_maps(library, arguments.side, problem)
        return
    counted_names = PACKED_COUNTED if any("packed" in s.kernel for s in the_plan.steps) else COUNTED
    print(f"{moved} bytes per voxel; counts on {arguments.side}^3; us for 16 x 128^3 on an H200, not measured")
    print(f"| mask | {' | '.join(counted_names)} | barriers | launches | memory us | instructions us |")
    print("| --- " * (len(counted_names) + 5) + "|")
    for signed in (True, False):
        for kind in masks.KINDS:
            work = count(library, kind, arguments.side, signed, not arguments.apart, arguments.solver)
            memory, instructions = microseconds(work, moved)
            counted = " | ".join(f"{work[name]:.3f}" for name in counted_names)
            print(
                f"| {kind}, {'signed' if signed else 'unsigned'} | {counted} | {np.ceil(work['barriers']):.0f} | "
                f"{work['launches']:.0f} | {memory:.0f} | {instructions:.0f} |"
            )


def print_traffic(arguments: argparse.Namespace) -> None:
    """Per voxel; times for 16 x 128^3."""
    import emulated
    from emulator.traffic import Traffic, places

    path = emulated.built("traffic").path
    voxels = arguments.side**3
    found = traffic(
        emulated.Library(path), arguments.traffic, arguments.side, True, not arguments.apart, arguments.solver
    )
    for kernel, statistics in found.items():
        sums = Traffic.of(statistics)
        shared = VOXELS * sums.shared_wavefronts / voxels / WAVEFRONTS_PER_SECOND * 1e6
        print(
            f"{kernel}, signed {arguments.traffic} {arguments.side}^3, per voxel; {shared:.0f} us of shared memory"
        )
        print("  " + ", ".join(f"{name} {count / voxels:.4f}" for name, count in sums._asdict().items()))
        for place in places(path, statistics)[: arguments.lines]:
            conflicts = place.units / place.requests
            print(f"  {place.line:>20} {place.memory:>6} {place.units / voxels:.4f}, {conflicts:.2f} a request")


def print_maps(library: Any, side: int, problem: Any) -> None:
    """Every named map of the organ."""
    import emulated

    work = {signed: count(library, "organ", side, signed, fused=True) for signed in (True, False)}
    plain = max(microseconds(work[True], 7))
    print("| map | bytes per voxel | memory us | instructions us | over the signed transform |")
    print("| --- " * 5 + "|")
    for name, convention in CONVENTIONS.items():
        f = formula.formula(convention.options)
        signed = f.one_sided is None or f.empty != (f.one_sided, 0.0)
        plan = plans.plan(problem._replace(signed=signed), emulated.H200)
        moved, memory, busy = microseconds_of_map(name, work[signed], plan)
        print(f"| {name} | {moved:g} | {memory:.0f} | {busy:.0f} | {max(memory, busy) / plain:.2f} |")


if __name__ == "__main__":
    main()
