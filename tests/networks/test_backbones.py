"""Counts, shapes and numbers of the backbones, against published tables and an independent implementation."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from efficientnet_pytorch import EfficientNet as Reference
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.networks.efficientnet import V2_B0, EfficientNet
from transfer.networks.heads import LinearHead
from transfer.networks.layers import LayerSettings, MBConv
from transfer.networks.registry import get_backbone, list_backbones
from transfer.networks.rows import Variant
from transfer.weights.build import build_backbone, build_classifier
from transfer.weights.files import strict_load
from transfer.weights.key_names import to_own_keys

# Of every baseline the smallest: larger ones repeat its blocks.
SMALLEST = ("b0", "lite0", "v2-b0", "v2-s", "mobilenet-v1", "mobilenet-v2", "resnet50")


def relative_difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def randomise(module: nn.Module) -> None:
    """Statistics, scales and biases that differ from their start, so that every tensor plays a role."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0.0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
        if getattr(m, "bias", None) is not None:
            nn.init.normal_(m.bias, std=0.1)


@pytest.fixture(scope="module")
def lite0() -> EfficientNet:
    """With the packaged ImageNet weights, in eval mode; tests leave it as it is."""
    return build_backbone("lite0", pretrained=True).eval().requires_grad_(False)


@pytest.mark.parametrize("name", list_backbones())
def test_parameters_and_multiply_adds_are_the_published_counts(name: str) -> None:
    variant = get_backbone(name)
    with torch.device("meta"):
        classifier = build_classifier(name, 1000).eval()
        image = torch.empty(1, 3, variant.resolution, variant.resolution)
    assert sum(p.numel() for p in classifier.parameters()) == variant.num_parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        classifier(image)
    assert counter.get_total_flops() == 2 * variant.num_macs


# efficientnet-pytorch 0.7.1, efficientnet-lite-pytorch 0.1.0 and, for V2, torchvision 0.28.0, counted; again, so that a
# slip in the table shows.
@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("b0", 5_288_548, 385_814_752),
        ("b3", 12_233_232, 1_827_141_392),
        ("b7", 66_347_960, 37_745_884_192),
        ("l2", 480_309_308, 475_703_653_280),
        ("lite0", 4_652_008, 385_187_552),
        ("lite4", 13_006_568, 2_553_034_336),
        ("v2-s", 21_458_488, 8_365_617_152),
        ("v2-l", 118_515_272, 56_079_699_008),
    ],
)
def test_the_table_holds_the_published_counts(name: str, params: int, macs: int) -> None:
    assert (get_backbone(name).num_parameters, get_backbone(name).num_macs) == (params, macs)


@pytest.mark.parametrize("name", list_backbones())
def test_stages_have_the_declared_channels_and_strides(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
    assert backbone.stage_strides == (2, 4, 8, 16, 32)
    for height, width in ((65, 33), (79, 224)) if name in SMALLEST else ((65, 96),):
        with torch.device("meta"), torch.no_grad():
            maps = backbone.forward_stages(torch.empty(2, 3, height, width))
            top = backbone.top(maps[-1])
        expected = [
            (2, channels, math.ceil(height / stride), math.ceil(width / stride))
            for channels, stride in zip(backbone.stage_channels, backbone.stage_strides, strict=True)
        ]
        assert [tuple(m.shape) for m in maps] == expected
        assert tuple(top.shape) == (2, backbone.num_features, math.ceil(height / 32), math.ceil(width / 32))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("b0", (16, 24, 40, 112, 320)),
        ("v2-b0", (16, 32, 48, 112, 192)),
        ("v2-s", (24, 48, 64, 160, 256)),
        ("v2-m", (24, 48, 80, 176, 512)),
    ],
)
def test_the_stage_channels_are_the_papers(name: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert build_backbone(name).stage_channels == channels


def test_the_top_layer_stands_on_the_last_stage(lite0: EfficientNet) -> None:
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(lite0.top(lite0.forward_stages(x)[-1]), lite0(x))


def test_statistics_move_in_training_as_efficientnet_pytorchs() -> None:
    reference, own = Reference.from_name("efficientnet-b0", image_size=64), build_classifier("b0", 1000)
    randomise(reference)
    strict_load(own, to_own_keys(reference.state_dict(), get_backbone("b0")), source="reference")
    reference._global_params = reference._global_params._replace(drop_connect_rate=0.0)
    for module in own.modules():
        if isinstance(module, MBConv):
            module.drop.drop_prob = 0.0
    x = torch.randn(4, 3, 64, 64)
    reference.train().extract_features(x)
    own.train().backbone(x)
    moved = to_own_keys(reference.state_dict(), get_backbone("b0"))
    for key, tensor in own.state_dict().items():
        if "running" in key:
            assert relative_difference(tensor, moved[key]) <= 1e-4, key


def test_convolutions_start_with_the_released_codes_spread() -> None:
    for module in build_backbone("b0").modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            depthwise = module.groups > 1
            fan_out = module.kernel_size[0] ** 2 * (1 if depthwise else module.out_channels)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.06)
            assert module.bias is None or not module.bias.any()


