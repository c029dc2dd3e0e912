"""The sections of the page: a row each, in the order in which they are shown."""

from __future__ import annotations

from transfer.report.calibration_section import calibration_section
from transfer.report.class_sections import balance_section, classes_section, confusion_section
from transfer.report.layout import Context, Section
from transfer.report.metric_sections import cost_section, curves_section, metrics_section
from transfer.report.run_content import RunContent
from transfer.report.settings import repeating_command, settings_table
from transfer.report.shots import data_uri, unsure_shots, worst_shots
from transfer.report.verdict import find_verdict

RELOAD_SECONDS = 5  # after which the page of a run that goes on loads itself anew


def _progress(content: RunContent) -> Context:
    return None if content.progress is None else {"progress": content.progress, "seconds": RELOAD_SECONDS}


def _verdict(content: RunContent) -> Context:
    if content.progress is not None:
        return None
    return {"verdict": find_verdict(content), "remarks": content.remarks}


def _photos(content: RunContent) -> Context:
    answers, facts = content.answers, content.facts
    if answers is None or answers.probabilities is None:
        return None
    return {
        "worst": worst_shots(content),
        "unsure": unsure_shots(content),
        "answers": answers,
        "has_pictures": bool(content.photos.photos) and facts.split == answers.split,
        "facts": facts,
    }


def _batch(content: RunContent) -> Context:
    pictures = [data_uri(jpeg) for jpeg in content.photos.batch]
    labels = content.photos.facts.batch_labels
    return {"batch": list(zip(pictures, labels, strict=False))} if pictures else None


def _doctor(content: RunContent) -> Context:
    return {"findings": content.findings} if content.findings else None


def _settings(content: RunContent) -> Context:
    config = content.results.config
    return {"settings": settings_table(config, content.is_probe)} if config else None


def _command(content: RunContent) -> Context:
    config = content.results.config
    return {"command": repeating_command(config, content.is_probe)} if config else None


def _test(content: RunContent) -> Context:
    if "test" not in content.results.splits:
        return None
    shown = content.answers is not None and content.answers.split == "test"
    return {"reads": content.test_reads, "shows_test": shown}


SECTIONS: tuple[Section[RunContent], ...] = (
    Section("progress", "So far", _progress),
    Section("verdict", "Verdict", _verdict),
    Section("curves", "Curves", curves_section),
    Section("metrics", "Metrics", metrics_section),
    Section("confusion", "Confusions", confusion_section),
    Section("photos", "Worst and most uncertain photos", _photos),
    Section("classes", "Classes", classes_section),
    Section("calibration", "Calibration", calibration_section),
    Section("batch", "Training images as the network saw them", _batch),
    Section("doctor", "The doctor's findings", _doctor),
    Section("balance", "Class balance", balance_section),
    Section("cost", "Time, speed and memory", cost_section),
    Section("settings", "Settings that differ from the defaults", _settings),
    Section("command", "Command to repeat", _command),
    Section("test", "The test split", _test),
)
