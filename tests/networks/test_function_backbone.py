"""A function of the user's own as a backbone: found, scaled, trained, reloaded; and what it cannot do is refused."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from tests.support.runs import call, environment, read_results
from transfer.commands import explain, finetune, predict, probe
from transfer.commands.convert.source import read_network
from transfer.costs.memory import training_memory
from transfer.costs.network_costs import Costs
from transfer.errors import UserError
from transfer.experiments.table.config import TableConfig
from transfer.experiments.table.planning import DatasetFacts, plan_cells
from transfer.networks.function import FunctionBackbone
from transfer.networks.registry import get_backbone
from transfer.networks.scaling import Scale, scale_phi
from transfer.runs.class_maps import explain_class
from transfer.runs.predictor import load_run
from transfer.training.module import TransferModule
from transfer.training.optim import parameter_groups
from transfer.weights.build import build_backbone, build_classifier
from transfer.weights.start import resolve_start

ROOT = Path(__file__).parents[2]
CODE = """
import os
import signal

from torch import nn

class Net(nn.Module):
    def __init__(self, blocks, channels, pool=False):
        super().__init__()
        convs = [nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
                               nn.ReLU()) for _ in range(blocks)]
        self.layers = nn.Sequential(nn.Conv2d(3, channels, 4, stride=4), *convs)
        self.pool, self.num_features = pool, channels

    def forward(self, images):
        self.steps = getattr(self, "steps", 0) + self.training
        if os.environ.get("STOP_AT") == str(self.steps):
            os.environ.pop("STOP_AT")
            os.kill(os.getpid(), signal.SIGTERM)
        maps = self.layers(images)
        return maps.mean((2, 3)) if self.pool else maps

def Build(depth, width, resolution):
    return Net(round(2 * depth), round(8 * width))
Build.image_size = 32

def pooled(d, w, r):
    return Net(1, 8, pool=True)

def plain(d, w, r):
    return nn.Conv2d(3, 8, 3)

def claims_more(d, w, r):
    network = nn.Conv2d(3, 8, 3)
    network.num_features = 9
    return network

def text_features(d, w, r):
    network = Net(1, 8)
    network.num_features = "8"
    return network

def no_network(d, w, r):
    return 5

def two(depth, width):
    return None

def sized(d, w, r):
    return None
sized.image_size = "224"

class Gives(nn.Module):
    num_features = 8
    def __init__(self, d, w, r):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 1)
    def forward(self, images):
        return {"features": self.layer(images)}

