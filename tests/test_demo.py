"""The demo, from the data to the files, with the smallest settings."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("dtkernels.losses")
MISSING = [
    name
    for name in ("matplotlib", "monai", "nibabel", "nilearn", "rich", "scipy")
    if importlib.util.find_spec(name) is None
]
if MISSING:
    pytest.skip(f"the demo needs {', '.join(MISSING)}", allow_module_level=True)

from bench import demo, demo_timing, demo_training  # noqa: E402
from dtkernels import data  # noqa: E402
from dtkernels.losses import HausdorffDTLoss  # noqa: E402
from dtkernels.optional import MissingDependencyError  # noqa: E402

TINY = ["--steps", "2", "--batch", "1", "--minutes", "0.1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Convolutions on more threads than free cores wait for each other; what is tested here is no speed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    return sum((x - c) ** 2 for x, c in zip(axes, centre, strict=True)) <= radius**2  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four little volumes with two touching balls, at an anisotropic spacing."""
    import nibabel

    root = tmp_path / "data"
    noise = torch.Generator().manual_seed(0)
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    for i in range(4):
        shape = (14 + i, 16, 13)
        label = ball(shape, (6, 5 + i, 6), 3).long()
        label[ball(shape, (6, 9 + i, 6), 3)] = 2
        for part, voxels in (
            ("imagesTr", (label * 2 + torch.randn(shape, generator=noise)).numpy()),
            ("labelsTr", label.numpy().astype(np.uint8)),
        ):
            nibabel.save(
                nibabel.Nifti1Image(voxels, np.diag([2.0, 1.0, 0.5, 1.0])), root / part / f"balls_{i}.nii.gz"
            )
    return root


def check_png(path: Path) -> None:
    """A PNG whose header, checksums and pixels are in order, and not of one colour."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    position, kinds, pixels = 8, [], b""
    while position < len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        kind, body = content[position + 4 : position + 8], content[position + 8 : position + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", content[position + 8 + length :][:4])[0]
        kinds.append(kind)
        pixels += body if kind == b"IDAT" else b""
        position += length + 12
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    assert len(set(zlib.decompress(pixels)[:100_000:7])) > 3


def check_record(record: dict[str, Any]) -> None:
    """Every number of the table is there and makes sense."""
    timing = record["timing"]
    assert timing["unit"] == "seconds per iteration"
    assert timing["rounds"] >= 3
    assert set(timing["losses"]) == {"dtkernels", "scipy", "monai"}
    for sample in (timing["network"], *timing["losses"].values()):
        assert 0 < sample["low"] <= sample["median"] <= sample["high"]
        assert sample["rounds"] == timing["rounds"]
    ours = timing["losses"]["dtkernels"]
    for loss in timing["losses"].values():
        assert loss["ratio_to_dtkernels"] == pytest.approx(loss["median"] / ours["median"])
        total = timing["network"]["median"] + loss["median"]
        assert loss["share_of_iteration"] == pytest.approx(loss["median"] / total)
    values = record["loss_values"]
    assert values["agree"] is True
    assert values["scipy"] == pytest.approx(values["dtkernels"], rel=demo_timing.TOLERANCE)
    assert values["monai"] == pytest.approx(values["dtkernels_in_voxels"], rel=demo_timing.TOLERANCE)
    assert all(v > 0 for v in values["dtkernels"])
    assert [row["class"] for row in record["validation"]] == record["data"]["classes"][1:]
    for row in record["validation"]:
        assert 0 <= row["dice"] <= 1
        assert row["missed"] <= row["cases"]
    assert record["training"]["steps"] >= 1
    assert record["backend"]
    for key in ("command", "date", "python", "processor", "versions", "device", "seconds"):
        assert record[key], key


def check_output(output: Path) -> dict[str, Any]:
    assert sorted(p.name for p in output.iterdir()) == ["case.png", "demo.json", "timing.png"]
    check_png(output / "case.png")
    check_png(output / "timing.png")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    record: dict[str, Any] = json.loads((output / "demo.json").read_text(), parse_constant=refuse)
    check_record(record)
    return record


def test_from_a_folder_to_the_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert demo.main([*TINY, "--data", str(folder), "--output", str(output)]) == 0, capsys.readouterr().out
    record = check_output(output)
    assert record["data"]["size"] == [24, 16, 16]
    assert record["data"]["spacings_mm"] == [[2.0, 1.0, 0.5]]
    assert record["training"]["steps"] == 2
    # In mm at this spacing the loss is another number than in voxels.
    values = record["loss_values"]
    assert values["dtkernels"] != pytest.approx(values["dtkernels_in_voxels"], rel=0.05)
    printed = capsys.readouterr().out
    for word in ("network alone", "Hausdorff, dtkernels", "SciPy recipe", "MONAI", "share", "agree", "case.png"):
        assert word in printed


def test_without_a_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The MNI152 template takes the place of the hippocampus where that is absent."""
    output = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTK_DATA", str(tmp_path / "nothing"))
        assert demo.main([*TINY, "--cases", "4", "--output", str(output)]) == 0, capsys.readouterr().out
    record = check_output(output)
    assert record["data"]["name"] == "mni152"
    assert record["data"]["spacings_mm"] == [[2.0, 2.0, 2.0]]
    assert "dtk data hippocampus" in capsys.readouterr().out


