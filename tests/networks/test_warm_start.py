"""A network that starts from another one's tensors: the same function where it is nowhere smaller; the shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from transfer.errors import UserError
from transfer.networks.registry import get_backbone
from transfer.networks.warm_start import take_over
from transfer.weights.build import build_backbone, build_classifier, build_network, measure_warm_start
from transfer.weights.rows import get_weights
from transfer.weights.start import nearest_published, resolve_start

LITE0 = "efficientnet_lite0.pypi"


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    return build_backbone("lite0", pretrained=True).eval().requires_grad_(False)


def features(backbone: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return backbone.eval()(images)


@pytest.mark.parametrize("name", ["lite0@phi=0.5", "lite0@d=2.3,w=1.5", "lite1", "lite2"])
def test_where_it_is_nowhere_smaller_it_computes_what_the_source_does(name: str, lite0: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    started = build_backbone(name, init_from="lite0")
    torch.testing.assert_close(features(started, images), features(lite0, images), rtol=1e-4, atol=1e-5)


def randomise(network: nn.Module) -> None:
    """Statistics, scales and biases that differ from their start."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.normal_(module.bias, std=0.1)


@pytest.mark.parametrize(
    ("source", "name"), [("b0", "b0@d=1.4,w=1.3"), ("v2-b0", "v2-b0@d=1.3,w=1.4"), ("mobilenet-v2", "mobilenet-v2@w=2")]
)
def test_with_gates_and_fused_blocks_the_sources_maps_lead_too(source: str, name: str) -> None:
    origin, variant = get_backbone(source), get_backbone(name)
    theirs = build_network(origin, origin.settings).eval()
    randomise(theirs)
    ours = build_network(variant, variant.settings)
    take_over(ours, theirs.state_dict(), origin)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(ours.eval().forward_stages(images), theirs.forward_stages(images), strict=True)
        for own, expected in [*pairs, (ours(images), theirs(images))]:
            torch.testing.assert_close(own[:, : expected.shape[1]], expected, rtol=1e-3, atol=1e-4)
            assert own.shape[1] > expected.shape[1] and own[:, expected.shape[1] :].abs().max() > 0


