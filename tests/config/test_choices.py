"""`--protocol` and `--recipe auto` as a user types them, and SAM on two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.support.runs import call, read_results, read_weights, refused, run_script, same_weights
from transfer.commands import finetune
from transfer.config.parsing import flatten

# A step of seconds; the length is the choices' own business, but for the number of steps.
STEP = (
    *("--image_size", "32", "--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
    *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"),
    *("--report", "false"),
)
SMALL = ("--backbone", "b0@d=0.3,w=0.25", "--pretrained", "false")


@pytest.mark.slow
def test_auto_says_why_leaves_what_was_set_and_its_config_repeats_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--recipe", "auto", "--method", "full", "--optim.lr", "0.02")
    assert call(finetune.main, *STEP, *words, "--out_dir", tmp_path / "auto") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "optim.lr: as you set it" in lines and "image_size: as you set it" in lines
    assert "trainer.max_steps: as you set it" in lines
    assert "dropout 0.2: the backbone's published rate; the author kept ImageNet's settings" in lines
    chosen = flatten(yaml.safe_load((tmp_path / "auto/config.yaml").read_text()))
    expected = {
        "image_size": 32, "optim.lr": 0.02, "trainer.max_steps": 2, "trainer.max_epochs": -1, "dropout": 0.2,
        "ema_half_life": 0.03, "data.min_crop_area": 0.64, "loss.mixup_alpha": 0.0, "augment": "basic",
    }  # fmt: skip
    assert {field: chosen[field] for field in expected} == expected
    again = ("--config", tmp_path / "auto/config.yaml", "--out_dir", tmp_path / "again")
    assert call(finetune.main, *again) == 0
    assert same_weights(read_weights(tmp_path / "again"), read_weights(tmp_path / "auto"))
    assert read_results(tmp_path / "again")["metrics"] == read_results(tmp_path / "auto")["metrics"]


@pytest.mark.slow
def test_a_protocol_gives_the_middle_of_its_grid_and_the_batch_in_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    argv = (*STEP, *SMALL, "--protocol", "kornblith", "--data.batch_size", "128", "--loss.label_smoothing", "0.1")
    assert call(finetune.main, *argv, "--out_dir", run_dir) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("protocol kornblith: Kornblith et al. 2019 as restated in SimCLR")
    assert "optim.lr 0.003162" in lines and "a step has 256 images: 1 process x 128 at once x 2" in lines
    assert "loss.label_smoothing: as you set it, not 0.0" in lines
    assert "optim.lr and optim.weight_decay: the middle of a grid of 56 trials" in lines
    config = flatten(read_results(run_dir)["config"])
    assert (config["data.batch_size"], config["loss.label_smoothing"], config["dropout"]) == (128, 0.1, 0.0)
    assert (config["trainer.max_steps"], config["optim.weight_decay"]) == (2, 0.01)
    assert torch.load(run_dir / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_from_scratch_takes_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = (*STEP, "--protocol", "scratch", "--global_batch_size", "32")
    assert call(finetune.main, *argv, "--out_dir", tmp_path / "run") == 0
    assert "lite0 from random weights; 32 px" in capsys.readouterr().out
    results = read_results(tmp_path / "run")
    assert results["weights"] is None and results["config"]["pretrained"] is False


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--protocol", "list"), "unknown protocol 'list' (allowed: bit-hyperrule, efficientnetv2, kornblith, "),
        (
            ("--protocol", "kornblith", "--optim.lr", "0.1"),
            "chooses optim.lr and optim.weight_decay together from its grid: set both, or neither",
        ),
        (
            ("--protocol", "kornblith", "--trainer.accumulate_grad_batches", "1"),
            "--trainer.accumulate_grad_batches 1 with --global_batch_size 256, which is 1 x 64 images x 4: leave one",
        ),
        (("--protocol", "sam-paper-rho0.05"), "--trainer.accumulate_grad_batches 16: both passes need the whole batch"),
    ],
)
def test_a_protocol_refuses_half_of_what_belongs_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, *STEP, *argv, "--out_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sam_on_two_processes_is_sam_on_one_with_their_batches_joined(tmp_path: Path) -> None:
    """Without randomness and with fixed statistics the mean gradient is the same, if both processes move alike."""
    argv = (
        *("--image_size", "32", "--data.num_workers", "0", "--trainer.accelerator", "cpu", "--augment", "none"),
        *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "0"),
        *("--bn", "frozen", "--dropout", "0", "--stochastic_depth_prob", "0", "--optim.sam_rho", "2"),
    )
    alone = ("--trainer.devices", "1", "--data.batch_size", "32", "--out_dir", tmp_path / "one")
    assert call(finetune.main, *argv, *alone) == 0
    process = run_script(
        *argv, *("--trainer.devices", "2", "--trainer.strategy", "ddp"), "--data.batch_size", "16",
        *("--out_dir", tmp_path / "two"),
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    one, two = (read_weights(tmp_path / name) for name in ("one", "two"))
    for name in one:
        if "classifier" in name:
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5, msg=name)
