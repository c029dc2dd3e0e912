"""The last pass of a run, over val: how sure its answers may be, and what they are.

It leaves `calibration.safetensors`, a summary for results.json, and `val_predictions.npz`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.calibration.temperature import as_probabilities, is_inside
from transfer.errors import BadValue, UserError
from transfer.run_files import CALIBRATION, PROBE, RESULTS, VAL_PREDICTIONS

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from transfer.calibration.calibration import Calibration
    from transfer.commands.evaluate_data import Subject
    from transfer.lightning import pl
    from transfer.networks.classifier import Classifier
    from transfer.probe.features import Features
    from transfer.probe.linear import Probe
    from transfer.runs.folder import RunFolder
    from transfer.runs.predictor import Run
    from transfer.training.module import TransferModule

_SETS = (0.9, 0.95)  # coverages of the summary
_POINTS = 20  # of the risk-coverage curve in the summary


def calibrate_run(
    run: RunFolder, trainer: pl.Trainer, module: TransferModule, data: DataModule
) -> dict[str, Any] | None:
    """Calibrate the best checkpoint on val, write the files, and return a summary; None where there is no val.

    Only the first process computes, on its share of val and as many batches as its validations had.
    """
    from transfer.runs.calibrating import calibrate

    if "val" not in data.dataset.splits or not trainer.limit_val_batches or not trainer.is_global_zero:
        return None
    loader, limit = data.eval_dataloader("val"), trainer.limit_val_batches
    num_batches = min(limit if isinstance(limit, int) else int(limit * len(loader)), len(loader))
    fit = partial(
        calibrate,
        module.classifier,
        islice(loader, num_batches),
        data.normalize,
        trainer.strategy.root_device,
    )
    measured: list[str] = []
    if not data.stream:  # whose images have no names without being fetched
        names, world = data.dataset.split("val").image_names(), trainer.world_size
        share = min(-(-len(names) // world), num_batches * data.batch_size)
        measured = [names[place] for place in data.test_order("val", world)[:share]]
    return _kept(run.path, fit, measured, data.class_names, module.classifier.threshold)


def calibrate_probe(
    run: RunFolder, classifier: Classifier, found: Probe, val: Features, data: DataModule
) -> dict[str, Any] | None:
    """Calibrate a probe on val, write the files, and return a summary.

    The probe's head is fitted to val, too, so its own answers there are too sure. The logits are those of the fit to
    train alone with the same penalty.
    """
    from transfer.calibration.calibration import fit_calibration
    from transfer.runs.calibrating import head_digest

    logits, labels, features = (tensor.cpu().float().numpy() for tensor in (found.val_logits, val.labels, val.features))
    fit = partial(fit_calibration, logits, labels, features, head_digest(classifier.head))
    return _kept(run.path, fit, data.dataset.split("val").image_names(), data.class_names)


def check_calibrates(run_dir: Path, checkpoint: str, split: str | None) -> str:
    """Return the split by which a run is calibrated again, `val`.

    Raises:
        MissingData: it is no finished run.
        BadValue: another split or checkpoint is given, or it is a probe, whose head is fitted to val, too.
    """
    from transfer.runs.results import read_results

    read_results(run_dir)
    for name, given, needed in (("split", split or "val", "val"), ("checkpoint", checkpoint, "best")):
        if given != needed:
            raise BadValue(f"`calibrate`=True with `{name}`={given} (allowed: {needed})")
    if (run_dir / PROBE).exists():
        raise BadValue(f"`calibrate`=True: {run_dir} is a probe, whose head is fitted to val, too: run probe again")
    return "val"


def calibrate_again(run: Run, subject: Subject, loading: Mapping[str, Any]) -> str:
    """Write the calibration of a finished run anew, its summary into results.json, and return lines about it.

    Args:
        run: the run, whose classifier is moved to a GPU where there is one.
        subject: its own val.
        loading: options of the loader in place of the run's.

    Raises:
        BadValue: the images are not the run's val, or too few.
    """
    import torch

    from datamodules.datamodule import DataModule
    from transfer.calibration.file import save_calibration
    from transfer.runs.calibrating import calibrate
    from transfer.runs.results import save_calibration_summary

    if not subject.own or "val" in subject.changed:
        raise BadValue(f"`calibrate`=True: {subject.name} is not the val split of {run.run_dir}")
    data = DataModule(subject.dataset, run.preprocessing, **{**run.config.loader_options(), **loading})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    calibration = calibrate(run.classifier, data.eval_dataloader("test"), data.normalize, device)
    summary = summarize(calibration)
    save_calibration(calibration, run.run_dir / CALIBRATION)
    save_calibration_summary(run.run_dir, summary)
    return f"{describe(summary)}\nwritten: {run.run_dir / CALIBRATION}, and its summary to {RESULTS}"


def _kept(
    run_dir: Path,
    fit: Callable[[], Calibration],
    names: Sequence[str],
    class_names: Sequence[str],
    threshold: float | None = None,
) -> dict[str, Any] | None:
    """Write a calibration and its answers into a run's folder, and return its summary; without one, warn and go on.

    Args:
        run_dir: the run's folder.
        fit: computes the calibration.
        names: where each image of val is, in the order of its logits.
        class_names: names of the classes.
        threshold: see `make_predictions`.
    """
    import torch

    from transfer.calibration.calibration import drawn_images
    from transfer.calibration.file import save_calibration
    from transfer.runs.test_record import make_predictions

    paths = run_dir / CALIBRATION, run_dir / VAL_PREDICTIONS
    for path in paths:
        path.unlink(missing_ok=True)  # of an earlier end
    try:
        calibration = fit()
        save_calibration(calibration, paths[0])
        probabilities = as_probabilities(calibration.logits, calibration.multilabel).astype(np.float32)
        drawn = [names[place] for place in drawn_images(len(names), len(class_names))]
        images = drawn if len(drawn) == len(probabilities) else []
        make_predictions(calibration.targets, probabilities, images, class_names, threshold).save(paths[1])
        return summarize(calibration)
    except (UserError, OSError, MemoryError, torch.OutOfMemoryError) as error:  # the results are not lost for it
        for path in paths:
            path.unlink(missing_ok=True)
        warnings.warn(f"the run is not calibrated: {error}", stacklevel=2)
        return None


def summarize(calibration: Calibration) -> dict[str, Any]:
    """Return what results.json holds of a calibration.

    Its numbers are those of `TemperatureFit`; `sets`, by their coverage, as in `SetFacts`, where val has enough images;
    and `risk_coverage`, pairs of coverage and error, with `aurc`, the mean error over all coverages.
    """
    fit = asdict(calibration.fit)
    del fit["by_fold"]
    found = {"num_images": len(calibration.logits), "references": len(calibration.references), **fit}
    if calibration.multilabel:
        return found
    sets: dict[str, Any] = {}
    for coverage in _SETS:
        with suppress(BadValue):  # too few images
            if (facts := calibration.measure_sets(coverage)) is not None:
                sets[str(coverage)] = asdict(facts)
    shares, errors = calibration.risk_coverage()
    points = np.unique(np.linspace(0, len(shares) - 1, _POINTS + 1).round().astype(int)[1:])
    curve = [[round(float(shares[i]), 4), round(float(errors[i]), 4)] for i in points]
    return {**found, "sets": sets, "aurc": float(errors.mean()), "risk_coverage": curve}


def describe(summary: dict[str, Any] | None) -> str:
    """Return the line about a run's calibration for the terminal; empty without one."""
    if summary is None:
        return ""
    errors = f"expected calibration error on val {summary['ece_before']:.1%}"
    if summary["temperature"] == 1:
        if not is_inside(summary["fitted"]):
            way = "lower" if summary["fitted"] < 1 else "higher"
            return f"calibration: {errors}; no temperature: the {way} it is, the better it fits val"
        return f"calibration: {errors}; a temperature of {summary['fitted']:.2g} would bring no gain on images left out"
    return (
        f"calibration: {errors}, {summary['ece_after']:.1%} with a temperature of {summary['temperature']:.2g}"
        " (cross-fitted; it is in the probabilities of predict, not in the metrics)"
    )