def test_everything_learns_after_a_step_or_two() -> None:
    started = build_backbone("lite0@d=1.4,w=1.3", init_from="lite0").train()
    optimizer = torch.optim.SGD(started.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        started(torch.randn(4, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    assert [name for name, p in started.named_parameters() if not p.grad.any()] == []


def test_a_smaller_network_gets_the_leading_channels_and_blocks(lite0: nn.Module) -> None:
    started = build_backbone("lite0@d=0.5,w=0.5", init_from=LITE0)
    theirs = lite0.stages[5][1].project.conv.weight
    assert torch.equal(started.stages[5][1].project.conv.weight, theirs[:96, :576])
    assert torch.equal(started.stages[5][1].project.norm.running_var, lite0.stages[5][1].project.norm.running_var[:96])
    assert len(started.stages[5]) == 2 < len(lite0.stages[5])
    shares = measure_warm_start(resolve_start(started.variant.name, init_from=LITE0))
    assert shares is not None
    assert (shares.taken, shares.copied, shares.fresh) == (1.0, 0.0, 0.0)


def test_further_blocks_are_the_last_ones_copy_and_pass_their_input_on(lite0: nn.Module) -> None:
    started = build_backbone("lite0@d=2", init_from="lite0").eval()
    assert len(started.stages[2]) == 4 == 2 * len(lite0.stages[2])
    for further in started.stages[2][2:]:
        assert torch.equal(further.expand.conv.weight, lite0.stages[2][1].expand.conv.weight)
        x = torch.randn(1, 40, 8, 8)
        assert torch.equal(further(x), x)


def test_the_shares_count_parameters() -> None:
    shares = measure_warm_start(resolve_start("lite1", init_from=LITE0))
    assert shares is not None
    backbone = build_backbone("lite1", init_from="lite0")
    zeros = copied = total = 0
    for name, parameter in backbone.named_parameters():
        part = name.split(".")
        total += parameter.numel()
        if part[0] == "stages" and int(part[2]) == len(backbone.stages[int(part[1])]) - 1 and part[1] not in "06":
            last_norm = name.endswith(("project.norm.weight", "project.norm.bias"))
            zeros, copied = zeros + last_norm * parameter.numel(), copied + (not last_norm) * parameter.numel()
    assert shares.copied == pytest.approx(copied / total)
    assert shares.fresh == pytest.approx(zeros / total)
    assert shares.taken + shares.copied + shares.fresh == pytest.approx(1.0)
    assert str(shares).startswith("of the backbone's parameters 81.5% are lite0's, 18.5% copied")


def test_settings_and_preprocessing_are_the_weights_rows() -> None:
    row = get_weights("efficientnet_b2.ra_in1k")
    start = resolve_start("b0@phi=1.5", True, "efficientnet_b2.ra_in1k")
    assert start.row == row and start.is_warm
    backbone = build_backbone("b0", phi=1.5, init_from="efficientnet_b2.ra_in1k", load_weights=False)
    assert backbone.variant == start.variant
    assert (backbone.stem.norm.eps, type(backbone.stem.conv)) == (1e-5, nn.Conv2d)
    assert (start.preprocessing.image_size, start.preprocessing.mean) == (276, row.preprocessing.mean)
    assert resolve_start("b0@phi=1.5").preprocessing.image_size == 276
    assert resolve_start("b2", row.name).preprocessing == row.preprocessing


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("b0@phi=1.5", "b2"),
        ("b0@phi=0.3", "b1"),
        ("b0@w=0.5", "b0"),
        ("b3@r=2", "b3"),
        ("lite0@phi=9", "lite4"),
        ("v2-s@d=1.1", "v2-s"),
        ("mobilenet-v2@phi=1", None),
        ("resnet50", None),
    ],
)
def test_the_nearest_published_network_is_the_largest_that_is_nowhere_larger(name: str, nearest: str | None) -> None:
    assert nearest_published(get_backbone(name)) == nearest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pretrained": True},
            r"pretrained=True: b0@phi=1\.5 has channels and blocks of its own, and no checkpoint fits: use"
            r" pretrained=False for random weights, or init_from='b2' to copy the weights that overlap",
        ),
        ({"pretrained": "paper"}, "pretrained='paper': b0@phi=1.5 has channels"),
        ({"pretrained": "tf_efficientnet_b2.in1k"}, "no checkpoint fits"),
        ({"init_from": "lite0"}, r"lite0 is built of other blocks than b0@phi=1\.5 \(allowed: b0, b1, .* l2, or a row"),
        ({"init_from": "resnet50"}, "resnet50 is built of other blocks"),
        ({"init_from": "b9"}, "unknown backbone 'b9'"),
        ({"init_from": "b2", "pretrained": "paper"}, "name the row in init_from alone"),
    ],
)
def test_weights_that_cannot_fit_are_refused_with_the_reason(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone("b0", phi=1.5, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "mobilenet-v1",
            {"pretrained": True},
            "no public weights of mobilenet-v1 are known here; use `pretrained`=False",
        ),
        ("mobilenet-v1@phi=1", {"init_from": "mobilenet-v1"}, "no public weights of mobilenet-v1 are known here"),
        ("resnet50@phi=1", {"pretrained": True}, "no checkpoint fits: use pretrained=False for random weights$"),
        ("resnet50", {"pretrained": "timm", "weights": "x"}, "only files written by this project can be read"),
    ],
)
def test_a_family_without_weights_says_so(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(name, **options)


def test_a_classifier_that_starts_from_another_has_no_classifier_to_keep() -> None:
    with pytest.raises(UserError, match="`num_classes`=None keeps the checkpoint's own classifier"):
        build_classifier("lite0@phi=1", init_from="lite0")


@pytest.mark.parametrize("name", ["mobilenet-v1@w=0.25", "lite0@phi=-4"])
def test_a_file_of_a_scaled_network_of_ones_own_is_read(name: str, tmp_path: Path) -> None:
    trained = build_classifier(name, 3)
    torch.save(trained.state_dict(), tmp_path / "own.pth")
    again = build_backbone(name, pretrained="tensorflow", weights=tmp_path / "own.pth")
    assert torch.equal(again.stages[2][0].project.conv.weight, trained.backbone.stages[2][0].project.conv.weight)
    with pytest.raises(UserError, match="does not fit the network"):
        build_backbone("lite0@phi=1", pretrained="tensorflow", weights=tmp_path / "own.pth")


def test_one_channel_starts_from_the_summed_stem(lite0: nn.Module) -> None:
    grey = torch.randn(1, 1, 64, 64)
    started = build_backbone("lite0@phi=0.5", init_from="lite0", in_channels=1)
    expected = features(lite0, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(features(started, grey), expected, rtol=1e-3, atol=1e-4)
