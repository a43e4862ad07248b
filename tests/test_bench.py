"""The benchmarks measure what they say: operators against every peer, in small; what compare flags."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rich", reason="the benchmarks print with rich")
pytest.importorskip("scipy", reason="the benchmarks' truth is SciPy's")

from bench import __main__ as runner
from bench import compare, inputs, measure, tables, training
from bench.entries import ENTRIES, Entry
from bench.operators import OPERATORS

# What is another convention, or an approximation, on purpose.
INEXACT = {("edt", "OpenCV 5x5"): 5.0, ("sdf", "SimpleITK"): 4.0}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def small(entry: Entry) -> Entry:
    """The same in little, and with one round it takes no time."""
    shape = (20, 24) if len(entry.shape) == 2 else (20, 20, 20)
    return entry._replace(shape=shape, batch=tuple(min(n, 3) for n in entry.batch), required={})


def one_of_each() -> dict[str, Entry]:
    """An entry of each kind of measurement, synthetic masks alone."""
    found = {}
    for entry in ENTRIES:
        if entry.group == "real" or (entry.group == "maps" and entry.variant not in ("half", "li_ndm", "ac")):
            continue
        key = (entry.operator, entry.variant, len(entry.shape), bool(entry.spacing), entry.peers, entry.threads)
        found.setdefault(key, entry)
    return {entry.name: entry for entry in found.values()}


def test_names_tell_entries_apart() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert {entry.operator for entry in ENTRIES} <= set(OPERATORS)
    for group in {entry.group for entry in ENTRIES}:
        assert any(entry.quick for entry in ENTRIES if entry.group == group), group


@pytest.mark.parametrize("entry", one_of_each().values(), ids=list(one_of_each()))
def test_contenders_compute_the_same(entry: Entry) -> None:
    """Ours and every peer that is installed, against float64."""
    row = runner.run(small(entry), rounds=1, slow_seconds=1.0)
    assert row["milliseconds"] > 0
    assert {*row["peers"], *row["absent"]} == set(entry.peers)
    for name, reason in row["absent"].items():
        assert reason, name
    if entry.operator in ("edt", "sdf", "nearest", "label", "labels_sdf", "envelope", "surface_metrics"):
        assert row["error"] is not None
    assert (row["error"] or 0) <= 1e-4
    for name, peer in row["peers"].items():
        assert peer["ratio"] > 0
        assert (peer["error"] or 0) <= INEXACT.get((entry.operator, name), 1e-4), name
    if row["bytes_per_voxel"]:
        assert row["share_of_copy"] > 0
    json.dumps(row, allow_nan=False)


def test_an_error_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(e for e in ENTRIES if e.group == "transform" and e.operator == "edt")
    from bench.operators import transform

    def off_by_a_thousandth(*args: Any, **options: Any) -> torch.Tensor:
        return torch.ops.dtk.edt(args[0]) * 1.001

    monkeypatch.setattr(transform.dtk, "edt", off_by_a_thousandth)
    assert runner.run(small(entry)._replace(peers=()), 1, 1.0)["error"] > 1e-3


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    entry = next(e for e in ENTRIES if "SimpleITK" in e.peers and e.operator == "edt")
    row = runner.run(small(entry), 1, 1.0)
    assert "SimpleITK" in row["absent"]
    assert "SimpleITK is absent" in runner.line(row)


def test_entries_of_a_gpu() -> None:
    """They have the GPU's libraries beside them, and no requirement that was made for a CPU."""
    moved = [entry.on("cuda") for entry in ENTRIES]
    assert len({*(e.name for e in moved), *(e.name for e in ENTRIES)}) == 2 * len(ENTRIES)
    assert all({"CuPy", "cuCIM"} <= {*e.peers} for e in moved if e.operator in ("edt", "sdf"))
    assert not any(e.required for e in moved)
    with pytest.raises(SystemExit):  # the committed results are a CPU's
        runner.main(["--device", "cuda", "--save"])


def test_a_requirement_is_held() -> None:
    entry = next(e for e in ENTRIES if "SciPy" in e.peers and e.operator == "edt")._replace(shape=(32, 32, 32))
    assert runner.run(entry._replace(required={"Sci*": 1e-6}), 2, 1.0)["holds"]
    row = runner.run(entry._replace(required={"Sci*": 1e9}), 2, 1.0)
    assert not row["holds"]
    assert "MISSED" in runner.line(row)


