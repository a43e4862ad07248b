"""Several processes: tensors split over a mesh, and losses whose gradients are averaged between replicas."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import dtkernels as dtk
from dtkernels import losses

pytestmark = pytest.mark.skipif(
    not distributed.is_available() or not distributed.is_gloo_available(),
    reason="needs torch.distributed with gloo",
)

RANKS = 2


def member(rank: int, folder: str, job: Callable[[int], None]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=RANKS)
    try:
        job(rank)
        distributed.barrier()  # gloo aborts a process whose peer is gone while it still talks
    except BaseException:
        Path(folder, f"failure{rank}").write_text(traceback.format_exc())
        raise
    finally:
        distributed.destroy_process_group()
    # torch's own threads may outlive the group, and a process that unloads them then is aborted now and again
    # ("terminate called without an active exception"): leave without unloading.
    os._exit(0)


def on_two_ranks(folder: Path, job: Callable[[int], None]) -> None:
    """Run ``job(rank)`` in two fresh processes that form a group; its failure is the test's."""
    try:
        multiprocessing.spawn(member, (str(folder), job), nprocs=RANKS)
    except Exception as error:
        text = "\n".join(file.read_text() for file in sorted(folder.glob("failure*")))
        pytest.fail(f"{text or error}")


def same(result: Any, expected: Any) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


# ---- DTensor


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def check_rules(rank: int) -> None:
    import dtkernels.dtensor  # noqa: F401

    mesh = init_device_mesh("cpu", (RANKS,))
    mask, shape = random(4, 2, 9, 10, 11) > 0.5, (4, 2, 9, 10, 11)
    labels = (4 * random(4, 1, 9, 10)).long()
    rows = 0.5 + random(4, 3)
    p, f = random(*shape, seed=1), random(*shape, seed=2)
    both, samples = (0, 1), (0,)
    calls: list[tuple[Callable[..., Any], tuple[torch.Tensor, ...], tuple[int, ...]]] = [
        (dtk.edt, (mask,), both),
        (lambda m: dtk.sdf(m, (1.0, 2.0, 0.5)), (mask,), both),
        (dtk.sdf, (mask, rows), both),
        (lambda x: dtk.labels_sdf(x, 4), (labels,), samples),
        (dtk.nearest, (mask,), both),
        (dtk.label, (mask,), both),
        (dtk.envelope, (f,), both),
        (lambda m: dtk.distance_map(m, "kervadec"), (mask,), both),
        (lambda m: dtk.distance_map(m, "xue_sdm", scope="sample"), (mask,), samples),
        (lambda m: dtk.distance_map(m, "xue_sdm", scope="batch"), (mask,), ()),
        (torch.ops.dtk.boundary_sums, (p, mask), both),
        (torch.ops.dtk.hausdorff_sums, (p, mask), both),
        (
            lambda p, y: torch.ops.dtk.hausdorff_sums(p, y, first_label=0),
            (p[..., 0].contiguous(), labels),
            samples,
        ),
    ]
    for call, tensors, splits in calls:
        expected = call(*tensors)
        for axis in range(tensors[0].ndim):
            if axis > 0 and len(tensors) > 1 and tensors[1] is rows:
                placements = [[Shard(axis)], [Replicate()]]
            else:
                placements = [[Shard(axis)]] * len(tensors)
            parts = [
                distribute_tensor(
                    x, mesh, how if how[0] == Replicate() or x.shape[how[0].dim] > 1 else [Replicate()]
                )
                for x, how in zip(tensors, placements, strict=True)
            ]
            results = call(*parts)
            for result, value in zip(
                *((x if isinstance(x, tuple) else (x,)) for x in (results, expected)), strict=True
            ):
                assert isinstance(result, DTensor)
                if axis in splits:
                    assert result.placements == (Shard(axis),), (call, axis)
                same(result.full_tensor(), value)


def check_gradient(rank: int) -> None:
    """Through an envelope and the sums of a loss, with the gradient split as the tensor is."""
    import dtkernels.dtensor  # noqa: F401

    mesh = init_device_mesh("cpu", (RANKS,))
    f, mask = random(4, 2, 9, 10, seed=3), random(4, 2, 9, 10) > 0.5
    for loss in (
        lambda x, m: dtk.envelope(x, spatial_dims=2).square().sum(),
        lambda x, m: torch.ops.dtk.hausdorff_sums(x, m)[0].sum(),
        lambda x, m: torch.ops.dtk.boundary_sums(x, m)[0].square().sum(),
    ):
        x = f.clone().requires_grad_()
        loss(x, mask).backward()
        part = distribute_tensor(f, mesh, [Shard(0)]).requires_grad_()
        loss(part, distribute_tensor(mask, mesh, [Shard(0)])).backward()
        assert isinstance(part.grad, DTensor)
        assert part.grad.placements == (Shard(0),)
        torch.testing.assert_close(part.grad.full_tensor(), x.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("job", [check_rules, check_gradient])
def test_distributed_tensors(tmp_path: Path, job: Callable[[int], None]) -> None:
    """Parts along samples and classes stay where they are; any other split gives the whole's result, too."""
    on_two_ranks(tmp_path, job)


# ---- DistributedDataParallel

LOSSES: dict[str, nn.Module] = {
    "boundary": losses.BoundaryLoss(softmax=True, to_onehot_y=True),
    "hausdorff": losses.HausdorffDTLoss(softmax=True, to_onehot_y=True),
    "region-wise": losses.RegionWiseLoss(softmax=True, to_onehot_y=True),
    "cross-entropy": losses.DistancePenalizedCELoss(softmax=True, to_onehot_y=True),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1))


def gradients(net: nn.Module, loss: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    loss(net(x), y).backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def check_replicas(rank: int) -> None:
    x, y = random(4, 1, 24, 20, seed=4), (3 * random(4, 1, 24, 20, seed=5)).long()
    share = slice(rank * 2, rank * 2 + 2)
    for name, loss in LOSSES.items():
        expected = gradients(network(), loss, x, y)
        replica = nn.parallel.DistributedDataParallel(network())
        result = gradients(replica, loss, x[share], y[share])
        for a, b in zip(result, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_data_parallel_training(tmp_path: Path) -> None:
    """With the mean over samples, the averaged gradient of two halves of a batch is that of the batch."""
    on_two_ranks(tmp_path, check_replicas)
