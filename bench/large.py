"""Volumes beyond a worker's memory, from zarr to zarr: ``python -m bench.large [--sides N ...] [--save FILE]``.

Each operator runs twice, in a process of its own: chunked by ``dtkernels.dask``, one thread, its memory limited
to 1 GiB (``RLIMIT_DATA``: beyond it allocations fail), and in memory without a limit. Both read the same mask and
write their result; then the two are compared, voxel by voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHUNK = 128
LIMIT = 1 << 30
OPERATORS = ("edt", "sdf", "label")


def make_mask(folder: Path, side: int) -> None:
    """A thick gyroid of one scale at any size, uint8."""
    import dask
    import dask.array as da
    import numpy as np

    def block(block_info: Any = None) -> Any:
        z, y, x = (
            np.arange(a, b, dtype=np.float32).reshape(shape) * np.float32(2 * np.pi / 160)
            for (a, b), shape in zip(block_info[None]["array-location"], ((-1, 1, 1), (-1, 1), (-1,)), strict=True)
        )
        level = np.sin(z) * np.cos(y) + np.sin(y) * np.cos(x) + np.sin(x) * np.cos(z)
        return (level > 0.4).astype(np.uint8)

    parts = (CHUNK,) * (side // CHUNK) + ((side % CHUNK,) if side % CHUNK else ())
    with dask.config.set(scheduler="synchronous"):
        da.map_blocks(block, chunks=(parts,) * 3, dtype=np.uint8).to_zarr(str(folder / "mask"))


def chunked(folder: Path, operator: str) -> dict[str, float]:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    import dask
    import dask.array as da
    import torch

    import dtkernels.dask as dtd

    torch.set_num_threads(1)
    start = time.perf_counter()
    mask = da.from_zarr(str(folder / "mask"))
    with dask.config.set(scheduler="synchronous"), tempfile.TemporaryDirectory(dir=folder) as scratch:
        result = dtd.label(mask)[0] if operator == "label" else getattr(dtd, operator)(mask, scratch=scratch)
        result.to_zarr(str(folder / operator))
    return {"seconds": time.perf_counter() - start, "peak_mib": peak()}


def in_memory(folder: Path, operator: str) -> dict[str, Any]:
    import torch
    import zarr

    import dtkernels as dtk

    torch.set_num_threads(1)
    start = time.perf_counter()
    mask = torch.from_numpy(zarr.open(str(folder / "mask"), mode="r")[:])
    read = time.perf_counter()
    result = getattr(dtk, operator)(mask)
    result = (result[0] if operator == "label" else result).numpy()
    done = time.perf_counter()
    found = zarr.open(str(folder / operator), mode="r")
    target = zarr.open(
        str(folder / "memory"), mode="w", shape=result.shape, chunks=found.chunks, dtype=result.dtype
    )
    target[:] = result
    end = time.perf_counter()
    rows = range(0, len(result), found.chunks[0])
    equal = all((found[i : i + found.chunks[0]] == result[i : i + found.chunks[0]]).all() for i in rows)
    return {"seconds": end - start, "operator_seconds": done - read, "peak_mib": peak(), "equal": bool(equal)}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(*arguments: Any) -> Any:
    command = [sys.executable, "-m", "bench.large", "--child", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def rows(side: int, work: Path, operators: list[str]) -> list[dict[str, Any]]:
    folder = work / str(side)
    folder.mkdir()
    child("make_mask", folder, side)
    result = []
    for operator in operators:
        row = {"side": side, "operator": operator, "chunked": child("chunked", folder, operator)}
        row["memory"] = child("in_memory", folder, operator)
        for name in (operator, "memory"):
            shutil.rmtree(folder / name)
        assert row["memory"].pop("equal"), f"{operator} of {side}^3 differs from that in memory"
        result.append(row)
        print(json.dumps(row), flush=True)
    shutil.rmtree(folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024], help="of cubes, in voxels")
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    parser.add_argument("--work", type=Path, help="folder for the volumes, 25 bytes a voxel; default: temporary")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, folder, *rest = arguments.child
        values = [int(r) if r.isdigit() else r for r in rest]
        print(json.dumps(globals()[name](Path(folder), *values)))
        return

    from . import measure

    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        found = [row for side in arguments.sides for row in rows(side, Path(work), arguments.operators)]
    payload = {"libraries": ["dask", "zarr"], "threads": 1, "limit_mib": LIMIT >> 20, "rows": found}
    if arguments.save:
        measure.save(arguments.save, payload)


if __name__ == "__main__":
    main()
