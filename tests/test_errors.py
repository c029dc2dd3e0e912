"""Mistakes become a message and an exit status; everything else keeps its traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.commands.console import exit_status
from transfer.errors import RunInterrupted, UserError, nearest, unknown_name


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
