"""Speed of the CUDA backend on this GPU: ``python -m bench.cuda [--quick] [--save FILE]``.

Every time is the median of CUDA-event measurements, inputs rotated through more memory than the L2 cache holds,
beside the bandwidth of a device-to-device copy measured in the same run. Peers that are not installed are named.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

import dtkernels as dtk
from dtkernels import losses

from . import masks, measure

# One uint8 in, one float32 out: what any transform must move; a position of eight bytes besides; an int32.
FLOOR_BYTES = 5
OPERATOR_BYTES = {"nearest": 13, "label": 5}


class Case(NamedTuple):
    """One row of the table."""

    kind: str
    shape: tuple[int, ...]
    batch: int
    signed: bool = True
    spacing: tuple[float, ...] | None = None


def cases(quick: bool) -> Iterator[Case]:
    for kind in ("organ", "ellipsoids", "noise"):
        yield Case(kind, (128, 128, 128), 16)
    yield Case("organ", (128, 128, 128), 16, signed=False)
    yield Case("organ", (128, 128, 128), 16, spacing=(3.0, 0.8, 0.8))
    yield Case("organ", (128, 128, 128), 1)
    yield Case("organ", (256, 256, 256), 1)
    yield Case("organ", (35, 51, 35), 64)
    yield Case("organ", (1024, 1024), 256)
    if not quick:
        for kind in masks.KINDS:
            yield Case(kind, (256, 256, 256), 2)
        yield Case("organ", (512, 512, 512), 1)
        yield Case("organ", (8192, 8192), 1)


def event_seconds(run: Callable[[int], Any], repeats: int) -> measure.Sample:
    """Median seconds of ``run(i)``; i counts calls, for rotating inputs."""
    for i in range(3):
        run(i)
    torch.cuda.synchronize()
    pairs = []
    for i in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(i)
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return measure.summary([a.elapsed_time(b) * 1e-3 for a, b in pairs])


def copy_bandwidth() -> float:
    """Bytes per second of a large device-to-device copy, bytes read plus bytes written."""
    size = min(4 << 30, torch.cuda.mem_get_info()[0] // 4)
    source = torch.empty(size, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * size / event_seconds(lambda i: target.copy_(source), 20).median


def rotating_inputs(case: Case) -> list[torch.Tensor]:
    """Copies of the batch, flipped in turn, of more than twice the L2 cache together (32 at most)."""
    seeds = [torch.from_numpy(masks.make(case.kind, case.shape, seed=i)) for i in range(min(4, case.batch))]
    first = torch.stack([seeds[i % 4] for i in range(case.batch)]).cuda()
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    copies = max(2, min(32, 2 * cache // max(first.numel(), 1) + 1))
    return [first if i == 0 else first.flip(-1 - i % len(case.shape)).contiguous() for i in range(copies)]


def replay(run: Callable[[], Any]) -> measure.Sample:
    """Seconds of one call under CUDA-graph replay."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            run()
    sample = event_seconds(lambda i: graph.replay(), 30)
    return measure.Sample(*(x / 10 for x in sample[:3]), sample.rounds)


def run_case(case: Case, bandwidth: float, repeats: int) -> dict[str, Any]:
    inputs = rotating_inputs(case)
    out = torch.empty(inputs[0].shape, device="cuda")
    function = dtk.sdf if case.signed else dtk.edt
    dims = len(case.shape)

    def ours(i: int) -> None:
        function(inputs[i % len(inputs)], case.spacing, spatial_dims=dims, out=out)

    sample = event_seconds(ours, repeats)
    voxels = inputs[0].numel()
    floor = FLOOR_BYTES * voxels / bandwidth
    row = {
        "mask": case.kind,
        "shape": list(case.shape),
        "batch": case.batch,
        "operator": "sdf" if case.signed else "edt",
        "spacing": list(case.spacing) if case.spacing else None,
        "microseconds": sample.median * 1e6,
        "microseconds_graph": replay(lambda: ours(0)).median * 1e6,
        "spread": sample.spread,
        "floor_microseconds": floor * 1e6,
        "times_floor": sample.median / floor,
    }
    try:
        peer = cupy_transform(case, inputs)
        if peer is not None:
            peer_sample = event_seconds(peer, min(repeats, 10))
            row["cupy_microseconds"] = peer_sample.median * 1e6
            row["cupy_over_ours"] = peer_sample.median / sample.median
    except Exception as error:  # a peer that fails costs its own number, not ours
        row["cupy_error"] = f"{type(error).__name__}: {error}"
    return row


