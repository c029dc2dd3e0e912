"""The command `report`, and the page that a run leaves."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import build_datamodule
from tests.support.bundles import TINY
from tests.support.data import PREPROCESSING
from tests.support.reported import Page, written_run
from tests.support.runs import call, read_results
from transfer.commands import report
from transfer.commands.report import leave_report
from transfer.commands.report_photos import keep_photos
from transfer.config.schema import FinetuneConfig, LossConfig, TrainerConfig
from transfer.images.decode import decode_image
from transfer.report.answers import MOST_PHOTOS, Answers
from transfer.report.photos import SIDE, read_photos
from transfer.run_files import VAL_PREDICTIONS
from transfer.runs.results import read_results as results_of
from transfer.runs.test_record import make_predictions, read_predictions
from transfer.weights.build import build_classifier

NAMES = ("cat", "dog")


@pytest.mark.slow
def test_a_run_leaves_a_page_about_its_val_images_with_their_pictures(small_run: Path) -> None:
    results, answers = read_results(small_run), Answers("val", read_predictions(small_run, "val"))
    assert answers.num_images == results["splits"]["val"]["size"] and len(answers.class_names) == 10
    right = (answers.saved.labels == answers.saved.predictions).mean()
    assert right == pytest.approx(results["metrics"]["val"]["top1"], abs=1.5 / answers.num_images)
    photos = read_photos(small_run)
    assert photos is not None and photos.facts.split == "val" and len(photos.batch) == 12
    assert photos.photos.keys() == {*answers.photos()} and len(answers.worst()) == MOST_PHOTOS
    assert photos.maps.keys() == {*answers.worst(), *answers.unsure()} and photos.facts.remarks == []
    html = (small_run / "report.html").read_text()
    text = " ".join(Page(html).text.split())
    test = results["metrics"]["test"]["top1"]
    assert f"{test:.1%} of {results['splits']['test']['size']} test images are classified correctly" in text
    assert "No test image is shown here" in text and "Test has been read once." in text
    assert html.count("data:image/jpeg") >= len(photos.photos)


@pytest.mark.slow
def test_class_maps_are_of_the_class_that_was_predicted(tmp_path: Path) -> None:
    classifier = build_classifier(TINY, 10, pretrained=False)
    torch.nn.init.normal_(classifier.head.fc.weight)
    data = build_datamodule("digits", preprocessing=PREPROCESSING, image_size=96, num_workers=0)
    split, rng = data.dataset.split("val"), np.random.default_rng(0)
    chosen = list(range(8))
    probabilities = rng.dirichlet(np.ones(10), len(chosen)).astype(np.float32)
    names = [split.image_name(index) for index in chosen]
    labels = split.labels[chosen].numpy()
    make_predictions(labels, probabilities, names, data.class_names).save(tmp_path / VAL_PREDICTIONS)
    keep_photos(tmp_path, classifier.eval(), data, LossConfig(mixup_alpha=0.4))
    kept = read_photos(tmp_path)
    assert kept is not None and kept.facts.remarks == [] and kept.facts.map_method == "HiResCAM"
    assert kept.maps.keys() == kept.photos.keys() == {*chosen} and len(kept.batch) == 12
    said = {str(index): data.class_names[probabilities[index].argmax()] for index in chosen}
    assert kept.facts.map_classes == said
    for index in chosen:
        with Image.open(io.BytesIO(kept.photos[index])) as photo:
            own = Image.fromarray(decode_image(split.encoded(index))).resize((SIDE, SIDE))
            assert photo.size == own.size
            assert np.abs(np.asarray(photo, float) - np.asarray(own, float)).mean() < 5


def test_the_command_writes_the_page_of_one_run_into_its_folder_and_of_several_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [tmp_path / name for name in "ab"]
    for run in runs:
        written_run(run, NAMES)
    assert call(report.main, runs[0]) == 0
    assert capsys.readouterr().out == f"report: {runs[0] / 'report.html'}\n"
    assert "2 runs side by side" not in (runs[0] / "report.html").read_text()
    for words, page in (((), "report.html"), (("--out", "both.html"), "both.html")):
        assert call(report.main, *runs, *words) == 0
        assert "2 runs side by side" in (tmp_path / page).read_text()


def test_what_is_no_finished_run_or_no_page_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written_run(tmp_path / "run", NAMES)
    for words, message in (
        ((tmp_path / "none",), "none: no such run"),
        ((tmp_path,), "is not a finished run: it has no results.json"),
        ((tmp_path / "run", "--out", tmp_path / "no" / "a.html"), "--out "),
        ((tmp_path / "run", "--out", tmp_path / "run" / "results.json"), "results.json exists and is no page"),
    ):
        assert call(report.main, *words) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert results_of(tmp_path / "run").backbone == "lite0"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), r"^no report: \[Errno 28\] No space left on device$"),
        (KeyError("x"), r"^no report: KeyError: 'x'; efficientnet-transfer report .* tries again$"),
    ],
)
def test_a_page_that_cannot_be_written_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    written_run(tmp_path / "run", NAMES)
    results = results_of(tmp_path / "run")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("transfer.commands.report_photos.keep_photos", fail)
    with pytest.warns(UserWarning, match=message):
        leave_report(results, FinetuneConfig(), None, None)  # type: ignore[arg-type]  # what fails would use them
    assert not (tmp_path / "run" / "report.html").exists() and results_of(tmp_path / "run") == results


def test_a_trial_of_a_search_and_a_run_that_wants_none_get_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_run(tmp_path / "run", NAMES)
    results = results_of(tmp_path / "run")
    monkeypatch.setattr("transfer.commands.report_photos.keep_photos", lambda *_: pytest.fail("pictures are kept"))
    for config in (FinetuneConfig(report=False), FinetuneConfig(trainer=TrainerConfig(limit_test_batches=0))):
        leave_report(results, config, None, None)  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "report.html").exists()
