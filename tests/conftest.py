"""One suite for all backends: a test that asks for ``backend`` runs once on each that is available here.

``pytest --dtk-backend cuda`` (or DTK_BACKEND=cuda) keeps to the backends named, and fails at once if one of them
cannot run, so that a check of the GPU cannot pass on a machine without one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # for bench.masks; last, so that an installed dtkernels comes first

from emulated import Library  # noqa: E402
from emulator import build  # noqa: E402

import dtkernels as dtk  # noqa: E402

# The same examples in every run: a failure in CI is one at the desk. HYPOTHESIS_PROFILE=search looks further.
settings.register_profile("suite", max_examples=40, deadline=None, derandomize=True, database=None)
settings.register_profile("search", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


MASK_DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
]  # fmt: skip


def layouts(x: torch.Tensor) -> list[torch.Tensor]:
    """A 4-D tensor, as it is and with other strides."""
    return [
        x,
        x.transpose(-1, -2).contiguous().transpose(-1, -2),
        x.contiguous(memory_format=torch.channels_last),
        torch.nn.functional.pad(x, (1, 2, 3, 4))[..., 3:-4, 1:-2],
        x.repeat_interleave(2, dim=-1)[..., ::2],
    ]


@dataclass(frozen=True)  # torch 2.8 compiles no methods of named tuples
class Backend:
    """A backend on one of its devices, with the public functions bound to it."""

    name: str
    device: str

    @property
    def edt(self) -> Callable[..., torch.Tensor]:
        return partial(dtk.edt, backend=self.name)

    @property
    def sdf(self) -> Callable[..., torch.Tensor]:
        return partial(dtk.sdf, backend=self.name)

    @property
    def labels_sdf(self) -> Callable[..., torch.Tensor]:
        return partial(dtk.labels_sdf, backend=self.name)

    def op(self, name: str) -> Callable[..., torch.Tensor]:
        """``edt`` or ``sdf`` by name, for tests that hold for both."""
        return {"edt": self.edt, "sdf": self.sdf}[name]

    def put(self, data: object) -> torch.Tensor:
        """A fresh tensor of ``data`` on the device."""
        return torch.as_tensor(np.array(data) if not isinstance(data, torch.Tensor) else data).to(self.device)


@pytest.fixture(scope="session")
def library() -> Library:
    """The CUDA kernels on the emulator."""
    if build.compiler() is None:
        pytest.skip("the emulator needs a C++ compiler")
    return Library()


_BACKEND_OF = pytest.StashKey[dict[str, str]]()  # a test's node id to the backend that it runs on


def numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values on the host."""
    return tensor.detach().cpu().numpy()


EVERY_INSTRUCTION_SET = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
_ONLY_WITH = """
import sys
from dtkernels._C import cpu_instruction_set
if cpu_instruction_set() != sys.argv[1] and sys.argv[1] != "baseline": sys.exit("absent")
sys.path.insert(0, sys.argv[2])
"""


def with_instruction_set(isa: str, check: str) -> None:
    """Run ``check``, which may import tests, on the ``cpu`` backend's kernels for ``isa``.

    In a process of its own, since the kernels are chosen once.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"{_ONLY_WITH}{check}\nprint('done')", isa, str(Path(__file__).parent)],
        env={**os.environ, "DTK_CPU_ISA": isa},
        capture_output=True,
        text=True,
    )
    if done.stderr.strip() == "absent":
        pytest.skip(f"this machine does not run {isa}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "done\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--dtk-backend",
        default=os.environ.get("DTK_BACKEND", ""),
        help="comma-separated backends to test, each of which must be able to run (default: all that can)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "large: too long for the reference backend")
    wanted = [name for name in config.getoption("--dtk-backend").split(",") if name]
    os.environ.pop("DTK_BACKEND", None)  # from here on it only restricts the suite; tests name their backend
    states = dtk.backends.available()
    for name in wanted:
        if name not in states:
            raise pytest.UsageError(f"--dtk-backend: expected some of {sorted(states)}, got {name!r}")
        if not states[name].available:
            raise pytest.UsageError(f"--dtk-backend: {name!r} cannot run here: {states[name].reason}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" not in metafunc.fixturenames:
        return
    wanted = [name for name in metafunc.config.getoption("--dtk-backend").split(",") if name]
    large = metafunc.definition.get_closest_marker("large") is not None
    params = []
    for name, state in dtk.backends.available().items():
        if wanted and name not in wanted:
            continue
        reason = state.reason
        if state.available and large and name == "reference":
            reason = "marked large: too long for a backend whose speed is no goal"
        marks = [pytest.mark.skip(reason=f"backend {name}: {reason}")] if reason else []
        params += [
            pytest.param(Backend(name, device), id=name if device == name else f"{name}-{device}", marks=marks)
            for device in state.devices
        ]
    metafunc.parametrize("backend", params, scope="session")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How many tests ran on each backend: a suite that skipped one must not look like a suite that proved it."""
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            backend = config.stash[_BACKEND_OF].get(report.nodeid)
            if backend is not None:
                counts.setdefault(backend, Counter())[outcome] += 1
    if counts:
        terminalreporter.section("backends")
    for backend, outcomes in counts.items():
        terminalreporter.line(f"{backend:12} " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[_BACKEND_OF] = {
        item.nodeid: f"{backend.name} ({backend.device})" if backend.name == "numba" else backend.name
        for item in items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        if isinstance(backend := item.callspec.params.get("backend"), Backend)
    }
