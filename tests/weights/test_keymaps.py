"""The key maps of the public checkpoint families cover every tensor exactly once."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet as ReferenceLite
from efficientnet_pytorch import EfficientNet as Reference
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetForImageClassification

from transfer.errors import UserError
from transfer.networks.efficientnet import VARIANTS
from transfer.networks.registry import get_backbone
from transfer.weights.build import build_classifier
from transfer.weights.key_names import SCHEMES, find_scheme, from_own_keys, module_names, to_own_keys

WITHOUT_FUSED = ("lukemelas", "transformers")
V1 = [name for name in VARIANTS if not name.startswith("v2-")]
V2 = [name for name in VARIANTS if name.startswith("v2-")]
# Every scheme with every variant that its code base can build.
PAIRS = [(s, name) for s in SCHEMES for name in VARIANTS if s not in WITHOUT_FUSED or name in V1]


@cache
def own_state(name: str, head: str = "linear") -> dict[str, Tensor]:
    """Of the whole classifier, on the meta device; for reading only."""
    with torch.device("meta"):
        return dict(build_classifier(name, 1000, head=head).state_dict())


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def lukemelas_state(name: str) -> dict[str, Tensor]:
    family = ReferenceLite if name.startswith("lite") else Reference
    with torch.device("meta"):
        return dict(family.from_name(f"efficientnet-{name}").state_dict())


def transformers_state(name: str) -> dict[str, Tensor]:
    variant = get_backbone(name)
    config = EfficientNetConfig(
        width_coefficient=variant.width_coefficient,
        depth_coefficient=variant.depth_coefficient,
        hidden_dim=variant.num_features,
        num_labels=1000,
    )
    with torch.device("meta"):
        return dict(EfficientNetForImageClassification(config).state_dict())


@pytest.mark.parametrize("name", V1)
def test_lukemelas_keys_become_ours_in_the_same_order_with_the_same_shapes(name: str) -> None:
    theirs, expected = lukemelas_state(name), shapes(own_state(name))
    own = to_own_keys(theirs, get_backbone(name))
    assert shapes(own) == expected
    backbone_keys = [key for key in own if key.startswith("backbone.")]
    assert backbone_keys == [key for key in expected if key.startswith("backbone.")]
    assert shapes(from_own_keys(own_state(name), get_backbone(name), "lukemelas")) == shapes(theirs)


@pytest.mark.parametrize("name", [f"b{i}" for i in range(8)])
def test_transformers_keys_are_the_ones_that_the_package_has(name: str) -> None:
    theirs = transformers_state(name)
    assert shapes(from_own_keys(own_state(name), get_backbone(name), "transformers")) == shapes(theirs)
    assert shapes(to_own_keys(theirs, get_backbone(name))) == shapes(own_state(name))


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("b0", 360), ("b1", 508), ("b3", 574), ("b7", 1200), ("l2", 1914), ("lite0", 296),
        ("v2-b0", 420), ("v2-b1", 516), ("v2-b2", 538), ("v2-b3", 626),
        ("v2-s", 782), ("v2-m", 1120), ("v2-l", 1548), ("v2-xl", 1990),
    ],
)  # fmt: skip
def test_a_state_dict_has_as_many_tensors_as_the_public_ones(name: str, tensors: int) -> None:
    assert len(own_state(name)) == tensors


@pytest.mark.parametrize(("scheme", "name"), PAIRS)
def test_every_scheme_names_every_module_once(scheme: str, name: str) -> None:
    names = module_names(scheme, get_backbone(name))
    modules = {key.rpartition(".")[0] for key in own_state(name)}
    assert set(names.values()) == modules
    assert len(names) == len(modules)


@pytest.mark.parametrize(("scheme", "name"), [pair for pair in PAIRS if pair[0] != "tensorflow"])
def test_there_and_back_every_tensor_is_under_its_name_again(scheme: str, name: str) -> None:
    state, variant = own_state(name), get_backbone(name)
    theirs = from_own_keys(state, variant, scheme)
    assert find_scheme(theirs) == scheme
    assert not set(theirs) & set(state) and len(theirs) == len(state)
    back = to_own_keys(theirs, variant)
    assert list(back) == list(state)
    assert all(back[key] is tensor for key, tensor in state.items())
    counters = [key for key in theirs if key.endswith(".num_batches_tracked")]
    assert len(counters) == sum(key.endswith(".running_mean") for key in state) > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_own_keys_stay_as_they_are(name: str) -> None:
    state, variant = own_state(name, head="mlp"), get_backbone(name)
    assert find_scheme(state) == "own"
    assert from_own_keys(state, variant, "own") == to_own_keys(state, variant) == state


@pytest.mark.parametrize("scheme", WITHOUT_FUSED)
@pytest.mark.parametrize("name", V2)
def test_a_code_base_without_fused_blocks_is_refused(scheme: str, name: str) -> None:
    variant = get_backbone(name)
    with pytest.raises(UserError, match=f"^{scheme} has no fused blocks, of which {name} is built$"):
        module_names(scheme, variant)
    with pytest.raises(UserError, match=f"^{scheme} has no fused blocks"):
        from_own_keys({}, variant, scheme)
    stem = f"{SCHEMES[scheme].stem_conv}.weight"
    with pytest.raises(UserError, match=f"^{scheme} has no fused blocks"):
        to_own_keys({stem: torch.zeros(1)}, variant)


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "tensorflow"])
@pytest.mark.parametrize(("head", "key"), [("mlp", r"head\.hidden\.0\.weight"), ("cosine", r"head\.weight")])
def test_only_a_linear_head_has_a_place_elsewhere(scheme: str, head: str, key: str) -> None:
    with pytest.raises(UserError, match=f"^{scheme} has no place for {key}: only a backbone with a linear head"):
        from_own_keys(own_state("b0", head), get_backbone("b0"), scheme)


@pytest.mark.parametrize("scheme", ["keras", "owm"])
def test_an_unknown_target_is_refused(scheme: str) -> None:
    with pytest.raises(UserError, match=f"unknown key scheme '{scheme}'"):
        from_own_keys(own_state("b0"), get_backbone("b0"), scheme)


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


# Fused blocks are numbered on their own: `conv` where there is no expansion, `conv_exp` and `conv_pwl` where there is.
TIMM_V2_S = {
    "conv_stem": "backbone.stem.conv",
    "bn1": "backbone.stem.norm",
    "blocks.0.0.conv": "backbone.stages.0.0.project.conv",
    "blocks.0.0.bn1": "backbone.stages.0.0.project.norm",
    "blocks.1.3.conv_exp": "backbone.stages.1.3.expand.conv",
    "blocks.1.3.bn1": "backbone.stages.1.3.expand.norm",
    "blocks.1.3.conv_pwl": "backbone.stages.1.3.project.conv",
    "blocks.1.3.bn2": "backbone.stages.1.3.project.norm",
    "blocks.5.14.conv_pw": "backbone.stages.5.14.expand.conv",
    "blocks.5.14.bn1": "backbone.stages.5.14.expand.norm",
    "blocks.5.14.conv_dw": "backbone.stages.5.14.depthwise.conv",
    "blocks.5.14.bn2": "backbone.stages.5.14.depthwise.norm",
    "blocks.5.14.se.conv_reduce": "backbone.stages.5.14.se.reduce",
    "blocks.5.14.se.conv_expand": "backbone.stages.5.14.se.expand",
    "blocks.5.14.conv_pwl": "backbone.stages.5.14.project.conv",
    "blocks.5.14.bn3": "backbone.stages.5.14.project.norm",
    "conv_head": "backbone.top.conv",
    "bn2": "backbone.top.norm",
    "classifier": "head.fc",
}
# torchvision 0.28.0: the stem is features.0, so stages count from 1; a block's parts shift where there is no expansion.
TORCHVISION_B0 = {
    "features.0.0": "backbone.stem.conv",
    "features.0.1": "backbone.stem.norm",
    "features.1.0.block.0.0": "backbone.stages.0.0.depthwise.conv",
    "features.1.0.block.0.1": "backbone.stages.0.0.depthwise.norm",
    "features.1.0.block.1.fc1": "backbone.stages.0.0.se.reduce",
    "features.1.0.block.1.fc2": "backbone.stages.0.0.se.expand",
    "features.1.0.block.2.0": "backbone.stages.0.0.project.conv",
    "features.1.0.block.2.1": "backbone.stages.0.0.project.norm",
    "features.3.1.block.0.0": "backbone.stages.2.1.expand.conv",
    "features.3.1.block.0.1": "backbone.stages.2.1.expand.norm",
    "features.3.1.block.1.0": "backbone.stages.2.1.depthwise.conv",
    "features.3.1.block.1.1": "backbone.stages.2.1.depthwise.norm",
    "features.3.1.block.2.fc1": "backbone.stages.2.1.se.reduce",
    "features.3.1.block.2.fc2": "backbone.stages.2.1.se.expand",
    "features.3.1.block.3.0": "backbone.stages.2.1.project.conv",
    "features.3.1.block.3.1": "backbone.stages.2.1.project.norm",
    "features.7.0.block.0.0": "backbone.stages.6.0.expand.conv",
    "features.7.0.block.0.1": "backbone.stages.6.0.expand.norm",
    "features.7.0.block.1.0": "backbone.stages.6.0.depthwise.conv",
    "features.7.0.block.1.1": "backbone.stages.6.0.depthwise.norm",
    "features.7.0.block.2.fc1": "backbone.stages.6.0.se.reduce",
    "features.7.0.block.2.fc2": "backbone.stages.6.0.se.expand",
    "features.7.0.block.3.0": "backbone.stages.6.0.project.conv",
    "features.7.0.block.3.1": "backbone.stages.6.0.project.norm",
    "features.8.0": "backbone.top.conv",
    "features.8.1": "backbone.top.norm",
    "classifier.1": "head.fc",
}
TORCHVISION_V2_S = {
    "features.0.0": "backbone.stem.conv",
    "features.0.1": "backbone.stem.norm",
    "features.1.0.block.0.0": "backbone.stages.0.0.project.conv",
    "features.1.0.block.0.1": "backbone.stages.0.0.project.norm",
    "features.2.3.block.0.0": "backbone.stages.1.3.expand.conv",
    "features.2.3.block.0.1": "backbone.stages.1.3.expand.norm",
    "features.2.3.block.1.0": "backbone.stages.1.3.project.conv",
    "features.2.3.block.1.1": "backbone.stages.1.3.project.norm",
    "features.6.14.block.0.0": "backbone.stages.5.14.expand.conv",
    "features.6.14.block.0.1": "backbone.stages.5.14.expand.norm",
    "features.6.14.block.1.0": "backbone.stages.5.14.depthwise.conv",
    "features.6.14.block.1.1": "backbone.stages.5.14.depthwise.norm",
    "features.6.14.block.2.fc1": "backbone.stages.5.14.se.reduce",
    "features.6.14.block.2.fc2": "backbone.stages.5.14.se.expand",
    "features.6.14.block.3.0": "backbone.stages.5.14.project.conv",
    "features.6.14.block.3.1": "backbone.stages.5.14.project.norm",
    "features.7.0": "backbone.top.conv",
    "features.7.1": "backbone.top.norm",
    "classifier.1": "head.fc",
}


@pytest.mark.parametrize(
    ("scheme", "name", "blocks", "expected"),
    [
        ("timm", "b0", ("0.0", "5.3"), TIMM_B0),
        ("timm", "v2-s", ("0.0", "1.3", "5.14"), TIMM_V2_S),
        ("torchvision", "b0", ("0.0", "2.1", "6.0"), TORCHVISION_B0),
        ("torchvision", "v2-s", ("0.0", "1.3", "5.14"), TORCHVISION_V2_S),
    ],
)
def test_names_of_the_outer_layers_the_first_an_inner_and_the_last_block(
    scheme: str, name: str, blocks: tuple[str, ...], expected: dict[str, str]
) -> None:
    names = module_names(scheme, get_backbone(name))
    chosen = tuple(f"backbone.stages.{block}." for block in blocks)
    found = {k: v for k, v in names.items() if v.startswith(chosen) or not v.startswith("backbone.stages.")}
    assert found == expected


@pytest.mark.parametrize(("name", "index"), [("b7", 8), ("v2-s", 7), ("v2-m", 8), ("v2-l", 8), ("v2-b0", 7)])
def test_torchvisions_top_layer_counts_the_stages(name: str, index: int) -> None:
    names = module_names("torchvision", get_backbone(name))
    assert names[f"features.{index}.0"] == "backbone.top.conv"
    assert names[f"features.{index}.1"] == "backbone.top.norm"


def test_the_prefix_of_our_own_checkpoints_goes_and_what_else_they_hold() -> None:
    stem = torch.zeros(1)
    state = {"classifier.backbone.stem.conv.weight": stem, "classifier.head.fc.bias": stem, "loss.weight": stem}
    assert list(to_own_keys(state, get_backbone("b0"))) == ["backbone.stem.conv.weight", "head.fc.bias"]


@pytest.mark.parametrize("name", ["b0", "lite0", "v2-s"])
@pytest.mark.parametrize("scheme", ["own", *(scheme for scheme in SCHEMES if scheme != "tensorflow")])
def test_missing_counters_of_batches_are_zero(scheme: str, name: str) -> None:
    if scheme in WITHOUT_FUSED and name == "v2-s":
        return
    state, variant = own_state(name), get_backbone(name)
    theirs = from_own_keys(state, variant, scheme)
    without = {key: tensor for key, tensor in theirs.items() if not key.endswith(".num_batches_tracked")}
    own = to_own_keys(without, variant)
    assert own.keys() == state.keys() and len(without) < len(own)
    counters = [key for key in own if key.endswith(".num_batches_tracked")]
    assert len(counters) == sum(key.endswith(".running_mean") for key in state) == len(own) - len(without)
    for key in counters:
        assert (own[key].dtype, tuple(own[key].shape), own[key].tolist()) == (torch.int64, (), 0)
    assert all(own[key] is state[key] for key in own.keys() - set(counters))


def test_counters_of_batches_that_are_there_stay() -> None:
    state = random_lukemelas_b0()
    del state["_bn0.num_batches_tracked"]
    own = to_own_keys(state, get_backbone("b0"))
    assert own["backbone.stem.norm.num_batches_tracked"] == 0 and own["backbone.top.norm.num_batches_tracked"] == 7


def test_missing_counters_of_our_own_checkpoints_are_zero() -> None:
    state = {f"classifier.{k}": t for k, t in own_state("b0").items() if not k.endswith(".num_batches_tracked")}
    assert to_own_keys(state, get_backbone("b0")).keys() == own_state("b0").keys()


def test_an_unknown_key_keeps_its_name() -> None:
    state = {"_conv_stem.weight": torch.zeros(1), "ema.decay": torch.zeros(1)}
    assert list(to_own_keys(state, get_backbone("b0"))) == ["backbone.stem.conv.weight", "ema.decay"]


def test_an_unknown_scheme_is_refused_with_its_first_keys() -> None:
    with pytest.raises(UserError, match=r"unknown key scheme: layers\.0\.0\.weight, \.\.\. \(known: lukemelas, timm"):
        to_own_keys({"layers.0.0.weight": torch.zeros(1)}, get_backbone("b0"))


# efficientnet-pytorch 0.7.1's names of a block's parts -> tensorflow/tpu's, with and without an expansion convolution.
TENSORFLOW_BLOCK = {
    "_expand_conv": "conv2d",
    "_bn0": "tpu_batch_normalization",
    "_depthwise_conv": "depthwise_conv2d",
    "_bn1": "tpu_batch_normalization_1",
    "_se_reduce": "se/conv2d",
    "_se_expand": "se/conv2d_1",
    "_project_conv": "conv2d_1",
    "_bn2": "tpu_batch_normalization_2",
}
TENSORFLOW_FIRST_BLOCK = {
    "_depthwise_conv": "depthwise_conv2d",
    "_bn1": "tpu_batch_normalization",
    "_se_reduce": "se/conv2d",
    "_se_expand": "se/conv2d_1",
    "_project_conv": "conv2d",
    "_bn2": "tpu_batch_normalization_1",
}
TENSORFLOW_ENDS = {
    "_conv_stem": "stem/conv2d",
    "_bn0": "stem/tpu_batch_normalization",
    "_conv_head": "head/conv2d",
    "_bn1": "head/tpu_batch_normalization",
    "_fc": "head/dense",
}
TENSORFLOW_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def as_tensorflow(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """efficientnet-pytorch's tensors of a b0 as TensorFlow would store them; the counters have no place there."""
    variables = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if module.startswith("_blocks."):
            _, flat, part = module.split(".")
            name = f"blocks_{flat}/" + (TENSORFLOW_FIRST_BLOCK if flat == "0" else TENSORFLOW_BLOCK)[part]
        else:
            name = TENSORFLOW_ENDS[module]
        if "batch_normalization" in name:
            leaf = TENSORFLOW_NORM[leaf]
        elif name.endswith("/depthwise_conv2d"):
            leaf, tensor = "depthwise_kernel", tensor.permute(2, 3, 0, 1)  # C1HW -> HWC1
        elif leaf == "weight":
            leaf, tensor = "kernel", tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T  # OIHW -> HWIO
        variables[f"efficientnet-b0/{name}/{leaf}"] = tensor
    return variables


