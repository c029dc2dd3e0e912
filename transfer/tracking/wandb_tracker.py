"""Weights & Biases: one run for all parts of a resumed one, whose summary is the best checkpoint, as tested."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.lightning import pl
from transfer.tracking.identity import read_identity, save_identity
from transfer.tracking.tracker import (
    End,
    Facts,
    Outcome,
    Tracker,
    flat_metrics,
    last_step,
    model_files,
    refusal,
    report_files,
    speed,
)

if TYPE_CHECKING:
    import wandb

PROJECT = "efficientnet-transfer"
STEP = "trainer/global_step"
_LONGEST_TAG, _LONGEST_NAME = 64, 128  # that W&B accepts


class WandbTracker(Tracker):
    """Follows a run in W&B: in the run of this process if one was begun, else in one of its own.

    W&B's environment variables hold: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_RUN_GROUP, WANDB_TAGS.

    Raises:
        MissingData: W&B cannot be reached or refuses the run.
    """

    def __init__(self, facts: Facts) -> None:
        import wandb

        self._facts = facts
        self._is_own = wandb.run is None
        if wandb.run is None:
            self._run = _begin(facts)
        else:
            self._run = wandb.run
            self._run.config.update(dict(facts.settings), allow_val_change=True)  # type: ignore[no-untyped-call]
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP, step_sync=True)
        super().__init__([pl.loggers.WandbLogger(experiment=self._run)], (wandb.errors.Error,))

    def show_best(self, metrics: Mapping[str, float], step: int) -> None:
        # The summary would be the last validation otherwise; a sweep chooses by it.
        self._run.summary.update(flat_metrics({"val": metrics}))

    def _log_outcome(self, outcome: Outcome) -> None:
        super()._log_outcome(outcome)
        results = outcome.results
        self._run.summary.update({**flat_metrics(results.metrics), **speed(results)})
        if media := _media(outcome):
            self._run.log({**media, STEP: last_step(results)})
        self._keep("report", report_files(self._facts))
        if self._facts.log_model:
            self._keep("model", model_files(results.run_dir), metadata=flat_metrics(results.metrics))

    def _keep(self, kind: str, files: list[Path], metadata: Mapping[str, float] | None = None) -> None:
        """Keep files as an artifact, `<kind>-<id of the run>`."""
        import wandb

        if not files:
            return
        finite = {name: value for name, value in (metadata or {}).items() if math.isfinite(value)}  # as W&B asks
        artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind, metadata=finite)
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def _close(self, end: End) -> None:
        if self._is_own:
            self._run.finish(exit_code=0 if end == "finished" else 1)


def _begin(facts: Facts) -> wandb.Run:
    """Begin a run, or go on with the one that the folder remembers."""
    import wandb

    known, given = read_identity(facts.run_dir, "wandb"), os.environ
    tags = [*facts.tags.values(), *filter(None, given.get("WANDB_TAGS", "").split(","))]
    try:
        run = wandb.init(
            project=known.get("project") or given.get("WANDB_PROJECT") or PROJECT,
            id=known.get("id") or given.get("WANDB_RUN_ID"),
            resume="allow",
            dir=facts.run_dir,
            name=None if given.get("WANDB_NAME") else facts.name[:_LONGEST_NAME],
            group=None if given.get("WANDB_RUN_GROUP") or not facts.group else facts.group[:_LONGEST_NAME],
            tags=list(dict.fromkeys(tag[:_LONGEST_TAG] for tag in tags)),
            config=dict(facts.settings),
        )
    except wandb.errors.Error as error:
        raise refusal("wandb", error, " (WANDB_MODE=offline needs no account)") from None
    save_identity(facts.run_dir, "wandb", {"id": run.id, "project": run.project})
    return run


def _media(outcome: Outcome) -> dict[str, Any]:
    """Return the confusion matrix and the table of the worst photos, as far as there are any."""
    import wandb

    media: dict[str, Any] = {}
    if outcome.confusions:
        fields = {name: name for name in ("Actual", "Predicted", "nPredictions")}
        media[f"{outcome.split}/confusion_matrix"] = wandb.plot_table(
            vega_spec_name="wandb/confusion_matrix/v1",
            data_table=wandb.Table(columns=list(fields), data=[list(row) for row in outcome.confusions]),
            fields=fields,
            string_fields={"title": f"Confusion matrix on {outcome.split}"},
        )
    if outcome.mistakes:
        rows = [
            [
                None if one.picture is None else wandb.Image(one.picture),
                *(one.image, one.label, one.prediction, one.probability, one.label_probability),
            ]
            for one in outcome.mistakes
        ]
        media[f"{outcome.split}/worst_photos"] = wandb.Table(
            columns=["photo", "image", "label", "prediction", "probability", "label_probability"], data=rows
        )
    return media
