"""What a command names at its end is a command that works as it stands."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.config.test_screens import parsers
from transfer.commands.next_steps import NEXT, next_command, say_next, say_next_of_run
from transfer.config.command_line import parse_config, parse_probe_config
from transfer.config.screens import PROGRAM
from transfer.runs.results import FirstProbe, Metrics

# What stands for a list of words in place of a single one.
WORDS = {
    "trained, below its probe": ["--data_root", "my photos"],
    "folds trained": ["runs/1/fold0", "runs/1/fold1"],
    "weights fetched": ["--backbone", "b0", "--pretrained", "timm"],
    "weights verified": ["--backbone", "b0", "--pretrained", "timm", "--weights", "a b.pth"],
    "push rehearsed": ["bundle", "user/name"],
    "converted": ["--backbone", "b0", "--pretrained", "timm", "--weights", "a b.pth"],
    "network fitted": ["--backbone", "b0@phi=0.5"],
}


@pytest.mark.parametrize("outcome", NEXT)
def test_every_next_command_is_parsed(outcome: str) -> None:
    value: Any = WORDS.get(outcome, "my folder/1")
    command = next_command(outcome, *[value] * NEXT[outcome].count("{}"))
    program, *argv = shlex.split(command)
    assert program == PROGRAM and ("my folder/1" in argv or outcome in WORDS)
    words = max((words for words in parsers() if argv[: len(words.split())] == words.split()), key=len)
    parsers()[words].parse_args(argv[len(words.split()) :])


def test_every_outcome_is_said_somewhere() -> None:
    commands = Path(import_module("transfer.commands").__path__[0])
    text = "".join(path.read_text(encoding="utf-8") for path in commands.rglob("*.py"))
    assert [outcome for outcome in NEXT if text.count(f'"{outcome}"') < 2] == []


def test_it_is_printed_apart_from_the_results_and_a_hostile_name_is_harmless(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_next("trained", "runs/$(rm x)\x1b[2J/1")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "next: efficientnet-transfer predict 'runs/$(rm x)\\x1b[2J/1' new_photos/\n"


def finished(tuned: float, probed: float, *words: str) -> Any:
    first = FirstProbe(penalty=1.0, metrics=Metrics({"top1": probed}), engine="torch", seconds=1.0)
    val, config = Metrics({"top1": tuned}), parse_config(words)[0].to_dict()
    return SimpleNamespace(quoted_metric="top1", first_probe=first, val=val, config=config, run_dir=Path("runs/1"))


def test_a_run_below_its_probe_is_followed_by_that_probe(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data_root", "my photos", "--image_size", "64", "--data.group_column", "patient", "--optim.lr", "0.1")
    say_next_of_run(finished(0.5, 0.6, *words))
    found = re.fullmatch(rf"next: {PROGRAM} probe (.*)\n", capsys.readouterr().err)
    assert found is not None
    config, _ = parse_probe_config(shlex.split(found[1]))
    assert (config.dataset, config.data_root, config.image_size) == ("folder", "my photos", 64)
    assert config.data.group_column == "patient"
    say_next_of_run(finished(0.6, 0.6, *words))
    assert capsys.readouterr().err == "next: efficientnet-transfer predict runs/1 new_photos/\n"


def test_without_words_a_command_ends_with_its_name() -> None:
    assert next_command("trained, below its probe", []) == "efficientnet-transfer probe"
