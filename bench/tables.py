"""Tables of the README and the pages, written from committed result files: ``python -m bench.tables [--check]``.

A table stands between two comments that name it and its result file::

    <!-- table: cpu bench/results/transform.json -->
    ...
    <!-- end -->
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "dtkernels" / "docs").rglob("*.md"))]
PATTERN = re.compile(r"(<!-- table: (\w+) (\S+) -->\n)(.*?)(<!-- end -->)", re.S)

Record = dict[str, Any]
Row = dict[str, Any]
LIBRARIES = {  # the versions that a table names, by how its peers' names begin
    "SciPy": "scipy",
    "reference": "scipy",
    "edt": "edt",
    "numba": "numba",
    "OpenCV": "opencv-python-headless",
    "SimpleITK": "SimpleITK",
    "MONAI": "monai",
    "scikit-image": "scikit-image",
    "cc3d": "connected-components-3d",
    "MedPy": "medpy",
    "surface-distance": "surface-distance",
}


# --- Cells ---


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns whose heads end in ``>`` are aligned to the right."""
    rule = " | ".join("---:" if h.endswith(">") else "---" for h in head)
    lines = [f"| {' | '.join(h.removesuffix('>') for h in head)} |", f"| {rule} |"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def size(row: Row) -> str:
    """Shape, and batch where there is one."""
    image = " x ".join(map(str, row["shape"]))
    batch = row["batch"]
    return image if batch in ([], [1, 1]) else f"{' x '.join(map(str, batch))} x ({image})"


def mask(row: Row) -> str:
    return str(row["mask"]).replace("kits19/case_", "KiTS19 case ").replace("_", " ")


def spacing(row: Row) -> str:
    given = row["spacing"]
    if given is None:
        return "1"
    return given if isinstance(given, str) else ", ".join(f"{s:g}" for s in given)


def ms(row: Row) -> str:
    x = row["milliseconds"]
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"


def times(ratio: float) -> str:
    """How many times as long as ours."""
    return f"{ratio:.{0 if ratio >= 10 else 1 if ratio >= 1.95 else 2}f} x"


def small(error: float | None) -> str:
    return "" if error is None else "0" if error == 0 else f"{error:.0e}"


def ratios(row: Row, bold: str = "**", errors: bool = False) -> str:
    """Every peer of a row, absent ones by name."""
    cells = []
    for name, peer in row["peers"].items():
        cell = f"{name} {bold}{times(peer['ratio'])}{bold}"
        cells.append(cell + (f" ({small(peer['error'])})" if errors and peer["error"] is not None else ""))
    return ", ".join([*cells, *(f"{name} absent" for name in row["absent"])])


def per_voxel(row: Row, milliseconds: float | None = None) -> str:
    return f"{(milliseconds or row['milliseconds']) * 1e6 / row['voxels']:.2f}"


def finish(lines: list[str], record: Record) -> str:
    """The table, and which machine, when, which versions, by which command."""
    names = {name for row in record["rows"] for name in (*row.get("peers", ()), row.get("maps", ""))}
    used = {package for start, package in LIBRARIES.items() if any(name.startswith(start) for name in names)}
    used |= set(record.get("libraries", ()))
    versions = ["dtkernels", "torch", *(name for name in record["versions"] if name in used)]
    libraries = ", ".join(f"{name} {record['versions'][name]}" for name in versions)
    dates = sorted({row.get("date", record["date"]) for row in record["rows"]})
    date = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    source = f"*{record['processor']}, {date}, {libraries}: `{record['command']}`.*"
    return "\n".join([*lines, "", source]) + "\n"


# --- Tables ---


def edt_range(row: Row) -> float:
    """The faster of edt's forms over ours."""
    return min(peer["ratio"] for name, peer in row["peers"].items() if name.startswith("edt"))


def cpu(record: Record) -> str:
    """The rows that carry the headline requirements, and the range over all masks."""
    against = [row for row in record["rows"] if any(name.startswith("edt") for name in row["peers"])]
    headline = [row for row in against if row["required"] and "edt.*" not in row["required"]]
    lines = table(
        ("mask, one thread", "operator", "output", "ms>", "GB/s, of a copy's>", "peer's time over ours"),
        (
            (f"{mask(r)} {size(r)}", f"`{r['operator']}`", r["variant"] or "given", ms(r), share(r), ratios(r))
            for r in headline
        ),
    )
    by_operator = {o: sorted(edt_range(r) for r in against if r["operator"] == o) for o in ("edt", "sdf")}
    words = [
        f"{found[0]:.0f} to {found[-1]:.0f} times as long for the {word} map"
        f" (median {statistics.median(found):.0f})"
        for word, found in zip(("unsigned", "signed"), by_operator.values(), strict=True)
    ]
    kinds = ", ".join(dict.fromkeys(map(mask, against)))
    sizes = ", ".join(dict.fromkeys(" x ".join(map(str, row["shape"])) for row in against))
    two = {
        (r["operator"], r["mask"]): r["peers"]["one thread"]["ratio"] for r in record["rows"] if r["threads"] == 2
    }
    lines += [
        "",
        f"Over all {len(against)} rows ({kinds}; {sizes}; unit and anisotropic spacing) the faster of edt's forms"
        f" takes {' and '.join(words)}.",
    ]
    if two:
        lines[-1] += (
            f" Two threads are {two['sdf', 'organ']:.2f} times as fast as one on the signed map of 256³,"
            f" {two['edt', 'organ']:.2f} and {two['edt', 'spheres']:.2f} times on the unsigned ones of organ and"
            f" spheres; a copy from uint8 to float32, which memory alone bounds, {two['copy', 'organ']:.2f} times."
        )
    return finish(lines, record)


def share(row: Row) -> str:
    """The traffic of the passes per second, and its share of a copy's."""
    if row.get("bytes_per_voxel") is None:
        return ""
    moved = row["bytes_per_voxel"] * row["voxels"] / row["milliseconds"] / 1e6
    return f"{moved:.1f}, {row['share_of_copy']:.0%}".replace("%", " %")


def masks(record: Record) -> str:
    """Every mask at its sizes: nanoseconds per voxel, and the faster form of edt over ours."""
    sizes = ([64] * 3, [128] * 3, [256] * 3, [1024] * 2, [4096] * 2)
    rows = {
        (r["mask"], tuple(r["shape"]), r["operator"]): r
        for r in record["rows"]
        if r["spacing"] is None and r["threads"] == 1 and not r["variant"] and not r["batch"]
    }
    shapes = [tuple(s) for s in sizes if any(key[1] == tuple(s) for key in rows)]

    def cell(kind: str, shape: tuple[int, ...]) -> str:
        pair = [rows.get((kind, shape, operator)) for operator in ("edt", "sdf")]
        return "<br>".join(f"{per_voxel(r)} ({times(edt_range(r))})" for r in pair if r)

    head = ("mask", *(f"{s[0]}{'²³'[len(s) - 2]}>" for s in shapes))
    kinds = dict.fromkeys(key[0] for key in rows)
    lines = table(head, ((k.replace("_", " "), *(cell(k, shape) for shape in shapes)) for k in kinds))
    return finish(lines, record)


def libraries(record: Record) -> str:
    """Every operator beside every library, with the largest error of each."""
    lines = table(
        (
            "operator",
            "masks",
            "spacing",
            "ms>",
            "error>",
            "bytes per voxel>",
            "of a copy>",
            "time over ours (error)",
        ),
        (
            (
                f"`{r['operator']}`" + (f", {r['variant']}" if r["variant"] else ""),
                f"{mask(r)} {size(r)}" + (f", {r['dtype']}" if r["dtype"] != "uint8" else ""),
                spacing(r),
                ms(r),
                small(r["error"]),
                f"{r['bytes_per_voxel']:g}",
                f"{r['share_of_copy']:.0%}".replace("%", " %"),
                ratios(r, "", errors=True),
            )
            for r in record["rows"]
        ),
    )
    return finish(lines, record)


def plain(record: Record) -> str:
    """Rows of distances: nanoseconds per voxel of ours, and the peers."""
    lines = table(
        ("masks", "operator", "ms>", "ns per voxel>", "error>", "of a copy>", "peer's time over ours"),
        (
            (
                f"{mask(r)} {size(r)}".strip(),
                f"`{r['operator']}`",
                ms(r),
                per_voxel(r),
                small(r["error"]),
                f"{r['share_of_copy']:.0%}".replace("%", " %"),
                ratios(r, ""),
            )
            for r in record["rows"]
        ),
    )
    return finish(lines, record)


def backends(record: Record) -> str:
    """Every operator on the backends that run on CPUs."""
    names = list(record["rows"][0]["peers"])
    lines = table(
        (f"organ {size(record['rows'][0])}, one thread", "`cpu`, ms>", *(f"`{name}`>" for name in names)),
        (
            (
                f"`{r['operator']}`" + (f", spacing {spacing(r)}" if r["spacing"] else ""),
                ms(r),
                *(f"{times(r['peers'][name]['ratio'])}" if name in r["peers"] else "absent" for name in names),
            )
            for r in record["rows"]
        ),
    )
    return finish(lines, record)


def metrics(record: Record) -> str:
    """HD95, ASSD and NSD, then NSD alone, lesions, and the Hausdorff distance alone."""
    lines = table(
        ("HD95 + ASSD + NSD, one thread", "dtype", "definition", "spacing", "ms>", "peer's time over ours"),
        (
            (size(r), r["dtype"], f"`{r['variant']}`", spacing(r), ms(r), ratios(r))
            for r in record["rows"]
            if r["operator"] == "surface_metrics"
        ),
    )
    words = {"voronoi": "in Voronoi cells", "iou": "matched by IoU"}
    for r in record["rows"]:
        if r["operator"] == "nsd":
            lines += ["", f"NSD alone by `{r['variant']}`, of {size(r)}: {ms(r)} ms; {ratios(r, '')}."]
        if r["operator"] == "lesions":
            lines += ["", f"Some forty lesions in {size(r)}, {words[r['variant']]}: {ms(r)} ms; {ratios(r, '')}."]
        if r["operator"] == "hd":
            lines += ["", f"The Hausdorff distance alone, of {size(r)}: {ms(r)} ms; {ratios(r, '')}."]
    return finish(lines, record)


def maps(record: Record) -> str:
    """Every named map beside the plain transform and SciPy's recipe."""
    equal = [r for r in record["rows"] if r["spacing"] is None]
    lines = table(
        (f"map, organ {size(equal[0])}, one thread", "ms>", "over plain>", "error>", "SciPy's time over ours>"),
        (
            (
                f"`{r['variant']}`",
                ms(r),
                f"{1 / r['peers']['plain sdf']['ratio']:.2f}",
                small(r["error"]),
                f"**{times(r['peers']['SciPy']['ratio'])}**" if "SciPy" in r["required"] else "",
            )
            for r in equal
        ),
    )
    for r in record["rows"]:
        if r["spacing"]:
            over, scipy = 1 / r["peers"]["plain sdf"]["ratio"], r["peers"]["SciPy"]["ratio"]
            lines += [
                "",
                f"`{r['variant']}` at spacing {spacing(r)}: {ms(r)} ms, {over:.1f} times the plain transform;"
                f" SciPy takes {scipy:.0f} times as long.",
            ]
    return finish(lines, record)


def losses(record: Record) -> str:
    """Every loss beside MONAI's Dice, and beside MONAI's loss of the same name."""

    def monai(row: Row) -> str:
        peer = row["peers"].get("MONAI")
        return f"**{times(peer['ratio'])}**" if peer else ""

    lines = table(
        (f"{size(record['rows'][0])}, forward and backward, one CPU thread", "ms>", "times MONAI's Dice>",
         "MONAI's time over ours>"),
        (
            (r["variant"], ms(r), f"{1 / r['peers']['MONAI DiceLoss']['ratio']:.2f}", monai(r))
            for r in record["rows"]
            if r["peers"]
        ),
    )  # fmt: skip
    return finish(lines, record)


def envelope(record: Record) -> str:
    """Nanoseconds per voxel of the envelope and its gradient, and the peers over ours."""
    rows = record["rows"]
    backward = {(r["mask"], tuple(r["shape"])): r for r in rows if r["operator"] == "envelope_backward"}

    def cells(r: Row) -> tuple[str, ...]:
        gradient = backward[r["mask"], tuple(r["shape"])]
        peers = {name: times(peer["ratio"]) for name, peer in r["peers"].items()}
        within = [per_voxel(r, r["peers"][name]["milliseconds"]) for name in ("with index", "float64")]
        slow = [peers.get(name, "") for name in ("torch min-plus", "SciPy grey erosion")]
        slow.append(times(gradient["peers"]["index_add"]["ratio"]))
        return (
            f"{r['mask']} {r['shape'][0]}³",
            per_voxel(r),
            *within,
            per_voxel(gradient),
            small(r["error"]),
            *slow,
        )

    lines = table(
        ("function, one thread", "values, ns>", "and positions>", "float64>", "gradient>", "error>",
         "min-plus in torch>", "SciPy's grey erosion>", "`index_add_` over gradient>"),
        (cells(r) for r in rows if r["operator"] == "envelope"),
    )  # fmt: skip
    for r in rows:
        if r["operator"] == "exact_signed_distance":
            over = 1 / r["peers"]["sdf"]["ratio"]
            lines += [
                "",
                f"`ExactSignedDistance` of {size(r)}, forward and backward: {per_voxel(r)} ns per voxel,"
                f" {over:.0f} times the signed distance alone.",
            ]
    return finish(lines, record)


def training(record: Record) -> str:
    """Steps and epochs with every loss and every maker of maps."""
    batch = " x ".join(map(str, record["batch"]))
    lines = table(
        (f"{record['data']}, batch {batch}, {record['device']}", "maps by", "ms per step>", "s per epoch>",
         "ms for the distance loss>", "share>", "over ours>"),
        (
            (
                r["objective"],
                r["maps"],
                f"{r['milliseconds']:.0f}",
                f"{r['epoch_seconds']:.1f}",
                f"{r['distance_milliseconds']:.1f}" if r["maps"] else "",
                f"{r['share']:.0%}".replace("%", " %") if r["maps"] else "",
                f"**{times(r['distance_ratio'])}**" if r["maps"] not in ("", "dtkernels") else "",
            )
            for r in record["rows"]
        ),
    )  # fmt: skip
    return finish(lines, record)


def large(record: Record) -> str:
    """Every volume of ``bench.large``."""
    order = ("edt", "sdf", "label")
    lines = table(
        (f"one thread, {record['limit_mib']} MiB", "voxels", "chunked, s>", "ns per voxel>", "peak, MiB>",
         "in memory, s>", "of it the operator>", "peak, MiB>", "chunked over in memory>"),
        (
            (
                f"`{r['operator']}`",
                f"{r['side']}³",
                f"{r['chunked']['seconds']:.1f}",
                f"{1e9 * r['chunked']['seconds'] / r['side'] ** 3:.0f}",
                f"{r['chunked']['peak_mib']:.0f}",
                f"{r['memory']['seconds']:.1f}",
                f"{r['memory']['operator_seconds']:.1f}",
                f"{r['memory']['peak_mib']:.0f}",
                times(r["chunked"]["seconds"] / r["memory"]["seconds"]),
            )
            for r in sorted(record["rows"], key=lambda r: (order.index(r["operator"]), r["side"]))
        ),
    )  # fmt: skip
    return finish(lines, record)


TABLES: dict[str, Callable[[Record], str]] = {
    "cpu": cpu,
    "masks": masks,
    "libraries": libraries,
    "growth": plain,
    "real": plain,
    "backends": backends,
    "maps": maps,
    "metrics": metrics,
    "losses": losses,
    "envelope": envelope,
    "large": large,
    "training": training,
}


def fill(text: str) -> str:
    """``text`` with every table made anew from its result file."""

    def made(match: re.Match[str]) -> str:
        record = json.loads((ROOT / match[3]).read_text())
        return f"{match[1]}{TABLES[match[2]](record)}{match[5]}"

    return PATTERN.sub(made, text)


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
