"""Mistakes become a message that names flags, and an exit status; everything else keeps its traceback."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from transfer.commands.console import exit_status, find_flags, name_flags
from transfer.config.command_line import build_parser, build_probe_parser
from transfer.config.problems import find_problems
from transfer.config.schema import FinetuneConfig
from transfer.errors import (
    BadValue,
    DamagedFile,
    Diverged,
    Interrupted,
    MissingData,
    RunInterrupted,
    UserError,
    nearest,
    some_of,
    unknown_name,
)


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("cifar1O", "; did you mean 'cifar10'?"),
        ("FLOWER", "; did you mean 'flowers'?"),
        ("pet", "; did you mean 'pets'?"),
        ("imagenet", ""),
        ("", ""),
    ],
)
def test_nearest_names_one_candidate_or_none(given: str, hint: str) -> None:
    assert nearest(given, ["cifar100", "cifar10", "flowers", "pets"]) == hint


def test_nearest_takes_any_iterable_even_an_empty_one() -> None:
    assert nearest("linea", iter(["mlp", "linear"])) == "; did you mean 'linear'?"
    assert nearest("linear", ()) == ""


def test_unknown_name_says_kind_given_nearest_and_all_allowed() -> None:
    error = unknown_name("head", "liner", (name for name in ("linear", "mlp")))
    assert str(error) == "unknown head 'liner'; did you mean 'linear'? (allowed: linear, mlp)"
    assert isinstance(error, UserError) and isinstance(error, ValueError)


def test_the_tree_of_errors_is_as_drawn() -> None:
    assert UserError.__bases__ == (ValueError,) and Interrupted.__bases__ == (BaseException,)
    assert set(UserError.__subclasses__()) >= {BadValue, MissingData, DamagedFile, Diverged}
    assert Interrupted.__subclasses__() == [RunInterrupted]
    assert isinstance(unknown_name("head", "x", ["linear"]), BadValue)


def small_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--data.batch_size", "--batch_size", dest="batch_size", type=int)
    parser.add_argument("--class", dest="class_name")
    parser.add_argument("--multilabel", action="store_true")
    parser.add_argument("--first.name")
    parser.add_argument("--second.name")
    return parser


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`batch_size`=0 (allowed: at least 1)", "--data.batch_size 0 (allowed: at least 1)"),
        ("`data.batch_size`=0", "--data.batch_size 0"),
        ("lower `batch_size`: the memory is small", "lower --data.batch_size: the memory is small"),
        ("`class_name`='cat'", "--class 'cat'"),
        ("`run_dir`=runs/1: no such folder", "RUN_DIR runs/1: no such folder"),
        ("pass `multilabel`=True", "pass --multilabel"),
        ("`lr`=-1 and `warmup_epochs`", "lr=-1 and warmup_epochs"),
        ("`name`=x, in two groups", "name=x, in two groups"),
        ("`first.name`=x", "--first.name x"),
        ("no arguments, `pip install x`, `Head(1)`", "no arguments, `pip install x`, `Head(1)`"),
    ],
)
def test_a_message_names_the_flags_of_the_command(text: str, shown: str) -> None:
    assert name_flags(text, find_flags(small_parser)) == shown


def test_flags_of_subcommands_count_and_without_a_parser_there_are_none() -> None:
    def with_subcommands() -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser()
        parser.add_subparsers().add_parser("fetch").add_argument("--cache_dir", "--cache-dir")
        return parser

    assert find_flags(with_subcommands)["cache_dir"] == "--cache_dir"
    assert name_flags("`cache_dir`=x", find_flags(None)) == "cache_dir=x"


@pytest.mark.parametrize("parser", [build_parser, build_probe_parser])
def test_every_field_of_a_run_is_found_by_its_dotted_name_and_by_its_last_word(
    parser: Callable[[], argparse.ArgumentParser],
) -> None:
    flags = find_flags(parser)
    assert flags["backbone"] == "--backbone" and flags["batch_size"] == "--data.batch_size"
    assert flags["data.cache_dir"] == flags["cache_dir"] == "--data.cache_dir"
    assert flags["trainer"] == "--trainer" and flags["devices"] == "--trainer.devices"
    assert ("optimizer" in flags) == (parser is build_parser)


def test_finetune_shows_a_library_message_as_its_user_would_type_it() -> None:
    flags = find_flags(build_parser)
    assert flags["optimizer"] == "--optim.name" and flags["loss"] == "--loss.name" and flags["resume"] == "--resume"
    shown = "`pretrained`=None, `multilabel`=True with `loss`='ce', lower `lr`, `num_classes`=0"
    assert name_flags(shown, flags) == (
        "--pretrained null, --data.multilabel true with --loss.name 'ce', lower --optim.lr, num_classes=0"
    )
    problems = find_problems(FinetuneConfig(dataset="folder", dropout=1.0, freeze="x"))
    assert [name_flags(problem, flags).split()[0] for problem in problems] == ["--dropout", "--dataset", "--freeze"]
    assert not any("`" in name_flags(problem, flags) for problem in problems)


def test_a_users_mistake_and_a_warning_are_shown_with_flags(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        shown = warnings.formatwarning("`batch_size`=1 is small", UserWarning, "loaders.py", 7)  # pytest collects
        print(shown, file=sys.stderr)
        raise BadValue("`batch_size`=0")

    before = warnings.formatwarning
    assert exit_status(command, small_parser) == 2
    err = capsys.readouterr().err
    assert err.startswith("warning: --data.batch_size 1 is small\n") and err.endswith("error: --data.batch_size 0\n")
    assert warnings.formatwarning is before


def test_a_program_that_collects_warnings_gets_the_arguments() -> None:
    with pytest.warns(UserWarning, match="^`batch_size`=1 is small$"):
        exit_status(lambda: warnings.warn("`batch_size`=1 is small", stacklevel=1), small_parser)


def test_a_warning_is_shown_once_though_parts_of_a_command_repeat_it() -> None:
    program = """if True:
        import warnings
        from transfer.commands.console import exit_status

        def command():
            for text in ("left out 2 files", "left out 2 files", "left out 3 files"):
                with warnings.catch_warnings():  # whose end lets Python show a warning again
                    pass
                warnings.warn(text)

        exit_status(command)
    """
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stderr == "warning: left out 2 files\nwarning: left out 3 files\n"


def test_success_is_0_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(lambda: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")


def test_a_users_mistake_is_2_with_its_text_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(raising(UserError("--image_size 16 (allowed: at least 32)"))) == 2
    assert capsys.readouterr() == ("", "error: --image_size 16 (allowed: at least 32)\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_2_and_names_the_file(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(raising(OSError(number, os.strerror(number), "/runs/1/last.ckpt"))) == 2
    assert capsys.readouterr().err == "error: no space left on the disk while writing /runs/1/last.ckpt\n"
    assert exit_status(raising(OSError(number, os.strerror(number)))) == 2
    assert capsys.readouterr().err == "error: no space left on the disk while writing a file\n"


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_an_interruption_is_128_plus_the_signal_and_says_how_to_go_on(
    number: int, status: int, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(raising(RunInterrupted(number, Path("runs/digits_lite0/3/last.ckpt")))) == status
    message = f"stopped by {name}; go on with: efficientnet-transfer finetune --resume runs/digits_lite0/3\n"
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_ends_the_script_without_a_traceback(lines: int) -> None:
    code = f"""if True:
        import sys, time
        from transfer.commands.console import exit_status
        time.sleep(0.3)
        sys.exit(exit_status(lambda: [print("line") for _ in range({lines})]))"""
    script = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    script.stdout.close()
    assert script.stderr.read() == ""
    assert script.wait(10) == 128 + signal.SIGPIPE


def test_a_ctrl_c_before_any_checkpoint_is_130_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "permission denied"), ValueError("plain"), RuntimeError("bug"), SystemExit(3)]
)
def test_any_other_exception_passes_unchanged(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)) as caught:
        exit_status(raising(error))
    assert caught.value is error
    assert capsys.readouterr() == ("", "")


def test_every_mistake_is_raised_as_one_of_the_kinds() -> None:
    root = Path(__file__).resolve().parent.parent
    sources = [path for room in ("transfer", "datamodules") for path in (root / room).rglob("*.py")]
    assert len(sources) > 100
    assert [str(path) for path in sources if "raise UserError(" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libaom-a0d22147.so.3.14.1: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_too_little_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(raising(error)) == 2
    assert capsys.readouterr().err.startswith("error: too little memory")


def test_sigterm_is_no_error_that_a_library_could_swallow(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with suppress(Exception):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(1)

    assert exit_status(command) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_many_names_are_cut_short_and_counted() -> None:
    assert some_of(iter("abc"), 3) == "a, b, c" and some_of("abcdefg") == "a, b, c, d, e, ... and 2 more"
