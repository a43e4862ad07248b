"""Every named distance map against the plain signed transform and SciPy's recipe: ``python -m bench.maps``.

One thread, one organ of 128 x 128 x 128, all in one process and in turn. The recipe of a map is what the code of
its paper does, SciPy's transform and NumPy on its result, as ``tests/maps_oracle.py`` has it. A map may cost 1.5
times the plain transform, one with maxima per component 3 times, and must take a thirtieth of the recipe's time;
the run fails where that does not hold.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import dtkernels as dtk
from dtkernels.maps import CONVENTIONS

from . import masks, measure

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import maps_oracle

SHAPE = (128, 128, 128)
MOST, MOST_PER_COMPONENT, LEAST = 1.5, 3.0, 30.0
# The oracle of "half" compares all pairs of voxels; at equal spacing the map is a constant shift, by any recipe.
RECIPES: dict[str, Callable[..., Any]] = {
    **maps_oracle.MAPS,
    "half": lambda m, s: (lambda d: d - np.sign(d) / 2)(maps_oracle.MAPS["edt_diff"](m, s)),
}


def run(name: str, mask: torch.Tensor, rounds: int) -> dict[str, Any]:
    """One map, the plain transform beside it, and the recipe."""
    out = torch.empty(mask.shape)
    array = mask.numpy().astype(bool)
    times = measure.side_by_side(
        {
            "plain": lambda: dtk.sdf(mask, out=out),
            "map": lambda: dtk.distance_map(mask, name, out=out),
        },
        rounds=4 * rounds,
    )
    seconds = []
    for _ in range(rounds):  # no warm-up: it takes a second, and there is nothing to warm
        start = time.perf_counter()
        RECIPES[name](array, (1.0,) * 3)
        seconds.append(time.perf_counter() - start)
    recipe = measure.summary(seconds)
    ours = times["map"].median
    most = MOST_PER_COMPONENT if CONVENTIONS[name].options.normalize.startswith("component") else MOST
    over, under = ours / times["plain"].median, recipe.median / ours
    # A map without distances (active contour) has no recipe to be faster than.
    least = LEAST if CONVENTIONS[name].options.profile != "indicator" else 0.0
    return {
        "map": name,
        "milliseconds": ours * 1e3,
        "plain_milliseconds": times["plain"].median * 1e3,
        "recipe_milliseconds": recipe.median * 1e3,
        "over_plain": over,
        "recipe_over_ours": under,
        "most_over_plain": most,
        "least_recipe_over_ours": least,
        "holds": over <= most and under >= least,
    }


def run_unequal(mask: torch.Tensor, rounds: int) -> dict[str, Any]:
    """The one map that needs the nearest voxels themselves, where the spacing is unequal; reported alone."""
    out, spacing = torch.empty(mask.shape), (3.0, 0.8, 0.8)
    times = measure.side_by_side(
        {
            "plain": lambda: dtk.sdf(mask, spacing, out=out),
            "half": lambda: dtk.distance_map(mask, "half", spacing, out=out),
        },
        rounds=rounds,
    )
    return {"milliseconds": times["half"].median * 1e3, "over_plain": times["half"].median / times["plain"].median}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--save", type=Path, help="result file (JSON)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mask = torch.from_numpy(masks.make("organ", SHAPE))
    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table(title="Distance maps, organ 128 x 128 x 128, one thread")
    for column in ("map", "ms", "over plain sdf", "at most", "SciPy ms", "SciPy over ours", "at least", "holds"):
        table.add_column(column, justify="left" if column == "map" else "right")
    rows = []
    for name in CONVENTIONS:
        row = run(name, mask, arguments.rounds)
        rows.append(row)
        table.add_row(
            name,
            f"{row['milliseconds']:.2f}",
            f"{row['over_plain']:.2f}",
            f"{row['most_over_plain']:g}",
            f"{row['recipe_milliseconds']:.0f}",
            f"{row['recipe_over_ours']:.0f}",
            f"{row['least_recipe_over_ours']:g}",
            "yes" if row["holds"] else "NO",
        )
    unequal = run_unequal(mask, arguments.rounds)
    console.print(table)
    console.print(f"half at spacing (3, 0.8, 0.8): {unequal['milliseconds']:.1f} ms, no requirement")
    failed = [row["map"] for row in rows if not row["holds"]]
    console.print(f"{len(rows) - len(failed)} of {len(rows)} maps hold" + (f"; not: {failed}" if failed else ""))
    if arguments.save:
        measure.save(arguments.save, {"shape": list(SHAPE), "rows": rows, "half_at_unequal_spacing": unequal})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
