"""What a library built in mode "traffic" counted, in the terms of a profiler.

built = build.library("kernels_emulated", sources, "traffic")
...
for kernel, statistics in emulator.statistics().items():
    print(kernel, traffic.Traffic.of(statistics), traffic.places(built.path, statistics)[:5])
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

SECTOR = 32  # bytes


class Traffic(NamedTuple):
    """Of one kernel. A request is an instruction of a warp; without conflicts it takes one wavefront (for each 128
    bytes), and without holes as many sectors as its bytes fill."""

    shared_requests: int
    shared_wavefronts: int
    read_requests: int
    read_sectors: int
    write_requests: int
    write_sectors: int
    memory_read: int  # bytes of different sectors, launch by launch
    memory_written: int

    @classmethod
    def of(cls, statistics: Mapping[str, Any]) -> Traffic:
        """The sums over all instructions."""
        sums = {memory: [0, 0] for memory in ("shared", "read", "write")}
        for _, memory, requests, units in statistics["accesses"]:
            sums[memory][0] += requests
            sums[memory][1] += units
        both = (x for pair in sums.values() for x in pair)
        return cls(*both, statistics["memory_read"], statistics["memory_written"])


class Place(NamedTuple):
    """A line of a kernel, and what its accesses to one memory took."""

    line: str  # file:line, "?" without addr2line
    memory: str  # shared, read, write
    requests: int
    units: int  # wavefronts, or sectors


def places(path: pathlib.Path, statistics: Mapping[str, Any]) -> list[Place]:
    """The lines that took most, first."""
    accesses = statistics["accesses"]
    lines = ["?"] * len(accesses)
    if accesses and (tool := shutil.which("addr2line")):
        command = [tool, "-e", str(path), *(hex(offset) for offset, *_ in accesses)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        lines = [pathlib.Path(line.split(" ", 1)[0]).name for line in found]
    sums: dict[tuple[str, str], list[int]] = {}
    for line, (_, memory, requests, units) in zip(lines, accesses, strict=True):
        cost = sums.setdefault((line, memory), [0, 0])
        cost[0] += requests
        cost[1] += units
    return sorted((Place(*key, *cost) for key, cost in sums.items()), key=lambda place: -place.units)