def test_the_probability_of_dropping_a_block_grows_linearly() -> None:
    with torch.device("meta"):
        blocks = [m for m in build_backbone("b0").modules() if isinstance(m, MBConv)]
    assert [block.drop.drop_prob for block in blocks] == pytest.approx([0.2 * i / 16 for i in range(16)])


def test_one_input_channel_equals_the_grey_image_three_times(lite0: EfficientNet) -> None:
    grey = torch.randn(2, 1, 64, 64)
    backbone = build_backbone("lite0", pretrained=True, in_channels=1).eval()
    with torch.no_grad():
        assert relative_difference(backbone(grey), lite0(grey.expand(-1, 3, -1, -1))) <= 1e-5


def test_more_input_channels_repeat_the_stem_and_keep_its_scale(lite0: EfficientNet) -> None:
    backbone = build_backbone("lite0", pretrained=True, in_channels=4)
    expected = lite0.stem.conv.weight[:, [0, 1, 2, 0]] * 0.75
    torch.testing.assert_close(backbone.stem.conv.weight.detach(), expected)
    assert backbone(torch.randn(2, 4, 40, 40)).shape == (2, 1280, 2, 2)


def test_a_file_with_as_many_channels_keeps_its_stem(tmp_path: Path) -> None:
    saved = Classifier(build_backbone("lite0", in_channels=4), LinearHead(1280, 2, 0.0), 4).state_dict()
    torch.save(saved, tmp_path / "four.pth")
    own = build_backbone("lite0", pretrained="timm", weights=tmp_path / "four.pth", in_channels=4)
    assert own.stem.conv.weight.shape == (32, 4, 3, 3)
    assert torch.equal(own.stem.conv.weight, saved["backbone.stem.conv.weight"])
    with pytest.raises(
        UserError, match=r"! stem\.conv\.weight \(32, 4, 3, 3\) in the source, \(32, 3, 3, 3\) in the net"
    ):
        build_backbone("lite0", pretrained="timm", weights=tmp_path / "four.pth")


def test_channels_last_gives_the_same_numbers(lite0: EfficientNet) -> None:
    x = torch.randn(2, 3, 96, 96)
    backbone = build_backbone("lite0", pretrained=True).eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = backbone(x.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert relative_difference(out, lite0(x)) <= 1e-4


def test_bf16_autocast_is_finite_and_close(lite0: EfficientNet) -> None:
    x = torch.randn(2, 3, 96, 96)
    with torch.autocast("cpu", torch.bfloat16):
        out = lite0(x)
    assert out.dtype == torch.bfloat16
    assert F.cosine_similarity(out.float().flatten(), lite0(x).flatten(), dim=0) > 0.995


def test_exported_with_a_dynamic_batch_it_gives_the_same_numbers(lite0: EfficientNet) -> None:
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(lite0, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 3, 64, 64)
    torch.testing.assert_close(program.module()(x), lite0(x))


def test_compiled_it_gives_the_same_numbers_in_one_graph(tiny_classifier: Classifier) -> None:
    backbone = tiny_classifier.backbone.eval()
    x = torch.randn(2, 3, 65, 64)
    compiled = torch.compile(backbone.forward, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), backbone.forward(x))


class Stages(nn.Module):
    """`forward_stages` as a module, which is what torch.export takes."""

    def __init__(self, backbone: EfficientNet) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.backbone.forward_stages(x)


