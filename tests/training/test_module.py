"""The training step, its loss and metrics, and what a checkpoint of it holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn

from tests.conftest import Batches, RandomImages
from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.training.mixing import Mix
from transfer.training.module import TransferModule

Build = Callable[..., pl.Trainer]


class Given(nn.Module):
    """A classifier whose images are its logits already."""

    num_classes = 2

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class Losses(pl.Callback):
    """The loss of each training step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict[str, Tensor], *_: object
    ) -> None:
        self.values.append(outputs["loss"].item())


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
def test_the_first_loss_is_the_logarithm_of_the_number_of_classes(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build, mixup_alpha: float
) -> None:
    losses = Losses()
    module = TransferModule(tiny_classifier, label_smoothing=0.1, mixup_alpha=mixup_alpha)
    build_trainer(losses, max_epochs=1).fit(module, random_images)
    assert losses.values[0] == pytest.approx(math.log(3), abs=1e-6)


def test_the_logged_training_loss_is_the_mean_over_the_epoch(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    losses = Losses()
    trainer = build_trainer(losses, max_epochs=1)
    trainer.fit(TransferModule(tiny_classifier), random_images)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(sum(losses.values) / 4, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 0.3, "class_weights": [5.0, 1.0, 1.0]}, {"logit_adjustment": [-0.1, -2.0, -4.0]}],
)
def test_validation_loss_and_predictions_know_neither_smoothing_nor_class_weights_nor_adjustment(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build, options: dict[str, Any]
) -> None:
    with torch.no_grad():
        tiny_classifier.head.fc.bias.copy_(torch.tensor([1.0, 0.0, -2.0]))
    module = TransferModule(tiny_classifier, **options)
    logged = build_trainer().validate(module, random_images, verbose=False)[0]
    scores = torch.tensor([1.0, 0.0, -2.0]).log_softmax(0)
    assert logged["val/loss"] == pytest.approx(-scores.mean().item(), abs=1e-5)  # each class is a third of val
    torch.testing.assert_close(
        module.predict_step(random_images.images, 0), scores.exp().expand(len(random_images.images), 3)
    )


def test_an_adjusted_training_loss_is_that_of_the_logits_and_log_shares_also_of_mixed_images(
    tiny_classifier: Classifier, random_images: RandomImages
) -> None:
    with torch.no_grad():
        tiny_classifier.head.fc.bias.copy_(torch.tensor([1.0, 0.0, -2.0]))  # its logits, whatever the image
    images, targets = random_images.images[:4], torch.tensor([0, 0, 1, 2])
    shares = [0.6, 0.3, 0.1]
    module = TransferModule(tiny_classifier, label_smoothing=0.0, logit_adjustment=[math.log(p) for p in shares])
    odds = [share * math.exp(logit) for share, logit in zip(shares, (1.0, 0.0, -2.0), strict=True)]
    surprise = [-math.log(each / sum(odds)) for each in odds]
    alone, logits = module.batch_loss(images, targets)
    assert alone.item() == pytest.approx((2 * surprise[0] + surprise[1] + surprise[2]) / 4, abs=1e-5)
    torch.testing.assert_close(logits[0].detach(), torch.tensor([1.0, 0.0, -2.0]), atol=1e-5, rtol=0)
    mix = Mix(share=torch.tensor(0.7), partner=torch.tensor([3, 3, 3, 2]))
    mixed, _ = module.batch_loss(images, targets, mix)
    partners = (3 * surprise[2] + surprise[1]) / 4
    assert mixed.item() == pytest.approx(0.7 * alone.item() + 0.3 * partners, abs=1e-5)


