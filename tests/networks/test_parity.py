"""Logits and gradients equal those of independent implementations that hold the same random tensors.

timm and torchvision are compared where they import, which takes a build of torch with a torchvision to match (the CUDA
builds have one): `pytest tests/networks/test_parity.py` in such an environment runs all of this file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.networks.classifier import Classifier
from transfer.networks.efficientnet import EfficientNet
from transfer.networks.heads import LinearHead
from transfer.networks.layers import LayerSettings
from transfer.networks.registry import get_backbone
from transfer.weights.build import build_network
from transfer.weights.files import strict_load
from transfer.weights.key_names import from_own_keys, to_own_keys
from transfer.weights.rows import family_settings

ODD, EVEN = 97, 128
LOGITS_TOLERANCE, GRADIENTS_TOLERANCE = 1e-5, 1e-4


def require(package: str) -> Any:
    """The package, or a skipped test; a torchvision that does not fit torch raises what it likes."""
    try:
        return importlib.import_module(package)
    except Exception as error:
        pytest.skip(
            f"{package} does not import here: {error!r:.100}; run this file where it does (a CUDA"
            " build of torch with its torchvision)"
        )


def build_lukemelas(name: str, **options: Any) -> nn.Module:
    package = "efficientnet_lite_pytorch" if name.startswith("lite") else "efficientnet_pytorch"
    return require(package).EfficientNet.from_name(f"efficientnet-{name}", **options)


def build_lukemelas_for_any_size(name: str) -> nn.Module:
    """Pads for the size of its input, as if built for it."""
    return build_lukemelas(name, image_size=None)


# Of the published configurations: blocks with stride 2 whose input is odd at the variant's own resolution.
SQUARE_PADDED = {
    "b0": [], "b1": [16], "b2": [5, 8, 16], "b3": [5, 18], "b4": [6], "b5": [13, 27], "b6": [31], "b7": [18],
}  # fmt: skip


def build_transformers(name: str) -> nn.Module:
    package, variant = require("transformers"), get_backbone(name)
    config = package.EfficientNetConfig(
        image_size=variant.resolution,
        width_coefficient=variant.width_coefficient,
        depth_coefficient=variant.depth_coefficient,
        hidden_dim=variant.num_features,
        depthwise_padding=SQUARE_PADDED[name],
        dropout_rate=variant.dropout_rate,
        num_labels=1000,
    )
    return package.EfficientNetForImageClassification(config)


def build_timm_tf(name: str) -> nn.Module:
    infix = "v2_" if name.startswith("v2-") else "_"
    return require("timm").create_model(f"tf_efficientnet{infix}{name.removeprefix('v2-')}", num_classes=1000)


def build_timm(name: str) -> nn.Module:
    infix = "v2_" if name.startswith("v2-") else "_"
    return require("timm").create_model(f"efficientnet{infix}{name.removeprefix('v2-')}", num_classes=1000)


def build_torchvision(name: str) -> nn.Module:
    return getattr(require("torchvision").models, f"efficientnet_{name.replace('-', '_')}")(weights=None)


@dataclass(frozen=True)
class Implementation:
    """Who builds the reference, with which of our families' settings it compares and how it names its tensors."""

    build: Callable[[str], nn.Module]
    family: str
    scheme: str
    variants: str


V1 = "b0 b1 b2 b3 b4 b5 b6 b7"
LITE = "lite0 lite1 lite2 lite3 lite4"
IMPLEMENTATIONS = {
    "lukemelas": Implementation(build_lukemelas_for_any_size, "lukemelas", "lukemelas", f"{V1} b8 {LITE}"),
    # Of the larger ones transformers' is the same network.
    "lukemelas-static": Implementation(build_lukemelas, "transformers", "lukemelas", f"b0 b1 b2 b3 b4 {LITE}"),
    "transformers": Implementation(build_transformers, "transformers", "transformers", "b0 b1 b2 b3 b4"),
    "timm-tf": Implementation(
        build_timm_tf, "timm-tf", "timm", f"{V1} b8 {LITE} v2-b0 v2-b1 v2-b2 v2-b3 v2-s v2-m v2-l v2-xl"
    ),
    "timm": Implementation(build_timm, "timm", "timm", "b0 b1 b2 b3 b4 b5 lite0 v2-s"),
    "torchvision": Implementation(build_torchvision, "torchvision", "torchvision", f"{V1} v2-s v2-m v2-l"),
}


SLOW = ("b6", "b7", "b8", "v2-m", "v2-l", "v2-xl")


# Larger ones repeat their blocks; that the coefficients are right shows in the logits.
WITH_GRADIENTS = ("b0", "b3", "lite0", "v2-b0", "v2-s")


