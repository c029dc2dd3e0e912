"""`--help` of every command fits one screen, and `--help all` leaves nothing out."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import pytest

from transfer.__main__ import VERBS, main
from transfer.commands.scale import COMMANDS as SCALE_COMMANDS
from transfer.config.command_line import build_choose_parser, build_probe_parser
from transfer.config.screens import PROGRAM, SCREENS, format_help

BUILDERS = {"probe": build_probe_parser, "choose": build_choose_parser}
LINES, COLUMNS = 40, 100


def subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from subparsers(subparser)


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its words; those of `scale` have none in common."""
    modules = [f"scale.{name}" for name in SCALE_COMMANDS] + [verb for verb in VERBS if verb != "scale"]
    found = {}
    for name in modules:
        own = BUILDERS.get(name)
        root = own() if own else import_module(f"transfer.commands.{name}").build_parser()
        for parser in subparsers(root):
            found[parser.prog.removeprefix(PROGRAM).strip()] = parser
    return found


def shown(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(shlex.split(words))
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


def test_every_command_has_a_screen() -> None:
    assert {*parsers(), "", "scale"} == SCREENS.keys()


@pytest.mark.parametrize("words", SCREENS)
def test_help_fits_one_screen_and_ends_with_what_shows_the_rest(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(f"{words} --help", capsys)
    assert len(text.splitlines()) <= LINES
    assert max(map(len, text.splitlines())) <= COLUMNS, max(text.splitlines(), key=len)
    command = f"{PROGRAM} {words}".strip()
    assert text.splitlines()[-1].endswith(f"{command} --help all")
    assert f"\nexamples:\n  {command}" in text


@pytest.mark.parametrize("words", [words for words in SCREENS if words not in ("", "scale")])
def test_all_shows_every_option_and_the_screen_those_of_its_row(words: str) -> None:
    parser, row = parsers()[words], SCREENS[words]
    options = {a.option_strings[0] for a in parser._actions if a.option_strings and a.help != argparse.SUPPRESS}
    everything, screen = (format_help(parser, everything=everything).split() for everything in (True, False))
    assert {flag for flag in options if flag not in everything and f"{flag}," not in everything} <= {"-h"}
    rest = options - {"-h"}
    kept = rest if row.options is None else set(row.options.split())
    assert kept <= rest, "no such option"
    assert {flag for flag in rest if flag in screen or f"{flag}," in screen} >= kept


@pytest.mark.parametrize("words", [words for words in SCREENS if words not in ("", "scale")])
def test_examples_are_commands(words: str) -> None:
    for example in SCREENS[words].examples:
        argv = shlex.split(example, comments=True)
        has_subcommand = f"{words} {argv[0]}" in parsers() if argv else False
        command, argv = (f"{words} {argv[0]}", argv[1:]) if has_subcommand else (words, argv)
        parsers()[command].parse_args(argv)


def test_the_screen_of_a_schema_says_a_default_and_leaves_its_parser_as_it_was() -> None:
    parser = parsers()["finetune"]
    before = parser.format_help()
    screen = format_help(parser, everything=False)
    assert "passes over the training images (default: 10)\n" in screen and "type:" not in screen
    assert parser.format_help() == before


def test_all_shows_the_details_of_the_program_and_of_scale_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "OMP_WAIT_POLICY" in shown("--help all", capsys) and "OMP_WAIT_POLICY" not in shown("-h", capsys)
    assert "[all]" in shown("scale --help all", capsys) and "[all]" not in shown("scale --help", capsys)


def test_words_after_help_do_not_matter(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("predict --help RUN_DIR", capsys) == shown("predict --help", capsys)
