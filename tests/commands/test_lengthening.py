"""`finetune --resume RUN --trainer.max_epochs N`: a longer run from a finished or an interrupted one."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from tests.support.runs import CHEAP, call, read_results, read_rows, read_weights, same_weights
from transfer.commands import finetune as command
from transfer.commands.finetune import finetune
from transfer.config.command_line import load_config
from transfer.errors import UserError
from transfer.runs.results import read_results as results_of

# Nothing in it depends on the run's length, so that a lengthened run must equal one of that length.
STEADY = (
    *(*CHEAP, "--backbone", "b0@d=0.3,w=0.25", "--pretrained", "false"),
    *("--optim.schedule", "constant", "--bn", "train"),
    *("--trainer.limit_val_batches", "1", "--data.batch_size", "16"),
)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short") / "run"
    assert call(command.main, *STEADY, "--trainer.max_epochs", "1", "--out_dir", folder) == 0
    return folder


@pytest.mark.slow
def test_a_finished_run_that_is_lengthened_is_the_longer_run_and_keeps_its_first_results(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, whole = shutil.copytree(short, tmp_path / "run"), tmp_path / "whole"
    assert call(command.main, *STEADY, "--trainer.max_epochs", "3", "--out_dir", whole) == 0
    capsys.readouterr()
    assert call(command.main, "--resume", run, "--trainer.max_epochs", "3") == 0
    printed = capsys.readouterr().out
    assert (
        "lengthened at step 4 (it was to end after epoch 1; the results at that end are in results_step_4.json)"
        in printed
    )
    assert "12 steps (4 an epoch)" in printed and "epoch 3/3" in printed and "epoch 1/3" not in printed
    assert same_weights(read_weights(run, "last.ckpt"), read_weights(whole, "last.ckpt"))
    assert [(row["step"], row["val/loss"]) for row in read_rows(run)] == [
        (row["step"], row["val/loss"]) for row in read_rows(whole)
    ]
    found, expected = read_results(run), read_results(whole)
    assert found["metrics"] == expected["metrics"] and found["steps"] == expected["steps"] == 12
    first = {"step": 4, "max_epochs": 1, "max_steps": -1, "results": "results_step_4.json"}
    assert found["lengthened_from"] == [first] and expected["lengthened_from"] == []
    assert results_of(run).lengthened_from[0].results == "results_step_4.json"
    for name, suffix in (("results", "json"), ("test_predictions", "npz"), ("val_predictions", "npz")):
        assert (run / f"{name}_step_4.{suffix}").read_bytes() == (short / f"{name}.{suffix}").read_bytes()
    assert load_config(run / "config.yaml").trainer.max_epochs == 3
    assert found["config"]["trainer"]["max_epochs"] == 3 and found["test_reads"] == 2

    assert call(command.main, "--resume", run, "--trainer.max_epochs", "2") == 2
    assert "a run may become longer, not shorter: --trainer.max_epochs 3 -> 2" in capsys.readouterr().err
    assert call(command.main, "--resume", run, "--trainer.max_epochs", "3") == 2
    assert "there is nothing to resume: raise --trainer.max_epochs" in capsys.readouterr().err
    assert call(command.main, "--resume", run, "--trainer.max_steps", "20") == 2
    assert "--trainer.max_steps -1 -> 20" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cosine_goes_on_at_the_rates_of_the_new_length(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (*STEADY, "--optim.schedule", "cosine", "--optim.warmup_epochs", "0", "--trainer.max_steps", "4")
    assert call(command.main, *words, "--out_dir", run) == 0
    (run / "results.json").unlink()  # as if killed before its end
    results = finetune(resume=run, trainer={"max_steps": 6})
    assert [entry.results for entry in results.lengthened_from] == [None]
    results = finetune(resume=run, trainer={"max_epochs": 9, "max_steps": 16})
    assert [(e.step, e.max_epochs, e.max_steps) for e in results.lengthened_from] == [(4, 2, 4), (6, 2, 6)]
    assert [entry.results for entry in results.lengthened_from] == [None, "results_step_6.json"]
    assert (results.steps, results.planned_steps, results.resumed) == (16, 16, True)
    rows = read_rows(run)
    assert [int(row["step"]) for row in rows] == [4, 6, 10, 14, 16]  # an epoch that ended early counts as one
    lengths = (4, 6, 16, 16, 16)
    expected = [0.01 * (1 + math.cos(math.pi * int(r["step"]) / n)) for r, n in zip(rows, lengths, strict=True)]
    assert [float(row["lr"]) for row in rows] == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_what_would_leave_nothing_to_train_is_refused_and_changes_nothing(short: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    words = ("--early_stopping", "1", "--optim.lr", "1e-12", "--trainer.max_epochs", "6", "--monitor", "top1")
    assert call(command.main, *STEADY, *words, "--bn", "frozen", "--out_dir", stopped) == 0
    epoch = read_results(stopped)["early_stopping"]["epoch"]
    capped = tmp_path / "capped"
    assert call(command.main, *STEADY, "--trainer.max_steps", "2", "--out_dir", capped) == 0
    for run, trainer, message in (
        (stopped, {"max_epochs": 9}, rf"`early_stopping`=1 ended the run in epoch {epoch}"),
        (capped, {"max_epochs": 9}, r"`trainer.max_steps`=2 ended the run: raise it, too"),
        (short, {"max_epochs": -1, "max_steps": 0}, r"`trainer.max_steps`=0"),
    ):
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(UserError, match=message):
            finetune(resume=run, trainer=trainer)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before
