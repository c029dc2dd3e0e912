"""A classifier carries what it knows, in our words and in timm's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.errors import UserError
from transfer.networks.backbone import Stage
from transfer.networks.classifier import Classifier
from transfer.networks.heads import LinearHead
from transfer.networks.layers import MBConv
from transfer.preprocessing import LITE
from transfer.weights.build import build_backbone, build_classifier


def test_features_are_a_map_and_the_head_pools_it(tiny_classifier: Classifier) -> None:
    classifier = tiny_classifier.eval()
    nn.init.normal_(classifier.head.fc.weight)
    x = torch.randn(2, 3, 64, 96)
    maps = classifier.forward_features(x)
    assert maps.shape == (2, classifier.num_features, 2, 3)
    pooled = classifier.forward_head(maps, pre_logits=True)
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(maps, 1).flatten(1))
    assert torch.equal(classifier.forward_head(maps), classifier(x))
    torch.testing.assert_close(classifier(x), pooled @ classifier.head.fc.weight.T + classifier.head.fc.bias)


def test_timms_words_mean_the_same(tiny_classifier: Classifier) -> None:
    assert tiny_classifier.get_classifier() is tiny_classifier.head
    assert tiny_classifier.num_features == tiny_classifier.head.fc.in_features
    tiny_classifier.reset_classifier(7, class_names=list("abcdefg"))
    assert (tiny_classifier.num_classes, tiny_classifier.class_names) == (7, tuple("abcdefg"))
    assert isinstance(tiny_classifier.head, LinearHead) and tiny_classifier.head.fc.out_features == 7
    tiny_classifier.reset_classifier(2)
    assert tiny_classifier.class_names is None
    with pytest.raises(UserError, match=r"`num_classes`=0: .*pre_logits=True"):
        tiny_classifier.reset_classifier(0)
    assert tiny_classifier.num_classes == 2


# timm 1.0.31: create_model(NAME).feature_info.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("b0", [(16, 2), (24, 4), (40, 8), (112, 16), (320, 32)]),
        ("v2-s", [(24, 2), (48, 4), (64, 8), (160, 16), (256, 32)]),
        ("resnet50", [(64, 2), (256, 4), (512, 8), (1024, 16), (2048, 32)]),
    ],
)
def test_feature_info_is_timms(name: str, expected: list[tuple[int, int]]) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert [(info["num_chs"], info["reduction"]) for info in backbone.feature_info] == expected
    for info in backbone.feature_info:
        assert backbone.get_submodule(info["module"]) is not None


def test_a_wrong_number_of_names_is_refused(tiny_classifier: Classifier) -> None:
    backbone, head = tiny_classifier.backbone, tiny_classifier.head
    named = Classifier(backbone, head, 3, class_names=["ant", "bee", "cat"])
    assert named.class_names == ("ant", "bee", "cat")
    with pytest.raises(UserError, match=r"`class_names`: 2 names with `num_classes`=3 \(allowed: one name for each"):
        Classifier(backbone, head, 3, class_names=["ant", "bee"])
    with pytest.raises(UserError, match=r"`class_names`: the text 'ant' with `num_classes`=3"):
        Classifier(backbone, head, 3, class_names="ant")
    with pytest.raises(UserError, match=r"3 names with `num_classes`=5"):
        named.reset_head(5, class_names=["ant", "bee", "cat"])
    assert named.num_classes == 3 and named.head is head


def test_a_built_classifier_knows_how_its_images_are_prepared() -> None:
    classifier = build_classifier("lite0", 2, pretrained=True, class_names=["no", "yes"])
    assert classifier.class_names == ("no", "yes")
    preprocessing = classifier.preprocessing
    assert preprocessing is not None
    assert (preprocessing.image_size, preprocessing.interpolation) == (224, "bicubic")
    assert (preprocessing.mean, preprocessing.std) == LITE
    classifier.reset_head(5)
    assert classifier.preprocessing is preprocessing and classifier.class_names is None


def outputs_seen(classifier: Classifier, images: Tensor) -> dict[str, list[Tensor]]:
    """What forward hooks on every stage and block see in one training step."""
    seen: dict[str, list[Tensor]] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.setdefault(name, []).append(out.detach()))
        for name, module in classifier.named_modules()
        if isinstance(module, Stage | MBConv)
    ]
    classifier(images).logsumexp(1).sum().backward()
    for handle in handles:
        handle.remove()
    return seen


def test_forward_hooks_see_the_same_under_checkpointing(tiny_classifier: Classifier) -> None:
    for module in tiny_classifier.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    nn.init.normal_(tiny_classifier.head.fc.weight)
    images = torch.randn(4, 3, 64, 64)
    plain = outputs_seen(tiny_classifier.train(), images)
    tiny_classifier.set_grad_checkpointing()
    checkpointed = outputs_seen(tiny_classifier, images)
    stages = {f"backbone.stages.{index}" for index in range(7)}
    assert stages <= plain.keys() == checkpointed.keys()
    for name, outputs in checkpointed.items():
        assert 1 <= len(outputs) <= (1 if name in stages else 2), name  # blocks run again in the backward pass
        for output in outputs:
            torch.testing.assert_close(output, plain[name][0], rtol=0, atol=0)
    tiny_classifier.set_grad_checkpointing(enable=False)
    assert all(len(outputs) == 1 for outputs in outputs_seen(tiny_classifier, images).values())
