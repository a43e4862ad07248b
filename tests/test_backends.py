"""Who computes: states with reasons, choices by argument and variable, refusals, and what an import does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from conftest import Backend

import dtkernels as dtk


def mask_on(device: str) -> torch.Tensor:
    """A mask whose distances are its own values."""
    return torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]], device=device)


def chosen(device: torch.device, name: str | None = None) -> str:
    return dtk.backends.choose(device, name).NAME


def test_available_tells_states_and_reasons() -> None:
    states = dtk.backends.available()
    assert set(states) == {"cpu", "cuda", "cupy", "numba", "reference"}
    for name, state in states.items():
        assert isinstance(state.available, bool), name
        assert state.devices, name
        assert all(device in ("cpu", "cuda") for device in state.devices), name
        assert bool(state.reason) != state.available, f"{name}: a reason exactly where it cannot run"
    assert states["cpu"].devices == states["reference"].devices == ("cpu",)
    assert states["cuda"].devices == states["cupy"].devices == ("cuda",)


def test_cuda_is_available_exactly_with_a_device() -> None:
    state = dtk.backends.available()["cuda"]
    if not torch.cuda.is_available():
        assert not state.available
        assert "CUDA" in state.reason
    elif not state.available:
        pytest.skip(f"this machine has a GPU, but: {state.reason}")


def test_available_answers_afresh_each_time() -> None:
    states = dtk.backends.available()
    states.clear()
    assert "cpu" in dtk.backends.available()


def test_choice_by_argument(backend: Backend) -> None:
    x = mask_on(backend.device)
    for function in (dtk.edt, torch.ops.dtk.edt):
        result = function(x, backend=backend.name)
        assert result.device == x.device
        assert torch.equal(result, x)
    assert chosen(x.device, backend.name) == backend.name


def test_choice_by_variable(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read at each call: a notebook may set it after the import."""
    x = mask_on(backend.device)
    monkeypatch.setenv("DTK_BACKEND", backend.name)
    assert chosen(x.device) == backend.name
    assert torch.equal(dtk.edt(x), x)
    monkeypatch.setenv("DTK_BACKEND", "")
    assert torch.equal(dtk.edt(x), x)  # empty is as good as unset


