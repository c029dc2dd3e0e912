"""Results: written, read again, and those of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transfer.errors import DamagedFile, UserError
from transfer.runs.results import SCHEMA_VERSION, Metrics, ProbeFit, Results, SplitFacts, last_results, read_results

FIRST_VERSION = Path(__file__).parent / "first_version_results.json"


def make_results(run_dir: Path, probe: ProbeFit | None = None) -> Results:
    return Results(
        run_dir=run_dir,
        command=["finetune"],
        dataset="digits",
        backbone="lite0",
        metrics={"val": Metrics({"top1": 0.5, "loss": 1.25}), "test": Metrics({"top1": 0.75})},
        splits={"test": SplitFacts(size=4, fingerprint="ab", class_counts=[1, 3])},
        environment={"python": "3.11", "versions": {"torch": "2"}, "git_commit": None, "hardware": {"cores": 2}},
        probe=probe,
    )


PROBE = ProbeFit(
    penalty=0.1, val_metrics=[{"penalty": 0.1, "top1": 0.5}], extract_seconds=1.5, fit_seconds=0.5, passes=7
)


@pytest.mark.parametrize("probe", [None, PROBE])
def test_results_round_trip(tmp_path: Path, probe: ProbeFit | None) -> None:
    results = make_results(tmp_path, probe)
    results.save()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["schema_version"] == SCHEMA_VERSION
    assert content["metrics"]["test"] == {"top1": 0.75} and content["hardware"] == {"cores": 2}
    assert content.get("penalty") == (None if probe is None else 0.1) and "run_dir" not in content
    assert read_results(tmp_path) == results
    assert (results.test.top1, results.val["loss"]) == (0.75, 1.25)


def test_what_was_not_measured_says_what_was(tmp_path: Path) -> None:
    results = Results(run_dir=tmp_path, command=[], dataset="d", backbone="b", metrics={"val": Metrics({"top1": 0.5})})
    with pytest.raises(UserError, match=r"no metrics on test \(measured: val\)"):
        results.test.top1  # noqa: B018
    with pytest.raises(AttributeError, match=r"no metric 'top5' \(there are: top1\)"):
        results.val.top5  # noqa: B018


def test_results_of_the_first_version_are_read(tmp_path: Path) -> None:
    """A file that the project wrote before results had a schema."""
    (tmp_path / "results.json").write_text(FIRST_VERSION.read_text())
    results = read_results(tmp_path)
    assert (results.dataset, results.backbone, results.test.top1) == ("digits", "lite0", 0.9888888597488403)
    assert results.splits["test"].size == 360 and results.environment["versions"]["torch"]


def test_a_field_that_is_no_longer_written_is_passed_over(tmp_path: Path) -> None:
    make_results(tmp_path, PROBE).save()
    content = json.loads((tmp_path / "results.json").read_text())
    del content["logit_adjustment"]
    (tmp_path / "results.json").write_text(json.dumps({**content, "class_weights": "balanced"}))
    found = read_results(tmp_path).probe
    assert found == PROBE and not found.logit_adjustment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "damaged"),
        (json.dumps({"schema_version": SCHEMA_VERSION + 1}), r"schema version \d+ \(readable here: at most"),
    ],
)
def test_what_is_no_results_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=rf"results\.json.*{message}"):
        read_results(tmp_path)
    with pytest.raises(UserError, match="other: no such run"):
        read_results(tmp_path / "other")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"is not a finished run: it has no results\.json"):
        read_results(tmp_path / "other")


def test_the_last_results_are_those_of_the_highest_number(tmp_path: Path) -> None:
    assert last_results(tmp_path / "none") is None
    for name in ("2", "10", "best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text("{}")
    (tmp_path / "11").mkdir()
    assert last_results(tmp_path) == tmp_path / "10"


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("seed", "0", "seed"),
        ("seed", True, "seed"),
        ("test_reads", 1.5, "test_reads"),
        ("dataset", None, "dataset"),
        ("metrics", {"test": {"top1": "high"}}, r"metrics\.test\.top1"),
        ("metrics", {"test": [1]}, r"metrics\.test: "),
        (
            "splits",
            {"test": {"size": 4, "fingerprint": "ab", "class_counts": [1, "3"]}},
            r"splits\.test\.class_counts\.1",
        ),
        ("splits", {"test": {"size": 4}}, r"splits\.test\.fingerprint"),
        ("per_class_accuracy", {"cat": "1"}, r"per_class_accuracy\.cat"),
        ("decay", {"test": 3}, r"decay\.test"),
        ("image_size", [32], "image_size"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path: Path, name: str, value: object, where: str) -> None:
    make_results(tmp_path).save()
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(DamagedFile, match=rf"results\.json: damaged: {where}"):
        read_results(tmp_path)
