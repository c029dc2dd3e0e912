"""The run whose answers another run learns from."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from transfer.config.schema import FinetuneConfig
from transfer.costs.latency import measure_latency
from transfer.errors import BadValue, UserError
from transfer.files import expanded, file_sha256
from transfer.networks.classifier import Classifier
from transfer.preprocessing import Preprocessing
from transfer.run_files import BEST
from transfer.runs.predictor import Run, load_run
from transfer.runs.results import TeacherFacts, read_results
from transfer.training.distillation import Distillation


@dataclass(frozen=True)
class Teacher:
    """A finished run to learn from.

    Attributes:
        run: the run.
        facts: what the student's results say of it.
    """

    run: Run
    facts: TeacherFacts

    def distillation(
        self, config: FinetuneConfig, class_names: tuple[str, ...], preprocessing: Preprocessing
    ) -> Distillation:
        """Return how a student learns from it.

        Args:
            config: the student's configuration.
            class_names: its classes, in their order.
            preprocessing: how its images are prepared.

        Raises:
            BadValue: the classes differ, or the images cannot be the teacher's.
        """
        loss = config.loss
        found = Distillation(
            self.run.classifier,
            config.distill.weight,
            config.distill.temperature,
            digest=self.facts.sha256,
            repeats=config.augment == "none"
            and config.progressive is None
            and not config.data.stream
            and loss.mixup_alpha == loss.cutmix_alpha == 0,
        )
        found.meet(class_names, preprocessing)
        return found

    def describe(self, config: FinetuneConfig) -> str:
        """Return a line on the teacher and its part in the student's loss."""
        facts = self.facts
        top = [
            f"{split} {name} {100 * metrics[name]:.2f}%"
            for split, metrics in facts.metrics.items()
            for name in ("top1", "map")
            if name in metrics
        ]
        known = ", ".join([f"{facts.num_parameters:,} parameters", *top])
        share = f"{config.distill.weight:g} of the loss at temperature {config.distill.temperature:g}"
        return f"teacher: {facts.backbone} at {facts.image_size} px from {facts.run_dir} ({known}), {share}"

    def beside(self, student: Classifier, preprocessing: Preprocessing) -> TeacherFacts:
        """Return the facts with the time that either network takes for one image on this machine's processor.

        Args:
            student: the network that learned from it, of which a copy is measured.
            preprocessing: how its images are prepared.
        """
        try:
            its, own = (
                measure_latency(copy.deepcopy(network), how.image_size, channels=len(how.mean))
                for network, how in ((self.run.classifier, self.run.preprocessing), (student, preprocessing))
            )
        except UserError as error:
            warnings.warn(f"the times of teacher and student are not measured: {error}", stacklevel=2)
            return self.facts
        return replace(
            self.facts,
            milliseconds=round(its.median_ms, 2),
            student_milliseconds=round(own.median_ms, 2),
            device=own.device,
        )


def load_teacher(config: FinetuneConfig, resume: Path | None, allow_user_code: bool) -> Teacher | None:
    """Return the teacher of a run; None if it has none.

    Args:
        config: the run's configuration.
        resume: the run's folder, if it is resumed.
        allow_user_code: whether to import a backbone or a head of one's own that the teacher names.

    Raises:
        UserError: `teacher` is no finished run, is damaged, names code to import, is the run itself, or gives another
            kind of answer.
    """
    if config.teacher is None:
        return None
    run_dir = expanded(config.teacher)
    own = [Path(path).resolve() for path in (resume, config.out_dir) if path is not None]
    if run_dir.resolve() in own:
        raise BadValue(f"`teacher`={config.teacher}: it is the run's own folder: name another run")
    try:
        results = read_results(run_dir)
        run = load_run(run_dir, allow_user_code=allow_user_code, calibrated=False)  # its logits alone count
        sha256 = file_sha256(run_dir / BEST)
    except UserError as error:
        raise type(error)(f"`teacher`={config.teacher}: {error}") from None
    if run.config.data.multilabel != config.data.multilabel:
        kind = "several labels" if run.config.data.multilabel else "one label"
        raise BadValue(
            f"`teacher`={config.teacher}: it was trained with {kind} per image: train both with the same"
            " `data.multilabel`"
        )
    facts = TeacherFacts(
        run_dir=str(run_dir),
        backbone=results.backbone,
        image_size=run.preprocessing.image_size,
        num_parameters=sum(parameter.numel() for parameter in run.classifier.parameters()),
        sha256=sha256,
        metrics=results.metrics,
        fingerprint={name: split.fingerprint for name, split in results.splits.items()},
    )
    return Teacher(run, facts)
