"""The key maps of the public checkpoint families cover every tensor exactly once."""

from __future__ import annotations

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet as ReferenceLite
from efficientnet_pytorch import EfficientNet as Reference
from torch import Tensor

from transfer.backbones import get_backbone, list_backbones
from transfer.classifier import build_classifier
from transfer.errors import UserError
from transfer.keymaps import SCHEMES, module_names, to_own_keys


def own_shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {k: tuple(v.shape) for k, v in build_classifier(name, 1000).state_dict().items()}


def reference_state(name: str) -> dict[str, Tensor]:
    family = ReferenceLite if name.startswith("lite") else Reference
    with torch.device("meta"):
        return dict(family.from_name(f"efficientnet-{name}").state_dict())


@pytest.mark.parametrize("name", list_backbones())
def test_lukemelas_keys_become_ours_in_the_same_order_with_the_same_shapes(name: str) -> None:
    own = to_own_keys(reference_state(name), get_backbone(name))
    expected = own_shapes(name)
    assert {key: tuple(tensor.shape) for key, tensor in own.items()} == expected
    backbone_keys = [key for key in own if key.startswith("backbone.")]
    assert backbone_keys == [key for key in expected if key.startswith("backbone.")]


@pytest.mark.parametrize(
    ("name", "tensors"), [("b0", 360), ("b1", 508), ("b3", 574), ("b7", 1200), ("l2", 1914), ("lite0", 296)]
)
def test_a_state_dict_has_as_many_tensors_as_the_public_ones(name: str, tensors: int) -> None:
    assert len(own_shapes(name)) == tensors


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", list_backbones())
def test_every_scheme_names_every_module_once(name: str, scheme: str) -> None:
    names = module_names(scheme, get_backbone(name))
    modules = {key.rpartition(".")[0] for key in own_shapes(name)}
    assert set(names.values()) == modules
    assert len(names) == len(modules)


# timm 1.0.31: a block without expansion calls its projection conv_pw, and numbers its norms from the depthwise one.
TIMM_B0 = {
    "conv_stem": "backbone.stem.conv",
    "bn1": "backbone.stem.norm",
    "blocks.0.0.conv_dw": "backbone.stages.0.0.depthwise.conv",
    "blocks.0.0.bn1": "backbone.stages.0.0.depthwise.norm",
    "blocks.0.0.se.conv_reduce": "backbone.stages.0.0.se.reduce",
    "blocks.0.0.se.conv_expand": "backbone.stages.0.0.se.expand",
    "blocks.0.0.conv_pw": "backbone.stages.0.0.project.conv",
    "blocks.0.0.bn2": "backbone.stages.0.0.project.norm",
    "blocks.5.3.conv_pw": "backbone.stages.5.3.expand.conv",
    "blocks.5.3.bn1": "backbone.stages.5.3.expand.norm",
    "blocks.5.3.conv_dw": "backbone.stages.5.3.depthwise.conv",
    "blocks.5.3.bn2": "backbone.stages.5.3.depthwise.norm",
    "blocks.5.3.se.conv_reduce": "backbone.stages.5.3.se.reduce",
    "blocks.5.3.se.conv_expand": "backbone.stages.5.3.se.expand",
    "blocks.5.3.conv_pwl": "backbone.stages.5.3.project.conv",
    "blocks.5.3.bn3": "backbone.stages.5.3.project.norm",
    "conv_head": "backbone.top.conv",
    "bn2": "backbone.top.norm",
    "classifier": "head.fc",
}


def test_timm_names_of_the_outer_layers_the_first_and_a_later_block() -> None:
    names = module_names("timm", get_backbone("b0"))
    chosen = {k: v for k, v in names.items() if not k.startswith("blocks.") or k[7:10] in ("0.0", "5.3")}
    assert chosen == TIMM_B0


def test_a_timm_state_dict_becomes_ours() -> None:
    variant = get_backbone("b0")
    theirs = {own: name for name, own in module_names("timm", variant).items()}
    expected = {key: torch.empty(shape) for key, shape in own_shapes("b0").items()}
    state = {f"{theirs[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": t for key, t in expected.items()}
    assert not set(state) & set(expected)
    own = to_own_keys(state, variant)
    assert all(own[key] is tensor for key, tensor in expected.items()) and len(own) == len(expected)


def test_the_prefix_of_our_own_checkpoints_goes_and_what_else_they_hold() -> None:
    stem = torch.zeros(1)
    state = {"classifier.backbone.stem.conv.weight": stem, "classifier.head.fc.bias": stem, "loss.weight": stem}
    assert list(to_own_keys(state, get_backbone("b0"))) == ["backbone.stem.conv.weight", "head.fc.bias"]


def test_an_unknown_key_keeps_its_name() -> None:
    state = {"_conv_stem.weight": torch.zeros(1), "ema.decay": torch.zeros(1)}
    assert list(to_own_keys(state, get_backbone("b0"))) == ["backbone.stem.conv.weight", "ema.decay"]


def test_an_unknown_scheme_is_refused_with_its_first_keys() -> None:
    with pytest.raises(UserError, match=r"unknown key scheme: features\.0\.0\.weight, \.\.\. \(known: lukemelas, timm"):
        to_own_keys({"features.0.0.weight": torch.zeros(1)}, get_backbone("b0"))