def test_argument_comes_before_variable(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTK_BACKEND", "nonsense")
    x = mask_on(backend.device)
    assert torch.equal(dtk.edt(x, backend=backend.name), x)
    assert chosen(x.device, backend.name) == backend.name


def test_first_available_backend_is_the_default(backend: Backend) -> None:
    device = torch.device(backend.device)
    able = [n for n, s in dtk.backends.available().items() if s.available and device.type in s.devices]
    assert chosen(device) == able[0]


def test_compiled_code_follows_the_argument(backend: Backend) -> None:
    x = mask_on(backend.device)
    compiled = torch.compile(lambda y: dtk.edt(y, backend=backend.name), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), x)


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_unknown_backend(backend: Backend, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, name = mask_on(backend.device), None
    if by == "variable":
        monkeypatch.setenv("DTK_BACKEND", "gpu")
    else:
        name = "gpu"
    for function in (dtk.edt, dtk.sdf):
        with pytest.raises(ValueError, match=r"'cpu', 'cuda', 'cupy', 'numba', 'reference'.*'gpu'") as caught:
            function(x, backend=name)
        assert ("DTK_BACKEND" if by == "variable" else "backend") in str(caught.value)


def test_unavailable_backend_is_refused_with_its_reason(backend: Backend) -> None:
    missing = {n: s for n, s in dtk.backends.available().items() if not s.available}
    if not missing:
        pytest.skip("every backend is available here")
    for name, state in missing.items():
        with pytest.raises(RuntimeError) as caught:
            dtk.edt(mask_on(backend.device), backend=name)
        assert name in str(caught.value)
        assert state.reason in str(caught.value)


def test_backend_of_another_device_is_refused(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves to another device by itself, be it asked for by argument or by variable."""
    others = [
        name for name, state in dtk.backends.available().items()
        if state.available and backend.device not in state.devices
    ]  # fmt: skip
    if not others:
        pytest.skip(f"no available backend is for devices other than {backend.device}")
    x = mask_on(backend.device)
    for name in others:
        with pytest.raises((ValueError, RuntimeError), match=f"{name}.*{backend.device}"):
            dtk.edt(x, backend=name)
        monkeypatch.setenv("DTK_BACKEND", name)
        with pytest.raises((ValueError, RuntimeError), match=f"{name}.*{backend.device}"):
            dtk.edt(x)
        monkeypatch.delenv("DTK_BACKEND")


def test_device_without_a_backend_is_refused() -> None:
    with pytest.raises(RuntimeError, match="xpu"):
        dtk.backends.choose(torch.device("xpu"))


# ---- imports, each in a process of its own


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints, with the paths of this one."""
    paths = os.pathsep.join(p for p in sys.path if p)
    env = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PRELUDE = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None   # importing it raises ImportError
import torch, dtkernels as dtk
x = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
states = dtk.backends.available()
"""


def test_import_is_light() -> None:
    """It initialises no CUDA and loads none of the libraries that only adaptors, tools or the reference need."""
    code = """
import sys, torch
before = set(sys.modules)
import dtkernels as dtk
heavy = {"scipy", "monai", "nibabel", "typer", "rich", "matplotlib", "cupy", "numba", "torchmetrics", "medpy"}
print(sorted(heavy & {m.split(".")[0] for m in set(sys.modules) - before}), torch.cuda.is_initialized())
dtk.backends.available()
print(torch.cuda.is_initialized())
"""
    assert python(code).splitlines() == ["[] False", "False"]


def test_environment_of_a_fresh_process() -> None:
    """A GPU hidden by its variable is a state with a reason; a wrong DTK_BACKEND is refused at the call."""
    code = (
        PRELUDE.format(blocked=[])
        + """
print(states["cuda"].available, bool(states["cuda"].reason))
try:
    dtk.edt(x)
except ValueError as error:
    print("DTK_BACKEND" in str(error) and "nonsense" in str(error))
"""
    )
    lines = python(code, CUDA_VISIBLE_DEVICES="", DTK_BACKEND="nonsense").splitlines()
    assert lines == ["False True", "True"]


def test_without_scipy() -> None:
    if not dtk.backends.available()["cpu"].available:
        pytest.skip(f"no compiled module: {dtk.backends.available()['cpu'].reason}")
    code = (
        PRELUDE.format(blocked=["scipy"])
        + """
assert states["cpu"].available
assert not states["reference"].available
assert "scipy" in states["reference"].reason.lower(), states["reference"].reason
assert dtk.edt(x).tolist() == x.tolist()
try:
    dtk.edt(x, backend="reference")
except RuntimeError as error:
    print("scipy" in str(error).lower())
"""
    )
    assert python(code) == "True"


def test_without_the_compiled_module() -> None:
    """The reference takes over on CPU tensors; naming the missing backends tells what to do."""
    code = (
        PRELUDE.format(blocked=["dtkernels._C", "cupy", "numba"])
        + """
assert [n for n in states if states[n].available] == ["reference"]
assert "dtkernels._C" in states["cpu"].reason and "reinstall" in states["cpu"].reason
assert dtk.edt(x).tolist() == x.tolist()
for name in ("cpu", "cuda"):
    try:
        dtk.edt(x, backend=name)
    except RuntimeError as error:
        print(states[name].reason in str(error))
"""
    )
    assert python(code).splitlines() == ["True", "True"]


def test_without_anything() -> None:
    """The error lists every backend for the device with its reason."""
    code = (
        PRELUDE.format(blocked=["dtkernels._C", "cupy", "numba", "scipy"])
        + """
assert not any(s.available for s in states.values())
try:
    dtk.edt(x)
except RuntimeError as error:
    print(all(states[n].reason in str(error) for n in ("cpu", "numba", "reference")))
"""
    )
    assert python(code) == "True"
