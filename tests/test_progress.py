"""The live line is for a terminal alone, and says what the log says."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RandomImages
from transfer import progress
from transfer.config.schema import FinetuneConfig, TrainerConfig
from transfer.lightning import pl
from transfer.networks.classifier import Classifier
from transfer.progress import print_above, track
from transfer.training.callbacks import EpochLog
from transfer.training.module import TransferModule
from transfer.training.progress import ProgressBar
from transfer.training.trainer import build_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw at every step."""
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)


@pytest.mark.usefixtures("at_once")
def test_nothing_is_drawn_in_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    for hidden in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr", terminal := Terminal())
            assert list(track(iter(range(4)), "counting", 4, hidden=hidden)) == [0, 1, 2, 3]
            assert ("counting  75%|" in terminal.getvalue()) is not hidden
            assert terminal.getvalue().rpartition("\r")[2] == "" and "\n" not in terminal.getvalue()  # it is gone


@pytest.mark.usefixtures("at_once")
def test_the_line_of_a_part_says_of_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with progress.part_of("fold 2 of 5"):
        list(track(range(2), "counting"))
        line = progress.live_line("epoch 1/2", 4)
        line.set_description_str("epoch 2/2")
        line.close()
    list(track(range(2), "counting"))
    drawn = [each.strip() for each in terminal.getvalue().split("\r") if each.strip()]
    assert {re.split(r" +\d+%", each)[0] for each in drawn} == {"fold 2 of 5, counting", "counting"} | {
        f"fold 2 of 5, epoch {epoch}/2" for epoch in (1, 2)
    }


def test_a_run_has_a_line_on_a_terminal_or_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(asked: bool | None) -> int:
        return len(build_progress(FinetuneConfig(trainer=TrainerConfig(enable_progress_bar=asked)), "top1"))

    assert [shown(asked) for asked in (None, True, False)] == [0, 1, 0]
    monkeypatch.setattr("sys.stderr", Terminal())
    assert [shown(asked) for asked in (None, True, False)] == [1, 1, 0]


@pytest.mark.usefixtures("at_once")
def test_what_is_printed_meanwhile_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    for number in track(range(2), "counting"):
        print_above(f"found {number}")
    assert re.findall(r"[\r\n](found \d)\n", f"\n{terminal.getvalue()}") == ["found 0", "found 1"]


@pytest.mark.usefixtures("at_once")
def test_the_line_of_a_run_has_the_epochs_and_the_figures_of_the_log(
    build_trainer: Callable[..., pl.Trainer],
    tiny_classifier: Classifier,
    random_images: RandomImages,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    callbacks = (ProgressBar("top1"), EpochLog(tmp_path / "metrics.csv"))
    trainer = build_trainer(*callbacks, max_epochs=3, enable_progress_bar=True)
    module = TransferModule(tiny_classifier)
    trainer.fit(module, random_images)
    captured = capsys.readouterr()
    logged = re.findall(r"^(epoch \d/3)  train loss .* top1 (\S+)", captured.out, re.M)
    assert [epoch for epoch, _ in logged] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    pattern = r"(epoch \d/3) +(\d+)%\|[^|]+\| [\d:?]+ left(?:, loss \d\.\d{4})?(?:, val top1 (\S+))?"
    drawn = [re.fullmatch(pattern, each.strip()) for each in captured.err.split("\r")]
    lines = [match.groups() for match in drawn if match is not None]
    last = {epoch: (int(percent), top1) for epoch, percent, top1 in lines}
    assert last == {"epoch 1/3": (33, None), "epoch 2/3": (67, logged[0][1]), "epoch 3/3": (100, logged[1][1])}
    assert "\n" not in captured.err
    trainer.test(module, random_images, verbose=False)
    assert "test 100%|" in capsys.readouterr().err
