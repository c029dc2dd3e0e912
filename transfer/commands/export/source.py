"""What a bundle is made of: a finished run with images of its data, or another bundle."""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from datamodules import get_sheet
from datamodules.dataset.sheet import ReadOptions, Sheet
from datamodules.dataset.sheet import Source as DataSource
from transfer.bundle.folder import BundleFolder
from transfer.bundle.golden import choose_inputs, noise_files
from transfer.bundle.record import Calibrated, Data, Record, Teacher, Weights
from transfer.bundle.tensors import describe_network, read_classifier
from transfer.bundle.writing import Examples, Source
from transfer.calibration.calibration import Calibration
from transfer.config.command_line import load_config
from transfer.config.recipes import user_code
from transfer.environment import environment, versions
from transfer.errors import BadValue, MissingData
from transfer.images.decode import Pixels, decode_image, read_encoded
from transfer.images.depth import Decoding
from transfer.images.prepare import prepare_pixels
from transfer.networks.user_code import is_import_path
from transfer.run_files import CALIBRATION, CONFIG
from transfer.runs.predictor import Run, load_run
from transfer.runs.results import Results, read_results
from transfer.seen_images import KEY, SeenImages
from transfer.weights.rows import WEIGHTS

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from datamodules.dataset.split import Split

PACKAGES = (
    *("efficientnet-transfer", "torch", "pillow", "simplejpeg", "opencv-python-headless", "numpy"),
    *("onnx", "onnxruntime", "openvino", "nncf"),
)
MOST_COMPARED = 1000  # images of val, from all over
NUM_CALIBRATION = 300  # training images for 8 bits; as many as NNCF takes by default
_BATCH = 32


class Batches(Sequence[list[Pixels]]):
    """Images of a split, decoded a batch at a time, whenever they are asked for.

    Args:
        split: the split.
        positions: which of its images.
        decoding: how they become pixels.
    """

    def __init__(self, split: Split, positions: NDArray[np.int64], decoding: Decoding) -> None:
        self._split, self._positions, self._decoding = split, positions, decoding

    def __len__(self) -> int:
        return math.ceil(len(self._positions) / _BATCH)

    @overload
    def __getitem__(self, index: int) -> list[Pixels]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[list[Pixels]]: ...
    def __getitem__(self, index: int | slice) -> list[Pixels] | Sequence[list[Pixels]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        encoded = [self._split.encoded(int(p)) for p in self._positions[index * _BATCH : (index + 1) * _BATCH]]
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda source: decode_image(source, self._decoding), encoded))


def from_bundle(bundle: BundleFolder) -> Source:
    """Return what is needed to write a bundle again, after checking all its files.

    Raises:
        MissingData, DamagedFile: a file is missing or was changed.
    """
    bundle.check_files()
    fit = bundle.file(CALIBRATION).read_bytes() if CALIBRATION in bundle.record.files else None
    record = replace(bundle.record, versions=_versions(), git_commit=environment()["git_commit"])
    return Source(read_classifier(bundle), record, calibration=fit, former=bundle)


def from_run(
    run_dir: Path, golden: str | None, checkpoint: str, data_root: Path | None, needs_train: bool
) -> tuple[Source, list[str]]:
    """Return what a run's bundle is made of, and the names of the photos that leave with it.

    Args:
        run_dir: the run's folder.
        golden: `photos`, `noise`, or None: photos where there is a val split.
        checkpoint: `best` or `last`.
        data_root: where its data lie now.
        needs_train: whether 8 bits are written.

    Raises:
        MissingData: it is no finished run, or its data are needed and not there.
        BadValue: its network is code of the user's own, or photos are asked for where there is no val split.
        DamagedFile: a file of it is damaged.
    """
    results = read_results(run_dir)
    own = [f"`{name}`={path}" for name, path in user_code(load_config(run_dir / CONFIG)) if is_import_path(path)]
    if own:
        raise BadValue(
            f"{run_dir}: {' and '.join(own)} is code of your own: a bundle runs without it, and so cannot hold"
            " this network"
        )
    run = load_run(run_dir, f"{checkpoint}.ckpt")
    dataset = _read_images(run, data_root, golden == "noise" and not needs_train)
    val = None if dataset is None else dataset.splits.get("val")
    if golden == "photos" and val is None:
        raise BadValue(f"`golden`=photos: {run_dir} has no val split; `golden`=noise takes noise")
    chosen = [] if val is None or golden == "noise" else choose_inputs(val.labels.numpy())
    files = noise_files() if val is None or not chosen else [_content(val, index) for index in chosen]
    photos = [] if val is None else [val.image_name(index) for index in chosen]
    decoding = run.decoding
    pixels = None
    if needs_train:
        assert dataset is not None
        train = dataset.split("train")
        batches = Batches(train, _spread(len(train), NUM_CALIBRATION), decoding)
        pixels = np.stack([prepare_pixels(image, run.preprocessing) for batch in batches for image in batch])
    examples = None
    if val is not None and len(val):
        positions = _spread(len(val), MOST_COMPARED)
        seen = SeenImages.from_text(run.data.get(KEY))
        num_seen = 0 if seen is None else seen.count(val.ids()[positions])
        examples = Examples(Batches(val, positions, decoding), val.labels.numpy()[positions], num_seen)
    record = _record(run, results, "photos" if photos else "noise", checkpoint == "best")
    fit = None if run.calibration is None else (run.run_dir / CALIBRATION).read_bytes()
    return Source(run.classifier, record, files, examples, pixels, fit), photos


