"""The command line, in this process and as a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dtkernels as dtk
from dtkernels import cli, data

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

RUNNER = CliRunner()
ROOT = Path(__file__).resolve().parent.parent


def program(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-m", "dtkernels.cli"] if code is None else ["-c", code]
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(ROOT)) if p)
    return subprocess.run(
        [sys.executable, *start, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "120", "NO_COLOR": "1"},
    )


def test_info_names_every_backend_and_its_reason() -> None:
    result = RUNNER.invoke(cli.application(), ["info"], env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    assert dtk.__version__ in result.output
    for name, status in dtk.backends.available().items():
        assert name in result.output
        assert status.reason in result.output
        assert ", ".join(status.operators) in result.output


def test_info_as_json() -> None:
    result = RUNNER.invoke(cli.application(), ["info", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["dtkernels"] == dtk.__version__
    assert set(facts["backends"]) == set(dtk.backends.available())
    for status in facts["backends"].values():
        assert status["available"] == (status["reason"] == "")
        assert "edt" in status["operators"]
    assert facts["default_backend"]["cpu"] in facts["backends"]
    assert facts["cpu"]["threads"] >= 1
    assert (facts["cpu"]["instruction_set"] is not None) == facts["backends"]["cpu"]["available"]
    assert facts["data"]["home"] == str(data.data_home())


def test_the_backend_that_the_environment_chooses_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTK_BACKEND", "reference")
    assert cli.gather()["default_backend"] == {"cpu": "reference", "cuda": None}


def test_data_that_is_there_is_not_fetched(tmp_path: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / data.TASK / part).mkdir(parents=True)
    result = RUNNER.invoke(cli.application(), ["data", "hippocampus", str(tmp_path)], env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    assert f"already there: {tmp_path / data.TASK}" in result.output


def test_a_failed_download_exits_with_one_and_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apps = pytest.importorskip("monai.apps")
    pytest.importorskip("nibabel")
    monkeypatch.setitem(apps.DecathlonDataset.resource, data.TASK, (tmp_path / f"{data.TASK}.tar").as_uri())
    result = RUNNER.invoke(cli.application(), ["data", "hippocampus", str(tmp_path / "home")])
    assert result.exit_code == 1
    assert "error: could not download" in result.output
    assert "check the network" in result.output
    assert "Traceback" not in result.output


def test_as_a_program() -> None:
    result = program("info", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["dtkernels"] == dtk.__version__
    assert result.stderr == ""


def test_help_lists_the_commands() -> None:
    result = program("--help")
    assert result.returncode == 0, result.stderr
    assert "info" in result.stdout
    assert "data" in result.stdout


def test_an_unknown_command_is_refused() -> None:
    result = program("no-such-command")
    assert result.returncode == 2
    assert "no-such-command" in result.stderr


@pytest.mark.parametrize("absent", ["typer", "rich"])
def test_without_typer_or_rich_it_names_the_extra(absent: str) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None; from dtkernels.cli import main; main()"
    result = program("info", code=code)
    assert result.returncode == 2
    assert result.stderr.strip() == f"dtk: the command line needs {absent}: pip install 'dtkernels[cli]'"
