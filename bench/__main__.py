"""Measure entries, ours beside every peer, in one process: ``python -m bench [--quick] [--only NAME] [--save]``.

    python -m bench --list                      what there is
    python -m bench --quick --save              the sizes that the README and the pages show
    python -m bench --only 'transform/sdf*' --save
    python -m bench --save                      everything

Contenders of a row run in turn, round after round, and a ratio is the peer's median over ours. A row says how far
each result is from float64 and, where a fixed sequence of passes runs, how many bytes a voxel moves through memory
and what share that is of the bandwidth of a float32 copy of the same size, timed in the same rounds. ``--save``
joins the rows into one file per group, so that a long run can be made in pieces; a row kept from another revision
names it and its date, and rows of another machine or of other versions are dropped. Peers that are not installed
and data that are not here are named. The exit status is 1 when a requirement does not hold.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import measure
from .entries import ENTRIES, Entry
from .inputs import AbsentDataError
from .operators import OPERATORS

COPY_BYTES = 8  # a float32 in and out
# OpenMP's workers spin for some milliseconds after a parallel torch operator (the copy), on the cores that the
# next contender's threads need.
SETTLE_SECONDS = 0.03


def run(entry: Entry, rounds: int, slow_seconds: float) -> dict[str, Any]:
    """Time one entry; the result is plain numbers."""
    torch.set_num_threads(entry.threads)
    job = OPERATORS[entry.operator](entry)
    peers, absent = {}, {}
    for name in entry.peers:
        try:
            peers[name] = job.peers[name]()
        except ImportError as error:
            absent[name] = str(error)
    contenders = {"dtkernels": job.ours, **peers}
    if job.bytes_per_voxel:
        source, target = torch.zeros(job.voxels, device=entry.device), torch.empty(job.voxels, device=entry.device)
        contenders["copy"] = lambda: target.copy_(source)
    errors: dict[str, float | None] = {}

    def check(name: str, result: Any) -> None:
        errors[name] = None if name == "copy" else job.error(name, result)

    samples = measure.side_by_side(
        {name: _synchronised(run, entry) for name, run in contenders.items()},
        rounds=rounds,
        slow_seconds=slow_seconds,
        settle_seconds=SETTLE_SECONDS if entry.threads > 1 else 0.0,
        first=check,
    )
    ours = samples["dtkernels"]
    row: dict[str, Any] = {
        "name": entry.name,
        "operator": entry.operator,
        "variant": entry.variant,
        "mask": entry.mask,
        "shape": entry.shape,
        "batch": entry.batch,
        "dtype": entry.dtype,
        "spacing": entry.spacing,
        "threads": entry.threads,
        "device": entry.device,
        "voxels": job.voxels,
        **_numbers(ours),
        "error": _short(errors["dtkernels"]),
        "bytes_per_voxel": job.bytes_per_voxel,
    }
    if "copy" in samples:
        bandwidth = COPY_BYTES * job.voxels / samples.pop("copy").median
        row["copy_bytes_per_second"] = _short(bandwidth)
        row["share_of_copy"] = _short(job.bytes_per_voxel * job.voxels / ours.median / bandwidth)
    row["peers"] = {
        name: {
            **_numbers(samples[name]),
            "ratio": _short(samples[name].median / ours.median),
            "error": _short(errors[name]),
        }
        for name in peers
    }
    row["absent"] = absent
    row["required"] = dict(entry.required)
    row["holds"] = all(
        peer["ratio"] >= least
        for pattern, least in entry.required.items()
        for name, peer in row["peers"].items()
        if fnmatch.fnmatchcase(name, pattern)
    )
    return row


def _synchronised(run: Callable[[], Any], entry: Entry) -> Callable[[], Any]:
    if not entry.device.startswith("cuda"):
        return run

    def finished() -> Any:
        result = run()
        torch.cuda.synchronize()
        return result

    return finished


def _short(x: float | None) -> float | None:
    return None if x is None else float(f"{x:.4g}")


def _numbers(sample: measure.Sample) -> dict[str, Any]:
    milliseconds = _short(sample.median * 1e3)
    return {"milliseconds": milliseconds, "spread": round(sample.spread, 3), "rounds": sample.rounds}


def chosen(entries: Iterable[Entry], only: list[str], quick: bool) -> list[Entry]:
    """Entries that match one of the patterns, a shell's or a part of the name."""
    return [
        entry
        for entry in entries
        if (entry.quick or not quick)
        and (not only or any(part in entry.name or fnmatch.fnmatchcase(entry.name, part) for part in only))
    ]


