"""--find_lr: the rate of a run, the curve in its folder, and the same run as with that rate given."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.support.runs import call, read_results, read_rows, read_weights, same_weights, save_classes
from transfer.commands import finetune
from transfer.training import rate_finder
from transfer.training.rate_finder import RateCurve

# A network of seconds, with all that draws random numbers or keeps a state.
TINY = (
    *("--backbone", "b0@d=0.3,w=0.25", "--pretrained", "false", "--image_size", "32", "--trainer.max_epochs", "2"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--data.num_workers", "0", "--data.batch_size", "16"),
    *("--loss.mixup_alpha", "0.2", "--dropout", "0.2", "--ema_half_life", "0.2"),
)


@pytest.fixture
def argv(tmp_path: Path) -> tuple[str, ...]:
    """The words of a run on photos of three greys."""
    photos = save_classes(tmp_path / "photos", {"black": 24, "grey": 24, "white": 24})
    return *TINY, "--data_root", str(photos)


def test_a_run_is_the_one_with_the_rate_that_was_found(
    tmp_path: Path, argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rate_finder, "NUM_STEPS", 50)
    found, given = tmp_path / "found", tmp_path / "given"
    assert call(finetune.main, *argv, "--find_lr", "true", "--out_dir", found) == 0
    line = re.search(
        r"learning-rate finder: (\S+) after (\d+) steps \(--optim.lr 0.02 is not used\); (\S+)", capsys.readouterr().out
    )
    assert line is not None and float(line[1]) != 0.02
    assert line[3] == str(found / "lr_find.png")
    assert Image.open(found / "lr_find.png").size == (960, 600)
    with (found / "lr_find.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == int(line[2]) and rows[0].keys() == {"lr", "loss", "smoothed"}
    assert rows[0]["lr"] == 1e-6 < float(line[1]) < rows[-1]["lr"]
    assert call(finetune.main, *argv, "--optim.lr", line[1], "--out_dir", given) == 0
    assert same_weights(read_weights(found), read_weights(given))
    first, second = (
        [{k: v for k, v in row.items() if k != "images_per_second"} for row in read_rows(run)] for run in (found, given)
    )
    assert first == second
    assert read_results(found)["lr"] == read_results(given)["lr"] == pytest.approx(float(line[1]))


def test_a_refused_run_leaves_its_curve_and_its_folder_free(
    tmp_path: Path, argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rate_finder, "NUM_STEPS", 3)
    monkeypatch.setattr(RateCurve, "find", lambda curve: None)
    run_dir = tmp_path / "run"
    assert call(finetune.main, *argv, "--find_lr", "true", "--out_dir", run_dir) == 2
    assert "--find_lr: the training loss stays at 1." in capsys.readouterr().err
    assert {path.name for path in run_dir.iterdir()} == {
        *("config.yaml", "held_out.json", "lr_find.csv", "lr_find.png"),
    }
    assert call(finetune.main, *argv, "--trainer.max_epochs", "1", "--out_dir", run_dir) == 0
    assert (run_dir / "results.json").exists()
