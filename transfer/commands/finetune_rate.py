"""The learning rate that a run takes from a sweep, and the curve that it leaves in the run's folder."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from transfer.config.schema import FinetuneConfig
from transfer.files import write_text
from transfer.run_files import RATE_CURVE, RATE_PICTURE

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from transfer.runs.folder import RunFolder
    from transfer.training.module import TransferModule
    from transfer.training.rate_finder import RateCurve


def find_rate(config: FinetuneConfig, run: RunFolder, module: TransferModule, data: DataModule) -> float:
    """Return the learning rate that a sweep suggests, print it, and leave the sweep's curve in the run's folder.

    Nothing else changes, random states included.

    Raises:
        UserError: the sweep suggests none.
    """
    from transfer.runs.folder import is_main_process
    from transfer.training.interruption import StopAtOnce
    from transfer.training.rate_finder import sweep_rates

    curve = sweep_rates(config, module, data, [StopAtOnce(run.interrupted)], data.preprocessing.image_size)
    if not is_main_process():
        return curve.suggestion()
    shown = save_curve(run, curve)
    rate = curve.suggestion()
    not_used = f"--optim.lr {config.optim.lr:g} is not used"
    print(f"learning-rate finder: {rate:g} after {len(curve.rates)} steps ({not_used}); {shown}", flush=True)
    return rate


def save_curve(run: RunFolder, curve: RateCurve) -> str:
    """Write the curve as a table and as a picture, and return the path to look at."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("lr", "loss", "smoothed"))
    writer.writerows(zip(curve.rates.tolist(), curve.losses.tolist(), curve.smooth.tolist(), strict=True))
    write_text(run.path / RATE_CURVE, table.getvalue())
    from transfer.commands.finetune_rate_figure import draw_curve

    return str(draw_curve(curve, run.path / RATE_PICTURE))
