"""What a bundle's record says of the runs that it is made of."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules import get_sheet
from datamodules.dataset.sheet import Sheet
from transfer.bundle.member import Data, Member, Teacher, Weights
from transfer.bundle.record import Calibrated
from transfer.bundle.tensors import describe_network
from transfer.calibration.calibration import Calibration
from transfer.environment import environment, versions
from transfer.runs.predictor import Run
from transfer.runs.results import Results
from transfer.weights.rows import WEIGHTS

PACKAGES = (
    *("efficientnet-transfer", "torch", "pillow", "simplejpeg", "opencv-python-headless", "numpy"),
    *("onnx", "onnxruntime", "openvino", "nncf"),
)


def describe_run(run: Run, results: Results, temperature: float, has_metrics: bool) -> Member:
    """Return what is known of a run.

    Args:
        run: the run.
        results: its results.
        temperature: what its logits are divided by before probabilities are averaged.
        has_metrics: whether its metrics are those of the checkpoint that was loaded.
    """
    return Member(
        run="/".join(run.run_dir.resolve().parts[-2:]) if run.run_dir.resolve().name.isdecimal() else name_run(run),
        network=replace(describe_network(run.classifier), teacher=_teacher(results)),
        temperature=temperature,
        weights=_weights(results.weights),
        data=_data(get_sheet(run.config.dataset), run, results),
        metrics={split: finite(found) for split, found in results.metrics.items()} if has_metrics else {},
        intervals=results.intervals if has_metrics else {},
    )


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are numbers."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _teacher(results: Results) -> Teacher | None:
    facts = results.teacher
    if facts is None:
        return None
    shared = {name for name, split in results.splits.items() if facts.fingerprint.get(name) == split.fingerprint}
    return Teacher(
        metrics={name: finite(found) for name, found in facts.metrics.items() if name in shared},
        **{name: getattr(facts, name) for name in ("backbone", "image_size", "num_parameters")},
        **{name: getattr(facts, name) for name in ("milliseconds", "student_milliseconds", "device")},
    )


def describe_calibration(fit: Calibration) -> Calibrated:
    """Return what is known of a calibration."""
    return Calibrated(num_images=len(fit.logits), ece_before=fit.ece_before, ece_after=fit.ece_after)


def name_run(run: Run) -> str:
    """Return the name of a run without its number."""
    return _name(run.run_dir)


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


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python and the packages that write bundles."""
    return {"python": environment()["python"], **versions(PACKAGES)}
