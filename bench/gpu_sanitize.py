"""Every operator on the GPU at small sizes, for compute-sanitizer: ``python -m bench.gpu_sanitize [PART ...]``.

Odd sizes, short, many and very long lines. Results are compared with the CPU's, and a call whose result differs is
named: without compute-sanitizer this is the quickest look at all kernels. ``--dry-run`` takes the CPU for the GPU;
with the emulator in CuPy's place, ``tests/test_gpu_harness.py`` sees in it that no kernel is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Every tensor its own allocation, so that an overrun is one.
os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")

import torch
from torch import Tensor

import dtkernels as dtk
from dtkernels import losses
from dtkernels.maps import CONVENTIONS

SHAPES = (
    (1, 1, 33),
    (1, 1, 32768),
    (1, 2, 17, 65),
    (1, 1, 300, 40),
    (1, 1, 2100, 3),  # longer than the scan keeps in shared memory
    (1, 1, 3, 9000),
    (2, 1, 9, 17, 33),
    (1, 1, 6, 50, 70),  # few slices that take long: a kernel for each axis
    (6, 2, 17, 31, 46),  # slices enough for strips of sixteen, with one byte per code ...
    (1, 1, 200, 17, 19),  # ... with two, in 16 bits
    (1, 1, 300, 9, 13),  # ... and in 32
)
SPLIT = (1, 1, 100, 240, 250)  # squares in three bytes; too large to be emulated
LONG = (1, 1, 32768, 2)  # too long for the shared memory that the feature transform needs
SMALL = ((1, 2, 33), (2, 1, 17, 65), (2, 1, 9, 17, 33))
Pair = tuple[Any, Any]  # what the GPU says, and what the CPU does


class Both:
    """One call on the device and on the CPU."""

    def __init__(self, device: str) -> None:
        """Inputs are the same in every run."""
        self.device = device
        self.call = ""  # the latest, for people
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, function: Callable[..., Any], *tensors: Any, **options: Any) -> Iterator[Pair]:
        """Results and gradients, one by one; tensors that need a gradient get one."""
        what = [f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x) for x in tensors]
        what += [f"{name}={value!r}" for name, value in options.items()]
        self.call = f"{getattr(function, '__name__', function)}({', '.join(what)})"
        sides = []
        for device, how in ((self.device, {}), ("cpu", {"backend": "cpu"})):
            if isinstance(function, torch.nn.Module):
                how = {}
            given = [
                x.detach().to(device).requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x
                for x in tensors
            ]
            result = function(*given, **options, **how)
            results = list(result) if isinstance(result, tuple) else [result]
            wanted = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
            if wanted:
                results += torch.autograd.grad(results[0].sum(), wanted)
            sides.append([r.detach().cpu() if isinstance(r, Tensor) else r for r in results])
        return zip(*sides, strict=True)

    def random(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)


def transforms(both: Both, large: bool) -> Iterator[Pair]:
    for shape in (*SHAPES, SPLIT) if large else SHAPES:
        dims = len(shape) - 2
        spacing = (3.0, 0.8, 0.7)[:dims]
        probabilities = both.random(*shape)
        for mask, options in (
            ((probabilities > 0.4).byte(), {}),
            (probabilities, {"threshold": 0.9}),
            (probabilities, {"threshold": 0.2, "spacing": spacing, "border": "closed"}),
        ):
            for function in (dtk.edt, dtk.sdf):
                yield from both(function, mask, spatial_dims=dims, **options)
        rows = both.random(shape[0], dims) + 0.5
        labels = (3 * probabilities[:, :1]).to(torch.uint8)
        yield from both(dtk.labels_sdf, labels, 3, rows, spatial_dims=dims)
    for shape in SMALL:
        mask = both.random(*shape) > 0.2
        for dtype in (torch.float16, torch.bfloat16):
            yield from both(dtk.sdf, mask, spatial_dims=len(shape) - 2, out_dtype=dtype)
        yield from both(dtk.edt, mask, spatial_dims=len(shape) - 2, out_dtype=torch.uint8)


def positions(both: Both, large: bool) -> Iterator[Pair]:
    for shape in (*SMALL, (1, 1, 2100, 3), (1, 1, 3, 9000), (4, 2, 17, 19, 33), LONG):
        dims = len(shape) - 2
        probabilities = both.random(*shape)
        for given in (None, (3.0, 0.8, 0.7)[:dims], both.random(shape[0], dims) + 0.5):
            yield from both(dtk.nearest, probabilities > 0.1, given, spatial_dims=dims)
        for connectivity in range(1, dims + 1):
            yield from both(dtk.label, probabilities > 0.6, connectivity=connectivity, spatial_dims=dims)


def maps(both: Both, large: bool) -> Iterator[Pair]:
    for shape in SMALL:
        mask = both.random(*shape) > 0.8
        for name in CONVENTIONS:
            for spacing in (None, (3.0, 0.8, 0.7)[: len(shape) - 2]):
                yield from both(dtk.distance_map, mask, name, spacing, spatial_dims=len(shape) - 2)


def envelopes(both: Both, large: bool) -> Iterator[Pair]:
    for shape in (*SMALL, (1, 1, 32000), (1, 1, 300, 9, 13)):
        dims = len(shape) - 2
        for dtype in (torch.float32, torch.float64):
            f = (20 * both.random(*shape)).to(dtype).requires_grad_()
            for spacing in (None, (3.0, 0.8, 0.7)[:dims]):
                yield from both(dtk.envelope, f, spacing, spatial_dims=dims, return_index=True)


def fused_losses(both: Both, large: bool) -> Iterator[Pair]:
    for shape in (*SMALL, *SHAPES[-4:], (1, 1, 3, 9000), *((SPLIT,) if large else ())):
        dims = len(shape) - 2
        probabilities = both.random(*shape)
        for given in (None, [3.0, 0.8, 0.7][:dims], both.random(shape[0], dims) + 0.5):
            for operator in (torch.ops.dtk.boundary_sums, torch.ops.dtk.hausdorff_sums):
                yield from both(operator, probabilities, probabilities > 0.9, given)
    words: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
    modules = [losses.BoundaryLoss(**words), losses.LogHausdorffDTLoss(**words), losses.RegionWiseLoss(**words)]
    for variant in ("two_sided", "ma2020", "one_sided"):
        for alpha in (1.0, 2.0):
            modules.append(losses.HausdorffDTLoss(**words, variant=variant, alpha=alpha))
    for shape in ((2, 3, 17, 40), (2, 3, 9, 17, 33), (17, 3, 9, 17, 33)):
        logits = (8 * both.random(*shape)).requires_grad_()
        labels = (3 * both.random(shape[0], 1, *shape[2:])).long()
        for module in modules:
            yield from both(module, logits, labels)


PARTS: dict[str, Callable[[Both, bool], Iterator[Pair]]] = {
    "transforms": transforms,
    "positions": positions,
    "maps": maps,
    "envelopes": envelopes,
    "losses": fused_losses,
}


def same(got: Any, expected: Any) -> bool:
    if not isinstance(got, Tensor):
        return bool(got == expected)
    if not got.is_floating_point():
        return torch.equal(got, expected)
    tolerance = 1e-5 if got.dtype in (torch.float32, torch.float64) else 1e-2
    return torch.allclose(got.double(), expected.double(), rtol=tolerance, atol=1e-6)


def difference(got: Any, expected: Any) -> str:
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return f"got {got}, expected {expected}"
    apart = (got != expected) & ~(got.isnan() & expected.isnan())
    first = tuple(apart.nonzero()[0].tolist()) if apart.any() else ()
    return (
        f"{int(apart.sum())} of {apart.numel()} elements differ, the first at {first}: "
        f"got {got[first]}, expected {expected[first]}"
    )


def check(name: str, both: Both, large: bool) -> int:
    """One part; how many of its results are wrong, and what is wrong with the first ones."""
    results = wrong = 0
    try:
        for pair in PARTS[name](both, large):
            results += 1
            if not same(*pair):
                wrong += 1
                if wrong <= 10:
                    print(f"{name}: wrong: {both.call}: {difference(*pair)}", flush=True)
    except Exception:  # the other parts are still wanted
        print(f"{name}: {both.call}\n{traceback.format_exc()}", flush=True)
        wrong += 1
    print(f"{name}: {results} results, {wrong} wrong", flush=True)
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--dry-run", action="store_true", help="the CPU for the GPU")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print("bench.gpu_sanitize: no GPU that torch can use was found")
        return 2
    device = "cpu" if options.dry_run else "cuda"
    wrong = sum(check(name, Both(device), not options.dry_run) for name in options.parts or PARTS)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