@pytest.mark.skipif(
    data.find_hippocampus() is None, reason="no hippocampus volumes: set DTK_DATA or run `dtk data hippocampus`"
)
def test_on_the_real_hippocampus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert demo.main([*TINY, "--cases", "3", "--output", str(output)]) == 0, capsys.readouterr().out
    record = check_output(output)
    assert record["data"]["classes"] == ["background", "anterior", "posterior"]
    assert (record["data"]["training"], record["data"]["validation"]) == (2, 1)


def test_a_wrong_folder_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--data", str(tmp_path / "nowhere")]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "--data: expected a folder with imagesTr and labelsTr, or mni152" in printed
    assert "dtk data hippocampus" in printed


def test_no_data_at_all_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(**_: Any) -> None:
        raise MissingDependencyError("the MNI152 template needs nilearn")

    monkeypatch.setenv("DTK_DATA", str(tmp_path))
    monkeypatch.setattr(data, "load_mni152", absent)
    assert demo.main([]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert f"nothing under {tmp_path}" in printed
    assert "what to do: `dtk data hippocampus`" in printed


def test_losses_that_disagree_fail(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_timing, "TOLERANCE", -1.0)
    assert demo.main([*TINY, "--data", str(folder), "--output", str(tmp_path / "out")]) == 1
    assert "disagree" in capsys.readouterr().out


def test_a_device_that_is_not_here_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--data", str(folder), "--device", "meta"]) == 1
    assert "--device cpu runs the demo without a GPU" in capsys.readouterr().out


def test_a_wrong_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nibabel

    file = folder / "labelsTr" / "balls_1.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), file)
    assert demo.main(["--data", str(folder)]) == 1
    assert f"{file}: expected the image's shape" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--minutes", "-1"], ["--batch", "x"]])
def test_bad_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_training_is_repeatable(folder: Path) -> None:
    from monai.losses import DiceLoss

    dataset = data.load_decathlon(folder)

    def losses() -> list[float]:
        torch.manual_seed(3)
        training, _ = demo_training.split(dataset, 3)
        volumes = demo_training.Volumes(training, demo_training.common_size(dataset.cases), torch.device("cpu"))
        criterion = demo_training.Criterion(
            DiceLoss(softmax=True, to_onehot_y=True), HausdorffDTLoss(softmax=True, to_onehot_y=True)
        )
        history = demo_training.train(
            demo_training.network(3), volumes, criterion,
            steps=3, batch_size=2, seconds=60, seed=3, report=lambda *_: None,
        )  # fmt: skip
        return history.hausdorff

    assert losses() == losses()


def test_hd95_is_monais() -> None:
    from monai.metrics import compute_hausdorff_distance

    shape, spacing = (14, 12, 10), (0.5, 1.0, 2.5)
    pairs = [
        (ball(shape, (6, 5, 5), 3.2), ball(shape, (7, 6, 4), 4.1)),
        (ball(shape, (2, 2, 2), 4.0), ball(shape, (10, 9, 8), 3.0)),  # one of them cut by the image's edge
        (ball(shape, (6, 5, 5), 3.2), ball(shape, (6, 5, 5), 3.2)),
    ]
    for p, t in pairs:
        expected = compute_hausdorff_distance(
            p[None, None].float(), t[None, None].float(), include_background=True, percentile=95, spacing=spacing
        )
        assert demo_training.hd95(p, t, spacing) == pytest.approx(expected.item(), rel=1e-5)
    empty = torch.zeros(shape, dtype=torch.bool)
    assert demo_training.hd95(empty, pairs[0][0], spacing) == math.inf
    assert math.isnan(demo_training.hd95(empty, empty, spacing))


def test_spacing_is_one_triple_or_one_row_per_sample() -> None:
    def case(spacing: tuple[float, float, float]) -> data.Case:
        return data.Case("x", torch.rand(8, 8, 8), ball((8, 8, 8), (4, 4, 4), 2).to(torch.uint8), spacing)

    cases = [case((1.0, 2.0, 3.0)), case((1.0, 2.0, 3.0)), case((0.5, 0.5, 0.5))]
    volumes = demo_training.Volumes(cases, (8, 8, 8), torch.device("cpu"))
    assert volumes.batch([0, 1]).spacing == (1.0, 2.0, 3.0)
    rows = volumes.batch([0, 2]).spacing
    assert isinstance(rows, torch.Tensor)
    assert rows.tolist() == [[1.0, 2.0, 3.0], [0.5, 0.5, 0.5]]
    # The SciPy recipe and the library read both forms alike.
    logits = torch.randn(2, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = volumes.batch([0, 2])
    ours = HausdorffDTLoss(softmax=True, to_onehot_y=True)(logits, batch.label, spacing=rows)
    theirs = demo_timing.SciPyHausdorff()(logits, batch.label, spacing=rows)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_large_volumes_are_cut_around_their_object() -> None:
    label = torch.zeros(90, 10, 70, dtype=torch.uint8)
    label[80:88, 2:6, 0:4] = 1
    case = data.Case("x", torch.rand(label.shape), label, (1.0, 1.0, 1.0))
    size = demo_training.common_size([case])
    assert size == (64, 16, 64)
    volumes = demo_training.Volumes([case], size, torch.device("cpu"))
    assert int(volumes.label.sum()) == int(label.sum())
