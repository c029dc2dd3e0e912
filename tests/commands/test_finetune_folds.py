"""efficientnet-transfer finetune --folds: a run for each fold, what they say together, and going on from a part."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import load_dataset
from tests.support.bundles import TINY
from tests.support.runs import CHEAP, call, read_results, refused, save_classes, save_csv, save_photo
from transfer import finetune as finetune_one
from transfer import finetune_folds
from transfer.commands import finetune
from transfer.commands.evaluate import evaluate
from transfer.commands.finetune_folds import claim_folder
from transfer.config.command_line import load_config, parse_choose_config, parse_probe_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.resampling import accuracy_interval
from transfer.statistics import mean_interval

WORDS = (*CHEAP, "--backbone", TINY, "--pretrained", "false", "--data.batch_size", "8")


def save_table(folder: Path, label_of: Any) -> Path:
    """60 photos of 20 patients; the last 12 photos are test."""
    rows = [["image", "label", "split", "patient"]]
    for index in range(60):
        save_photo(folder / f"{index}.png", index, 60 + 120 * (index % 2))
        rows.append([f"{index}.png", label_of(index), "test" if index >= 48 else "train", f"p{index // 3}"])
    return save_csv(folder / "table.csv", rows)


def data_words(table: Path) -> tuple[str, ...]:
    return ("--data_root", str(table), "--data.split_column", "split")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_table(tmp_path_factory.mktemp("photos"), lambda index: ("cat", "dog")[index % 2])


@pytest.fixture(scope="module")
def folds(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "folds"
    words = (*data_words(table), "--data.group_column", "patient", "--data.draw", "1", "--folds", "3")
    assert call(finetune.main, *WORDS, *words, "--out_dir", folder) == 0
    return folder


def load_arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "out_of_fold.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_every_image_is_answered_once_by_the_network_that_has_not_seen_it(table: Path, folds: Path) -> None:
    arrays = load_arrays(folds)
    assert len(set(arrays["path"].tolist())) == len(arrays["path"]) == 48
    assert arrays["class_name"].tolist() == ["cat", "dog"]
    numbers = [int(Path(path).stem) for path in arrays["path"]]
    assert arrays["label"].tolist() == [number % 2 for number in numbers]
    assert arrays["group"].tolist() == [f"p{number // 3}" for number in numbers]
    for fold in range(3):
        inside, outside = (set(arrays["group"][at].tolist()) for at in (arrays["fold"] == fold, arrays["fold"] != fold))
        assert inside and not inside & outside
        config = load_config(folds / f"fold{fold}" / "config.yaml")
        assert (config.folds, config.fold, config.data.draw) == (3, fold, 1)
        data = load_dataset(config.dataset, **config.read_options())
        assert data.split("val").image_names() == arrays["path"][arrays["fold"] == fold].tolist()


def test_the_accuracy_is_a_count_by_hand(folds: Path) -> None:
    arrays, record = load_arrays(folds), json.loads((folds / "folds.json").read_text())
    right = arrays["probability"].argmax(1) == arrays["label"]
    assert arrays["prediction"].tolist() == arrays["probability"].argmax(1).tolist()
    assert record["metrics"]["top1"] == pytest.approx(right.mean())
    by_class = [right[arrays["label"] == label].mean() for label in (0, 1)]
    assert record["metrics"]["mean_per_class"] == pytest.approx(np.mean(by_class))
    _, interval = accuracy_interval(arrays["label"], arrays["prediction"], "top1", arrays["group"])
    assert record["intervals"]["top1"] == pytest.approx({"low": interval.low, "high": interval.high})
    assert (record["schema_version"], record["num_images"], record["num_groups"], record["folds"]) == (1, 48, 16, 3)
    assert [run["run_dir"] for run in record["runs"]] == ["fold0", "fold1", "fold2"]


def test_each_run_agrees_with_its_own_results_and_reads_test_once(folds: Path) -> None:
    arrays, record = load_arrays(folds), json.loads((folds / "folds.json").read_text())
    tested = []
    for fold, run in enumerate(record["runs"]):
        at, own = arrays["fold"] == fold, read_results(folds / f"fold{fold}")
        assert own["metrics"]["val"]["top1"] == pytest.approx((arrays["prediction"] == arrays["label"])[at].mean())
        assert run["val"] == own["metrics"]["val"] and run["num_images"] == at.sum()
        assert own["test_reads"] == 1
        tested.append(own["metrics"]["test"])
    for name, most in (("top1", 1), ("loss", math.inf)):
        mean = mean_interval([metrics[name] for metrics in tested])
        ends = max(mean.low, 0), min(mean.high, most)
        assert record["test"][name] == pytest.approx({"value": mean.value, "low": ends[0], "high": ends[1], "count": 3})


def test_evaluate_reads_the_folds_own_val(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(folds / "fold1", split="val")
    assert found.own_data and found.changed_splits == [] and found.seen_images == 0
    assert list(found.predictions.paths) == load_arrays(folds)["path"][load_arrays(folds)["fold"] == 1].tolist()


def test_what_is_finished_is_not_done_again(folds: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "folds"
    shutil.copytree(folds, copy)
    kept = (copy / "fold0" / "results.json").stat().st_mtime_ns
    shutil.rmtree(copy / "fold1")
    for name in ("fold2/results.json", "folds.json", "out_of_fold.npz"):
        (copy / name).unlink()
    assert call(finetune.main, "--resume", copy) == 0
    assert (copy / "fold0" / "results.json").stat().st_mtime_ns == kept
    assert not read_results(copy / "fold1")["resumed"] and read_results(copy / "fold2")["resumed"]
    before, after = load_arrays(folds), load_arrays(copy)
    assert all(np.array_equal(before[name], after[name]) for name in before)  # bit for bit the same networks
    printed, err = capfd.readouterr()
    runs = " ".join(str(copy / f"fold{fold}") for fold in range(3))
    assert err.splitlines()[-1] == f"next: efficientnet-transfer export {runs} --out bundle/"
    assert "test, mean of 3 networks: top1" in printed and "48 images of 16 groups" in printed


def test_a_folder_goes_on_with_the_same_settings_only(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--resume", folds, "--optim.lr", "0.5")
    assert "was planned otherwise" in message and "optim.lr: None -> 0.5" in message


def test_files_that_are_left_out_are_named_on_the_terminal_too(tmp_path: Path) -> None:
    photos = save_classes(tmp_path / "photos", {"cat": 12, "dog": 12})
    (photos / "cat" / "notes.txt").touch()
    with pytest.warns(UserWarning, match=r"left out 1 file .*\.txt"):  # of this process, not of those that train
        assert call(finetune.main, *WORDS, "--data_root", photos, "--folds", "2", "--out_dir", tmp_path / "folds") == 0


def test_a_part_of_train_and_several_labels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = save_table(tmp_path / "photos", lambda index: ("day", "day|sea", "sea")[index % 3])
    words = (*data_words(table), "--data.multilabel", "true", "--data.fraction", "0.5", "--folds", "2")
    assert call(finetune.main, *WORDS, *words, "--out_dir", tmp_path / "folds") == 0
    arrays, record = load_arrays(tmp_path / "folds"), json.loads((tmp_path / "folds" / "folds.json").read_text())
    assert arrays["label"].shape == arrays["prediction"].shape == arrays["probability"].shape == (48, 2)
    exact = ((arrays["probability"] > 0.5) == arrays["label"]).all(1).mean()
    assert record["metric"] == "map" and record["metrics"]["exact_match"] == pytest.approx(exact)
    assert record["intervals"].keys() == {"exact_match", "f1", "map", "map_11"} and record["num_groups"] is None
    assert [read_results(tmp_path / "folds" / run)["splits"]["train"]["size"] for run in ("fold0", "fold1")] == [12, 12]
    assert "group" not in arrays


def test_wrong_folds_are_refused_before_or_by_the_first_run(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, *data_words(table))
    assert refused(capsys, *words, "--folds", "1") == "--folds 1 (allowed: at least 2)"
    assert "--fold 2 without --folds" in refused(capsys, *words, "--fold", "2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.png").touch()
    message = refused(capsys, *words, "--folds", "3", "--out_dir", tmp_path / "full")
    assert message.endswith("is not empty; it may hold another run: choose a new folder")
    with pytest.raises(BadValue, match=r"`folds`=3 without `fold`: transfer.finetune_folds trains"):
        finetune_one(data_root=table, folds=3)
    with pytest.raises(BadValue, match="needs `folds` alone"):
        finetune_folds(data_root=table, folds=3, fold=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadValue, match="start a run for each `fold`"):
        finetune_folds(data_root=table, folds=3)


def test_a_job_that_is_started_again_finds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, runs = FinetuneConfig(folds=2), Path("runs/digits_lite0_folds")
    assert [claim_folder(config) for _ in range(2)] == [runs / "1", runs / "2"]
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert [claim_folder(config) for _ in range(2)] == [runs / "77", runs / "77"]
    (runs / "77" / "photo.png").touch()
    with pytest.raises(BadValue, match="77 is not empty"):
        claim_folder(config)


def test_too_many_folds_are_refused_in_one_sentence(
    table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(finetune.main, *WORDS, *data_words(table), "--folds", "40", "--out_dir", tmp_path / "folds") == 2
    message = capfd.readouterr().err
    assert "error: fold0: --folds 40 (allowed: 2 to 24: the largest class has that many images)" in message
    assert "Traceback" not in message


def test_probe_and_choose_take_the_fields_of_the_data() -> None:
    drawn = ["--data.per_class", "3", "--data.draw", "2"]
    for config, _ in (parse_probe_config(drawn), parse_choose_config(drawn)):
        assert (config.read_options()["per_class"], config.read_options()["draw"]) == (3, 2)