def cupy_transform(case: Case, inputs: list[torch.Tensor]) -> Callable[[int], Any] | None:
    """CuPy's transform of the same batch: a loop over images, twice for signed maps."""
    if importlib.util.find_spec("cupy") is None or len(case.shape) not in (2, 3) or max(case.shape) > 1280:
        return None
    import cupy
    from cupyx.scipy import ndimage

    options = {"sampling": case.spacing, "float64_distances": False}

    def run(i: int) -> None:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            for image in cupy.from_dlpack(inputs[i % len(inputs)]):
                ndimage.distance_transform_edt(image, **options)
                if case.signed:
                    ndimage.distance_transform_edt(image == 0, **options)

    return run


def operator_cases(quick: bool) -> Iterator[Case]:
    for kind in ("organ", "ellipsoids", "noise"):
        yield Case(kind, (128, 128, 128), 16)
    yield Case("organ", (256, 256, 256), 1)
    yield Case("organ", (35, 51, 35), 64)
    yield Case("organ", (1024, 1024), 256)
    if not quick:
        yield Case("organ", (128, 128, 128), 16, spacing=(3.0, 0.8, 0.8))
        for kind in masks.KINDS:
            yield Case(kind, (256, 256, 256), 2)


def operator_row(operator: str, case: Case, bandwidth: float, repeats: int) -> dict[str, Any]:
    """The feature transform or the labelling of one case, and CuPy's, image by image."""
    inputs, dims = rotating_inputs(case), len(case.shape)

    def ours(i: int) -> None:
        mask = inputs[i % len(inputs)]
        if operator == "nearest":
            dtk.nearest(mask, case.spacing, spatial_dims=dims)
        else:
            dtk.label(mask, spatial_dims=dims, connectivity=dims)

    sample = event_seconds(ours, repeats)
    floor = OPERATOR_BYTES[operator] * inputs[0].numel() / bandwidth
    row = {
        "mask": case.kind,
        "shape": list(case.shape),
        "batch": case.batch,
        "operator": operator,
        "spacing": list(case.spacing) if case.spacing else None,
        "microseconds": sample.median * 1e6,
        "microseconds_graph": replay(lambda: ours(0)).median * 1e6,
        "spread": sample.spread,
        "floor_microseconds": floor * 1e6,
        "times_floor": sample.median / floor,
    }
    try:
        peer = cupy_operator(operator, case, inputs)
        if peer is not None:
            peer_sample = event_seconds(peer, min(repeats, 10))
            row["cupy_microseconds"] = peer_sample.median * 1e6
            row["cupy_over_ours"] = peer_sample.median / sample.median
    except Exception as error:  # a peer that fails costs its own number, not ours
        row["cupy_error"] = f"{type(error).__name__}: {error}"
    return row


def cupy_operator(operator: str, case: Case, inputs: list[torch.Tensor]) -> Callable[[int], Any] | None:
    """CuPy's indices of the transform, or its labels, in a loop over images."""
    if importlib.util.find_spec("cupy") is None or (operator == "nearest" and max(case.shape) > 1280):
        return None
    import cupy
    from cupyx.scipy import ndimage

    structure = cupy.ones((3,) * len(case.shape))

    def run(i: int) -> None:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            for image in cupy.from_dlpack(inputs[i % len(inputs)]):
                if operator == "nearest":
                    ndimage.distance_transform_edt(
                        image, sampling=case.spacing, return_indices=True, float64_distances=False
                    )
                else:
                    ndimage.label(image, structure)

    return run


