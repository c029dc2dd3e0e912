"""One spelling of flags: what a run's configuration names is called so in every command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module

import pytest

from transfer.config.command_line import build_parser

COMMANDS = (
    *("evaluate", "predict", "explain", "compare", "report", "doctor", "weights", "convert", "costs", "table", "push"),
    *("scale.fit", "scale.search", "scale.sweep", "scale.evolve", "scale.report", "scale.run"),
)
# Other things than the run's field of that name: a folder of downloads, and GPUs for each job.
OTHERS = {("weights", "cache_dir"), ("table", "devices")}


def options(parser: argparse.ArgumentParser) -> Iterator[list[str]]:
    """Yield the spellings of each option, those of subcommands included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from options(subparser)
        elif action.option_strings and action.help != argparse.SUPPRESS:
            yield [option for option in action.option_strings if option.startswith("--")]


def parser_of(command: str) -> argparse.ArgumentParser:
    return import_module(f"transfer.commands.{command}").build_parser()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_field_of_a_run_has_its_own_name(command: str) -> None:
    dotted = {name.rpartition(".")[2]: name for (name, *_) in options(build_parser()) if "." in name}
    for spellings in options(parser_of(command)):
        word = spellings[0].removeprefix("--")
        assert "-" not in word, f"{spellings[0]}: underscores, as in every other flag"
        assert word not in dotted or (command, word) in OTHERS, f"{spellings[0]} is {dotted[word]} in finetune"


@pytest.mark.parametrize(
    ("command", "argv", "name", "value"),
    [
        ("evaluate", ["RUN", "--batch_size", "7"], "batch_size", 7),
        ("evaluate", ["RUN", "--data.batch_size", "7"], "batch_size", 7),
        ("evaluate", ["RUN", "--num_workers", "0"], "num_workers", 0),
        ("evaluate", ["RUN", "--stream", "true"], "stream", "true"),
        ("predict", ["RUN", "a.png", "--data.num_workers", "0"], "num_workers", 0),
        ("explain", ["RUN", "a.png", "--batch_size", "7"], "batch_size", 7),
        ("doctor", ["photos", "--num_workers", "2"], "num_workers", 2),
        ("doctor", ["photos", "--label_column", "kind"], "label_column", "kind"),
        ("doctor", ["photos", "--multilabel"], "multilabel", True),
        ("doctor", ["photos", "--data.multilabel", "true"], "multilabel", True),
        ("doctor", ["--multilabel", "photos"], "subject", "photos"),
        ("doctor", ["photos"], "multilabel", False),
        ("costs", ["b0", "--precision", "bf16-mixed"], "precision", "bf16-mixed"),
        ("scale.fit", ["--trainer.precision", "bf16-mixed"], "precision", "bf16-mixed"),
        ("scale.fit", ["--batch_size", "4"], "batch_size", 4),
    ],
)
def test_the_earlier_spellings_still_work(command: str, argv: list[str], name: str, value: object) -> None:
    assert getattr(parser_of(command).parse_args(argv), name) == value


@pytest.mark.parametrize("command", ["doctor", "explain"])
def test_a_folder_of_results_is_out_dir_and_out_still_works(command: str) -> None:
    subject = ["photos"] if command == "doctor" else ["RUN", "photos"]
    for flag in ("--out", "--out_dir"):
        assert str(parser_of(command).parse_args([*subject, flag, "there"]).out_dir) == "there"


def test_a_folder_of_downloads_is_cache_dir_with_a_dash_or_an_underscore() -> None:
    for flag in ("--cache-dir", "--cache_dir"):
        assert str(parser_of("weights").parse_args(["fetch", "ROW", flag, "there"]).cache_dir) == "there"


def test_a_word_that_is_no_truth_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser_of("doctor").parse_args(["photos", "--data.multilabel", "yes"])
    assert "--data.multilabel" in capsys.readouterr().err
