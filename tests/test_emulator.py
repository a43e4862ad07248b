"""The emulator finds what it promises to find, and nothing in kernels that are right."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import types
from typing import Any, NamedTuple

import pytest

HERE = pathlib.Path(__file__).resolve().parent / "emulator"


def _load(name: str) -> types.ModuleType:
    """A helper beside the emulator, loaded by path, so that tests need no package of their own."""
    spec = importlib.util.spec_from_file_location(f"dtk_emulator_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = _load("build")
traffic = _load("traffic")
MODES = ("plain", "address", "thread")  # what finds bugs


class Found(NamedTuple):
    """What each mode says about a bug; None where the outcome depends on the compiler."""

    plain: str | None
    address: str | None
    thread: str | None
    schedule: tuple[tuple[str, str], ...] = ()  # variables of the environment


UNSEEN, WRONG, RACE = "right", "wrong", "data race"
RANDOM = (("DTK_EMULATOR_SEED", "1"), ("DTK_EMULATOR_RESIDENT", "4"))


def everywhere(diagnosis: str) -> Found:
    return Found(diagnosis, diagnosis, diagnosis)


BUGS = {
    "barrier_after_load": Found(WRONG, WRONG, RACE),
    "barrier_before_reuse": Found(WRONG, WRONG, RACE),
    "barrier_in_branch": everywhere("divergent-barrier"),
    "barrier_in_uneven_loop": everywhere("divergent-barrier"),
    "barrier_skipped": everywhere("divergent-barrier"),
    "barrier_skipped_by_return": Found(WRONG, WRONG, RACE),
    "block_counter": Found(UNSEEN, UNSEEN, RACE),
    "block_too_large": everywhere("invalid-block"),
    "collective_against_barrier": everywhere("deadlock"),
    "collective_in_uneven_loop": everywhere("mask-names-returned-lane"),
    "dynamic_overrun": Found("shared-overrun", "use-after-poison", "shared-overrun"),
    "early_return": everywhere("mask-names-returned-lane"),
    "flag_before_fence": Found(UNSEEN, UNSEEN, RACE),
    "flag_before_value": Found(WRONG, WRONG, WRONG, RANDOM),
    "flag_without_fences": Found(UNSEEN, UNSEEN, RACE),
    "flag_without_reader_fence": Found(UNSEEN, UNSEEN, RACE),
    "global_overrun_read": Found(UNSEEN, "heap-buffer-overflow", UNSEEN),
    "global_overrun_write": Found(UNSEEN, "heap-buffer-overflow", UNSEEN),
    "grid_empty": everywhere("invalid-grid"),
    "grid_stride": everywhere(WRONG),
    "grid_stride_state": everywhere(WRONG),
    "grid_too_large": everywhere("invalid-grid"),
    "in_place_neighbours": Found(WRONG, WRONG, RACE, RANDOM),
    "integer_overflow": Found(None, "signed integer overflow", None),
    "lane_not_in_mask": everywhere("lane-not-in-mask"),
    "misaligned_load": Found(None, "misaligned address", None),
    "misaligned_shared": Found(None, "misaligned address", None),
    "missing_lane": everywhere("mask-names-missing-lane"),
    "missing_syncwarp": Found(WRONG, WRONG, RACE),
    "non_atomic_max": Found(UNSEEN, UNSEEN, RACE),
    "overlapping_masks": everywhere("deadlock"),
    "shared_above_limit": everywhere("shared-limit"),
    "shared_index": Found(None, "index 128 out of bounds", None),
    "shared_opt_in": everywhere("shared-opt-in"),
    "shared_overrun_read": Found(WRONG, "use-after-poison", WRONG),
    "shared_overrun_write": Found("shared-overrun", "use-after-poison", "shared-overrun"),
    "shuffle_outside_mask": everywhere(WRONG),
    "spin_on_later_block": everywhere("spin"),
    "spin_on_nobody": everywhere("spin"),
    "static_and_dynamic": everywhere("shared-limit"),
    "sum_without_barrier": Found(WRONG, WRONG, RACE, RANDOM),
    "syncwarp_between_warps": Found(WRONG, WRONG, RACE),
    "tie_from_last": everywhere(WRONG),
    "uninitialised_shared": everywhere(WRONG),
    "union_forgets_link": Found(WRONG, WRONG, WRONG, RANDOM),
    "union_reads_plainly": Found(UNSEEN, UNSEEN, RACE),
    "union_stores_plainly": Found(UNSEEN, UNSEEN, RACE),
    "vote_as_syncwarp": Found(UNSEEN, UNSEEN, RACE),
    "warps_share_a_cell": Found(UNSEEN, UNSEEN, RACE),
    "wrong_mask": everywhere("collective-mismatch"),
}

DIAGNOSES = (
    r"emulator \[([\w-]+)\]",  # first: under TSan the same bug may also have been a race
    r"ThreadSanitizer: (data race)",
    r"AddressSanitizer: ([\w-]+)",
    r"runtime error: .*?(misaligned address|signed integer overflow|index \d+ out of bounds)",
    r"^\w+: (right|wrong)$",
)


def diagnosis(output: str) -> str:
    for pattern in DIAGNOSES:
        if match := re.search(pattern, output, re.MULTILINE):
            return match.group(1)
    return output


def run(
    built: Any, command: list[str], schedule: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("DTK_EMULATOR_")}
    variables.update(built.environment)
    variables.update(schedule or {})
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300)


@functools.cache
def catalogue(mode: str) -> Any:
    if reason := build.missing(mode):
        pytest.skip(reason)
    return build.executable("bugs", [HERE / "bugs.cu"], mode)


def test_every_bug_is_in_the_table() -> None:
    built = catalogue("plain")
    assert run(built, [str(built.path)]).stdout.split() == sorted(BUGS)


@pytest.mark.parametrize(("seed", "resident"), [(0, 1), (0, 3), (1, 1), (2, 4)])
@pytest.mark.parametrize("mode", MODES)
def test_right_kernels_pass(mode: str, seed: int, resident: int) -> None:
    built = catalogue(mode)
    schedule = {"DTK_EMULATOR_SEED": str(seed), "DTK_EMULATOR_RESIDENT": str(resident)}
    done = run(built, [str(built.path), "--clean"], schedule)
    assert done.stdout.split("\n")[:-1] == [f"{name}: right" for name in sorted(BUGS)], done.stderr
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(BUGS))
@pytest.mark.parametrize("mode", MODES)
def test_bug_is_found(mode: str, name: str) -> None:
    expected = getattr(BUGS[name], mode)
    if expected is None:
        return
    built = catalogue(mode)
    done = run(built, [str(built.path), name], dict(BUGS[name].schedule))
    assert diagnosis(done.stdout + done.stderr) == expected, done.stdout + done.stderr


def test_diagnosis_names_place_and_thread() -> None:
    built = catalogue("plain")
    text = run(built, [str(built.path), "barrier_in_branch"]).stdout
    assert re.search(
        r"at bugs\.cu:\d+, others at bugs\.cu:\d+ \(.*barrier_in_branch<true>, "
        r"block \(0,0,0\), thread \(40,0,0\), lane 8\)",
        text,
    ), text
    text = run(built, [str(built.path), "collective_against_barrier"]).stdout
    assert "mask 0xffffffff, lanes 0xffff0000 missing" in text
    assert "(__syncthreads)" in text


@pytest.mark.parametrize("name", ["barrier_in_branch", "collective_against_barrier", "early_return"])
@pytest.mark.parametrize("mode", MODES)
def test_failed_launch_leaves_no_traces(mode: str, name: str) -> None:
    built = catalogue(mode)
    done = run(built, [str(built.path), name, "again"])
    first, second, last = done.stdout.splitlines()
    assert first == second
    assert "emulator [" in first
    assert (last, done.stderr, done.returncode) == (f"{name}: right", "", 0)


@pytest.mark.parametrize("mode", ["plain", "address"])
def test_intrinsics(mode: str) -> None:
    if reason := build.missing(mode):
        pytest.skip(reason)
    built = build.executable("intrinsics", [HERE / "intrinsics.cpp"], mode)
    done = run(built, [str(built.path)])
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


IN_PYTHON = """
import ctypes, sys, threading
sys.path.insert(0, sys.argv[1])
import numpy as np
from control import Emulator

