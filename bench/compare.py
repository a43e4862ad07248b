"""What became slower, faster or wrong between two saved runs: ``python -m bench.compare OLD [NEW]``.

OLD and NEW are result files of ``python -m bench --save`` or folders of them; NEW is ``bench/results`` unless
given. A change of a time counts where it is more than 10 % and more than the noise of the two runs: both spreads,
which are interquartile ranges over medians, in quadrature. ``--relative`` compares times over those of the rows'
peers instead, for runs on machines of which one was busier; on different processors nothing else is allowed. An
error that grew by more than 10 %, and a requirement that no longer holds, count as well. The exit status is 1 if
anything is slower or wrong, and 2 if there is nothing to compare or a file holds no results.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from . import measure

LEAST = 0.10
ROUNDING = 1e-6  # errors below this, absolute, say nothing

NEEDED = {"milliseconds", "spread", "peers", "holds"}

Row = dict[str, Any]


class UnreadableError(Exception):
    """A file that holds no results."""


class Change(NamedTuple):
    """A row that is not what it was."""

    name: str
    what: str  # "slower", "faster", "wrong", "missed"
    detail: str

    @property
    def bad(self) -> bool:
        return self.what != "faster"


def read(path: Path) -> tuple[set[str], dict[str, Row]]:
    """The processors and the rows of a result file, or of every one in a folder."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    processors, rows = set(), {}
    for file in files:
        try:
            record = json.loads(file.read_text())
            named = {row["name"]: row for row in record.get("rows", ()) if "name" in row}
            if named:
                processors.add(record["processor"])
        except (OSError, ValueError) as error:
            raise UnreadableError(f"{file}: cannot be read, {error}") from error
        except (AttributeError, KeyError, TypeError) as error:
            raise UnreadableError(f"{file}: expected results of python -m bench --save") from error
        if any(not row.keys() >= NEEDED for row in named.values()):
            raise UnreadableError(f"{file}: expected rows with {', '.join(sorted(NEEDED))}")
        rows |= named
    return processors, rows


def compare(name: str, old: Row, new: Row, relative: bool = False) -> list[Change]:
    """The changes of one row."""
    changes = []
    ratio = new["milliseconds"] / old["milliseconds"]
    noise = [old["spread"], new["spread"]]
    if relative:
        common = [peer for peer in old["peers"] if peer in new["peers"]]
        if not common:
            return []
        pairs = [(old["peers"][peer], new["peers"][peer]) for peer in common]
        ratio /= math.exp(statistics.median(math.log(b["milliseconds"] / a["milliseconds"]) for a, b in pairs))
        noise += [statistics.median(row["spread"] for row in side) for side in zip(*pairs, strict=True)]
    change = max(ratio, 1 / ratio) - 1
    width = math.hypot(*noise)
    if change > max(LEAST, width):
        detail = f"{old['milliseconds']:.4g} -> {new['milliseconds']:.4g} ms ({ratio:.2f} x, noise {width:.0%})"
        changes.append(Change(name, "slower" if ratio > 1 else "faster", detail))
    before, after = old.get("error"), new.get("error")
    if before is None or after is None or math.isnan(before):
        grew = False
    else:
        grew = not after <= (1 + LEAST) * before + ROUNDING  # nan is no small error
    if grew:
        changes.append(Change(name, "wrong", f"error {before:.2e} -> {after:.2e}"))
    if old["holds"] and not new["holds"]:
        changes.append(Change(name, "missed", f"a requirement no longer holds: {new['required']}"))
    return changes


def main(arguments: list[str] | None = None) -> int:
    """Print the changes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=measure.RESULTS)
    parser.add_argument("--relative", action="store_true", help="compare times over those of the peers")
    options = parser.parse_args(arguments)
    try:
        (old_processors, old), (new_processors, new) = read(options.old), read(options.new)
    except UnreadableError as error:
        print(error)
        return 2
    common = [name for name in new if name in old]
    if not common:
        print("no row is in both runs")
        return 2
    if old_processors != new_processors and not options.relative:
        print(f"different processors, {old_processors} and {new_processors}: compare with --relative")
        return 2
    changes = [change for name in common for change in compare(name, old[name], new[name], options.relative)]
    for change in sorted(changes, key=lambda c: not c.bad):
        print(f"{change.what}: {change.name}: {change.detail}")
    bad = sum(change.bad for change in changes)
    only = f"{len(old) - len(common)} rows are in the old run alone, {len(new) - len(common)} in the new"
    print(f"{len(common)} rows compared: {bad} slower or wrong, {len(changes) - bad} faster; {only}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
