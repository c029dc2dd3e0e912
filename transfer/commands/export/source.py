"""What a bundle is made of: a finished run, or several, with images of their data, or another bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer.bundle.folder import BundleFolder
from transfer.bundle.member import Member
from transfer.bundle.record import Record
from transfer.bundle.tensors import read_network
from transfer.bundle.writing import Source
from transfer.commands.export.facts import describe_calibration, describe_run, name_run, package_versions
from transfer.commands.export.images import find_examples, golden_files, read_images, train_pixels
from transfer.commands.export.together import check_together, measure_together
from transfer.config.command_line import load_config
from transfer.config.recipes import user_code
from transfer.environment import environment
from transfer.errors import BadValue
from transfer.networks.ensemble import Ensemble
from transfer.networks.user_code import is_import_path
from transfer.run_files import CALIBRATION, CONFIG
from transfer.runs.predictor import Run, load_run
from transfer.runs.results import Results, read_results


def from_bundle(bundle: BundleFolder) -> Source:
    """Return what is needed to write a bundle again, after checking all its files.

    Raises:
        MissingData, DamagedFile: a file is missing or was changed.
    """
    bundle.check_files()
    fit = bundle.file(CALIBRATION).read_bytes() if CALIBRATION in bundle.record.files else None
    record = replace(bundle.record, versions=package_versions(), git_commit=environment()["git_commit"])
    return Source(read_network(bundle), record, calibration=fit, former=bundle)


def from_runs(
    run_dirs: Sequence[Path], golden: str | None, checkpoint: str, data_root: Path | None, needs_train: bool
) -> tuple[Source, list[str]]:
    """Return what the bundle of a run, or of the average of several, is made of, and the photos that leave with it.

    Images are those of the first run.

    Args:
        run_dirs: the runs' folders.
        golden: `photos`, `noise`, or None: photos where there is a val split.
        checkpoint: `best` or `last`.
        data_root: where their data lie now.
        needs_train: whether 8 bits are written.

    Raises:
        MissingData: one is no finished run, or the data are needed and not there.
        BadValue: a network is code of the user's own, the runs do not go together, or photos are asked for where there
            is no val split.
        DamagedFile: a file of a run is damaged.
    """
    opened = [_open(run_dir, checkpoint) for run_dir in run_dirs]
    runs = [run for run, _ in opened]
    check_together(runs)
    first, several = runs[0], len(runs) > 1
    temperatures = [run.temperature if several else 1.0 for run in runs]
    network = Ensemble([run.classifier for run in runs], temperatures, first.config.data.multilabel)
    dataset = read_images(first, data_root, golden == "noise" and not needs_train)
    val = None if dataset is None else dataset.splits.get("val")
    files, photos = golden_files(first, val, golden)
    examples = find_examples(runs, val)
    pixels = train_pixels(first, dataset) if needs_train and dataset is not None else None
    members = tuple(
        describe_run(run, results, temperature, has_metrics=checkpoint == "best")
        for (run, results), temperature in zip(opened, temperatures, strict=True)
    )
    record = _record(runs, members, "photos" if photos else "noise")
    fit = None if first.calibration is None else (first.run_dir / CALIBRATION).read_bytes()
    if several:
        record, fit = measure_together(network, opened, dataset, record)
    return Source(network, record, files, examples, pixels, fit), photos


def _open(run_dir: Path, checkpoint: str) -> tuple[Run, Results]:
    results = read_results(run_dir)
    own = [f"`{name}`={path}" for name, path in user_code(load_config(run_dir / CONFIG)) if is_import_path(path)]
    if own:
        raise BadValue(
            f"{run_dir}: {' and '.join(own)} is code of your own: a bundle runs without it, and so cannot hold"
            " this network"
        )
    return load_run(run_dir, f"{checkpoint}.ckpt"), results


def _record(runs: Sequence[Run], members: tuple[Member, ...], golden: Any) -> Record:
    """Return what is known of the first of the runs; formats and files come when they are written."""
    run = runs[0]
    return Record(
        name="+".join(dict.fromkeys(map(name_run, runs))),
        members=members,
        class_names=run.class_names,
        multilabel=run.config.data.multilabel,
        threshold=run.label_threshold or run.threshold,
        temperature=run.temperature,
        separator=run.config.data.label_separator,
        preprocessing=run.preprocessing,
        max_pixels=run.config.data.max_pixels,
        metrics=members[0].metrics,
        intervals=members[0].intervals,
        golden=golden,
        formats={},
        calibration=None if run.calibration is None else describe_calibration(run.calibration),
        versions=package_versions(),
        git_commit=environment()["git_commit"],
    )
