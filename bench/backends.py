"""Speed of the backends that run on CPUs, side by side: ``python -m bench.backends [--save FILE]``.

One thread; each operator on one volume, the reference on the same. Compilation is not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dtkernels as dtk

from . import masks, measure

SHAPE = (96, 96, 96)
SPACING = (3.0, 0.8, 0.8)

# Results preallocated where an operator takes them, as in bench.cpu.
OPERATORS: dict[str, Callable[[torch.Tensor, torch.Tensor, str], Any]] = {
    "edt": lambda x, out, name: dtk.edt(x, out=out, backend=name),
    "sdf": lambda x, out, name: dtk.sdf(x, out=out, backend=name),
    "sdf, spacing": lambda x, out, name: dtk.sdf(x, SPACING, out=out, backend=name),
    "nearest": lambda x, out, name: dtk.nearest(x, backend=name),
    "label": lambda x, out, name: dtk.label(x, backend=name),
}


def rows(kind: str, backends: list[str]) -> list[dict[str, Any]]:
    """Milliseconds of every operator on every backend."""
    x = torch.from_numpy(masks.make(kind, SHAPE))
    out = torch.empty(SHAPE)
    result = []
    for operator, call in OPERATORS.items():
        contenders = {name: lambda name=name, call=call: call(x, out, name) for name in backends}
        samples = measure.side_by_side(contenders, rounds=5)
        milliseconds = {name: 1e3 * sample.median for name, sample in samples.items()}
        result.append({"mask": kind, "shape": SHAPE, "operator": operator, "milliseconds": milliseconds})
        print(f"{kind} {operator}: " + ", ".join(f"{n} {t:.2f} ms" for n, t in milliseconds.items()), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    states = dtk.backends.available()
    backends = [name for name, state in states.items() if state.available and "cpu" in state.devices]
    payload = {"peers": ["numba", "scipy"], "threads": 1, "rows": rows("organ", backends)}
    if arguments.save:
        measure.save(arguments.save, payload)


if __name__ == "__main__":
    main()
