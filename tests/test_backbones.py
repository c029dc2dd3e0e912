"""Counts, shapes and numbers of the backbones, against published tables and an independent implementation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from efficientnet_pytorch import EfficientNet as Reference
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transfer.backbones import build_backbone, get_backbone, list_backbones
from transfer.backbones.efficientnet import EfficientNet
from transfer.checkpoints import strict_load
from transfer.classifier import Classifier, build_classifier
from transfer.errors import UserError
from transfer.keymaps import to_own_keys
from transfer.layers import MBConv


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


def reference_and_own(name: str, size: int) -> tuple[Reference, Classifier]:
    """Both with the same random tensors, in eval mode."""
    reference = Reference.from_name(f"efficientnet-{name}", image_size=size).eval()
    randomise(reference)
    own = build_classifier(name, 1000).eval()
    strict_load(own, to_own_keys(reference.state_dict(), get_backbone(name)), source="reference")
    return reference, own


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
    assert sum(p.numel() for p in classifier.parameters()) == variant.num_params
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        classifier(image)
    assert counter.get_total_flops() == 2 * variant.num_macs


# efficientnet-pytorch 0.7.1 and efficientnet-lite-pytorch 0.1.0, counted; again, so that a slip in the table shows.
@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("b0", 5_288_548, 385_814_752),
        ("b3", 12_233_232, 1_827_141_392),
        ("b7", 66_347_960, 37_745_884_192),
        ("l2", 480_309_308, 475_703_653_280),
        ("lite0", 4_652_008, 385_187_552),
        ("lite4", 13_006_568, 2_553_034_336),
    ],
)
def test_the_table_holds_the_published_counts(name: str, params: int, macs: int) -> None:
    assert (get_backbone(name).num_params, get_backbone(name).num_macs) == (params, macs)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 33), (79, 224)])
@pytest.mark.parametrize("name", list_backbones())
def test_stages_have_the_declared_channels_and_strides(name: str, height: int, width: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
        maps = backbone.forward_stages(torch.empty(2, 3, height, width))
        top = backbone(torch.empty(2, 3, height, width))
    assert backbone.stage_strides == (2, 4, 8, 16, 32)
    expected = [
        (2, channels, math.ceil(height / stride), math.ceil(width / stride))
        for channels, stride in zip(backbone.stage_channels, backbone.stage_strides, strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == expected
    assert tuple(top.shape) == (2, backbone.num_features, math.ceil(height / 32), math.ceil(width / 32))


def test_the_stage_channels_of_b0_are_the_papers() -> None:
    with torch.device("meta"):
        assert build_backbone("b0").stage_channels == (16, 24, 40, 112, 320)


def test_the_top_layer_stands_on_the_last_stage(lite0: EfficientNet) -> None:
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(lite0.top(lite0.forward_stages(x)[-1]), lite0(x))


@pytest.mark.parametrize(
    ("name", "size"), [("b0", 224), ("b0", 129), ("b1", 240), ("b2", 260), ("b3", 300), ("b3", 97)]
)
def test_logits_equal_efficientnet_pytorchs(name: str, size: int) -> None:
    reference, own = reference_and_own(name, size)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert relative_difference(own(x), reference(x)) <= 1e-5


def test_gradients_equal_efficientnet_pytorchs() -> None:
    reference, own = reference_and_own("b0", 97)
    x = torch.randn(2, 3, 97, 97)
    for logits in (reference(x), own(x)):
        F.cross_entropy(logits, torch.tensor([3, 700])).backward()
    assert relative_difference(own.backbone.stem.conv.weight.grad, reference._conv_stem.weight.grad) <= 1e-4
    assert relative_difference(own.head.fc.weight.grad, reference._fc.weight.grad) <= 1e-4


def test_statistics_move_in_training_as_efficientnet_pytorchs() -> None:
    reference, own = reference_and_own("b0", 64)
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


@pytest.mark.parametrize("method", ["forward", "forward_stages"])
def test_compiled_it_gives_the_same_numbers_in_one_graph(tiny_classifier: Classifier, method: str) -> None:
    backbone = tiny_classifier.backbone.eval()
    x = torch.randn(2, 3, 65, 64)
    compiled = torch.compile(getattr(backbone, method), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), getattr(backbone, method)(x))


def train_once(classifier: Classifier, checkpointing: bool) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Loss, gradients and state of one training step with the same random draws."""
    torch.manual_seed(1)
    randomise(classifier)
    nn.init.normal_(classifier.head.fc.weight)
    classifier.backbone.grad_checkpointing = checkpointing
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


@pytest.mark.parametrize("name", ["b0", "efficientnet_b0", "efficientnet-b0", "tf_efficientnet_b0", "EfficientNet-B0"])
def test_long_names_are_accepted(name: str) -> None:
    assert get_backbone(name).name == "b0"


def test_list_backbones_gives_the_tables_order() -> None:
    expected = "b0 b1 b2 b3 b4 b5 b6 b7 b8 l2 lite0 lite1 lite2 lite3 lite4 v2-b0 v2-b1 v2-b2 v2-b3 v2-s v2-m v2-l v2-xl"
    assert list_backbones() == expected.split()


@pytest.mark.parametrize("name", ["lite9", "lit0"])
def test_an_unknown_name_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(
        UserError, match=rf"unknown backbone '{name}'; did you mean 'lite\d'\? \(allowed: b0, b1, .*lite4\)"
    ):
        build_backbone(name)


def test_a_file_without_the_name_of_its_kind_is_refused() -> None:
    with pytest.raises(UserError, match="pretrained=False: name what the file was trained like"):
        build_backbone("b0", weights="my.pth")


def test_without_loading_nothing_is_read_but_the_settings_are_the_rows(tmp_path: object) -> None:
    backbone = build_backbone("lite0", pretrained=True, weights=f"{tmp_path}/missing.pth", load_weights=False)
    assert backbone.stem.norm.eps == 1e-3 and isinstance(backbone.stem.act, nn.ReLU6)