def _read_images(run: Run, data_root: Path | None, may_lack: bool) -> Dataset | None:
    """Return the run's data; None where they are not there and need not be."""
    from datamodules.dataset.loaded import read_dataset

    options = run.config.read_options() | ({} if data_root is None else {"data_root": data_root})
    try:
        dataset = read_dataset(DataSource(get_sheet(run.config.dataset), ReadOptions(**options)))
    except MissingData as error:
        if may_lack:
            warnings.warn(
                f"without the run's images: formats are compared on the golden inputs alone ({error})", stacklevel=2
            )
            return None
        raise MissingData(
            f"{error}; say where the run's data lie now with `data_root`, or leave them out with `golden`=noise"
        ) from None
    dataset.check_same_data(run.data)
    return dataset


def _content(split: Split, index: int) -> bytes:
    return read_encoded(split.encoded(index))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return up to so many positions from all over."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _record(run: Run, results: Results, golden: Any, has_metrics: bool) -> Record:
    """Return what is known of a run; formats and files come when they are written."""
    return Record(
        name=_name(run.run_dir),
        network=replace(describe_network(run.classifier), teacher=_teacher(results)),
        class_names=run.class_names,
        multilabel=run.config.data.multilabel,
        threshold=run.label_threshold or run.threshold,
        temperature=run.temperature,
        separator=run.config.data.label_separator,
        preprocessing=run.preprocessing,
        max_pixels=run.config.data.max_pixels,
        metrics=_finite(results.metrics) if has_metrics else {},
        intervals=results.intervals if has_metrics else {},
        weights=_weights(results.weights),
        data=_data(get_sheet(run.config.dataset), run, results),
        golden=golden,
        formats={},
        calibration=None if run.calibration is None else _calibrated(run.calibration),
        versions=_versions(),
        git_commit=environment()["git_commit"],
    )


def _finite(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        split: {name: value for name, value in found.items() if math.isfinite(value)}
        for split, found in metrics.items()
    }


def _teacher(results: Results) -> Teacher | None:
    facts = results.teacher
    if facts is None:
        return None
    shared = {name for name, split in results.splits.items() if facts.fingerprint.get(name) == split.fingerprint}
    return Teacher(
        metrics=_finite({name: found for name, found in facts.metrics.items() if name in shared}),
        **{name: getattr(facts, name) for name in ("backbone", "image_size", "num_parameters")},
        **{name: getattr(facts, name) for name in ("milliseconds", "student_milliseconds", "device")},
    )


def _calibrated(fit: Calibration) -> Calibrated:
    return Calibrated(num_images=len(fit.logits), ece_before=fit.ece_before, ece_after=fit.ece_after)


def _name(run_dir: Path) -> str:
    """Return the name of a run without its number."""
    folder = run_dir.resolve()
    return folder.parent.name if folder.name.isdecimal() else folder.name


def _weights(found: Mapping[str, Any] | None) -> Weights | None:
    if found is None:
        return None
    row = WEIGHTS.get(found["name"]) or WEIGHTS.get(found.get("trained_like", ""))
    is_public = row is not None and row.name == found["name"]
    return Weights(
        name=Path(found["name"]).name,
        sha256=found["sha256"],
        trained_on=found["trained_on"],
        licence=row.license if row is not None and is_public and row.license != "unknown" else None,
    )


def _data(sheet: Sheet, run: Run, results: Results) -> Data:
    hub_id = run.config.data.hub_id or (sheet.copies[0].id if sheet.copies else None)
    return Data(
        name=_name(Path(run.config.data_root)) if sheet.name == "folder" and run.config.data_root else sheet.name,
        hub_id=hub_id,
        licence=_licence(sheet),
        fingerprint=dict(run.data["fingerprint"]),
        sizes={name: facts.size for name, facts in results.splits.items()},
    )


def _licence(sheet: Sheet) -> str | None:
    """Return what the data sheet, the docstring of a sheet's module, says of the licence; None: nothing."""
    found = re.search(r"^Licence: (.+?)\.?$", sys.modules[type(sheet).__module__].__doc__ or "", re.MULTILINE)
    return found[1] if found else None


def _versions() -> dict[str, str | None]:
    return {"python": environment()["python"], **versions(PACKAGES)}