def test_a_diverged_run_stops_and_says_what_to_lower(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    random_images.images[0] = torch.nan
    with pytest.raises(UserError, match=r"training loss is nan in epoch 1.*lower `lr` \(now 0.02\)"):
        build_trainer(max_epochs=1, limit_val_batches=0).fit(TransferModule(tiny_classifier), random_images)


def test_several_labels_need_their_loss(tiny_classifier: Classifier) -> None:
    with pytest.raises(UserError, match="several labels per image need `loss`='bce'"):
        TransferModule(tiny_classifier, multilabel=True)


def test_logits_between_zero_and_one_are_not_taken_for_probabilities(build_trainer: Build) -> None:
    logits = torch.tensor([[0.3, 0.2], [2.0, -1.0]])
    targets = torch.tensor([[1, 1], [1, 0]])
    module = TransferModule(Given(), multilabel=True, loss="bce")  # type: ignore[arg-type]
    batches = Batches(logits[:, :, None, None], targets.float(), batch_size=1)
    logged = build_trainer().test(module, batches, verbose=False)[0]
    assert logged["test/f1"] == f1_score(targets, (logits > 0).long(), average="micro") == 1.0


def test_per_class_accuracy_averages_to_the_mean_per_class(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    module = TransferModule(tiny_classifier)
    logged = build_trainer().test(module, random_images, verbose=False)[0]
    assert module.per_class_accuracy == [1.0, 0.0, 0.0]  # equal logits: the first class is always the answer
    assert logged["test/mean_per_class"] == pytest.approx(1 / 3)


def test_a_checkpoint_holds_plain_types_only(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build, tmp_path: Path
) -> None:
    trainer = build_trainer(pl.callbacks.ModelCheckpoint(tmp_path), max_epochs=1)
    trainer.fit(TransferModule(tiny_classifier), random_images)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    content = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    assert content["state_dict"].keys() == {f"classifier.{name}" for name in tiny_classifier.state_dict()}


@pytest.mark.parametrize("multilabel", [False, True])
def test_predictions_are_probabilities_of_images_with_or_without_targets(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build, multilabel: bool
) -> None:
    torch.nn.init.normal_(tiny_classifier.head.fc.weight)
    module = TransferModule(tiny_classifier, multilabel=multilabel, loss="bce" if multilabel else "cross_entropy")
    with torch.no_grad():
        logits = tiny_classifier.eval()(random_images.images).double()
    expected = 1 / (1 + (-logits).exp()) if multilabel else logits.exp() / logits.exp().sum(1, keepdim=True)
    for batches in (
        [random_images.images[:20], random_images.images[20:]],
        [(random_images.images, random_images.targets)],
        [[random_images.images]],
    ):
        loader = torch.utils.data.DataLoader(batches, batch_size=None)
        predicted = torch.cat(build_trainer().predict(module, loader))
        assert predicted.dtype == torch.float32
        torch.testing.assert_close(predicted.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"multilabel": True, "loss": "bce"}, {"mixup_alpha": 0.4, "sam_rho": 0.05}])
def test_a_network_of_bfloat16_trains_validates_and_predicts(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build, options: dict[str, object]
) -> None:
    if "multilabel" in options:
        targets = nn.functional.one_hot(random_images.targets, 3).float()
        random_images.targets, random_images.train_batches = targets, Batches(random_images.images, targets)
    losses, module = Losses(), TransferModule(tiny_classifier, class_weights=[1.0, 2.0, 1.0], **options)
    trainer = build_trainer(losses, max_epochs=2, precision="bf16-true")
    trainer.fit(module, random_images)
    assert {p.dtype for p in tiny_classifier.parameters()} == {torch.bfloat16}
    assert all(math.isfinite(loss) for loss in losses.values)
    assert losses.values[-1] < losses.values[0]
    (metrics,) = trainer.test(module, random_images, verbose=False)
    assert 0 <= metrics["test/map" if module.multilabel else "test/top1"] <= 1
    predicted = torch.cat(trainer.predict(module, random_images.val_dataloader()))
    assert predicted.shape == (12, 3) and predicted.dtype == torch.float32


def test_probabilities_of_a_bfloat16_network_are_computed_in_float32(
    tiny_classifier: Classifier, random_images: RandomImages
) -> None:
    module = TransferModule(tiny_classifier.bfloat16())
    with torch.no_grad():
        total = module.predict_step(random_images.images.bfloat16(), 0).sum(1)
    torch.testing.assert_close(total, torch.ones(24), rtol=0, atol=1e-6)


def test_a_module_that_was_validated_can_be_trained_and_validated_again(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Build
) -> None:
    module = TransferModule(tiny_classifier)
    (first,), (second,) = (build_trainer().validate(module, random_images, verbose=False) for _ in range(2))
    assert second == first
    trainer = build_trainer(max_epochs=1, num_sanity_val_steps=1)
    trainer.fit(module, random_images)
    (third,) = build_trainer().validate(module, random_images, verbose=False)
    assert third == {name: pytest.approx(trainer.callback_metrics[name].item()) for name in third}