def random_lukemelas_b0() -> dict[str, Tensor]:
    state = dict(Reference.from_name("efficientnet-b0").state_dict())
    return {k: torch.randn(v.shape) if v.is_floating_point() else v + 7 for k, v in state.items()}


def test_tensorflow_variables_become_ours_and_their_averages_win() -> None:
    state = random_lukemelas_b0()
    averages = as_tensorflow(state)
    assert tuple(averages["efficientnet-b0/blocks_0/depthwise_conv2d/depthwise_kernel"].shape) == (3, 3, 32, 1)
    assert tuple(averages["efficientnet-b0/blocks_3/conv2d_1/kernel"].shape) == (1, 1, 144, 40)
    variables = {"global_step": torch.tensor(109_800)}
    for key, tensor in averages.items():
        variables[f"{key}/ExponentialMovingAverage"] = tensor
        variables[key] = tensor + 1.0
        variables[f"{key}/RMSProp"] = tensor + 2.0
        variables[f"{key}/RMSProp_1"] = tensor + 3.0
    assert find_scheme(variables) == "tensorflow"
    own, expected = to_own_keys(variables, get_backbone("b0")), to_own_keys(state, get_backbone("b0"))
    assert set(own) == set(expected) == set(own_state("b0"))
    for key, tensor in own.items():
        assert tensor.is_contiguous()
        assert torch.equal(tensor, torch.tensor(0) if key.endswith("num_batches_tracked") else expected[key]), key


def test_tensorflow_variables_without_averages_are_taken_as_they_are() -> None:
    state = random_lukemelas_b0()
    own, expected = to_own_keys(as_tensorflow(state), get_backbone("b0")), to_own_keys(state, get_backbone("b0"))
    assert set(own) == set(expected)
    assert all(torch.equal(own[k], v) for k, v in expected.items() if not k.endswith("num_batches_tracked"))
    assert own["backbone.stem.norm.num_batches_tracked"].dtype == torch.int64


def test_tensorflows_names_are_only_read() -> None:
    with pytest.raises(UserError, match="tensorflow's checkpoints are only read"):
        from_own_keys({"backbone.stem.conv.weight": torch.zeros(1)}, get_backbone("b0"), "tensorflow")
