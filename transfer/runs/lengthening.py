"""More epochs or steps for a run, finished or not; what it left at its first end is kept under other names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transfer.config.command_line import load_config, save_config
from transfer.config.resuming import is_longer
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.files import read_object, write_json
from transfer.records import checked
from transfer.run_files import (
    CALIBRATION,
    CONFIG,
    LAST,
    LENGTHENED,
    PREDICTIONS,
    REPORT,
    REPORT_PHOTOS,
    RESULTS,
    VAL_PREDICTIONS,
)

# Results last: with them the run counts as finished.
_LEFT_AT_END = (CALIBRATION, PREDICTIONS, VAL_PREDICTIONS, REPORT_PHOTOS, REPORT, RESULTS)


@dataclass(frozen=True, kw_only=True)
class Lengthening:
    """A length that a run had before.

    Attributes:
        step: optimizer step from which the run has followed the schedule of its new length.
        max_epochs, max_steps: the length until then.
        results: the file of the results at that end; None for a run that had not reached it.
    """

    step: int
    max_epochs: int
    max_steps: int
    results: str | None

    def __str__(self) -> str:
        end = f"epoch {self.max_epochs}" if self.max_steps == -1 else f"step {self.max_steps}"
        kept = f"; the results at that end are in {self.results}" if self.results else ""
        rule = "from there on its schedule is the new length's"
        return f"lengthened at step {self.step} (it was to end after {end}{kept}): {rule}"


def lengthen(run_dir: Path, config: FinetuneConfig) -> None:
    """Give a run the longer training of a configuration, and rename what it left at its end; else change nothing.

    An epoch that `max_steps` ended counts as a whole one. Killed in the middle, it can be called again.

    Args:
        run_dir: the run's folder.
        config: the run's configuration, perhaps with more epochs or steps.

    Raises:
        BadValue: the run would still have nothing to train.
    """
    before = load_config(run_dir / CONFIG).trainer
    if not is_longer(before, config.trainer):
        return
    step = _checked_step(run_dir, config)
    kept = {name: _at(step, name) for name in _LEFT_AT_END}
    finished = (run_dir / RESULTS).exists() or (run_dir / kept[RESULTS]).exists()
    results = kept[RESULTS] if finished else None
    new = Lengthening(step=step, max_epochs=before.max_epochs, max_steps=before.max_steps, results=results)
    earlier = [entry for entry in read_lengthenings(run_dir) if entry.step < step]
    write_json(run_dir / LENGTHENED, {"lengthened_from": [asdict(entry) for entry in [*earlier, new]]})
    for name in _LEFT_AT_END:
        if finished and (run_dir / name).exists():
            (run_dir / name).replace(run_dir / kept[name])
    save_config(config, run_dir / CONFIG)


def read_lengthenings(run_dir: Path) -> list[Lengthening]:
    """Return the lengths that a run had before, the first one first."""
    path = run_dir / LENGTHENED
    if not path.exists():
        return []
    return checked(read_object(path).get("lengthened_from"), list[Lengthening], path)


def _at(step: int, name: str) -> str:
    path = Path(name)
    return f"{path.stem}_step_{step}{path.suffix}"


def _checked_step(run_dir: Path, config: FinetuneConfig) -> int:
    """Return the step of the last checkpoint, from which there must be something left to train."""
    from transfer.weights.files import read_checkpoint

    trainer, last = config.trainer, run_dir / LAST
    if not last.exists():
        return 0
    checkpoint = read_checkpoint(last)
    step, epochs = int(checkpoint["global_step"]), int(checkpoint["epoch"]) + 1
    callbacks: dict[str, dict[str, Any]] = checkpoint["callbacks"]
    if stopped := next((c["stopped_epoch"] for c in callbacks.values() if c.get("stopped_epoch")), None):
        raise BadValue(
            f"`resume`={run_dir}: `early_stopping`={config.early_stopping} ended the run in epoch {stopped}, and would"
            " end a longer one there: start another run without it"
        )
    if 0 < trainer.max_steps <= step:
        raise BadValue(f"`resume`={run_dir}: `trainer.max_steps`={trainer.max_steps} ended the run: raise it, too")
    if (run_dir / RESULTS).exists() and 0 < trainer.max_epochs <= epochs:
        raise BadValue(f"`resume`={run_dir}: `trainer.max_epochs`={trainer.max_epochs} ended the run: raise it, too")
    return step
