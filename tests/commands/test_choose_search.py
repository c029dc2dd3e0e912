"""The search for the settings of fine-tuning: what it tries, when it stops, and what it then is evidence of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.commands.test_choose_lpft import DATA, IMAGES, LABELS, fold_of, one_hot, tried
from transfer.commands.choose import lpft, search
from transfer.commands.choose.budget import Budget
from transfer.commands.choose.decision import compare_methods
from transfer.commands.choose.report import describe
from transfer.commands.choose.search_record import Attempt, Searched
from transfer.config.auto import choose_lpft
from transfer.config.choices import choose_by_rule
from transfer.config.choose_schema import ChooseConfig
from transfer.config.command_line import build_config, parse_choose_config
from transfer.config.parsing import unflatten
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, Diverged

RULE = {choice.field: choice.value for choice in choose_lpft(160)}
RATE, EPOCHS, MINE = RULE["optim.lr"], RULE["trainer.max_epochs"], fold_of == 0
Scores = Callable[[Mapping[str, float]], float]


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Searched | None]:
    """Searches with runs that take a second for an epoch, and are right on a share of the fold that the test says."""
    now = [0.0]
    clock: Any = SimpleNamespace(
        perf_counter=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
    )
    monkeypatch.setattr("transfer.commands.choose.budget.time", clock)
    monkeypatch.setattr(search, "time", clock)
    data = SimpleNamespace(**vars(DATA), fingerprint={"train": "a"})

    def search_it(own: ChooseConfig, score: Scores, budget: float = 1e4) -> Searched | None:
        def tune_fold(*arguments: Any) -> Any:
            fold, (seconds, changes) = arguments[3], arguments[-2:]
            assert fold == 0
            now[0] += changes["trainer.max_epochs"]
            if changes["trainer.max_epochs"] > seconds:
                return None
            wrong = np.arange(40) >= round(40 * score(changes))
            return one_hot(np.where(wrong, 1 - LABELS[MINE], LABELS[MINE]))

        monkeypatch.setattr(search, "tune_fold", tune_fold)
        started = Budget("1h", budget, now[0])
        return search.search_settings(tried(), data, IMAGES, None, tmp_path, started, own, float(EPOCHS))  # type: ignore[arg-type]

    return search_it


def higher_is_better(changes: Mapping[str, float]) -> float:
    return {0.3: 0.4, 1: 0.5, 3: 0.6, 9: 0.45}[round(changes["optim.lr"] / RATE, 1)]


def test_each_setting_trains_a_third_and_only_one_no_worse_than_the_best_so_far_in_full(
    find: Callable[..., Searched | None], capsys: pytest.CaptureFixture[str]
) -> None:
    lengths: list[tuple[float, int]] = []

    def score(changes: Mapping[str, float]) -> float:
        lengths.append((round(changes["optim.lr"] / RATE, 1), changes["trainer.max_epochs"]))  # type: ignore[arg-type]
        return higher_is_better(changes)

    found = find(ChooseConfig(search=4), score)
    third = round(EPOCHS / 3)
    assert lengths == [(1, third), (1, EPOCHS), (3, third), (3, EPOCHS), (0.3, third), (3, third), (3, EPOCHS)]
    assert found is not None and found.num_images == 40
    assert found.settings == {"optim.lr": pytest.approx(3 * RATE), "optim.weight_decay": 1e-5}
    assert [(one.state, one.accuracy) for one in found.attempts] == [
        *(("done", 0.6), ("done", 0.6), ("done", 0.5)),
        ("stopped early", None),
    ]
    assert found.attempts[1].weight_decay == 0.1  # of equals the first
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "searching rate and weight decay on fold 1, 4 settings, about 7 s for a third of a run"
    assert lines[3] == "  rate 6.7e-05, weight decay 1e-05: 40.0% after a third of the passes, stopped"


def test_the_rules_settings_are_kept_unless_others_are_better(find: Callable[..., Searched | None]) -> None:
    found = find(ChooseConfig(search=3), lambda _: 0.5)
    assert found is not None and found.settings == {} and [one.accuracy for one in found.attempts] == [0.5] * 3


def test_a_setting_that_diverges_is_left_out(find: Callable[..., Searched | None]) -> None:
    def score(changes: Mapping[str, float]) -> float:
        if changes["optim.lr"] > 2 * RATE:
            raise Diverged("the loss is nan")
        return 0.5

    found = find(ChooseConfig(search=3), score)
    assert found is not None and [one.state for one in found.attempts] == ["done", "done", "failed"]


def test_the_search_leaves_time_for_a_fold_and_the_run(
    find: Callable[..., Searched | None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A run takes 20 seconds, a third 7, the run that may follow 22.5: 42.5 seconds stay free."""
    assert find(ChooseConfig(search=3), lambda _: 0.5, budget=60) is None  # a third of the rule's, and no more
    assert "the search ends here: too little time for the next run, 53 s left of --budget 1h" in capsys.readouterr().out


