"""A plugin of pytest: the CuPy backend on the emulator, for tensors on the CPU.

``pytest -p emulated_cupy --dtk-backend cupy`` runs suites that know nothing of it through the GPU's kernels and
launch plans; ``tests/test_cupy.py`` does so for the feature transform and the labelling.
"""

from __future__ import annotations

import sys

import test_cupy as cupy
import torch

sys.modules["cupy"] = cupy.FakeCuPy(cupy.Library())
cupy.forget()
cupy.backend.DEVICES = ("cpu",)
torch._C._cuda_getCurrentRawStream = lambda index: 0
torch.cuda.is_current_stream_capturing = lambda: False