number = 3
"""
QUICK = ("--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1", "--trainer.accelerator", "cpu")
QUICK += ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--optim.warmup_epochs", "0")
QUICK += ("--data.num_workers", "0", "--data.batch_size", "16", "--trainer.devices", "1", "--pretrained", "false")
QUICK += ("--report", "false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user works: with my_net.py in it."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "my_net.py").write_text(CODE)
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The current folder is the user's; what is imported from there is forgotten after the test."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_net", None)


def test_it_is_found_in_the_current_folder_with_its_name_as_written() -> None:
    variant = get_backbone("my_net.Build")
    assert (variant.name, variant.resolution, variant.scale, variant.dropout_rate) == ("my_net.Build", 32, None, 0.0)
    assert get_backbone("my_net.Build") == variant
    assert get_backbone("my_net.pooled").resolution == 224
    assert "0x" not in repr(variant)  # the same in every process


@pytest.mark.parametrize(
    ("name", "canonical", "scale", "size"),
    [
        ("my_net.Build@PHI=1.0", "my_net.Build@phi=1", Scale(1.2, 1.1, 1.15), 37),
        ("my_net.Build@w=2, d=1.5", "my_net.Build@d=1.5,w=2", Scale(1.5, 2.0, 1.0), 32),
        ("my_net.Build@d=1", "my_net.Build", None, 32),
        (" my_net.Build@r=2 ", "my_net.Build@r=2", Scale(resolution=2.0), 64),
    ],
)
def test_it_is_scaled_as_a_backbone_is(name: str, canonical: str, scale: Scale | None, size: int) -> None:
    variant = get_backbone(name)
    assert (variant.name, variant.scale, variant.resolution) == (canonical, scale, size)
    assert get_backbone(canonical) == variant


def test_phi_in_python_gives_the_same_variant() -> None:
    assert scale_phi(get_backbone("my_net.Build"), 1) == get_backbone("my_net.Build@phi=1")
    backbone = build_backbone("my_net.Build", phi=2)
    assert (len(backbone.network.layers), backbone.num_features) == (1 + 3, 10)  # 2 * 1.44, 8 * 1.21


def test_it_gives_maps_and_the_head_is_ours() -> None:
    classifier = build_classifier("my_net.Build@d=1.5,w=2", 5, dropout=0.1)
    assert isinstance(classifier.backbone, FunctionBackbone)
    images = torch.randn(2, 3, 40, 48)
    maps = classifier.backbone(images)
    assert maps.shape == (2, 16, 10, 12)
    torch.testing.assert_close(classifier.forward_head(maps, pre_logits=True), maps.flatten(2).mean(2))
    assert classifier(images).shape == (2, 5) and classifier.head.dropout.p == 0.1
    compiled = torch.compile(classifier.eval(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), classifier(images))


def test_pooled_features_are_maps_of_one_cell() -> None:
    classifier = build_classifier("my_net.pooled", 5)
    assert classifier.backbone(torch.randn(2, 3, 32, 32)).shape == (2, 8, 1, 1)
    assert classifier.forward_features(torch.randn(2, 3, 32, 32)).shape == (2, 8, 1, 1)
    with pytest.raises(UserError, match=r"my_net\.pooled returns features of the whole image"):
        explain_class(classifier.eval(), torch.randn(2, 3, 32, 32))


def test_class_maps_are_of_the_functions_own_maps() -> None:
    classifier = build_classifier("my_net.Build", 5).eval()
    nn.init.normal_(classifier.head.fc.weight)
    explained = explain_class(classifier, torch.randn(2, 3, 32, 32))
    assert explained.maps.shape == (2, 8, 8)
    torch.testing.assert_close(explained.maps.mean((1, 2)), explained.logits.max(1).values)


def test_multiply_adds_and_memory_are_counted() -> None:
    # 4x4 convolution to 8 channels on 8x8 cells, two of 3x3, and the classifier.
    costs, small = Costs("my_net.Build"), Costs("my_net.Build", num_classes=10, image_size=16)
    assert costs.counts(costs.baseline).macs == 64 * (16 * 3 * 8 + 2 * 9 * 8 * 8) + 8 * 1000
    assert costs.counts(get_backbone("my_net.Build@r=2")).macs == 256 * (384 + 1152) + 8 * 1000
    assert small.counts(small.baseline).macs == 16 * (384 + 1152) + 80
    memory = training_memory(build_classifier("my_net.Build", 10), 32)
    assert memory.per_image > 0 and memory.fixed - 2 * (4 * 2 * 8 + 8) == 12 * (
        4 * 4 * 3 * 8 + 8 + 2 * (9 * 64 + 16) + 8 * 10 + 10
    )


def test_images_are_prepared_as_b0s() -> None:
    for name, size in (("my_net.Build", 32), ("my_net.Build@r=2", 64)):
        images = resolve_start(name).preprocessing
        assert (images.image_size, images.crop_ratio) == (size, size / (size + 32))
        assert (images.mean, images.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert resolve_start("my_net.Build@r=1.5", dataset_size=64).preprocessing.image_size == 96


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "my_net.nothing",
            r"backbone 'my_net\.nothing': .* no attribute 'nothing' \(allowed: b0, .* or an import path",
        ),
        ("no_such_module.net", r"No module named 'no_such_module', neither in /.* nor as a package \(allowed"),
        ("my_net.number", r"'my_net\.number' is int, nothing that can be called"),
        ("my_net..Build", r"'my_net\.\.Build': not of the form package\.module\.name"),
        (".Build", "not of the form"),
        (
            "my_net.two",
            r"my_net\.two: it is called as my_net\.two\(depth, width, resolution\), but: too many positional",
        ),
        ("my_net.sized", r"my_net\.sized: its image_size is '224' \(allowed: the side"),
        ("my_net.Build@phi", r"backbone my_net\.Build@phi: 'phi' is not KEY=NUMBER"),
        ("my_net.Build@d=99", r"depth coefficient 99 \(allowed"),
        ("my_net.Build@blocks=r1_k3_e1", "'blocks=r1_k3_e1' is not KEY=NUMBER"),
    ],
)
def test_what_is_no_function_of_three_numbers_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_backbone(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_net.no_network", r"my_net\.no_network: the function gave int, not an nn\.Module"),
        (
            "my_net.plain@phi=1",
            r"my_net\.plain@phi=1: the function gave a Conv2d whose num_features is None \(needed: the F",
        ),
        ("my_net.text_features", "gave a Net whose num_features is '8'"),
    ],
)
def test_what_is_no_backbone_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "my_net.claims_more",
            r"is of shape \(2, 8, 30, 30\) \(needed: a map \(N, 9, h, w\) or pooled features \(N, 9\)",
        ),
        ("my_net.Gives", r"output for images \(2, 3, 32, 32\) is of dict"),
    ],
)
def test_an_output_that_is_no_features_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(name)(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pretrained": True},
            r"pretrained=True: my_net\.Build is a function of your own, and no weights of it are known",
        ),
        (
            {"pretrained": "tensorflow", "weights": "x"},
            "pretrained='tensorflow': .* use pretrained=False without init",
        ),
        ({"init_from": "b0"}, "init_from='b0': .* no weights of it are known"),
        ({"weights": "x.pth"}, "`weights`='x.pth' with `pretrained`=False"),
        ({"in_channels": 1}, r"`in_channels`=1 with a function of your own, my_net\.Build \(allowed: 3\)"),
        ({"grad_checkpointing": True}, r"`grad_checkpointing`=True with a function of your own, .* \(allowed: False\)"),
    ],
)
def test_what_a_function_cannot_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone("my_net.Build", **options)


def test_nothing_starts_from_a_function_and_its_name_imports_nothing_there() -> None:
    with pytest.raises(UserError, match=r"unknown backbone 'my-net\.build'"):
        resolve_start("b0", True, "my_net.Build")
    assert "my_net" not in sys.modules


@pytest.mark.parametrize("name", ["output_stride", "stage_channels", "stage_strides", "forward_stages"])
def test_its_stages_are_unknown(name: str) -> None:
    backbone = build_backbone("my_net.Build", pretrained=False)
    with pytest.raises(UserError, match=r"my_net\.Build is a function of your own: its stages are unknown here"):
        getattr(backbone, name)(torch.rand(1, 3, 32, 32))


def test_a_layer_decay_needs_stages() -> None:
    classifier = build_classifier("my_net.Build", 5)
    with pytest.raises(UserError, match=r"`layer_decay`=0\.9: nothing is known of the backbone's stages"):
        TransferModule(classifier, layer_decay=0.9)
    names = {group["name"] for group in parameter_groups(classifier, 0.1, 1e-5)}
    assert names == {"backbone", "backbone/no-decay", "head", "head/no-decay"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--pretrained", "true"), "my_net.Build is a function of your own, and no weights of it are known here"),
        (("--init_from", "b0"), "init_from='b0': my_net.Build is a function of your own"),
        (("--grad_checkpointing", "true"), "--grad_checkpointing true with a function of your own"),
        (("--optim.layer_decay", "0.5"), "--optim.layer_decay 0.5: nothing is known"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(finetune.main, *QUICK, "--backbone", "my_net.Build", "--out_dir", "refused", *argv) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not Path("refused").exists()


def test_a_probe_of_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["--backbone", "my_net.Build", "--pretrained", "false"]) == 2
    assert "my_net.Build: a probe reads the features of trained weights" in capsys.readouterr().err


def test_a_table_plans_cells_of_it() -> None:
    wanted = TableConfig(datasets=["digits"], backbones=["my_net.Build@PHI=1"], protocols=["scratch"], seeds=[0])
    (cell,) = plan_cells(wanted, lambda _: DatasetFacts(num_images=1437, image_size=64))
    assert (cell.id, cell.backbone) == ("digits_my_net.Build@phi=1_scratch_0", "my_net.Build@phi=1")
    assert cell.image_size == 74
    assert cell.num_parameters == sum(p.numel() for p in build_backbone("my_net.Build@phi=1").parameters())


@pytest.mark.slow
def test_it_is_trained_stopped_resumed_and_evaluated_by_another_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, stopped, whole = "my_net.Build@phi=1", folder / "runs/digits_my_net.Build@phi=1/1", folder / "whole"
    argv = (*QUICK, "--backbone", "my_net.Build@PHI=1", "--trainer.limit_train_batches", "4", "--image_size", "32")
    monkeypatch.setenv("STOP_AT", "2")
    assert call(finetune.main, *argv) == 128 + signal.SIGTERM
    assert f"{name} from random weights; 32 px" in capsys.readouterr().out
    assert not (stopped / "results.json").exists()
    assert torch.load(stopped / "last.ckpt", weights_only=True)["global_step"] == 2

    assert call(finetune.main, "--resume", stopped) == 2 and "--allow_user_code" in capsys.readouterr().err
    assert call(finetune.main, "--resume", stopped, "--allow_user_code") == 0
    assert call(finetune.main, *argv, "--out_dir", whole) == 0
    results = read_results(stopped)
    assert (results["backbone"], results["weights"], results["image_size"]) == (name, None, 32)
    assert yaml.safe_load((stopped / "config.yaml").read_text())["backbone"] == name
    resumed, uninterrupted = (load_run(path, allow_user_code=True).classifier for path in (stopped, whole))
    assert resumed.backbone.variant == get_backbone(name)
    assert all(torch.equal(t, uninterrupted.state_dict()[key]) for key, t in resumed.state_dict().items())

    command = [
        sys.executable,
        str(ROOT / "scripts/evaluate.py"),
        "whole",
        "--allow_user_code",
        "--json",
        "evaluated.json",
    ]
    evaluated = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads((folder / "evaluated.json").read_text())["metrics"]
    assert 0 <= metrics["top1"] <= 1 and metrics["loss"] == pytest.approx(math.log(10), rel=0.5)

    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "photo.png")
    for script, more in ((predict, ()), (explain, ("--out", folder / "explained"))):
        assert call(script.main, whole, folder / "photo.png", "--allow_user_code", *more) == 0
    assert (folder / "explained/photo.png").is_file()
    with pytest.raises(UserError, match=r"whole: my_net\.Build@phi=1 is a function of your own: no other code base"):
        read_network(whole, allow_user_code=True)
