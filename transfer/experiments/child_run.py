"""One fine-tuning run as a child process: started, resumed, or only read."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from transfer.config.parsing import unflatten
from transfer.errors import DamagedFile, Diverged, Interrupted
from transfer.experiments.processes import Children, last_lines, single_process_environment, was_stopped
from transfer.files import read_rows, write_text
from transfer.run_files import BEST, LAST, METRICS, RESULTS
from transfer.runs.results import Results, read_results
from transfer.runs.title import GROUP_VARIABLE, NAME_VARIABLE, folder_title

FINETUNE, PROBE, ALLOW_USER_CODE = ("-m", "transfer", "finetune"), ("-m", "transfer", "probe"), "--allow_user_code"


class RunFailed(Exception):
    """A fine-tuning run ended with an error; the text is the end of its output."""


class RunDiverged(RunFailed):
    """A fine-tuning run ended because its loss was no longer finite, which it would be again."""


def run_command(run_dir: Path, arguments: Sequence[str]) -> list[str] | None:
    """Return the command that brings a run to its results: a new run or a resumed one. None if it is finished.

    The folder of a run that was stopped before its first checkpoint is removed.

    Args:
        run_dir: folder of the run.
        arguments: arguments of finetune for a new run, without `--out_dir`.
    """
    if (run_dir / RESULTS).exists():
        return None
    if (run_dir / LAST).exists():
        return [*FINETUNE, "--resume", str(run_dir), *(word for word in arguments if word == ALLOW_USER_CODE)]
    if run_dir.exists():
        shutil.rmtree(run_dir)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    return [*FINETUNE, *arguments, "--out_dir", str(run_dir)]


def probe_command(run_dir: Path, arguments: Sequence[str]) -> list[str] | None:
    """Return the command that brings a linear probe to its results, None if it is finished; one that was stopped begins
    again, with the features that it has computed.

    Args:
        run_dir: folder of the probe.
        arguments: arguments of probe, without `--out_dir`.
    """
    if (run_dir / RESULTS).exists():
        return None
    if run_dir.exists():
        shutil.rmtree(run_dir)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    return [*PROBE, *arguments, "--out_dir", str(run_dir)]


def final_metrics(run_dir: Path) -> dict[str, float]:
    """Return the metrics on val at the end of a finished run, not those of its best validation.

    The weights at the end are those that a final fit, which has no val split, is tested with.
    """
    path = run_dir / METRICS
    row = (read_rows(path) or [{}])[-1]
    try:
        return {name.removeprefix("val/"): float(value) for name, value in row.items() if name.startswith("val/")}
    except ValueError:
        raise DamagedFile(f"{path}: damaged: its last row is {row}") from None


def quoted(metrics: Mapping[str, float], run: Results) -> float:
    """Return the metric of a finished run that the literature quotes for its dataset.

    Raises:
        DamagedFile: it is not among the metrics.
    """
    if run.quoted_metric not in metrics:
        raise DamagedFile(f"{run.run_dir}: no {run.quoted_metric} among its metrics ({', '.join(metrics) or 'none'})")
    return metrics[run.quoted_metric]


def drop_checkpoints(run_dir: Path) -> None:
    """Delete the checkpoints of a finished run of which only the metrics are needed."""
    for checkpoint in (BEST, LAST):
        (run_dir / checkpoint).unlink(missing_ok=True)


@dataclass(frozen=True)
class Worker:
    """Runs finetune for one job, one run after the other; who opened the experiment's folder has allowed its code.

    Attributes:
        folder: folder of the experiment.
        children: starts the runs.
        lock: file descriptor of the job's lock, which the runs inherit.
        go_on: command that the user types after an interruption.
    """

    folder: Path
    children: Children
    lock: int
    go_on: str

    def finetune(
        self,
        name: str,
        configuration: Mapping[str, Any],
        group: str | None = None,
        watch: Callable[[], None] | None = None,
    ) -> Results:
        """Bring a run to its results from wherever an earlier attempt ended: start it, resume it, or only read it.

        Its configuration and output lie beside its folder, in NAME.yaml and NAME.log.

        Args:
            name: path of the run's folder below the experiment's.
            configuration: dotted fields that differ from finetune's defaults.
            group: what the run belongs to where it is followed; None: the experiment.
            watch: called again and again while it runs.

        Raises:
            RunDiverged: the training loss was no longer finite.
            RunFailed: the run ended without results.
            DamagedFile: its results cannot be read.
            Interrupted: Ctrl-C or SIGTERM.
        """
        words = ["--config", str(self._recipe(name)), ALLOW_USER_CODE]
        title = name.partition("/")[2] or name
        names = {NAME_VARIABLE: title, GROUP_VARIABLE: group or folder_title(self.folder)}
        return self._finish(name, configuration, run_command(self.folder / name, words), names, watch)

    def probe(self, name: str, configuration: Mapping[str, Any]) -> Results:
        """Bring a linear probe to its results, as `finetune` does a run; `configuration` differs from probe's defaults.

        Raises:
            RunFailed, DamagedFile, Interrupted: see `finetune`.
        """
        words = ["--config", str(self._recipe(name))]
        return self._finish(name, configuration, probe_command(self.folder / name, words), {})

    def _recipe(self, name: str) -> Path:
        return (self.folder / name).with_name(f"{Path(name).name}.yaml")

    def _finish(
        self,
        name: str,
        configuration: Mapping[str, Any],
        command: Sequence[str] | None,
        environment: Mapping[str, str],
        watch: Callable[[], None] | None = None,
    ) -> Results:
        """Run a command, if there is one, and return the results of the run."""
        run_dir, recipe = self.folder / name, self._recipe(name)
        log = recipe.with_suffix(".log")
        if command:
            write_text(recipe, yaml.safe_dump(unflatten(configuration), sort_keys=False))
            self.children.start(command, single_process_environment(**environment), log, self.lock)
            _, status = self.children.wait_any(watch)
            if not (run_dir / RESULTS).exists():
                if self.children.stopped is not None or was_stopped(status):
                    raise Interrupted(self.children.stopped or signal.SIGTERM, self.go_on)
                if status == Diverged.STATUS:
                    raise RunDiverged(f"{name}: diverged\n{last_lines(log, 1)}")
                reason = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
                raise RunFailed(f"{name}: {reason}\n{last_lines(log)}")
        return read_results(run_dir)
