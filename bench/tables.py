"""Tables of the README and the pages, written from committed result files: ``python -m bench.tables [--check]``.

A table stands between two comments that name its result file::

    <!-- table: cpu bench/results/cpu.json -->
    ...
    <!-- end -->
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "dtkernels" / "docs").glob("*.md"))]
PATTERN = re.compile(r"(<!-- table: (\w+) (\S+) -->\n)(.*?)(<!-- end -->)", re.S)


def cpu_table(record: dict[str, Any]) -> str:
    """The rows of ``bench.cpu`` that carry the headline requirements, and the range over all masks."""
    lines = [
        "| mask, one thread | operator | output | ms | peer's time over ours |",
        "| --- | --- | --- | ---: | --- |",
    ]
    rest: dict[str, list[float]] = {"edt": [], "sdf": []}
    for row in record["rows"]:
        rest[row["operator"]].append(row["ratios"]["best edt"])
        if set(row["required"]) <= {"best edt"}:
            continue
        size = " x ".join(map(str, row["shape"]))
        title = f"{row['batch']} x ({size}) in one call" if row["batch"] > 1 else size
        ratios = ", ".join(
            f"{name} **{ratio:.0f} x**" for name, ratio in row["ratios"].items() if name != "best edt"
        )
        time = f"{row['milliseconds']:.2f}"
        lines.append(f"| {row['mask']} {title} | `{row['operator']}` | {row['output']} | {time} | {ratios} |")
    unsigned, signed = sorted(rest["edt"]), sorted(rest["sdf"])
    kinds = ", ".join(dict.fromkeys(row["mask"].replace("_", " ") for row in record["rows"]))
    sizes = ", ".join(dict.fromkeys(" x ".join(map(str, row["shape"])) for row in record["rows"]))
    lines += [
        "",
        f"Over all {len(record['rows'])} rows ({kinds}; {sizes}; unit and anisotropic spacing) the faster of edt's"
        f" forms takes {unsigned[0]:.0f} to {unsigned[-1]:.0f} times as long for the unsigned map (median"
        f" {unsigned[len(unsigned) // 2]:.0f}) and {signed[0]:.0f} to {signed[-1]:.0f} times for the signed one"
        f" (median {signed[len(signed) // 2]:.0f}). Two threads are"
        f" {record['threads']['one_over_two_threads']:.2f} times as fast as one on the signed map of 256³"
        f"{unsigned_threads(record['threads'])}.",
        "",
        provenance(record),
    ]
    return "\n".join(lines) + "\n"


def unsigned_threads(threads: dict[str, Any]) -> str:
    """Two threads on unsigned maps, which memory bounds, beside a plain copy."""
    if "others" not in threads:
        return ""
    scaling = {name: f"{ratio:.2f}" for name, ratio in threads["others"].items()}
    return (
        f", {scaling['edt organ']} and {scaling['edt spheres']} times on the unsigned ones of organ and spheres;"
        f" a copy from uint8 to float32, which memory alone bounds, {scaling['copy']} times"
    )


def demo_table(record: dict[str, Any]) -> str:
    """The timing table of ``bench.demo``."""
    timing = record["timing"]
    network = timing["network"]["median"]
    size = " x ".join(map(str, timing["batch"]))
    lines = [
        f"| batch {size}, {timing['threads']} CPU thread(s) | ms | share of iteration |",
        "| --- | ---: | ---: |",
        f"| network, forward and backward, Dice | {1e3 * network:.0f} | |",
    ]
    titles = {"dtkernels": "dtkernels", "scipy": "SciPy per sample and class", "monai": "MONAI"}
    for name, loss in timing["losses"].items():
        share = f"{100 * loss['share_of_iteration']:.0f} %"
        lines.append(f"| Hausdorff loss by {titles[name]} | {1e3 * loss['median']:.0f} | {share} |")
    return "\n".join([*lines, "", provenance(record)]) + "\n"


def backends_table(record: dict[str, Any]) -> str:
    """Every operator on every backend that ``bench.backends`` ran: times over the first backend's."""
    first, *others = record["rows"][0]["milliseconds"]
    size = " x ".join(map(str, record["rows"][0]["shape"]))
    lines = [
        f"| organ {size}, one thread | `{first}`, ms | " + " | ".join(f"`{name}`" for name in others) + " |",
        "| --- | ---: |" + " ---: |" * len(others),
    ]
    for row in record["rows"]:
        times = row["milliseconds"]
        ratios = (times[name] / times[first] for name in others)
        cells = " | ".join(f"{ratio:.{1 if ratio < 10 else 0}f} x the time" for ratio in ratios)
        lines.append(f"| `{row['operator']}` | {times[first]:.2f} | {cells} |")
    return "\n".join([*lines, "", provenance(record)]) + "\n"