def cases(names: Container[str] | None = None, but: str = "") -> Iterator[Any]:
    """(implementation, variant) of all implementations but one, and of these variants only."""
    for key, implementation in IMPLEMENTATIONS.items():
        for name in implementation.variants.split():
            if key != but and (names is None or name in names):
                yield pytest.param(key, name, marks=[pytest.mark.slow] * (name in SLOW), id=f"{key}-{name}")


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Every tensor differs from its start and matters, and signals neither die nor explode on their way.

    The scale of the statistics is that of a layer's inputs, one for all its channels: a channel's own could be next to
    nothing, and other images would then blow up.
    """

    def set_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        power = inputs[0].square().mean()
        nn.init.normal_(norm.running_mean, std=0.3 * power.sqrt().item())
        nn.init.uniform_(norm.running_var, 0.5 * power.item(), 1.5 * power.item())
        norm.num_batches_tracked.random_(1, 1000)

    handles = []
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            handles.append(m.register_forward_pre_hook(set_statistics))
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=m.in_features**-0.5)
        if getattr(m, "bias", None) is not None:
            nn.init.normal_(m.bias, std=0.1)
    module(random_images(2, EVEN))
    for handle in handles:
        handle.remove()


def random_images(batch: int, size: int) -> Tensor:
    """Coarse colours and fine noise."""
    coarse = F.interpolate(torch.randn(batch, 3, 4, 4), (size, size), mode="bicubic")
    return coarse + 0.3 * torch.randn(batch, 3, size, size)


def build_own(name: str, settings: LayerSettings, state: dict[str, Tensor]) -> Classifier:
    backbone = EfficientNet(get_backbone(name), settings)
    own = Classifier(backbone, LinearHead(backbone.num_features, 1000, 0.2), 1000).eval()
    strict_load(own, state, source="reference")
    return own


def reference_and_own(key: str, name: str) -> tuple[nn.Module, Classifier]:
    """Both with the same random tensors, in eval mode; the tensors go back to the reference's names unchanged."""
    implementation, variant = IMPLEMENTATIONS[key], get_backbone(name)
    reference = implementation.build(name).eval()
    randomise(reference)
    state = reference.state_dict()
    own = build_own(name, family_settings(implementation.family, name), to_own_keys(state, variant))
    back = from_own_keys(own.state_dict(), variant, implementation.scheme)
    assert set(back) == set(state) and all(torch.equal(back[k], state[k]) for k in state)
    return reference, own


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    out = network(images)
    return out if isinstance(out, Tensor) else out.logits


def relative_difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize(("key", "name"), list(cases()))
def test_logits_are_the_references_at_the_own_an_odd_and_an_even_resolution(key: str, name: str) -> None:
    reference, own = reference_and_own(key, name)
    differences = {}
    # To who pads for the size of the input, the variant's own is one like any other.
    resolutions = () if key == "lukemelas" else ((get_backbone(name).resolution, 1),)
    for size, batch in ((ODD, 2), (EVEN, 2), *resolutions):
        images = random_images(batch, size)
        with torch.no_grad():
            expected = logits_of(reference, images)
            differences[size] = relative_difference(own(images), expected)
        assert 0.1 < expected.std() < 100  # over the classes
        assert batch == 1 or relative_difference(expected[0], expected[1]) > 100 * LOGITS_TOLERANCE
    assert max(differences.values()) <= LOGITS_TOLERANCE, differences


@pytest.mark.parametrize(("key", "name"), list(cases(WITH_GRADIENTS, but="lukemelas-static")))
def test_gradients_of_stem_and_classifier_are_the_references(key: str, name: str) -> None:
    reference, own = reference_and_own(key, name)
    stem = next(m for m in reference.modules() if isinstance(m, nn.Conv2d))
    classifier = next(m for m in reference.modules() if isinstance(m, nn.Linear))
    pairs = ((own.backbone.stem.conv.weight, stem.weight), (own.head.fc.weight, classifier.weight))
    for size in (ODD, EVEN):
        images = random_images(2, size)
        for network in (reference, own):
            network.zero_grad()
            F.cross_entropy(logits_of(network, images), torch.tensor([3, 700])).backward()
        for ours, theirs in pairs:
            assert theirs.grad.abs().max() > 1e-3
            assert relative_difference(ours.grad, theirs.grad) <= GRADIENTS_TOLERANCE


def build_transformers_baseline(name: str, padding: str) -> nn.Module:
    package = require("transformers")
    if name == "resnet50":
        return package.ResNetForImageClassification(package.ResNetConfig(num_labels=1000))
    kind = name.replace("mobilenet-v", "MobileNetV")
    config = getattr(package, f"{kind}Config")(tf_padding=padding == "same", num_labels=1000)
    return getattr(package, f"{kind}ForImageClassification")(config)


