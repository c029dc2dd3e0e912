"""MLflow: in its own default store, `mlflow.db` in the current folder, or where MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from transfer.config.parsing import flatten
from transfer.errors import MissingData
from transfer.lightning import pl
from transfer.markdown import csv_text
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
    from mlflow import MlflowClient

EXPERIMENT = "efficientnet-transfer"
BEST = "best/"  # before the metrics of the best checkpoint: the latest value of a metric is what MLflow shows
_STATUS: dict[End, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_LONGEST_PARAM, _PARAMS_AT_ONCE = 500, 100  # that MLflow accepts
_LOCAL = ("sqlite:", "file:", "/")


class _Logger(pl.loggers.MLFlowLogger):
    """Lightning's, but a server that is away for a while does not end the run, and the tracker says how it ended."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.exceptions import MlflowException

        try:
            super().log_metrics(metrics, step)
        except MlflowException as error:
            warnings.warn(f"MLflow misses the metrics of a step: {' '.join(str(error).split())[:300]}", stacklevel=2)

    def finalize(self, status: str = "success") -> None: ...


class MlflowTracker(Tracker):
    """Follows a run in MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME hold.

    Raises:
        MissingData: the store cannot be reached or refuses the run.
    """

    def __init__(self, facts: Facts) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it creates
        self._facts = facts
        known = read_identity(facts.run_dir, "mlflow")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or known.get("uri") or mlflow.get_tracking_uri()
        try:
            self._client = mlflow.MlflowClient(uri)
            self._id = _resumed(self._client, known) or _begin(self._client, facts)
            _log_params(self._client, self._id, facts.settings)
        except MlflowException as error:
            raise refusal("mlflow", error) from None
        # An address of a server may hold a password; the next part of the run gets it from the environment, too.
        save_identity(facts.run_dir, "mlflow", {"id": self._id, **({"uri": uri} if uri.startswith(_LOCAL) else {})})
        super().__init__([_Logger(tracking_uri=uri, run_id=self._id)], (MlflowException,))

    def show_best(self, metrics: Mapping[str, float], step: int) -> None:
        self._log_metrics({f"{BEST}{name}": value for name, value in flat_metrics({"val": metrics}).items()}, step)

    def _log_outcome(self, outcome: Outcome) -> None:
        super()._log_outcome(outcome)
        results, split, client = outcome.results, outcome.split, self._client
        self.show_best(results.metrics.get("val", {}), last_step(results))
        self._log_metrics(speed(results), last_step(results))
        if outcome.confusions:
            table = csv_text([each._asdict() for each in outcome.confusions])
            client.log_text(self._id, table, f"{split}_confusions.csv")
        rows = []
        for number, one in enumerate(outcome.mistakes):
            picture = "" if one.picture is None else f"{number:02d}.png"
            if one.picture is not None:
                client.log_image(self._id, one.picture, f"{split}_worst_photos/{picture}")
            rows.append({"picture": picture, **{k: v for k, v in vars(one).items() if k != "picture"}})
        if rows:
            client.log_text(self._id, csv_text(rows), f"{split}_worst_photos/photos.csv")
        for report in report_files(self._facts):
            client.log_artifact(self._id, str(report))
        for file in model_files(results.run_dir) if self._facts.log_model else ():
            client.log_artifact(self._id, str(file), "model")

    def _close(self, end: End) -> None:
        self._client.set_terminated(self._id, _STATUS[end])


def _resumed(client: MlflowClient, known: Mapping[str, str]) -> str | None:
    """Return the id of the run that the folder remembers, which goes on; None of a new one, or if it is gone."""
    from mlflow.exceptions import MlflowException

    if "id" not in known:
        return None
    try:
        client.update_run(known["id"], status="RUNNING")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        warnings.warn(f"MLflow has no run {known['id']} any more: a new one goes on", stacklevel=2)
        return None
    return known["id"]


def _begin(client: MlflowClient, facts: Facts) -> str:
    """Begin a run in the experiment, which is made if there is none, and return the run's id."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    if found is None:
        with suppress(MlflowException):  # another process has made it meanwhile
            client.create_experiment(name)
        found = client.get_experiment_by_name(name)
    if found is None:
        raise MissingData(f"`logger`=mlflow: no experiment {name!r} could be made")
    group = {} if facts.group is None else {"group": facts.group}
    return client.create_run(found.experiment_id, run_name=facts.name, tags={**facts.tags, **group}).info.run_id


def _log_params(client: MlflowClient, run_id: str, settings: Mapping[str, Any]) -> None:
    """Log the settings that the run does not have; MLflow refuses to change one, such as the devices, on resuming."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    params = [Param(k, str(v)[:_LONGEST_PARAM]) for k, v in flatten(settings).items() if k not in known]
    for start in range(0, len(params), _PARAMS_AT_ONCE):
        client.log_batch(run_id, params=params[start : start + _PARAMS_AT_ONCE])