path, overrun, race = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
library = ctypes.CDLL(path)
library.reverse.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
library.reverse.restype = ctypes.c_char_p
emulator = Emulator(path)
emulator.set(resident=2)
right = []

def work(seed):
    a = np.random.default_rng(seed).random(64 * 16, np.float32)
    b = np.zeros_like(a)
    assert library.reverse(a.ctypes.data, b.ctypes.data, a.size, overrun, race) is None
    right.append(np.array_equal(b.reshape(-1, 64), a.reshape(-1, 64)[:, ::-1]))

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for t in threads: t.start()
for t in threads: t.join()
work(5)
(name, statistics), = emulator.statistics().items()
assert statistics["launches"] == 5 and statistics["threads"] == 5 * 5 * 64, statistics
assert statistics["counters"]["bytes_read"] == 5 * 16 * 64 * 4, statistics
assert race or statistics["barriers"] == 5 * 2 * 16, statistics
emulator.reset_statistics()
assert emulator.statistics() == {}
with emulator.using(seed=3):
    assert emulator.get("seed") == 3
    work(6)
assert emulator.get("seed") == 0
print("example:", "right" if all(right) else "wrong")
"""


@pytest.mark.parametrize(("overrun", "race"), [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("mode", MODES)
def test_inside_python(mode: str, overrun: int, race: int) -> None:
    """A library loaded by an ordinary interpreter, launched from several threads, with NumPy's memory."""
    if reason := build.missing(mode):
        pytest.skip(reason)
    built = build.library("example", [HERE / "example.cu"], mode)
    command = [sys.executable, "-c", IN_PYTHON, str(HERE), str(built.path), str(overrun), str(race)]
    if overrun and mode == "plain":
        return  # nobody would notice
    done = run(built, command)
    expected = UNSEEN
    if overrun:
        expected = {"address": "heap-buffer-overflow", "thread": UNSEEN}[mode]
    if race:
        expected = RACE if mode == "thread" else WRONG
    output = done.stdout + done.stderr
    assert diagnosis(output) == expected, output
    assert done.returncode == (66 if "Sanitizer" in output else 0), output