def joined(path: Path, rows: dict[str, dict[str, Any]], order: Iterable[Entry] = ENTRIES) -> list[dict[str, Any]]:
    """The rows of a result file with ``rows`` in their places, in the order of the entries.

    A row that is kept says of which revision and date it is where those are not the new file's.
    """
    old = json.loads(path.read_text()) if path.exists() else {}
    now = measure.machine()
    same = all(old.get(key) == now.get(key) for key in ("processor", "gpu", "versions"))
    stamp = {key: now[key] for key in ("revision", "date")}
    kept = {}
    for row in old.get("rows", ()) if same else ():
        measured = {key: row.pop(key, old[key]) for key in stamp}
        kept[row["name"]] = row if measured == stamp else row | measured
    if old and not same:
        print(f"{path.name}: rows of another machine or of other versions are dropped")
    found = kept | rows
    return [found[entry.name] for entry in order if entry.name in found]


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    per_voxel = row["milliseconds"] * 1e6 / row["voxels"]
    text = f"{row['name']}: {row['milliseconds']:.4g} ms, {per_voxel:.3g} ns/voxel, spread {row['spread']:.0%}"
    if row["error"] is not None:
        text += f", error {row['error']:.1e}"
    if "share_of_copy" in row:
        text += f", {row['bytes_per_voxel']:g} bytes/voxel at {row['share_of_copy']:.0%} of a copy"
    for name, peer in row["peers"].items():
        error = "" if peer["error"] is None else f" (error {peer['error']:.1e})"
        text += f"; {name} {peer['ratio']:.3g} x{error}"
    for name, reason in row["absent"].items():
        text += f"; {name} is absent ({reason})"
    required = ", ".join(f"{name} {least:.3g} x" for name, least in row["required"].items())
    return text + (f"; required {required}: {'holds' if row['holds'] else 'MISSED'}" if required else "")


def main(arguments: list[str] | None = None) -> int:
    """Run the entries that the options choose; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="of names; may be repeated")
    parser.add_argument("--quick", action="store_true", help="without the large sizes")
    parser.add_argument("--device", default="cpu", help="of the masks; a GPU's rows need a folder of their own")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slow", type=float, default=1.0, help="seconds from which a peer is timed twice only")
    parser.add_argument(
        "--save", type=Path, nargs="?", const=measure.RESULTS, metavar="FOLDER", help="of the files"
    )
    options = parser.parse_args(arguments)
    everything = [entry.on(options.device) for entry in ENTRIES if options.device == "cpu" or entry.threads == 1]
    entries = chosen(everything, options.only, options.quick)
    if options.device != "cpu" and options.save == measure.RESULTS:
        parser.error("--save: the committed results are a CPU's; name a folder")
    if options.list or not entries:
        print("\n".join(entry.name for entry in entries) or "no entry matches")
        return 0 if entries else 2

    warnings.filterwarnings("ignore", module="monai|medpy|surface_distance")
    console = Console(highlight=False, soft_wrap=True)
    before = torch.get_num_threads()
    large = {entry.name for entry in everything if not entry.quick}
    missed, absent, began = [], {}, time.perf_counter()
    for group in dict.fromkeys(entry.group for entry in entries):
        rows = {}
        for entry in (e for e in entries if e.group == group):
            try:
                row = rows[entry.name] = run(entry, options.rounds, options.slow)
            except AbsentDataError as error:
                absent[entry.name] = str(error)
                continue
            absent |= row["absent"]
            missed += [] if row["holds"] else [row]
            console.print(line(row), markup=False)
        if options.save and rows:
            path = options.save / f"{group}.json"
            kept = joined(path, rows, everything)
            words = [] if any(row["name"] in large for row in kept) else ["--quick"]
            words += [] if options.device == "cpu" else [f"--device {options.device}"]
            measure.save(path, {"rows": kept}, " ".join(["python -m bench", f"--only {group}/", *words, "--save"]))
    torch.set_num_threads(before)
    for name, reason in absent.items():
        console.print(f"absent: {name}: {reason}", markup=False)
    for row in missed:
        console.print(f"missed: {line(row)}", markup=False)
    console.print(
        f"{len(entries)} entries in {time.perf_counter() - began:.0f} s; {len(missed)} requirements missed"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