def test_data_that_is_not_here_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DTK_DATA", str(tmp_path))
    inputs._images.cache_clear()
    assert runner.main(["--only", "real/", "--quick", "--save", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "absent: real/edt hippocampus" in printed
    assert "absent: real/edt kits19" in printed
    assert not (tmp_path / "out").exists()


def saved_rows(path: Path, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the file after ``rows`` have joined it."""
    measure.save(path, {"rows": runner.joined(path, rows)}, "command")
    return json.loads(path.read_text())["rows"]


def test_rows_join_in_the_order_of_the_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = ENTRIES[0].name, ENTRIES[1].name
    path = tmp_path / "transform.json"
    saved_rows(path, {second: {"name": second, "x": 1}})
    assert saved_rows(path, {first: {"name": first}}) == [{"name": first}, {"name": second, "x": 1}]
    assert json.loads(path.read_text())["command"] == "command"
    record = json.loads(path.read_text())
    record["versions"]["scipy"] = "0.1"  # another version: its rows cannot stand beside new ones
    path.write_text(json.dumps(record))
    assert runner.joined(path, {first: {"name": first, "x": 2}}) == [{"name": first, "x": 2}]
    assert "dropped" in capsys.readouterr().out


def test_rows_say_when_another_revision_measured_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is of the file's revision and date, unless it names its own."""
    one, two, three = ({"name": entry.name, "peers": {}} for entry in ENTRIES[:3])
    path = tmp_path / "transform.json"
    machine = measure.machine()

    def save(revision: str, date: str, row: dict[str, Any]) -> list[dict[str, Any]]:
        monkeypatch.setattr(measure, "machine", lambda: {**machine, "revision": revision, "date": date})
        return saved_rows(path, {row["name"]: row})

    save("aaa", "2026-01-01", one)
    of_a = {"revision": "aaa", "date": "2026-01-01"}
    assert save("bbb", "2026-01-03", two) == [one | of_a, two]
    of_b = {"revision": "bbb", "date": "2026-01-03"}
    assert save("ccc", "2026-01-02", three) == [one | of_a, two | of_b, three]
    assert ", 2026-01-01 to 2026-01-03, " in tables.finish([], json.loads(path.read_text()))
    assert save("bbb", "2026-01-03", one) == [one, two, three | {"revision": "ccc", "date": "2026-01-02"}]
    assert save("ccc", "2026-01-04", one) == [one, two | of_b, three | {"revision": "ccc", "date": "2026-01-02"}]


def test_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a run itself writes make no other revision."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    results = tmp_path / "bench" / "results"
    results.mkdir(parents=True)
    monkeypatch.setattr(measure, "RESULTS", results)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert measure.revision() == "unknown"
    measured, *written = files = [tmp_path / "kernel.h", tmp_path / "README.md", results / "transform.json"]
    for file in files:
        file.write_text("old")
    for words in ("init", "add .", "-c user.name=x -c user.email=x@y commit -m x"):
        subprocess.run(["git", "-C", str(tmp_path), *words.split()], check=True, capture_output=True)
    commit = measure.revision()
    assert commit.isalnum()
    for file in written:
        file.write_text("new")
    assert measure.revision() == commit
    measured.write_text("new")
    assert measure.revision() == f"{commit}-dirty"


def test_contenders_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every turn follows its pause: nothing of the turn before still runs."""
    events: list[Any] = []
    monkeypatch.setattr(measure.time, "sleep", events.append)
    contenders = {name: lambda name=name: events.append(name) for name in ("ours", "copy")}
    measure.side_by_side(contenders, rounds=3, slice_seconds=0.0, settle_seconds=0.03)
    assert events == [0.03, "ours", 0.03, "ours", 0.03, "copy", 0.03, "copy"] + 3 * [0.03, "ours", 0.03, "copy"]


def test_several_threads_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []
    monkeypatch.setattr(measure.time, "sleep", pauses.append)
    for threads in (1, 2):
        entry = next(entry for entry in ENTRIES if entry.threads == threads and entry.operator == "edt")
        runner.run(small(entry)._replace(peers=()), 1, 1.0)
        assert set(pauses) == ({0.0} if threads == 1 else {runner.SETTLE_SECONDS})
        pauses.clear()


def test_patterns_choose() -> None:
    assert len(runner.chosen(ENTRIES, [], quick=False)) == len(ENTRIES)
    assert {e.group for e in runner.chosen(ENTRIES, ["losses/", "metrics/*"], quick=False)} == {
        "losses",
        "metrics",
    }
    assert not runner.chosen(ENTRIES, ["256x256x256 spacing"], quick=True)


# --- compare ---


def row(milliseconds: float, spread: float = 0.02, peer: float = 100.0, **changes: Any) -> dict[str, Any]:
    return {
        "name": "made up", "milliseconds": milliseconds, "spread": spread, "error": 1e-3, "holds": True,
        "required": {}, "peers": {"SciPy": {"milliseconds": peer, "spread": 0.02}}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (row(10.0), row(11.5), ["slower"]),
        (row(10.0), row(10.9), []),  # less than 10 %
        (row(10.0), row(8.5), ["faster"]),
        (row(10.0), row(9.2), []),
        (row(10.0, spread=0.3), row(12.5), []),  # more than 10 %, less than the noise
        (row(10.0), row(12.5, spread=0.3), []),
        (row(10.0, spread=0.3), row(14.0), ["slower"]),
        (row(10.0), row(10.0, error=2e-3), ["wrong"]),
        (row(10.0), row(10.0, error=1.05e-3), []),
        (row(10.0), row(10.0, error=float("nan")), ["wrong"]),
        (row(10.0, error=float("nan")), row(10.0), []),
        (row(10.0), row(10.0, holds=False), ["missed"]),
        (row(10.0, error=None), row(20.0, error=None, holds=False), ["slower", "missed"]),
    ],
)
def test_what_compare_flags(old: dict[str, Any], new: dict[str, Any], found: list[str]) -> None:
    assert [change.what for change in compare.compare("made up", old, new)] == found


def test_compare_relative_to_the_peers() -> None:
    busy = row(15.0, peer=150.0)  # everything takes 1.5 times as long
    assert [c.what for c in compare.compare("x", row(10.0), busy)] == ["slower"]
    assert compare.compare("x", row(10.0), busy, relative=True) == []
    assert [c.what for c in compare.compare("x", row(10.0), row(15.0), relative=True)] == ["slower"]
    assert compare.compare("x", row(10.0), row(15.0, peers={}), relative=True) == []


def test_compare_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, processor: str, *rows: dict[str, Any]) -> str:
        file = tmp_path / name
        file.write_text(json.dumps({"processor": processor, "rows": rows}))
        return str(file)

    old = write("old.json", "one", row(10.0), row(5.0, name="another"))
    same = write("same.json", "one", row(10.1))
    slow = write("slow.json", "one", row(12.0))
    fast = write("fast.json", "one", row(5.0))
    moved = write("moved.json", "two", row(12.0, peer=120.0))
    other = write("other.json", "one", row(10.0, name="third"))
    assert compare.main([old, same]) == 0
    assert "1 rows are in the old run alone" in capsys.readouterr().out
    assert compare.main([old, slow]) == 1
    assert "slower: made up: 10 -> 12 ms (1.20 x, noise 3%)" in capsys.readouterr().out
    assert compare.main([old, fast]) == 0
    assert "faster: made up" in capsys.readouterr().out
    assert compare.main([old, moved]) == 2
    assert compare.main([old, moved, "--relative"]) == 0
    assert compare.main([old, other]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"rows": 3}',
        '{"rows": [{"name": "x"}]}',
        '{"processor": "one", "rows": [{"name": "x"}]}',
    ],
)
def test_compare_of_files_without_results(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.json"
    file.write_text(text)
    for path in (file, tmp_path, tmp_path / "missing.json"):
        assert compare.main([str(path)]) == 2
        assert ".json: " in capsys.readouterr().out


def test_compare_reads_the_committed_results() -> None:
    processors, rows = compare.read(measure.RESULTS)
    assert processors
    assert {name.split("/")[0] for name in rows} == {*(entry.group for entry in ENTRIES), "training"}
    assert compare.main([str(measure.RESULTS), str(measure.RESULTS)]) == 0


# --- training ---


def test_training(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [name for name in ("monai", "nibabel") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the training needs {', '.join(missing)}")
    import nibabel

    rng = np.random.default_rng(0)
    for i in range(5):
        label = np.zeros((16, 16, 16), np.uint8)
        label[4 : 10 + i % 2, 4:10, 3:9], label[10:13, 4:10, 3:9] = 1, 2
        for part, voxels in (("imagesTr", label + rng.normal(size=label.shape)), ("labelsTr", label)):
            (tmp_path / part).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / part / f"boxes_{i}.nii.gz")
    file = tmp_path / "training.json"
    words = ["--data", str(tmp_path), "--steps", "2", "--batch", "2", "--threads", "1"]
    assert training.main([*words, "--save", str(file)]) == 0, capsys.readouterr().out
    record = json.loads(file.read_text())
    rows = {(r["objective"], r["maps"]): r for r in record["rows"]}
    assert len(rows) == 7
    for r in rows.values():
        assert r["milliseconds"] > 0
        assert r["rounds"] == 2
        assert r["epoch_seconds"] == pytest.approx(record["steps_per_epoch"] * 1e-3 * r["milliseconds"], rel=0.5)
        if r["maps"]:
            assert 0 < r["share"] < 1
            assert 0 < r["distance_milliseconds"] < r["milliseconds"]
            assert r["difference"] <= training.TOLERANCE
    monkeypatch.setattr(training, "TOLERANCE", -1.0)
    assert training.main(words) == 1