COUNTED = """
import ctypes, json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from control import Emulator

library = ctypes.CDLL(sys.argv[2])
library.run.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
library.run.restype = ctypes.c_char_p
memory = np.zeros(2048, np.float32)
start = -(memory.ctypes.data // 4) % 64
assert library.run(int(sys.argv[3]), memory[start:].ctypes.data, *map(int, sys.argv[4:])) is None
print(json.dumps(Emulator(sys.argv[2]).statistics()))
"""


@functools.cache
def counted(kernel: int, stride: int, shift: int, times: int) -> tuple[Any, list[Any]]:
    if reason := build.missing("traffic"):
        pytest.skip(reason)
    built = build.library("patterns", [HERE / "patterns.cu"], "traffic")
    numbers = [str(x) for x in (kernel, stride, shift, times)]
    done = run(built, [sys.executable, "-c", COUNTED, str(HERE), str(built.path), *numbers])
    assert done.returncode == 0, done.stderr
    (statistics,) = json.loads(done.stdout).values()
    return traffic.Traffic.of(statistics), traffic.places(built.path, statistics)


@pytest.mark.parametrize(
    ("stride", "shift", "wavefronts"),
    [(1, 0, 1), (0, 5, 1), (2, 1, 2), (8, 0, 8), (16, 0, 16), (32, 3, 32), (33, 0, 1)],
)
def test_wavefronts_of_shared_memory(stride: int, shift: int, wavefronts: int) -> None:
    """Lanes meet a bank when their words differ by a multiple of 32; those of one word share it."""
    once, _ = counted(0, stride, shift, 1)
    # The loop has four rounds, of 32, 24, 16 and 8 lanes: those of lane numbers 0 to 3, 1 to 3, 2 and 3, 3 by 4.
    conflicts = [
        max(
            len(
                {
                    lane * stride + shift
                    for lane in range(32)
                    if lane % 4 >= r and (lane * stride + shift) % 32 == bank
                }
            )
            for bank in range(32)
        )
        for r in range(4)
    ]
    assert conflicts[0] == wavefronts
    assert (once.shared_requests, once.shared_wavefronts) == (1 + 4, 1 + sum(conflicts))


def test_pairs_take_two_wavefronts() -> None:
    """A warp stores 256 bytes whole; it reads back every other word, which share banks two by two."""
    found, places = counted(1, 0, 0, 0)
    assert (found.shared_requests, found.shared_wavefronts) == (2, 2 + 2)
    assert (found.write_requests, found.write_sectors, found.memory_written) == (1, 4, 128)
    if places[0].line != "?":
        assert all(re.fullmatch(r"(patterns\.cu|language\.h):\d+", place.line) for place in places)


@pytest.mark.parametrize(("stride", "shift", "sectors"), [(1, 0, 4), (1, 2, 5), (2, 0, 8), (8, 0, 32), (0, 0, 1)])
def test_sectors_of_global_memory(stride: int, shift: int, sectors: int) -> None:
    found, _ = counted(2, stride, shift, 0)
    assert (found.read_requests, found.read_sectors, found.memory_read) == (1, sectors, 32 * sectors)
    assert (found.write_requests, found.write_sectors, found.memory_written) == (1, sectors, 32 * sectors)


def test_seed_decides_the_order() -> None:
    built = catalogue("plain")

    def order(seed: int) -> str:
        schedule = {"DTK_EMULATOR_SEED": str(seed), "DTK_EMULATOR_RESIDENT": "4"}
        return run(built, [str(built.path), "--order"], schedule).stdout

    first = order(0).split()
    assert first == sorted(first, key=int)
    assert order(7) == order(7) != order(8)
    assert sorted(order(7).split(), key=int) == first
