"""Knowledge distillation: a network learns from its labels and from the answers of a trained one, its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.config.schema import DistillConfig
from transfer.errors import BadValue, some_of
from transfer.lightning import pl
from transfer.networks.classifier import Classifier
from transfer.preprocessing import Preprocessing
from transfer.training.run_length import total_steps


class Distillation(pl.Callback):
    """Lets a TransferModule learn from a teacher, too (Hinton et al. 2015, arXiv 1503.02531).

    The loss is (1 - weight) * own loss + weight * `softened_divergence`. The teacher sees what the student sees, crop,
    flip and mix included (Beyer et al. 2022, arXiv 2106.05237), with its own normalisation and at its own size. It is
    in eval mode, computes in the precision of the step, and is no part of the student, its optimizer, its average or
    its checkpoints. Give it to the module, which brings it to the Trainer: `TransferModule(classifier,
    distillation=Distillation(load_run(DIR).classifier))`.

    Args:
        teacher: a trained classifier that knows its `preprocessing`.
        weight: share of the teacher's part in the loss, above 0 to 1.
        temperature: what the logits of both are divided by, above 0.
        digest: digest of the teacher's file. Checkpoints keep it, and a run resumes only with the same teacher.
        repeats: whether every epoch shows the images as evaluation does, neither augmented nor mixed nor streamed. Then
            the teacher answers each training image once, before a run that sees more than one epoch of them.

    Raises:
        BadValue: a value is out of range, or nobody said how the teacher's images are prepared.
    """

    def __init__(
        self,
        teacher: Classifier,
        weight: float = DistillConfig.weight,
        temperature: float = DistillConfig.temperature,
        *,
        digest: str | None = None,
        repeats: bool = False,
    ) -> None:
        if not 0 < weight <= 1:
            raise BadValue(f"`weight`={weight} (allowed: above 0, at most 1)")
        if not temperature > 0:
            raise BadValue(f"`temperature`={temperature} (allowed: above 0)")
        if teacher.preprocessing is None:
            raise BadValue("`teacher`: nobody said how its images are prepared: set its `preprocessing`")
        self.teacher = teacher.eval().requires_grad_(False)
        self.preprocessing = teacher.preprocessing
        self.weight, self.temperature = weight, temperature
        self.digest, self.repeats = digest, repeats
        self._scale, self._shift = torch.ones(3, 1, 1), torch.zeros(3, 1, 1)
        self._known: Tensor | None = None  # the answers to all training images
        self._order: tuple[int, Sequence[int]] = (-1, ())  # an epoch, and its images
        self._answers: Tensor | None = None  # those to the batch in hand, if they are known

    def __deepcopy__(self, memo: dict[int, Any]) -> Distillation:
        """Return the same: weight averaging copies the module, but not the teacher."""
        return self

    def meet(self, class_names: Sequence[str] | None, preprocessing: Preprocessing) -> None:
        """Learn how the student's images are normalised, and compare its classes with the teacher's.

        Args:
            class_names: names of the student's classes, in their order; None where nobody said.
            preprocessing: how its images are prepared.

        Raises:
            BadValue: the classes differ, or the images cannot be the teacher's.
        """
        ours = self.teacher.class_names
        if class_names is not None and ours is not None and tuple(class_names) != ours:
            raise BadValue(f"`teacher`: its classes are not the data's: {_class_difference(ours, class_names)}")
        theirs = self.preprocessing
        for name in ("integer_range", "float_range"):
            found, wanted = getattr(preprocessing, name), getattr(theirs, name)
            if found != wanted:
                raise BadValue(
                    f"`teacher`: its images have the {name} {wanted}, the data {found}: train both on data of one depth"
                )
        if len(theirs.mean) != len(preprocessing.mean):
            raise BadValue(f"`teacher`: it takes {len(theirs.mean)} channels, the data have {len(preprocessing.mean)}")
        given, wanted = ((torch.tensor(p.mean), torch.tensor(p.std)) for p in (preprocessing, theirs))
        self._scale = (given[1] / wanted[1])[:, None, None]
        self._shift = ((given[0] - wanted[0]) / wanted[1])[:, None, None]

    def loss(self, own: Tensor, logits: Tensor, images: Tensor, multilabel: bool) -> Tensor:
        """Return a batch's loss with the teacher's part.

        Args:
            own: loss of the labels, ().
            logits: the student's, (N, num_classes).
            images: what it computed them for, normalised, (N, C, H, W).
            multilabel: whether an image may have several labels.
        """
        answers = self.answer(images) if self._answers is None else self._answers
        divergence = softened_divergence(logits, answers, self.temperature, multilabel)
        return (1.0 - self.weight) * own + self.weight * divergence

    @torch.no_grad()
    def answer(self, images: Tensor) -> Tensor:
        """Return the teacher's logits (N, num_classes) for the student's normalised images (N, C, H, W)."""
        images, side = images * self._scale + self._shift, self.preprocessing.image_size
        if images.shape[-1] != side:
            mode = self.preprocessing.interpolation
            images = F.interpolate(images, (side, side), mode=mode, align_corners=False, antialias=True)
        parameter = next(self.teacher.parameters())
        return self.teacher(images.to(parameter.dtype, memory_format=torch.channels_last))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        student: Any = pl_module.classifier
        if student.num_classes != self.teacher.num_classes:
            raise BadValue(f"`teacher`: it has {self.teacher.num_classes} classes, the student {student.num_classes}")
        data = getattr(trainer, "datamodule", None)
        preprocessing = getattr(data, "preprocessing", None) or getattr(student, "preprocessing", None)
        if not isinstance(preprocessing, Preprocessing):
            raise BadValue("`distillation`: nobody said how the student's images are prepared: set its `preprocessing`")
        self.meet(getattr(data, "class_names", None) or getattr(student, "class_names", None), preprocessing)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parameter = next(pl_module.parameters())
        self.teacher.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
        self._scale, self._shift = self._scale.to(parameter.device), self._shift.to(parameter.device)
        self._order = (-1, ())
        if self.repeats and _passes(trainer) > 1:
            self._known = self._answer_all(trainer)

    def _answer_all(self, trainer: pl.Trainer) -> Tensor:
        """Return the teacher's logits for all training images, each computed by one rank. Shape: (N, num_classes)"""
        loader = trainer.datamodule.eval_dataloader("train")  # type: ignore[attr-defined]  # set by fit()
        with trainer.precision_plugin.forward_context():
            parts = [self.answer(trainer.strategy.batch_to_device(batch)[0]).float() for batch in loader]
        answers = parts[0].new_zeros(len(loader.dataset), self.teacher.num_classes)
        answers[loader.positions()] = torch.cat(parts)
        known: Tensor = trainer.strategy.reduce(answers, reduce_op="sum")
        return known.cpu()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._known is None:
            return
        loader: Any = trainer.train_dataloader
        if self._order[0] != trainer.current_epoch:
            self._order = trainer.current_epoch, loader.positions()
        start = batch_idx * loader.batch_size
        rows = self._order[1][start : start + len(batch[0])]
        self._answers = self._known[rows].to(batch[0].device, non_blocking=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._answers = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._known = None

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["teacher"] != self.digest:
            raise BadValue(
                f"`teacher`: its checkpoint is another than when the run began (sha256 {state_dict['teacher']}, now"
                f" {self.digest}): put that one back, or start a new run"
            )


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float, multilabel: bool) -> Tensor:
    """Return temperature^2 times the Kullback-Leibler divergence of a student's probabilities from its teacher's, ().

    Both are softened: their logits are divided by the temperature. The divergence is the mean over the images; of
    multi-label ones, over the classes too, each of which is a question of its own, so that its gradient is that of the
    binary cross-entropy with the teacher's probabilities.

    Args:
        student, teacher: logits, (N, num_classes).
        temperature: above 0; the square keeps gradients of one size (Hinton et al. 2015, section 2).
        multilabel: whether probabilities are a sigmoid's rather than a softmax's.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    if multilabel:
        cross_entropy, wanted = F.binary_cross_entropy_with_logits, teacher.sigmoid()
        return temperature**2 * (cross_entropy(student, wanted) - cross_entropy(teacher, wanted))
    student, teacher = student.log_softmax(1), teacher.log_softmax(1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _passes(trainer: pl.Trainer) -> float:
    """Return how many times a run sees all training images."""
    loader: Any = trainer.train_dataloader
    images = total_steps(trainer) * trainer.accumulate_grad_batches * trainer.world_size * loader.batch_size
    return images / len(loader.dataset)


def _class_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Return what differs between the teacher's and the data's classes, in words."""
    lacking, more = ([n for n in a if n not in b] for a, b in ((theirs, set(ours)), (ours, set(theirs))))
    if not lacking and not more:
        index = next(i for i, (our, their) in enumerate(zip(ours, theirs, strict=True)) if our != their)
        return f"the order differs from class {index} on, {ours[index]!r} of the teacher and {theirs[index]!r}"
    parts = [
        f"{who} {len(names)} ({some_of(map(repr, names))})"
        for who, names in (("the teacher lacks", lacking), ("it alone has", more))
        if names
    ]
    return "; ".join(parts)
