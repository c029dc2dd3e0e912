"""Engines compute what the network computes; `auto` takes only what agrees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from transfer.errors import UserError
from transfer.inference import engines
from transfer.inference.engines import MIN_PIXELS, build_engine, choose_engine
from transfer.inference.names import ENGINES
from transfer.networks.classifier import Classifier
from transfer.weights.build import build_backbone, build_classifier


def with_statistics(network: nn.Module) -> nn.Module:
    """The network with BatchNorm statistics and a head that are not the initial ones, in eval mode."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) / 10
            module.running_var = 0.5 + torch.rand(module.num_features, generator=generator)
            module.weight.data = 0.5 + torch.rand(module.num_features, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = torch.randn(module.weight.shape, generator=generator) / 10
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules())


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 32, 32)


@pytest.mark.parametrize("backbone", ["b0", "lite0", "v2-b0", "mobilenet-v1", "mobilenet-v2", "resnet50"])
@torch.no_grad()
def test_folding_leaves_no_norm_and_the_same_outputs(backbone: str, images: Tensor) -> None:
    network = with_statistics(build_classifier(backbone, 4, head="mlp"))
    expected = network(images)
    engine = build_engine("torch", network, images)
    assert norms(engine.network) == 0 and norms(network) > 20
    torch.testing.assert_close(engine(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(network(images), expected, rtol=0, atol=0)


class Untraceable(nn.Module):
    """A network of the user's own with a branch on values, whose parts can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.part(images if images.mean() > -1e9 else -images).mean((2, 3))


class UsedTwice(nn.Module):
    """A convolution whose output goes past its BatchNorm too, and one that feeds two: neither can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.shared, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        maps = maps + self.norm(maps)
        return self.first(self.shared(maps)) + self.second(self.shared(maps))


class Sliced(nn.Module):
    """A branch on values that calls a part's convolution alone: tracing the part suggests a pair that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))

    def forward(self, images: Tensor) -> Tensor:
        return self.part[0](images if images.mean() > -1e9 else -images)


@pytest.mark.parametrize(("kind", "left"), [(Untraceable, 0), (UsedTwice, 3), (Sliced, 1)])
@torch.no_grad()
def test_only_what_stays_exact_is_folded(kind: type[nn.Module], left: int, images: Tensor) -> None:
    network = with_statistics(kind())
    engine = build_engine("torch", network, images)
    assert norms(engine.network) == left
    torch.testing.assert_close(engine(images), network(images), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bfloat16_rounds_the_backbone_and_leaves_the_head(images: Tensor) -> None:
    network = with_statistics(build_classifier("lite0", 4, head="cosine", in_channels=1))
    images = images[:, :1]
    engine = build_engine("torch-bf16", network, images)
    expected, found = network(images), engine(images)
    assert found.dtype == torch.float32 and 0 < float((found - expected).norm() / expected.norm()) < 0.05
    assert {p.dtype for p in engine.network.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in engine.network.head.parameters()} == {torch.float32}
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_an_unknown_engine_is_told_what_there_is(images: Tensor) -> None:
    with pytest.raises(UserError, match="did you mean 'torch-bf16'"):
        build_engine("torch-bf1", nn.Identity(), images)
    with pytest.raises(UserError, match="auto, torch"):
        choose_engine("fast", nn.Identity(), images, 1)


class Scaled:
    """An engine whose outputs are another's, times a factor."""

    def __init__(self, name: str, network: nn.Module, examples: Tensor) -> None:
        self.name, self.factor = name, {"torch": 1.0, "torch-bf16": 1.3}[name]

    def __call__(self, images: Tensor) -> Tensor:
        return self.factor * images.flatten(1)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "TorchEngine", Scaled)
    monkeypatch.setattr(engines, "fastest_first", lambda device: ["torch-bf16"])


class Logits(Classifier):
    def __init__(self) -> None:
        nn.Module.__init__(self)


@pytest.mark.usefixtures("scaled")
def test_auto_takes_what_agrees_and_says_why_not() -> None:
    examples = torch.eye(3).reshape(3, 3, 1, 1)
    engine, record = choose_engine("auto", Logits(), examples, MIN_PIXELS)
    assert (engine.name, record.engine, record.images_compared, record.agreement) == ("torch-bf16", "torch-bf16", 3, 1)
    assert record.largest_difference == pytest.approx(0.3)
    engine, record = choose_engine("auto", Logits(), 10 * examples, MIN_PIXELS)
    assert engine.name == record.engine == "torch" and "a logit differs by 3 " in record.refused["torch-bf16"]
    engine, record = choose_engine("auto", nn.Identity(), examples, MIN_PIXELS)
    assert engine.name == "torch" and "0.3" in record.refused["torch-bf16"]
    assert choose_engine("auto", Logits(), examples, MIN_PIXELS - 1)[1].refused == {}


@pytest.mark.usefixtures("scaled")
def test_labels_are_compared_at_their_threshold() -> None:
    examples = torch.tensor([0.5, 0.2]).reshape(1, 2, 1, 1)
    threshold = float(torch.tensor(0.6).sigmoid())  # 0.5 is below it, 1.3 times 0.5 is not
    with pytest.warns(UserWarning, match=r"`engine`=torch-bf16: 50.0% of the answers"):
        engine, record = choose_engine("torch-bf16", Logits(), examples, 1, threshold)
    assert (engine.name, record.agreement) == ("torch-bf16", 0.5)


@pytest.mark.parametrize("name", [name for name in ENGINES if name.startswith("torch")])
@torch.no_grad()
def test_maps_and_features_are_computed_too(name: str, images: Tensor) -> None:
    backbone = with_statistics(build_backbone("lite0"))
    engine, record = choose_engine(name, backbone, images, len(images))
    assert record.agreement is None and engine(images).shape == (5, 1280, 1, 1)
    torch.testing.assert_close(engine(images), backbone(images), rtol=0, atol=0.1 * float(backbone(images).abs().max()))
