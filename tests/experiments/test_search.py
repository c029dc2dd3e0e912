"""Searches on Optuna: the same trials for the same seed, shared by processes, and nothing lost when one is killed."""

from __future__ import annotations

import math
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transfer.errors import BadValue, DamagedFile, MissingData
from transfer.experiments.search import BAYES, GRID, RANDOM, Halving, Search, Taken

ROOT = Path(__file__).parents[2]


def suggest(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0.0, 1.0), "kind": trial.suggest_categorical("kind", ["a", "b"])}


def run(search: Search, most: int, value: Callable[[Taken], float] = lambda taken: taken.settings["x"]) -> list[Any]:
    """Compute trials and return their settings."""
    found = []
    while (taken := search.take(most)) is not None:
        found.append(taken.settings)
        search.finish(taken, value(taken))
    return found


@pytest.mark.parametrize("method", [RANDOM, BAYES])
def test_the_seed_gives_the_trials_whoever_computes_them(method: str, tmp_path: Path) -> None:
    alone = run(Search(tmp_path / "alone", suggest, method, seed=5), 14)
    first, second = (Search(tmp_path / "shared", suggest, method, seed=5) for _ in range(2))
    shared = [*run(first, 4), *run(second, 9), *run(Search(tmp_path / "shared", suggest, method, seed=5), 14)]
    assert shared == alone and len({one["x"] for one in alone}) == 14
    assert run(Search(tmp_path / "other", suggest, method, seed=6), 3) != alone[:3]


def test_two_processes_never_compute_the_same_trial_and_a_dead_ones_goes_on(tmp_path: Path) -> None:
    first, second = (Search(tmp_path, suggest) for _ in range(2))
    mine, others = first.take(3), second.take(3)
    assert mine is not None and others is not None and (mine.number, others.number) == (0, 1)
    assert not mine.report([0.5])
    mine.release()  # as the kernel does when its process is killed
    again = second.take(3)
    assert again is not None and again.number == 0 and again.settings == mine.settings and again.is_begun
    third = first.take(3)
    assert third is not None and third.number == 2 and first.take(3) is None
    assert [one.state for one in first.ended()] == ["not finished"] * 3
    for taken in (again, others, third):
        second.finish(taken, taken.settings["x"])
    values = [one.value for one in first.ended()]
    assert values == sorted((taken.settings["x"] for taken in (again, others, third)), reverse=True)


def test_a_trial_that_ends_while_it_is_looked_at_is_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Search(tmp_path, suggest) for _ in range(2))
    mine, lock = first.take(2), second._try_lock
    assert mine is not None

    def try_lock(number: int) -> Any:
        if number == 0:
            first.finish(mine, 0.5)
        return lock(number)

    monkeypatch.setattr(second, "_try_lock", try_lock)
    taken = second.take(2)
    assert taken is not None and taken.number == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from transfer.experiments.search import Search
search = Search(Path(sys.argv[1]), lambda trial: {"x": trial.suggest_float("x", 0.0, 1.0)}, seed=3)
search.finish(search.take(9), 1.0)
taken = search.take(9)
print(taken.settings["x"], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_trial_of_a_killed_process_goes_on(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL
    taken = Search(tmp_path, lambda trial: {"x": trial.suggest_float("x", 0.0, 1.0)}, seed=3).take(9)
    assert taken is not None and (taken.number, taken.settings["x"]) == (1, float(killed.stdout))


def test_bayes_comes_closer_than_chance_and_avoids_what_diverged(tmp_path: Path) -> None:
    """Of random settings half are nearer than 0.25, and 4 of 10 diverge."""
    search, distances = Search(tmp_path, suggest, BAYES, maximize=False, seed=1), list[float]()
    while (taken := search.take(40)) is not None:
        distance = taken.settings["x"] - 0.3
        distances.append(distance)
        if distance > 0.3:
            search.fail(taken, "diverged", because_of_settings=True)
        else:
            search.finish(taken, distance**2)
    later = distances[20:]
    assert statistics.median(map(abs, later)) < 0.12 and sum(distance > 0.3 for distance in later) < 4


def test_halving_stops_what_is_worse_than_the_best_third(tmp_path: Path) -> None:
    search = Search(tmp_path, suggest, halving=Halving(first=2, eta=3))

    def is_hopeless(*values: float) -> bool:
        taken = search.take(9)
        assert taken is not None
        hopeless = taken.report(values)
        assert taken.report(values) == hopeless  # what was said stays said
        search.stop(taken) if hopeless else search.finish(taken, values[-1])
        return hopeless

    assert not is_hopeless(0.1, 0.5)  # the first to come so far
    assert is_hopeless(0.9, 0.4, 0.9)
    assert not is_hopeless(0.0)  # not as far as they are compared
    assert not is_hopeless(0.0, 0.6, 0.0, 0.0, 0.0, 0.7)
    assert is_hopeless(0.0, 0.7, 0.0, 0.0, 0.0, 0.6)  # of two after six steps
    assert is_hopeless(0.0, math.nan)
    assert [one.state for one in search.ended()] == ["done"] * 3 + ["stopped early"] * 3


def test_a_grid_is_in_order_and_ends(tmp_path: Path) -> None:
    points = [{"x": x, "kind": kind} for x in (0.5, 0.25) for kind in "ba"]
    search = Search(tmp_path, suggest, GRID, points=points)
    assert [*run(search, 3), *run(search, 4)] == points and search.take(4) is None


@pytest.mark.parametrize("because_of_settings", [False, True])
def test_what_failed_is_tried_again_if_asked_and_counts_once(because_of_settings: bool, tmp_path: Path) -> None:
    search = Search(tmp_path, suggest, seed=2)
    taken = search.take(2)
    assert taken is not None
    search.fail(taken, "the disk is full", because_of_settings=because_of_settings)
    (failed,) = search.ended()
    assert (failed.state, failed.reason, failed.value) == ("failed", "the disk is full", None)
    assert len(run(search, 2)) == 1 and search.take(2) is None
    search.retry_failed()
    assert run(search, 2) == [taken.settings]
    assert {one.number for one in search.ended()} == {1, 2} and all(one.state == "done" for one in search.ended())
    search.retry_failed()
    assert search.take(2) is None


def test_a_folder_holds_one_search(tmp_path: Path) -> None:
    run(Search(tmp_path / "a", suggest, plan={"epochs": 3}), 1)
    with pytest.raises(BadValue, match=r"a was planned otherwise.*\n  epochs: 3 -> 4\n  seed: 0 -> 1$"):
        Search(tmp_path / "a", suggest, plan={"epochs": 4}, seed=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "photo.jpg").touch()
    with pytest.raises(BadValue, match=r"b is not empty, and no search began there \(no journal.log\)"):
        Search(tmp_path / "b", suggest)
    assert [entry.name for entry in (tmp_path / "b").iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize("line", ["[1\n", "{}\n", "\x00\n"])
def test_a_damaged_journal_is_one_line(line: str, tmp_path: Path) -> None:
    run(Search(tmp_path, suggest), 1)
    with open(tmp_path / "journal.log", "a", encoding="utf-8") as file:
        file.write(line)
    with pytest.raises(DamagedFile, match=r"journal.log: damaged: .*; search anew in another folder") as caught:
        run(Search(tmp_path, suggest), 2)
    assert "\n" not in str(caught.value)


def test_without_optuna_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingData, match=r"run: pip install 'efficientnet-transfer\[search\]'$"):
        Search(tmp_path, suggest)
