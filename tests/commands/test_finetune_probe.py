"""The linear probe that a fine-tuning of few images begins with, and the fine-tuning that starts from its head."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.support.runs import call, read_results, read_rows, read_weights, refused, same_weights, save_classes
from transfer.commands import evaluate, finetune, finetune_probe, probe
from transfer.config.command_line import parse_config
from transfer.probe.features import read_features
from transfer.runs.results import FirstProbe, Metrics, Results, SplitFacts
from transfer.runs.results import read_results as load_results

# What a probe and a fine-tuning of it share; the photos are 45 of train, 9 of val and 6 of test.
SMALL = ("--image_size", "32", "--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.devices", "1")
SMALL += ("--report", "false")
TUNE = ("--data.batch_size", "8", "--trainer.max_epochs", "2", "--recipe", "none")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classes(tmp_path_factory.mktemp("photos") / "photos", {"dark": 20, "grey": 20, "light": 20})


def tune(photos: Path, out_dir: Path, *words: str | Path) -> int:
    return call(finetune.main, "--data_root", photos, *SMALL, *TUNE, "--out_dir", out_dir, *words)


@pytest.mark.slow
def test_it_begins_with_the_probe_and_trains_as_without_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(probe.main, "--data_root", photos, *SMALL, "--out_dir", tmp_path / "probe") == 0
    capsys.readouterr()
    assert tune(photos, tmp_path / "run") == 0
    output, alone, results = capsys.readouterr(), read_results(tmp_path / "probe"), read_results(tmp_path / "run")
    found = results["first_probe"]
    assert found["penalty"] == alone["penalty"] and found["metrics"] == alone["metrics"]["val"]
    assert found["engine"] == "torch" and found["seconds"] > 0
    files = (Path(alone["splits"][name]["features"]) for name in ("train", "val"))
    train, held = (read_features(file).leading(alone["num_features"]) for file in files)
    sklearn = LogisticRegression(C=1 / found["penalty"], max_iter=10_000, tol=1e-10)
    sklearn.fit(train.features.float().numpy(), train.labels.numpy())
    expected = np.mean(sklearn.predict(held.features.float().numpy()) == held.labels.numpy())
    assert found["metrics"]["top1"] == pytest.approx(expected)
    val, tuned = found["metrics"]["top1"], results["metrics"]["val"]["top1"]
    assert f"linear probe first: val top1 {val:.2%} (" in output.out
    line = f"top1 on 9 val images: fine-tuned {tuned:.2%}, linear probe of the frozen network {val:.2%}"
    assert line in output.out.splitlines()
    assert results["test_reads"] == 1

    monkeypatch.setattr(finetune_probe, "FEW_IMAGES", 0)
    assert tune(photos, tmp_path / "without") == 0
    assert "linear probe" not in capsys.readouterr().out
    assert read_results(tmp_path / "without")["first_probe"] is None
    assert same_weights(read_weights(tmp_path / "run"), read_weights(tmp_path / "without"))


def evaluate_val(run_dir: Path) -> float:
    """The accuracy of best.ckpt on val."""
    assert call(evaluate.main, run_dir, "--split", "val", "--json", run_dir / "val.json") == 0
    top1: float = json.loads((run_dir / "val.json").read_text())["metrics"]["top1"]
    return top1


@pytest.mark.slow
def test_lpft_starts_where_the_probe_ended_and_resumes_without_another(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # At such a rate training destroys the network, and the best one is that of the start.
    words = ("--method", "lpft", "--optim.lr", "0.3", "--trainer.max_epochs", "1", "--trainer.limit_test_batches", "0")
    assert tune(photos, tmp_path / "run", *words) == 0
    output, run = capsys.readouterr(), load_results(tmp_path / "run")
    assert run.first_probe is not None
    expected, (start, end) = run.first_probe.metrics, read_rows(tmp_path / "run")
    assert (start["epoch"], start["step"], end["epoch"]) == ("0", "0", "1")
    assert float(start["val/top1"]) == expected["top1"] > float(end["val/top1"])
    assert float(start["val/loss"]) == pytest.approx(expected["loss"], rel=1e-3)
    assert run.val["top1"] == expected["top1"] == evaluate_val(tmp_path / "run")
    assert "optim.lr: as you set it" in output.out and "bn frozen: " in output.out
    assert "BatchNorm" not in output.err

    def repeated(*_: object, **__: object) -> None:
        raise AssertionError("the probe was fitted again")

    monkeypatch.setattr(finetune_probe, "_fit", repeated)
    assert call(finetune.main, "--resume", tmp_path / "run", "--trainer.max_epochs", "2") == 0
    longer = load_results(tmp_path / "run")
    assert (longer.steps, longer.first_probe) == (2 * (run.steps or 0), run.first_probe)


@pytest.mark.slow
def test_where_the_mean_per_class_counts_lpft_adjusts_the_head_and_the_loss(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data.metric", "mean_per_class", "--method", "lpft", "--trainer.max_epochs", "1", "--report", "false")
    assert tune(photos, tmp_path / "run", *words) == 0
    found, output = load_results(tmp_path / "run"), capsys.readouterr().out
    assert found.first_probe is not None and found.first_probe.logit_adjustment
    assert found.config["loss"]["logit_adjustment"] is True
    assert found.quoted_metric == found.monitor == "mean_per_class"
    assert "loss.logit_adjustment True: the mean per class is what counts" in output
    assert f"linear probe first: val mean_per_class {found.first_probe.metrics['mean_per_class']:.2%} (" in output
    assert "s, with logit adjustment)" in output


@pytest.mark.slow
def test_the_same_seed_starts_from_the_same_head(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache {name}"))  # computed, not read
        assert tune(photos, tmp_path / name, "--method", "lpft", "--trainer.max_epochs", "1") == 0
    assert same_weights(read_weights(tmp_path / "one"), read_weights(tmp_path / "two"))
    assert read_results(tmp_path / "one")["metrics"] == read_results(tmp_path / "two")["metrics"]


@pytest.mark.slow
def test_features_that_cannot_be_kept_cost_only_a_run_that_needs_them(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert tune(photos, tmp_path / "lpft", "--method", "lpft") == 2
    assert "the features cannot be written" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="no linear probe first: .*the features cannot be written"):
        assert tune(photos, tmp_path / "run", "--trainer.max_epochs", "1") == 0
    assert read_results(tmp_path / "run")["first_probe"] is None


ONE_LABEL = ("--data_root", "photos")


@pytest.mark.parametrize(
    ("words", "sizes", "processes", "begins"),
    [
        ((), {"train": 5000, "val": 10}, 1, True),
        ((), {"train": 5001, "val": 10}, 1, False),
        ((), {"train": 500}, 1, False),
        ((), {"train": 500, "val": 10}, 2, False),
        (("--pretrained", "false"), {"train": 500, "val": 10}, 1, False),
        (("--data.multilabel", "true"), {"train": 500, "val": 10}, 1, False),
        (("--data.stream", "true"), {"train": 500, "val": 10}, 1, False),
        (("--trainer.limit_train_batches", "3"), {"train": 500, "val": 10}, 1, False),
        (("--trainer.limit_val_batches", "0.5"), {"train": 500, "val": 10}, 1, False),
        (("--trainer.overfit_batches", "1"), {"train": 500, "val": 10}, 1, False),
        (("--trainer.limit_test_batches", "0"), {"train": 500, "val": 10}, 1, False),  # a trial of a search
    ],
)
def test_which_runs_begin_with_a_probe(
    words: tuple[str, ...], sizes: dict[str, int], processes: int, begins: bool
) -> None:
    config = parse_config([*ONE_LABEL, *words])[0]
    start: Any = SimpleNamespace(row=None if config.pretrained is False else "row")
    data: Any = SimpleNamespace(dataset=SimpleNamespace(split_sizes=sizes))
    assert finetune_probe.begins_with_probe(config, start, data, processes) is begins


def results_of(tuned: float, probed: float, method: str) -> Results:
    first = FirstProbe(penalty=1.0, metrics=Metrics({"top1": probed}), engine="torch", seconds=3.0)
    metrics = {"val": Metrics({"top1": tuned})}
    splits = {"val": SplitFacts(size=200, fingerprint="ab", class_counts=[100, 100])}
    common: dict[str, Any] = {"run_dir": Path(), "command": [], "dataset": "d", "backbone": "b"}
    return Results(**common, metrics=metrics, splits=splits, config={"method": method}, first_probe=first)


@pytest.mark.parametrize(
    ("method", "advice"), [("full", "makes that network in seconds, and `method`=lpft starts"), ("lpft", "seconds")]
)
def test_a_run_that_ends_below_its_probe_is_told(method: str, advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match=rf"ended below the linear probe, 80\.00% against 81\.50% on val: .*{advice}"):
        finetune_probe.print_comparison(results_of(0.8, 0.815, method))
    assert "top1 on 200 val images: fine-tuned 80.00%, linear probe of the frozen" in capsys.readouterr().out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune_probe.print_comparison(results_of(0.8, 0.8, method))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--protocol", "kornblith"), "--method lpft with --protocol kornblith: both choose the settings"),
        (("--head", "mlp"), "--method lpft with --head mlp: it starts from a linear probe's (allowed: linear, stages)"),
        (("--pretrained", "false"), "--method lpft with --pretrained false: "),
        (("--data.multilabel", "true"), "--method lpft with --data.multilabel true: a probe supports one label"),
        (("--data.train_on", "trainval"), "--method lpft with --data.train_on trainval: val chooses the penalty"),
        (("--data.stream", "true"), "--method lpft with --data.stream true: run a probe, and pass its folder"),
    ],
)
def test_what_lpft_cannot_do_is_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "--data_root", "photos", "--method", "lpft", *words)