def loss_rows(repeats: int) -> Iterator[dict[str, Any]]:
    """Hausdorff loss, forward and backward, on (4, 2, 128, 128, 128) against MONAI's losses."""
    labels = torch.stack([torch.from_numpy(masks.make("organ", (128,) * 3, seed=i)) for i in range(4)]).cuda()[
        :, None
    ]
    logits = torch.randn(4, 2, 128, 128, 128, device="cuda", requires_grad=True)
    contenders: dict[str, Any] = {
        "dtkernels HausdorffDTLoss": losses.HausdorffDTLoss(softmax=True, to_onehot_y=True)
    }
    if importlib.util.find_spec("monai") is not None:
        import monai.losses

        contenders["MONAI DiceLoss"] = monai.losses.DiceLoss(softmax=True, to_onehot_y=True)
        contenders["MONAI HausdorffDTLoss"] = monai.losses.HausdorffDTLoss(softmax=True, to_onehot_y=True)
    for name, loss in contenders.items():

        def step(i: int, loss: Any = loss) -> None:
            logits.grad = None
            loss(logits, labels).backward()

        slow = name == "MONAI HausdorffDTLoss"
        sample = event_seconds(step, 3 if slow else repeats)
        yield {"loss": name, "milliseconds": sample.median * 1e3, "spread": sample.spread}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--save", type=Path, help="result file (JSON)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench.cuda: no GPU that torch can use was found; nothing was measured")
        return 2

    console = Console(width=None if sys.stdout.isatty() else 130)
    bandwidth = copy_bandwidth()
    console.print(f"{torch.cuda.get_device_name()}: copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    absent = [name for name in ("cupy", "cucim", "monai") if importlib.util.find_spec(name) is None]
    if absent:
        console.print(f"peers that are not installed and so not measured: {', '.join(absent)}")

    title = f"{torch.cuda.get_device_name()}; floor: {FLOOR_BYTES} bytes per voxel (nearest: 13) at copy bandwidth"
    table = Table(title=title)
    for column in ("mask", "operator", "us", "us in a graph", "floor us", "x floor", "CuPy / ours"):
        table.add_column(column, justify="left" if column in ("mask", "operator") else "right")
    record: dict[str, Any] = {
        "copy_bytes_per_second": bandwidth,
        "absent_peers": absent,
        "rows": [],
        "losses": [],
    }

    def keep(kind: str, row: dict[str, Any]) -> None:
        """Save at once, so that a run that is stopped leaves what it has measured."""
        record[kind].append(row)
        if arguments.save:
            measure.save(arguments.save, record)

    work = [(case, partial(run_case, case)) for case in cases(arguments.quick)]
    for operator in OPERATOR_BYTES:
        work += [(case, partial(operator_row, operator, case)) for case in operator_cases(arguments.quick)]
    for case, measured in work:
        row = measured(bandwidth, arguments.repeats)
        keep("rows", row)
        table.add_row(
            f"{case.batch} x {case.kind} {' x '.join(map(str, case.shape))}",
            row["operator"] + ("" if case.spacing is None else f" {case.spacing}"),
            f"{row['microseconds']:.1f}",
            f"{row['microseconds_graph']:.1f}",
            f"{row['floor_microseconds']:.1f}",
            f"{row['times_floor']:.1f}",
            f"{row['cupy_over_ours']:.1f}" if "cupy_over_ours" in row else "-",
        )
    console.print(table)
    for row in loss_rows(arguments.repeats):
        keep("losses", row)
        console.print(f"{row['loss']}, forward and backward, (4, 2, 128, 128, 128): {row['milliseconds']:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
