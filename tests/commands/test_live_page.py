"""finetune --open: a page that follows a run, costs it nothing, and says in the end how it ended."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import RandomImages
from tests.support.bundles import TINY
from tests.support.data import PREPROCESSING
from tests.support.reported import Page
from tests.support.runs import CHEAP, call, refused
from transfer.commands import finetune, live_page
from transfer.commands.live_page import LivePage, open_page
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, Diverged, RunInterrupted
from transfer.lightning import pl
from transfer.networks.classifier import Classifier
from transfer.training.callbacks import EpochLog
from transfer.training.module import TransferModule

RELOADS = ("refresh", "5")


def shown(run_dir: Path) -> tuple[str, bool]:
    """The text of a run's page, and whether it loads itself anew."""
    page = Page((run_dir / "report.html").read_text())
    metas = [(attributes.get("http-equiv"), attributes.get("content")) for _, attributes in page.elements]
    return " ".join(page.text.split()), RELOADS in metas


@pytest.fixture
def page(tmp_path: Path, tiny_classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> LivePage:
    """The page of a run that is ready to train, written at every step."""
    monkeypatch.setattr(live_page, "_SECONDS", 0.0)
    monkeypatch.setattr(live_page, "open_page", lambda path: None)
    prepared = SimpleNamespace(
        config=FinetuneConfig(backbone="b0"),
        start=SimpleNamespace(variant=SimpleNamespace(name="b0"), preprocessing=PREPROCESSING),
        module=SimpleNamespace(classifier=tiny_classifier),
        data=SimpleNamespace(dataset=SimpleNamespace(quoted_metric="mean_per_class")),
        monitor="top1",
        num_processes=1,
        started=0.0,
    )
    return LivePage(prepared, SimpleNamespace(path=tmp_path), is_shown=True)  # type: ignore[arg-type]


class Reader(pl.Callback):
    """Reads the page after each step."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.pages: list[tuple[str, bool]] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.pages.append(shown(self.run_dir))


def test_it_follows_the_run_and_loads_itself_anew(
    page: LivePage,
    tmp_path: Path,
    tiny_classifier: Classifier,
    random_images: RandomImages,
    build_trainer: Callable[..., pl.Trainer],
) -> None:
    page.begin()
    assert "Training has not begun yet." in shown(tmp_path)[0]
    reader = Reader(tmp_path)
    trainer = build_trainer(EpochLog(tmp_path / "metrics.csv"), page, reader, max_epochs=2)
    trainer.fit(TransferModule(tiny_classifier), random_images)
    texts = [text for text, _ in reader.pages]
    assert [reloads for _, reloads in reader.pages] == [True] * 8
    for number, text in enumerate(texts, start=1):
        assert f"{number / 8:.0%} In epoch {(number + 3) // 4}/2, step {number} of 8, about " in text
    assert "Curves" not in texts[0] and "best validation so far" in texts[4]
    assert texts[4].index("val, mean accuracy per class") < texts[4].index("train, top-1 accuracy")  # the quoted first
    text, reloads = shown(tmp_path)
    assert "Training is done; the best checkpoint is being measured." in text and reloads
    page.end()
    text, reloads = shown(tmp_path)
    assert "The run has ended." in text and not reloads


def test_it_changes_no_bit_of_the_run(
    page: LivePage,
    tmp_path: Path,
    tiny_classifier: Classifier,
    random_images: RandomImages,
    build_trainer: Callable[..., pl.Trainer],
) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_classifier.state_dict().items()}
    ends = []
    for callbacks in ([], [EpochLog(tmp_path / "metrics.csv"), page]):
        tiny_classifier.load_state_dict(before)
        torch.manual_seed(0)
        build_trainer(*callbacks, max_epochs=1).fit(TransferModule(tiny_classifier), random_images)
        ends.append({name: tensor.clone() for name, tensor in tiny_classifier.state_dict().items()})
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_a_report_in_its_place_stays(page: LivePage, tmp_path: Path) -> None:
    page.begin()
    (tmp_path / "report.html").write_text("the report")
    page.end()
    page.stop(RunInterrupted(signal.SIGINT, tmp_path / "last.ckpt"))
    assert (tmp_path / "report.html").read_text() == "the report"


@pytest.mark.parametrize(
    ("error", "said", "goes_on"),
    [
        (
            lambda path: RunInterrupted(signal.SIGINT, path / "last.ckpt"),
            "stopped before training. stopped by SIGINT",
            True,
        ),
        (lambda path: BadValue("`optim.lr`=9 <b>"), "failed before training. --optim.lr 9 <b>", True),
        (lambda path: Diverged("loss is nan"), "failed before training. loss is nan", False),
        (lambda path: RuntimeError("a bug"), "failed before training. RuntimeError: a bug", True),
    ],
)
def test_it_says_why_the_run_ended_and_how_it_goes_on(
    page: LivePage, tmp_path: Path, error: Callable[[Path], BaseException], said: str, goes_on: bool
) -> None:
    page.stop(error(tmp_path))
    assert not (tmp_path / "report.html").exists()  # which had not begun
    page.begin()
    page.stop(error(tmp_path))
    text, reloads = shown(tmp_path)
    assert f"The run has {said}" in text and not reloads
    assert (f"efficientnet-transfer finetune --resume {tmp_path}" in text) is goes_on


def test_a_page_that_cannot_be_written_costs_one_warning(
    page: LivePage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.warns(UserWarning, match="the page does not follow the run: IsADirectoryError") as caught:
        page.begin()
        page.begin()
    assert len(caught) == 1


@pytest.mark.parametrize("variable", ["", "DISPLAY", "WAYLAND_DISPLAY", "BROWSER"])
def test_the_browser_is_asked_where_there_is_a_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: not opened.append(address))
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "x")
    path = tmp_path / "a run" / "report.html"
    open_page(path)
    note = "" if variable else " (no display here: open it yourself)"
    assert opened == ([path.as_uri()] if variable else []) and capsys.readouterr().out == f"page: {path}{note}\n"


def test_the_command_leaves_a_page_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(live_page, "open_page", opened.append)
    words = (*CHEAP, "--backbone", TINY, "--pretrained", "false", "--trainer.limit_test_batches", "0", "--open")
    assert call(finetune.main, *words, "--out_dir", tmp_path / "run") == 0
    text, reloads = shown(tmp_path / "run")
    assert opened == [tmp_path / "run" / "report.html"] and not reloads and "The run has ended." in text


def test_the_page_is_one_runs(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--folds", "3", "--open")
    assert message == "--open with --folds: the page is one run's: give --fold, too, or leave --open out"