def metrics_table(record: dict[str, Any]) -> str:
    """Every row of ``bench.metrics``."""
    lines = [
        "| HD95 + ASSD + NSD, one thread | dtype | definition | spacing | ms | peer's time over ours |",
        "| --- | --- | --- | --- | ---: | --- |",
    ]
    for row in record["rows"]:
        ratios = ", ".join(f"{name} **{ratio:.0f} x**" for name, ratio in row["ratios"].items())
        spacing = ", ".join(f"{s:g}" for s in row["spacing"] or [1])
        lines.append(
            f"| {row['title']} | {row['dtype']} | `{row['definition']}` | {spacing} "
            f"| {row['milliseconds']:.1f} | {ratios} |"
        )
    return "\n".join([*lines, "", provenance(record)]) + "\n"


def maps_table(record: dict[str, Any]) -> str:
    """The rows of ``bench.maps``."""
    side = " x ".join(map(str, record["shape"]))
    lines = [
        f"| map, organ {side}, one thread | ms | over plain | SciPy's time over ours |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in record["rows"]:
        recipe = f"**{row['recipe_over_ours']:.0f} x**" if row["least_recipe_over_ours"] else ""
        lines.append(f"| `{row['map']}` | {row['milliseconds']:.1f} | {row['over_plain']:.2f} | {recipe} |")
    unequal = record["half_at_unequal_spacing"]
    lines += [
        "",
        f"`half` at spacing (3, 0.8, 0.8): {unequal['milliseconds']:.0f} ms, {unequal['over_plain']:.0f} times the"
        " plain transform.",
        "",
        provenance(record),
    ]
    return "\n".join(lines) + "\n"


def provenance(record: dict[str, Any]) -> str:
    """Which machine, when, by which command."""
    peers = ", ".join(
        f"{n} {v}" for n, v in record["versions"].items() if n in record.get("peers", ("edt", "scipy", "monai"))
    )
    return f"*{record['processor']}, {record['date']}, {peers}: `{record['command']}`.*"


def losses_table(record: dict[str, Any]) -> str:
    """The rows of ``bench.losses``."""
    size = " x ".join(map(str, record["shape"]))
    lines = [
        f"| {size}, forward and backward, one CPU thread | ms | times MONAI's Dice |",
        "| --- | ---: | ---: |",
    ]
    lines += [f"| {r['loss']} | {r['milliseconds']:.1f} | {r['times_dice']:.2f} |" for r in record["rows"]]
    lines += [
        "",
        f"MONAI's Hausdorff loss takes {record['monai_over_hausdorff']:.0f} times as long as ours with both"
        f" classes scored, {record['without_background']:.0f} times without the background.",
    ]
    return "\n".join([*lines, "", provenance(record)]) + "\n"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "cpu": cpu_table,
    "demo": demo_table,
    "backends": backends_table,
    "metrics": metrics_table,
    "maps": maps_table,
    "losses": losses_table,
}


def fill(text: str) -> str:
    """``text`` with every table made anew from its result file."""

    def table(match: re.Match[str]) -> str:
        record = json.loads((ROOT / match[3]).read_text())
        return f"{match[1]}{TABLES[match[2]](record)}{match[5]}"

    return PATTERN.sub(table, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if a page differs from its result files")
    arguments = parser.parse_args()
    status = 0
    for path in PAGES:
        old = path.read_text()
        new = fill(old)
        if not arguments.check:
            path.write_text(new)
        elif old != new:
            print(f"{path.name}: run python -m bench.tables")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
