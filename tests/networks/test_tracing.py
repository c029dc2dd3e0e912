"""Traced, exported or compiled at one image size, a network gives its own numbers at every other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from transfer.networks.classifier import Classifier
from transfer.networks.efficientnet import B0, V2_B0, EfficientNet
from transfer.networks.heads import LinearHead
from transfer.networks.layers import LayerSettings
from transfer.networks.resnet import RESNET50, ResNet
from transfer.networks.rows import Baseline, Variant
from transfer.weights.build import build_classifier

Call = Callable[[Tensor], Tensor]

# The size that is traced, and another at which the trace is used. At 96 and 97 pixels every padding differs.
SIZE_PAIRS = [((97, 97), (96, 96)), ((96, 96), (97, 97)), ((64, 97), (129, 64)), ((80, 80), (65, 130))]


def relative_difference(ours: Tensor, expected: Tensor) -> float:
    return ((ours - expected).abs().max() / expected.abs().max()).item()


def images(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def tiny(baseline: Baseline, padding: str = "same", output_stride: int = 32) -> Classifier:
    """A small network in eval mode whose BatchNorm statistics fit its activations, with random logits."""
    family = ResNet if baseline is RESNET50 else EfficientNet
    settings = LayerSettings(padding)  # type: ignore[arg-type]
    variant = Variant("tiny", 0.25, 0.15, 32, 0.2, 0, 0, baseline)
    backbone = family(variant, settings, stochastic_depth_prob=0.0, output_stride=output_stride)
    classifier = Classifier(backbone, LinearHead(backbone.num_features, 3, 0.0), 3)
    nn.init.normal_(classifier.head.fc.weight)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        classifier.train()(images((96, 96), batch=8))
    return classifier.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    """With the packaged ImageNet weights and classifier."""
    return build_classifier("lite0", pretrained=True).eval().requires_grad_(False)


KINDS = {
    "b0": lambda: tiny(B0),
    "v2": lambda: tiny(V2_B0),
    "resnet": lambda: tiny(RESNET50),
    "static": lambda: tiny(B0, "static"),
    "symmetric": lambda: tiny(B0, "symmetric"),
    "dilated": lambda: tiny(B0, output_stride=8),
}


@pytest.mark.parametrize(("traced", "used"), SIZE_PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_holds_at_another_size(kind: str, traced: tuple[int, int], used: tuple[int, int]) -> None:
    classifier = KINDS[kind]()
    trace = torch.jit.trace(classifier, images(traced))
    for size in (traced, used):
        expected = classifier(images(size, batch=3))
        assert expected.std() > 0.01
        assert relative_difference(trace(images(size, batch=3)), expected) <= 1e-5


@pytest.mark.parametrize(("traced", "used"), SIZE_PAIRS)
def test_a_trace_of_a_pretrained_network_holds_at_another_size(
    lite0: Classifier, traced: tuple[int, int], used: tuple[int, int]
) -> None:
    trace = torch.jit.trace(lite0, images(traced))
    assert relative_difference(trace(images(used)), lite0(images(used))) <= 1e-5


def test_the_padding_of_a_trace_matters() -> None:
    """The pairs above would show a fixed padding: with the trace's size everywhere the logits differ."""
    fixed, own = tiny(B0, "static"), tiny(B0)
    fixed.load_state_dict(own.state_dict())
    fixed.backbone._fix_padding(97)
    assert relative_difference(fixed(images((96, 96))), own(images((96, 96)))) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_symbolically_traced_it_is_the_same(kind: str) -> None:
    classifier = KINDS[kind]()
    graph = fx.symbolic_trace(classifier)
    for size in ((96, 96), (65, 130)):
        assert torch.equal(graph(images(size)), classifier(images(size)))


def test_maps_are_extracted_at_the_modules_of_feature_info() -> None:
    """By hand what torchvision's `create_feature_extractor` does: the last node of each named module becomes output."""
    backbone = tiny(B0).backbone
    graph = fx.symbolic_trace(backbone)
    *nodes, output = graph.graph.nodes
    modules = [info["module"] for info in backbone.feature_info]
    output.args = ([[n for n in nodes if module in n.meta.get("nn_module_stack", {})][-1] for module in modules],)
    graph.recompile()
    x = images((65, 96))
    torch.testing.assert_close(graph(x), backbone.forward_stages(x), rtol=0, atol=0)


def test_torchvisions_feature_extractor_gives_the_stage_maps() -> None:
    try:
        from torchvision.models.feature_extraction import create_feature_extractor
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
        pytest.skip(f"torchvision does not import: {error}")
    backbone = tiny(B0).backbone
    extractor = create_feature_extractor(backbone, [info["module"] for info in backbone.feature_info])
    x = images((65, 96))
    torch.testing.assert_close(list(extractor(x).values()), backbone.forward_stages(x), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["b0", "resnet", "dilated"])
def test_exported_it_takes_any_batch_height_and_width(kind: str) -> None:
    classifier = KINDS[kind]()
    dims = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("h", min=64), 3: torch.export.Dim("w", min=64)}
    program = torch.export.export(classifier, (images((97, 97)),), dynamic_shapes=(dims,)).module()
    for size in ((96, 96), (97, 97), (64, 129), (130, 65)):
        expected = classifier(images(size, batch=3))
        assert relative_difference(program(images(size, batch=3)), expected) <= 1e-5


def test_compiled_it_is_right_at_a_second_size() -> None:
    classifier = tiny(B0)
    torch._dynamo.reset()
    compiled = torch.compile(classifier, backend="aot_eager", fullgraph=True)
    for size in ((96, 96), (97, 97), (65, 130)):
        assert relative_difference(compiled(images(size)), classifier(images(size))) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dynamo"), [("lite0", True), ("lite0", False), ("b0", True), ("b0", False), ("static", False)]
)
def test_as_onnx_it_takes_any_batch_height_and_width(
    lite0: Classifier, tmp_path: Path, kind: str, dynamo: bool
) -> None:
    reason = "pip install onnx onnxscript onnxruntime"
    pytest.importorskip("onnx", reason=reason)
    pytest.importorskip("onnxscript", reason=reason)
    onnxruntime = pytest.importorskip("onnxruntime", reason=reason)
    classifier = lite0 if kind == "lite0" else KINDS[kind]()
    axes = {0: "n", 2: "h", 3: "w"}
    file = tmp_path / "network.onnx"
    dynamic: dict[str, object] = {"dynamic_shapes": (axes,)} if dynamo else {"dynamic_axes": {"images": axes}}
    torch.onnx.export(
        classifier, (images((97, 97)),), file, input_names=["images"], dynamo=dynamo, verbose=False, **dynamic
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for size in ((96, 96), (97, 97), (64, 129), (130, 65)):
        x = images(size, batch=3)
        (logits,) = session.run(None, {"images": x.numpy()})
        assert relative_difference(torch.from_numpy(logits), classifier(x)) <= 1e-5