def build_torchvision_baseline(name: str, padding: str) -> nn.Module:
    return getattr(require("torchvision").models, name.replace("-", "_"))(weights=None)


def build_timm_baseline(name: str, padding: str) -> nn.Module:
    names = {"resnet50": "resnet50", "mobilenet-v1": "mobilenetv1_100", "mobilenet-v2": "mobilenetv2_100"}
    return require("timm").create_model(names[name], num_classes=1000)


def layers_as_called(network: nn.Module) -> list[nn.Module]:
    """The modules that hold tensors, in the order in which an image meets them."""
    called: list[nn.Module] = []
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    handles = [
        m.register_forward_hook(lambda module, *_: called.append(module))
        for m in network.modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64))
    for handle in handles:
        handle.remove()
    return called


# timm's MobileNetV1 and torchvision's and timm's MobileNetV2 have torch's padding and BatchNorm epsilon.
BASELINES = [
    (build_transformers_baseline, "mobilenet-v1", "same", 1e-3),
    (build_transformers_baseline, "mobilenet-v1", "symmetric", 1e-3),
    (build_transformers_baseline, "mobilenet-v2", "same", 1e-3),
    (build_transformers_baseline, "mobilenet-v2", "symmetric", 1e-3),
    (build_transformers_baseline, "resnet50", "symmetric", 1e-5),
    (build_torchvision_baseline, "mobilenet-v2", "symmetric", 1e-5),
    (build_torchvision_baseline, "resnet50", "symmetric", 1e-5),
    (build_timm_baseline, "mobilenet-v1", "symmetric", 1e-5),
    (build_timm_baseline, "mobilenet-v2", "symmetric", 1e-5),
    (build_timm_baseline, "resnet50", "symmetric", 1e-5),
]


@pytest.mark.parametrize(("build", "name", "padding", "eps"), BASELINES)
def test_the_papers_other_baselines_are_the_references_too(
    build: Callable[[str, str], nn.Module], name: str, padding: Any, eps: float
) -> None:
    reference = build(name, padding).eval()
    randomise(reference)
    variant = get_backbone(name)
    if build is build_transformers_baseline and padding == variant.settings.padding:
        assert eps == variant.settings.bn_eps
    backbone = build_network(variant, replace(variant.settings, padding=padding, bn_eps=eps))
    own = Classifier(backbone, LinearHead(backbone.num_features, 1000, 0.2), 1000)
    theirs, ours = layers_as_called(reference), layers_as_called(own)
    assert sum(p.numel() for p in reference.parameters()) == variant.num_parameters
    for module, source in zip(ours, theirs, strict=True):
        strict_load(module, source.state_dict(), source=name)
    stem = next(m for m in reference.modules() if isinstance(m, nn.Conv2d))
    classifier = next(m for m in reference.modules() if isinstance(m, nn.Linear))
    pairs = ((own.backbone.stem.conv.weight, stem.weight), (own.head.fc.weight, classifier.weight))
    for size in (ODD, EVEN, variant.resolution):
        images = random_images(2, size)
        for network in (reference, own.eval()):
            network.zero_grad()
            F.cross_entropy(logits_of(network, images), torch.tensor([3, 700])).backward()
        with torch.no_grad():
            expected = logits_of(reference, images)
            assert relative_difference(own(images), expected) <= LOGITS_TOLERANCE
        assert relative_difference(expected[0], expected[1]) > 100 * LOGITS_TOLERANCE
        for mine, other in pairs:
            assert other.grad.abs().max() > 1e-3
            assert relative_difference(mine.grad, other.grad) <= GRADIENTS_TOLERANCE


@pytest.mark.parametrize("name", ["b0", "lite0"])
def test_another_padding_or_epsilon_gives_other_logits(name: str) -> None:
    reference, own = reference_and_own("lukemelas", name)
    settings = family_settings("lukemelas", name)
    images = random_images(2, EVEN)
    with torch.no_grad():
        expected = logits_of(reference, images)
        for other in (replace(settings, padding="symmetric"), replace(settings, bn_eps=1e-5)):
            wrong = build_own(name, other, own.state_dict())
            assert relative_difference(wrong(images), expected) > 1e-3


@pytest.mark.parametrize("size", [ODD, EVEN])
def test_padding_for_another_size_gives_other_logits(size: int) -> None:
    # b2's own 260 px are even in the stem and odd in three blocks; 97 and 128 px are not.
    static, own = reference_and_own("lukemelas-static", "b2")
    images = random_images(2, size)
    dynamic = build_own("b2", family_settings("lukemelas", "b2"), own.state_dict())
    with torch.no_grad():
        assert relative_difference(dynamic(images), logits_of(static, images)) > 1e-3