@pytest.mark.parametrize("name", SMALLEST)
def test_exported_and_compiled_the_stages_are_the_same(name: str) -> None:
    backbone = build_backbone(f"{name}@w=0.5,d=0.3")  # narrow and shallow, with every kind of block
    stages = Stages(backbone).eval().requires_grad_(False)
    x = torch.randn(1, 3, 65, 64)
    expected = stages(x)
    assert [m.shape[1] for m in expected] == list(backbone.stage_channels)
    assert all(m.std() > 0 for m in expected)
    torch.testing.assert_close(torch.export.export(stages, (x,)).module()(x), expected)
    torch._dynamo.reset()
    compiled = torch.compile(stages, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler")
def test_generated_code_for_every_kind_of_block_gives_the_same_stages() -> None:
    first, wider, last = V2_B0.stages[0], V2_B0.stages[1], V2_B0.stages[3]
    stages = (first, replace(wider, repeats=1), replace(last, in_channels=wider.out_channels, repeats=1))
    variant = Variant("tiny", 0.25, 1.0, 32, 0.2, 0, 0, baseline=replace(V2_B0, stages=stages))
    backbone = EfficientNet(variant, LayerSettings())
    kinds = {(type(m).__name__, isinstance(m.expand, nn.Identity)) for stage in backbone.stages for m in stage}
    assert kinds == {("FusedMBConv", True), ("FusedMBConv", False), ("MBConv", False)}
    randomise(backbone)
    backbone.eval().requires_grad_(False)
    x = torch.randn(2, 3, 65, 64)
    torch._dynamo.reset()
    with torch._inductor.config.patch(compile_threads=1):  # or it starts processes that import torch
        compiled = torch.compile(backbone.forward_stages, fullgraph=True)(x)
    for own, expected in zip(compiled, backbone.forward_stages(x), strict=True):
        assert relative_difference(own, expected) <= 1e-4


def train_once(classifier: Classifier, checkpointing: bool) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Loss, gradients and state of one training step with the same random draws."""
    torch.manual_seed(1)
    randomise(classifier)
    nn.init.normal_(classifier.head.fc.weight)
    classifier.set_grad_checkpointing(checkpointing)
    classifier.train().zero_grad()
    loss = F.cross_entropy(classifier(torch.randn(6, 3, 64, 64)), torch.arange(6) % 3)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in classifier.named_parameters() if p.grad is not None}
    return loss.item(), gradients, {k: v.clone() for k, v in classifier.state_dict().items()}


def test_checkpointing_gives_the_same_loss_gradients_and_statistics(tiny_classifier: Classifier) -> None:
    start = {k: v.clone() for k, v in tiny_classifier.state_dict().items()}
    plain_loss, plain_gradients, plain_state = train_once(tiny_classifier, checkpointing=False)
    tiny_classifier.load_state_dict(start)
    loss, gradients, state = train_once(tiny_classifier, checkpointing=True)
    assert loss == plain_loss
    torch.testing.assert_close(gradients, plain_gradients)
    torch.testing.assert_close(state, plain_state)
    assert {int(v) for k, v in state.items() if k.endswith("num_batches_tracked")} == {1}


def test_checkpointing_runs_the_blocks_again_in_the_backward_pass(tiny_classifier: Classifier) -> None:
    calls = []
    tiny_classifier.backbone.stages[3][0].register_forward_pre_hook(lambda *_: calls.append(1))
    train_once(tiny_classifier, checkpointing=True)
    assert len(calls) == 2


def test_checkpointing_keeps_little_for_the_backward_pass() -> None:
    classifier = build_classifier("b0", 3).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in classifier.state_dict().values()}
    images = torch.randn(2, 3, 64, 64)

    def saved_bytes(checkpointing: bool) -> int:
        """Of the distinct storages, the network's own left out."""
        classifier.set_grad_checkpointing(checkpointing)
        saved: dict[int, Tensor] = {}  # holds the tensors, lest an address is given out twice

        def pack(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = F.cross_entropy(classifier(images), torch.tensor([0, 1]))
        loss.backward()
        return sum(t.untyped_storage().nbytes() for pointer, t in saved.items() if pointer not in own)

    plain, checkpointed = saved_bytes(False), saved_bytes(True)
    assert 0 < checkpointed <= 0.6 * plain


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("b0", "b0"),
        ("efficientnet_b0", "b0"),
        ("efficientnet-b0", "b0"),
        ("tf_efficientnet_b0", "b0"),
        ("EfficientNet-B0", "b0"),
        ("efficientnet_lite3", "lite3"),
        ("v2_s", "v2-s"),
        ("tf_efficientnetv2_s", "v2-s"),
        ("efficientnet_v2_s", "v2-s"),
        ("efficientnetv2-b0", "v2-b0"),
        ("EfficientNetV2-XL", "v2-xl"),
    ],
)
def test_long_names_are_accepted(name: str, short: str) -> None:
    assert get_backbone(name).name == short


def test_list_backbones_gives_the_tables_order() -> None:
    expected = (
        "b0 b1 b2 b3 b4 b5 b6 b7 b8 l2 lite0 lite1 lite2 lite3 lite4 v2-b0 v2-b1 v2-b2 v2-b3 v2-s v2-m v2-l v2-xl"
        " mobilenet-v1 mobilenet-v2 resnet50"
    )
    assert list_backbones() == expected.split()


@pytest.mark.parametrize("name", ["lite9", "lit0"])
def test_an_unknown_name_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(
        UserError,
        match=rf"unknown backbone '{name}'; did you mean 'lite\d'\? \(allowed: b0, b1, .*lite4, v2-b0, .*, resnet50\)",
    ):
        build_backbone(name)


def test_a_file_without_the_name_of_its_kind_is_refused() -> None:
    with pytest.raises(UserError, match="`pretrained`=False: say how the file was trained"):
        build_backbone("b0", weights="my.pth")


def test_without_loading_nothing_is_read_but_the_settings_are_the_rows(tmp_path: object) -> None:
    backbone = build_backbone("lite0", pretrained=True, weights=f"{tmp_path}/missing.pth", load_weights=False)
    assert backbone.stem.norm.eps == 1e-3 and isinstance(backbone.stem.act, nn.ReLU6)
