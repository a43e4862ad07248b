"""Speed of the CUDA backend on this GPU: ``python -m bench.cuda [--quick] [--save FILE] [--seconds N]``.

Every time is the median of CUDA-event measurements, inputs rotated through more memory than the L2 cache holds,
beside the bandwidth of a device-to-device copy measured in the same run. Peers that are not installed are named;
at the end stands every target of ``bench/targets.py`` and whether it is met.

Each row is saved when it is measured, and a run that finds its result file goes on where that ends, so that a run
may be stopped, or stop itself after ``--seconds``. ``--dry-run`` walks all rows with tiny images on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import dtkernels as dtk
from dtkernels import losses
from dtkernels.maps import CONVENTIONS
from dtkernels.soft import exact_signed_distance

from . import demo_timing, masks, measure, targets
from .operators.losses import REGRESSION, WORDS

LOSS_SHAPE = (4, 2, 128, 128, 128)
LOSSES: dict[str, torch.nn.Module] = {
    **{name: getattr(losses, name)(**WORDS) for name in (
        "BoundaryLoss", "RegionWiseLoss", "HausdorffDTLoss", "LogHausdorffDTLoss", "GeneralizedSurfaceLoss",
        "DistancePenalizedCELoss", "BorderWeightedCELoss", "MapDiceLoss",
    )},
    "HausdorffDTLoss, one-sided": losses.HausdorffDTLoss(**WORDS, variant="one_sided"),
    **{name: getattr(losses, name)(**REGRESSION) for name in (
        "SDFProductLoss", "ShapeAwareLoss", "SignedDistanceRegressionLoss",
    )},
}  # fmt: skip
TINY = 12  # the longest side of a dry run


class Case(NamedTuple):
    """A batch of masks."""

    kind: str
    shape: tuple[int, ...]
    batch: int
    spacing: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """For people and result files."""
        spaced = "" if self.spacing is None else f" {'x'.join(map(str, self.spacing))} mm"
        return f"{self.kind} {'x'.join(map(str, (self.batch, *self.shape)))}{spaced}"


class Operator(NamedTuple):
    """What is measured of a batch of images."""

    bytes: float  # that must be moved for a voxel
    run: Callable[[Tensor, Case], Any]
    source: str = "mask"  # or "function": float32, of any value
    peer: str | None = None


def _map(name: str) -> Operator:
    return Operator(5, lambda x, case: dtk.distance_map(x, name, case.spacing, spatial_dims=len(case.shape)))


def _transform(function: Any, size: int, peer: str | None = None, **options: Any) -> Operator:
    """``size`` bytes of a result; the result's memory comes from torch's cache of it."""
    return Operator(
        1 + size, lambda x, case: function(x, case.spacing, spatial_dims=len(case.shape), **options), peer=peer
    )


def _gradient(function: Any, x: Tensor, **options: Any) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x, **options).sum(), x)[0]


OPERATORS = {
    "sdf": _transform(dtk.sdf, 4, "sdf"),
    "edt": _transform(dtk.edt, 4, "edt"),
    "sdf float16": _transform(dtk.sdf, 2, out_dtype=torch.float16),
    "edt uint8": _transform(dtk.edt, 1, out_dtype=torch.uint8),
    "edt squared": _transform(dtk.edt, 4, squared=True),
    "nearest": _transform(dtk.nearest, 12, "nearest"),
    "label": Operator(
        5, lambda x, case: dtk.label(x, spatial_dims=len(case.shape), connectivity=len(case.shape)), peer="label"
    ),
    **{f"map {name}": _map(name) for name in CONVENTIONS},
    "envelope": Operator(
        8, lambda x, case: dtk.envelope(x, case.spacing, spatial_dims=len(case.shape)), "function"
    ),
    "envelope index": Operator(
        16,
        lambda x, case: dtk.envelope(x, case.spacing, spatial_dims=len(case.shape), return_index=True),
        "function",
    ),
    "soft layer": Operator(
        20,
        lambda x, case: _gradient(exact_signed_distance, x, spacing=case.spacing, spatial_dims=len(case.shape)),
        "function",
    ),
}


def cases(quick: bool) -> Iterator[tuple[str, Case]]:
    """Operators and what they are measured on, what targets ask for first."""
    volumes = [Case(kind, (128, 128, 128), 16) for kind in masks.KINDS]
    organ, volume, large = volumes[0], Case("organ", (128, 128, 128), 1), Case("organ", (256, 256, 256), 1)
    spaced = organ._replace(spacing=(3.0, 0.8, 0.8))
    slices, crops = Case("organ", (1024, 1024), 256), Case("organ", (35, 51, 35), 64)
    for case in (organ, volume, large, slices):
        yield "edt", case
    for case in (*volumes, volume, large, spaced, crops, slices, Case("organ", (64, 64, 64), 1)):
        yield "sdf", case
    for operator in ("sdf float16", "edt uint8", "edt squared"):
        yield operator, organ
    for operator in ("nearest", "label"):
        for case in (organ, volumes[1], volumes[2], large, crops, slices):
            yield operator, case
    for name in CONVENTIONS:
        yield f"map {name}", organ
    for operator in ("envelope", "envelope index", "soft layer"):
        for case in (organ._replace(batch=4), volumes[2]._replace(batch=4)):
            yield operator, case
    if not quick:
        for kind in masks.KINDS:
            for operator in ("edt", "sdf", "nearest", "label"):
                yield operator, Case(kind, (256, 256, 256), 2)
        for shape in ((512, 512, 512), (8192, 8192), (96, 96, 96), (48, 48, 48), (32, 32, 32)):
            yield "sdf", Case("organ", shape, 1)
        yield "nearest", spaced


class Bench:
    """The device that is measured: a GPU, or in a dry run the CPU with tiny images and one repetition."""

    def __init__(self, dry: bool, repeats: int) -> None:
        """Measure the copy, too."""
        self.dry, self.repeats = dry, 1 if dry else repeats
        self.device = "cpu" if dry else "cuda"
        self.bandwidth = self._copy_bandwidth()

    def seconds(self, run: Callable[[int], Any], most: int = 1000) -> measure.Sample:
        """Median seconds of ``run(i)``; i counts calls, for rotating inputs."""
        repeats = min(self.repeats, most)
        if self.dry:
            start = time.perf_counter()
            run(0)
            return measure.summary([time.perf_counter() - start])
        for i in range(min(3, repeats)):
            run(i)
        torch.cuda.synchronize()
        pairs = []
        for i in range(repeats):
            start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start_event.record()
            run(i)
            end_event.record()
            pairs.append((start_event, end_event))
        torch.cuda.synchronize()
        return measure.summary([a.elapsed_time(b) * 1e-3 for a, b in pairs])

    def replayed(self, run: Callable[[], Any]) -> float | None:
        """Seconds of one call under CUDA-graph replay."""
        if self.dry:
            run()
            return None
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(10):
                run()
        return self.seconds(lambda i: graph.replay()).median / 10

    def _copy_bandwidth(self) -> float:
        """Bytes per second of a large copy, bytes read plus bytes written."""
        size = 1 << 16 if self.dry else min(4 << 30, torch.cuda.mem_get_info()[0] // 4)
        source = torch.empty(size, dtype=torch.uint8, device=self.device).random_()
        target = torch.empty_like(source)
        return 2 * size / self.seconds(lambda i: target.copy_(source), 20).median

    def small(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape itself, or that of a dry run."""
        return tuple(min(n, TINY) for n in shape) if self.dry else tuple(shape)

    def inputs(self, case: Case, source: str) -> list[Tensor]:
        """Copies of the batch, flipped in turn, of more than twice the L2 cache together (32 at most)."""
        shape, batch = self.small(case.shape), min(case.batch, 2) if self.dry else case.batch
        seeds = [torch.from_numpy(masks.make(case.kind, shape, seed=i)) for i in range(min(4, batch))]
        first = torch.stack([seeds[i % 4] for i in range(batch)]).to(self.device)
        if source == "function":
            generator = torch.Generator(self.device).manual_seed(0)
            first = 0.9 * first + 0.1 * torch.rand(first.shape, generator=generator, device=self.device)
        cache = 0 if self.dry else torch.cuda.get_device_properties(0).L2_cache_size
        copies = max(2, min(32, 2 * cache // max(first.nbytes, 1) + 1))
        return [first if i == 0 else first.flip(-1 - i % len(shape)).contiguous() for i in range(copies)]


def operator_row(bench: Bench, name: str, case: Case) -> dict[str, Any]:
    """One operator on one case, by itself and in a graph, and CuPy's in a loop over images."""
    operator = OPERATORS[name]
    inputs = bench.inputs(case, operator.source)

    def ours(i: int) -> None:
        operator.run(inputs[i % len(inputs)], case)

    sample = bench.seconds(ours)
    floor = operator.bytes * inputs[0].numel() / bench.bandwidth
    row: dict[str, Any] = {
        "operator": name,
        "mask": case.kind,
        "shape": list(inputs[0].shape[1:]),
        "batch": len(inputs[0]),
        "spacing": list(case.spacing) if case.spacing else None,
        "microseconds": sample.median * 1e6,
        "spread": sample.spread,
        "floor_microseconds": floor * 1e6,
        "times_floor": sample.median / floor,
    }
    if name in ("sdf", "edt", "nearest", "label"):  # the others are captured by tests
        graph = bench.replayed(lambda: ours(0))
        row["microseconds_graph"] = None if graph is None else graph * 1e6
    if operator.peer is not None:
        row.update(cupy_times(bench, operator.peer, case, inputs, sample.median))
    return row


def cupy_times(bench: Bench, peer: str, case: Case, inputs: list[Tensor], ours: float) -> dict[str, Any]:
    """CuPy's function, image by image, twice for signed maps; a peer that fails costs its own number, not ours."""
    if importlib.util.find_spec("cupy") is None:
        return {"absent": "CuPy is not installed"}
    if peer != "label" and max(case.shape) > 1280:
        return {"absent": "beyond the sides that CuPy's algorithm takes"}
    try:
        import cupy
        from cupyx.scipy import ndimage

        options: dict[str, Any] = {"sampling": case.spacing, "float64_distances": False}
        structure = cupy.ones((3,) * len(case.shape))

        def one(image: Any) -> None:
            if peer == "label":
                ndimage.label(image, structure)
                return
            ndimage.distance_transform_edt(image, return_indices=peer == "nearest", **options)
            if peer == "sdf":
                ndimage.distance_transform_edt(image == 0, **options)

        def run(i: int) -> None:
            with cupy.cuda.Stream.null:  # on which torch is, too
                for image in cupy.from_dlpack(inputs[i % len(inputs)]):
                    one(image)

        sample = bench.seconds(run, 10)
    except Exception as error:
        return {"error": f"CuPy: {type(error).__name__}: {error}"}
    return {"cupy_microseconds": sample.median * 1e6, "cupy_over_ours": sample.median / ours}


def loss_row(bench: Bench, name: str) -> dict[str, Any]:
    """A loss, forward and backward; the Hausdorff loss beside MONAI's, and beside SciPy's maps on the host."""
    spatial = bench.small(LOSS_SHAPE[2:])
    bodies = [torch.from_numpy(masks.make("organ", spatial, seed=i)) for i in range(LOSS_SHAPE[0])]
    labels = torch.stack(bodies)[:, None].to(bench.device, torch.int64)
    generator = torch.Generator(bench.device).manual_seed(0)
    noise = torch.randn(*LOSS_SHAPE[:2], *spatial, generator=generator, device=bench.device)
    moved = labels.roll((3, -2, 4), (2, 3, 4)).float()
    logits = torch.cat([1 - moved, moved], 1).mul_(4).add_(noise).requires_grad_()

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[int], None]:
        def run(i: int) -> None:
            logits.grad = None
            loss(logits, labels).backward()

        return run

    sample = bench.seconds(step(LOSSES[name]))
    row: dict[str, Any] = {
        "operator": f"loss {name}",
        "shape": list(logits.shape),
        "microseconds": sample.median * 1e6,
        "spread": sample.spread,
    }
    if name == "HausdorffDTLoss":
        scipy = demo_timing.SciPyHausdorff()
        slow = bench.seconds(step(lambda x, target: scipy(x, target, None)), 1).median
        row.update(scipy_microseconds=slow * 1e6, scipy_over_ours=slow / sample.median)
        if importlib.util.find_spec("monai") is None:
            row["absent"] = "MONAI is not installed"
        else:
            import monai.losses

            theirs = bench.seconds(step(monai.losses.HausdorffDTLoss(**WORDS)), 3).median
            row.update(monai_microseconds=theirs * 1e6, monai_over_ours=theirs / sample.median)
    return row


def rows(quick: bool) -> dict[str, Callable[[Bench], dict[str, Any]]]:
    """All rows by their keys, in order."""
    result: dict[str, Callable[[Bench], dict[str, Any]]] = {}
    for operator, case in cases(quick):
        result[f"{operator} {case.name}"] = lambda bench, o=operator, c=case: operator_row(bench, o, c)
    for name in LOSSES:
        result[f"loss {name}"] = lambda bench, n=name: loss_row(bench, n)
    return result


def print_tables(console: Console, record: dict[str, Any]) -> None:
    """All rows so far, then the targets."""
    table = Table(title="times the bytes that must be moved, at copy bandwidth")
    for column in ("row", "us", "us in a graph", "floor us", "x floor", "CuPy / ours"):
        table.add_column(column, justify="left" if column == "row" else "right")
    formats = {
        "microseconds": ".1f",
        "microseconds_graph": ".1f",
        "floor_microseconds": ".1f",
        "times_floor": ".1f",
    }
    for key, row in record["rows"].items():
        cells = [format(row[k], f) if row.get(k) is not None else "-" for k, f in formats.items()]
        peer = f"{row['cupy_over_ours']:.1f}" if "cupy_over_ours" in row else row.get("error", "-")
        table.add_row(key, *cells, peer)
    console.print(table)
    for verdict in record["targets"]:
        value = f"{verdict['value']:.2f}" if "value" in verdict else verdict["why"]
        console.print(f"{verdict['state']:12s} {verdict['target']}: {value} (required {verdict['required']})")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows, all that targets ask for")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--save", type=Path, help="result file (JSON), gone on with where it exists")
    parser.add_argument("--again", action="store_true", help="measure the rows of the result file again")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after so many")
    parser.add_argument("--dry-run", action="store_true", help="all rows, tiny, on the CPU")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print("bench.cuda: no GPU that torch can use was found; nothing was measured")
        return 2

    start = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 130)
    bench = Bench(options.dry_run, options.repeats)
    device = "CPU, dry run" if options.dry_run else torch.cuda.get_device_name()
    console.print(f"{device}: copy bandwidth {bench.bandwidth / 1e12:.2f} TB/s")
    peers = ("cupy", "cucim", "monai")
    record: dict[str, Any] = {"device": device, "rows": {}}
    if options.save and options.save.exists() and not options.again:
        earlier = json.loads(options.save.read_text())
        if earlier.get("device") == device:
            record["rows"] = {row.pop("row"): row for row in earlier["rows"]}
    record["copy_bytes_per_second"] = bench.bandwidth
    record["absent_peers"] = [name for name in peers if importlib.util.find_spec(name) is None]
    left, failed = [], 0
    for key, row in rows(options.quick).items():
        if key in record["rows"] and "failed" not in record["rows"][key]:
            continue
        if time.monotonic() - start > options.seconds:
            left.append(key)
            continue
        try:
            record["rows"][key] = row(bench)
        except Exception as error:  # the rows after it are still wanted
            record["rows"][key] = {"failed": f"{type(error).__name__}: {error}"}
            failed += 1
            console.print(f"{key}: {record['rows'][key]['failed']}")
        record["targets"] = [targets.judge(t, record["rows"]) for t in targets.TARGETS]
        if options.save:
            saved = [{"row": key, **row} for key, row in record["rows"].items()]
            measure.save(options.save, {**record, "rows": saved})
    record["targets"] = [targets.judge(t, record["rows"]) for t in targets.TARGETS]
    print_tables(console, record)
    if record["absent_peers"]:
        console.print(f"peers that are not installed and so not measured: {', '.join(record['absent_peers'])}")
    if left:
        console.print(f"{len(left)} rows left, from {left[0]!r} on: run again to go on")
        return 3
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
