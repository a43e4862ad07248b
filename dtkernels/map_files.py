"""``dtk map``: distance maps of masks and labels in files, with the spacing and the place of the files.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from . import maps
from .arguments import device_by_name
from .formula import Options, check
from .optional import MissingDependencyError, require
from .volumes import SUFFIXES, Volume, VolumeError, is_volume, read


class Request(NamedTuple):
    """What to make of every file."""

    convention: str
    options: dict[str, Any]
    spacing: tuple[float, ...] | None = None  # of files that have none
    classes: int | None = None
    label: int | None = None
    threshold: float | None = None
    device: str = "cpu"


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Options of a map from ``name=value``, with the types that they have.

    >>> parse_options(["boundary=half", "truncate=5", "on_empty=nan"])
    {'boundary': 'half', 'truncate': 5.0, 'on_empty': 'nan'}
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"option: expected name=value, got {word!r}")
        number = name in ("truncate", "weight", "amplitude", "sigma", "connectivity")
        if name in ("on_empty", "on_full"):
            number = value.replace(".", "", 1).lstrip("+-").isdigit()
        try:
            options[name] = int(value) if name == "connectivity" else float(value) if number else value
        except ValueError:
            raise ValueError(f"{name}: expected a number, got {value!r}") from None
    maps.resolve(None, **options)
    return options


def pair(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Each input with its output: a file for a file, names in a folder for several files or a folder."""
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if is_volume(p))
            if not found:
                raise VolumeError(f"{path}: expected files that end in {', '.join(SUFFIXES)}, found none")
            files += found
        else:
            files.append(path)
    if len(inputs) == 1 and not inputs[0].is_dir() and not output.is_dir():
        pairs = [(files[0], output)]
    elif is_volume(output):
        raise VolumeError(f"{output}: expected a folder to put {len(files)} maps into")
    else:
        pairs = [(path, output / path.name) for path in files]
    seen: dict[Path, Path] = {}
    for source, target in pairs:
        if not is_volume(target):
            raise VolumeError(f"{target}: expected a name that ends in {', '.join(SUFFIXES)}")
        if target.resolve() == source.resolve():
            raise VolumeError(f"{target}: expected an output apart from the input")
        if target in seen:
            raise VolumeError(f"{target}: expected one input of this name, got {seen[target]} and {source}")
        seen[target] = source
    return pairs


