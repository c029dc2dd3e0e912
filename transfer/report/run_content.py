"""What a run's folder holds, read once; what cannot be read becomes a remark on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import strftime
from typing import Any, Literal, TypeVar

from transfer.calibration.calibration import Calibration
from transfer.calibration.file import load_calibration
from transfer.errors import UserError
from transfer.files import read_object, read_rows
from transfer.records import checked
from transfer.report.answers import Answers
from transfer.report.photos import Facts, Photos, read_photos
from transfer.run_files import CALIBRATION, METRICS, PREDICTIONS, VAL_PREDICTIONS
from transfer.runs.results import Results, read_results
from transfer.runs.test_record import num_test_reads, read_predictions

T = TypeVar("T")

DOCTOR = "doctor.json"


@dataclass(frozen=True)
class Finding:
    """A finding of the doctor, and how many images it concerns."""

    severity: Literal["error", "warning", "note"]
    message: str
    count: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a run is that has no results yet.

    Attributes:
        value: how far, in words: `40%`; empty where nobody knows.
        sentence: where it is, and about how long it still takes.
        is_running: whether it goes on; the page then loads itself anew.
        reason: why a run does not go on.
        go_on: the command that continues it.
        time: when this was so.
    """

    value: str
    sentence: str
    is_running: bool = True
    reason: str = ""
    go_on: str | None = None
    time: str = field(default_factory=lambda: strftime("%H:%M:%S"))


@dataclass(frozen=True)
class RunContent:
    """A run as its report sees it.

    Attributes:
        results: its results.
        validations: rows of `metrics.csv`, as numbers; NaN for an empty entry.
        answers: its answers on the split that is looked at: val, or test of a run without answers on val.
        test_answers: its answers on test.
        calibration: what val says about the answers.
        photos: the pictures that the run kept.
        findings: the doctor's, from `doctor.json` in the run's folder or beside its data.
        test_reads: number of times the test split has been read, evaluations included.
        remarks: what could not be read, in words.
        progress: how far it is; None of a finished run.
    """

    results: Results
    validations: list[dict[str, float]] = field(default_factory=list)
    answers: Answers | None = None
    test_answers: Answers | None = None
    calibration: Calibration | None = None
    photos: Photos = field(default_factory=Photos)
    findings: list[Finding] = field(default_factory=list)
    test_reads: int = 0
    remarks: list[str] = field(default_factory=list)
    progress: Progress | None = None

    @property
    def name(self) -> str:
        """The last two parts of the run's path."""
        return "/".join(self.results.run_dir.absolute().parts[-2:])

    @property
    def versions(self) -> str:
        """What computed it, in words; empty where the results do not tell."""
        return describe_versions(self.results.environment)

    @property
    def is_probe(self) -> bool:
        """Whether it is a linear probe."""
        return self.results.probe is not None

    @property
    def facts(self) -> Facts:
        """What is known of the photos; nothing where they are of another split than the answers."""
        facts = self.photos.facts
        return facts if self.answers is not None and facts.split == self.answers.split else Facts()


def describe_versions(environment: Mapping[str, Any]) -> str:
    """Return what computed something, in words that follow its folder; empty where nobody wrote it down."""
    found = environment.get("versions")
    known = found if isinstance(found, dict) else {}
    return "".join(f", {name} {known[name]}" for name in ("efficientnet-transfer", "torch") if name in known)


def read_run_content(run_dir: Path) -> RunContent:
    """Return what a finished run's folder holds, written by this version or an earlier one.

    Raises:
        UserError: the run is not finished, or its `results.json` cannot be read.
    """
    results = read_results(run_dir)
    remarks: list[str] = []

    def found(read: Callable[[], T], otherwise: T, *needed: Path) -> T:
        try:
            return read() if all(path.exists() for path in needed) else otherwise
        except UserError as error:
            remarks.append(str(error))
            return otherwise

    def answers(split: str) -> Answers:
        threshold = 0.5 if results.threshold is None else results.threshold
        read = Answers(split, read_predictions(run_dir, split), threshold)
        assert read.class_names is not None  # looked up here, where an error becomes a remark
        return read

    on_val = found(lambda: answers("val"), None, run_dir / VAL_PREDICTIONS)
    on_test = found(lambda: answers("test"), None, run_dir / PREDICTIONS)
    calibration = run_dir / CALIBRATION
    return RunContent(
        results=results,
        validations=found(lambda: read_validations(run_dir / METRICS), [], run_dir / METRICS),
        answers=on_val or on_test,
        test_answers=on_test,
        calibration=found(lambda: load_calibration(calibration), None, calibration),
        photos=found(lambda: read_photos(run_dir), None) or Photos(),
        findings=found(lambda: read_findings([run_dir, *_data_folder(results)]), []),
        test_reads=max(results.test_reads, found(lambda: num_test_reads(run_dir), 0)),
        remarks=remarks,
    )


def read_validations(path: Path) -> list[dict[str, float]]:
    """Return the rows of a `metrics.csv` as numbers; what is no number is left out.

    Raises:
        DamagedFile: it is no CSV file.
    """
    return [
        {name: number for name, text in row.items() if (number := _number(text)) is not None} for row in read_rows(path)
    ]


def _number(text: str) -> float | None:
    try:
        return float(text or "nan")
    except ValueError:
        return None


def read_findings(folders: Sequence[Path]) -> list[Finding]:
    """Return the findings of the first `doctor.json` in these folders.

    Raises:
        DamagedFile: it is no report of the doctor.
    """
    path = next((folder / DOCTOR for folder in folders if (folder / DOCTOR).is_file()), None)
    return [] if path is None else checked(read_object(path).get("findings", []), list[Finding], path)


def _data_folder(results: Results) -> list[Path]:
    root = results.config.get("data_root")
    return [Path(root)] if isinstance(root, str) else []
