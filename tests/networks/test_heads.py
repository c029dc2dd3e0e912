"""Every head starts at ln(num_classes) and learns; the classifier swaps and freezes without touching the backbone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.networks.heads import CosineHead, LinearHead, MLPHead, build_head, get_head, list_heads
from transfer.weights.build import build_classifier


class OwnHead(nn.Linear):
    """What a user may bring: called with num_features, num_classes, dropout."""

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__(num_features, num_classes)
        self.rate = dropout


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", list_heads())
def test_the_first_loss_is_the_logarithm_of_the_number_of_classes(
    name: str, label_smoothing: float, training: bool
) -> None:
    head = build_head(name, 32, 37, dropout=0.3).train(training)
    loss = F.cross_entropy(head(torch.randn(16, 32)), torch.arange(16), label_smoothing=label_smoothing)
    assert loss.item() == pytest.approx(math.log(37), abs=1e-6)


@pytest.mark.parametrize("name", list_heads())
def test_one_step_tells_the_classes_apart(name: str) -> None:
    head = build_head(name, 8, 4, dropout=0.0)
    features = torch.randn(32, 8)
    features[:, 0] += torch.arange(32) % 4
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    before = F.cross_entropy(head(features), torch.arange(32) % 4)
    before.backward()
    optimizer.step()
    logits = head(features)
    assert (logits[0].unsqueeze(0) - logits[0].unsqueeze(1)).abs().fill_diagonal_(1.0).min() > 1e-4
    assert F.cross_entropy(logits, torch.arange(32) % 4) < before - 1e-3


def test_the_linear_head_is_dropout_and_one_layer() -> None:
    head = LinearHead(3, 2, dropout=0.25)
    nn.init.normal_(head.fc.weight)
    nn.init.normal_(head.fc.bias)
    features = torch.randn(5, 3)
    torch.testing.assert_close(head.eval()(features), features @ head.fc.weight.T + head.fc.bias)
    assert head.dropout.p == 0.25


@pytest.mark.parametrize(("backbone", "last"), [("lite0@w=0.5,d=0.3", None), ("resnet50@w=0.5,d=0.3", -1)])
def test_the_stages_head_sees_the_means_of_the_last_maps_after_those_of_the_output(
    backbone: str, last: int | None
) -> None:
    classifier = build_classifier(backbone, 5, head="stages").eval()
    images = torch.rand(2, 3, 40, 56)
    features = classifier.forward_head(classifier.forward_features(images), pre_logits=True)
    plain = build_classifier(backbone, 5).eval()
    plain.backbone.load_state_dict(classifier.backbone.state_dict())
    maps, x = [], plain.backbone.stem_pool(plain.backbone.stem(images))
    for stage in plain.backbone.stages:
        maps.append(x := stage(x))
    maps = maps[:last][-3:]  # without a top, the last one is the output
    expected = torch.cat([plain.backbone(images).mean((2, 3)), *(one.mean((2, 3)) for one in maps)], 1)
    torch.testing.assert_close(features, expected)
    assert classifier.num_features == expected.shape[1] == classifier.head.fc.in_features
    classifier.reset_head(3)
    assert classifier.num_features == plain.num_features and classifier(images).shape == (2, 3)


def test_the_mlp_head_has_a_hidden_layer_as_wide_as_the_features() -> None:
    shapes = {name: tuple(p.shape) for name, p in MLPHead(6, 2, 0.0).named_parameters()}
    assert shapes == {
        "fc.weight": (2, 6), "fc.bias": (2,), "hidden.0.weight": (6, 6), "hidden.1.weight": (6,), "hidden.1.bias": (6,),
    }  # fmt: skip


def test_the_cosine_head_is_a_scaled_cosine_and_ignores_length() -> None:
    head = CosineHead(6, 3, dropout=0.0).eval()
    nn.init.normal_(head.weight)
    features = torch.randn(4, 6)
    expected = 16.0 * F.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(features), expected)
    torch.testing.assert_close(head(10.0 * features), expected)


def test_a_head_of_your_own_is_found_by_its_import_path() -> None:
    head = build_head(f"{__name__}.OwnHead", 8, 5, dropout=0.4)
    assert isinstance(head, OwnHead)
    assert (head.in_features, head.out_features, head.rate) == (8, 5, 0.4)


def test_a_class_of_your_own_is_called_as_the_tables_are() -> None:
    head = build_classifier("lite0", 5, head=OwnHead, dropout=0.4).head
    assert isinstance(head, OwnHead)
    assert (head.in_features, head.out_features, head.rate) == (1280, 5, 0.4)


def test_a_module_of_your_own_is_used_as_it_is(tiny_classifier: Classifier) -> None:
    own = nn.Sequential(nn.BatchNorm1d(tiny_classifier.num_features), nn.LazyLinear(5)).train()
    own[0].eval()
    tiny_classifier.reset_head(5, own)
    assert tiny_classifier.head is own and own[1].weight.shape == (5, tiny_classifier.num_features)
    assert own.training and own[1].training and not own[0].training and own[0].num_batches_tracked == 0
    assert tiny_classifier(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (nn.Linear(8, 4), r"`head`: Linear returns shape \(2, 4\) for features \(2, 8\) \(needed: .* \(N, 5\)\)"),
        (nn.Linear(7, 5), r"`head`: Linear refuses features \(2, 8\): .*shapes cannot be multiplied"),
        (lambda *_: "no head", r"`head`: got str, not an nn\.Module"),
        (nn.LSTM(8, 5), r"`head`: LSTM returns tuple"),
    ],
)
def test_what_is_no_head_is_refused(own: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_head(own, 8, 5, 0.0)


def test_an_unknown_head_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        UserError, match=r"unknown head 'linaer'; did you mean 'linear'\? \(allowed: linear, mlp, cosine"
    ):
        get_head("linaer")


@pytest.mark.parametrize("path", ["no_such_module.Head", "transfer.networks.heads.NoHead"])
def test_a_failing_import_path_is_named(path: str) -> None:
    with pytest.raises(UserError, match=rf"head '{path}': .*(No module|no attribute).*allowed: linear, mlp, cosine"):
        get_head(path)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_out_of_range_is_refused(dropout: float) -> None:
    with pytest.raises(UserError, match=r"allowed is 0 <= dropout < 1"):
        build_head("linear", 8, 2, dropout)


def test_no_classes_are_refused() -> None:
    with pytest.raises(UserError, match="`num_classes`=0: at least 1"):
        build_head("linear", 8, 0, 0.0)


def test_reset_head_swaps_the_head_and_leaves_the_backbone_alone(tiny_classifier: Classifier) -> None:
    tensors = {k: (v.data_ptr(), v.clone()) for k, v in tiny_classifier.backbone.state_dict().items()}
    tiny_classifier.reset_head(7, head="mlp", dropout=0.5)
    for key, tensor in tiny_classifier.backbone.state_dict().items():
        assert tensor.data_ptr() == tensors[key][0]
        assert torch.equal(tensor, tensors[key][1])
    assert tiny_classifier.num_classes == 7
    assert isinstance(tiny_classifier.head, MLPHead) and tiny_classifier.head.dropout.p == 0.5
    assert tiny_classifier(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_reset_head_takes_the_variants_dropout_and_the_backbones_dtype(tiny_classifier: Classifier) -> None:
    tiny_classifier.double().reset_head(4)
    assert tiny_classifier.head.fc.weight.dtype == torch.float64
    assert tiny_classifier.head.dropout.p == 0.2


@pytest.mark.parametrize(("backbone", "rate"), [("b0", 0.2), ("b4", 0.4), ("lite4", 0.3)])
def test_the_dropout_is_the_published_one_unless_given(backbone: str, rate: float) -> None:
    with torch.device("meta"):
        assert build_classifier(backbone, 10).head.dropout.p == rate
        assert build_classifier(backbone, 10, dropout=0.05).head.dropout.p == 0.05


def test_freeze_leaves_only_the_head_to_learn(tiny_classifier: Classifier) -> None:
    before = {k: v.clone() for k, v in tiny_classifier.backbone.state_dict().items()}
    tiny_classifier.train()
    tiny_classifier.freeze()
    tiny_classifier(5.0 + torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    torch.testing.assert_close(tiny_classifier.backbone.state_dict(), before, rtol=0, atol=0)
    assert {n.split(".")[0] for n, p in tiny_classifier.named_parameters() if p.grad is not None} == {"head"}
    assert tiny_classifier.head.training


def test_unfreeze_lets_everything_learn_again(tiny_classifier: Classifier) -> None:
    tiny_classifier.train()
    tiny_classifier.freeze()
    tiny_classifier.unfreeze()
    nn.init.normal_(tiny_classifier.head.fc.weight)
    tiny_classifier(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    assert all(p.grad is not None for p in tiny_classifier.parameters())
    assert tiny_classifier.backbone.stem.norm.num_batches_tracked == 1


def test_features_are_the_mean_over_the_map(tiny_classifier: Classifier) -> None:
    x = torch.randn(2, 3, 64, 96)
    tiny_classifier.eval()
    maps = tiny_classifier.backbone(x)
    assert maps.shape[-2:] == (2, 3)
    torch.testing.assert_close(tiny_classifier.forward_head(maps, pre_logits=True), maps.flatten(2).mean(2))


@pytest.mark.parametrize(
    "options", [{"pretrained": False}, {"pretrained": True, "head": "mlp"}, {"pretrained": True, "in_channels": 1}]
)
def test_keeping_the_checkpoints_head_needs_a_checkpoint_that_fits(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="`num_classes`=None keeps the checkpoint's own classifier"):
        build_classifier("lite0", **options)