def convert(source: Path, target: Path, request: Request) -> dict[str, Any]:
    """Read, map and write one file; a record of what was done."""
    start = time.perf_counter()
    volume = read(source)
    spacing = volume.spacing or request.spacing
    if spacing is not None and len(spacing) != volume.voxels.ndim:
        raise VolumeError(f"{source}: expected {volume.voxels.ndim} numbers of spacing, got {spacing}")
    mask = _tensor(volume, request)
    try:
        result = maps.distance_map(
            mask,
            request.convention,
            spacing,
            num_classes=request.classes,
            threshold=request.threshold,
            spatial_dims=mask.ndim,
            **request.options,
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise VolumeError(f"{source}: {error}") from error
    values = result.cpu().numpy()
    _write(target, values, volume, spacing, request.classes is not None)
    finite = values[np.isfinite(values)]
    return {
        "input": str(source),
        "output": str(target),
        "convention": request.convention,
        "shape": list(values.shape),
        "spacing": None if spacing is None else [float(s) for s in spacing],
        "low": float(finite.min()) if finite.size else None,
        "high": float(finite.max()) if finite.size else None,
        "seconds": round(time.perf_counter() - start, 4),
    }


def _tensor(volume: Volume, request: Request) -> torch.Tensor:
    voxels = volume.voxels
    if request.label is not None:
        voxels = voxels == request.label
    elif request.classes is not None and voxels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # NaN is no whole number
            rounded = voxels.astype(np.int64)
        if not np.array_equal(rounded, voxels):
            raise VolumeError(f"{volume.path}: expected whole numbers as labels, got dtype {voxels.dtype}")
        voxels = rounded
    if voxels.dtype.kind == "u" and voxels.dtype.itemsize > 1:  # torch computes with signed integers
        voxels = voxels.astype(np.int64)
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize > 8:  # and knows no long doubles
        voxels = voxels.astype(np.float64)
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if any(stride < 0 for stride in native.strides) or not native.flags.writeable:
        native = native.copy(order="K")
    return torch.from_numpy(native).to(request.device)


def _write(
    target: Path,
    values: NDArray[np.float32],
    volume: Volume,
    spacing: tuple[float, ...] | None,
    by_class: bool,
) -> None:
    """Classes are the first axis of an array, and the last of a NIfTI file, as its format has it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.name.lower().endswith(".npy"):
            with target.open("wb") as file:  # np.save adds a suffix to .NPY
                np.save(file, values)
            return
        nibabel = require("nibabel", f"writing {target}", extra="cli")
        header = None
        if volume.affine is not None:
            image = nibabel.load(os.fspath(volume.path))
            header = image.header.copy() if isinstance(image, nibabel.Nifti1Image) else None
            shape = tuple(image.shape[:3])
            values = values.reshape((*values.shape[:1], *shape) if by_class else shape)
            if header is not None:
                header.set_data_dtype(np.float32)
        if by_class:
            values = np.moveaxis(values, 0, -1)
        affine = volume.affine
        if affine is None:
            affine = np.diag([*(spacing or ()), *[1.0] * (4 - len(spacing or ()))])
        nibabel.save(nibabel.Nifti1Image(values, affine, header), os.fspath(target))
    except MissingDependencyError:
        raise
    except Exception as error:
        raise VolumeError(f"{target}: cannot be written, {type(error).__name__}: {error}") from error


# ---- on a terminal -------------------------------------------------------------------------------------


def run(inputs: Sequence[Path], output: Path, request: Request, as_json: bool) -> int:
    """Map every file; the exit status: 0, 1 for failed files, 2 for options or paths that cannot be right."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    console = Console(stderr=True)

    def complain(text: str) -> None:
        console.print("error:", text, style="red", markup=False, soft_wrap=True, highlight=False)

    try:
        check(maps.resolve(request.convention, **{**request.options, "connectivity": None}), 3)
        device_by_name(request.device)
        pairs = pair(inputs, output)
    except (OSError, TypeError, ValueError) as error:
        complain(str(error))
        return 2
    done, failed = [], 0
    columns = (TextColumn("mapping"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=len(pairs) == 1) as bar:
        for source, target in bar.track(pairs):
            try:
                done.append(convert(source, target, request))
            except (MissingDependencyError, VolumeError) as error:
                complain(str(error))
                failed += 1
    if as_json:
        print(json.dumps({"maps": done, "failed": failed}, indent=1))
    elif done:
        table = Table("output", "shape", "spacing", "low", "high", title=request.convention, title_justify="left")
        for row in done:
            spacing = "1" if row["spacing"] is None else " x ".join(f"{s:g}" for s in row["spacing"])
            low, high = ("" if row[k] is None else f"{row[k]:.4g}" for k in ("low", "high"))
            table.add_row(row["output"], " x ".join(map(str, row["shape"])), spacing, low, high)
        Console().print(table)
    return 1 if failed else 0


def show_conventions(as_json: bool) -> None:
    """What ``dtk map --list`` prints: every convention, and the options that differ from the plain map's."""
    plain = Options()._asdict()
    rows: dict[str, dict[str, Any]] = {
        name: {
            "formula": c.summary,
            "source": c.source,
            "options": {k: v for k, v in c.options._asdict().items() if v != plain[k]},
        }
        for name, c in maps.conventions().items()
    }
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("name", "map", "source")
    table.add_column("options", overflow="fold")  # words without a space to break at
    for name, row in rows.items():
        options = ", ".join(f"{k}={v}" for k, v in row["options"].items())
        table.add_row(name, escape(row["formula"]), escape(row["source"]), options)
    Console().print(table)