def test_choices_that_share_a_folder_share_the_runs(find: Callable[..., Searched | None], tmp_path: Path) -> None:
    own = ChooseConfig(search=3, search_dir=str(tmp_path / "shared"))
    found = find(own, higher_is_better)
    assert find(own, lambda _: pytest.fail("trained again")) == found
    more = find(ChooseConfig(search=4, search_dir=own.search_dir), higher_is_better)
    assert found is not None and more is not None and len(more.attempts) == 4
    with pytest.raises(BadValue, match=r"fixed: \{\} -> \{'loss\.logit_adjustment': True\}"):
        find(replace(own, logit_adjustment=True), higher_is_better)


def test_the_fold_that_chose_is_no_evidence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings, asked = {"optim.lr": 6e-4}, list[tuple[int, Mapping[str, float]]]()

    def tune_fold(*arguments: Any) -> Any:
        asked.append((arguments[3], arguments[-1]))
        return one_hot(LABELS[fold_of == arguments[3]])

    monkeypatch.setattr(lpft, "tune_fold", tune_fold)
    budget = Budget("1h", 1e6)
    tuned, reason = lpft.try_lpft(tried(), DATA, IMAGES, None, tmp_path, budget, 1.0, settings, first=1)  # type: ignore[arg-type]
    assert asked == [(fold, settings) for fold in (1, 2, 3, 4)] and reason == ""
    assert tuned is not None and tuned.num_images == 160 and np.isnan(tuned.logits[MINE]).all()
    searched = Searched(40, [Attempt(6e-4, 1e-5, "done", 0.6)] * 3, {**settings, "optim.weight_decay": 1e-5})
    sentence = describe(tried(), IMAGES, tuned, "", searched)
    assert "4 of 5 folds; rate 0.0006, weight decay 1e-05, of 3 settings the best on another fold)" in sentence
    assert compare_methods(LABELS, tuned.logits, LABELS, [1.0]).num_images == 160


def test_the_settings_of_the_search_replace_the_rules() -> None:
    changes = {"optim.lr": 6e-4, "optim.weight_decay": 1e-5, "trainer.max_epochs": 10}  # two of them are defaults
    config, given = build_config(
        FinetuneConfig(dataset="folder", data_root="p", method="lpft"), None, unflatten(changes)
    )
    facts = {
        "num_images": 160,
        "is_balanced": False,
        "num_classes": 2,
        "short_side": 0,
        "resolution": 64,
        "dropout_rate": 0.2,
    }
    config, lines = choose_by_rule(config, given, **facts, num_processes=1)  # type: ignore[arg-type]
    assert (config.optim.lr, config.optim.weight_decay, config.trainer.max_epochs) == (6e-4, 1e-5, 10)
    assert config.optim.name == "adamw" and "optim.lr: as you set it" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--search", "1"), r"`search`=1 \(allowed: 0, or 2 to 6 settings\)"),
        (("--search", "7"), r"`search`=7 \(allowed"),
        (("--search", "3", "--methods", "probe"), "`search`=3 needs lpft among `methods`"),
        (("--search_dir", "shared"), "`search_dir`=shared needs `search`"),
    ],
)
def test_what_cannot_be_searched_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        parse_choose_config(["--data_root", "photos", *words])
    assert asdict(parse_choose_config(["--data_root", "photos"])[1])["search"] == 0
