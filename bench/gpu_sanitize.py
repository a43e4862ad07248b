"""Small transforms on the GPU, for compute-sanitizer to watch: odd sizes, short, many and very long lines."""

from __future__ import annotations

import os
import sys

# Every tensor its own allocation, so that an overrun is one.
os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")

import torch

import dtkernels as dtk

SHAPES = (
    (1, 1, 33),
    (1, 2, 32768),  # too long for shared memory together with its sites
    (1, 2, 17, 65),
    (1, 1, 300, 40),
    (1, 1, 2100, 3),  # longer than the scan keeps in shared memory
    (1, 1, 3, 9000),
    (2, 1, 9, 17, 33),
    (4, 2, 17, 19, 33),  # enough slices for the fused kernel, with one byte per code ...
    (1, 1, 300, 9, 13),  # ... and with two
)


def main() -> int:
    if not torch.cuda.is_available():
        print("bench.gpu_sanitize: no GPU that torch can use was found")
        return 2
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for shape in SHAPES:
        dims = len(shape) - 2
        spacing = (3.0, 0.8, 0.7)[:dims]
        probabilities = torch.rand(shape, generator=generator)
        for mask, options in (
            ((probabilities > 0.4).byte(), {}),
            (probabilities, {"threshold": 0.9}),
            (probabilities, {"threshold": 0.2, "spacing": spacing, "border": "closed"}),
        ):
            for function in (dtk.edt, dtk.sdf):
                expected = function(mask, spatial_dims=dims, **options)
                got = function(mask.cuda(), spatial_dims=dims, **options).cpu()
                wrong += not torch.allclose(got, expected, rtol=1e-6, atol=0)
        rows = torch.rand(shape[0], dims, generator=generator) + 0.5
        labels = (3 * probabilities[:, :1]).to(torch.uint8)
        got = dtk.labels_sdf(labels.cuda(), 3, rows.cuda(), spatial_dims=dims).cpu()
        expected = dtk.labels_sdf(labels, 3, rows, spatial_dims=dims)
        wrong += not torch.allclose(got, expected, rtol=1e-6, atol=0)
        mask = probabilities > 0.1
        for given in (None, spacing, rows):
            on_gpu = given.cuda() if isinstance(given, torch.Tensor) else given
            got = dtk.nearest(mask.cuda(), on_gpu, spatial_dims=dims)[1].cpu()
            wrong += not torch.equal(got, dtk.nearest(mask, given, spatial_dims=dims)[1])
            for operator in (torch.ops.dtk.boundary_sums, torch.ops.dtk.hausdorff_sums):
                listed = list(given) if isinstance(given, tuple) else given
                expected = operator(probabilities, mask, listed)
                got = operator(probabilities.cuda(), mask.cuda(), on_gpu if listed is given else listed)
                wrong += not torch.allclose(got[1].cpu(), expected[1], rtol=1e-5, atol=1e-5)
        for connectivity in range(1, dims + 1):
            options = {"connectivity": connectivity, "spatial_dims": dims}
            got = dtk.label((probabilities > 0.6).cuda(), **options)[0].cpu()
            wrong += not torch.equal(got, dtk.label(probabilities > 0.6, **options)[0])
    print(f"{len(SHAPES)} shapes, {wrong} wrong results")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
